"""Which database errors say nothing about the work that met them: trying again later may succeed."""

from __future__ import annotations

from pathlib import Path

from django.db.backends.base.base import BaseDatabaseWrapper

from duroxide_django.exceptions import DatabaseFileReplaced

#: Classes of SQLSTATE: connection, rollback (serialization, deadlock), resources, operator (time-out), system.
_CLASSES = ("08", "40", "53", "57", "58")
#: Lock time-out; idle in transaction for too long.
_STATES = ("55P03", "25P03")
#: SQLite's primary result codes: busy, locked, disk I/O error, full.
_CODES = (5, 6, 10, 13)


def is_transient(error: BaseException) -> bool:
    """Return whether this error, or one that caused it, came from the database's circumstances."""
    cause: BaseException | None = error
    while cause is not None:
        if _is_broken_connection(cause):
            return True
        state = getattr(cause, "sqlstate", None)
        if isinstance(state, str) and (state.startswith(_CLASSES) or state in _STATES):
            return True
        code = getattr(cause, "sqlite_errorcode", None)
        if isinstance(code, int) and code & 0xFF in _CODES:
            return True
        cause = cause.__cause__
    return False


def _is_broken_connection(error: BaseException) -> bool:
    """Return whether the driver of PostgreSQL reports something that the server didn't say itself."""
    if getattr(error, "sqlstate", "") is not None:
        return False
    return type(error).__name__ in ("OperationalError", "InterfaceError")


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
            DatabaseFileReplaced: it is another one, or gone.
        """
        if self._path is None:
            return
        try:
            status = self._path.stat()
            found = status.st_dev, status.st_ino
        except FileNotFoundError:
            found = None
        if self._seen is None:
            self._seen = found
        if found != self._seen or found is None:
            raise DatabaseFileReplaced(
                f"The SQLite file {self._path} was {'deleted' if found is None else 'replaced'} while this worker had "
                "it open; what it committed since then is in the old file, which ends with its last process. Restore "
                "the file, run `manage.py migrate` if it is a new one, and start the workers again."
            )
