"""Renewing the leases of activities and sessions: by the loop, and beside it while it is late.

The loop computes users' turns, which may take long. The keeper is a thread that sleeps until a renewal is overdue. Only
then does it connect, so that a worker in good health has no connection for it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from django.db import DatabaseError, InterfaceError, connections

from duroxide_django.logs import describe, runtime_log
from duroxide_django.runtime.config import Config
from duroxide_django.runtime.slots import Slots
from duroxide_django.storage import activities, workers
from duroxide_django.storage.activities import Task
from duroxide_django.storage.database import Database, forget_queries

_ACTIVITIES, _SESSIONS = "activities", "sessions"
#: The loop may be late by this at the most with the leases of activities, in seconds.
_LATE_S = 1.0
#: Where leases are so short that this is too long, a share of what remains of them when they are due.
_LATE_SHARE = 1 / 4
#: The keeper looks no more often than this, in seconds: at a loop that hangs, or a database that is away.
_SHORTEST_PAUSE_S = 0.05
#: An outage is said once in this time, in seconds: the loop says that too.
_QUIET_S = 60.0


class Leases:
    """When which leases of one worker are to be renewed. Used by the loop and its keeper, in turn."""

    def __init__(self, config: Config, slots: Slots, uncommitted: Callable[[], list[Task]]) -> None:
        """
        Args:
            uncommitted: returns the tasks that have ended and whose completions wait for the loop.
        """
        self._config = config
        self._slots = slots
        self._uncommitted = uncommitted
        self._lock = threading.Lock()
        left_s = (config.activity_lease_ms - config.renewal_ms) / 1000
        self._interval_s = {_ACTIVITIES: config.renewal_ms / 1000, _SESSIONS: config.session_renewal_ms / 1000}
        self._grace_s = {
            _ACTIVITIES: min(_LATE_S, left_s * _LATE_SHARE),
            _SESSIONS: self._interval_s[_SESSIONS] / 2,
        }
        now = time.monotonic()
        # Sessions of the same node's last worker may be about to end.
        self._due_at = {_ACTIVITIES: now + self._interval_s[_ACTIVITIES], _SESSIONS: now}
        if not config.runs_activities:
            self._due_at.clear()

    def next_at(self) -> float:
        """Return when the loop is to renew, on the monotonic clock."""
        return min(self._due_at.values(), default=float("inf"))

    def overdue_at(self) -> float:
        """Return when the loop will be late with it, on the monotonic clock."""
        return min((at + self._grace_s[name] for name, at in self._due_at.items()), default=float("inf"))

    def renew(self, db: Database, *, overdue: bool = False) -> None:
        """Renew what is due.

        Args:
            overdue: only that with which the loop is late.
        """
        if self._takes(_ACTIVITIES, overdue=overdue):
            with self._again_if_refused(_ACTIVITIES):
                self._renew_activities(db)
        if self._takes(_SESSIONS, overdue=overdue):
            with self._again_if_refused(_SESSIONS):
                workers.renew_sessions(
                    db,
                    owner=self._config.owner,
                    in_flight=sorted(self._slots.sessions()),
                    lease_ms=self._config.session_lease_ms,
                    idle_ms=self._config.session_idle_ms,
                )

    def _takes(self, name: str, *, overdue: bool) -> bool:
        """Return whether it is to be renewed now; the other thread then leaves it alone."""
        now = time.monotonic()
        with self._lock:
            if name not in self._due_at or now < self._due_at[name] + (self._grace_s[name] if overdue else 0.0):
                return False
            self._due_at[name] = now + self._interval_s[name]
            return True

    def _renew_activities(self, db: Database) -> None:
        running = self._slots.tasks()
        held = [*running, *self._uncommitted()]
        if not held:
            return
        wanted = activities.renew(db, held, lease_ms=self._config.activity_lease_ms)
        self._slots.cancel_unless(wanted, running)

    @contextmanager
    def _again_if_refused(self, name: str) -> Iterator[None]:
        try:
            yield
        except (DatabaseError, InterfaceError):
            with self._lock:
                self._due_at[name] = time.monotonic() + self._grace_s[name]
            raise


class Keeper(threading.Thread):
    """Renews for a loop that is late, unless it hangs: then others are to have what it holds."""

    def __init__(self, alias: str, leases: Leases, loop_hangs: Callable[[], bool]) -> None:
        super().__init__(name="duroxide-leases", daemon=True)
        self._alias = alias
        self._leases = leases
        self._loop_hangs = loop_hangs
        self._ended = threading.Event()
        self._quiet_until = float("-inf")

    def stop(self) -> None:
        """Ask the thread to end."""
        self._ended.set()

    def run(self) -> None:
        """See Thread."""
        while not self._ended.wait(self._pause_s()):
            if time.monotonic() >= self._leases.overdue_at() and not self._loop_hangs():
                self._renew()

    def _pause_s(self) -> float:
        return min(max(_SHORTEST_PAUSE_S, self._leases.overdue_at() - time.monotonic()), threading.TIMEOUT_MAX)

    def _renew(self) -> None:
        try:
            self._leases.renew(Database(self._alias), overdue=True)
        except (DatabaseError, InterfaceError) as exc:
            if time.monotonic() >= self._quiet_until:
                runtime_log.warning(
                    "Leases could not be renewed beside the busy loop; trying again", error=describe(exc)
                )
                self._quiet_until = time.monotonic() + _QUIET_S
        finally:
            forget_queries()
            connections.close_all()
