"""Which queue the loop was told to look at, and when it is worth a look."""

from __future__ import annotations

from dataclasses import dataclass, field

from duroxide_django import wakeups

#: A queue that gives at least wakeups.BUSY_PER_S entries a second is looked at no more often than this, in seconds:
#: what comes meanwhile shares the next look's transaction.
PACE_S = 0.01
#: A worker that isn't needed takes its time, up to this, in seconds: workers must not slow each other down by all
#: running for the same few messages.
LONGEST_PACE_S = 0.04


@dataclass(slots=True)
class _Queue:
    asked: bool = False
    looked_at: float = float("-inf")
    pace_s: float = 0.0
    rate: wakeups.Rate = field(default_factory=wakeups.Rate)
    #: Whether it was a hint that the last look followed.
    hinted: bool = False
    #: When the last bundled hint came, and up to which one the queue has been looked at again.
    bundled_at: float = float("-inf")
    bundled_done: float = float("-inf")


class Hints:
    """Hints for the two queues. ``add`` is called from any thread, the rest from the loop's."""

    def __init__(self) -> None:
        #: Whether no other worker began earlier: that one follows each hint, the others see whether it keeps up.
        self.leads = True
        self._queues = {wakeups.TURNS: _Queue(), wakeups.ACTIVITIES: _Queue()}

    def add(self, what: str, now: float, *, bundled: bool = False) -> None:
        """Note that there may be something to take.

        Args:
            what: TURNS or ACTIVITIES; anything else means both.
            now: the monotonic clock, seconds.
            bundled: who gave it keeps quiet for a moment after it: the queue is looked at again when that is over.
        """
        for queue in [self._queues[what]] if what in self._queues else self._queues.values():
            if bundled:
                queue.bundled_at = now
            queue.asked = True

    def take(self, now: float) -> set[str]:
        """Return the queues to look at now, and count them as looked at."""
        due = set()
        for what, queue in self._queues.items():
            bundled_at = queue.bundled_at
            hinted = queue.asked
            if queue.bundled_done < bundled_at <= now - wakeups.LOOK_AGAIN_S:
                queue.bundled_done = bundled_at
                queue.asked = True
            if queue.asked and now >= queue.looked_at + queue.pace_s:
                self._looked(queue, now)
                queue.hinted = hinted
                due.add(what)
        return due

    def found(self, what: str, count: int, now: float, *, plenty: bool) -> None:
        """Say what the last look at a queue gave.

        Args:
            count: how many entries.
            plenty: whether that is more than the leading worker would have taken anyway.
        """
        queue = self._queues[what]
        queue.rate.add(now, count)
        if plenty or self.leads:
            queue.pace_s = PACE_S if queue.rate.per_s(now) >= wakeups.BUSY_PER_S else 0.0
        elif queue.hinted:
            queue.pace_s = min(max(queue.pace_s * 2, PACE_S), LONGEST_PACE_S)
        queue.hinted = False

    def pace_s(self, what: str) -> float:
        """Return how long, in seconds, further hints about a queue may wait."""
        queues = [self._queues[what]] if what in self._queues else self._queues.values()
        return min(queue.pace_s for queue in queues)

    def take_all(self, now: float) -> None:
        """Count both queues as looked at."""
        for queue in self._queues.values():
            self._looked(queue, now)

    def _looked(self, queue: _Queue, now: float) -> None:
        # Before the look: a hint that comes during it asks for another one.
        queue.asked = queue.hinted = False
        queue.looked_at = now

    def next_at(self) -> float:
        """Return when ``take`` will give something by itself, on the monotonic clock; infinite: not without a hint."""
        moments = [queue.looked_at + queue.pace_s for queue in self._queues.values() if queue.asked]
        moments += [
            queue.bundled_at + wakeups.LOOK_AGAIN_S
            for queue in self._queues.values()
            if queue.bundled_at > queue.bundled_done
        ]
        return min(moments, default=float("inf"))
