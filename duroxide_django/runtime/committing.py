"""Writing a batch of computed turns and what goes with them: in one statement, step by step, or row by row if the
database refuses one of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

from duroxide_django.engine import messages
from duroxide_django.engine.failures import from_exception
from duroxide_django.exceptions import ConfigurationError
from duroxide_django.logs import describe, runtime_log
from duroxide_django.runtime.claiming import Claimer
from duroxide_django.runtime.config import Config
from duroxide_django.runtime.metrics import Metrics
from duroxide_django.runtime.postponed import Locked
from duroxide_django.runtime.turns import Computed, park_ms, tries_before
from duroxide_django.storage import activities, commits, turns
from duroxide_django.storage.activities import Finished, Task
from duroxide_django.storage.commits import Commit, Committed, Overtaken
from duroxide_django.storage.database import Database
from duroxide_django.storage.faults import is_locked, is_transient
from duroxide_django.storage.health import REFUSED
from duroxide_django.storage.shapes import plain, plain_json
from duroxide_django.storage.turns import Claimed, Parked

T = TypeVar("T")

#: After a turn was overtaken by another worker, turns are committed carefully for so long, in seconds.
CAREFUL_S = 1.0
#: After a statement waited for a locked row in vain, each turn is written on its own for this time, in seconds.
AROUND_LOCKS_S = 0.2


#: What concerns everything that is written, not a row.
_GENERAL = (Overtaken, ConfigurationError)


class BatchRefused(Exception):
    """The database refused some row of a batch, or a row could not be sent."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(slots=True, kw_only=True)
class Batch:
    """What an iteration's transaction is to write.

    Attributes:
        turns: computed turns.
        parked, discarded: instances to give back, the latter without their messages.
        interrupted: activities that a database's failure ended, with its text.
        foreign: completions that go by message.
        again: what met a locked row before.
        tokens: the leases of the turns: one that is written lets go of it before the transaction is committed.
    """

    turns: list[Computed]
    parked: list[Parked]
    discarded: list[tuple[Claimed, list[int]]]
    interrupted: list[tuple[Task, str]]
    foreign: list[Finished]
    again: Locked = field(default_factory=Locked)
    tokens: dict[int, int | None] = field(init=False)

    def __post_init__(self) -> None:
        self.tokens = {item.commit.claimed.key: item.commit.claimed.token for item in self.turns}

    @property
    def givings_back(self) -> bool:
        """Whether it gives anything back that was leased."""
        return bool(self.parked or self.discarded or self.interrupted or self.again)


