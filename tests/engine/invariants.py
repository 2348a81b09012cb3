"""What must hold for a life after every turn, whatever its program and its world are (design section 8)."""

from __future__ import annotations

from collections import Counter

from duroxide_django.engine import events, futures
from duroxide_django.engine.outcome import Completed, ContinuedAsNew
from tests.engine.harness import Life

_SCHEDULES = (events.ActivityScheduled, events.TimerCreated, events.SubOrchestrationScheduled)
_SUBSCRIPTIONS = (events.ExternalSubscribed, events.QueueSubscribed)
_COMPLETIONS = (
    events.ActivityCompleted,
    events.ActivityFailed,
    events.TimerFired,
    events.SubOrchestrationCompleted,
    events.SubOrchestrationFailed,
    events.QueueEventDelivered,
)
_CRUMBS = (
    events.ActivityCancelRequested,
    events.SubOrchestrationCancelRequested,
    events.ExternalSubscribedCancelled,
    events.QueueSubscriptionCancelled,
)


def check(life: Life) -> None:
    """Fail unless every invariant holds for ``life``."""
    _ids_have_no_gap(life)
    _the_terminal_event_is_last(life)
    _completions_answer_something_open(life)
    _what_is_waited_for_is_in_flight(life)
    _nothing_in_flight_is_unwanted(life)
    _kv_is_what_history_says(life)
    _events_are_consumed_or_kept(life)
    _losers_are_told_once(life)


def _ids_have_no_gap(life: Life) -> None:
    assert [event.event_id for event in life.history] == list(range(1, len(life.history) + 1))


def _the_terminal_event_is_last(life: Life) -> None:
    terminal = [isinstance(event, events.TERMINAL) for event in life.history]
    assert not any(terminal[:-1])
    assert terminal[-1] == (life.result.outcome is not None)


def _completions_answer_something_open(life: Life) -> None:
    schedules = {event.event_id for event in life.history if isinstance(event, (*_SCHEDULES, *_SUBSCRIPTIONS))}
    for event in life.history:
        if isinstance(event, _COMPLETIONS):
            assert event.source_event_id < event.event_id
            schedules.remove(event.source_event_id)


def _what_is_waited_for_is_in_flight(life: Life) -> None:
    if life.result.outcome is not None:
        return
    tables = {futures.ACTIVITY: life.activities, futures.TIMER: life.timers, futures.CHILD: life.children}
    wanted = [(event_id, leaf) for event_id, leaf in life.live.open.items() if not leaf.dropped]
    for event_id, leaf in wanted:
        if leaf.family in tables:
            assert event_id in tables[leaf.family], f"{leaf.family} {event_id} was never enqueued, or got lost"
        elif leaf.family == futures.QUEUE:
            waiting = [mail for mail in life.mail.values() if mail.queue == leaf.name]
            assert not waiting, f"a message of {leaf.name} waits though event {event_id} wants it"
    assert wanted, "nothing can make it go on"


def _nothing_in_flight_is_unwanted(life: Life) -> None:
    for event_id in (*life.activities, *life.timers):
        assert not life.live.open[event_id].dropped, f"{event_id} runs though its result is not wanted"
    cancelled = {instance_id for instance_id, _ in life.cancelled_children}
    if life.result.outcome is None:
        for event_id, instance_id in life.children.items():
            assert life.live.open[event_id].dropped == (instance_id in cancelled)


def _kv_is_what_history_says(life: Life) -> None:
    entries = dict(life.kv_base)
    for event in life.history:
        if isinstance(event, events.KeyValueSet):
            entries[event.key] = (event.value, event.last_updated_at_ms)
        elif isinstance(event, events.KeyValueCleared):
            entries.pop(event.key, None)
        elif isinstance(event, events.KeyValuesCleared):
            entries.clear()
    assert life.kv == entries


def _events_are_consumed_or_kept(life: Life) -> None:
    buffered = {name: len(data) for name, data in life.live._buffered_events.items()}
    if life.result.outcome is not None:
        return
    arrived = Counter(event.name for event in life.history if isinstance(event, events.ExternalEvent))
    subscribed = [event for event in life.history if isinstance(event, events.ExternalSubscribed)]
    consumed = Counter(event.name for event in subscribed if event.event_id in life.live.closed_ids)
    for name, count in arrived.items():
        if life.options.buffer_events:
            assert count == consumed[name] + buffered.get(name, 0), "an external event was lost or doubled"
        else:
            assert count >= consumed[name]
            assert not buffered
    for leaf in life.live.open.values():
        if leaf.family == futures.EVENT and not leaf.dropped:
            assert not buffered.get(leaf.name), f"an event {leaf.name} waits though somebody waits for it"


def _losers_are_told_once(life: Life) -> None:
    crumbs = Counter(event.source_event_id for event in life.history if isinstance(event, _CRUMBS))
    assert not crumbs or max(crumbs.values()) == 1
    if isinstance(life.result.outcome, (Completed, ContinuedAsNew)):
        answered = {event.source_event_id for event in life.history}
        open_ = [
            event.event_id
            for event in life.history
            if isinstance(event, (events.ActivityScheduled, *_SUBSCRIPTIONS)) and event.event_id not in answered
        ]
        consumed_by_name = _consumed_by_name(life)
        assert not [event_id for event_id in open_ if event_id not in consumed_by_name]


def _consumed_by_name(life: Life) -> set[int]:
    # An external event names no subscription: those that the execution saw resolved.
    return life.live.closed_ids
