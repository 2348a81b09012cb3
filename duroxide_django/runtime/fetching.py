"""Fetching activities for the slots of a process, and deciding when new ones may have a slot without a fetch."""

from __future__ import annotations

import random
import time
from dataclasses import replace

from duroxide_django.engine.registry import Registry
from duroxide_django.runtime.claiming import SUSPECT_DELAY_MS
from duroxide_django.runtime.config import Config
from duroxide_django.runtime.metrics import Metrics
from duroxide_django.runtime.slots import Slots
from duroxide_django.storage import activities
from duroxide_django.storage.activities import Task, Wanted
from duroxide_django.storage.database import Database

#: After a fetch that left nothing behind, new activities may have free slots without a fetch for this time, in seconds.
#: No activity that waits in the queue can be passed by for longer.
EAGER_S = 1.0


class Fetcher:
    """Fetches activities for one dispatcher.

    Attributes:
        left_some: whether the last fetch may have left activities that this worker can run.
        suspects_at: when suspects that this process gave back can be fetched again, by the monotonic clock, or None.
    """

    def __init__(self, registry: Registry, config: Config, db: Database, slots: Slots, metrics: Metrics) -> None:
        self._registry = registry
        self._config = config
        self._db = db
        self._slots = slots
        self._metrics = metrics
        self._eager_until = self._row_by_row_until = float("-inf")
        # Whether there were more sessions than this worker may have in flight.
        self._crowded = False
        self.left_some = False
        self.suspects_at: float | None = None

    def allows_eager(self) -> bool:
        """Return whether new activities may have free slots at once: nothing else waits for them, of late."""
        return time.monotonic() < self._eager_until

    def forbid_eager(self) -> None:
        """Let new activities queue up until a fetch has left nothing: some of this process went back to the queue."""
        self._eager_until = float("-inf")

    def go_row_by_row(self, seconds: float) -> None:
        """Lease activities one by one for the next ``seconds``: some row could not be leased or read."""
        self._row_by_row_until = time.monotonic() + seconds

    def wanted(self, limit: int) -> Wanted:
        """Return what this worker can take now, ``limit`` activities at the most."""
        sessions = self._slots.sessions()
        tag_filter = self._config.tag_filter
        return Wanted(
            limit=limit,
            max_bytes=self._config.batch_bytes,
            names=sorted(self._registry.activities),
            untagged=tag_filter.untagged,
            tags=tag_filter.names,
            owner=self._config.owner,
            session_lease_ms=self._config.session_lease_ms,
            sessions_in_flight=sorted(sessions),
            new_sessions=max(0, self._config.max_sessions - len(sessions)),
            busy_sessions=sorted(sessions) if self._config.serial_sessions else (),
            serial_sessions=self._config.serial_sessions,
        )

    def fetch(self, limit: int, *, relaxed: bool) -> list[Task]:
        """Lease up to ``limit`` activities, oldest first.

        Args:
            relaxed: see ``activities.fetch``.
        """
        began = time.monotonic()
        wanted = self.wanted(limit)
        if self._crowded and 0 < wanted.new_sessions < limit:
            found = self._fetch_in_two(wanted, relaxed=relaxed)
        else:
            found = self._lease(wanted, relaxed=relaxed)
            reached = wanted.new_sessions > 0 and len(_new_sessions(found, wanted)) >= wanted.new_sessions
            self._crowded = reached or (self._crowded and wanted.new_sessions == 0)
            # At the cap, those of sessions in flight and those without one are still to be had.
            self.left_some = len(found) >= limit or reached or _is_heavy(found, wanted)
        self._eager_until = float("-inf") if self.left_some else began + EAGER_S
        self._metrics.add("worker_dispatcher_items_fetched", len(found))
        return self._with_few_suspects(found)

    def _fetch_in_two(self, wanted: Wanted, *, relaxed: bool) -> list[Task]:
        """Fetch where sessions queue up for a place.

        First no more than there are places, so that nothing is leased only to be given back; then what needs none.
        """
        found = self._lease(replace(wanted, limit=wanted.new_sessions), relaxed=relaxed)
        if len(found) < wanted.new_sessions:
            self._crowded = self.left_some = False
            return found
        new = _new_sessions(found, wanted)
        in_flight = sorted({*wanted.sessions_in_flight, *new})
        found += self._lease(
            replace(
                wanted,
                limit=wanted.limit - len(found),
                sessions_in_flight=in_flight,
                new_sessions=0,
                busy_sessions=in_flight if wanted.serial_sessions else (),
            ),
            relaxed=relaxed,
        )
        self.left_some = len(found) >= wanted.limit or len(new) < wanted.new_sessions or _is_heavy(found, wanted)
        return found

    def _lease(self, wanted: Wanted, *, relaxed: bool) -> list[Task]:
        fetch = activities.fetch_row_by_row if time.monotonic() < self._row_by_row_until else activities.fetch
        return fetch(
            self._db,
            wanted,
            lease_ms=self._config.activity_lease_ms,
            worker=self._config.worker_id,
            relaxed=relaxed,
        )

    def _with_few_suspects(self, found: list[Task]) -> list[Task]:
        """Keep as many suspects as may be tried together, and give the others back.

        Those that are kept don't count until one of them is begun alone: what dies before is not what killed.
        """
        suspects = [task for task in found if self._slots.is_suspect(task)]
        if not suspects:
            return found
        # In turn, and by chance among equals: who is killed from outside while one of many is tried proves little.
        suspects.sort(key=lambda task: (task.attempts, random.random()))  # noqa: S311 - no secret
        size = self._slots.trust.size()
        kept, others = suspects[:size], suspects[size:]
        if others:
            activities.release(self._db, others, delay_ms=SUSPECT_DELAY_MS)
            self.suspects_at = time.monotonic() + SUSPECT_DELAY_MS / 1000
        activities.recount(self._db, kept, -1)
        apart = {task.lease for task in suspects}
        return [task for task in found if task.lease not in apart] + [replace(task, counted=False) for task in kept]


def _is_heavy(found: list[Task], wanted: Wanted) -> bool:
    """Return whether some activities may have been left for the size of their inputs."""
    return sum(len(task.input) for task in found) * 2 > wanted.max_bytes


def _new_sessions(found: list[Task], wanted: Wanted) -> set[str]:
    """Return the sessions of fetched activities that had none in flight here."""
    return {task.session_id for task in found if task.session_id is not None} - set(wanted.sessions_in_flight)
