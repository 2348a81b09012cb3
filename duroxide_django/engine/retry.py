"""Retry policies: parsing what users write, and the delay before each attempt (spec part 9)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from duroxide_django.engine.limits import check_delay_ms
from duroxide_django.engine.time_limits import TimeLimits
from duroxide_django.exceptions import InvalidArgument, TaskFailed, TaskTimeout

NONE = "none"
FIXED = "fixed"
LINEAR = "linear"
EXPONENTIAL = "exponential"

MAX_DELAY_MS = 30_000
#: First delay of each strategy in milliseconds (spec 9).
_INITIAL_DELAY_MS = {NONE: 0, FIXED: 1_000, LINEAR: 100, EXPONENTIAL: 100}
_ALIASES = {
    "maxAttempts": "max_attempts",
    "timeoutMs": "timeout_ms",
    "totalTimeoutMs": "total_timeout_ms",
    "heartbeatTimeoutMs": "heartbeat_timeout_ms",
    "scheduleToStartTimeoutMs": "schedule_to_start_timeout_ms",
    "backoff_strategy": "backoff",
    "backoffStrategy": "backoff",
    "initialDelayMs": "initial_delay_ms",
    "maxDelayMs": "max_delay_ms",
}
_KEYS = frozenset(
    {
        "max_attempts", "timeout_ms", "total_timeout_ms", "backoff", "initial_delay_ms", "multiplier",
        "max_delay_ms", "jitter", "retry_on", "give_up_on", "retry_timeouts", "heartbeat_timeout_ms",
        "schedule_to_start_timeout_ms",
    }
)  # fmt: skip

_DELAYS = (
    "timeout_ms", "heartbeat_timeout_ms", "schedule_to_start_timeout_ms", "total_timeout_ms", "initial_delay_ms",
    "max_delay_ms",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often and when a failed activity is tried again.

    Attributes:
        max_attempts: attempts in total, the first included.
        timeout_ms: milliseconds one attempt may take from the moment a worker begins it; None: no limit.
        heartbeat_timeout_ms: milliseconds between two heartbeats of an attempt; None: no limit.
        schedule_to_start_timeout_ms: milliseconds an attempt may wait for a worker; None: no limit.
        total_timeout_ms: milliseconds all attempts and waits may take together; None: no limit.
        backoff: none, fixed, linear or exponential.
        initial_delay_ms: milliseconds before the second attempt; None: the strategy's own.
        multiplier: growth of the exponential strategy.
        max_delay_ms: the longest delay in milliseconds.
        jitter: 0 to 1: the delay varies by this share; decided once and recorded.
        retry_on: class names of errors to retry; empty: all.
        give_up_on: class names of errors never to retry.
        retry_timeouts: whether an attempt that ran into one of its three limits is retried; None: like any failure.
    """

    max_attempts: int = 3
    timeout_ms: int | None = None
    total_timeout_ms: int | None = None
    backoff: str = EXPONENTIAL
    initial_delay_ms: int | None = None
    multiplier: float = 2.0
    max_delay_ms: int = MAX_DELAY_MS
    jitter: float = 0.0
    retry_on: tuple[str, ...] = ()
    give_up_on: tuple[str, ...] = ()
    retry_timeouts: bool | None = None
    heartbeat_timeout_ms: int | None = None
    schedule_to_start_timeout_ms: int | None = None

    @property
    def limits(self) -> TimeLimits:
        """The time limits of each attempt."""
        return TimeLimits(
            timeout_ms=self.timeout_ms,
            heartbeat_timeout_ms=self.heartbeat_timeout_ms,
            schedule_to_start_timeout_ms=self.schedule_to_start_timeout_ms,
        )

    @classmethod
    def parse(cls, policy: Mapping[str, Any] | RetryPolicy | None) -> RetryPolicy:
        """Return the policy that a user wrote.

        Args:
            policy: None (defaults), a RetryPolicy, or a mapping with the seed's keys and the attributes above.

        Raises:
            InvalidArgument: a key is unknown or a value is out of range.
        """
        if policy is None:
            return cls()
        if isinstance(policy, RetryPolicy):
            return cls(**_checked({field.name: getattr(policy, field.name) for field in fields(policy)}))
        if not isinstance(policy, Mapping):
            raise InvalidArgument(f"A retry policy must be a mapping, got {type(policy).__name__}.")
        values: dict[str, Any] = {}
        for key, value in policy.items():
            name = _ALIASES.get(key, key)
            if name not in _KEYS:
                raise InvalidArgument(f"Unknown retry key {key!r}; known are {', '.join(sorted(_KEYS))}.")
            if name in values and values[name] != value:
                raise InvalidArgument(f"The retry policy gives {name} twice, with different values.")
            values[name] = value
        return cls(**_checked(values))

    def delay_ms(self, failures: int) -> int:
        """Return the milliseconds to wait after failure number ``failures`` (from 1), before jitter."""
        first = _INITIAL_DELAY_MS[self.backoff] if self.initial_delay_ms is None else self.initial_delay_ms
        if self.backoff == NONE or first == 0:
            return 0
        if self.backoff == FIXED:
            return first
        if self.backoff == LINEAR:
            return min(first * failures, self.max_delay_ms)
        try:
            return int(min(first * self.multiplier ** (failures - 1), self.max_delay_ms))
        except OverflowError:
            return self.max_delay_ms

    def retries(self, error: TaskFailed, *, raced_by_timer: bool = False) -> bool:
        """Return whether ``error`` deserves another attempt.

        Args:
            raced_by_timer: the attempt was recorded by an engine whose default was not to retry after a time-out.
        """
        if isinstance(error, TaskTimeout) and (raced_by_timer or self.retry_timeouts is not None):
            return bool(self.retry_timeouts)
        if not error.retryable or any(name in self.give_up_on for name in error.error_types):
            return False
        return not self.retry_on or any(name in self.retry_on for name in error.error_types)


