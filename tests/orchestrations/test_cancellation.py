"""Spec 13.9 with W27: cancelling instances by the public API."""

from __future__ import annotations

import contextlib

import pytest

from duroxide_django import InstanceNotFound, OrchestrationCancelled


@pytest.fixture
def saga(works):
    """Reserves, waits, and releases what it reserved when it is cancelled."""

    @works.orchestration
    def order(ctx, input):
        yield ctx.schedule_activity("reserve", input)
        try:
            yield ctx.wait_for_event("paid")
        except OrchestrationCancelled as exc:
            ctx.set_custom_status("releasing")
            yield ctx.schedule_timer(1_000)
            yield ctx.schedule_activity("release", exc.reason)
            ctx.set_custom_status("released")
            raise

    for name in ("reserve", "release"):
        works.recording(name)
    return works


class TestACancel:
    def test_lets_the_function_clean_up(self, saga):
        """It learns the reason, may take turns and timers, and ends cancelled."""
        saga.start("o-1", "order", "tea")
        assert saga.client.cancel_instance("o-1", "sold out") is True
        saga.run()
        assert (saga.status("o-1").status, saga.status("o-1").custom_status) == ("Running", "releasing")
        saga.finish()
        result = saga.status("o-1")
        assert (result.status, result.error, result.is_cancelled) == ("Failed", "canceled: sold out", True)
        assert result.custom_status == "released"
        assert saga.calls == ["tea", "sold out"]

    def test_takes_the_first_of_several_reasons(self, saga):
        """Later cancels change nothing, in one batch or later."""
        saga.start("o-1", "order")
        for reason in ("first", "second"):
            saga.client.cancel_instance("o-1", reason)
        saga.run()
        saga.client.cancel_instance("o-1", "third")
        saga.finish()
        assert saga.error("o-1") == "canceled: first"
        assert saga.kinds("o-1").count("OrchestrationCancelRequested") == 1

    def test_needs_no_reason(self, saga):
        """The text then ends after the colon."""
        saga.start("o-1", "order")
        saga.client.cancel_instance("o-1")
        saga.finish()
        assert saga.error("o-1") == "canceled: "

    def test_before_the_first_turn_takes_effect_in_it(self, saga):
        """Nothing that the function asked for is run."""
        saga.client.start_orchestration("o-1", "order", "tea")
        saga.client.cancel_instance("o-1", "at once")
        saga.run()
        assert saga.error("o-1") == "canceled: at once"
        assert (saga.calls, saga.queued()) == ([], (0, 0))

    def test_of_an_ended_instance_is_told(self, works):
        """False; the output stays."""
        works.orchestration(lambda ctx, input: "done", name="quick")
        works.start("q-1", "quick")
        assert works.client.cancel_instance("q-1") is False
        works.run()
        assert works.output("q-1") == "done"

    def test_of_an_unknown_instance_is_an_error(self, works):
        """W12."""
        with pytest.raises(InstanceNotFound):
            works.client.cancel_instance("nobody")

    def test_removes_what_is_in_flight(self, works):
        """Activities that nobody began, timers; nothing is left to wake the instance."""

        @works.orchestration
        def waits(ctx, input):
            yield ctx.all([ctx.schedule_activity("nobody serves this"), ctx.schedule_timer(60_000)])

        works.start("w-1", "waits")
        assert works.queued() == (1, 1)
        works.client.cancel_instance("w-1")
        works.run()
        assert works.queued() == (0, 0)

    def test_is_seen_by_lists_and_counts(self, saga):
        """Failed for old checks, cancelled for new ones."""
        saga.start("o-1", "order")
        saga.client.cancel_instance("o-1", "r")
        saga.finish()
        assert saga.client.list_instances_by_status("Failed") == ["o-1"]
        assert saga.client.get_instance_info("o-1").status == "Failed"
        assert saga.row("o-1").is_cancelled


