"""Which database errors pass: they say nothing about the work that met them, so trying again later may succeed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from django.db import DatabaseError
from django.db.backends.base.base import BaseDatabaseWrapper

from duroxide_django.exceptions import ConfigurationError, DatabaseFileReplaced, NonRetryable

#: SQLSTATE codes, or classes of two characters, of what passes, with the reason.
PASSING_STATES: Mapping[str, str] = {
    "08": "the connection broke or could not be made; PgBouncer reports its own time-outs and limits as 08P01",
    "25006": "the server is read-only: a standby, or a primary during a switch-over",
    "25P03": "idle_in_transaction_session_timeout ended the session",
    "25P04": "transaction_timeout ended the session",
    "26000": "a pooler or a failover gave the session another server connection: the prepared statement is not there",
    "40000": "the transaction was rolled back",
    "40001": "serialization failure",
    "40003": "the connection broke during a COMMIT, so its outcome is unknown",
    "40P01": "deadlock",
    "42P05": "a pooler gave the session another server connection: the prepared statement is there already",
    "53": "the server lacks memory, disk space or free connections",
    "55P03": "a lock was not available within lock_timeout, or at once with NOWAIT",
    "57014": "statement_timeout, or an administrator, cancelled the statement",
    "57P01": "the server shuts down, or an administrator terminated the session",
    "57P02": "another session crashed, so the server ended all of them",
    "57P03": "the server starts, shuts down or recovers and takes no connections",
    "57P05": "idle_session_timeout ended the session",
    "58000": "the operating system failed; poolers report unreachable servers so",
    "58030": "the server met an input/output error",
}

#: SQLite's primary result codes of what passes, with the reason.
PASSING_CODES: Mapping[int, str] = {
    5: "SQLITE_BUSY: another connection holds the lock for longer than the time-out",
    6: "SQLITE_LOCKED: another connection of a shared cache holds the table",
    7: "SQLITE_NOMEM: the host lacks memory",
    8: "SQLITE_READONLY: the file, its folder or its file system is read-only now",
    10: "SQLITE_IOERR: the operating system failed to read or write",
    13: "SQLITE_FULL: the disk is full",
    14: "SQLITE_CANTOPEN: the file could not be opened, for example for lack of file descriptors",
    15: "SQLITE_PROTOCOL: the locking protocol of the write-ahead log met a race",
    17: "SQLITE_SCHEMA: a migration changed the schema while the statement was prepared",
}

#: Classes of psycopg whose errors are of the connection if they have no SQLSTATE: the server didn't say them. A cut
#: COMMIT behind a pooler is an InternalError, an exhausted pool an OperationalError.
_OF_THE_CONNECTION = ("OperationalError", "InterfaceError", "InternalError")


def is_transient(error: BaseException) -> bool:
    """Return whether an error came from the database's circumstances.

    An error that was raised ``from`` such a one counts as it does, unless it is NonRetryable; of an exception group,
    all members have to. One that merely replaces another (raised while that was handled, without ``from``) does not.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, NonRetryable):
            return False
        if _passes(cause):
            return True
        if isinstance(cause, BaseExceptionGroup):
            return all(map(is_transient, cause.exceptions))
        cause = cause.__cause__
    return False


#: What a statement, or what it returns, meets if it is too large: the connection breaks, or memory runs out on the
#: server. Its time-outs are not among them: others' locks end in them too.
_OF_SIZE = ("08", "53200", "57P02")
_NO_MEMORY = 7


def may_come_of_size(error: BaseException) -> bool:
    """Return whether an error may mean that a statement asked too much of the database, or of the connection."""
    cause: BaseException | None = error
    while cause is not None:
        state = getattr(cause, "sqlstate", None)
        if isinstance(state, str):
            return state.startswith(_OF_SIZE)
        code = getattr(cause, "sqlite_errorcode", None)
        if isinstance(code, int):
            return code & 0xFF == _NO_MEMORY
        if _passes(cause):
            return True
        cause = cause.__cause__
    return False


def _passes(error: BaseException) -> bool:
    state = getattr(error, "sqlstate", None)
    if isinstance(state, str):
        return state in PASSING_STATES or state[:2] in PASSING_STATES
    code = getattr(error, "sqlite_errorcode", None)
    if isinstance(code, int):
        return code & 0xFF in PASSING_CODES
    return any(base.__name__ in _OF_THE_CONNECTION and base.__module__ == "psycopg" for base in type(error).__mro__)


def is_locked(error: BaseException) -> bool:
    """Return whether a statement gave up waiting for a row that another transaction had locked."""
    return getattr(error.__cause__, "sqlstate", None) == "55P03"


def is_well(connection: BaseDatabaseWrapper) -> bool:
    """Return whether a connection can be made, or works, to a database that takes writes.

    A connection that broke is closed, so that the next statement makes a new one. Inside a transaction nothing is
    asked: the answer would tell the state of the transaction.
    """
    if connection.in_atomic_block:
        return True
    try:
        if connection.connection is not None and not connection.is_usable():
            connection.close()
        connection.ensure_connection()
        if connection.vendor != "postgresql":
            return connection.is_usable()
        with connection.cursor() as cursor:
            cursor.execute("SHOW transaction_read_only")
            answer: tuple[Any, ...] = cursor.fetchone()
            return bool(answer[0] == "off")
    except DatabaseError:
        return False


class DatabaseFile:
    """The file behind a connection to SQLite: one that is deleted or replaced takes commits that nobody sees."""

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        name = str(connection.settings_dict["NAME"])
        on_disk = connection.vendor == "sqlite" and name != ":memory:" and not name.startswith("file:")
        self._path = Path(name) if on_disk else None
        self._seen: tuple[int, int] | None = None

    def check(self) -> None:
        """Compare the file with the one of the first call.

        Raises:
            ConfigurationError: there never was a file that can be opened.
            DatabaseFileReplaced: it is another one, or gone.
        """
        if self._path is None:
            return
        try:
            status = self._path.stat()
            found = status.st_dev, status.st_ino
        except (FileNotFoundError, NotADirectoryError):
            found = None
        if self._seen is None:
            if found is None or self._path.is_dir():
                raise ConfigurationError(
                    f"The SQLite file {self._path} can't be opened: "
                    f"{'it does not exist and can not be created' if found is None else 'it is a folder'}. Correct "
                    "NAME in DATABASES, or create the folder so that this process may write to it, run `manage.py "
                    "migrate`, and start the workers again."
                )
            self._seen = found
        if found != self._seen or found is None:
            raise DatabaseFileReplaced(
                f"The SQLite file {self._path} was {'deleted' if found is None else 'replaced'} while this worker had "
                "it open; what it committed since then is in the old file, which ends with its last process. Restore "
                "the file, run `manage.py migrate` if it is a new one, and start the workers again."
            )
