"""The *Now* sentence of an instance: what it does or waits for, and why."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from duroxide_django.presentation import fleet
from duroxide_django.presentation.payloads import failure_message
from duroxide_django.presentation.pending import Wait
from duroxide_django.presentation.states import is_paused
from duroxide_django.presentation.texts import clock, duration
from duroxide_django.storage.instance_pages import MessageRow, RelativeRow, StepEvent, TaskRow
from duroxide_django.storage.overview import InstanceRow
from duroxide_django.storage.system_pages import WorkerRow

#: How many things of a kind the sentence names.
NAMED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the sentence is made of; see the storage functions of the same names."""

    row: InstanceRow
    now_ms: int
    tasks: Sequence[TaskRow] = ()
    messages: Sequence[MessageRow] = ()
    children: Sequence[RelativeRow] = ()
    waits: Sequence[Wait] = ()
    steps: Sequence[StepEvent] = ()
    workers: Sequence[WorkerRow] = ()
    show_errors: bool = False
    #: Whether the inputs and values may be shown that a report of nondeterminism quotes.
    show_mismatch: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """A pause between two attempts of an activity."""

    timer_id: int
    name: str
    attempt: int
    max_attempts: int
    due_ms: int
    error: str


def sentence(facts: Facts) -> str:
    """Return in one sentence how the instance stands."""
    row = facts.row
    if not row.is_open:
        return _ended(row)
    if row.blocked:
        return _blocked(row.blocked, show_errors=facts.show_errors, show_mismatch=facts.show_mismatch)
    if row.status == "Pending":
        return _("Waits since %(time)s for a worker to begin.") % {"time": duration(facts.now_ms - row.created_ms)}
    retries = open_retries(facts)
    parts = [
        *_tasks(facts),
        *(_retry(retry, facts) for retry in retries[:NAMED]),
        *_children(facts),
        *(wait.phrase(facts.now_ms) for wait in facts.waits[:NAMED]),
    ]
    # A history doesn't tell all() from race(). A timer beside something else is nearly always a time limit.
    alternatives = [parts, _timers(facts, {retry.timer_id for retry in retries})]
    what = _(" or ").join("; ".join(named) for named in alternatives if named)
    if what:
        return _("Waiting for %(what)s.") % {"what": what}
    if any(message.visible_at_ms <= facts.now_ms for message in facts.messages):
        return _("Running: a worker takes its next turn.")
    if row.lease_until_ms > facts.now_ms:
        return _("Running: a worker computes its turn.")
    if facts.messages:
        first = min(facts.messages, key=lambda message: message.visible_at_ms)
        return _("Waits for the message %(what)s, which workers see in %(time)s.") % {
            "what": f"{first.kind} “{first.name}”" if first.name else first.kind,
            "time": duration(first.visible_at_ms - facts.now_ms),
        }
    return _("Nothing is pending: no activity, message, timer, subscription or child could wake it.")


def _ended(row: InstanceRow) -> str:
    took = {"time": duration((row.completed_ms or row.updated_ms) - row.created_ms)}
    if row.status == "Completed":
        return _("Completed after %(time)s.") % took
    if row.is_cancelled:
        return _("Cancelled after %(time)s.") % took
    return _("Failed after %(time)s.") % took


def _blocked(text: str, *, show_errors: bool, show_mismatch: bool) -> str:
    try:
        why = json.loads(text)
        message, tries = str(why.get("message", "")), int(why.get("tries", 1))
    except (ValueError, AttributeError, TypeError):
        why, message, tries = {}, text, 1
    if why.get("reason") == "paused":
        return f"{message[:1].upper()}{message[1:]}."
    if why.get("reason") == "nondeterminism" and not show_mismatch:
        return without_data(why.get("event_id"), why.get("source"))
    if not show_errors and why.get("reason") not in ("missing_code", "nondeterminism", "payload_unreadable"):
        return _("Can’t go on; the reason may contain data: only who may view payloads sees it.")
    tried = ngettext("tried %(count)d time", "tried %(count)d times", tries) % {"count": tries}
    return _("Can’t go on: %(message)s (%(tried)s).") % {"message": message.rstrip("."), "tried": tried}


def without_data(event_id: object, source: object) -> str:
    """Return that code doesn't fit a history, and where, without what the two quote."""
    return _("Can’t go on: the code does not fit the history at event %(event)s (%(source)s).") % {
        "event": event_id or "?",
        "source": source or "?",
    }


