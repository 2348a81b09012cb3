"""Read queries of one instance's page: each bounded, payloads cut by the database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from duroxide_django.storage import payloads
from duroxide_django.storage.database import Database
from duroxide_django.storage.overview import SHOWN_STATUS, WAIT_KINDS

R = TypeVar("R")

#: Payloads are read up to so many characters; the rest only when asked for.
PREVIEW_CHARS = 2_000
#: The same for each event of the history table.
EVENT_CHARS = 600
#: The same for each text of the timeline.
STEP_CHARS = 300
#: Rows of each small table of the page.
PART_ROWS = 50
#: Newest events that the timeline shows.
TIMELINE_EVENTS = 300
#: Newest subscriptions and arrivals that are looked through for open waits.
WAIT_EVENTS = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionRow:
    """One execution; input, output and error cut to PREVIEW_CHARS, with their full lengths."""

    execution_id: int
    version: str
    status: str
    started_ms: int
    completed_ms: int | None
    event_count: int
    input: str | None
    input_chars: int
    output: str | None
    output_chars: int
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRow:
    """One history event; ``data`` is cut to EVENT_CHARS, ``chars`` its full length, ``subject`` what it is about."""

    event_id: int
    kind: str
    source_event_id: int | None
    timestamp_ms: int
    data: str
    chars: int
    subject: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepEvent:
    """A history event without its payloads, as the timeline needs it."""

    event_id: int
    kind: str
    source_event_id: int | None
    timestamp_ms: int
    name: str | None
    instance: str | None
    attempt: int | None
    max_attempts: int | None
    retry_of: int | None
    fire_at_ms: int | None
    key: str | None
    status: str | None
    details: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRow:
    """One queued or running activity."""

    execution_id: int
    event_id: int
    name: str
    tag: str
    session_id: str | None
    retry: str | None
    visible_at_ms: int
    start_by_ms: int | None
    lease_until_ms: int
    attempts: int
    interruptions: int
    last_error: str | None
    worker: str | None
    deadline_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageRow:
    """One entry of the orchestrator queue."""

    kind: str
    event_id: int | None
    name: str | None
    due_ms: int
    visible_at_ms: int
    chars: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MailRow:
    """One waiting queue message; ``data`` is cut."""

    queue: str
    enqueued_ms: int
    data: str
    chars: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyValueRow:
    """One KV entry; ``value`` is cut."""

    key: str
    value: str
    chars: int
    updated_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RelativeRow:
    """A member of the family; ``depth`` is negative above the instance, 0 for it, positive below.

    It ``works`` if an activity of it is running, or it has a message that a worker can take now.
    """

    key: int
    instance_id: str
    name: str
    version: str | None
    status: str
    is_cancelled: bool
    blocked: str | None
    works: bool
    depth: int
    parent: int | None


def _rows(cls: type[R], found: list[tuple[Any, ...]]) -> list[R]:
    names = list(cls.__dataclass_fields__)  # type: ignore[attr-defined]
    return [cls(**dict(zip(names, row, strict=False))) for row in found]


def executions(db: Database, key: int, *, only: int | None = None) -> list[ExecutionRow]:
    """Return the newest executions, newest first; ``only``: this one."""
    chosen = "" if only is None else f"AND execution_id = {int(only)}"
    shown = db.features.preview
    found = db.fetch(
        f"""
        SELECT execution_id, version, status, started_ms, completed_ms, event_count,
            {shown("input", PREVIEW_CHARS)}, LENGTH(input), {shown("output", PREVIEW_CHARS)},
            COALESCE(LENGTH(output), 0), error
        FROM duroxide_execution WHERE instance_id = %s {chosen} ORDER BY execution_id DESC LIMIT {PART_ROWS}""",
        [key],
    )
    rows = [
        (
            *row[:6],
            *payloads.preview(row[6], row[7], PREVIEW_CHARS),
            *payloads.preview(row[8], row[9], PREVIEW_CHARS),
            payloads.shown(row[10]),
        )
        for row in found
    ]
    return _rows(ExecutionRow, rows)


def history(
    db: Database, key: int, execution_id: int, *, size: int, after: int = 0, before: int | None = None
) -> list[EventRow]:
    """Return up to ``size`` events in order.

    Args:
        after: events with a higher id than this.
        before: instead, the last events with a lower id than this.
    """
    condition, bound, order = ("event_id > %s", after, "ASC")
    if before is not None:
        condition, bound, order = ("event_id < %s", before, "DESC")
    subject = ", ".join(db.features.json_field("data", name) for name in ("instance", "name", "key", "status"))
    found = db.fetch(
        f"""
        SELECT event_id, kind, source_event_id, timestamp_ms, {db.features.preview("data", EVENT_CHARS)}, LENGTH(data),
            {db.features.preview(f"COALESCE({subject})", STEP_CHARS)}
        FROM duroxide_history WHERE instance_id = %s AND execution_id = %s AND {condition}
        ORDER BY event_id {order} LIMIT {int(size)}""",
        [key, execution_id, bound],
    )
    rows = _rows(
        EventRow,
        [
            (
                *row[:4],
                *payloads.preview(row[4], row[5], EVENT_CHARS, event=True),
                (payloads.shown(row[6]) or "")[:STEP_CHARS],
            )
            for row in found
        ],
    )
    return rows if order == "ASC" else rows[::-1]


def last_event_id(db: Database, key: int, execution_id: int) -> int:
    """Return the highest event id of an execution, 0 without events."""
    found = db.fetch(
        "SELECT COALESCE(MAX(event_id), 0) FROM duroxide_history WHERE instance_id = %s AND execution_id = %s",
        [key, execution_id],
    )
    return int(found[0][0])


_STEP_FIELDS = ("name", "instance", "attempt", "max_attempts", "retry_of", "fire_at_ms", "key", "status", "details")
_WHOLE = frozenset({"attempt", "max_attempts", "retry_of", "fire_at_ms"})


def steps(db: Database, key: int, execution_id: int) -> list[StepEvent]:
    """Return the newest TIMELINE_EVENTS events in order, without their payloads."""
    fields = ", ".join(db.features.preview(db.features.json_field("data", name), STEP_CHARS) for name in _STEP_FIELDS)
    found = db.fetch(
        f"""
        SELECT event_id, kind, source_event_id, timestamp_ms, {fields} FROM duroxide_history
        WHERE instance_id = %s AND execution_id = %s ORDER BY event_id DESC LIMIT {TIMELINE_EVENTS}""",
        [key, execution_id],
    )
    return [_step(row) for row in reversed(found)]


def _step(row: Sequence[Any]) -> StepEvent:
    values: dict[str, Any] = {
        name: int(value)
        if name in _WHOLE and value is not None
        else (payloads.shown(value) or "")[:STEP_CHARS] or value
        for name, value in zip(_STEP_FIELDS, row[4:], strict=True)
    }
    return StepEvent(event_id=row[0], kind=row[1], source_event_id=row[2], timestamp_ms=row[3], **values)


def waits(db: Database, key: int, execution_id: int) -> list[tuple[int, str, int | None, int, str | None]]:
    """Return the newest subscriptions and arrivals of an execution, in order: see Situation.waits."""
    kinds, parameter = db.any_of("kind", WAIT_KINDS)
    found = db.fetch(
        f"""
        SELECT event_id, kind, source_event_id, timestamp_ms, {db.features.json_field("data", "name")}
        FROM duroxide_history
        WHERE instance_id = %s AND execution_id = %s AND {kinds} ORDER BY event_id DESC LIMIT {WAIT_EVENTS}""",
        [key, execution_id, parameter],
    )
    return [(row[0], row[1], row[2], row[3], row[4]) for row in reversed(found)]


def tasks(db: Database, key: int) -> list[TaskRow]:
    """Return the first queued or running activities."""
    found = db.fetch(
        f"""
        SELECT execution_id, event_id, name, tag, session_id, retry, visible_at_ms, start_by_ms, lease_until_ms,
            attempts, interruptions, {db.features.preview("last_error", PREVIEW_CHARS)}, worker, deadline_ms
        FROM duroxide_activity_task WHERE instance_id = %s ORDER BY event_id LIMIT {PART_ROWS}""",
        [key],
    )
    return _rows(
        TaskRow, [(*row[:-3], (payloads.shown(row[-3]) or "")[:PREVIEW_CHARS] or None, *row[-2:]) for row in found]
    )


def messages(db: Database, key: int) -> list[MessageRow]:
    """Return the first entries of the orchestrator queue for an instance."""
    found = db.fetch(
        f"""
        SELECT kind, event_id, name, due_ms, visible_at_ms, LENGTH(payload) FROM duroxide_message
        WHERE instance_id = %s ORDER BY due_ms, id LIMIT {PART_ROWS}""",
        [key],
    )
    return _rows(MessageRow, found)


def mail(db: Database, key: int) -> list[MailRow]:
    """Return the first messages in the instance's event queues, those not taken over by a turn yet included."""
    found = db.fetch(
        f"""
        SELECT queue, enqueued_ms, {db.features.preview("data", PREVIEW_CHARS)}, LENGTH(data) FROM (
            SELECT id, queue, enqueued_ms, data FROM duroxide_queue_message WHERE instance_id = %s
            UNION ALL
            SELECT id, name, due_ms, payload FROM duroxide_message WHERE instance_id = %s AND kind = 'QueueMessage'
        ) AS waiting ORDER BY id LIMIT {PART_ROWS}""",
        [key, key],
    )
    return _rows(MailRow, [(*row[:2], *payloads.preview(row[2], row[3], PREVIEW_CHARS)) for row in found])