class TestTheBoundOfCleanUp:
    @pytest.fixture
    def stubborn(self, works):
        """Swallows everything, for ever."""
        works.configure(CANCEL_CLEANUP_TURNS=5)
        works.recording("check")

        @works.orchestration
        def loops(ctx, input):
            while True:
                with contextlib.suppress(Exception):
                    yield ctx.schedule_activity("check")
                    yield ctx.schedule_timer(input)

        return works

    @pytest.mark.parametrize("pause_ms", [0, 1_000])
    def test_ends_a_function_that_swallows_its_cancel(self, stubborn, pause_ms):
        """So many turns later it is ended, whether time passes between them or not."""
        stubborn.client.start_orchestration("l-1", "loops", pause_ms)
        stubborn.client.cancel_instance("l-1", "enough")
        stubborn.finish()
        assert stubborn.error("l-1") == "canceled: enough"
        assert len(stubborn.calls) <= 5
        assert stubborn.queued() == (0, 0)

    def test_is_not_reached_by_an_ordinary_one(self, saga):
        """Three turns of clean-up under a bound of five."""
        saga.configure(CANCEL_CLEANUP_TURNS=5)
        saga.start("o-1", "order")
        saga.client.cancel_instance("o-1")
        saga.finish()
        assert saga.status("o-1").custom_status == "released"

    def test_may_be_zero(self, saga):
        """No clean-up at all."""
        saga.configure(CANCEL_CLEANUP_TURNS=0)
        saga.start("o-1", "order", "tea")
        saga.client.cancel_instance("o-1", "now")
        saga.run()
        assert saga.error("o-1") == "canceled: now"
        assert saga.calls == ["tea"]


class TestForce:
    def test_ends_at_once(self, saga):
        """No clean-up; the status is that of a cancellation."""
        saga.start("o-1", "order", "tea")
        saga.client.cancel_instance("o-1", "now", force=True)
        saga.run()
        result = saga.status("o-1")
        assert (result.status, result.error, result.is_cancelled) == ("Failed", "canceled: now", True)
        assert saga.calls == ["tea"]

    def test_ends_a_clean_up_under_way(self, saga):
        """Asked for after an ordinary cancel; the first reason stays."""
        saga.start("o-1", "order", "tea")
        saga.client.cancel_instance("o-1", "first")
        saga.run()
        saga.client.cancel_instance("o-1", "now", force=True)
        saga.run()
        assert saga.error("o-1") == "canceled: first"
        assert saga.calls == ["tea"]
        assert saga.queued() == (0, 0)

    @pytest.mark.parametrize("started", [True, False], ids=["running", "not begun"])
    def test_needs_no_code(self, saga, started):
        """An instance whose code is gone can still be ended, begun or not; its children are told."""

        @saga.orchestration
        def parent(ctx, input):
            yield ctx.schedule_sub_orchestration_with_id("order", "o-1")

        if started:
            saga.start("p-1", "parent")
        else:
            saga.client.start_orchestration("p-1", "parent")
        saga.deploy()
        saga.run()
        saga.client.cancel_instance("p-1", "orphan", force=True)
        saga.run()
        assert saga.error("p-1") == "canceled: orphan"
        assert saga.status("p-1").is_cancelled
        if started:
            assert saga.kinds("p-1")[-2:] == ["SubOrchestrationCancelRequested", "OrchestrationFailed"]
            saga.client.cancel_instance("o-1", force=True)
            saga.run()
            assert saga.status("o-1").error.startswith("canceled: ")

    def test_reaches_children_that_can_clean_up(self, saga):
        """Forcing the parent asks the children in the ordinary way."""

        @saga.orchestration
        def parent(ctx, input):
            yield ctx.schedule_sub_orchestration_with_id("order", "o-1", "tea")

        saga.start("p-1", "parent")
        saga.client.cancel_instance("p-1", "now", force=True)
        saga.finish()
        assert saga.error("o-1") == "canceled: parent canceled"
        assert saga.calls == ["tea", "parent canceled"]


class TestOneLifeAndTheNext:
    def test_late_completions_of_a_deleted_life_reach_nobody(self, works):
        """W29: an activity that deletes its instance and starts the id anew answers into the void."""
        begun = []

        @works.activity
        def restarts(ctx, input):
            if not begun:
                begun.append(1)
                ctx.get_client().delete_instance(ctx.instance_id, force=True)
                ctx.get_client().start_orchestration(ctx.instance_id, "flow", "second life")
                return "from the first life"
            return "from the second life"

        @works.orchestration
        def flow(ctx, input):
            return [input, (yield ctx.schedule_activity("restarts"))]

        works.start("f-1", "flow", "first life")
        assert works.output("f-1") == ["second life", "from the second life"]
        assert works.queued() == (0, 0)
