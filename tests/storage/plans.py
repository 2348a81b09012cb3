"""How much of the tables a call reads: by the database's own account of its plans."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

from django.db import connections, transaction
from psycopg.sql import Literal as SqlLiteral

from duroxide_django.storage.database import Database
from duroxide_django.storage.fast import PLANNER_OPTIONS

_STEPS = 100


def rows_read(alias: str, call: Callable[[], Any], *, options: str = "SET enable_seqscan = off") -> int:
    """Return how many rows the statements of a call read on PostgreSQL, those thrown away included.

    The call is made twice: once to see its statements, once more, undone, to have them explained. Where an index can
    serve, it is taken: a table of a test is so small that the planner may well read all of it.

    Args:
        options: SET statements for the planner.
    """
    found = []
    with transaction.atomic(using=alias):
        with connections[alias].cursor() as cursor:
            cursor.execute(options.replace("SET ", "SET LOCAL "))
        for sql, parameters in statements(alias, call):
            if not sql.lstrip().startswith(("SELECT", "WITH", "UPDATE", "INSERT", "DELETE")):
                continue
            with connections[alias].cursor() as cursor:
                cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}", parameters)
                (plan,) = cursor.fetchone()
            (explained,) = json.loads(plan) if isinstance(plan, str) else plan
            assert "JIT" not in explained, f"compiled at each execution: {sql}"
            found.append(_rows(explained["Plan"]))
        transaction.set_rollback(True, using=alias)
    return sum(found)


def whole_tables(alias: str, call: Callable[[], Any]) -> list[str]:
    """Return the tables that the statements of a call read from end to end on SQLite, without any index.

    What a WITH clause gave, and rows sent as parameters, are no tables.
    """
    found = []
    for sql, parameters in statements(alias, call):
        with connections[alias].cursor() as cursor:
            cursor.execute(f"EXPLAIN QUERY PLAN {sql}", parameters)
            details = [row[3] for row in cursor.fetchall()]
        scanned = [match[1] for detail in details if (match := re.match(r"SCAN (\w+)$", detail))]
        found += [name for name in scanned if name not in ("r", "candidate", "probe")]
    return found


def steps_taken(alias: str, call: Callable[[], Any]) -> int:
    """Return how many instructions of its machine SQLite ran for a call, roughly; one row read takes about ten."""
    connection = connections[alias]
    connection.ensure_connection()
    counted = 0

    def count() -> int:
        nonlocal counted
        counted += _STEPS
        return 0

    connection.connection.set_progress_handler(count, _STEPS)
    try:
        call()
    finally:
        connection.connection.set_progress_handler(None, 0)
    return counted


def statements(alias: str, call: Callable[[], Any]) -> list[tuple[str, Any]]:
    """Return the statements of a call with their parameters."""
    sent = []

    def watch(execute: Any, sql: str, parameters: Any, *rest: Any) -> Any:
        sent.append((sql, parameters))
        return execute(sql, parameters, *rest)

    with connections[alias].execute_wrapper(watch):
        call()
    return sent


def _rows(node: dict[str, Any]) -> int:
    below = sum(_rows(child) for child in node.get("Plans", ()))
    if "Relation Name" not in node:
        return below
    names = ("Actual Rows", "Rows Removed by Filter", "Rows Removed by Index Recheck")
    return below + int(sum(node.get(name, 0) for name in names) * node["Actual Loops"])


@contextmanager
def effort(database: Database) -> Iterator[Callable[[], dict[str, int]]]:
    """Measure what the statements inside the block cost, by their beginning: rows on PostgreSQL, steps on SQLite.

    On PostgreSQL each statement is explained just before it is sent, planned as the engine loop's connection plans it;
    every row that a node of its plan looks at counts, those of sets that were computed too.
    """
    found: dict[str, int] = defaultdict(int)
    measure = _explained if database.features.has_prepared_statements else _counted

    def watch(execute: Any, sql: str, parameters: Any, many: bool, context: Any) -> Any:
        if not sql.lstrip().startswith(("SELECT", "WITH", "UPDATE", "INSERT", "DELETE")):
            return execute(sql, parameters, many, context)
        return measure(found, execute, sql, parameters, context)

    with database.connection.execute_wrapper(watch):
        yield lambda: dict(found)


def _name(sql: str) -> str:
    return " ".join(sql.split())[:70]


def _counted(found: dict[str, int], execute: Any, sql: str, parameters: Any, context: Any) -> Any:
    alias = context["connection"].alias
    result: list[Any] = []
    found[_name(sql)] += steps_taken(alias, lambda: result.append(execute(sql, parameters, False, context)))
    return result[0]


def _explained(found: dict[str, int], execute: Any, sql: str, parameters: Any, context: Any) -> Any:
    connection = context["connection"]
    raw = connection.connection
    numbers = count(1)
    numbered = re.sub(r"%([sb%])", lambda match: "%" if match[1] == "%" else f"${next(numbers)}", sql)
    values = ", ".join(SqlLiteral(value).as_string(raw) for value in parameters)
    with transaction.atomic(using=connection.alias):
        raw.execute(PLANNER_OPTIONS.replace("SET ", "SET LOCAL "))
        raw.execute(f"PREPARE explained AS {numbered}".encode())
        try:
            call = f"EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE explained{f'({values})' if values else ''}"
            (plan,) = raw.execute(call.encode()).fetchone()
        finally:
            raw.execute("DEALLOCATE explained")
        (explained,) = json.loads(plan) if isinstance(plan, str) else plan
        transaction.set_rollback(True, using=connection.alias)
    found[_name(sql)] += _looked_at(explained["Plan"])
    return execute(sql, parameters, False, context)


def _looked_at(node: dict[str, Any]) -> int:
    names = ("Actual Rows", "Rows Removed by Filter", "Rows Removed by Index Recheck", "Rows Removed by Join Filter")
    # An index that makes a bitmap lists rows too that are deleted and not yet vacuumed; its heap scan counts the rest.
    own = 0 if node["Node Type"] == "Bitmap Index Scan" else sum(node.get(name, 0) for name in names)
    return int(own * node["Actual Loops"]) + sum(_looked_at(child) for child in node.get("Plans", ()))
