"""What a turn leaves behind on the connections of its thread: an orchestration must leave nothing.

A transaction that a function opens around a ``yield`` would take in all that the worker writes next; on SQLite it
would hold the write lock, on PostgreSQL a roll-back would take the results of others along. What a function has set in
a session (a parameter, an isolation level, an advisory lock) would hold for the worker's own statements.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

from duroxide_django.exceptions import DuroxideError


class TransactionLeftOpen(DuroxideError):
    """An activity or a turn began a transaction and did not end it; it was rolled back."""


_thread = threading.local()


def _note_connected(connection: BaseDatabaseWrapper, **_: Any) -> None:
    watched = getattr(_thread, "watched", None)
    if watched is not None and connection not in watched:
        watched.append(connection)


connection_created.connect(_note_connected, dispatch_uid="duroxide_django.turn_connections")


class _State(NamedTuple):
    """How a connection stood before the turn. A tuple, as each turn makes one."""

    connection: BaseDatabaseWrapper
    in_atomic_block: bool
    savepoints: int
    autocommit: bool

    def is_kept(self) -> bool:
        connection = self.connection
        return (
            connection.in_atomic_block == self.in_atomic_block
            and len(connection.savepoint_ids) == self.savepoints
            and connection.autocommit == self.autocommit
        )


class TurnConnections:
    """Watches the connections of one thread while it computes turns."""

    def __init__(self) -> None:
        self._before: list[_State] = []
        self._used: set[str] = set()

    def begin(self) -> None:
        """Take down how the thread's connections stand; a turn is about to be computed."""
        watched: list[BaseDatabaseWrapper] | None = getattr(_thread, "watched", None)
        if watched is None:
            # Once: listing all aliases takes as long as a small part of a turn.
            watched = _thread.watched = list(connections.all(initialized_only=True))
        self._used.clear()
        self._before = [_state(connection) for connection in watched]
        for state in self._before:
            state.connection.execute_wrappers.append(self._note_use)

    def end(self) -> list[str]:
        """Stop watching; returns the aliases on which the turn left a transaction open, or autocommit changed.

        A session in which the turn has sent statements outside of a transaction of the caller's is closed: nothing
        of it may reach the worker's own statements.
        """
        open_on = []
        for state in self._before:
            state.connection.execute_wrappers.remove(self._note_use)
            if not state.is_kept():
                open_on.append(state.connection.alias)
        if self._used or len(_thread.watched) > len(self._before):
            self._close_used(open_on)
        return open_on

    def _close_used(self, open_on: list[str]) -> None:
        known = [state.connection for state in self._before]
        for connection in _thread.watched:
            if connection not in known:
                # Made by this turn.
                self._used.add(connection.alias)
                state = _State(connection, False, 0, bool(connection.settings_dict["AUTOCOMMIT"]))
                self._before.append(state)
                if not state.is_kept():
                    open_on.append(connection.alias)
        for state in self._before:
            connection = state.connection
            if connection.alias in self._used and not state.in_atomic_block and connection.alias not in open_on:
                if _in_transaction(connection.connection):
                    open_on.append(connection.alias)
                else:
                    connection.close()

    def restore(self) -> None:
        """Undo what is still open: roll back to the caller's savepoint, or drop the connection."""
        for state in self._before:
            connection = state.connection
            if state.in_atomic_block and connection.in_atomic_block:
                while len(connection.savepoint_ids) > state.savepoints:
                    savepoint = connection.savepoint_ids.pop()
                    if savepoint is not None:
                        connection.savepoint_rollback(savepoint)
            elif not state.is_kept() or _in_transaction(connection.connection):
                raw = connection.connection
                del connections[connection.alias]
                _thread.watched.remove(connection)
                if raw is not None:
                    raw.close()

    @contextmanager
    def own_statements(self) -> Iterator[None]:
        """Enclose what the engine itself asks the database for."""
        used = set(self._used)
        try:
            yield
        finally:
            self._used = used

    def _note_use(self, execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        self._used.add(context["connection"].alias)
        return execute(sql, params, many, context)


def _state(connection: BaseDatabaseWrapper) -> _State:
    return _State(connection, connection.in_atomic_block, len(connection.savepoint_ids), connection.autocommit)


def _in_transaction(raw: Any) -> bool:
    """Return whether a driver's connection (psycopg's, sqlite3's) is in a transaction."""
    if raw is None or getattr(raw, "closed", False):
        return False
    info = getattr(raw, "info", None)
    return bool(raw.in_transaction if info is None else info.transaction_status)
