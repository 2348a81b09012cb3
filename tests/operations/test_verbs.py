"""Operators' verbs: what they change, what they refuse, and that each leaves an audit record."""

from __future__ import annotations

import json
import threading

import pytest
from django.core.management import call_command
from django.db import transaction

from duroxide_django import ActivityFailed, InstanceNotFound, InvalidArgument, RuntimeOptions
from duroxide_django.testing import assert_healthy
from tests.runtime.program import failing_transaction


@pytest.fixture
def verbs(client):
    """The verbs of the audit records, oldest first."""
    return lambda: [record.verb for record in reversed(client.list_audit_records())]


@pytest.fixture
def switch(program):
    """An activity ``Work`` that fails until ``switch["good"]`` is set, and counts its calls."""
    state = {"good": False, "calls": []}

    @program.activity("Work")
    def work(ctx, value):
        state["calls"].append(value)
        if not state["good"]:
            raise ValueError("not yet")
        return f"{value} done"

    return state


class TestPause:
    def test_keeps_what_arrives_until_it_is_resumed(self, program, client, verbs, backend):
        @program.orchestration("Flow")
        def flow(ctx, value):
            return (yield ctx.wait_for_event("Go"))

        client.start_orchestration("one", "Flow")
        program.drain(jump=False)
        client.pause_instance("one", reason="stocktaking", actor="ann")
        client.raise_event("one", "Go", 7)
        program.drain(jump=False)
        assert client.get_status("one").status == "Running"
        assert client.get_blocked("one") == {"reason": "paused", "message": "paused by ann: stocktaking"}
        assert_healthy(backend)
        client.resume_instance("one", actor="bob")
        program.drain(jump=False)
        assert client.get_status("one").output == 7
        assert verbs() == ["pause", "resume"]
        record = client.list_audit_records("one")[1]
        assert (record.actor, record.reason) == ("ann", "stocktaking")

    def test_before_the_first_turn(self, program, client):
        program.orchestration("Flow")(lambda ctx, value: "ended")
        client.start_orchestration("one", "Flow")
        client.pause_instance("one")
        program.drain(jump=False)
        assert client.get_status("one").status == "Running"
        client.resume_instance("one")
        program.drain(jump=False)
        assert client.get_status("one").output == "ended"

    def test_a_running_worker_lets_go_and_takes_it_up_again(self, program, client, start_runtime, gate):
        """What an activity returns meanwhile waits, although its worker has the live execution."""

        @program.activity("Slow")
        def slow(ctx, value):
            gate.wait()
            return 5

        @program.orchestration("Flow")
        def flow(ctx, value):
            number = yield ctx.schedule_activity("Slow")
            return number + (yield ctx.wait_for_event("Go"))

        runtime = start_runtime()
        client.start_orchestration("one", "Flow")
        gate.wait_entered()
        client.pause_instance("one")
        client.raise_event("one", "Go", 1)
        gate.open()
        runtime.shutdown()
        kinds = [event.kind for event in client.read_execution_history("one", 1)]
        assert kinds == ["OrchestrationStarted", "ActivityScheduled"]
        client.resume_instance("one")
        start_runtime()
        assert client.wait_for_orchestration("one").output == 6

    def test_resume_tries_a_blocked_instance_at_once(self, program, client):
        client.start_orchestration("one", "Late")
        program.drain(jump=False)
        assert client.get_blocked("one")["reason"] == "missing_code"
        program.orchestration("Late")(lambda ctx, value: "here")
        client.resume_instance("one")
        program.drain(jump=False)
        assert client.get_status("one").output == "here"

    def test_a_forced_cancel_ends_a_paused_instance(self, program, client):
        @program.orchestration("Flow")
        def flow(ctx, value):
            yield ctx.wait_for_event("Go")

        client.start_orchestration("one", "Flow")
        program.drain(jump=False)
        client.pause_instance("one")
        client.cancel_instance("one", "enough", force=True)
        program.drain(jump=False)
        assert client.get_status("one").is_cancelled

    def test_is_refused(self, program, client, verbs):
        program.orchestration("Flow")(lambda ctx, value: "ended")
        client.start_orchestration("one", "Flow")
        with pytest.raises(InvalidArgument, match="neither"):
            client.resume_instance("one")
        program.drain(max_steps=2_000)
        with pytest.raises(InvalidArgument, match="ended"):
            client.pause_instance("one")
        with pytest.raises(InstanceNotFound):
            client.pause_instance("two")
        assert verbs() == []

    def test_joins_the_callers_transaction(self, program, client, backend, verbs):
        client.start_orchestration("one", "Flow")
        with failing_transaction(backend):
            client.pause_instance("one")
        assert client.get_blocked("one") is None
        assert verbs() == []
        with transaction.atomic(using=backend):
            client.pause_instance("one")
        assert verbs() == ["pause"]


