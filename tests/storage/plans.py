"""How much of the tables a call reads: by the database's own account of its plans."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from django.db import connections, transaction

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
