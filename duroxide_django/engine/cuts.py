"""Where a history may be cut: which of its events are good, where its turns begin, and what the kept part leaves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from duroxide_django.engine import events
from duroxide_django.engine.events import Event
from duroxide_django.engine.failures import Failure
from duroxide_django.engine.limits import RESERVED_PREFIX
from duroxide_django.engine.replay import DROPPED

_FAILURES = (events.ActivityFailed, events.SubOrchestrationFailed)
_SCHEDULES = (events.ActivityScheduled, events.TimerCreated, events.SubOrchestrationScheduled,
              events.ExternalSubscribed, events.QueueSubscribed, events.OrchestrationChained)  # fmt: skip
_ARRIVALS = (events.ActivityCompleted, events.TimerFired, events.ExternalEvent, events.SubOrchestrationCompleted,
             events.QueueEventDelivered, *_FAILURES)  # fmt: skip
_CANCEL = events.OrchestrationCancelRequested


def last_good(history: Sequence[Event]) -> int:
    """Return how many events of a failed execution are good; they end where a turn ended.

    * Cancelled: all before the turn of the request.
    * A task's failure or a time-out ended it: all before that, and before other failures that came in since something
      was scheduled.
    * The code raised by itself, or the engine ended it: all before what arrived last.
    """
    end = len(history) - 1
    request = next((n for n, event in enumerate(history) if isinstance(event, _CANCEL)), None)
    if request is not None:
        return turn_before(history, request)
    ended_by = culprit(history)
    if ended_by is None:
        return turn_before(history, end)
    since = max((n for n, event in enumerate(history[:ended_by]) if isinstance(event, _SCHEDULES)), default=0)
    came_in = (n for n, event in enumerate(history) if n > since and (n == ended_by or isinstance(event, _FAILURES)))
    return turn_before(history, next(came_in))


def culprit(history: Sequence[Event]) -> int | None:
    """Return the position of the failure or time-out that ended an execution; None: its code or the engine did."""
    schedules = [n for n, event in enumerate(history) if isinstance(event, _SCHEDULES)]
    failures = [n for n, event in enumerate(history) if isinstance(event, _FAILURES)]
    candidates = [*failures[-1:], *time_outs(history)[-1:]]
    return next((n for n in sorted(candidates, reverse=True) if _ended_by(history, n, schedules)), None)


def time_outs(history: Sequence[Event]) -> list[int]:
    """Return the positions of fired timers that were time limits: something lost a race against them."""
    fired = [n for n, event in enumerate(history) if isinstance(event, events.TimerFired)]
    if not fired:
        return []
    last_turn, timed_out = turn_before(history, len(history) - 1), _failed_by_time_out(history[-1])
    syscalls = _syscalls(history)
    return [n for n in fired if _won_a_race(history, n, syscalls) or (timed_out and n >= last_turn)]


def _won_a_race(history: Sequence[Event], position: int, syscalls: set[int]) -> bool:
    """Return whether the turn in which something arrived gave up something else."""
    acted = False
    for event in history[position + 1 :]:
        arrives = isinstance(event, _ARRIVALS) and event.source_event_id not in syscalls
        if acted and arrives and not isinstance(event, events.QueueEventDelivered):
            return False
        if getattr(event, "reason", None) == DROPPED:
            return True
        acted = acted or not arrives
    return False


def _failed_by_time_out(end: Event) -> bool:
    if not isinstance(end, events.OrchestrationFailed):
        return False
    return "TimeoutError" in Failure.from_json(end.details).error_types


def turn_before(history: Sequence[Event], position: int) -> int:
    """Return the latest end of a turn at or before ``position``; 0 if the first turn goes on until there.

    In a turn, what arrives is recorded first and what the code did then. So a turn begins where something arrives
    after something that the code did. Answers given within a turn (syscalls, waiting queue messages) begin none.
    """
    syscalls = _syscalls(history)
    arriving = [isinstance(event, (*_ARRIVALS, _CANCEL)) and event.source_event_id not in syscalls for event in history]
    for n in range(position, 1, -1):
        event, before = history[n], history[n - 1]
        at_once = isinstance(event, events.QueueEventDelivered) and event.timestamp_ms == before.timestamp_ms
        if arriving[n] and not at_once and not arriving[n - 1]:
            return n
    return 0


def _ended_by(history: Sequence[Event], failure: int, schedules: Sequence[int]) -> bool:
    if isinstance(history[failure], events.TimerFired):
        in_last_turn = failure >= turn_before(history, len(history) - 1)
        return isinstance(history[-1], events.OrchestrationFailed) and (
            in_last_turn or _failed_by_time_out(history[-1])
        )
    if not schedules or schedules[-1] < failure:
        return True
    # The code did more after this failure; it ended the instance only if it was raised again.
    end, cause = history[-1], history[failure]
    assert isinstance(cause, _FAILURES)
    if not isinstance(end, events.OrchestrationFailed):
        return False
    return Failure.from_json(end.details).message == Failure.from_json(cause.details).message


def _syscalls(history: Sequence[Event]) -> set[int]:
    return {
        event.event_id
        for event in history
        if isinstance(event, events.ActivityScheduled) and event.name.startswith(RESERVED_PREFIX)
    }


def open_schedules(kept: Sequence[Event]) -> dict[int, Event]:
    """Return the scheduled work of a history that has no result there, but for what was cancelled."""
    wanted = (events.ActivityScheduled, events.TimerCreated, events.SubOrchestrationScheduled)
    answered = {event.source_event_id for event in kept if event.source_event_id is not None}
    return {event.event_id: event for event in kept if isinstance(event, wanted) and event.event_id not in answered}


def custom_status_after(kept: Sequence[Event]) -> str | None:
    """Return the custom status after the kept events of an execution."""
    status = None
    for event in kept:
        if isinstance(event, events.OrchestrationStarted):
            status = event.initial_custom_status
        elif isinstance(event, events.CustomStatusUpdated):
            status = event.status
    return status


def kv_after(base: Mapping[str, tuple[str, int]], kept: Sequence[Event]) -> dict[str, tuple[str, int]]:
    """Return the KV entries (value, time) after the kept events of an execution that began with ``base``."""
    values = dict(base)
    for event in kept:
        if isinstance(event, events.KeyValueSet):
            values[event.key] = (event.value, event.last_updated_at_ms)
        elif isinstance(event, events.KeyValueCleared):
            values.pop(event.key, None)
        elif isinstance(event, events.KeyValuesCleared):
            values.clear()
    return values
