"""Where ``async def`` activities run: one event loop in a thread of its own, with a bound on how many run at once."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, Generic, TypeVar

from asgiref.sync import SyncToAsync, ThreadSensitiveContext, sync_to_async
from django.db import connections

Item = TypeVar("Item")

#: How long a stopping runtime waits for cancelled async activities, in seconds.
_END_S = 5.0


class EventLoop(Generic[Item]):
    """Runs coroutines, so many at once; the others wait in the order in which they came."""

    def __init__(self, limit: int, run: Callable[[Item], Coroutine[Any, Any, None]]) -> None:
        """
        Args:
            limit: how many run at once.
            run: makes the coroutine of an item; it never raises.
        """
        self._limit = limit
        self._run = run
        self._lock = threading.Lock()
        self._waiting: deque[Item] = deque()
        self._running = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def put(self, item: Item) -> None:
        """Run an item, now or when it is its turn."""
        with self._lock:
            self._waiting.append(item)
        self._start_waiting()

    def take_waiting(self, wanted: Callable[[Item], bool]) -> list[Item]:
        """Remove and return the items that have not begun and are ``wanted``."""
        with self._lock:
            taken = [item for item in self._waiting if wanted(item)]
            self._waiting = deque(item for item in self._waiting if item not in taken)
        return taken

    def has_waiting(self) -> bool:
        """Return whether items wait for their turn."""
        return bool(self._waiting)

    def stop(self) -> None:
        """Cancel what runs, forget what waits, and end the thread."""
        with self._lock:
            self._waiting.clear()
        if self._loop is not None and self._thread is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(_END_S)

    def _start_waiting(self) -> None:
        while True:
            with self._lock:
                if not self._waiting or self._running >= self._limit:
                    return
                self._running += 1
                item = self._waiting.popleft()
                loop = self._ensure_loop()
            # The task copies the variables that are set here: the activity that ended must not hand its own on.
            Context().run(asyncio.run_coroutine_threadsafe, self._take_turn(item), loop)

    def _ensure_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=_serve, args=(self._loop,), name="duroxide-async", daemon=True)
            self._thread.start()
        return self._loop

    async def _take_turn(self, item: Item) -> None:
        try:
            # A thread of its own for Django's ORM, as an ASGI request has: otherwise all activities would share one
            # connection, and one that broke would stay broken.
            async with ThreadSensitiveContext() as context:
                try:
                    await self._run(item)
                finally:
                    if context in SyncToAsync.context_to_thread_executor:
                        await asyncio.shield(sync_to_async(connections.close_all)())
        finally:
            with self._lock:
                self._running -= 1
            self._start_waiting()


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    """Run ``loop`` until it is stopped; then cancel what is left and close it."""
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        connections.close_all()
        loop.close()
