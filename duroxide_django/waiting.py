"""Waiting for a change in the database: what to look at, how often, and when to give up."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from duroxide_django.engine.limits import check_delay_ms
from duroxide_django.exceptions import WaitInTransaction, WaitTimeout
from duroxide_django.storage.database import Database

T = TypeVar("T")

#: Pauses between two looks, in seconds: growing from the first to the longest.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S, _GROWTH = 0.0005, 0.1, 1.06


class Wait(Generic[T]):
    """One wait.

    Attributes:
        look: returns what is waited for, or None.
    """

    def __init__(
        self, look: Callable[[], T | None], timeout_ms: int, what: str, instance_id: str, *, longest_ms: int = 100
    ) -> None:
        """
        Args:
            timeout_ms: milliseconds to wait at the most.
            what: the time-out's message.
            longest_ms: longest pause, milliseconds.
        """
        self.look = look
        self.instance_id = instance_id
        self._timeout_ms = check_delay_ms(timeout_ms, "timeout_ms")
        self._what = what
        self._longest_s = min(_LONGEST_PAUSE_S, max(longest_ms / 1000, 0.001))

    def pauses(self) -> Iterator[float]:
        """Give the pause in seconds after each look; ends when the time is over."""
        deadline = time.monotonic() + self._timeout_ms / 1000
        pause = min(_FIRST_PAUSE_S, self._longest_s)
        while (left := deadline - time.monotonic()) > 0:
            yield min(pause, left)
            pause = min(pause * _GROWTH, self._longest_s)
        # One look at the very end, so that a time-out of 0 still looks once.
        yield 0.0

    def timed_out(self) -> WaitTimeout:
        """Return the error for a wait that found nothing."""
        return WaitTimeout(
            f"Operation timed out: {self._what} after {self._timeout_ms} ms.", instance_id=self.instance_id
        )

    def refuse_in_transaction(self, db: Database) -> None:
        """Raise WaitInTransaction inside atomic() on the same alias: the change could never be seen."""
        if db.connection.in_atomic_block:
            raise WaitInTransaction(
                f"Waiting for instance {self.instance_id!r} inside atomic() on {db.alias!r} could never end: "
                "wait after the transaction has committed.",
                instance_id=self.instance_id,
            )
