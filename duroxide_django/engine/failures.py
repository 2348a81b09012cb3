"""Failure details: what a Failed event stores, and the exception it becomes again (spec 13.8)."""

from __future__ import annotations

import json
import traceback
from dataclasses import dataclass
from typing import Any

from duroxide_django.exceptions import (
    ActivityFailed,
    CorruptHistory,
    NonRetryable,
    OrchestrationCancelled,
    SubOrchestrationFailed,
    TaskFailed,
    TaskTimeout,
)

APPLICATION = "Application"
INFRASTRUCTURE = "Infrastructure"
CONFIGURATION = "Configuration"
POISON = "Poison"

TIMEOUT = "Timeout"
#: What an attempt fails with that took longer than its ``timeout_ms``.
TIMED_OUT = "timeout: activity timed out"
TIMEOUT_TYPES = ("TaskTimeout", "TimeoutError")

#: Longer texts are cut in the middle, so that a failure can always be stored.
MAX_MESSAGE_CHARS = 20_000
MAX_TRACEBACK_CHARS = 60_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why an activity or an orchestration failed.

    Attributes:
        category: Application (reaches the orchestration's code) or a system category (aborts it).
        kind: ActivityFailed, OrchestrationFailed, Cancelled, Timeout, Nondeterminism, …
        message: the display text.
        error_types: class names of the original exception, most derived first.
        traceback: the original traceback as text.
        retryable: whether another attempt makes sense.
    """

    category: str = APPLICATION
    kind: str = "OrchestrationFailed"
    message: str = ""
    error_types: tuple[str, ...] = ()
    traceback: str | None = None
    retryable: bool = True

    @property
    def is_application(self) -> bool:
        """Whether orchestration code can catch it."""
        return self.category == APPLICATION

    @property
    def is_cancelled(self) -> bool:
        """Whether it stands for a cancellation."""
        return self.kind == "Cancelled"

    def to_json(self) -> str:
        """Return the stored form, with the category as the single top-level key."""
        body: dict[str, Any] = {"kind": self.kind, "message": self.message, "retryable": self.retryable}
        if self.error_types:
            body["types"] = list(self.error_types)
        if self.traceback:
            body["traceback"] = self.traceback
        return json.dumps({self.category: body}, ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Failure:
        """Return the failure stored as ``text``; raises CorruptHistory if it is none."""
        try:
            ((category, body),) = json.loads(text).items()
            return cls(
                category=category,
                kind=body["kind"],
                message=body["message"],
                error_types=tuple(body.get("types", ())),
                traceback=body.get("traceback"),
                retryable=body.get("retryable", True),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            raise CorruptHistory(f"Not a failure record ({len(text)} characters)") from exc


def cancelled(reason: str) -> Failure:
    """Return the failure of a cancelled instance."""
    return Failure(kind="Cancelled", message=f"canceled: {reason}", error_types=("OrchestrationCancelled",))


def timeout(message: str) -> Failure:
    """Return the failure of an activity that ran into a time limit; it becomes a TaskTimeout."""
    return Failure(kind=TIMEOUT, message=message, error_types=TIMEOUT_TYPES)


def poison(message: str) -> Failure:
    """Return the failure of an entry that was fetched too often."""
    return Failure(category=POISON, kind="Poison", message=f"poison: {message}", retryable=False)


def from_exception(error: BaseException, kind: str) -> Failure:
    """Return the failure that records ``error``, raised by an activity or an orchestration."""
    if isinstance(error, OrchestrationCancelled):
        return Failure(kind="Cancelled", message=storable(str(error)), error_types=("OrchestrationCancelled",))
    if isinstance(error, TaskFailed):
        # An unhandled task failure passes through with its original text, however many levels it climbs.
        return Failure(
            kind=kind,
            message=storable(str(error)),
            error_types=error.error_types or type_names(error),
            traceback=error.traceback_text or format_traceback(error),
            retryable=error.retryable,
        )
    try:
        text = str(error)
    except Exception as exc:  # a broken __str__ must not lose the failure itself
        text = f"<str() failed: {exc!r}>"
    return Failure(
        kind=kind,
        message=storable(f"{type(error).__name__}: {text}"),
        error_types=type_names(error),
        traceback=format_traceback(error),
        retryable=not isinstance(error, NonRetryable),
    )


def to_exception(failure: Failure, *, name: str, event_id: int, child: bool) -> TaskFailed:
    """Return the exception that ``failure`` becomes at the orchestration's ``yield``."""
    cls: type[TaskFailed] = SubOrchestrationFailed if child else ActivityFailed
    if failure.kind == TIMEOUT:
        cls = TaskTimeout
    error = cls(
        failure.message,
        name=name,
        event_id=event_id,
        error_types=failure.error_types,
        traceback_text=failure.traceback,
        retryable=failure.retryable,
    )
    if isinstance(error, SubOrchestrationFailed):
        error.cancelled = failure.is_cancelled
    return error


def type_names(error: BaseException) -> tuple[str, ...]:
    """Return the names of the error's class and its bases, most derived first, without ``object``."""
    return tuple(cls.__name__ for cls in type(error).__mro__ if cls is not object)


def format_traceback(error: BaseException) -> str:
    """Return the error's traceback as storable text, cut in the middle when very long."""
    return storable("".join(traceback.format_exception(error)), MAX_TRACEBACK_CHARS)


def storable(text: str, limit: int = MAX_MESSAGE_CHARS) -> str:
    """Return ``text`` without what a database refuses, cut in the middle to ``limit`` characters."""
    text = text.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode()
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n… {len(text) - limit} characters cut …\n{text[-half:]}"
