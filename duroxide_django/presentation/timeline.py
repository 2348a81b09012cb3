"""The timeline: one row for each logical step, placed on a time axis on which idle stretches are squeezed."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median

from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from duroxide_django.presentation.payloads import failure_message, mask_text
from duroxide_django.presentation.texts import clock, duration
from duroxide_django.storage.instance_pages import StepEvent

#: A stretch without any event longer than so many typical ones is squeezed.
IDLE_FACTOR = 2
#: Squeezed stretches that are marked.
MAX_GAPS = 10
#: Labels on the time axis.
TICKS = 5

PENDING = "pending"
DONE = "done"
FAILED = "failed"
CANCELLED = "cancelled"
DROPPED = "dropped"
#: Between two attempts.
PAUSE = "pause"

_BEGIN = {
    "ActivityScheduled": "activity",
    "TimerCreated": "timer",
    "ExternalSubscribed": "event",
    "QueueSubscribed": "queue",
    "SubOrchestrationScheduled": "child",
}
_END = {
    "ActivityCompleted": DONE,
    "ActivityFailed": FAILED,
    "ActivityCancelRequested": CANCELLED,
    "TimerFired": DONE,
    "ExternalSubscribedCancelled": CANCELLED,
    "QueueEventDelivered": DONE,
    "QueueSubscriptionCancelled": CANCELLED,
    "SubOrchestrationCompleted": DONE,
    "SubOrchestrationFailed": FAILED,
    "SubOrchestrationCancelRequested": CANCELLED,
}
_POINTS = {
    "ExternalEvent": "event",
    "CustomStatusUpdated": "status",
    "OrchestrationChained": "detached",
    "OrchestrationCancelRequested": "cancel",
}

_KIND_LABELS = {
    "activity": gettext_lazy("activity"),
    "timer": gettext_lazy("timer"),
    "event": gettext_lazy("event"),
    "queue": gettext_lazy("queue"),
    "child": gettext_lazy("child"),
    "status": gettext_lazy("status"),
    "detached": gettext_lazy("detached"),
    "cancel": gettext_lazy("cancel"),
}


@dataclass(slots=True)
class Bar:
    """One attempt of a step.

    Attributes:
        outcome: pending, done, failed, cancelled, or pause.
        x, width: percentages for SVG; title: details in words.
    """

    start_ms: int
    event_id: int
    end_ms: int | None = None
    outcome: str = PENDING
    error: str = ""
    x: str = "0%"
    width: str = "0%"
    title: str = ""


@dataclass(slots=True)
class Row:
    """One logical step: a point in time, or one bar for each attempt.

    Attributes:
        kind: activity, timer, event, queue, child, status, detached or cancel.
        instance: the child's id.
    """

    kind: str
    label: str
    event_id: int
    at_ms: int
    instance: str = ""
    bars: list[Bar] = field(default_factory=list)
    attempts: int = 0
    max_attempts: int | None = None
    point: str = ""
    title: str = ""

    @property
    def kind_label(self) -> str | Promise:
        """The kind in words."""
        return _KIND_LABELS[self.kind]

    @property
    def outcome(self) -> str:
        """The outcome of the last attempt."""
        return next((bar.outcome for bar in reversed(self.bars) if bar.outcome != PAUSE), "point")


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """What is drawn; ``ticks`` are (percentage, label), ``gaps`` squeezed stretches (x, width, label)."""

    rows: Sequence[Row]
    ticks: Sequence[tuple[str, str]]
    gaps: Sequence[tuple[str, str, str]]


class Axis:
    """Maps times to percentages; long stretches between two events take logarithmically little room."""

    def __init__(self, times: Iterable[int]) -> None:
        self.times = sorted(set(times))
        steps = [after - before for before, after in pairwise(self.times)]
        self.usual = max(median(steps) * IDLE_FACTOR if steps else 1, 1)
        self.at = [0.0]
        for step in steps:
            self.at.append(self.at[-1] + self._room(step))

    def _room(self, step: int) -> float:
        return step if step <= self.usual else self.usual * (1 + math.log10(step / self.usual) / 2)

    def position(self, ms: int) -> float:
        """Return the percentage of a time that is one of ``times``."""
        total = self.at[-1]
        return 100 * self.at[self._index(ms)] / total if total else 0.0

    def _index(self, ms: int) -> int:
        return min(bisect_left(self.times, ms), len(self.times) - 1)

    def gaps(self) -> list[tuple[str, str, str]]:
        """Return the longest of the stretches that are squeezed to less than a fifth of their length."""
        squeezed = [
            (after - before, before, after)
            for before, after in pairwise(self.times)
            if after - before > 5 * self._room(after - before)
        ]
        marked = sorted(sorted(squeezed, reverse=True)[:MAX_GAPS], key=lambda gap: gap[1])
        return [
            (_percent(self.position(before)), _percent(self.position(after) - self.position(before)), duration(length))
            for length, before, after in marked
        ]

    def ticks(self, now_ms: int) -> list[tuple[str, str]]:
        """Return labels at a few of the times, well apart."""
        found: list[tuple[str, str]] = []
        last = -math.inf
        for ms in self.times:
            place = self.position(ms)
            if place - last >= 100 / TICKS and place <= 100 - 50 / TICKS:
                found.append((_percent(place), clock(ms, now_ms)))
                last = place
        return found


def timeline(
    events: Sequence[StepEvent],
    now_ms: int,
    *,
    is_open: bool,
    show_errors: bool,
    masked: Collection[str] = (),
    buffers: bool = True,
    timers: Collection[int] | None = None,
) -> Timeline:
    """Return the timeline of the events of one execution, given in order.

    Args:
        is_open: whether the execution runs; pending bars reach to now then.
        show_errors: whether the texts of errors may be shown.
        masked: object keys whose values are never shown, for custom statuses that are JSON.
        buffers: whether an event that came too early is kept for the next wait (setting BUFFER_EVENTS).
        timers: events of the timers that will still fire; None if that is not known. A history doesn't tell when the
            others were dropped.
    """
    rows = _rows(events, show_errors=show_errors, buffers=buffers)
    newest_ms = max((event.timestamp_ms for event in events), default=0)
    for row in rows:
        for bar in row.bars:
            is_dropped = row.kind == "timer" and timers is not None and bar.event_id not in timers
            if bar.outcome == PENDING and (is_dropped or not is_open):
                bar.end_ms, bar.outcome = newest_ms, DROPPED
    for row in rows:
        row.label = mask_text(row.label, masked)
    if not rows:
        return Timeline(rows=(), ticks=(), gaps=())
    last_ms = now_ms if is_open else max(event.timestamp_ms for event in events)
    times = [events[0].timestamp_ms, last_ms]
    for row in rows:
        times.append(row.at_ms)
        times += [bar.start_ms for bar in row.bars]
        times += [bar.end_ms for bar in row.bars if bar.end_ms is not None]
    axis = Axis(times)
    for row in rows:
        _place(row, axis, last_ms, now_ms)
    return Timeline(rows=rows, ticks=axis.ticks(now_ms), gaps=axis.gaps())


def _rows(events: Sequence[StepEvent], *, show_errors: bool, buffers: bool) -> list[Row]:
    rows: list[Row] = []
    early: Counter[str | None] = Counter()
    by_event: dict[int, tuple[Row, Bar]] = {}
    previous: StepEvent | None = None
    for event in events:
        retried = _retried_row(event, previous, by_event)
        previous = event
        if retried is not None:
            bar = Bar(start_ms=event.timestamp_ms, event_id=event.event_id, outcome=PAUSE)
            retried.bars.append(bar)
            by_event[event.event_id] = (retried, bar)
        elif event.kind in _BEGIN:
            row = _begun_row(event, rows, by_event)
            bar = Bar(start_ms=event.timestamp_ms, event_id=event.event_id)
            row.bars.append(bar)
            by_event[event.event_id] = (row, bar)
            if event.kind == "ExternalSubscribed" and early[event.name]:
                early[event.name] -= 1
                bar.end_ms, bar.outcome = event.timestamp_ms, DONE
        elif event.kind in _END:
            _end(event, by_event, show_errors=show_errors)
        elif event.kind in _POINTS:
            if event.kind == "ExternalEvent" and not _end_oldest_wait(event, rows) and buffers:
                early[event.name] += 1
            if not (event.kind == "CustomStatusUpdated" and rows and rows[-1].label == event.status):
                rows.append(_point(event))
    return rows


def _retried_row(event: StepEvent, previous: StepEvent | None, by_event: dict[int, tuple[Row, Bar]]) -> Row | None:
    """Return the row of the activity whose next attempt a timer delays, or None if it is no such timer."""
    if event.kind != "TimerCreated" or previous is None or previous.kind != "ActivityFailed":
        return None
    failed = by_event.get(previous.source_event_id or 0)
    return failed[0] if failed is not None and failed[0].max_attempts is not None else None


def _begun_row(event: StepEvent, rows: list[Row], by_event: dict[int, tuple[Row, Bar]]) -> Row:
    if event.retry_of is not None and event.retry_of in by_event:
        row = by_event[event.retry_of][0]
    else:
        row = Row(kind=_BEGIN[event.kind], label=_label(event), event_id=event.event_id, at_ms=event.timestamp_ms)
        row.instance = event.instance or ""
        rows.append(row)
    row.attempts += 1
    row.max_attempts = event.max_attempts or row.max_attempts
    return row


def _label(event: StepEvent) -> str:
    if event.kind == "TimerCreated":
        if event.fire_at_ms is None:
            return _("Timer")
        return _("Timer %(time)s") % {"time": duration(event.fire_at_ms - event.timestamp_ms)}
    return event.instance or event.name or event.kind


def _end(event: StepEvent, by_event: dict[int, tuple[Row, Bar]], *, show_errors: bool) -> None:
    _row, bar = by_event.get(event.source_event_id or 0, (None, None))
    if bar is not None and bar.end_ms is None:
        bar.end_ms = event.timestamp_ms
        if bar.outcome == PAUSE:
            return
        bar.outcome = _END[event.kind]
        if show_errors and bar.outcome == FAILED:
            bar.error = failure_message(event.details)


def _end_oldest_wait(event: StepEvent, rows: list[Row]) -> bool:
    """End the wait that an event is for; returns whether there was one."""
    for row in rows:
        if row.kind == "event" and row.label == event.name and row.bars and row.bars[0].end_ms is None:
            row.bars[0].end_ms = event.timestamp_ms
            row.bars[0].outcome = DONE
            return True
    return False


def _point(event: StepEvent) -> Row:
    labels = {
        "ExternalEvent": event.name,
        "CustomStatusUpdated": event.status or _("(status reset)"),
        "OrchestrationChained": event.instance,
        "OrchestrationCancelRequested": _("Cancel requested"),
    }
    row = Row(
        kind=_POINTS[event.kind], label=labels[event.kind] or "", event_id=event.event_id, at_ms=event.timestamp_ms
    )
    row.instance = event.instance or ""
    return row


def _place(row: Row, axis: Axis, last_ms: int, now_ms: int) -> None:
    if not row.bars:
        row.point = _percent(axis.position(row.at_ms))
        row.title = f"{row.label}: {clock(row.at_ms, now_ms)}"
    attempt = 0
    for bar in row.bars:
        attempt += bar.outcome != PAUSE
        end_ms = bar.end_ms if bar.end_ms is not None else last_ms
        start = axis.position(bar.start_ms)
        bar.x = _percent(start)
        bar.width = _percent(max(axis.position(end_ms) - start, 0.6))
        bar.title = _bar_title(row, bar, attempt, end_ms, now_ms)


def _bar_title(row: Row, bar: Bar, attempt: int, end_ms: int, now_ms: int) -> str:
    outcomes = {
        PENDING: _("pending since"),
        DONE: _("done after"),
        FAILED: _("failed after"),
        CANCELLED: _("cancelled after"),
        DROPPED: _("no longer waited for, at the latest after"),
        PAUSE: _("pause before the next attempt, so far") if bar.end_ms is None else _("pause of"),
    }
    parts = [row.label]
    if row.max_attempts and bar.outcome != PAUSE:
        parts.append(_("attempt %(attempt)d of %(most)d") % {"attempt": attempt, "most": row.max_attempts})
    parts.append(f"{outcomes[bar.outcome]} {duration(end_ms - bar.start_ms)}")
    parts.append(_("begun at %(clock)s") % {"clock": clock(bar.start_ms, now_ms)})
    if bar.error:
        parts.append(bar.error)
    return ", ".join(parts)


def _percent(value: float) -> str:
    return f"{min(max(value, 0.0), 100.0):.2f}%"