class TestActivities:
    @pytest.fixture
    def flow(self, program):
        @program.activity("Slow")
        def slow(ctx, value):
            threading.Event().wait(0.01)

        @program.orchestration("Flow")
        def flow(ctx, value):
            try:
                return (yield ctx.schedule_activity("Slow").with_tag("nobody"))
            except ActivityFailed as exc:
                return f"failed: {exc}"

        return program

    @pytest.fixture
    def pending(self, client, flow):
        """An instance whose activity nobody runs; returns the schedule event."""
        client.start_orchestration("one", "Flow")
        flow.drain(jump=False, options=RuntimeOptions(worker_concurrency=0))
        (item,) = client.list_pending("one")
        assert (item.kind, item.name) == ("activity", "Slow")
        return item.event_id

    def test_complete_by_hand(self, flow, client, pending, verbs, backend):
        assert client.complete_activity("one", pending, {"by": "hand"}, actor="ann") == "Slow"
        assert_healthy(backend)
        flow.drain()
        assert client.get_status("one").output == {"by": "hand"}
        assert client.list_audit_records("one")[0].details == {"event_id": pending, "activity": "Slow"}
        with pytest.raises(InvalidArgument, match="no pending activity"):
            client.complete_activity("one", pending, 1)
        assert verbs() == ["complete_activity"]

    def test_fail_by_hand(self, flow, client, pending):
        client.fail_activity("one", pending, "the bank is closed")
        flow.drain()
        assert client.get_status("one").output == "failed: the bank is closed"

    def test_a_worker_that_runs_it_loses_it(self, program, client, start_runtime, gate):
        @program.activity("Held")
        def held(ctx, value):
            gate.wait()
            return "from the worker"

        @program.orchestration("Wait")
        def wait(ctx, value):
            return (yield ctx.schedule_activity("Held"))

        start_runtime()
        client.start_orchestration("one", "Wait")
        gate.wait_entered()
        (item,) = client.list_pending("one")
        client.complete_activity("one", item.event_id, "by hand")
        assert client.wait_for_orchestration("one").output == "by hand"
        gate.open()

    def test_retry_now_skips_the_pause_before_a_retry(self, program, switch, client, verbs):
        @program.orchestration("Retrying")
        def retrying(ctx, value):
            policy = {"max_attempts": 2, "backoff": "fixed", "initial_delay_ms": 30_000}
            return (yield ctx.schedule_activity_with_retry("Work", "it", policy))

        client.start_orchestration("one", "Retrying")
        program.drain(jump=False)
        (item,) = client.list_pending("one")
        assert item.kind == "timer"
        switch["good"] = True
        assert client.retry_activity_now("one", item.event_id) == "timer"
        program.drain(jump=False)
        assert client.get_status("one").output == "it done"
        assert verbs() == ["retry_activity_now"]

    def test_retry_now_gives_an_activity_its_attempts_back(self, client, pending):
        assert client.retry_activity_now("one", pending) == "Slow"
        with pytest.raises(InvalidArgument, match="nothing"):
            client.retry_activity_now("one", 99)


