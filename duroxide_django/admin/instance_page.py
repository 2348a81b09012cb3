"""The page of one instance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.http import Http404, HttpRequest
from django.utils.http import urlencode
from django.utils.translation import gettext as _

from duroxide_django.admin.pages import VIEW_PAYLOADS, address, masked_keys, may, may_see_mismatch
from duroxide_django.admin.verbs import (
    COMPLETE_ACTIVITY,
    ENQUEUE,
    FAIL_ACTIVITY,
    FORK,
    RAISE_EVENT,
    RETRY_ACTIVITY,
    REWIND,
    Verb,
)
from duroxide_django.conf import settings
from duroxide_django.engine.failures import Failure
from duroxide_django.exceptions import CorruptHistory
from duroxide_django.presentation import fleet, now, payloads, pending, states, timeline
from duroxide_django.presentation.advice import advice
from duroxide_django.presentation.payloads import Preview
from duroxide_django.presentation.progress import progress
from duroxide_django.presentation.states import State
from duroxide_django.presentation.texts import duration, moment, size
from duroxide_django.storage import instance_pages, overview, system_pages
from duroxide_django.storage.database import Database

#: Events on one page of the history table.
HISTORY_SIZE = 100
#: Events and queue messages that were received, as shown.
ARRIVALS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownEvent:
    """One line of the history table."""

    event_id: int
    kind: str
    subject: str
    source_event_id: int | None
    time: Any
    size: str
    data: Preview
    url: str


def read_instance(db: Database, key: int) -> overview.InstanceRow:
    """Return the instance with this row key; raises Http404."""
    row = overview.instance(db, key) if key < 2**63 else None
    if row is None:
        raise Http404(_("There is no such instance; perhaps it was deleted."))
    return row


def instance_context(request: HttpRequest, db: Database, row: overview.InstanceRow) -> dict[str, Any]:
    """Return what the page of an instance shows."""
    key, now_ms = row.key, db.now_ms()
    executions = instance_pages.executions(db, key)
    chosen = _execution_id(request, row)
    execution = next((item for item in executions if item.execution_id == chosen), None)
    if execution is None and chosen != row.execution_id:
        execution = next(iter(instance_pages.executions(db, key, only=chosen)), None)
    reveal = may(request, VIEW_PAYLOADS)
    family = instance_pages.family(db, key)
    steps = instance_pages.steps(db, key, chosen)
    mail = instance_pages.mail(db, key)
    facts = now.Facts(
        row=row,
        now_ms=now_ms,
        tasks=instance_pages.tasks(db, key) if row.is_open else (),
        messages=instance_pages.messages(db, key),
        children=[member for member in family if member.depth == 1],
        waits=_waits(db, row) if row.is_open else (),
        steps=steps if chosen == row.execution_id else (),
        workers=system_pages.workers(db),
        show_errors=reveal,
        show_mismatch=may_see_mismatch(request),
    )
    runs = row.is_open and chosen == row.execution_id
    state = states.of_instance(row, works=_works(facts))
    return {
        "row": row,
        "state": state,
        "header": _header(row, now_ms),
        "sentence": now.sentence(facts),
        "advice": advice(facts, execution=execution, mail=mail, max_payload_bytes=settings.MAX_PAYLOAD_BYTES),
        "execution": execution,
        "executions": [_shown_execution(item, row, chosen) for item in executions],
        "failure": _failure(execution) if reveal and execution else None,
        "input": _part(execution, "input", row, reveal=reveal),
        "output": _part(execution, "output", row, reveal=reveal),
        "timeline": timeline.timeline(
            steps,
            now_ms,
            is_open=runs,
            show_errors=reveal,
            masked=masked_keys(),
            buffers=settings.BUFFER_EVENTS,
            timers=_timers(facts) if runs else None,
        ),
        "timeline_is_cut": len(steps) >= instance_pages.TIMELINE_EVENTS,
        "history": _history(request, db, row, chosen, reveal=reveal),
        "tasks": [_shown_task(request, task, facts) for task in facts.tasks],
        "inbox": [_shown_message(request, message, facts) for message in facts.messages],
        "arrivals": _arrivals(steps, key, chosen),
        "detached": [step.instance for step in steps if step.kind == "OrchestrationChained"],
        "history_verbs": [
            (verb.label, verb.url(key))
            for verb in (REWIND, FORK)
            if chosen == row.execution_id and verb.applies(row) and may(request, verb.permission)
        ],
        "progress": progress(row.custom_status) if row.is_open else None,
        "mail": [_shown_mail(message, reveal=reveal) for message in mail],
        "waits": [_shown_wait(request, wait, row) for wait in facts.waits],
        "key_values": [_shown_key_value(entry, row, reveal=reveal) for entry in instance_pages.key_values(db, key)],
        "family": _shown_family(family, state) if len(family) > 1 else [],
        "live": row.is_open,
        "part_rows": instance_pages.PART_ROWS,
    }


def _waits(db: Database, row: overview.InstanceRow) -> list[pending.Wait]:
    return pending.open_waits(instance_pages.waits(db, row.key, row.execution_id), buffers=settings.BUFFER_EVENTS)


def _timers(facts: now.Facts) -> set[int] | None:
    if len(facts.messages) >= instance_pages.PART_ROWS:
        return None  # There may be more.
    return {message.event_id for message in facts.messages if message.event_id is not None}


def _works(facts: now.Facts) -> bool:
    leased = (task.lease_until_ms for task in facts.tasks)
    visible = (message.visible_at_ms for message in facts.messages)
    return any(until > facts.now_ms for until in leased) or any(at <= facts.now_ms for at in visible)


def _execution_id(request: HttpRequest, row: overview.InstanceRow) -> int:
    asked = whole(request.GET.get("execution"))
    return asked if asked is not None and 1 <= asked <= row.execution_id else row.execution_id


def whole(text: str | None) -> int | None:
    """Return the number in an address, or None."""
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 10 else None


def _header(row: overview.InstanceRow, now_ms: int) -> dict[str, Any]:
    ended = row.completed_ms if not row.is_open else None
    return {
        "custom_status": payloads.mask_text(row.custom_status or "", masked_keys()),
        "created": moment(row.created_ms),
        "updated": moment(row.updated_ms),
        "completed": moment(ended),
        "duration": duration((ended or now_ms) - row.created_ms),
        "parent_url": address("instance_change", row.parent) if row.parent and row.parent_instance_id else "",
    }


def _shown_execution(item: instance_pages.ExecutionRow, row: overview.InstanceRow, chosen: int) -> dict[str, Any]:
    is_current = item.execution_id == row.execution_id
    return {
        "id": item.execution_id,
        "state": states.of_status(item.status, is_cancelled=row.is_cancelled and is_current),
        "version": item.version,
        "started": moment(item.started_ms),
        "events": row.last_event_id if is_current else item.event_count,
        "duration": "" if item.completed_ms is None else duration(item.completed_ms - item.started_ms),
        "is_chosen": item.execution_id == chosen,
    }


def _failure(execution: instance_pages.ExecutionRow) -> dict[str, Any] | None:
    if not execution.error:
        return None
    try:
        failure = Failure.from_json(execution.error)
    except CorruptHistory:
        return {"message": execution.error, "traceback": None, "types": "", "category": ""}
    return {
        "message": failure.message,
        "traceback": failure.traceback,
        "types": " → ".join(failure.error_types),
        "category": failure.category,
    }


def _part(
    execution: instance_pages.ExecutionRow | None, which: str, row: overview.InstanceRow, *, reveal: bool
) -> dict[str, Any] | None:
    text = getattr(execution, which) if execution else None
    if execution is None or text is None:
        return None
    chars = getattr(execution, f"{which}_chars")
    return {
        "size": size(chars),
        "data": payloads.preview(text, chars, masked_keys()) if reveal else None,
        "url": address(f"instance_{which}", row.key, execution.execution_id),
    }


def _history(
    request: HttpRequest, db: Database, row: overview.InstanceRow, execution_id: int, *, reveal: bool
) -> dict[str, Any]:
    last = (
        row.last_event_id
        if execution_id == row.execution_id
        else instance_pages.last_event_id(db, row.key, execution_id)
    )
    before, after = whole(request.GET.get("before")), whole(request.GET.get("after"))
    if before is None and after is None and last > HISTORY_SIZE:
        before = last + 1  # The newest events tell what goes on now.
    events = instance_pages.history(db, row.key, execution_id, size=HISTORY_SIZE, after=after or 0, before=before)
    first_shown = events[0].event_id if events else 0
    last_shown = events[-1].event_id if events else 0
    return {
        "events": [_shown_event(event, row.key, execution_id, reveal=reveal) for event in events],
        "execution_id": execution_id,
        "first": first_shown,
        "last": last_shown,
        "total": last,
        "earlier": first_shown if first_shown > 1 else None,
        "later": last_shown if last_shown < last else None,
        "json_url": address("instance_history_json", row.key, execution_id),
    }


def _shown_event(event: instance_pages.EventRow, key: int, execution_id: int, *, reveal: bool) -> ShownEvent:
    data = payloads.preview(event.data, event.chars, masked_keys(), event=True) if reveal else Preview()
    return ShownEvent(
        event_id=event.event_id,
        kind=event.kind,
        subject=payloads.mask_text(event.subject or "", masked_keys()),
        source_event_id=event.source_event_id,
        time=moment(event.timestamp_ms),
        size=size(event.chars) if event.data != "{}" else "",
        data=data,
        url=address("instance_event", key, execution_id, event.event_id),
    )


def _links(request: HttpRequest, verbs: Sequence[Verb], key: int, event_id: int) -> list[tuple[Any, str]]:
    return [(verb.label, verb.url(key, event=event_id)) for verb in verbs if may(request, verb.permission)]


def _shown_message(request: HttpRequest, message: instance_pages.MessageRow, facts: now.Facts) -> dict[str, Any]:
    is_timer = message.kind == "TimerFired" and message.event_id is not None and message.due_ms > facts.now_ms
    return {
        "row": message,
        "due": moment(message.due_ms),
        "visible": moment(message.visible_at_ms),
        "links": _links(request, (RETRY_ACTIVITY,), facts.row.key, message.event_id or 0) if is_timer else [],
    }


def _arrivals(steps: Sequence[instance_pages.StepEvent], key: int, execution_id: int) -> list[dict[str, Any]]:
    """Return the newest events and queue messages that the code has got."""
    kinds = {"ExternalEvent": _("event received"), "QueueEventDelivered": _("message taken from this queue")}
    found = [step for step in reversed(steps) if step.kind in kinds]
    return [
        {
            "name": step.name or "",
            "what": kinds[step.kind],
            "time": moment(step.timestamp_ms),
            "event_id": step.event_id,
            "url": address("instance_event", key, execution_id, step.event_id),
        }
        for step in found[:ARRIVALS]
    ]


def _shown_task(request: HttpRequest, task: instance_pages.TaskRow, facts: now.Facts) -> dict[str, Any]:
    is_leased = task.lease_until_ms > facts.now_ms
    return {
        "row": task,
        "attempt": now.attempt_of(task),
        "is_leased": is_leased,
        "until": moment(task.lease_until_ms) if is_leased else None,
        "visible": moment(task.visible_at_ms),
        "is_unserved": not is_leased and not fleet.serving_activity(facts.workers, task.name, task.tag),
        "error": task.last_error if facts.show_errors else None,
        "links": _links(
            request,
            (COMPLETE_ACTIVITY, FAIL_ACTIVITY) if is_leased else (RETRY_ACTIVITY, COMPLETE_ACTIVITY, FAIL_ACTIVITY),
            facts.row.key,
            task.event_id,
        ),
    }


def _shown_wait(request: HttpRequest, wait: pending.Wait, row: overview.InstanceRow) -> dict[str, Any]:
    verb = RAISE_EVENT if wait.kind == pending.EVENT else ENQUEUE
    return {
        "wait": wait,
        "since": moment(wait.since_ms),
        "verb": verb.label,
        "url": f"{verb.url(row.key)}?{urlencode({'name': wait.name})}" if may(request, verb.permission) else "",
    }


def _shown_mail(message: instance_pages.MailRow, *, reveal: bool) -> dict[str, Any]:
    return {
        "queue": message.queue,
        "time": moment(message.enqueued_ms),
        "size": size(message.chars),
        "data": payloads.preview(message.data, message.chars, masked_keys()) if reveal else None,
    }


def _shown_key_value(entry: instance_pages.KeyValueRow, row: overview.InstanceRow, *, reveal: bool) -> dict[str, Any]:
    masked = masked_keys()
    data = payloads.preview(entry.value, entry.chars, masked) if reveal else None
    if data is not None and payloads.is_masked(entry.key, masked):
        data = Preview(text=payloads.MASK, chars=entry.chars)
    return {
        "key": entry.key,
        "time": moment(entry.updated_ms),
        "size": size(entry.chars),
        "data": data,
        "url": f"{address('instance_key_value', row.key)}?{urlencode({'key': entry.key})}",
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Relative:
    """One member of the family."""

    instance_id: str
    name: str
    version: str
    state: State
    url: str
    is_self: bool
    indent: int


def _shown_family(family: list[instance_pages.RelativeRow], own: State) -> list[Relative]:
    top = family[0].depth
    shown = [member for member in family if member.depth <= 1]
    for member in (member for member in reversed(family) if member.depth > 1):
        place = next(index for index, above in enumerate(shown) if above.key == member.parent)
        shown.insert(place + 1, member)
    return [_shown_relative(member, min(member.depth - top, 5), own) for member in shown]


def _shown_relative(member: instance_pages.RelativeRow, indent: int, own: State) -> Relative:
    return Relative(
        instance_id=member.instance_id,
        name=member.name,
        version=member.version or "",
        state=own
        if member.depth == 0
        else states.of_relative(
            member.status, is_cancelled=bool(member.is_cancelled), blocked=member.blocked, works=bool(member.works)
        ),
        url=address("instance_change", member.key),
        is_self=member.depth == 0,
        indent=indent,
    )
