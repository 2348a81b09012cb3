"""A provider: a database alias with its features, its clock and a thin way to send statements."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from django.conf import settings as django_settings
from django.db import OperationalError, ProgrammingError, connections, reset_queries, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created
from django.utils.connection import ConnectionDoesNotExist

from duroxide_django.conf import settings
from duroxide_django.exceptions import ConfigurationError
from duroxide_django.logs import runtime_log
from duroxide_django.quoting import quoted
from duroxide_django.storage.clock import virtual_now_ms, virtual_time
from duroxide_django.storage.fast import (
    LOCK_WAIT_MS,
    SHORT_LOCK_WAIT_MS,
    fast_cursor,
    is_pooled,
    keep_alive,
    let_server_watch,
    prepared_cursor,
    set_up,
)
from duroxide_django.storage.features import Columns, Features, features_of
from duroxide_django.storage.payloads import seal_rows

#: For how long a transaction of the loop may be idle, and at least: its process may be held up for a moment.
IDLE_MS, SHORTEST_IDLE_MS = 30_000, 5_000

Row = tuple[Any, ...]
#: A statement with its parameters.
Statement = tuple[str, Sequence[Any]]


class Database:
    """The workflows' database under one alias; usable from any thread (each has its own connection)."""

    def __init__(self, alias: str) -> None:
        """
        Args:
            alias: a key of Django's ``DATABASES``, or one that a provider registered.

        Raises:
            UnsupportedDatabase: neither SQLite nor PostgreSQL.
            ConfigurationError: the alias is unknown.
        """
        self.alias = alias
        try:
            self.features: Features = features_of(connections[alias])
        except ConnectionDoesNotExist:
            raise ConfigurationError(f"The database alias {quoted(alias)} is not in DATABASES.") from None
        self._fast = self._prepares = False
        #: Whether statements give up soon where a row is locked (see ``bound_waits``).
        self.bounds_waits = False
        self._idle_ms = IDLE_MS
        self._collected: list[Statement] | None = None

    def for_loop(self, *, idle_ms: int = IDLE_MS) -> Database:
        """Return the same database for a thread that owns its connection: prepared statements, binary parameters.

        Args:
            idle_ms: the server ends the session when a transaction of it has been idle for more milliseconds.
        """
        database = Database(self.alias)
        database._idle_ms = max(idle_ms, SHORTEST_IDLE_MS)
        # What is set up for one session would go back into a pool.
        pooled = bool(self.connection.settings_dict["OPTIONS"].get("pool"))
        wanted = settings.PREPARED_STATEMENTS is not False and not pooled
        database._fast = self.features.has_prepared_statements and wanted
        database.bounds_waits = self.features.has_row_locks
        return database

    def prepared(self) -> Database:
        """Return the same database for statements that are sent often: prepared, on the callers' connections."""
        database = Database(self.alias)
        database._prepares = self.features.has_prepared_statements
        return database

    def set_up(self) -> None:
        """Connect and set up the connection of ``for_loop``; cheap if that is done; outside of transactions."""
        if self.features.has_prepared_statements:
            keep_alive(self.connection)
        if self._fast and not self.owns_session():
            self._fast = False
            runtime_log.warning(
                "A pooler stands between this worker and PostgreSQL: statements are not prepared, nothing is listened "
                "to. If each client has a server connection of its own there, set PREPARED_STATEMENTS to True."
            )
        if self._fast:
            set_up(self.connection, idle_ms=self._idle_ms)

    def bound_waits(self, *, short: bool = False) -> None:
        """Have this transaction's statements of ``for_loop`` give up where a row stays locked (see fast.LOCK_WAIT_MS).

        Args:
            short: wait for a moment only: what follows concerns single instances.
        """
        if not self.bounds_waits or (self._fast and not short):
            return  # The connection is set up so.
        wait_ms = SHORT_LOCK_WAIT_MS if short else LOCK_WAIT_MS
        self.fetch(f"SELECT set_config('lock_timeout', '{wait_ms}', true)")

    def watch_connections(self) -> None:
        """Have both ends notice if the other one's host is gone, on connections that this thread makes from now on."""
        if self.features.has_prepared_statements:
            keep_alive(self.connection)
            _watching.database = self

    def owns_session(self) -> bool:
        """Return whether what is set, prepared or listened to in a session stays with this thread's connection."""
        if settings.PREPARED_STATEMENTS is not None or not self.features.has_prepared_statements:
            return True
        return not is_pooled(self.connection)

    @property
    def connection(self) -> BaseDatabaseWrapper:
        """This thread's connection."""
        return connections[self.alias]

    @property
    def now(self) -> str:
        """The SQL expression for now, in epoch milliseconds: the database's clock, or the virtual instant."""
        # Not by virtual_now_ms(): each statement asks.
        virtual = virtual_time.get()
        return self.features.now if virtual is None or virtual.now_ms is None else str(int(virtual.now_ms))

    def now_ms(self) -> int:
        """Return the time by the database's clock (one query), or the virtual instant."""
        virtual = virtual_now_ms()
        return int(self.fetch(f"SELECT {self.features.now}")[0][0]) if virtual is None else virtual

    def atomic(self, *, durable: bool = False) -> AbstractContextManager[Any]:
        """Return a transaction or savepoint on this alias."""
        return transaction.atomic(using=self.alias, durable=durable)

    def _cursor(self) -> AbstractContextManager[Any]:
        if self._fast:
            return fast_cursor(self.connection)
        if self._prepares and settings.PREPARED_STATEMENTS is not False:
            return prepared_cursor(self.connection, anyway=bool(settings.PREPARED_STATEMENTS))
        return self.connection.cursor()

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """Send a statement; returns the number of rows it touched (0 inside ``collected``)."""
        if self._collected is not None:
            self._collected.append((sql, parameters))
            return 0
        with self._explained(), self._cursor() as cursor:
            cursor.execute(sql, parameters)
            return int(cursor.rowcount)

    def fetch(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """Send a query, or a statement with RETURNING; returns its rows."""
        with self._explained(), self._cursor() as cursor:
            cursor.execute(sql, parameters)
            return list(cursor.fetchall())

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn "no such table" and "no such column" into an error that says what to do."""
        try:
            yield
        except (OperationalError, ProgrammingError) as exc:
            # All statements are this package's own, so nobody else's table or column can be missing.
            what = _what_is_missing(exc)
            if what is None:
                raise
            raise ConfigurationError(
                f"A {what} of duroxide_django is missing in the alias {self.alias!r}; "
                f"run: manage.py migrate --database {self.alias}"
            ) from exc

    @contextmanager
    def collected(self) -> Iterator[list[Statement]]:
        """Collect what ``execute`` is given inside the block instead of sending it."""
        self._collected = []
        try:
            yield self._collected
        finally:
            self._collected = None

    def one_by_one(self, statements: Sequence[Statement]) -> list[Row]:
        """Send statements one after the other; returns the rows of all."""
        return [row for sql, parameters in statements for row in self._rows_if_any(sql, parameters)]

    def together(self, statements: Sequence[Statement]) -> list[Row]:
        """Send statements as one, where the database can; returns the rows of the last, if it gives any.

        They then see the same snapshot: none may depend on what another one writes.
        """
        if not statements:
            return []
        if not self.features.has_writable_cte:
            for sql, parameters in statements[:-1]:
                self.execute(sql, parameters)
        return self._rows_if_any(*(_as_one(statements) if self.features.has_writable_cte else statements[-1]))

    def _rows_if_any(self, sql: str, parameters: Sequence[Any]) -> list[Row]:
        with self._explained(), self._cursor() as cursor:
            cursor.execute(sql, parameters)
            return list(cursor.fetchall()) if cursor.description else []

    @property
    def is_fast(self) -> bool:
        """Whether this is the database ``for_loop`` with a connection that prepares its statements."""
        return self._fast

    def rows(self, columns: Columns, rows: Sequence[Sequence[Any]]) -> tuple[str, list[Any]]:
        """Return (row source named ``r``, its parameters) for sending many rows with one statement.

        Args:
            columns: (name, PostgreSQL type); ``payload`` and ``event`` are texts that the payload codec seals.
        """
        rows = seal_rows(columns, rows)
        if len(rows) == 1:
            # A list for each column costs more than all else that a single row does.
            parameters = self.features.parameters_of_row(columns, rows[0], typed=self._fast)
            return self.features.row(columns), parameters
        return self.features.rows(columns, binary=self._fast), self.features.row_parameters(columns, rows)

    def keyed(self, table: str, keys: Sequence[tuple[int, int]]) -> tuple[str, list[Any]]:
        """Return (condition that a row's instance and id are among ``keys``, its parameters); an index serves it.

        SQLite finds the rows by their id, which PostgreSQL has no index for. PostgreSQL reads the rows of the instances
        and looks each up among the keys: a join would be linear by one of two plans only, and which one is taken
        depends on statistics from when the queue was empty.
        """
        if not self.features.joins_pairs:
            ids, parameter = self.any_of(f"{table}.id", [key for _, key in keys])
            return ids, [parameter]
        source, parameters = self.rows((("instance", "bigint"), ("key", "bigint")), keys)
        condition = f"({table}.instance_id, {table}.id) IN (SELECT r.instance, r.key FROM {source})"
        if len(keys) == 1:
            return condition, parameters
        instances, parameter = self.any_of(f"{table}.instance_id", sorted({instance for instance, _ in keys}))
        return f"{instances} AND ({condition}) {self.features.looked_up}", [parameter, *parameters]

    def any_of(self, expression: str, values: Sequence[Any]) -> tuple[str, Any]:
        """Return (condition that ``expression`` is one of ``values``, its parameter)."""
        return self.features.any_of(expression), self.features.array(values)

    def __repr__(self) -> str:
        return f"<Database {self.alias!r}>"


class _Watching(threading.local):
    """The database whose connections this thread has watched."""

    database: Database | None = None


_watching = _Watching()


def _watch(connection: BaseDatabaseWrapper, **_: Any) -> None:
    database = _watching.database
    if database is None or connection.alias != database.alias or connection.settings_dict["OPTIONS"].get("pool"):
        return
    if connection.autocommit and settings.PREPARED_STATEMENTS is not False and database.owns_session():
        let_server_watch(connection)


connection_created.connect(_watch, dispatch_uid="duroxide_django.watch_connections")


def _what_is_missing(error: Exception) -> str | None:
    """Return "table" or "column" if the database says that one is missing."""
    # PostgreSQL's texts depend on its language, its codes don't.
    code = getattr(error.__cause__, "sqlstate", None)
    if code is not None:
        return {"42P01": "table", "42703": "column"}.get(code)
    text = str(error)
    if "no such column" in text or "has no column named" in text:
        return "column"
    return "table" if "no such table" in text else None


def _as_one(statements: Sequence[Statement]) -> Statement:
    """Return one data-modifying WITH statement for several; the last gives the result."""
    *first, (last, _) = statements
    parts = ", ".join(f"part{number} AS ({sql})" for number, (sql, _) in enumerate(first))
    parameters = [value for _, values in statements for value in values]
    return (f"WITH {parts} {last}" if parts else last), parameters


def forget_queries() -> None:
    """Empty the query log that Django keeps for this thread under DEBUG, payloads included.

    Django does it when a request begins; the threads of a worker never serve one.
    """
    if django_settings.DEBUG:
        reset_queries()


#: Of our own: users' code may seed the one of the module. Not ``secrets``: it asks the system for each token, and lets
#: go of the interpreter meanwhile. Tokens are no secrets, they only have to differ.
_tokens = random.Random()  # noqa: S311
os.register_at_fork(after_in_child=_tokens.seed)


def new_token() -> int:
    """Return a lease token that no one else has."""
    return _tokens.getrandbits(63)
