"""replay(): recorded histories on changed code."""

from __future__ import annotations

import json
from dataclasses import replace
from io import StringIO

import pytest
from django.core.management import call_command

from duroxide_django import Client, CorruptHistory, InvalidArgument, NondeterminismError
from duroxide_django.engine.registry import Registry
from duroxide_django.testing import NEVER, drain, replay, run_orchestration


def checkout(ctx, order):
    ctx.set_custom_status("charging")
    ctx.set_kv_value("order", order)
    now = yield ctx.utc_now()
    receipt = yield ctx.schedule_activity_with_retry("Charge", {"order": order, "at": now, "price": 1.50, "ä": None})
    message = yield ctx.dequeue_event("inbox")
    parcel = yield ctx.schedule_sub_orchestration("Shipping", order)
    first = yield ctx.race(ctx.wait_for_event("approved"), ctx.schedule_timer(1000), ctx.schedule_activity("Slow"))
    return [receipt, message, parcel, first["index"]]


def checkout_with_a_step_more(ctx, order):
    ctx.set_custom_status("charging")
    ctx.set_kv_value("order", order)
    now = yield ctx.utc_now()
    yield ctx.schedule_activity("Validate", order)
    yield ctx.schedule_activity_with_retry("Charge", {"order": order, "at": now, "price": 1.50, "ä": None})


class ClientHistory:
    """Histories as a client, a command and a simulation give them."""

    def __init__(self) -> None:
        self.registry = Registry()
        self.registry.add_orchestration("Checkout", checkout)
        self.registry.add_activity("Charge", lambda ctx, input: "R-7")
        self.registry.add_activity("Slow", lambda ctx, input: None)
        self.registry.add_orchestration("Shipping", lambda ctx, order: {"parcel": order})

    def client(self, alias: str):
        client = Client(using=alias)
        client.start_orchestration("order-7", "Checkout", "7")
        client.enqueue_event("order-7", "inbox", "hello")
        drain(using=alias, registry=self.registry)
        assert client.get_status("order-7").status == "Completed", client.get_status("order-7")
        return client.read_execution_history("order-7", 1)

    def command(self, alias: str):
        self.client(alias)
        printed = StringIO()
        call_command("duroxide", "history", "order-7", "--json", "--using", alias, stdout=printed)
        return json.loads(printed.getvalue())

    def simulation(self, alias: str):
        return run_orchestration(
            checkout,
            "7",
            activities={"Charge": "R-7", "Slow": NEVER},
            children={"Shipping": {"parcel": "7"}},
            messages={"inbox": "hello"},
            events={"approved": True},
        ).history


@pytest.fixture(params=["client", "command", "simulation"])
def history(request, backend):
    return getattr(ClientHistory(), request.param)(backend)


class TestHistories:
    def test_replay_on_the_code_that_wrote_them(self, history):
        assert replay(history, checkout).status == "Completed"
        assert replay(history, checkout).output[0] == "R-7"

    def test_up_to_any_event_say_what_comes_next(self, history):
        kinds = [event["kind"] if isinstance(event, dict) else event.kind for event in history]
        beginning = history[: kinds.index("QueueSubscribed") + 1]
        assert replay(beginning, checkout).waits_for == ["queue 'inbox'"]

    def test_cut_anywhere_replay_when_told_so(self, history):
        """One that ends within a turn looks like code that does more than was recorded."""
        for length in range(1, len(history)):
            replay(history[:length], checkout, partial=True)
        kinds = [event["kind"] if isinstance(event, dict) else event.kind for event in history]
        within_a_turn = history[: kinds.index("OrchestrationStarted") + 1]
        with pytest.raises(NondeterminismError, match="emitted more than history records"):
            replay(within_a_turn, checkout)
        assert replay(within_a_turn, checkout, partial=True).waits_for

    def test_do_not_replay_on_other_code(self, history):
        with pytest.raises(NondeterminismError, match="'Validate'"):
            replay(history, checkout_with_a_step_more)

    def test_are_not_replayed_without_their_beginning(self, history):
        with pytest.raises(CorruptHistory, match="does not begin with OrchestrationStarted"):
            replay(history[1:], checkout)


def test_failed_histories_give_their_error():
    def raises(ctx, _input):
        yield ctx.schedule_activity("Charge")

    ran = run_orchestration(raises, activities={"Charge": OSError("down")})
    assert replay(ran.history, raises).error == ran.error == "OSError: down"


def test_later_executions_need_what_was_kept():
    def counts(ctx, _input):
        yield ctx.schedule_activity("Charge", ctx.get_kv_value("count"))

    history = run_orchestration(counts, activities={"Charge": None}, kv={"count": "2"}).history
    assert replay(history, counts, kv={"count": "2"}).status == "Completed"
    with pytest.raises(NondeterminismError):
        replay(history, counts)


def test_instance_ids_count_if_the_code_uses_them():
    def names(ctx, _input):
        yield ctx.schedule_activity("Charge", ctx.instance_id)

    history = run_orchestration(names, activities={"Charge": None}, instance_id="order-7").history
    assert replay(history, names, instance_id="order-7").status == "Completed"


@pytest.mark.parametrize("wrong", [[{"kind": "OrchestrationStarted"}], ["OrchestrationStarted"], [7]])
def test_what_is_no_history_is_refused(wrong):
    with pytest.raises(InvalidArgument, match="made of events with the fields event_id, kind"):
        replay(wrong, checkout)


def test_unknown_kinds_and_broken_data_are_refused():
    event = {"event_id": 1, "kind": "Dreamt", "source_event_id": None, "timestamp_ms": 1, "data": None}
    with pytest.raises(CorruptHistory, match="unknown kind 'Dreamt'"):
        replay([event], checkout)
    with pytest.raises(CorruptHistory, match="can't be decoded"):
        replay([{**event, "kind": "OrchestrationStarted", "data": "{"}], checkout)


def test_executions_after_the_first_have_their_number():
    def numbers(ctx, _input):
        yield ctx.schedule_activity("Charge", ctx.execution_id)

    history = run_orchestration(numbers, activities={"Charge": None}).history
    second = [replace(event, data=event.data.replace('"input": 1', '"input": 2')) for event in history]
    assert replay(second, numbers, execution_id=2).status == "Completed"
    with pytest.raises(NondeterminismError):
        replay(second, numbers)
    with pytest.raises(InvalidArgument, match="execution_id must be a whole number of at least 1"):
        replay(second, numbers, execution_id=0)
