"""psycopg's own cursors: Django's bind on the client side and prepare nothing, so that each call is planned anew."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any
from weakref import WeakSet

from django.db.backends.base.base import BaseDatabaseWrapper

#: Executions of a statement after which psycopg prepares it on the server.
PREPARE_THRESHOLD = 2

#: The loop's statements reach their rows by key, or by an index whose order they want. Left alone, the planner sorts
#: and hashes whole tables as long as its statistics know nothing of a queue that has just been filled. No parameter
#: makes another plan better, and to plan takes longer than to execute. Before PostgreSQL 18 a disabled node that has no
#: alternative costs 1e10, for which each execution would be compiled: that takes far longer than any of them.
PLANNER_OPTIONS = (
    "SET enable_seqscan = off; SET enable_sort = off; SET enable_hashjoin = off; SET enable_mergejoin = off; "
    "SET enable_material = off; SET plan_cache_mode = force_generic_plan; SET jit = off"
)

#: Milliseconds that a statement of the loop waits for a lock. Whoever holds a row for longer, such as a view with an
#: open transaction, must not stop all the others; and the loop never is part of a deadlock that lasts.
LOCK_WAIT_MS = 50
#: The same for a statement that concerns one instance only, after another one has waited in vain.
SHORT_LOCK_WAIT_MS = 2

#: libpq's options for a server whose host is gone without a word: noticed after a minute, not after two hours. Those
#: of the alias's OPTIONS have precedence.
KEEPALIVES = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3, "tcp_user_timeout": 60_000}


def keep_alive(connection: BaseDatabaseWrapper) -> None:
    """Let a connection that is not open yet notice a server that is gone; one of a pool is left as it is."""
    options: dict[str, Any] = connection.settings_dict["OPTIONS"]
    if connection.connection is None and not options.get("pool") and not options.keys() >= KEEPALIVES.keys():
        # This thread's own copy: the dictionary is shared by all threads.
        connection.settings_dict = {**connection.settings_dict, "OPTIONS": {**KEEPALIVES, **options}}


#: The same for the server, which would keep the rows of a worker locked whose host is gone without a word. A role's own
#: limit of idle transactions has precedence.
_SERVER_KEEPALIVES = (
    "SET tcp_keepalives_idle = 30; SET tcp_keepalives_interval = 10; SET tcp_keepalives_count = 3; "
    "SET tcp_user_timeout = 60000"
)
_SERVER_OPTIONS = (
    f"{_SERVER_KEEPALIVES}; "
    "SELECT set_config('idle_in_transaction_session_timeout', '{idle_ms}', false) "
    "WHERE current_setting('idle_in_transaction_session_timeout') = '0'"
)

#: By (host, port): whether a pooler answers there.
_poolers: dict[tuple[str, int], bool] = {}


def is_pooled(connection: BaseDatabaseWrapper) -> bool:
    """Return whether a pooler, such as PgBouncer, stands between this connection and its server.

    It answers with a process id of its own when a connection is made. Asked once for each address.
    """
    connection.ensure_connection()
    raw: Any = connection.connection
    address = raw.info.host, raw.info.port
    if address not in _poolers:
        with connection.wrap_database_errors:
            pid = raw.execute("SELECT pg_backend_pid()", prepare=False).fetchone()[0]
        _poolers[address] = pid != raw.info.backend_pid
    return _poolers[address]


_SETTINGS = f"{PLANNER_OPTIONS}; SET lock_timeout = {LOCK_WAIT_MS}; {_SERVER_OPTIONS}"

#: psycopg's connections that are set up.
_set_up: WeakSet[Any] = WeakSet()


def set_up(connection: BaseDatabaseWrapper, *, idle_ms: int) -> None:
    """Make a connection the engine loop's own, unless it is; call it outside of transactions.

    Args:
        idle_ms: the server ends the session when a transaction of it has been idle for more milliseconds.
    """
    connection.ensure_connection()
    raw: Any = connection.connection
    # The project may have set the threshold, to the same number too: that says nothing of the rest.
    if raw not in _set_up:
        with connection.wrap_database_errors:
            raw.execute(_SETTINGS.format(idle_ms=int(idle_ms)), prepare=False)
        raw.prepare_threshold = PREPARE_THRESHOLD
        _set_up.add(raw)


def let_server_watch(connection: BaseDatabaseWrapper) -> None:
    """Let the server notice if this process's host is gone, which would keep locked what an activity has written."""
    raw: Any = connection.connection
    with connection.wrap_database_errors:
        raw.execute(_SERVER_KEEPALIVES, prepare=False)


@contextmanager
def fast_cursor(connection: BaseDatabaseWrapper) -> Iterator[Any]:
    """Give a server-side binding cursor on the connection of a thread that nobody else uses.

    Errors are raised as Django's, and mark the transaction as broken as Django's cursors do.
    """
    import psycopg

    connection.ensure_connection()
    raw: Any = connection.connection
    connection.validate_no_broken_transaction()
    with connection.wrap_database_errors, psycopg.Cursor(raw) as cursor:
        yield cursor


@contextmanager
def prepared_cursor(connection: BaseDatabaseWrapper, *, anyway: bool) -> Iterator[Any]:
    """Give a cursor that prepares its statements, on a connection that the users' code uses too.

    It behaves as Django's in all else: wrappers, query log, errors.

    Args:
        anyway: prepare them behind a pooler too.
    """
    connection.ensure_connection()
    connection.validate_no_broken_transaction()
    if not anyway and is_pooled(connection):
        with connection.cursor() as plain:
            yield plain
        return
    with connection.wrap_database_errors:
        cursor = _preparing_cursor()(connection.connection)
    make = connection.make_debug_cursor if connection.queries_logged else connection.make_cursor
    with make(cursor) as wrapped:
        yield wrapped


@cache
def _preparing_cursor() -> type[Any]:
    import psycopg

    class PreparingCursor(psycopg.Cursor[Any]):
        """Prepares what it executes; other cursors of the connection go on as they are set up."""

        def execute(self, *args: Any, **kwargs: Any) -> Any:
            connection: Any = self.connection
            before = connection.prepare_threshold
            connection.prepare_threshold = PREPARE_THRESHOLD
            try:
                return super().execute(*args, **kwargs)
            finally:
                connection.prepare_threshold = before

    return PreparingCursor
