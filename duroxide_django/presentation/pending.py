"""What an instance waits for, in words."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from duroxide_django.presentation.states import is_paused
from duroxide_django.presentation.texts import about, clock, duration
from duroxide_django.storage.overview import InstanceRow, Situation

#: (event id, kind, source event id, time, name) of a subscription or what ends it.
WaitEvent = tuple[int, str, int | None, int, str | None]

EVENT = "event"
QUEUE = "queue"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """An open subscription: for an event, or for a message of a queue."""

    kind: str
    name: str
    since_ms: int
    event_id: int

    def phrase(self, now_ms: int) -> str:
        """Return it in words."""
        values = {"name": self.name, "time": duration(now_ms - self.since_ms)}
        if self.kind == EVENT:
            return _("event “%(name)s” (for %(time)s)") % values
        return _("a message in queue “%(name)s” (for %(time)s)") % values


def open_waits(events: Iterable[WaitEvent], *, buffers: bool) -> list[Wait]:
    """Return the subscriptions that nothing has ended yet, oldest first.

    An event goes to the oldest open subscription of its name, and waits for the next one if there is none.

    Args:
        buffers: whether it does (setting BUFFER_EVENTS); otherwise it is lost.
    """
    found: dict[int, Wait] = {}
    buffered: dict[str, int] = defaultdict(int)
    by_name: dict[str, deque[int]] = defaultdict(deque)
    for event_id, kind, source, timestamp_ms, named in events:
        name = named or ""
        if kind == "ExternalSubscribed" and buffered[name]:
            buffered[name] -= 1
        elif kind in ("ExternalSubscribed", "QueueSubscribed"):
            wait_kind = EVENT if kind == "ExternalSubscribed" else QUEUE
            found[event_id] = Wait(kind=wait_kind, name=name, since_ms=timestamp_ms, event_id=event_id)
            if wait_kind == EVENT:
                by_name[name].append(event_id)
        elif kind == "ExternalEvent":
            waiting = by_name[name]
            while waiting and waiting[0] not in found:
                waiting.popleft()
            if waiting:
                del found[waiting.popleft()]
            elif buffers:
                buffered[name] += 1
        elif source is not None:
            found.pop(source, None)
    return list(found.values())


def works(situation: Situation) -> bool:
    """Tell whether an open instance has something to do now, rather than something to wait for."""
    return bool(situation.task_leased or situation.ready)


def list_phrase(row: InstanceRow, situation: Situation, now_ms: int, *, buffers: bool) -> str:
    """Return in a few words how long an instance took, or what it does or waits for; see open_waits()."""
    if not row.is_open:
        return duration((row.completed_ms or row.updated_ms) - row.created_ms)
    if row.blocked:
        return _("paused") if is_paused(row.blocked) else _("can’t go on")
    if row.status == "Pending":
        return _("waiting for a worker (for %(time)s)") % {"time": duration(now_ms - row.created_ms)}
    if situation.tasks:
        return _task_phrase(situation, now_ms)
    if situation.ready:
        return _("running")
    parts = []
    waits = open_waits(situation.waits, buffers=buffers)
    if situation.timer_ms is not None and situation.retries:
        return _("trying again at %(clock)s (in %(time)s)") % {
            "clock": clock(situation.timer_ms, now_ms),
            "time": about(situation.timer_ms - now_ms),
        }
    if waits:
        parts.append(_alternative(waits[0]))
    if situation.children:
        one = _("child %(id)s") % {"id": situation.child}
        parts.append(one if situation.children == 1 else _children(situation.children))
    if situation.timer_ms is not None:
        parts.append(_("the timer at %(clock)s") % {"clock": clock(situation.timer_ms, now_ms)})
    if not parts:
        return _("waiting")
    if waits:
        return _("waiting %(time)s for %(what)s") % {
            "time": about(now_ms - waits[0].since_ms),
            "what": _(" or ").join(parts),
        }
    return _("waiting for %(what)s") % {"what": _(" or ").join(parts)}


def _alternative(wait: Wait) -> str:
    if wait.kind == EVENT:
        return _("event “%(name)s”") % {"name": wait.name}
    return _("a message in queue “%(name)s”") % {"name": wait.name}


def _task_phrase(situation: Situation, now_ms: int) -> str:
    more = situation.tasks - 1
    values = {"name": situation.task, "more": more}
    if situation.tasks == 1:
        text = _("activity %(name)s") % values
    else:
        text = ngettext("activity %(name)s and %(more)d other", "activity %(name)s and %(more)d others", more) % values
    if situation.task_leased:
        return _("running %(what)s") % {"what": text}
    return _("waiting for a worker for %(what)s (for %(time)s)") % {
        "what": text,
        "time": about(now_ms - situation.task_ms),
    }


def _children(count: int) -> str:
    return ngettext("%(count)d child", "%(count)d children", count) % {"count": count}
