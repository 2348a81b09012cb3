"""run_orchestration(): an orchestration as a pure function of its stubs."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from decimal import Decimal
from unittest import mock

import pytest

from duroxide_django import (
    ActivityFailed,
    InvalidArgument,
    NondeterminismError,
    OrchestrationCancelled,
    PayloadError,
    SubOrchestrationFailed,
    TaskTimeout,
    orchestration,
)
from duroxide_django.registry import default_registry
from duroxide_django.testing import NEVER, MissingStub, run_orchestration

HOUR_MS = 60 * 60 * 1000


def checkout(ctx, order):
    ctx.set_custom_status("charging")
    receipt = yield ctx.schedule_activity("Charge", order)
    ctx.trace_info(f"charged {receipt}")
    first = yield ctx.race(ctx.wait_for_event("approved"), ctx.schedule_timer(24 * HOUR_MS))
    if first["index"] == 1:
        yield ctx.schedule_activity("Refund", receipt)
        ctx.reset_custom_status()
        return "expired"
    ctx.set_kv_value("by", first["value"])
    return (yield ctx.schedule_sub_orchestration("Shipping", order))


class TestOrchestrations:
    def test_give_their_output_and_say_what_they_did(self):
        ran = run_orchestration(
            checkout,
            {"id": 7},
            activities={"Charge": "R-7"},
            children={"Shipping": lambda order: f"parcel {order['id']}"},
            events=[("approved", "ada")],
        )
        assert (ran.status, ran.output, ran.error) == ("Completed", "parcel 7", None)
        assert ran.activities == [("Charge", {"id": 7})]
        assert ran.children == [("Shipping", {"id": 7})]
        assert ran.custom_statuses == ["charging"]
        assert ran.kv == {"by": "ada"}
        assert ran.traces == [("info", "charged R-7")]
        assert ran.elapsed_ms == 0

    def test_jump_over_time_when_nothing_else_happens(self):
        ran = run_orchestration(checkout, 7, activities={"Charge": "R-7", "Refund": None})
        assert ran.output == "expired"
        assert (ran.elapsed_ms, ran.timers) == (24 * HOUR_MS, [24 * HOUR_MS])
        assert ran.activities == [("Charge", 7), ("Refund", "R-7")]
        assert ran.custom_statuses == ["charging", None]

    def test_that_still_wait_say_for_what(self):
        def waits(ctx, _input):
            yield ctx.all([ctx.wait_for_event("go"), ctx.dequeue_event("inbox"), ctx.schedule_activity("Slow")])

        ran = run_orchestration(waits, activities={"Slow": NEVER}, events={"stop": 1})
        assert ran.status == "Running"
        assert ran.waits_for == ["event 'go'", "queue 'inbox'", "activity 'Slow'"]

    def test_that_raise_have_an_error(self):
        def raises(ctx, _input):
            raise ValueError("no")
            yield

        ran = run_orchestration(raises)
        assert (ran.status, ran.error) == ("Failed", "ValueError: no")

    def test_end_with_continue_as_new(self):
        def loops(ctx, count):
            yield ctx.schedule_timer(HOUR_MS)
            return (yield ctx.continue_as_new(count + 1))

        ran = run_orchestration(loops, 1)
        assert (ran.status, ran.output) == ("ContinuedAsNew", 2)

    def test_get_time_guids_and_values_of_others(self):
        def asks(ctx, _input):
            before = yield ctx.utc_now()
            yield ctx.schedule_timer(5)
            after = yield ctx.utc_now()
            guids = {(yield ctx.new_guid()), (yield ctx.new_guid())}
            other = yield ctx.get_kv_value_from_instance("other-1", "colour")
            return [after - before, len(guids), other, ctx.get_kv_value("mine"), ctx.instance_id]

        ran = run_orchestration(asks, kv={"mine": "1"}, kv_of={"other-1": {"colour": "red"}}, instance_id="order-7")
        assert ran.output == [5, 2, "red", "1", "order-7"]
        assert ran.activities == []

    def test_get_queue_messages_in_order(self):
        def reads(ctx, _input):
            return [(yield ctx.dequeue_event("inbox")), (yield ctx.dequeue_event("inbox"))]

        assert run_orchestration(reads, messages=[("inbox", "a"), ("inbox", {"b": 1})]).output == ["a", {"b": 1}]

    def test_start_others_without_waiting(self):
        def starts(ctx, _input):
            yield ctx.start_orchestration("Monitor", "monitor-1", {"id": 1})

        assert run_orchestration(starts).started == [("Monitor", {"id": 1})]

    def test_that_are_no_generators_return_at_once(self):
        assert run_orchestration(lambda ctx, input: input * 2, 4).output == 8

    def test_may_be_given_by_registered_name(self, monkeypatch):
        monkeypatch.setattr(default_registry, "orchestrations", {})
        default_registry.add_orchestration("Twice", lambda ctx, input: ["1.0.0", input])
        default_registry.add_orchestration("Twice", lambda ctx, input: [ctx.orchestration_version, input], "2.0.0")
        assert run_orchestration("Twice", 4).output == ["2.0.0", 4]
        with pytest.raises(
            InvalidArgument,
            match=r"no orchestration 'Twise' is registered \(did you mean 'Twice'\?\); give its function",
        ):
            run_orchestration("Twise")


class TestStubs:
    def test_that_are_missing_are_named_with_the_cure(self):
        with pytest.raises(MissingStub, match=r"'checkout' scheduled the activity 'Charge' with input 7.*activities="):
            run_orchestration(checkout, 7)

    def test_fail_with_an_exception(self):
        def tries(ctx, _input):
            try:
                yield ctx.schedule_activity("Charge")
            except ActivityFailed as exc:
                return [str(exc), exc.error_types[0]]

        assert run_orchestration(tries, activities={"Charge": OSError("down")}).output == ["OSError: down", "OSError"]
        assert run_orchestration(tries, activities={"Charge": KeyError}).output == ["KeyError: ", "KeyError"]

    def test_of_children_fail_as_children_do(self):
        def tries(ctx, _input):
            try:
                yield ctx.schedule_sub_orchestration("Child")
            except SubOrchestrationFailed as exc:
                return str(exc)

        assert run_orchestration(tries, children={"Child": ValueError("no")}).output == "ValueError: no"

    def test_are_asked_again_at_each_attempt(self):
        def retries(ctx, _input):
            return (yield ctx.schedule_activity_with_retry("Charge", 7, {"max_attempts": 3, "backoff": "fixed"}))

        charge = mock.Mock(side_effect=[OSError("down"), OSError("down"), "R-7"])
        ran = run_orchestration(retries, activities={"Charge": charge})
        assert ran.output == "R-7"
        assert charge.call_args_list == [mock.call(7)] * 3
        assert ran.activities == [("Charge", 7)] * 3
        assert ran.elapsed_ms == 2_000

    def test_that_never_answer_run_into_time_outs(self):
        def limited(ctx, policy):
            try:
                yield ctx.schedule_activity_with_retry("Charge", 7, {"backoff": "none", **policy})
            except TaskTimeout:
                return "timeout"

        for policy, tries, elapsed_ms in (
            ({"timeout_ms": 30_000}, 3, 90_000),
            ({"timeout_ms": 30_000, "retry_timeouts": False}, 1, 30_000),
            ({"timeout_ms": 30_000, "heartbeat_timeout_ms": 5_000, "max_attempts": 1}, 1, 5_000),
            ({"schedule_to_start_timeout_ms": 10_000}, 3, 30_000),
            ({"timeout_ms": 30_000, "total_timeout_ms": 45_000}, 2, 45_000),
        ):
            ran = run_orchestration(limited, policy, activities={"Charge": NEVER})
            assert (ran.output, len(ran.activities), ran.elapsed_ms) == ("timeout", tries, elapsed_ms), policy

    def test_that_never_answer_run_into_the_limits_of_a_plain_activity(self):
        def limited(ctx, limits):
            try:
                yield ctx.schedule_activity("Charge", **limits)
            except TaskTimeout as exc:
                return str(exc)

        for limit, text in (
            ("timeout_ms", "timeout: activity timed out"),
            ("heartbeat_timeout_ms", "timeout: activity sent no heartbeat for 70 ms"),
            ("schedule_to_start_timeout_ms", "timeout: no worker started activity 'Charge' in time"),
        ):
            ran = run_orchestration(limited, {limit: 70}, activities={"Charge": NEVER})
            assert (ran.output, ran.elapsed_ms) == (text, 70)

    def test_that_lost_a_race_run_into_nothing(self):
        def races(ctx, _input):
            yield ctx.race(ctx.schedule_activity("Charge", timeout_ms=50), ctx.schedule_timer(20))
            yield ctx.schedule_timer(100)

        assert run_orchestration(races, activities={"Charge": NEVER}).elapsed_ms == 120

    @pytest.mark.parametrize("stub", [TaskTimeout, TaskTimeout("timeout: activity timed out")])
    def test_time_out_with_its_exception(self, stub):
        def tries(ctx, _input):
            try:
                yield ctx.schedule_activity("Charge")
            except TaskTimeout as exc:
                return [str(exc), exc.error_types[0]]

        ran = run_orchestration(tries, activities={"Charge": stub})
        assert ran.output == ["timeout: activity timed out", "TaskTimeout"]

    def test_may_be_keyed_by_the_decorated_function(self):
        def charge(ctx, order):
            raise NotImplementedError

        charge.duroxide_activity_name = "Charge"

        def pays(ctx, order):
            return (yield ctx.schedule_activity(charge, order))

        assert run_orchestration(pays, 7, activities={charge: lambda order: order + 1}).output == 8

    def test_assert_for_the_test_itself(self):
        def expects(order):
            assert order == 8

        def swallows(ctx, order):
            try:
                yield ctx.schedule_activity("Charge", order)
            except ActivityFailed:
                return "swallowed"

        with pytest.raises(AssertionError, match="7"):
            run_orchestration(swallows, 7, activities={"Charge": expects})

    def test_must_give_what_json_can_carry(self):
        def pays(ctx, order):
            yield ctx.schedule_activity("Charge", order)

        with pytest.raises(PayloadError, match="result of the stub of 'Charge'"):
            run_orchestration(pays, activities={"Charge": mock.Mock()})

    def test_give_what_activities_would_after_a_journey_through_json(self):
        def pays(ctx, order):
            return (yield ctx.schedule_activity("Charge", order))

        assert run_orchestration(pays, activities={"Charge": (1, Decimal("2.5"))}).output == [1, "2.5"]


class TestCancelling:
    def test_lets_the_function_clean_up(self):
        def cleans_up(ctx, order):
            try:
                yield ctx.wait_for_event("never")
            except OrchestrationCancelled as exc:
                yield ctx.schedule_activity("Undo", exc.reason)
                raise

        ran = run_orchestration(cleans_up, 7, activities={"Undo": None}, cancel="changed my mind")
        assert (ran.status, ran.error) == ("Failed", "canceled: changed my mind")
        assert ran.activities == [("Undo", "changed my mind")]


class TestDeterminism:
    def test_is_demanded(self):
        numbers = itertools.count()

        def counts(ctx, _input):
            yield ctx.schedule_activity("Charge", next(numbers))
            yield ctx.schedule_activity("Charge", next(numbers))

        with pytest.raises(NondeterminismError, match="schedule mismatch"):
            run_orchestration(counts, activities={"Charge": None})

    def test_loops_without_end_are_given_up(self):
        def loops(ctx, _input):
            while True:
                yield ctx.schedule_timer(1)

        with pytest.raises(InvalidArgument, match="did not come to an end within 50 turns"):
            run_orchestration(loops, max_turns=50)


def test_needs_neither_settings_nor_a_database():
    """It works in a plain script, before Django is set up."""
    script = (
        "from duroxide_django.testing import run_orchestration\n"
        "def hello(ctx, name):\n"
        "    return (yield ctx.schedule_activity('Hello', name))\n"
        "import json; print(json.dumps(run_orchestration(hello, 'A', activities={'Hello': 'Hello, A!'}).output))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, env={})
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == "Hello, A!"


def test_the_version_is_that_of_the_registered_function():
    def which(ctx, _input):
        return ctx.orchestration_version
        yield

    assert run_orchestration(which).output == "1.0.0"
    registered = default_registry.orchestrations
    try:
        for version in ("1.2.0", "2.0.0"):
            orchestration("WhichVersion", version=version)(which if version == "1.2.0" else lambda ctx, _input: None)
        assert run_orchestration(which).output == "1.2.0"
        assert run_orchestration("WhichVersion").output is None
    finally:
        registered.pop("WhichVersion", None)
