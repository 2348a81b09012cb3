"""Writing a batch of computed turns: in one statement, step by step, or each by itself if one of them is refused."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from django.db import DatabaseError

from duroxide_django.logs import describe, runtime_log
from duroxide_django.runtime.claiming import Claimer
from duroxide_django.runtime.config import Config
from duroxide_django.runtime.metrics import Metrics
from duroxide_django.runtime.turns import Computed, park_ms, tries_before
from duroxide_django.storage import activities, commits, turns
from duroxide_django.storage.commits import Commit, Committed
from duroxide_django.storage.database import Database
from duroxide_django.storage.faults import is_transient
from duroxide_django.storage.health import REFUSED
from duroxide_django.storage.turns import Parked

#: After a turn was overtaken by another worker, turns are committed carefully for so long, in seconds.
CAREFUL_S = 1.0


class BatchRefused(Exception):
    """The database refused the rows of some turn of a batch."""

    def __init__(self, error: DatabaseError) -> None:
        super().__init__(str(error))
        self.error = error


class Committer:
    """Writes the turns of one dispatcher.

    Attributes:
        careful_until: guards are not taken for granted before then, on the monotonic clock.
    """

    def __init__(self, config: Config, db: Database, metrics: Metrics, claimer: Claimer) -> None:
        self._config = config
        self._db = db
        self._metrics = metrics
        self._claimer = claimer
        self.careful_until = float("-inf")

    def is_hasty(self) -> bool:
        """Return whether commits may take their guards for granted."""
        return self._db.is_fast and time.monotonic() >= self.careful_until

    def be_careful(self) -> None:
        """Others work on the same instances: it will happen again soon."""
        self.careful_until = time.monotonic() + CAREFUL_S

    def in_one_go(self, computed: Sequence[Computed]) -> Committed:
        """Commit turns by one statement; raises Overtaken if a guard failed, or BatchRefused: nothing is written."""
        return self._together(computed, commits.commit_in_one_go)

    def step_by_step(self, computed: Sequence[Computed]) -> Committed:
        """Commit turns, but those that were overtaken; raises BatchRefused."""
        return self._together(computed, commits.commit)

    def apart(self, computed: Sequence[Computed]) -> Committed:
        """Commit each turn in a savepoint of its own, so that a refused one spoils no other."""
        together = Committed()
        for item in computed:
            self._alone(item.commit, together)
        return together

    def _together(self, computed: Sequence[Computed], write: Callable[..., Committed]) -> Committed:
        # Without a savepoint, which would cost two round trips and a transaction id.
        try:
            return self._write([item.commit for item in computed], write)
        except DatabaseError as exc:
            if is_transient(exc):
                raise
            raise BatchRefused(exc) from exc

    def _alone(self, commit: Commit, together: Committed) -> None:
        try:
            with self._db.atomic():
                alone = self._write([commit], commits.commit)
        except DatabaseError as exc:
            if is_transient(exc):
                raise
            self._refused(commit, exc, together)
            return
        together.done |= alone.done
        together.tasks.update(alone.tasks)
        together.timers_ms += alone.timers_ms
        together.wakes = together.wakes or alone.wakes
        together.offered = together.offered or alone.offered
        together.accepted += alone.accepted

    def _refused(self, commit: Commit, error: DatabaseError, together: Committed) -> None:
        self._metrics.add("provider_errors")
        runtime_log.error(
            f"The database refused a turn: {describe(error)}",
            instance_id=commit.claimed.instance_id,
            execution_id=commit.execution_id,
        )
        if commit.claimed.token is not None:
            tries = tries_before(commit.claimed.blocked, REFUSED) + 1
            blocked: dict[str, object] = {
                "reason": REFUSED, "message": f"{type(error).__name__}: {error}", "tries": tries,
            }  # fmt: skip
            parked = Parked(claimed=commit.claimed, delay_ms=park_ms(tries), blocked=blocked, keep_attempt=True)
            turns.park(self._db, [parked])
            return
        self._claimer.lease_for(CAREFUL_S)
        together.accepted += activities.complete(self._db, commit.finished)
        together.wakes = True

    def _write(self, batch: Sequence[Commit], write: Callable[..., Committed]) -> Committed:
        return write(self._db, batch, lease_ms=self._config.activity_lease_ms, worker=self._config.worker_id)
