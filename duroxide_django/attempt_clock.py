"""AttemptClock: the time limits of one delivery of an activity, from the moment its function begins."""

from __future__ import annotations

import threading
import time

from duroxide_django.engine.failures import TIMED_OUT
from duroxide_django.engine.time_limits import TimeLimits
from duroxide_django.storage.clock import virtual_now_ms

_lock = threading.Lock()


class AttemptClock:
    """Keeps the time of one delivery. It decides once whether the function ended in time, whoever asks first.

    Under a virtual clock a limit runs out as soon as either time, the virtual or the real one, has passed it.
    """

    __slots__ = ("_beat", "_began", "_limits", "_stopped", "_why")

    def __init__(self, limits: TimeLimits) -> None:
        self._limits = limits
        self._began: tuple[float, int | None] | None = None
        self._beat: tuple[float, int | None] | None = None
        self._stopped = False
        self._why: str | None = None

    def start(self) -> int | None:
        """Begin; returns when ``timeout_ms`` runs out, epoch milliseconds by this host's clock, or None."""
        self._began = self._beat = _now()
        if self._limits.timeout_ms is None:
            return None
        virtual = self._began[1]
        return (int(time.time() * 1000) if virtual is None else virtual) + self._limits.timeout_ms

    def beat(self) -> None:
        """Note a heartbeat. One that comes too late changes nothing."""
        with _lock:
            self._why = self._why or self._ran_out()
            self._beat = _now()

    def due_s(self) -> float | None:
        """Return the next moment at which a limit may run out, as of ``time.monotonic()``; None: not begun."""
        due = [] if (deadline_s := self.deadline_s()) is None else [deadline_s]
        if self._beat is not None and self._limits.heartbeat_timeout_ms is not None:
            due.append(self._beat[0] + self._limits.heartbeat_timeout_ms / 1000)
        return min(due, default=None)

    def deadline_s(self) -> float | None:
        """Return when ``timeout_ms`` runs out, as of ``time.monotonic()``, or None."""
        if self._began is None or self._limits.timeout_ms is None:
            return None
        return self._began[0] + self._limits.timeout_ms / 1000

    def give_up(self) -> str | None:
        """Stop if a limit has run out; returns which in words. None: none has, or the function has ended."""
        with _lock:
            if self._stopped:
                return None
            self._why = self._why or self._ran_out()
            self._stopped = self._why is not None
            return self._why

    def ran_out(self) -> bool:
        """Return whether a limit has run out."""
        with _lock:
            self._why = self._why or self._ran_out()
            return self._why is not None

    def stop(self) -> str | None:
        """Stop because the function has ended; returns in words which limit had run out before, or None."""
        with _lock:
            if not self._stopped:
                self._stopped = True
                self._why = self._why or self._ran_out()
            return self._why

    def _ran_out(self) -> str | None:
        if _is_over(self._began, self._limits.timeout_ms):
            return TIMED_OUT
        if _is_over(self._beat, self._limits.heartbeat_timeout_ms):
            return f"timeout: activity sent no heartbeat for {self._limits.heartbeat_timeout_ms} ms"
        return None


def _now() -> tuple[float, int | None]:
    return time.monotonic(), virtual_now_ms()


def _is_over(since: tuple[float, int | None] | None, limit_ms: int | None) -> bool:
    if since is None or limit_ms is None:
        return False
    (began_s, began_ms), (now_s, now_ms) = since, _now()
    # The same sum as in due_s(), so that what is due there is over here.
    return now_s >= began_s + limit_ms / 1000 or (
        began_ms is not None and now_ms is not None and now_ms - began_ms >= limit_ms
    )
