"""Spec part 2: which events a turn appends, and in which order."""

from __future__ import annotations

import json

import pytest

from duroxide_django.engine import events
from duroxide_django.engine.time_limits import NO_LIMITS
from duroxide_django.exceptions import CorruptHistory
from tests.engine.harness import T0, Life, begun, stored_and_read


def one_activity(ctx, input):
    return (yield ctx.schedule_activity("Pay", input))


class TestTheFirstTurn:
    def test_begins_with_the_start(self):
        """Event 1 holds name, resolved version and input; what the function asked for follows."""
        life = begun(one_activity, {"n": 1}, version="2.1.0")
        assert life.kinds == ["OrchestrationStarted", "ActivityScheduled"]
        started, scheduled = life.history
        assert (started.event_id, started.name, started.version) == (1, "Workflow", "2.1.0")
        assert json.loads(started.input) == {"n": 1}
        assert (scheduled.event_id, scheduled.name, json.loads(scheduled.input)) == (2, "Pay", {"n": 1})
        assert started.timestamp_ms == scheduled.timestamp_ms == T0

    def test_records_the_parent_of_a_child(self):
        """A child's start names its parent and the event there."""
        life = Life(one_activity)
        life.start(parent=("family-1", 7))
        assert (life.history[0].parent_instance, life.history[0].parent_id) == ("family-1", 7)

    def test_asks_for_the_activity(self):
        """What is scheduled is handed out to be enqueued, with its address."""
        life = begun(one_activity, 5)
        (activity,) = life.result.activities
        assert (activity.event_id, activity.name, activity.input) == (2, "Pay", "5")
        assert (activity.session_id, activity.tag, activity.attempt, activity.limits) == (None, None, 1, NO_LIMITS)


class TestALaterTurn:
    def test_records_the_completion_with_its_source(self):
        """A completion refers to its schedule event; the terminal event comes last."""
        life = begun(one_activity)
        life.turn(life.completed("Pay", "paid"))
        assert life.new_kinds == ["ActivityCompleted", "OrchestrationCompleted"]
        completed, ended = life.result.events
        assert (completed.event_id, completed.source_event_id, completed.result) == (3, 2, '"paid"')
        assert (ended.event_id, ended.output) == (4, '"paid"')

    def test_takes_messages_in_their_order_and_then_records_what_the_function_did(self):
        """Arrivals come first, in batch order; new actions follow in the order in which they were emitted."""

        def orchestration(ctx, input):
            yield ctx.all([ctx.schedule_activity("A"), ctx.wait_for_event("go")])
            ctx.set_custom_status("going")
            ctx.set_kv_value("k", 1)
            yield ctx.start_orchestration("Audit", "audit-1")
            yield ctx.all([ctx.schedule_timer(5), ctx.schedule_activity("B"), ctx.schedule_sub_orchestration("C")])

        life = begun(orchestration)
        life.turn(life.raised("other"), life.raised("go"), life.completed("A"))
        assert life.new_kinds == [
            "ExternalEvent",
            "ExternalEvent",
            "ActivityCompleted",
            "CustomStatusUpdated",
            "KeyValueSet",
            "OrchestrationChained",
            "TimerCreated",
            "ActivityScheduled",
            "SubOrchestrationScheduled",
        ]

    def test_writes_no_event_when_nothing_happens(self):
        """A turn without messages leaves history as it is."""
        life = begun(one_activity)
        life.turn()
        assert life.result.events == []

    def test_runs_the_function_after_each_single_completion(self):
        """What the first of two completions leads to is decided before the second is looked at."""
        seen = []

        def orchestration(ctx, input):
            def block(name):
                yield ctx.schedule_activity(name)
                if not ctx.is_replaying:
                    seen.append(name)

            yield ctx.all([block("A"), block("B"), block("C")])

        life = begun(orchestration)
        life.turn(life.completed("B"), life.completed("C"), life.completed("A"))
        assert seen == ["B", "C", "A"]