def key_values(db: Database, key: int) -> list[KeyValueRow]:
    """Return the first KV entries."""
    found = db.fetch(
        f"""
        SELECT key, {db.features.preview("value", PREVIEW_CHARS)}, LENGTH(value), updated_ms FROM duroxide_kv
        WHERE instance_id = %s AND value IS NOT NULL ORDER BY key LIMIT {PART_ROWS}""",
        [key],
    )
    return _rows(KeyValueRow, [(row[0], *payloads.preview(row[1], row[2], PREVIEW_CHARS), row[3]) for row in found])


def family(db: Database, key: int) -> list[RelativeRow]:
    """Return the ancestors, the instance, and its first children with theirs, top down."""
    members: dict[int, int] = dict(
        db.fetch(
            f"""
            WITH RECURSIVE above AS (
                SELECT id, parent_id, 0 AS depth FROM duroxide_instance WHERE id = %s
                UNION ALL
                SELECT p.id, p.parent_id, a.depth - 1 FROM above a JOIN duroxide_instance p ON p.id = a.parent_id
                WHERE a.depth > -20),
            children AS (
                SELECT id FROM duroxide_instance WHERE parent_id = %s AND id > %s ORDER BY id LIMIT {PART_ROWS})
            SELECT id, depth FROM above
            UNION ALL SELECT id, 1 FROM children""",
            # A child's key is higher: PostgreSQL may walk the keys in their order, and must not begin at the first.
            [key, key, key],
        )
    )
    # By their keys: joined with a subquery, PostgreSQL would read whole tables.
    columns = f"""i.id, i.instance_id, i.name, i.version, {SHOWN_STATUS}, i.is_cancelled, i.blocked,
        i.status = 'Running' AND (
            EXISTS (SELECT 1 FROM duroxide_activity_task t WHERE t.instance_id = i.id AND t.lease_until_ms > {db.now})
            OR EXISTS (SELECT 1 FROM duroxide_message m WHERE m.instance_id = i.id AND m.visible_at_ms <= {db.now}))"""
    condition, parameter = db.any_of("i.id", list(members))
    rows = db.fetch(f"SELECT {columns}, i.parent_id FROM duroxide_instance i WHERE {condition}", [parameter])
    found = sorted(((*row[:8], members[row[0]], row[8]) for row in rows), key=lambda row: (row[8], row[0]))
    if found and found[-1][8] == 1:
        condition, parameter = db.any_of("i.parent_id", [row[0] for row in found if row[8] == 1])
        found += db.fetch(
            f"""SELECT {columns}, 2, i.parent_id FROM duroxide_instance i
            WHERE {condition} AND i.parent_id IS NOT NULL ORDER BY i.id LIMIT {PART_ROWS}""",
            [parameter],
        )
    return _rows(RelativeRow, found)


