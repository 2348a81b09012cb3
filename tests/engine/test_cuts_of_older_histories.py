"""Where a history is cut that an engine recorded whose timers raced the attempts."""

from __future__ import annotations

from duroxide_django.engine import events
from duroxide_django.engine.cuts import culprit, last_good, time_outs
from duroxide_django.engine.failures import Failure

TIMED_OUT = Failure(
    message="timeout: activity timed out", error_types=("TaskTimeout", "TaskFailed", "TimeoutError")
).to_json()


def numbered(*recorded):
    return [
        kind(event_id=number, timestamp_ms=turn, **fields) for number, (turn, kind, fields) in enumerate(recorded, 1)
    ]


def attempt(turn, number):
    return (
        (turn, events.ActivityScheduled, {"name": "A", "input": "1", "attempt": number, "max_attempts": 2}),
        (turn, events.TimerCreated, {"fire_at_ms": turn + 50}),
    )


STARTED = (0, events.OrchestrationStarted, {"name": "O", "version": "1.0.0", "input": "1", "engine": 1})


def test_an_attempt_that_timed_out_is_kept_and_its_timer_is_the_culprit():
    """Its activity and its timer are open then."""
    history = numbered(
        STARTED,
        *attempt(0, 1),
        (50, events.TimerFired, {"source_event_id": 3, "fire_at_ms": 50}),
        (50, events.ActivityCancelRequested, {"source_event_id": 2, "reason": "dropped_future"}),
        (50, events.OrchestrationFailed, {"details": TIMED_OUT}),
    )
    assert (time_outs(history), culprit(history), last_good(history)) == ([3], 3, 3)


def test_of_several_attempts_the_last_one_is_kept():
    """Those before it were retried."""
    history = numbered(
        STARTED,
        *attempt(0, 1),
        (50, events.TimerFired, {"source_event_id": 3, "fire_at_ms": 50}),
        *attempt(50, 2),
        (50, events.ActivityCancelRequested, {"source_event_id": 2, "reason": "dropped_future"}),
        (100, events.TimerFired, {"source_event_id": 6, "fire_at_ms": 100}),
        (100, events.ActivityCancelRequested, {"source_event_id": 5, "reason": "dropped_future"}),
        (100, events.OrchestrationFailed, {"details": TIMED_OUT}),
    )
    assert (time_outs(history), culprit(history), last_good(history)) == ([3, 7], 7, 7)


def test_a_timer_that_nothing_raced_is_no_culprit():
    """A pause fires again at once when its instance is retried: the code failed by itself."""
    history = numbered(
        STARTED,
        (0, events.TimerCreated, {"fire_at_ms": 50}),
        (50, events.TimerFired, {"source_event_id": 2, "fire_at_ms": 50}),
        (50, events.OrchestrationFailed, {"details": Failure(message="ValueError: no").to_json()}),
    )
    assert (time_outs(history), culprit(history), last_good(history)) == ([], None, 2)
