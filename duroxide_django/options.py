"""RuntimeOptions and TagFilter: what a runtime is told when it is made."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from duroxide_django.engine.limits import MAX_WORKER_TAGS, check_tag, check_text
from duroxide_django.exceptions import InvalidArgument


@dataclass(frozen=True, slots=True)
class TagFilter:
    """Which activities a worker takes, by tag (spec 10.2).

    Attributes:
        untagged: whether it takes activities without a tag.
        names: the tags it takes; None: every tag.
    """

    untagged: bool
    names: tuple[str, ...] | None

    DEFAULT_ONLY: ClassVar[str] = "default_only"
    ANY: ClassVar[str] = "any"
    NONE: ClassVar[str] = "none"

    @staticmethod
    def tags(names: Iterable[str]) -> str:
        """Return the filter that takes only these tags."""
        return json.dumps({"tags": _checked(names)})

    @staticmethod
    def default_and(names: Iterable[str]) -> str:
        """Return the filter that takes untagged activities and these tags."""
        return json.dumps({"default_and": _checked(names)})

    @classmethod
    def parse(cls, value: Any) -> TagFilter:
        """Return the filter that ``value`` (a text of the five forms, a mapping or a TagFilter) stands for.

        Raises:
            InvalidArgument: the form is unknown, or there are no or too many tags.
        """
        if isinstance(value, TagFilter):
            return value
        if value in (None, cls.DEFAULT_ONLY):
            return cls(True, ())
        if value == cls.ANY:
            return cls(True, None)
        if value == cls.NONE:
            return cls(False, ())
        form = value
        if isinstance(value, str):
            try:
                form = json.loads(value)
            except ValueError as exc:
                raise InvalidArgument(f"{value!r} is no tag filter; use TagFilter.") from exc
        if isinstance(form, dict) and len(form) == 1:
            ((key, names),) = form.items()
            if key in ("tags", "default_and"):
                return cls(key == "default_and", tuple(_checked(names)))
        raise InvalidArgument(
            f"{value!r} is no tag filter; use TagFilter.DEFAULT_ONLY, ANY, NONE, tags() or default_and()."
        )

    def accepts(self, tag: str | None) -> bool:
        """Return whether an activity with ``tag`` (None or empty: untagged) is taken."""
        if not tag:
            return self.untagged
        return self.names is None or tag in self.names

    @property
    def takes_nothing(self) -> bool:
        """Whether no activity is taken at all."""
        return not self.untagged and self.names == ()

    def as_json(self) -> Any:
        """Return the form that ``parse`` understands."""
        if self.names is None:
            return self.ANY
        if not self.names:
            return self.DEFAULT_ONLY if self.untagged else self.NONE
        return {"default_and" if self.untagged else "tags": list(self.names)}


def _checked(names: Iterable[str]) -> list[str]:
    if isinstance(names, (str, bytes)) or not isinstance(names, Iterable):
        raise InvalidArgument("A tag filter takes a list of tags.")
    listed = list(dict.fromkeys(check_tag(name) for name in names))
    if not 1 <= len(listed) <= MAX_WORKER_TAGS:
        raise InvalidArgument(f"A worker serves 1 to {MAX_WORKER_TAGS} tags, got {len(listed)}.")
    return listed


@dataclass(slots=True, kw_only=True)
class RuntimeOptions:
    """Options of one runtime; None takes the project's setting (see conf.py).

    Attributes:
        orchestration_concurrency: 0 makes a runtime that runs activities only.
        worker_concurrency: slots for activities; 0 makes a runtime that runs orchestrations only.
        dispatcher_poll_interval_ms: longest pause between two looks at the queues, milliseconds.
        worker_lock_timeout_ms: lease of a running activity, milliseconds; renewed while it runs.
        log_level: debug, info, warning or error, for the two loggers of user traces.
        log_format: json, pretty or compact.
        service_name: bound to every log line.
        service_version: bound to every log line.
        max_sessions_per_runtime: sessions with an activity in flight.
        session_idle_timeout_ms: how long an idle session is kept, milliseconds.
        worker_node_id: stable identity for sessions, for example a pod's name.
        worker_tag_filter: which tags this runtime serves; see TagFilter.
        serial_sessions: whether one session's activities run one after another.
    """

    orchestration_concurrency: int | None = None
    worker_concurrency: int | None = None
    dispatcher_poll_interval_ms: int | None = None
    worker_lock_timeout_ms: int | None = None
    log_level: str | None = None
    log_format: str | None = None
    service_name: str | None = None
    service_version: str | None = None
    max_sessions_per_runtime: int | None = None
    session_idle_timeout_ms: int | None = None
    worker_node_id: str | None = None
    worker_tag_filter: Any = None
    serial_sessions: bool | None = None

    def __post_init__(self) -> None:
        for name in ("orchestration_concurrency", "worker_concurrency"):
            _check_number(name, getattr(self, name), 0)
        for name in (
            "dispatcher_poll_interval_ms",
            "worker_lock_timeout_ms",
            "max_sessions_per_runtime",
            "session_idle_timeout_ms",
        ):
            _check_number(name, getattr(self, name), 1)
        if self.log_format not in (None, "json", "pretty", "compact"):
            raise InvalidArgument(f"log_format must be json, pretty or compact, got {self.log_format!r}.")
        if self.log_level is not None and str(self.log_level).lower() not in LOG_LEVELS:
            raise InvalidArgument(f"log_level must be one of {', '.join(LOG_LEVELS)}, got {self.log_level!r}.")
        for name in ("service_name", "service_version"):
            if getattr(self, name) is not None:
                check_text(getattr(self, name), name)
        if not isinstance(self.serial_sessions, (bool, type(None))):
            raise InvalidArgument(f"serial_sessions must be True or False, got {self.serial_sessions!r}.")
        if self.worker_node_id is not None:
            check_text(self.worker_node_id, "worker_node_id")
        if self.worker_tag_filter is not None:
            TagFilter.parse(self.worker_tag_filter)


LOG_LEVELS = ("trace", "debug", "info", "warn", "warning", "error")


def _check_number(name: str, value: Any, least: int) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InvalidArgument(f"{name} must be a whole number of at least {least}, got {value!r}.")
