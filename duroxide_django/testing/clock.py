"""A clock that stands still until told to move."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from duroxide_django.exceptions import InvalidArgument
from duroxide_django.storage.clock import VirtualTime, virtual_time


class VirtualClock:
    """The time that storage and orchestrations see inside ``virtual_clock()``."""

    def __init__(self) -> None:
        self._time = virtual_time.get() or VirtualTime(None)

    @property
    def now_ms(self) -> int:
        """The virtual time in epoch milliseconds."""
        now_ms = self._time.now_ms
        if now_ms is None:
            raise InvalidArgument("The virtual clock runs only inside its with block.")
        return now_ms

    def advance(self, *, ms: int = 0, seconds: float = 0, minutes: float = 0, hours: float = 0, days: float = 0) -> int:
        """Move forward by the sum of the arguments; returns the new time in epoch milliseconds."""
        step = ms + round((((days * 24 + hours) * 60 + minutes) * 60 + seconds) * 1000)
        return self.move_to(self.now_ms + step)

    def move_to(self, now_ms: int) -> int:
        """Jump to a later time, epoch milliseconds; returns it."""
        if now_ms < self.now_ms:
            raise InvalidArgument(f"The clock can't go back from {self.now_ms} to {now_ms}.")
        self._time.now_ms = now_ms
        return now_ms


@contextmanager
def virtual_clock(start_ms: int | None = None) -> Iterator[VirtualClock]:
    """Let storage see a virtual time in this thread (and its async tasks). Workflows may move the clock too.

    Args:
        start_ms: epoch milliseconds at which it stands first; None: the real time.
    """
    instant = VirtualTime(int(time.time() * 1000) if start_ms is None else start_ms)
    token = virtual_time.set(instant)
    try:
        yield VirtualClock()
    finally:
        virtual_time.reset(token)
        instant.now_ms = None