def _tasks(facts: Facts) -> list[str]:
    parts = [_task(task, facts) for task in facts.tasks[:NAMED]]
    more = len(facts.tasks) - NAMED
    if more > 0:
        parts.append(ngettext("%(count)d more activity", "%(count)d more activities", more) % {"count": more})
    return parts


def _task(task: TaskRow, facts: Facts) -> str:
    parts = [_("activity %(name)s") % {"name": task.name}]
    place = attempt_of(task)
    if place:
        parts.append(_("attempt %(attempt)d of %(most)d") % {"attempt": place[0], "most": place[1]})
    if task.lease_until_ms > facts.now_ms:
        parts.append(_("running on %(worker)s") % {"worker": task.worker or "?"})
        if task.deadline_ms is not None and task.deadline_ms > facts.now_ms:
            parts.append(_("times out in %(time)s") % {"time": duration(task.deadline_ms - facts.now_ms)})
    elif task.visible_at_ms > facts.now_ms:
        parts.append(_("next try in %(time)s") % {"time": duration(task.visible_at_ms - facts.now_ms)})
    elif not fleet.serving_activity(facts.workers, task.name, task.tag):
        parts.append(_("which no live worker serves"))
    else:
        parts.append(_("queued since %(time)s") % {"time": duration(facts.now_ms - task.visible_at_ms)})
    if task.interruptions:
        text = ngettext(
            "retrying for the database (%(count)d interrupted delivery)",
            "retrying for the database (%(count)d interrupted deliveries)",
            task.interruptions,
        )
        parts.append(text % {"count": task.interruptions})
    if task.last_error and facts.show_errors:
        parts.append(_("last error: %(error)s") % {"error": _short(task.last_error)})
    return ", ".join(parts)


def attempt_of(task: TaskRow) -> tuple[int, int] | None:
    """Return (attempt, most attempts) of an activity in a retry loop, or None."""
    try:
        attempt, most, *_rest = json.loads(task.retry or "")
        return int(attempt), int(most)
    except (ValueError, TypeError):
        return None


def open_retries(facts: Facts) -> list[Retry]:
    """Return the pauses between attempts that are going on: timers that follow the failure of a retried activity."""
    due = {message.event_id: message.due_ms for message in facts.messages if message.kind == "TimerFired"}
    by_id = {event.event_id: event for event in facts.steps}
    found = []
    for event in facts.steps:
        failed = by_id.get(event.event_id - 1)
        if event.kind != "TimerCreated" or event.event_id not in due or failed is None:
            continue
        scheduled = by_id.get(failed.source_event_id or 0)
        if failed.kind == "ActivityFailed" and scheduled is not None and scheduled.max_attempts:
            found.append(
                Retry(
                    timer_id=event.event_id,
                    name=scheduled.name or "",
                    attempt=scheduled.attempt or 1,
                    max_attempts=scheduled.max_attempts,
                    due_ms=due[event.event_id],
                    error=failure_message(failed.details),
                )
            )
    return found


def _retry(retry: Retry, facts: Facts) -> str:
    text = _("attempt %(attempt)d of %(most)d of activity %(name)s, next try in %(time)s") % {
        "attempt": retry.attempt + 1,
        "most": retry.max_attempts,
        "name": retry.name,
        "time": duration(retry.due_ms - facts.now_ms),
    }
    if retry.error and facts.show_errors:
        text += ", " + _("last error: %(error)s") % {"error": _short(retry.error)}
    return text


def _children(facts: Facts) -> list[str]:
    open_ones = [child for child in facts.children if child.status in ("Pending", "Running")]
    parts = [_child(child) for child in open_ones[:NAMED]]
    more = len(open_ones) - NAMED
    if more > 0:
        parts.append(ngettext("%(count)d more child", "%(count)d more children", more) % {"count": more})
    return parts


def _child(child: RelativeRow) -> str:
    text = _("child %(id)s") % {"id": child.instance_id}
    if not child.blocked:
        return text
    return f"{text}, " + (_("which is paused") if is_paused(child.blocked) else _("which can’t go on"))


def _timers(facts: Facts, retries: set[int]) -> list[str]:
    timers = [
        message
        for message in facts.messages
        if message.kind == "TimerFired" and message.due_ms > facts.now_ms and message.event_id not in retries
    ]
    return [
        _("the timer at %(clock)s (in %(time)s)")
        % {"clock": clock(timer.due_ms, facts.now_ms), "time": duration(timer.due_ms - facts.now_ms)}
        for timer in timers[:NAMED]
    ]


def _short(text: str) -> str:
    line = text.strip().partition("\n")[0]
    return line if len(line) <= 200 else f"{line[:199]}…"
