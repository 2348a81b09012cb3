"""Listening for hints from other processes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from django.db import Error as DjangoDatabaseError
from django.db import connections

from duroxide_django.logs import describe, runtime_log
from duroxide_django.storage.database import Database
from duroxide_django.storage.fast import keep_alive
from duroxide_django.wakeups import ANYTHING, CHANNEL, WATCHED, parse

#: Longest time between two looks at the stop flag, in seconds.
_TICK_S = 1.0
_RETRY_S = 2.0


class Listener(threading.Thread):
    """Calls ``wake`` for every NOTIFY; holds a connection of its own and reconnects when it breaks."""

    def __init__(
        self,
        db: Database,
        wake: Callable[[str, bool], None],
        pause_s: Callable[[str], float],
        note_watched: Callable[[str], None],
    ) -> None:
        """
        Args:
            wake: gets what the hint is about, and whether it is bundled (see wakeups).
            pause_s: seconds for which hints that follow this one may wait; they come together then.
            note_watched: gets the payload of each hint on WATCHED.
        """
        super().__init__(name="duroxide-listen", daemon=True)
        self._db = db
        self._wake = wake
        self._pause_s = pause_s
        self._note_watched = note_watched
        self._ended = threading.Event()
        self._failing = False

    def run(self) -> None:
        """See Thread."""
        import psycopg

        try:
            while not self._ended.is_set():
                try:
                    self._listen()
                except (psycopg.Error, DjangoDatabaseError) as exc:
                    if not self._failing:
                        # Once for each outage.
                        runtime_log.warning("Listening for wake-ups failed; polling goes on", error=describe(exc))
                    self._failing = True
                    connections[self._db.alias].close()
                    self._ended.wait(_RETRY_S)
        finally:
            connections.close_all()

    def _listen(self) -> None:
        wrapper = connections[self._db.alias]
        keep_alive(wrapper)
        wrapper.ensure_connection()
        connection: Any = wrapper.connection
        if not self._db.owns_session():
            # It would listen in a session of others, and hear nothing: polling goes on.
            wrapper.close()
            self._ended.set()
            return
        with wrapper.cursor() as cursor:
            cursor.execute(f"LISTEN {CHANNEL}; LISTEN {WATCHED}")
        self._failing = False
        # Something may have been enqueued before LISTEN took effect.
        self._wake(ANYTHING, False)
        while not self._ended.is_set():
            received = [*connection.notifies(timeout=_TICK_S, stop_after=1), *connection.notifies(timeout=0)]
            hints = [hint for hint in received if hint.channel == CHANNEL]
            if len(hints) < len(received):
                self._note_watched(" ".join(hint.payload for hint in received if hint.channel == WATCHED))
            # All that came during the pause, each kind once: many processes may send more than could be heeded.
            for what, bundled in dict(sorted(parse(hint.payload) for hint in hints)).items():
                self._wake(what, bundled)
            if hints:
                self._ended.wait(min(self._pause_s(parse(hint.payload)[0]) for hint in hints))

    def stop(self) -> None:
        """Ask the thread to end."""
        self._ended.set()


class DataVersion:
    """Notices that another SQLite connection wrote, without reading any table."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._seen: int | None = None

    def changed(self) -> bool:
        """Return whether another connection has committed since the last call."""
        connection = self._db.connection
        connection.ensure_connection()
        # The driver's own cursor: asked forty times a second, Django's would be most of what an idle worker costs.
        with connection.wrap_database_errors:
            (version,) = connection.connection.execute("PRAGMA data_version").fetchone()
        changed: bool = version != self._seen
        self._seen = version
        return changed