class Committer:
    """Writes the turns of one dispatcher.

    Attributes:
        careful_until: guards are not taken for granted before then, on the monotonic clock.
        locked: what the last transaction left out because another one had locked its rows.
    """

    def __init__(self, config: Config, db: Database, metrics: Metrics, claimer: Claimer) -> None:
        self._config = config
        self._db = db
        self._metrics = metrics
        self._claimer = claimer
        self.careful_until = self._around_locks_until = float("-inf")
        self.locked = Locked()

    def goes_around_locks(self) -> bool:
        """Return whether each part is written on its own, and left for later if its rows are locked."""
        return time.monotonic() < self._around_locks_until

    def note_lock(self) -> None:
        """A statement waited for a locked row in vain: which one it was is found part by part."""
        self._around_locks_until = time.monotonic() + AROUND_LOCKS_S

    def is_hasty(self, computed: Sequence[Computed]) -> bool:
        """Return whether these turns may be written by one statement, which takes their guards for granted."""
        if not self._db.is_fast or time.monotonic() < self.careful_until:
            return False
        return commits.are_small([item.commit for item in computed])

    def be_careful(self) -> None:
        """Others work on the same instances: it will happen again soon."""
        self.careful_until = time.monotonic() + CAREFUL_S

    def in_one_go(self, computed: Sequence[Computed]) -> Committed:
        """Commit turns by one statement; raises Overtaken if a guard failed, or BatchRefused: nothing is written."""
        return self._together(computed, commits.commit_in_one_go)

    def step_by_step(self, computed: Sequence[Computed]) -> Committed:
        """Commit turns, but those that were overtaken; raises BatchRefused."""
        return self._together(computed, commits.commit)

    def write(self, batch: Batch, commit: Callable[[Sequence[Computed]], Committed]) -> Committed:
        """Write a batch, its turns by ``commit``; raises BatchRefused, or what that raises: nothing is written."""
        self.locked = Locked()
        committed = commit(batch.turns) if batch.turns else Committed()
        if not (batch.givings_back or batch.foreign):
            return committed
        try:
            turns.park(self._db, batch.parked)
            activities.interrupt(self._db, batch.interrupted)
            if batch.discarded:
                turns.discard(self._db, batch.discarded)
            if batch.foreign:
                committed.accepted += activities.complete(self._db, batch.foreign)
        except Exception as exc:
            if isinstance(exc, _GENERAL) or is_transient(exc):
                raise
            raise BatchRefused(exc) from exc
        self._write_again(batch.again, committed)
        return committed

    def write_row_by_row(self, batch: Batch) -> Committed:
        """Write each part of a batch in a savepoint of its own, so that a refused or locked one spoils no other."""
        committed = Committed()
        self.locked = Locked()
        self._db.bound_waits(short=True)
        for item in batch.turns:
            self._alone(item.commit, committed)
        rest = Locked(
            parked=batch.parked, discarded=batch.discarded, interrupted=batch.interrupted, finished=batch.foreign
        )
        self._write_parts(rest, committed)
        self._write_again(batch.again, committed)
        return committed

    def _write_again(self, again: Locked, committed: Committed) -> None:
        if again:
            self._db.bound_waits(short=True)
            self._write_parts(again, committed)
            for task in activities.release(self._db, again.released):
                self.locked.released.append(task)

    def _write_parts(self, parts: Locked, committed: Committed) -> None:
        for parked in parts.parked:
            self._park(parked)
        for task, error in parts.interrupted:
            self._interrupt(task, error)
        for discarded in parts.discarded:
            what = f"the end of messages to {discarded[0].instance_id}"
            later = partial(self.locked.discarded.append, discarded)
            self._first_accepted(what, later, partial(turns.discard, self._db, [discarded]))
        for finished in parts.finished:
            committed.accepted += self._complete(finished)

    def _park(self, parked: Parked) -> None:
        ways = [parked]
        if parked.blocked is not None:
            readable = {key: plain(value) if isinstance(value, str) else value for key, value in parked.blocked.items()}
            ways += [replace(parked, blocked=readable), replace(parked, blocked=None)]
        what = f"why {parked.claimed.instance_id} can't go on"
        later = partial(self.locked.parked.append, parked)
        self._first_accepted(what, later, *(partial(turns.park, self._db, [way]) for way in ways))

    def _interrupt(self, task: Task, error: str) -> None:
        self._first_accepted(
            f"the interruption of activity {task.name}#{task.event_id} of {task.instance_id}",
            partial(self.locked.interrupted.append, (task, error)),
            *(partial(activities.interrupt, self._db, [(task, text)]) for text in (error, plain(error))),
        )

    def _complete(self, finished: Finished) -> list[Finished]:
        """Enqueue a completion; one that the database refuses becomes the activity's failure."""
        task = finished.task
        refused: list[Exception] = []

        def fail(error: Exception) -> list[Finished]:
            payload = plain_json(from_exception(error, "ActivityFailed").to_json())
            return activities.complete(self._db, [replace(finished, kind=messages.ACTIVITY_FAILED, payload=payload)])

        def release() -> list[Finished]:
            why = plain(f"{type(refused[-1]).__name__}: {refused[-1]}")
            activities.release(self._db, [task], delay_ms=activities.MAX_PAUSE_MS, error=why)
            return []

        # The same value in characters that every encoding has.
        encodable = replace(finished, payload=plain_json(finished.payload))
        accepted = self._first_accepted(
            f"the result of activity {task.name}#{task.event_id} of {task.instance_id}",
            partial(self.locked.finished.append, finished),
            partial(activities.complete, self._db, [finished]),
            partial(activities.complete, self._db, [encodable]),
            lambda: fail(refused[-1]),
            # PostgreSQL's text quotes the row, and so what is refused.
            lambda: fail(type(refused[0])("the database refused the result of the activity")),
            release,
            refused=refused,
        )
        return accepted or []

    def _first_accepted(
        self, what: str, later: Callable[[], None], *ways: Callable[[], T], refused: list[Exception] | None = None
    ) -> T | None:
        """Write something the first way that the database accepts, each in a savepoint; None: it refuses all.

        Args:
            what: names it in the log.
            later: called instead if another transaction has locked its rows.
            refused: gets the errors.
        """
        for number, way in enumerate(ways):
            try:
                with self._db.atomic():
                    return way()
            except Exception as exc:
                if self._leaves(exc):
                    later()
                    return None
                if isinstance(exc, _GENERAL) or is_transient(exc):
                    raise
                if refused is not None:
                    refused.append(exc)
                if number == 0:
                    self._metrics.add("provider_errors")
                    runtime_log.error(f"The database refused {what}: {describe(exc)}")
        runtime_log.error(f"The database refused {what} in every form; it is left as it is until its lease ends")
        return None

    def _together(self, computed: Sequence[Computed], write: Callable[..., Committed]) -> Committed:
        # Without a savepoint, which would cost two round trips and a transaction id.
        try:
            return self._write([item.commit for item in computed], write)
        except Exception as exc:
            if isinstance(exc, _GENERAL) or is_transient(exc):
                raise
            raise BatchRefused(exc) from exc

    def _alone(self, commit: Commit, together: Committed) -> None:
        try:
            with self._db.atomic():
                alone = self._write([commit], commits.commit)
        except Exception as exc:
            if self._leaves(exc):
                self._leave(commit)
                return
            if isinstance(exc, _GENERAL) or is_transient(exc):
                raise
            self._refused(commit, exc, together)
            return
        together.done |= alone.done
        together.tasks.update(alone.tasks)
        together.timers_ms += alone.timers_ms
        together.wakes = together.wakes or alone.wakes
        together.offered = together.offered or alone.offered
        together.accepted += alone.accepted

    def _leaves(self, error: Exception) -> bool:
        """Return whether what met an error is left for later: a row that it needs is locked."""
        return self._db.bounds_waits and is_locked(error)

    def _leave(self, commit: Commit) -> None:
        """Throw a turn away whose rows are locked: it is computed again once its lease can be given back."""
        claimed = commit.claimed
        self.locked.turns.add(claimed.key)
        self.locked.finished += commit.finished
        if claimed.token is not None:
            self.locked.parked.append(Parked(claimed=claimed, delay_ms=0, blocked=None))
        runtime_log.info(
            "Another transaction has locked rows of an instance; its turn is tried again",
            instance_id=claimed.instance_id,
        )

    def _refused(self, commit: Commit, error: Exception, together: Committed) -> None:
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
            self._park(parked)
            return
        self._claimer.lease_for(CAREFUL_S)
        for finished in commit.finished:
            together.accepted += self._complete(finished)
        together.wakes = True

    def _write(self, batch: Sequence[Commit], write: Callable[..., Committed]) -> Committed:
        return write(self._db, batch, lease_ms=self._config.activity_lease_ms, worker=self._config.worker_id)
