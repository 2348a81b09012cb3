"""What an orchestration may yield. Tasks are inert: nothing is scheduled until they are yielded (spec 4.7)."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from types import GeneratorType
from typing import Any

from duroxide_django.engine.limits import check_delay_ms, check_tag
from duroxide_django.engine.retry import RetryPolicy
from duroxide_django.engine.time_limits import NO_LIMITS, TimeLimits
from duroxide_django.exceptions import InvalidTask


class Task:
    """Base of everything an orchestration may yield; made by the methods of ``ctx``."""

    __slots__ = ()

    def __iter__(self) -> Any:
        raise InvalidTask(f"{self!r} must be yielded with 'yield', not 'yield from' or a loop.")

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


class ActivityTask(Task):
    """Run an activity; gives its result."""

    __slots__ = (
        "event_id",
        "info",
        "input",
        "limits",
        "name",
        "raced_by_timer",
        "result_type",
        "session_id",
        "tag",
    )

    def __init__(
        self,
        name: str,
        input_text: str,
        *,
        session_id: str | None = None,
        limits: TimeLimits = NO_LIMITS,
        result_type: Any = None,
    ) -> None:
        self.name = name
        self.input = input_text
        self.session_id = session_id
        self.tag: str | None = None
        self.limits = limits
        self.result_type = result_type
        #: (attempt, max_attempts, event id of the first attempt) when a retry loop made this task.
        self.info: tuple[int, int, int | None] | None = None
        #: Its schedule event, once there is one.
        self.event_id: int | None = None
        #: Whether its history was recorded by an engine that raced each attempt with a timer.
        self.raced_by_timer = False

    def with_tag(self, tag: str) -> ActivityTask:
        """Route the activity to workers that serve ``tag``; returns the same task."""
        self.tag = check_tag(tag)
        return self

    def __repr__(self) -> str:
        return f"<activity {self.name!r}>"


class RetryTask(Task):
    """Run an activity under a retry policy; gives its result."""

    __slots__ = ("activity", "policy")

    def __init__(self, activity: ActivityTask, policy: RetryPolicy) -> None:
        self.activity = activity
        self.policy = policy

    def with_tag(self, tag: str) -> RetryTask:
        """Route every attempt to workers that serve ``tag``; returns the same task."""
        self.activity.with_tag(tag)
        return self

    def __repr__(self) -> str:
        return f"<activity {self.activity.name!r} with retries>"


class TimerTask(Task):
    """Wait; gives None."""

    __slots__ = ("delay_ms", "jitter")

    def __init__(self, delay_ms: int, jitter: float = 0.0) -> None:
        self.delay_ms = check_delay_ms(delay_ms)
        self.jitter = jitter

    def __repr__(self) -> str:
        return f"<timer {self.delay_ms} ms>"


class EventTask(Task):
    """Wait for an external event; gives its data."""

    __slots__ = ("name", "result_type")

    def __init__(self, name: str, result_type: Any = None) -> None:
        self.name = name
        self.result_type = result_type

    def __repr__(self) -> str:
        return f"<wait for event {self.name!r}>"


class DequeueTask(Task):
    """Take the next message of a queue; gives its data."""

    __slots__ = ("queue", "result_type")

    def __init__(self, queue: str, result_type: Any = None) -> None:
        self.queue = queue
        self.result_type = result_type

    def __repr__(self) -> str:
        return f"<dequeue from {self.queue!r}>"


class ChildTask(Task):
    """Run a sub-orchestration; gives its output."""

    __slots__ = ("input", "instance_id", "name", "result_type", "version")

    def __init__(
        self,
        name: str,
        input_text: str,
        *,
        instance_id: str | None = None,
        version: str | None = None,
        result_type: Any = None,
    ) -> None:
        self.name = name
        self.input = input_text
        self.instance_id = instance_id
        self.version = version
        self.result_type = result_type

    def __repr__(self) -> str:
        return f"<sub-orchestration {self.name!r}>"


class DetachedTask(Task):
    """Start an orchestration without waiting for it; gives None at once."""

    __slots__ = ("input", "instance_id", "name", "version")

    def __init__(self, name: str, input_text: str, *, instance_id: str, version: str | None = None) -> None:
        self.name = name
        self.input = input_text
        self.instance_id = instance_id
        self.version = version

    def __repr__(self) -> str:
        return f"<detached start of {self.name!r}>"


class ContinueAsNewTask(Task):
    """End this execution and begin the next; never resumes."""

    __slots__ = ("input", "version")

    def __init__(self, input_text: str, version: str | None = None) -> None:
        self.input = input_text
        self.version = version

    def __repr__(self) -> str:
        return "<continue as new>"


class SyscallTask(Task):
    """A value that the engine records in the turn that asks: time, guid, another instance's KV (W34)."""

    __slots__ = ("input", "name")

    def __init__(self, name: str, input_text: str = "null") -> None:
        self.name = name
        self.input = input_text

    def __repr__(self) -> str:
        return f"<{self.name}>"


class AllTask(Task):
    """Wait for every member."""

    __slots__ = ("fail_fast", "members", "unwrap")

    def __init__(self, members: Iterable[Any], *, fail_fast: bool = False, unwrap: bool = False) -> None:
        self.members = checked_members(members, "all()")
        self.fail_fast = fail_fast
        self.unwrap = unwrap

    def __repr__(self) -> str:
        return f"<all of {len(self.members)}>"


class RaceTask(Task):
    """Wait for the first member; the others are cancelled."""

    __slots__ = ("members",)

    def __init__(self, members: Iterable[Any]) -> None:
        self.members = checked_members(members, "race()")
        if not self.members:
            raise InvalidTask("race() needs at least one task.")

    def __repr__(self) -> str:
        return f"<race of {len(self.members)}>"


def checked_members(members: Iterable[Any], what: str) -> list[Any]:
    """Return the members as a list, or raise InvalidTask that names the one that is no task."""
    if isinstance(members, (Task, str, bytes, dict)) or not isinstance(members, Iterable):
        raise InvalidTask(f"{what} takes a list of tasks, got {type(members).__name__}.")
    if isinstance(members, GeneratorType) and members.gi_code.co_name != "<genexpr>":
        raise InvalidTask(f"{what} takes a list of tasks; put the generator into the list.")
    listed = list(members)
    for index, member in enumerate(listed):
        if isinstance(member, ContinueAsNewTask):
            raise InvalidTask(f"{what}: member {index} is continue_as_new, which must be yielded alone.")
        if not isinstance(member, (Task, Generator)):
            raise InvalidTask(f"{what}: member {index} is no task but {type(member).__name__}.")
    return listed
