"""read_execution_history: the data of every kind of event, payloads embedded as JSON (spec 14.2, W28)."""

from __future__ import annotations

import json

import pytest

from duroxide_django.engine.events import KINDS


@pytest.fixture(autouse=True)
def workflows(program):
    program.activity("Add")(lambda ctx, pair: sum(pair))

    @program.activity("Break")
    def break_(ctx, input):
        raise ValueError("no good")

    @program.orchestration("Child", "1.5.0")
    def child(ctx, input):
        return {"child of": ctx.instance_id, "got": input}

    @program.orchestration("BrokenChild")
    def broken_child(ctx, input):
        raise KeyError("lost")

    @program.orchestration("WaitingChild")
    def waiting_child(ctx, input):
        yield ctx.wait_for_event("never")

    @program.orchestration("Everything", "3.1.4")
    def everything(ctx, input):
        if input != "first":
            return {"done": True}
        ctx.set_custom_status("working")
        ctx.set_kv_value("key", "value")
        ctx.clear_kv_value("key")
        ctx.clear_all_kv_values()
        ctx.reset_custom_status()
        yield ctx.schedule_activity("Add", [1, 2], session_id="s-1", tag="t-1")
        yield ctx.all([ctx.schedule_activity("Break"), ctx.schedule_sub_orchestration_with_id("BrokenChild", "kid-0")])
        yield ctx.schedule_sub_orchestration_with_id("Child", "kid-1", {"n": 1})
        yield ctx.start_orchestration("Child", "kid-2", [2])
        yield ctx.wait_for_event("go")
        yield ctx.dequeue_event("inbox")
        yield ctx.race(
            ctx.schedule_timer(5),
            ctx.schedule_activity("Nobody", tag="nobody"),
            ctx.schedule_sub_orchestration_with_id("WaitingChild", "kid-3"),
            ctx.wait_for_event("never"),
            ctx.dequeue_event("never"),
        )
        yield ctx.continue_as_new({"again": True})

    @program.orchestration("Waiting")
    def waiting(ctx, input):
        yield ctx.wait_for_event("never")


#: What one run left on each backend; the tests only look at it.
_histories: dict[str, dict[tuple[str, int], list]] = {}


@pytest.fixture
def histories(client, backend, program):
    """Return the events of a run that uses every feature, by (instance, execution)."""
    if backend not in _histories:
        client.start_orchestration("all-1", "Everything", "first")
        client.start_orchestration("failed-1", "BrokenChild", {"secret": 1})
        client.start_orchestration("cancelled-1", "Waiting")
        client.cancel_instance("cancelled-1", "why not")
        client.raise_event("all-1", "go", {"event": [1]})
        client.enqueue_event("all-1", "inbox", {"mail": [2]})
        program.drain()
        read = [("all-1", 1), ("all-1", 2), ("failed-1", 1), ("cancelled-1", 1), ("kid-1", 1)]
        _histories[backend] = {address: client.read_execution_history(*address) for address in read}
    return _histories[backend]


@pytest.fixture
def events(histories):
    """Return the events of all those executions."""
    return [event for history in histories.values() for event in history]


@pytest.fixture
def first_of(events):
    """Return the first event of a kind."""
    return lambda kind: next(event for event in events if event.kind == kind)


@pytest.fixture
def data_of(first_of):
    """Return the decoded data of the first event of a kind."""
    return lambda kind: json.loads(first_of(kind).data)


def test_the_run_has_every_kind(events):
    """Whatever kind of event there is, the tests below look at a real one."""
    assert {event.kind for event in events} == set(KINDS)


def test_every_event_has_data_that_is_json(events):
    """No kind is left without data."""
    for event in events:
        json.loads(event.data)


def test_ids_are_contiguous_and_times_never_go_back(histories):
    """Each execution counts its events from 1; the terminal one is the last."""
    for history in histories.values():
        assert [event.event_id for event in history] == list(range(1, len(history) + 1))
        times = [event.timestamp_ms for event in history]
        assert times == sorted(times)
        assert history[0].kind == "OrchestrationStarted"
        assert history[-1].kind.startswith("Orchestration")


def test_completions_point_at_what_they_complete(histories):
    """source_event_id is the schedule event of completions and cancellations, None otherwise."""
    by_id = {event.event_id: event for event in histories["all-1", 1]}
    for event in by_id.values():
        source = by_id.get(event.source_event_id)
        if event.kind in ("ActivityCompleted", "ActivityFailed", "ActivityCancelRequested"):
            assert source.kind == "ActivityScheduled"
        elif event.kind.startswith("SubOrchestration") and event.kind != "SubOrchestrationScheduled":
            assert source.kind == "SubOrchestrationScheduled"
        elif event.kind == "TimerFired":
            assert source.kind == "TimerCreated"
        elif event.kind.endswith(("Scheduled", "Created", "Subscribed", "Set", "Cleared", "Chained", "Started")):
            assert source is None


