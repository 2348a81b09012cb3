"""What could not be written because another transaction had locked a row: tried again later, beside all else."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from duroxide_django.storage.activities import Finished, Task
from duroxide_django.storage.turns import Claimed, Parked

#: Pause before something is tried again, in seconds; it doubles with each try of one instance.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 2.0


@dataclass(slots=True, kw_only=True)
class Locked:
    """What met a locked row.

    Attributes:
        parked, discarded, interrupted, finished: see ``committing.Batch``.
        released: leased activities to give back.
        turns: keys of the instances whose computed turns could not be written.
    """

    parked: list[Parked] = field(default_factory=list)
    discarded: list[tuple[Claimed, list[int]]] = field(default_factory=list)
    interrupted: list[tuple[Task, str]] = field(default_factory=list)
    finished: list[Finished] = field(default_factory=list)
    released: list[Task] = field(default_factory=list)
    turns: set[int] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.parked or self.discarded or self.interrupted or self.finished or self.released or self.turns)

    def instances(self) -> set[int]:
        """Return the row keys of the instances concerned."""
        return {
            *self.turns,
            *(item.claimed.key for item in self.parked),
            *(claimed.key for claimed, _ in self.discarded),
            *(task.instance for task, _ in self.interrupted),
            *(item.task.instance for item in self.finished),
            *(task.instance for task in self.released),
        }

    def add(self, other: Locked) -> None:
        """Take in what another one has."""
        self.parked += other.parked
        self.discarded += other.discarded
        self.interrupted += other.interrupted
        self.finished += other.finished
        self.released += other.released
        self.turns |= other.turns


class Postponed:
    """What one dispatcher is to write again, and when."""

    def __init__(self) -> None:
        self._waiting: list[tuple[float, Locked]] = []
        # The pause that came last and its end, by instance.
        self._pauses: dict[int, tuple[float, float]] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, locked: Locked) -> None:
        """Keep what met a lock until its pause is over."""
        now = time.monotonic()
        self._pauses = {key: kept for key, kept in self._pauses.items() if kept[1] > now - 2 * LONGEST_PAUSE_S}
        pause_s = FIRST_PAUSE_S
        for key in locked.instances():
            last_s = self._pauses[key][0] if key in self._pauses else FIRST_PAUSE_S / 2
            self._pauses[key] = min(2 * last_s, LONGEST_PAUSE_S), now
            pause_s = max(pause_s, self._pauses[key][0])
        for key in locked.instances():
            self._pauses[key] = self._pauses[key][0], now + pause_s
        self._waiting.append((now + pause_s, locked))

    def take(self) -> Locked:
        """Return and forget what is to be tried again now."""
        due = Locked()
        if self._waiting:
            now = time.monotonic()
            for at, locked in self._waiting:
                if at <= now:
                    due.add(locked)
            self._waiting = [kept for kept in self._waiting if kept[0] > now]
        return due

    def next_at(self) -> float:
        """Return when something is to be tried again, on the monotonic clock."""
        return min((at for at, _ in self._waiting), default=float("inf"))

    def finished(self) -> list[Finished]:
        """Return the completions that wait here; from any thread."""
        return [item for _, locked in [*self._waiting] for item in locked.finished]

    def parked(self) -> list[Parked]:
        """Return the instances that wait to be given back; from any thread."""
        return [item for _, locked in [*self._waiting] for item in locked.parked]
