"""History events: one frozen dataclass per kind (spec part 2).

``kind`` is the public name and what the history table stores. The fields beyond the common three are stored as one
JSON object; a field whose name is in ``_PAYLOADS`` holds JSON text itself and is shown embedded by ``public_data``.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, fields
from typing import Any

from duroxide_django.engine.codecs import dumps, loads
from duroxide_django.exceptions import CorruptHistory, NewerEngine

_PAYLOADS = frozenset({"input", "result", "output", "data", "details"})
_COMMON = ("event_id", "timestamp_ms", "source_event_id")
#: Raised when histories change in a way that older code can't read; recorded in OrchestrationStarted.
ENGINE_VERSION = 3

#: The first engine version that stores KV values and custom statuses which aren't text as JSON, takes a str for a value
#: in typed calls with a type, and refuses keys that JSON merges. Before it, all of these were ``str()`` or merged.
VALUES_ARE_JSON = 3

#: An event takes as many characters at least, with all that an execution keeps for it.
_SMALL = 400

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One history entry.

    Attributes:
        event_id: position in the execution, from 1.
        timestamp_ms: epoch milliseconds of the turn that wrote it.
        source_event_id: for completions and cancellations, the schedule event they refer to.
    """

    event_id: int
    timestamp_ms: int
    source_event_id: int | None = None

    @property
    def kind(self) -> str:
        """The public name of the event's kind."""
        return type(self).__name__

    def stored_data(self) -> str:
        """Return the kind's own fields as JSON text, without those that are None."""
        pairs = {name: value for name in _own_names(type(self)) if (value := getattr(self, name)) is not None}
        return _encode(pairs) if pairs else "{}"

    @property
    def size(self) -> int:
        """How many characters it takes, roughly."""
        chars = 0
        for name in _long_names(type(self)):
            chars += len(getattr(self, name) or "")
        return max(_SMALL, chars)

    def public_data(self) -> str | None:
        """Return the kind's own fields as JSON text with payloads embedded as JSON (spec 14.2)."""
        names = _own_names(type(self))
        if names in _BARE:
            return str(getattr(self, names[0]))
        pairs = {}
        for name in names:
            value = getattr(self, name)
            if value is None:
                continue
            pairs[_PUBLIC_NAMES.get(name, name)] = loads(value) if name in _PAYLOADS else value
        return json.dumps(pairs, ensure_ascii=False)


#: Kinds with one field are shown as that payload alone.
_BARE = (("result",), ("output",), ("details",))
_PUBLIC_NAMES = {"fire_at_ms": "fireAtMs"}
_names_by_class: dict[type[Event], tuple[str, ...]] = {}
#: Fields whose texts may be long; names and ids are not.
_LONG = frozenset({*_PAYLOADS, "initial_custom_status", "reason", "status", "value"})
_long_names_by_class: dict[type[Event], tuple[str, ...]] = {}


def _own_names(cls: type[Event]) -> tuple[str, ...]:
    names = _names_by_class.get(cls)
    if names is None:
        names = tuple(field.name for field in fields(cls) if field.name not in _COMMON)
        _names_by_class[cls] = names
    return names


def _long_names(cls: type[Event]) -> tuple[str, ...]:
    names = _long_names_by_class.get(cls)
    if names is None:
        names = _long_names_by_class[cls] = tuple(name for name in _own_names(cls) if name in _LONG)
    return names


@dataclass(frozen=True, slots=True, kw_only=True)
class OrchestrationStarted(Event):
    """The first event of every execution."""

    name: str
    version: str
    input: str
    parent_instance: str | None = None
    parent_id: int | None = None
    initial_custom_status: str | None = None
    strict_events: bool | None = None
    engine: int = ENGINE_VERSION


