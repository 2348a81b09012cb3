"""Spec 13.9 with W27: a cancel, the clean-up it allows, and the bound of that."""

from __future__ import annotations

import contextlib

import pytest

from duroxide_django.engine import limits
from duroxide_django.engine.outcome import EngineOptions
from duroxide_django.exceptions import OrchestrationCancelled
from tests.engine.harness import Life, begun


def waits(ctx, input):
    yield ctx.schedule_activity("A")


def cleans_up(ctx, input):
    try:
        yield ctx.schedule_activity("Reserve")
    except OrchestrationCancelled as exc:
        yield ctx.schedule_activity("Release", exc.reason)
        ctx.set_custom_status("released")
        raise


def never_ends(ctx, input):
    while True:
        with contextlib.suppress(Exception):  # the common slip that the bound is for
            yield ctx.schedule_activity("Check")


class TestACancel:
    def test_ends_the_instance_as_failed_with_the_reason(self):
        """Status Failed, text ``canceled: <reason>``, and a kind by which it can be told from other failures."""
        life = begun(waits)
        life.turn(life.cancel("sold out"))
        assert life.failure.message == "canceled: sold out"
        assert life.failure.is_cancelled
        assert life.failure.is_application
        assert life.new_kinds == ["OrchestrationCancelRequested", "ActivityCancelRequested", "OrchestrationFailed"]
        assert life.result.cancelled_activities == [2]

    def test_without_a_reason_has_an_empty_one(self):
        """The text ends after the colon."""
        life = begun(waits)
        life.turn(life.cancel(""))
        assert life.failure.message == "canceled: "

    def test_is_recorded_once(self):
        """Of repeated cancels the first reason wins."""
        life = begun(cleans_up)
        life.turn(life.cancel("first"), life.cancel("second"))
        life.turn(life.cancel("third"))
        life.turn(life.completed("Release"))
        assert life.kinds.count("OrchestrationCancelRequested") == 1
        assert life.failure.message == "canceled: first"

    def test_before_the_first_turn_takes_effect_in_it(self):
        """The function runs to its first yield; what it asked for there is never enqueued."""
        life = Life(waits)
        life.start(life.cancel("at once"))
        assert life.failure.message == "canceled: at once"
        assert life.kinds == [
            "OrchestrationStarted",
            "OrchestrationCancelRequested",
            "ActivityScheduled",
            "ActivityCancelRequested",
            "OrchestrationFailed",
        ]
        assert life.result.activities == []

    def test_leaves_messages_before_it_in_force(self):
        """What the batch holds before the cancel is applied first."""
        life = begun(lambda ctx, input: (yield ctx.all([ctx.schedule_activity("A"), ctx.wait_for_event("e")])))
        life.turn(life.completed("A"), life.cancel())
        assert life.new_kinds[:2] == ["ActivityCompleted", "OrchestrationCancelRequested"]

    def test_reaches_all_children(self):
        """Every outstanding child is told, with the reason ``parent canceled``."""

        def orchestration(ctx, input):
            yield ctx.all([ctx.schedule_sub_orchestration("C"), ctx.schedule_sub_orchestration_with_id("C", "c-2")])

        life = begun(orchestration)
        life.turn(life.cancel())
        assert life.result.cancelled_children == [("order-1::sub::2", "parent canceled"), ("c-2", "parent canceled")]

    def test_keeps_detached_starts_of_its_turn(self):
        """W7: what was started detached stays started."""

        def orchestration(ctx, input):
            yield ctx.schedule_activity("A")
            yield ctx.start_orchestration("Audit", "audit-1")
            yield ctx.schedule_activity("B")

        life = begun(orchestration)
        life.turn(life.completed("A"), life.cancel())
        assert life.detached == ["audit-1"]


class TestCleanUp:
    def test_gets_the_cancel_at_its_yield(self):
        """The exception carries the reason; the task that was waited for is given up."""
        life = begun(cleans_up)
        life.turn(life.cancel("sold out"))
        assert life.result.outcome is None
        assert life.new_kinds == ["OrchestrationCancelRequested", "ActivityScheduled", "ActivityCancelRequested"]
        assert life.result.activities[0].input == '"sold out"'
        assert life.result.cancelled_activities == [2]

    def test_may_take_turns(self):
        """Steps of clean-up are ordinary steps; the end is a cancellation whatever they return."""
        life = begun(cleans_up)
        life.turn(life.cancel("sold out"))
        life.turn(life.completed("Release"))
        assert life.failure.message == "canceled: sold out"
        assert life.custom_status == "released"

    @pytest.mark.parametrize("ending", ["return", "raise"])
    def test_decides_nothing_about_the_outcome(self, ending):
        """A cancelled function that returns, or fails otherwise, is cancelled."""

        def orchestration(ctx, input):
            try:
                yield ctx.schedule_activity("A")
            except OrchestrationCancelled:
                if ending == "return":
                    return "all is well"
                raise KeyError("lost") from None

        life = begun(orchestration)
        life.turn(life.cancel("r"))
        assert life.failure.message == "canceled: r"

    def test_can_not_renew_the_execution(self):
        """continue_as_new in a cancelled function ends it."""

        def orchestration(ctx, input):
            try:
                yield ctx.schedule_activity("A")
            except OrchestrationCancelled:
                yield ctx.continue_as_new()

        life = begun(orchestration)
        life.turn(life.cancel("r"))
        assert life.failure.is_cancelled

    def test_is_not_given_to_blocks(self):
        """Blocks inside all or race are closed; the cancel is raised at the function's own yield."""
        seen = []

        def block(ctx):
            try:
                yield ctx.schedule_activity("A")
            except OrchestrationCancelled:
                seen.append("block")

        def orchestration(ctx, input):
            try:
                yield ctx.all([block(ctx)])
            except OrchestrationCancelled:
                seen.append("function")

        life = begun(orchestration, checks=False)
        life.turn(life.cancel())
        assert seen == ["function"]


