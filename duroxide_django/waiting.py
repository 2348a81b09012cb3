"""Waiting for a change in the database: what to look at, how often, and when to give up."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Generic, TypeVar

from asgiref.sync import sync_to_async

from duroxide_django import change_listener
from duroxide_django.conf import settings
from duroxide_django.engine.limits import check_delay_ms
from duroxide_django.exceptions import WaitInTransaction, WaitTimeout
from duroxide_django.storage.database import Database

T = TypeVar("T")

#: Pauses between two looks without hints, in seconds: growing from the first to the longest.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S, _GROWTH = 0.0005, 0.1, 1.06
#: How a pause grows where the caller names the longest: it comes soon.
_STEEP_GROWTH = 1.5
#: What is over sooner is not worth a watch, in seconds.
_UNWATCHED_S = 0.05
#: Pause between two looks while changes are heard of, in seconds.
_SELDOM_S = 10.0


@dataclass(frozen=True, slots=True)
class _Pause:
    """A pause after a look.

    Attributes:
        seconds: how long it lasts at the most.
        listens: whether a change ends it: it may then be long, and needs no connection.
    """

    seconds: float
    listens: bool = False


class Wait(Generic[T]):
    """One wait.

    Attributes:
        look: returns what is waited for, or None.
    """

    def __init__(
        self, look: Callable[[], T | None], timeout_ms: int, what: str, instance_id: str, *, poll_ms: int | None = None
    ) -> None:
        """
        Args:
            timeout_ms: milliseconds to wait at the most.
            what: the time-out's message.
            poll_ms: longest pause where changes can't be heard of, milliseconds; None: 100.
        """
        self.look = look
        self.instance_id = instance_id
        self._timeout_ms = check_delay_ms(timeout_ms, "timeout_ms")
        self._what = what
        self._growth = _GROWTH if poll_ms is None else _STEEP_GROWTH
        self._longest_s = _LONGEST_PAUSE_S if poll_ms is None else max(poll_ms / 1000, 0.001)
        self._was_closed = False

    def run(self, db: Database) -> T:
        """Look until there is something; returns it.

        Raises:
            WaitTimeout: there is nothing in time.
            WaitInTransaction: called inside atomic() on the same alias.
        """
        self._begin(db)
        changed = threading.Event()
        with contextlib.closing(self._pauses(db, changed.set)) as pauses:
            for pause in pauses:
                # Before the look: what changes after it ends the pause.
                changed.clear()
                if (found := self._look(db, pause)) is not None:
                    return found
                changed.wait(pause.seconds)
        raise self._timed_out()

    async def arun(self, db: Database) -> T:
        """Do as run() does: look in Django's thread and pause in the event loop, so that others are served."""
        await sync_to_async(self._begin)(db)
        changed, loop = asyncio.Event(), asyncio.get_running_loop()

        def wake() -> None:
            # A loop that has just been closed waits for nothing.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(changed.set)

        with contextlib.closing(self._pauses(db, wake)) as pauses:
            for pause in pauses:
                changed.clear()
                if (found := await sync_to_async(self._look)(db, pause)) is not None:
                    return found
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(changed.wait(), pause.seconds)
        raise self._timed_out()

    def _begin(self, db: Database) -> None:
        """Refuse to wait inside atomic() on the same alias: the change could never be seen."""
        if db.connection.in_atomic_block:
            raise WaitInTransaction(
                f"Waiting for instance {self.instance_id!r} inside atomic() on {db.alias!r} could never end: "
                "wait after the transaction has committed.",
                instance_id=self.instance_id,
            )
        self._was_closed = db.connection.connection is None

    def _look(self, db: Database, pause: _Pause) -> T | None:
        found = self.look()
        if found is None and pause.listens and self._was_closed:
            # Connections are few, waits may be many.
            db.connection.close()
        return found

    def _pauses(self, db: Database, wake: Callable[[], None]) -> Generator[_Pause, None, None]:
        """Give the pause after each look; ends when the time is over."""
        listens = db.features.has_notify and settings.NOTIFY
        began = time.monotonic()
        deadline = began + self._timeout_ms / 1000
        pause = min(_FIRST_PAUSE_S, self._longest_s)
        watch: change_listener.Watch | None = None
        try:
            while (left := deadline - time.monotonic()) > 0:
                if watch is not None and watch.is_listening:
                    yield _Pause(min(_SELDOM_S, left), listens=True)
                    continue
                yield _Pause(min(pause, left))
                pause = min(pause * self._growth, self._longest_s)
                waited = time.monotonic() - began
                if listens and watch is None and (waited >= _UNWATCHED_S or change_listener.is_listening(db.alias)):
                    watch = change_listener.watch(db.alias, self.instance_id, wake)
            # One look at the very end, so that a time-out of 0 still looks once.
            yield _Pause(0.0)
        finally:
            if watch is not None:
                watch.end()

    def _timed_out(self) -> WaitTimeout:
        return WaitTimeout(
            f"Operation timed out: {self._what} after {self._timeout_ms} ms.", instance_id=self.instance_id
        )