class TestRetry:
    def test_runs_the_failed_activity_again(self, program, switch, client, backend):
        @program.activity("First")
        def first(ctx, value):
            switch["calls"].append("first")
            return 1

        @program.orchestration("Flow")
        def flow(ctx, value):
            one = yield ctx.schedule_activity("First")
            two = yield ctx.schedule_activity("Work", "it")
            return [one, two]

        client.start_orchestration("one", "Flow")
        program.drain(max_steps=2_000)
        assert client.get_status("one").status == "Failed"
        switch["good"] = True
        rewound = client.retry_instance("one", reason="mended")
        assert rewound.rescheduled == ["Work#4"]
        assert client.get_status("one").status == "Running"
        assert_healthy(backend)
        program.drain(max_steps=2_000)
        assert client.get_status("one").output == [1, "it done"]
        assert switch["calls"] == ["first", "it", "it"]
        assert client.list_audit_records("one")[0].details["kept_events"] == rewound.kept_events

    def test_runs_all_failed_members_of_a_fan_out_again(self, program, switch, client, backend):
        @program.activity("Good")
        def good(ctx, value):
            switch["calls"].append("good")
            return "good"

        @program.orchestration("Flow")
        def flow(ctx, value):
            tasks = [ctx.schedule_activity("Work", number) for number in range(3)]
            results = yield ctx.all([*tasks, ctx.schedule_activity("Good")])
            return [result["ok"] for result in results]

        client.start_orchestration("one", "Flow")
        program.drain(max_steps=2_000)
        assert client.get_status("one").status == "Failed"
        switch["good"] = True
        client.retry_instance("one")
        program.drain(max_steps=2_000)
        assert client.get_status("one").output == ["0 done", "1 done", "2 done", "good"]
        assert switch["calls"].count("good") == 1

    def test_runs_what_failing_fast_cancelled(self, program, switch, client):
        @program.orchestration("Flow")
        def flow(ctx, value):
            timer = ctx.schedule_timer(3_600_000)
            waiting = ctx.wait_for_event("Go")
            return (yield ctx.all([ctx.schedule_activity("Work", "it"), timer, waiting], fail_fast=True))

        client.start_orchestration("one", "Flow")
        program.drain(jump=False)
        assert client.get_status("one").status == "Failed"
        switch["good"] = True
        client.retry_instance("one")
        client.raise_event("one", "Go", "went")
        program.drain(max_steps=2_000)
        assert client.get_status("one").output == ["it done", None, "went"]

    def test_goes_on_after_the_code_was_mended(self, program, client):
        """Its own error: what arrived last is delivered again."""
        broken = [True]

        @program.orchestration("Flow")
        def flow(ctx, value):
            heard = yield ctx.wait_for_event("Go")
            ctx.set_kv_value("heard", str(heard))
            if broken:
                raise KeyError("oops")
            more = yield ctx.wait_for_event("Go")
            return [heard, more]

        client.start_orchestration("one", "Flow")
        client.raise_event("one", "Go", 1)
        program.drain(max_steps=2_000)
        assert "oops" in client.get_status("one").error
        broken.clear()
        client.retry_instance("one")
        assert client.get_kv_all_values("one") == {}
        client.raise_event("one", "Go", 2)
        program.drain(max_steps=2_000)
        assert client.get_status("one").output == [1, 2]
        assert client.get_kv_all_values("one") == {"heard": "1"}

    def test_begins_anew_when_nothing_had_arrived(self, program, client):
        broken = [True]

        @program.orchestration("Flow")
        def flow(ctx, value):
            if broken:
                raise KeyError("oops")
            return value

        client.start_orchestration("one", "Flow", 5)
        program.drain(max_steps=2_000)
        broken.clear()
        assert client.retry_instance("one").kept_events == 0
        program.drain(max_steps=2_000)
        assert client.get_status("one").output == 5

    def test_begins_a_later_execution_anew(self, program, client):
        broken = [True]

        @program.orchestration("Flow")
        def flow(ctx, value):
            ctx.set_kv_value("round", str(value))
            if value == 2 and broken:
                raise KeyError("oops")
            if value < 2:
                yield ctx.continue_as_new(value + 1)
            return [ctx.execution_id, value]

        client.start_orchestration("one", "Flow", 0)
        program.drain(max_steps=2_000)
        assert client.get_status("one").status == "Failed"
        broken.clear()
        client.retry_instance("one")
        assert client.get_kv_value("one", "round") == "1"
        program.drain(max_steps=2_000)
        assert client.get_status("one").output == [3, 2]
        assert client.get_kv_value("one", "round") == "2"

    def test_takes_the_failed_child_along(self, program, switch, client, backend):
        @program.orchestration("Child")
        def child(ctx, value):
            return (yield ctx.schedule_activity("Work", "it"))

        @program.orchestration("Parent")
        def parent(ctx, value):
            return (yield ctx.schedule_sub_orchestration_with_id("Child", "kid"))

        client.start_orchestration("one", "Parent")
        program.drain(max_steps=2_000)
        assert client.get_status("one").status == "Failed"
        with pytest.raises(InvalidArgument, match="root"):
            client.retry_instance("kid")
        switch["good"] = True
        assert client.retry_instance("one").instance_ids == ["one", "kid"]
        assert_healthy(backend)
        program.drain(max_steps=2_000)
        assert client.get_status("one").output == "it done"
        assert client.get_status("kid").output == "it done"

    def test_revives_a_cancelled_instance_with_its_mail(self, program, client, backend):
        @program.orchestration("Flow")
        def flow(ctx, value):
            first = yield ctx.dequeue_event("in")
            yield ctx.wait_for_event("Go")
            return [first, (yield ctx.dequeue_event("in")), (yield ctx.dequeue_event("in"))]

        client.start_orchestration("one", "Flow")
        for number in range(3):
            client.enqueue_event("one", "in", number)
        program.drain(max_steps=2_000)
        client.cancel_instance("one", "a mistake")
        program.drain(max_steps=2_000)
        assert client.get_status("one").is_cancelled
        client.retry_instance("one")
        assert_healthy(backend)
        client.raise_event("one", "Go")
        program.drain(max_steps=2_000)
        result = client.get_status("one")
        assert (result.output, result.is_cancelled) == ([0, 1, 2], False)

    def test_keeps_what_a_handled_failure_led_to(self, program, switch, client):
        """A failure that the code caught is part of the good history."""
        broken = [True]

        @program.activity("Plan B")
        def plan_b(ctx, value):
            switch["calls"].append("b")

        @program.orchestration("Flow")
        def flow(ctx, value):
            try:
                yield ctx.schedule_activity("Work", "it")
            except ActivityFailed:
                yield ctx.schedule_activity("Plan B")
            if broken:
                raise KeyError("oops")
            return "ended"

        client.start_orchestration("one", "Flow")
        program.drain(max_steps=2_000)
        broken.clear()
        client.retry_instance("one")
        program.drain(max_steps=2_000)
        assert client.get_status("one").output == "ended"
        assert switch["calls"] == ["it", "b"]

    def test_is_noticed_by_a_worker_that_saw_it_fail(self, program, switch, client, start_runtime):
        @program.orchestration("Flow")
        def flow(ctx, value):
            return (yield ctx.schedule_activity("Work", "it"))

        start_runtime()
        start_runtime()
        client.start_orchestration("one", "Flow")
        for _ in range(3):
            assert client.wait_for_orchestration("one").status == "Failed"
            client.retry_instance("one")
        assert client.wait_for_orchestration("one").status == "Failed"
        switch["good"] = True
        client.retry_instance("one")
        assert client.wait_for_orchestration("one").output == "it done"
        assert len(switch["calls"]) == 5

    def test_only_failed_instances(self, program, client, verbs):
        program.orchestration("Flow")(lambda ctx, value: "ended")
        client.start_orchestration("one", "Flow")
        with pytest.raises(InvalidArgument, match="not failed"):
            client.retry_instance("one")
        program.drain(max_steps=2_000)
        with pytest.raises(InvalidArgument, match="Completed"):
            client.retry_instance("one")
        with pytest.raises(InstanceNotFound):
            client.retry_instance("two")
        assert verbs() == []