class TestTheBound:
    @pytest.mark.parametrize("keeps", [True, False], ids=["kept", "replayed"])
    @pytest.mark.parametrize("after_ms", [10, 0], ids=["time passes", "time stands still"])
    def test_is_a_number_of_turns(self, keeps, after_ms):
        """A function that swallows its cancel is ended after so many turns, replayed or not, at any speed."""
        life = begun(never_ends, options=EngineOptions(cancel_cleanup_turns=3), keeps=keeps)
        life.turn(life.cancel("r"), after_ms=after_ms)
        turns = 0
        while life.result.outcome is None:
            turns += 1
            life.turn(life.completed("Check"), after_ms=after_ms)
        assert turns == 3
        assert life.failure.message == "canceled: r"
        assert life.result.cancelled_activities == []
        assert life.result.events[-2].reason == "orchestration_terminal_failed"
        assert ("warning", "clean-up after cancel took 3 turns; ended") in life.traces

    def test_is_twenty_turns_by_default(self):
        """Enough for a saga, too little for a loop."""
        life = begun(never_ends)
        life.turn(life.cancel())
        turns = 0
        while life.result.outcome is None:
            turns += 1
            life.turn(life.completed("Check"))
        assert turns == 20

    def test_of_zero_forbids_clean_up(self):
        """The turn that takes the cancel is the last; what the function asked for is not enqueued."""
        life = begun(cleans_up, options=EngineOptions(cancel_cleanup_turns=0))
        life.turn(life.cancel("r"))
        assert life.failure.message == "canceled: r"
        assert life.result.activities == []

    def test_counts_turns_with_many_completions_once(self):
        """Twenty activities that complete together are one turn of clean-up."""

        def orchestration(ctx, input):
            try:
                yield ctx.wait_for_event("never")
            except OrchestrationCancelled:
                yield ctx.all([ctx.schedule_activity("Release", number) for number in range(20)])
                yield ctx.schedule_activity("Close")

        life = begun(orchestration, options=EngineOptions(cancel_cleanup_turns=2))
        life.turn(life.cancel("r"), after_ms=0)
        life.turn(*[life.completed(event_id) for event_id in list(life.activities)], after_ms=0)
        assert life.result.outcome is None
        life.turn(life.completed("Close"), after_ms=0)
        assert life.failure.message == "canceled: r"
        assert not [trace for trace in life.traces if "clean-up" in trace[1]]

    def test_holds_for_a_clean_up_that_never_waits(self, monkeypatch):
        """A loop over tasks that resolve at once would hold its worker up for ever."""
        monkeypatch.setattr(limits, "MAX_STEPS_WITHOUT_WAITING", 50)

        def orchestration(ctx, input):
            try:
                yield ctx.wait_for_event("never")
            except OrchestrationCancelled:
                while True:
                    yield ctx.utc_now()

        life = begun(orchestration)
        life.turn(life.cancel("r"))
        assert life.failure.message == "canceled: r"


class TestForce:
    def test_ends_at_once(self):
        """No exception is thrown in, no clean-up runs; in-flight work is cancelled with the end."""
        life = begun(cleans_up)
        life.turn(life.cancel("now", force=True))
        assert life.failure.message == "canceled: now"
        assert life.new_kinds == ["OrchestrationCancelRequested", "ActivityCancelRequested", "OrchestrationFailed"]
        assert life.result.events[0].force is True

    def test_ends_a_clean_up_that_takes_too_long(self):
        """The first reason stays; the request is recorded, so that a replay ends there too."""
        life = begun(cleans_up)
        life.turn(life.cancel("first"))
        life.turn(life.cancel("second", force=True))
        assert life.failure.message == "canceled: first"
        assert life.kinds.count("OrchestrationCancelRequested") == 2

    def test_closes_the_function_with_an_inert_context(self):
        """finally blocks run, without effect."""

        def orchestration(ctx, input):
            try:
                yield ctx.schedule_activity("A")
            finally:
                ctx.set_custom_status("left")

        life = begun(orchestration)
        life.turn(life.cancel(force=True))
        assert life.custom_status is None

    def test_cancels_children(self):
        """As an ordinary cancel does."""
        life = begun(lambda ctx, input: (yield ctx.schedule_sub_orchestration("C")))
        life.turn(life.cancel(force=True))
        assert life.result.cancelled_children == [("order-1::sub::2", "parent canceled")]
