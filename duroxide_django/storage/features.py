"""What this database can do, and how it says it. The only place that tells databases apart."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper

from duroxide_django.exceptions import UnsupportedDatabase

#: Sealed texts are read up to so many characters for a preview.
PREVIEW_SEALED_CHARS = 64_000

#: (column, PostgreSQL type) of a set of rows sent as parameters.
Columns = tuple[tuple[str, str], ...]


class SqliteFeatures:
    """SQLite 3.35+: one writer, so row locks are neither there nor needed."""

    has_notify = False
    has_data_version = True
    has_prepared_statements = False
    #: Can the sessions of others be looked at, with the locks that they hold?
    lists_sessions = False
    #: A transaction that reads first and writes later fails at once if another one wrote meanwhile.
    begins_immediately = True
    #: May several statements be one through data-modifying WITH queries?
    has_writable_cte = False
    has_row_locks = False
    #: Are pairs of columns looked up by an index if they are compared with a subquery's?
    joins_pairs = False
    #: Follows the condition that something is IN a subquery's rows: these are then put into a table to look it up in.
    looked_up = ""
    #: Evaluated by a statement, it lets the transaction's commit return before it is on disk.
    relaxed_commit = "NULL"
    #: Lets one transaction at a time prune by policy: there is one writer only.
    try_retention_lock = "1"
    #: Its clock is the host's.
    now = "CAST(ROUND((julianday('now') - 2440587.5) * 86400000) AS INTEGER)"
    skip_locked = ""

    def begins_with(self, column: str, prefix: str) -> tuple[str, list[Any]]:
        """Return (condition that a text begins with ``prefix``, its parameters) in a form that an index serves."""
        return f"{column} >= %s AND {column} < %s", [prefix, f"{prefix}\U0010ffff"]

    def unindexed(self, column: str) -> str:
        """Return the column in a form that keeps the planner from its index, where it would take a bad one."""
        return f"+{column}"

    def text_order(self, column: str) -> str:
        """Return the ORDER BY term that the index of ``begins_with`` gives."""
        return column

    def json_field(self, column: str, name: str) -> str:
        """Return the expression for a field of a JSON text, as text; ``name`` is a constant of ours."""
        return f"json_extract({column}, '$.{name}')"

    def has_mark(self, expression: str) -> str:
        """Return the condition that a text holds something sealed (see storage.payloads)."""
        return f"INSTR({expression}, CHAR(127)) > 0"

    def preview(self, expression: str, chars: int) -> str:
        """Return the expression for the beginning of a text; of a sealed one enough to unseal most of them."""
        return (
            f"SUBSTR({expression}, 1, CASE WHEN {self.has_mark(expression)} THEN {PREVIEW_SEALED_CHARS} "
            f"ELSE {chars} END)"
        )

    def byte_length(self, expression: str) -> str:
        """Return the expression for the number of bytes of a text."""
        return f"LENGTH(CAST({expression} AS BLOB))"

    def any_of(self, expression: str) -> str:
        """Return the condition that ``expression`` is in the list sent as one parameter (see ``array``)."""
        return f"{expression} IN (SELECT value FROM json_each(%s))"

    def array(self, values: Iterable[Any]) -> Any:
        """Return the parameter for ``any_of``."""
        return json.dumps(list(values))

    def rows(self, columns: Columns, *, binary: bool = False) -> str:
        """Return a row source named ``r`` with these columns (see ``row_parameters``).

        Args:
            binary: whether the cursor takes binary parameters.
        """
        return _sqlite_rows(columns)

    def row_parameters(self, columns: Columns, rows: Sequence[Sequence[Any]]) -> list[Any]:
        """Return the parameters of ``rows``."""
        return [json.dumps(rows, ensure_ascii=False)]

    def row(self, columns: Columns) -> str:
        """Return a source named ``r`` of a single row (see ``parameters_of_row``)."""
        return _one_row(columns, "%s AS {name}")

    def parameters_of_row(self, columns: Columns, row: Sequence[Any], *, typed: bool = False) -> list[Any]:
        """Return the parameters of a single row.

        Args:
            typed: say which type a number has, rather than letting the driver choose by its size.
        """
        return list(row)


class PostgresFeatures:
    """PostgreSQL 14+."""

    has_notify = True
    has_data_version = False
    has_prepared_statements = True
    lists_sessions = True
    begins_immediately = False
    has_writable_cte = True
    has_row_locks = True
    joins_pairs = True
    # The planner makes a join of a bare IN, and one without an index compares each row with each.
    looked_up = "IS TRUE"
    try_retention_lock = "pg_try_advisory_xact_lock(hashtext('duroxide.retention'), hashtext(current_schema()))"
    relaxed_commit = "(SELECT set_config('synchronous_commit', 'off', true))"
    # The statement's time, not clock_timestamp(): that one is asked for each row, so it can't bound the scan of an
    # index. With 100,000 timers waiting, that is the difference between looking at what is due and at everything.
    now = "floor(extract(epoch from statement_timestamp()) * 1000)::bigint"
    skip_locked = "SKIP LOCKED"

    def begins_with(self, column: str, prefix: str) -> tuple[str, list[Any]]:
        """See SqliteFeatures."""
        escaped = prefix.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        return f"{column} LIKE %s", [f"{escaped}%"]

    def unindexed(self, column: str) -> str:
        """See SqliteFeatures."""
        return column

    def text_order(self, column: str) -> str:
        """See SqliteFeatures."""
        return f"{column} USING ~<~"

    def json_field(self, column: str, name: str) -> str:
        """See SqliteFeatures."""
        return f"({column}::json ->> '{name}')"

    def has_mark(self, expression: str) -> str:
        """See SqliteFeatures."""
        return f"POSITION(CHR(127) IN {expression}) > 0"

    def preview(self, expression: str, chars: int) -> str:
        """See SqliteFeatures."""
        return (
            f"SUBSTR({expression}, 1, CASE WHEN {self.has_mark(expression)} THEN {PREVIEW_SEALED_CHARS} "
            f"ELSE {chars} END)"
        )

    def byte_length(self, expression: str) -> str:
        """See SqliteFeatures."""
        return f"OCTET_LENGTH({expression})"

    def any_of(self, expression: str) -> str:
        """See SqliteFeatures."""
        return f"{expression} = ANY(%s)"

    def array(self, values: Iterable[Any]) -> Any:
        """See SqliteFeatures."""
        return list(values)

    def rows(self, columns: Columns, *, binary: bool = False) -> str:
        """See SqliteFeatures."""
        return _postgres_rows(columns, "%b" if binary else "%s")

    def row_parameters(self, columns: Columns, rows: Sequence[Sequence[Any]]) -> list[Any]:
        """See SqliteFeatures."""
        return [list(column) for column in zip(*rows, strict=True)]

    def row(self, columns: Columns) -> str:
        """See SqliteFeatures."""
        return _one_row(columns, "%s::{kind} AS {name}")

    def parameters_of_row(self, columns: Columns, row: Sequence[Any], *, typed: bool = False) -> list[Any]:
        """See SqliteFeatures."""
        if not typed:
            return list(row)
        kinds = _number_types()
        return [
            kinds[kind](value) if kind in kinds and value is not None else value
            for (_, kind), value in zip(columns, row, strict=True)
        ]


Features = SqliteFeatures | PostgresFeatures

_BY_VENDOR: dict[str, Features] = {"sqlite": SqliteFeatures(), "postgresql": PostgresFeatures()}


def features_of(connection: BaseDatabaseWrapper) -> Features:
    """Return the features of a connection's database; raises UnsupportedDatabase."""
    found = _BY_VENDOR.get(connection.vendor)
    if found is None:
        raise UnsupportedDatabase(
            f"duroxide_django does not support {connection.vendor!r} (alias {connection.alias!r}); "
            "use SQLite or PostgreSQL for the workflows' alias."
        )
    return found


#: Texts that were sealed on their way here (see storage.payloads).
_TEXTS = {"payload": "text", "event": "text"}


@cache
def _number_types() -> dict[str, type[int]]:
    from psycopg.types.numeric import Int4, Int8

    return {"bigint": Int8, "int": Int4}


@cache
def _one_row(columns: Columns, form: str) -> str:
    picked = ", ".join(form.format(name=name, kind=_TEXTS.get(kind, kind)) for name, kind in columns)
    return f"(SELECT {picked}) AS r"


@cache
def _sqlite_rows(columns: Columns) -> str:
    picked = ", ".join(f"json_extract(value, '$[{index}]') AS {name}" for index, (name, _) in enumerate(columns))
    # LIMIT keeps SQLite from flattening the subquery: joins then use an automatic index instead of parsing the JSON
    # once for each row of the other side.
    return f"(SELECT {picked} FROM json_each(%s) LIMIT -1) AS r"


@cache
def _postgres_rows(columns: Columns, placeholder: str) -> str:
    arrays = ", ".join(f"{placeholder}::{_TEXTS.get(kind, kind)}[]" for _, kind in columns)
    names = ", ".join(name for name, _ in columns)
    return f"unnest({arrays}) AS r({names})"
