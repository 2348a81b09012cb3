"""What a turn gives back: events to append, work to enqueue, and how the execution stands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from duroxide_django.engine.codecs import DEFAULT_MAX_PAYLOAD_BYTES
from duroxide_django.engine.events import Event
from duroxide_django.engine.failures import Failure
from duroxide_django.engine.kv import Entry
from duroxide_django.engine.messages import Mail
from duroxide_django.engine.time_limits import NO_LIMITS, TimeLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """What the application may set.

    Attributes:
        max_payload_bytes: largest payload in UTF-8 bytes.
        cancel_cleanup_turns: turns a cancelled orchestration may still take for cleaning up.
        buffer_events: keep external events until they are consumed (W10).
        trace_errors: whether the engine's own traces quote the texts of errors, or only name their classes.
    """

    max_payload_bytes: int = DEFAULT_MAX_PAYLOAD_BYTES
    cancel_cleanup_turns: int = 20
    buffer_events: bool = True
    trace_errors: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnEnvironment:
    """What a turn takes from the world, as values and functions.

    Attributes:
        now_ms: epoch milliseconds of the turn.
        new_guid: gives a random UUID as text.
        random: gives a number from 0 to 1.
        read_kv: gives the committed KV value of (instance id, key), or None.
        trace: takes (level, message).
    """

    now_ms: int
    new_guid: Callable[[], str]
    random: Callable[[], float]
    read_kv: Callable[[str, str], str | None]
    trace: Callable[[str, str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewActivity:
    """An activity to enqueue."""

    event_id: int
    name: str
    input: str
    session_id: str | None
    tag: str | None
    limits: TimeLimits = NO_LIMITS
    attempt: int = 1
    max_attempts: int | None = None
    retry_of: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewInstance:
    """A child (``event_id`` set) or a detached orchestration to start."""

    instance_id: str
    name: str
    version: str | None
    input: str
    event_id: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """The function returned ``output`` (JSON text)."""

    output: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The execution ended in failure, or by cancellation."""

    failure: Failure


@dataclass(frozen=True, slots=True, kw_only=True)
class ContinuedAsNew:
    """The next execution is to begin with ``input`` (JSON text)."""

    input: str
    version: str | None


Outcome = Completed | Failed | ContinuedAsNew


@dataclass(slots=True, kw_only=True)
class TurnResult:
    """Everything one turn wants committed.

    Attributes:
        events: history to append, in order.
        activities: activities to enqueue.
        cancelled_activities: schedule events whose queue entries are to be deleted.
        timers: (schedule event, fire time in epoch milliseconds) to enqueue.
        cancelled_timers: schedule events whose timer messages are to be deleted.
        children: children to start.
        cancelled_children: (instance id, reason) to cancel.
        detached: orchestrations to start without linkage.
        status_changed: whether ``custom_status`` was set or reset.
        custom_status: the text after the turn.
        kv: changed entries; None stands for a removed one.
        consumed_mail: mailbox rows to delete.
        stored_mail: messages to keep in the mailbox.
        outcome: how the execution ended, or None.
        ignored: messages that were dropped, in words.
        size: how many characters the events take, roughly.
    """

    events: list[Event] = field(default_factory=list)
    activities: list[NewActivity] = field(default_factory=list)
    cancelled_activities: list[int] = field(default_factory=list)
    timers: list[tuple[int, int]] = field(default_factory=list)
    cancelled_timers: list[int] = field(default_factory=list)
    children: list[NewInstance] = field(default_factory=list)
    cancelled_children: list[tuple[str, str]] = field(default_factory=list)
    detached: list[NewInstance] = field(default_factory=list)
    status_changed: bool = False
    custom_status: str | None = None
    kv: dict[str, Entry | None] = field(default_factory=dict)
    consumed_mail: list[int] = field(default_factory=list)
    stored_mail: list[Mail] = field(default_factory=list)
    outcome: Outcome | None = None
    ignored: list[str] = field(default_factory=list)
    size: int = 0
