"""Spec 4.6 and 4.7: how an execution ends, and which of several ends counts."""

from __future__ import annotations

import contextlib
import copy

import pytest

from duroxide_django.engine import limits
from duroxide_django.engine.outcome import Completed, ContinuedAsNew, Failed
from duroxide_django.exceptions import InvalidTask
from tests.engine.harness import begun


def waits(ctx, input):
    return (yield ctx.schedule_activity("A"))


class TestTheFunction:
    @pytest.mark.parametrize("value", [None, "", 0, [], {"a": [1.5, None]}, "ünïcode ☃"])
    def test_gives_its_return_value_as_output(self, value):
        """Whatever JSON can carry comes out as it went in."""

        def orchestration(ctx, input):
            yield ctx.utc_now()
            return value

        assert begun(orchestration).output == value

    @pytest.mark.parametrize("function", [lambda ctx, input: input, lambda ctx, input: ctx.instance_id])
    def test_need_not_be_a_generator(self, function):
        """A plain function ends in its first turn."""
        life = begun(function, "order-1")
        assert life.output == "order-1"
        assert life.kinds == ["OrchestrationStarted", "OrchestrationCompleted"]

    def test_may_write_without_yielding(self):
        """A plain function may set its status and KV entries."""

        def orchestration(ctx, input):
            ctx.set_custom_status("quick")
            ctx.set_kv_value("k", 1)

        life = begun(orchestration)
        assert (life.custom_status, life.kv["k"][0]) == ("quick", "1")

    def test_may_not_be_async(self):
        """A coroutine can't be replayed; the failure says what to write instead."""

        async def orchestration(ctx, input):
            return 1

        assert "is async; write a generator" in begun(orchestration).failure.message

    def test_fails_with_class_and_message_of_what_it_raised(self):
        """W33: the text is short, the traceback is beside it, without the engine's frames mattering."""

        def orchestration(ctx, input):
            yield ctx.utc_now()
            raise LookupError("no such order")

        failure = begun(orchestration).failure
        assert (failure.category, failure.kind) == ("Application", "OrchestrationFailed")
        assert failure.message == "LookupError: no such order"
        assert failure.error_types[:2] == ("LookupError", "Exception")
        assert failure.traceback.startswith("Traceback")
        assert "LookupError: no such order" in failure.traceback

    @pytest.mark.parametrize("error", [SystemExit(1), GeneratorExit(), RecursionError("deep"), AssertionError()])
    def test_fails_by_any_error(self, error):
        """Also by those that are no Exception."""

        def orchestration(ctx, input):
            yield ctx.utc_now()
            raise error

        assert begun(orchestration).failure.message.startswith(type(error).__name__)

    def test_leaves_the_process_its_interrupt(self):
        """KeyboardInterrupt is not the orchestration's: it is never recorded."""

        def orchestration(ctx, input):
            yield ctx.utc_now()
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            begun(orchestration)

    def test_fails_when_its_output_is_no_json(self):
        """The failure gives the path of the offending value (spec 16.3)."""

        def orchestration(ctx, input):
            yield ctx.utc_now()
            return {"lines": [1, object()]}

        assert "$.lines[1] is of type object" in begun(orchestration).failure.message

    def test_passes_a_failure_it_does_not_catch_through(self):
        """The text of an activity's failure stays what it was, however many levels it climbs."""
        life = begun(waits)
        life.turn(life.failed("A", ValueError("no money")))
        assert life.failure.message == "ValueError: no money"
        assert "ValueError" in life.failure.error_types


class TestWhatIsNoTask:
    @pytest.mark.parametrize("yielded", [None, 5, "text", [], object(), lambda: None])
    def test_is_refused_at_the_yield(self, yielded):
        """The generator gets a TypeError that names what it yielded, and may catch it."""

        def orchestration(ctx, input):
            try:
                yield yielded
            except TypeError as exc:
                return [type(exc).__name__, type(yielded).__name__ in str(exc)]

        assert begun(orchestration).output == ["InvalidTask", True]

    def test_fails_the_instance_if_it_is_not_caught(self):
        """Uncaught, it is an application failure."""

        def orchestration(ctx, input):
            yield 5

        assert begun(orchestration).failure.error_types[0] == "InvalidTask"

    def test_is_a_task_that_is_iterated(self):
        """``yield from`` instead of ``yield`` is a common slip; the message says so."""

        def orchestration(ctx, input):
            yield from ctx.schedule_activity("A")

        assert "must be yielded with 'yield', not 'yield from'" in begun(orchestration).failure.message

    def test_is_refused_among_members(self):
        """all() and race() name the member that is no task, at the call."""

        def orchestration(ctx, input):
            messages = []
            for call in (lambda: ctx.all([ctx.utc_now(), 5]), lambda: ctx.race(ctx.utc_now(), None)):
                try:
                    call()
                except InvalidTask as exc:
                    messages.append(str(exc))
            return messages
            yield

        first, second = begun(orchestration).output
        assert first == "all(): member 1 is no task but int."
        assert second == "race(): member 1 is no task but NoneType."