#: Columns whose full text can be asked for, by the name in the address.
_PAYLOADS = {"input": "input", "output": "output", "error": "error"}


def execution_payload(db: Database, key: int, execution_id: int, which: str) -> str | None:
    """Return the full input, output or error (``which``) of an execution, or None."""
    found = db.fetch(
        f"SELECT {_PAYLOADS[which]} FROM duroxide_execution WHERE instance_id = %s AND execution_id = %s",
        [key, execution_id],
    )
    return None if not found else payloads.shown(found[0][0])


def event_payload(db: Database, key: int, execution_id: int, event_id: int) -> str | None:
    """Return the full data of an event, or None."""
    found = db.fetch(
        "SELECT data FROM duroxide_history WHERE instance_id = %s AND execution_id = %s AND event_id = %s",
        [key, execution_id, event_id],
    )
    return None if not found else payloads.shown_event(str(found[0][0]))


def key_value_payload(db: Database, key: int, name: str) -> str | None:
    """Return the full value of a KV entry, or None."""
    found = db.fetch("SELECT value FROM duroxide_kv WHERE instance_id = %s AND key = %s", [key, name])
    return None if not found else payloads.shown(found[0][0])


def whole_events(db: Database, key: int, execution_id: int, *, size: int, after: int) -> list[EventRow]:
    """Return up to ``size`` events after event id ``after``, in order, with their full data."""
    found = db.fetch(
        f"""
        SELECT event_id, kind, source_event_id, timestamp_ms, data, LENGTH(data) FROM duroxide_history
        WHERE instance_id = %s AND execution_id = %s AND event_id > %s ORDER BY event_id LIMIT {int(size)}""",
        [key, execution_id, after],
    )
    return _rows(EventRow, [(*row[:4], payloads.shown_event(row[4]), row[5]) for row in found])