class TestTheLastTurn:
    def test_tells_losers_family_by_family_before_the_end(self):
        """Losers of races: activities, children, waits, dequeues; then the terminal event."""

        def orchestration(ctx, input):
            yield ctx.race(
                ctx.dequeue_event("q"),
                ctx.wait_for_event("e"),
                ctx.schedule_sub_orchestration("C"),
                ctx.schedule_activity("A"),
                ctx.schedule_timer(1_000),
                ctx.schedule_timer(10),
            )

        life = begun(orchestration)
        life.turn(life.fired(7))
        assert life.new_kinds == [
            "TimerFired",
            "ActivityCancelRequested",
            "SubOrchestrationCancelRequested",
            "ExternalSubscribedCancelled",
            "QueueSubscriptionCancelled",
            "OrchestrationCompleted",
        ]
        assert {event.reason for event in life.result.events[1:5]} == {"dropped_future"}
        assert [event.source_event_id for event in life.result.events[1:5]] == [5, 4, 3, 2]

    @pytest.mark.parametrize(
        ("ending", "reason"),
        [
            ("renew", "orchestration_terminal_continued_as_new"),
            ("poison", "orchestration_terminal_failed"),
            ("force", "orchestration_terminal_failed"),
        ],
    )
    def test_cancels_what_is_still_in_flight_with_the_reason(self, ending, reason):
        """Activities say how the end came, subscriptions only that it came; the terminal event is the last (W30)."""

        def orchestration(ctx, input):
            def renews():
                yield ctx.schedule_activity("First")
                yield ctx.continue_as_new()

            yield ctx.all([renews(), ctx.dequeue_event("q"), ctx.wait_for_event("e"), ctx.schedule_activity("A")])

        life = begun(orchestration)
        ends = {"renew": life.completed("First"), "poison": life.poisoned("First"), "force": life.cancel(force=True)}
        life.turn(ends[ending])
        crumbs = [event for event in life.result.events if hasattr(event, "reason") and event.source_event_id]
        told = {event.source_event_id: (event.kind, event.reason) for event in crumbs}
        assert told == {
            3: ("QueueSubscriptionCancelled", "orchestration_terminal"),
            4: ("ExternalSubscribedCancelled", "orchestration_terminal"),
            5: ("ActivityCancelRequested", reason),
            **({2: ("ActivityCancelRequested", reason)} if ending == "force" else {}),
        }
        assert isinstance(life.history[-1], events.TERMINAL)
        assert set(life.result.cancelled_activities) == {5, *([2] if ending == "force" else [])}

    def test_does_not_enqueue_what_only_the_end_scheduled(self):
        """New work of the turn that ends stays in history, cancelled; nothing of it is enqueued."""

        def orchestration(ctx, input):
            yield ctx.race(
                ctx.start_orchestration("Audit", "audit-1"), ctx.schedule_activity("A"), ctx.schedule_timer(9)
            )
            return "done"

        life = begun(orchestration)
        assert life.kinds == [
            "OrchestrationStarted",
            "OrchestrationChained",
            "ActivityScheduled",
            "TimerCreated",
            "ActivityCancelRequested",
            "OrchestrationCompleted",
        ]
        assert (life.result.activities, life.result.timers, life.result.cancelled_activities) == ([], [], [])
        assert life.detached == ["audit-1"]


class TestStoredEvents:
    EXAMPLES = (
        events.OrchestrationStarted(event_id=1, timestamp_ms=5, name="W", version="1.0.0", input="null"),
        events.OrchestrationStarted(
            event_id=1,
            timestamp_ms=5,
            name="W",
            version="1.0.0",
            input='"ü"',
            parent_instance="p",
            parent_id=3,
            initial_custom_status="",
            strict_events=True,
        ),
        events.ActivityScheduled(
            event_id=2, timestamp_ms=5, name="A", input="{}", session_id="s", tag="gpu", attempt=2
        ),
        events.CustomStatusUpdated(event_id=3, timestamp_ms=5, status=None),
        events.CustomStatusUpdated(event_id=3, timestamp_ms=5, status=""),
        events.KeyValueSet(event_id=4, timestamp_ms=5, key="", value="", last_updated_at_ms=0),
        events.KeyValuesCleared(event_id=4, timestamp_ms=5),
        events.TimerFired(event_id=9, timestamp_ms=5, source_event_id=2, fire_at_ms=7),
        events.OrchestrationContinuedAsNew(event_id=9, timestamp_ms=5, input="1", version="2.0.0"),
    )

    @pytest.mark.parametrize("event", EXAMPLES, ids=lambda event: event.kind)
    def test_come_back_as_they_were(self, event):
        """What a row holds is enough to build the event again."""
        assert stored_and_read(event) == event

    def test_of_an_unknown_kind_are_never_skipped(self):
        """A kind that this version doesn't know makes the history unreadable, by name."""
        with pytest.raises(CorruptHistory, match=r"'ActivityPaused'.*newer version"):
            events.from_stored(kind="ActivityPaused", event_id=3, timestamp_ms=0, source_event_id=None, data="{}")

    @pytest.mark.parametrize("data", ["", "{", "[]", '{"nme": "A"}'])
    def test_with_damaged_data_are_reported(self, data):
        """Data that doesn't fit the kind makes the history unreadable, by event id."""
        with pytest.raises(CorruptHistory, match="Event 3"):
            events.from_stored(kind="ActivityScheduled", event_id=3, timestamp_ms=0, source_event_id=None, data=data)

    def test_show_payloads_as_json_not_as_text(self):
        """What inspection shows embeds inputs and results (spec 14.2, W28)."""
        shown = events.ActivityScheduled(event_id=2, timestamp_ms=5, name="A", input='{"n":1}').public_data()
        assert json.loads(shown) == {"name": "A", "input": {"n": 1}}
        assert events.ActivityCompleted(event_id=3, timestamp_ms=5, result='{"n":1}').public_data() == '{"n":1}'
        assert json.loads(events.TimerCreated(event_id=3, timestamp_ms=5, fire_at_ms=9).public_data()) == {
            "fireAtMs": 9
        }
        assert json.loads(
            events.OrchestrationCancelRequested(event_id=3, timestamp_ms=5, reason="r").public_data()
        ) == {"reason": "r"}