def _checked(values: dict[str, Any]) -> dict[str, Any]:
    if values.get("backoff") is None:
        values.pop("backoff", None)
    checked = dict(values)
    attempts = values.get("max_attempts", 3)
    if isinstance(attempts, bool) or not isinstance(attempts, int) or attempts < 1:
        raise InvalidArgument(f"max_attempts must be a whole number of at least 1, got {attempts!r}.")
    for key in _DELAYS:
        if values.get(key) is not None:
            checked[key] = check_delay_ms(values[key], key)
        elif key == "max_delay_ms":
            checked.pop(key, None)
    if values.get("backoff", EXPONENTIAL) not in tuple(_INITIAL_DELAY_MS):
        raise InvalidArgument(f"backoff must be one of {', '.join(_INITIAL_DELAY_MS)}, got {values['backoff']!r}.")
    multiplier = values.get("multiplier", 2.0)
    if isinstance(multiplier, bool) or not isinstance(multiplier, (int, float)) or not 1 <= multiplier < 1e6:
        raise InvalidArgument(f"multiplier must be a number of at least 1, got {multiplier!r}.")
    jitter = values.get("jitter", 0.0)
    if isinstance(jitter, bool) or not isinstance(jitter, (int, float)) or not 0 <= jitter <= 1:
        raise InvalidArgument(f"jitter must be a number from 0 to 1, got {jitter!r}.")
    for key in ("retry_on", "give_up_on"):
        if key in values:
            checked[key] = _class_names(values[key], key)
    if not isinstance(values.get("retry_timeouts", False), bool | None):
        raise InvalidArgument(f"retry_timeouts must be True or False, got {values['retry_timeouts']!r}.")
    return checked


def _class_names(value: Any, key: str) -> tuple[str, ...]:
    single = isinstance(value, (str, type)) or not isinstance(value, Iterable)
    names = []
    for entry in (value,) if single else value:
        if isinstance(entry, type) and issubclass(entry, BaseException):
            names.append(entry.__name__)
        elif isinstance(entry, str) and entry:
            names.append(entry)
        else:
            raise InvalidArgument(f"{key} takes exception classes or their names, got {entry!r}.")
    return tuple(names)