class TestLifecycle:
    def test_started(self, data_of):
        """Name, exact version and input."""
        data = data_of("OrchestrationStarted")
        assert (data["name"], data["version"], data["input"]) == ("Everything", "3.1.4", "first")

    def test_started_as_a_child(self, histories):
        """A child's start names its parent and the event that scheduled it."""
        data = json.loads(histories["kid-1", 1][0].data)
        scheduled = histories["all-1", 1][data["parent_id"] - 1]
        assert data["parent_instance"] == "all-1"
        assert scheduled.kind == "SubOrchestrationScheduled"

    def test_completed(self, data_of):
        """The result text itself."""
        assert data_of("OrchestrationCompleted") == {"done": True}

    def test_failed(self, data_of):
        """The details: category, kind and message."""
        ((category, details),) = data_of("OrchestrationFailed").items()
        assert (category, details["message"]) == ("Application", "KeyError: 'lost'")

    def test_continued_as_new(self, data_of):
        """The next execution's input."""
        assert data_of("OrchestrationContinuedAsNew") == {"input": {"again": True}}

    def test_cancel_requested(self, data_of):
        """The reason."""
        assert data_of("OrchestrationCancelRequested") == {"reason": "why not"}


class TestActivities:
    def test_scheduled(self, data_of):
        """Name, input, session and tag."""
        assert data_of("ActivityScheduled") == {"name": "Add", "input": [1, 2], "session_id": "s-1", "tag": "t-1"}

    def test_completed(self, data_of):
        """The result."""
        assert data_of("ActivityCompleted") == 3

    def test_failed(self, data_of):
        """The details with the original classes."""
        ((category, details),) = data_of("ActivityFailed").items()
        assert (category, details["message"]) == ("Application", "ValueError: no good")
        assert details["types"][0] == "ValueError"

    def test_cancel_requested(self, data_of):
        """Why its result isn't wanted."""
        assert data_of("ActivityCancelRequested") == {"reason": "dropped_future"}


class TestTimers:
    def test_created_and_fired(self, first_of, data_of):
        """The planned time, in both events."""
        created, fired = data_of("TimerCreated"), data_of("TimerFired")
        assert created == fired
        assert created["fireAtMs"] == first_of("TimerCreated").timestamp_ms + 5


class TestEventsAndQueues:
    def test_subscriptions_name_what_they_wait_for(self, data_of):
        """The event's or queue's name."""
        assert data_of("ExternalSubscribed") == {"name": "go"}
        assert data_of("QueueSubscribed") == {"name": "inbox"}

    def test_arrivals_carry_the_data(self, data_of):
        """Name and data, embedded."""
        assert data_of("ExternalEvent") == {"name": "go", "data": {"event": [1]}}
        assert data_of("QueueEventDelivered") == {"name": "inbox", "data": {"mail": [2]}}

    def test_lost_waits_tell_why(self, data_of):
        """A wait that lost its race."""
        assert data_of("ExternalSubscribedCancelled") == {"reason": "dropped_future"}
        assert data_of("QueueSubscriptionCancelled") == {"reason": "dropped_future"}


class TestOtherOrchestrations:
    def test_scheduled(self, events):
        """Name, instance and input of a child."""
        kid = next(event for event in events if event.data and '"kid-1"' in event.data)
        assert kid.kind == "SubOrchestrationScheduled"
        assert json.loads(kid.data) == {"name": "Child", "instance": "kid-1", "input": {"n": 1}}

    def test_completed(self, data_of):
        """The child's output."""
        assert data_of("SubOrchestrationCompleted") == {"child of": "kid-1", "got": {"n": 1}}

    def test_failed(self, data_of):
        """The child's failure."""
        (details,) = data_of("SubOrchestrationFailed").values()
        assert details["message"] == "KeyError: 'lost'"

    def test_cancel_requested(self, data_of):
        """A child that lost its race."""
        assert data_of("SubOrchestrationCancelRequested") == {"reason": "dropped_future"}

    def test_chained(self, data_of):
        """A detached start."""
        assert data_of("OrchestrationChained") == {"name": "Child", "instance": "kid-2", "input": [2]}


class TestState:
    def test_custom_status(self, events):
        """The text; a reset has none."""
        texts = [json.loads(event.data).get("status") for event in events if event.kind == "CustomStatusUpdated"]
        assert texts[:2] == ["working", None]

    def test_key_values(self, first_of, data_of):
        """Key, value and time of a set; the key of a removal."""
        assert data_of("KeyValueSet") == {
            "key": "key",
            "value": "value",
            "last_updated_at_ms": first_of("KeyValueSet").timestamp_ms,
        }
        assert data_of("KeyValueCleared") == {"key": "key"}
        assert data_of("KeyValuesCleared") == {}
