"""Time limits of an activity, as its orchestration asks for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

from duroxide_django.engine.limits import check_delay_ms


class Limits(TypedDict, total=False):
    """The time limits as keyword arguments; see TimeLimits."""

    timeout_ms: int | None
    heartbeat_timeout_ms: int | None
    schedule_to_start_timeout_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeLimits:
    """Time limits of one attempt of an activity, in milliseconds; None: no limit.

    Attributes:
        timeout_ms: from the moment its function begins until it ends.
        heartbeat_timeout_ms: between two heartbeats, and from the beginning to the first.
        schedule_to_start_timeout_ms: from the moment it is scheduled until a worker begins it.
    """

    timeout_ms: int | None = None
    heartbeat_timeout_ms: int | None = None
    schedule_to_start_timeout_ms: int | None = None

    @property
    def runs_out(self) -> bool:
        """Whether the worker that runs the attempt has a limit to watch."""
        return self.timeout_ms is not None or self.heartbeat_timeout_ms is not None

    @classmethod
    def checked(
        cls,
        *,
        timeout_ms: int | None = None,
        heartbeat_timeout_ms: int | None = None,
        schedule_to_start_timeout_ms: int | None = None,
    ) -> TimeLimits:
        """Return the limits that a user wrote.

        Raises:
            InvalidArgument: one is negative or not a whole number of milliseconds.
        """
        if timeout_ms is None and heartbeat_timeout_ms is None and schedule_to_start_timeout_ms is None:
            return NO_LIMITS
        return cls(
            timeout_ms=_checked(timeout_ms, "timeout_ms"),
            heartbeat_timeout_ms=_checked(heartbeat_timeout_ms, "heartbeat_timeout_ms"),
            schedule_to_start_timeout_ms=_checked(schedule_to_start_timeout_ms, "schedule_to_start_timeout_ms"),
        )


def _checked(value: int | None, name: str) -> int | None:
    return None if value is None else check_delay_ms(value, name)


NO_LIMITS = TimeLimits()