def require_known_engine(first: Event) -> None:
    """Raise NewerEngine if a newer release began the execution whose first event this is."""
    if isinstance(first, OrchestrationStarted) and first.engine > ENGINE_VERSION:
        raise NewerEngine(
            f"The execution was begun by engine {first.engine}; this release knows engines up to {ENGINE_VERSION}. "
            "Start workers of the release that began it."
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class OrchestrationCompleted(Event):
    """The function returned."""

    output: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OrchestrationFailed(Event):
    """The function raised, or the engine ended the instance."""

    details: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OrchestrationContinuedAsNew(Event):
    """The execution ended for the next one."""

    input: str
    version: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OrchestrationCancelRequested(Event):
    """A cancel message was processed; ``force`` ended the execution at once."""

    reason: str
    force: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivityScheduled(Event):
    """An activity was scheduled."""

    name: str
    input: str
    session_id: str | None = None
    tag: str | None = None
    attempt: int | None = None
    max_attempts: int | None = None
    retry_of: int | None = None
    timeout_ms: int | None = None
    heartbeat_timeout_ms: int | None = None
    schedule_to_start_timeout_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivityCompleted(Event):
    """An activity returned."""

    result: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivityFailed(Event):
    """An activity failed."""

    details: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivityCancelRequested(Event):
    """An activity's result is no longer wanted."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TimerCreated(Event):
    """A timer was set."""

    fire_at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TimerFired(Event):
    """A timer came due."""

    fire_at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ExternalSubscribed(Event):
    """The function waits for an external event."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExternalEvent(Event):
    """An external event arrived."""

    name: str
    data: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExternalSubscribedCancelled(Event):
    """A wait for an external event was given up."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSubscribed(Event):
    """The function waits for a queue message."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueEventDelivered(Event):
    """A queue message was delivered to a subscription."""

    name: str
    data: str


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSubscriptionCancelled(Event):
    """A wait for a queue message was given up."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SubOrchestrationScheduled(Event):
    """A child was started."""

    name: str
    instance: str
    input: str
    version: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SubOrchestrationCompleted(Event):
    """A child completed."""

    result: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SubOrchestrationFailed(Event):
    """A child failed, was cancelled, or its id was taken."""

    details: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SubOrchestrationCancelRequested(Event):
    """A child's result is no longer wanted."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OrchestrationChained(Event):
    """A detached orchestration was started."""

    name: str
    instance: str
    input: str
    version: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomStatusUpdated(Event):
    """The custom status was set, or reset (no status)."""

    status: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyValueSet(Event):
    """A KV entry was set."""

    key: str
    value: str
    last_updated_at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyValueCleared(Event):
    """A KV entry was removed."""

    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyValuesCleared(Event):
    """All KV entries were removed."""


TERMINAL = (OrchestrationCompleted, OrchestrationFailed, OrchestrationContinuedAsNew)

#: Every kind by its public name.
KINDS: dict[str, type[Event]] = {
    name: value
    for name, value in list(globals().items())
    if isinstance(value, type) and issubclass(value, Event) and value is not Event
}


def from_stored(*, kind: str, event_id: int, timestamp_ms: int, source_event_id: int | None, data: str) -> Event:
    """Return the event of a stored row.

    Raises:
        CorruptHistory: the kind is unknown or the data doesn't fit it; never skipped silently (spec 12).
    """
    cls = KINDS.get(kind)
    if cls is None:
        raise CorruptHistory(f"Event {event_id} has the unknown kind {kind!r}; was it written by a newer version?")
    try:
        own: dict[str, Any] = json.loads(data) if data else {}
        return cls(event_id=event_id, timestamp_ms=timestamp_ms, source_event_id=source_event_id, **own)
    except (ValueError, TypeError) as exc:
        raise CorruptHistory(f"Event {event_id} ({kind}) can't be decoded: {exc}") from exc


def from_public(*, kind: str, event_id: int, timestamp_ms: int, source_event_id: int | None, data: str | None) -> Event:
    """Return the event whose ``public_data()`` is ``data``.

    Raises:
        CorruptHistory: the kind is unknown or the data doesn't fit it.
    """
    cls = KINDS.get(kind)
    if cls is None:
        raise CorruptHistory(f"Event {event_id} has the unknown kind {kind!r}; was it written by a newer version?")
    names = _own_names(cls)
    try:
        if names in _BARE:
            own: dict[str, Any] = {names[0]: data or "null"}
        else:
            shown = json.loads(data) if data else {}
            own = {
                name: dumps(shown[public], max_bytes=sys.maxsize) if name in _PAYLOADS else shown[public]
                for name in names
                if (public := _PUBLIC_NAMES.get(name, name)) in shown
            }
        return cls(event_id=event_id, timestamp_ms=timestamp_ms, source_event_id=source_event_id, **own)
    except (ValueError, TypeError) as exc:
        raise CorruptHistory(f"Event {event_id} ({kind}) can't be decoded: {exc}") from exc