class TestTasks:
    def test_are_inert_until_they_are_yielded(self):
        """A task that is never yielded leaves no trace."""

        def orchestration(ctx, input):
            ctx.schedule_activity("Never")
            ctx.continue_as_new("never")
            ctx.start_orchestration("Never", "never-1")
            yield ctx.schedule_activity("A")

        assert begun(orchestration).kinds == ["OrchestrationStarted", "ActivityScheduled"]

    def test_are_scheduled_as_often_as_they_are_yielded(self):
        """One task yielded twice is two activities."""

        def orchestration(ctx, input):
            task = ctx.schedule_activity("A")
            return [(yield task), (yield task)]

        life = begun(orchestration)
        life.turn(life.completed("A", 1))
        life.turn(life.completed("A", 2))
        assert life.output == [1, 2]

    def test_that_resolve_at_once_cost_no_turn(self):
        """A detached start and an empty all() go on in the same turn, thousands of them without harm."""

        def orchestration(ctx, input):
            for number in range(3000):
                assert (yield ctx.start_orchestration("Audit", f"audit-{number}")) is None
                assert (yield ctx.all([])) == []
            return "done"

        life = begun(orchestration, checks=False)
        assert life.output == "done"
        assert len(life.detached) == 3000

    def test_say_what_they_are(self):
        """Their repr is what error messages show."""
        shown = []

        def orchestration(ctx, input):
            shown.extend(
                [
                    ctx.schedule_activity("A"),
                    ctx.schedule_activity_with_retry("A"),
                    ctx.schedule_timer(5),
                    ctx.wait_for_event("e"),
                    ctx.dequeue_event("q"),
                    ctx.schedule_sub_orchestration("C"),
                    ctx.start_orchestration("C", "c-1"),
                    ctx.continue_as_new(),
                    ctx.new_guid(),
                    ctx.all([ctx.utc_now()]),
                    ctx.race(ctx.utc_now(), ctx.utc_now()),
                ]
            )
            yield ctx.utc_now()

        begun(orchestration, checks=False)
        assert [repr(task) for task in shown] == [
            "<activity 'A'>",
            "<activity 'A' with retries>",
            "<timer 5 ms>",
            "<wait for event 'e'>",
            "<dequeue from 'q'>",
            "<sub-orchestration 'C'>",
            "<detached start of 'C'>",
            "<continue as new>",
            "<__duroxide_syscall:new_guid>",
            "<all of 1>",
            "<race of 2>",
        ]
        assert all(shown), "a task is true: `if task` must not iterate it"

    def test_and_contexts_can_not_be_pickled(self):
        """A context in an activity's input is a mistake; the error says what to pass."""

        def orchestration(ctx, input):
            copy.deepcopy(ctx)
            yield

        assert "pass plain values to activities" in begun(orchestration).failure.message

    @pytest.mark.parametrize("limit", [-1, "5s", 1.5])
    def test_refuse_bad_time_limits(self, limit):
        """schedule_to_start_timeout_ms is checked at the call."""

        def orchestration(ctx, input):
            yield ctx.schedule_activity("A", schedule_to_start_timeout_ms=limit)

        assert "schedule_to_start_timeout_ms must" in begun(orchestration).failure.message


class TestPrecedence:
    """Several ends in one turn: system failure, cancel, continue-as-new, the function's own."""

    def test_a_cancel_beats_a_return(self):
        """The function returned in the turn that takes the cancel: it is cancelled all the same."""
        life = begun(waits)
        life.turn(life.completed("A"), life.cancel("late"))
        assert life.failure.message == "canceled: late"

    def test_a_cancel_beats_continue_as_new(self):
        """The next execution never begins."""

        def orchestration(ctx, input):
            yield ctx.schedule_activity("A")
            yield ctx.continue_as_new()

        life = begun(orchestration)
        life.turn(life.completed("A"), life.cancel())
        assert life.failure.is_cancelled
        assert life.history[-1].kind == "OrchestrationFailed"

    def test_a_system_failure_beats_a_cancel(self):
        """An activity that poisons its orchestration aborts it, though a cancel came first."""

        def orchestration(ctx, input):
            try:
                yield ctx.wait_for_event("never")
            finally:
                yield ctx.schedule_activity("Clean up")

        life = begun(orchestration)
        life.turn(life.cancel())
        life.turn(life.poisoned("Clean up"))
        assert life.failure.category == "Poison"

    def test_continue_as_new_beats_what_follows(self):
        """The generator is never resumed after it."""
        reached = []

        def orchestration(ctx, input):
            yield ctx.continue_as_new(1)
            reached.append(1)

        life = begun(orchestration)
        assert isinstance(life.result.outcome, ContinuedAsNew)
        assert reached == []

    def test_a_system_failure_can_not_be_caught(self):
        """Poison, nondeterminism and infrastructure failures abort; no except sees them."""

        def orchestration(ctx, input):
            try:
                yield ctx.schedule_activity("A")
            except BaseException:  # noqa: BLE001
                return "caught"

        life = begun(orchestration)
        life.turn(life.poisoned("A"))
        assert isinstance(life.result.outcome, Failed)
        assert life.failure.message.startswith("poison: ")

    @pytest.mark.parametrize(
        "task",
        [lambda ctx: ctx.utc_now(), lambda ctx: ctx.start_orchestration("Audit", "audit-1"), lambda ctx: "no task"],
    )
    def test_a_function_that_never_waits_is_ended(self, monkeypatch, task):
        """Or it would hold its worker up until the memory is full; no except sees it, and it replays."""
        monkeypatch.setattr(limits, "MAX_STEPS_WITHOUT_WAITING", 50)

        def orchestration(ctx, input):
            yield ctx.schedule_activity("A")
            while True:
                with contextlib.suppress(Exception):
                    yield task(ctx)

        life = begun(orchestration)
        life.turn(life.completed("A"))
        assert life.failure.message.startswith("infrastructure:turn: more than 50 tasks of one turn resolved at once")
        assert not life.failure.is_application

    def test_the_messages_after_the_end_are_ignored(self):
        """What the batch holds beyond the end leaves no event, and is told."""
        life = begun(waits)
        life.turn(life.completed("A"), life.raised("late"), life.completed(2))
        assert isinstance(life.result.outcome, Completed)
        assert life.new_kinds == ["ActivityCompleted", "OrchestrationCompleted"]
        assert len(life.result.ignored) == 2
