"""Spec 4.5 and 4.7: what a function may notice of being replayed, kept, or thrown away."""

from __future__ import annotations

import gc

import pytest

from duroxide_django.engine.outcome import EngineOptions
from duroxide_django.exceptions import EngineError
from tests.engine.harness import Life, begun


class TestTheReplayingFlag:
    def watching(self, seen):
        def orchestration(ctx, input):
            seen.append(("start", ctx.is_replaying))
            yield ctx.schedule_activity("A")
            seen.append(("after A", ctx.is_replaying))
            yield ctx.schedule_activity("B")
            seen.append(("after B", ctx.is_replaying))

        return orchestration

    def test_is_false_while_the_execution_is_kept(self):
        """Code that runs for the first time is live."""
        seen = []
        life = begun(self.watching(seen), checks=False)
        life.turn(life.completed("A"))
        life.turn(life.completed("B"))
        assert seen == [("start", False), ("after A", False), ("after B", False)]

    def test_is_true_until_recorded_events_are_consumed(self):
        """A replay says so at every point that ran before, and no longer at the first new one."""
        life = begun(self.watching([]), checks=False)
        life.turn(life.completed("A"))
        seen = []
        life.live = life.replayed(self.watching(seen))
        life.turn(life.completed("B"))
        assert seen == [("start", True), ("after A", True), ("after B", False)]


class TestTraces:
    def telling(self, ctx, input):
        ctx.trace_info("started")
        ctx.trace_debug({"input": input})
        yield ctx.schedule_activity("A")
        ctx.trace_warn("A done")
        yield ctx.schedule_activity("B")
        ctx.trace_error("B done")

    @pytest.mark.parametrize("keeps", [True, False], ids=["kept", "replayed"])
    def test_come_once_each(self, keeps):
        """Replays are silent, whether they are needed or only check; messages are made text, levels kept."""
        life = begun(self.telling, 7, keeps=keeps)
        life.turn(life.completed("A"))
        life.turn(life.completed("B"))
        assert life.traces == [
            ("info", "started"),
            ("debug", "{'input': 7}"),
            ("warning", "A done"),
            ("error", "B done"),
        ]

    def test_of_the_retry_loop_are_silent_too(self):
        """The engine's own warnings obey the same rule."""

        def orchestration(ctx, input):
            yield ctx.schedule_activity_with_retry("A", None, {"max_attempts": 2, "backoff": "none"})

        life = begun(orchestration, keeps=False)
        life.turn(life.failed("A"))
        life.turn(life.completed("A"))
        assert life.traces == [("warning", "activity 'A' failed (RuntimeError: out of stock), attempt 1 of 2")]


class TestGeneratorsThatAreClosed:
    def tidy(self, ctx, input):
        try:
            yield ctx.schedule_activity("A")
        finally:
            ctx.set_custom_status("tidied")
            ctx.set_kv_value("tidied", 1)
            ctx.clear_all_kv_values()
            ctx.trace_info("tidied")

    def test_find_an_inert_context(self):
        """What a finally block does while its execution is thrown away has no effect (W22)."""
        life = begun(self.tidy, checks=False)
        life.live.close()
        assert life.traces == []
        assert (life.live.custom_status, life.live.kv.values(), list(life.live.unmatched)) == (None, {}, [])

    def test_act_when_the_function_really_ends(self):
        """The same block takes effect when the function gets there."""
        life = begun(self.tidy)
        life.turn(life.completed("A"))
        assert life.new_kinds[1:4] == ["CustomStatusUpdated", "KeyValueSet", "KeyValuesCleared"]
        assert (life.custom_status, life.traces) == ("tidied", [("info", "tidied")])

    def test_stay_inert_in_blocks_that_lose(self):
        """A block that lost a race is closed at once; its finally block decides nothing."""

        def orchestration(ctx, input):
            yield ctx.race(self.tidy(ctx, input), ctx.wait_for_event("go"))
            ctx.set_kv_value("mine", 2)
            return ctx.get_kv_all_values()

        life = begun(orchestration)
        life.turn(life.raised("go"))
        assert life.output == {"mine": "2"}
        assert life.custom_status is None

    def test_do_not_use_up_recorded_times(self):
        """A write that an inert context swallowed takes no recorded time from a later one (W23)."""

        def orchestration(ctx, input):
            yield ctx.race(self.tidy(ctx, input), ctx.wait_for_event("go"))
            ctx.set_kv_value("first", 1)
            yield ctx.wait_for_event("go")
            ctx.set_kv_value("second", 2)
            yield ctx.wait_for_event("go")

        life = begun(orchestration)
        life.turn(life.raised("go"))
        life.turn(life.raised("go"))
        assert life.replayed().kv._entries == life.kv

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
    def test_may_refuse_to_close(self):
        """A generator that yields again, or raises, while it is closed is reported and harms nobody."""

        def stubborn(ctx):
            try:
                yield ctx.schedule_activity("A")
            finally:
                yield ctx.schedule_activity("B")

        def leaves(ctx):
            try:
                yield ctx.schedule_activity("C")
            finally:
                raise SystemExit(3)

        def orchestration(ctx, input):
            yield ctx.race(stubborn(ctx), leaves(ctx), ctx.wait_for_event("go"))
            return "on"

        life = begun(orchestration)
        life.turn(life.raised("go"))
        gc.collect()
        assert life.output == "on"
        assert [level for level, _ in life.traces] == ["warning", "warning"]
        assert "SystemExit(3)" in life.traces[1][1]

    def test_run_no_turn_any_more(self):
        """A turn on an execution that was thrown away would record its losers as lost: it is refused."""
        life = begun(self.tidy)
        life.live.close()
        with pytest.raises(EngineError, match="closed execution"):
            life.turn()


class TestWhatIsFixedAtTheStart:
    def test_is_not_changed_by_settings(self):
        """Whether events are buffered was decided by the first turn; later settings don't touch it."""

        def orchestration(ctx, input):
            yield ctx.schedule_activity("A")
            return (yield ctx.wait_for_event("early"))

        life = begun(orchestration, options=EngineOptions(buffer_events=True), keeps=False)
        life.turn(life.raised("early", 1))
        life.options = EngineOptions(buffer_events=False)
        life.turn(life.completed("A"))
        assert life.output == 1

    def test_stays_strict_too(self):
        """The other way round: a strict execution stays strict."""

        def orchestration(ctx, input):
            yield ctx.schedule_activity("A")
            return (yield ctx.wait_for_event("early"))

        life = begun(orchestration, options=EngineOptions(buffer_events=False), keeps=False)
        life.turn(life.raised("early", 1))
        life.options = EngineOptions(buffer_events=True)
        life.turn(life.completed("A"))
        assert life.result.outcome is None


def test_a_context_tells_who_it_is():
    """Instance, execution, name and exact version are at hand."""

    def orchestration(ctx, input):
        return [ctx.instance_id, ctx.execution_id, ctx.orchestration_name, ctx.orchestration_version]

    assert begun(orchestration, instance_id="a/b").output == ["a/b", 1, "Workflow", "1.0.0"]


def test_a_history_of_a_thousand_steps_is_not_replayed_while_it_is_kept():
    """The function runs once however many turns there are (W22)."""
    runs = []

    def orchestration(ctx, input):
        runs.append(1)
        for number in range(1000):
            yield ctx.schedule_activity("A", number)

    life = Life(orchestration, checks=False)
    life.start()
    for _ in range(1000):
        life.turn(life.completed("A"))
    assert life.history[-1].kind == "OrchestrationCompleted"
    assert len(runs) == 1
