"""Actions: what the orchestration emitted, waiting to be matched with history or to become new events (spec 4.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from duroxide_django.engine import events, tasks

if TYPE_CHECKING:
    from duroxide_django.engine.futures import Leaf


class Action:
    """One decision of the orchestration.

    Attributes:
        leaf: the future that the decision opens, or None for a metadata decision.
    """

    __slots__ = ("leaf",)

    def __init__(self, leaf: Leaf | None = None) -> None:
        self.leaf = leaf

    def matches(self, event: events.Event) -> bool:
        """Return whether the recorded ``event`` is this decision."""
        raise NotImplementedError

    def to_event(self, event_id: int, now_ms: int, jitter: float) -> events.Event:
        """Return the new event of this decision.

        Args:
            event_id: the id it gets.
            now_ms: epoch milliseconds of the turn.
            jitter: a random number from -1 to 1.
        """
        raise NotImplementedError

    def describe(self) -> str:
        """Return the decision in words, for a mismatch report."""
        raise NotImplementedError


class ScheduleActivity(Action):
    """Schedule an activity."""

    __slots__ = ("task",)

    def __init__(self, leaf: Leaf, task: tasks.ActivityTask) -> None:
        super().__init__(leaf)
        self.task = task

    def matches(self, event: events.Event) -> bool:
        """See Action; the recorded time limits are used, whatever the code asks for now."""
        task = self.task
        return (
            type(event) is events.ActivityScheduled
            and event.name == task.name
            and event.input == task.input
            and event.session_id == task.session_id
            and event.tag == task.tag
        )

    def to_event(self, event_id: int, now_ms: int, jitter: float) -> events.Event:
        """See Action."""
        task = self.task
        attempt, max_attempts, retry_of = task.info or (None, None, None)
        return events.ActivityScheduled(
            event_id=event_id,
            timestamp_ms=now_ms,
            name=task.name,
            input=task.input,
            session_id=task.session_id,
            tag=task.tag,
            attempt=attempt,
            max_attempts=max_attempts,
            retry_of=retry_of,
            timeout_ms=task.limits.timeout_ms,
            heartbeat_timeout_ms=task.limits.heartbeat_timeout_ms,
            schedule_to_start_timeout_ms=task.limits.schedule_to_start_timeout_ms,
        )

    def describe(self) -> str:
        """See Action."""
        task = self.task
        return f"activity {task.name!r}, input {shorten(task.input)}, session {task.session_id}, tag {task.tag}"


class Syscall(Action):
    """Record a value in the turn that asks; stored as a syscall activity."""

    __slots__ = ("task",)

    def __init__(self, leaf: Leaf, task: tasks.SyscallTask) -> None:
        super().__init__(leaf)
        self.task = task

    def matches(self, event: events.Event) -> bool:
        """See Action."""
        task = self.task
        return type(event) is events.ActivityScheduled and event.name == task.name and event.input == task.input

    def to_event(self, event_id: int, now_ms: int, jitter: float) -> events.Event:
        """See Action."""
        return events.ActivityScheduled(
            event_id=event_id, timestamp_ms=now_ms, name=self.task.name, input=self.task.input
        )

    def describe(self) -> str:
        """See Action."""
        return f"syscall {self.task.name}"


class CreateTimer(Action):
    """Set a timer."""

    __slots__ = ("task",)

    def __init__(self, leaf: Leaf, task: tasks.TimerTask) -> None:
        super().__init__(leaf)
        self.task = task

    def matches(self, event: events.Event) -> bool:
        """See Action; the recorded fire time is used, whatever the code asks for now."""
        return type(event) is events.TimerCreated

    def to_event(self, event_id: int, now_ms: int, jitter: float) -> events.Event:
        """See Action."""
        delay_ms = max(0, round(self.task.delay_ms * (1 + self.task.jitter * jitter)))
        return events.TimerCreated(event_id=event_id, timestamp_ms=now_ms, fire_at_ms=now_ms + delay_ms)

    def describe(self) -> str:
        """See Action."""
        return f"timer of {self.task.delay_ms} ms"


class SubscribeEvent(Action):
    """Wait for an external event."""

    __slots__ = ("name",)

    def __init__(self, leaf: Leaf, name: str) -> None:
        super().__init__(leaf)
        self.name = name

    def matches(self, event: events.Event) -> bool:
        """See Action."""
        return type(event) is events.ExternalSubscribed and event.name == self.name

    def to_event(self, event_id: int, now_ms: int, jitter: float) -> events.Event:
        """See Action."""
        return events.ExternalSubscribed(event_id=event_id, timestamp_ms=now_ms, name=self.name)

    def describe(self) -> str:
        """See Action."""
        return f"wait for event {self.name!r}"


class SubscribeQueue(Action):
    """Wait for a queue message."""

    __slots__ = ("name",)

    def __init__(self, leaf: Leaf, name: str) -> None:
        super().__init__(leaf)
        self.name = name

    def matches(self, event: events.Event) -> bool:
        """See Action."""
        return type(event) is events.QueueSubscribed and event.name == self.name

    def to_event(self, event_id: int, now_ms: int, jitter: float) -> events.Event:
        """See Action."""
        return events.QueueSubscribed(event_id=event_id, timestamp_ms=now_ms, name=self.name)

    def describe(self) -> str:
        """See Action."""
        return f"dequeue from {self.name!r}"


class ScheduleChild(Action):
    """Start a child.

    Attributes:
        instance_id: the child's id; for an automatic one known only from its event on.
    """

    __slots__ = ("execution_id", "parent", "task")

    def __init__(self, leaf: Leaf, task: tasks.ChildTask, parent: str, execution_id: int) -> None:
        super().__init__(leaf)
        self.task = task
        self.parent = parent
        self.execution_id = execution_id

    def matches(self, event: events.Event) -> bool:
        """See Action; the recorded instance id is used."""
        task = self.task
        return type(event) is events.SubOrchestrationScheduled and (event.name, event.input) == (
            task.name,
            task.input,
        )

    def to_event(self, event_id: int, now_ms: int, jitter: float) -> events.Event:
        """See Action."""
        return events.SubOrchestrationScheduled(
            event_id=event_id,
            timestamp_ms=now_ms,
            name=self.task.name,
            instance=self.task.instance_id or self._automatic_id(event_id),
            input=self.task.input,
            version=self.task.version,
        )

    def _automatic_id(self, event_id: int) -> str:
        # The execution number keeps ids of later executions apart from those of the first (spec 7).
        local = f"{event_id}" if self.execution_id == 1 else f"{self.execution_id}_{event_id}"
        return f"{self.parent}::sub::{local}"

    def describe(self) -> str:
        """See Action."""
        return f"sub-orchestration {self.task.name!r}, input {shorten(self.task.input)}"


class StartDetached(Action):
    """Start an orchestration without linkage."""

    __slots__ = ("task",)

    def __init__(self, task: tasks.DetachedTask) -> None:
        super().__init__()
        self.task = task

    def matches(self, event: events.Event) -> bool:
        """See Action."""
        task = self.task
        return type(event) is events.OrchestrationChained and (event.name, event.instance, event.input) == (
            task.name,
            task.instance_id,
            task.input,
        )

    def to_event(self, event_id: int, now_ms: int, jitter: float) -> events.Event:
        """See Action."""
        task = self.task
        return events.OrchestrationChained(
            event_id=event_id,
            timestamp_ms=now_ms,
            name=task.name,
            instance=task.instance_id,
            input=task.input,
            version=task.version,
        )

    def describe(self) -> str:
        """See Action."""
        task = self.task
        return f"detached start of {task.name!r} as {task.instance_id!r}, input {shorten(task.input)}"


class SetStatus(Action):
    """Set or reset the custom status."""

    __slots__ = ("status",)

    def __init__(self, status: str | None) -> None:
        super().__init__()
        self.status = status

    def matches(self, event: events.Event) -> bool:
        """See Action; the text may differ."""
        return type(event) is events.CustomStatusUpdated

    def to_event(self, event_id: int, now_ms: int, jitter: float) -> events.Event:
        """See Action."""
        return events.CustomStatusUpdated(event_id=event_id, timestamp_ms=now_ms, status=self.status)

    def describe(self) -> str:
        """See Action."""
        return "custom-status update"


class SetKv(Action):
    """Set a KV entry."""

    __slots__ = ("key", "updated_ms", "value")

    def __init__(self, key: str, value: str, updated_ms: int) -> None:
        super().__init__()
        self.key = key
        self.value = value
        self.updated_ms = updated_ms

    def matches(self, event: events.Event) -> bool:
        """See Action."""
        return type(event) is events.KeyValueSet and (event.key, event.value) == (self.key, self.value)

    def to_event(self, event_id: int, now_ms: int, jitter: float) -> events.Event:
        """See Action."""
        return events.KeyValueSet(
            event_id=event_id,
            timestamp_ms=now_ms,
            key=self.key,
            value=self.value,
            last_updated_at_ms=self.updated_ms,
        )

    def describe(self) -> str:
        """See Action."""
        return f"kv set of {self.key!r} to {shorten(self.value)}"


class ClearKv(Action):
    """Remove a KV entry."""

    __slots__ = ("key",)

    def __init__(self, key: str) -> None:
        super().__init__()
        self.key = key

    def matches(self, event: events.Event) -> bool:
        """See Action."""
        return type(event) is events.KeyValueCleared and event.key == self.key

    def to_event(self, event_id: int, now_ms: int, jitter: float) -> events.Event:
        """See Action."""
        return events.KeyValueCleared(event_id=event_id, timestamp_ms=now_ms, key=self.key)

    def describe(self) -> str:
        """See Action."""
        return f"kv clear of {self.key!r}"


class ClearAllKv(Action):
    """Remove every KV entry."""

    __slots__ = ()

    def matches(self, event: events.Event) -> bool:
        """See Action."""
        return type(event) is events.KeyValuesCleared

    def to_event(self, event_id: int, now_ms: int, jitter: float) -> events.Event:
        """See Action."""
        return events.KeyValuesCleared(event_id=event_id, timestamp_ms=now_ms)

    def describe(self) -> str:
        """See Action."""
        return "kv clear-all"


def shorten(text: str, limit: int = 120) -> str:
    """Return ``text`` cut to ``limit`` characters for a message."""
    return text if len(text) <= limit else f"{text[:limit]}…"


def describe_event(event: events.Event) -> str:
    """Return a recorded schedule event in words, for a mismatch report."""
    parts = [f"{name} {shorten(str(value))}" for name, value in _telling_fields(event)]
    return f"{event.kind}({', '.join(parts)})"


def _telling_fields(event: events.Event) -> list[tuple[str, object]]:
    names = ("name", "instance", "input", "session_id", "tag", "key", "value")
    return [(name, getattr(event, name)) for name in names if getattr(event, name, None) is not None]