class TestCommand:
    def test_offers_every_verb(self, program, switch, client, capsys):
        @program.orchestration("Flow")
        def flow(ctx, value):
            return (yield ctx.schedule_activity("Work", "it"))

        def duroxide(*arguments):
            capsys.readouterr()
            call_command("duroxide", *arguments, "--json")
            return json.loads(capsys.readouterr().out)

        client.start_orchestration("one", "Flow")
        duroxide("pause", "one", "--reason", "wait", "--actor", "ann")
        duroxide("resume", "one")
        program.drain(max_steps=2_000)
        assert duroxide("retry", "one")["rescheduled"] == ["Work#2"]
        program.drain(jump=False, options=RuntimeOptions(worker_concurrency=0))
        duroxide("retry-activity", "one", "2")
        duroxide("fail-activity", "one", "2", "--error", "no")
        program.drain(max_steps=2_000)
        duroxide("retry", "one")
        program.drain(jump=False, options=RuntimeOptions(worker_concurrency=0))
        duroxide("complete-activity", "one", "2", "--result", "[1]")
        program.drain(max_steps=2_000)
        assert client.get_status("one").output == [1]
        records = duroxide("audit", "one")
        verbs = ["pause", "resume", "retry", "retry_activity_now", "fail_activity", "retry", "complete_activity"]
        assert [record["verb"] for record in reversed(records)] == verbs
        assert records[-1]["actor"] == "ann"
        assert records[0]["actor"]
