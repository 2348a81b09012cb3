"""Spec part 6: continue-as-new."""

from __future__ import annotations

import json

from duroxide_django.engine.outcome import ContinuedAsNew
from tests.engine.harness import begun


class TestTheOldExecution:
    def test_ends_with_the_next_input(self):
        """One terminal event, no schedule event; version None means the latest."""

        def orchestration(ctx, input):
            yield ctx.continue_as_new({"n": input["n"] + 1})

        life = begun(orchestration, {"n": 1})
        assert life.kinds == ["OrchestrationStarted", "OrchestrationContinuedAsNew"]
        assert life.result.outcome == ContinuedAsNew(input='{"n":2}', version=None)

    def test_may_name_a_version(self):
        """Exactly that version goes on; it is recorded."""

        def orchestration(ctx, input):
            yield ctx.continue_as_new_versioned(1, "2.0.0")

        life = begun(orchestration)
        assert life.result.outcome.version == "2.0.0"
        assert life.history[-1].version == "2.0.0"

    def test_may_be_written_as_a_return(self):
        """``return (yield ctx.continue_as_new(x))`` is the guide's other spelling."""

        def orchestration(ctx, input):
            return (yield ctx.continue_as_new("x"))

        assert json.loads(begun(orchestration).result.outcome.input) == "x"

    def test_is_not_ended_by_a_task_that_is_not_yielded(self):
        """Calling ctx.continue_as_new without yield does nothing."""

        def orchestration(ctx, input):
            ctx.continue_as_new("x")
            return "done"
            yield

        assert begun(orchestration).output == "done"

    def test_keeps_its_detached_starts(self):
        """W7: a detached start in the turn that continues as new is honoured."""

        def orchestration(ctx, input):
            yield ctx.start_orchestration("Audit", "audit-1")
            yield ctx.continue_as_new()

        assert begun(orchestration).detached == ["audit-1"]

    def test_tells_of_external_events_that_nobody_took(self):
        """They belong to the execution (spec 6) and go with it; not silently. The recorded history has them."""

        def orchestration(ctx, input):
            yield ctx.wait_for_event("go")
            yield ctx.continue_as_new()

        life = begun(orchestration)
        life.turn(life.raised("early", 1), life.raised("early", 2), life.raised("go"))
        ((level, message),) = life.traces
        assert level == "warning"
        assert message.startswith("2 external event(s) that no wait consumed end with this execution: early;")
        quiet = begun(orchestration)
        quiet.turn(quiet.raised("go"))
        assert quiet.traces == []


class TestTheNewExecution:
    def counting(self, ctx, input):
        if input == 3:
            return [ctx.execution_id, ctx.get_custom_status(), ctx.get_kv_all_values()]
        ctx.set_custom_status(f"round {input}")
        ctx.set_kv_value(f"round {input}", ctx.execution_id)
        yield ctx.continue_as_new(input + 1)

    def test_carries_status_and_kv(self):
        """The status is seeded without a new event; KV entries are there; execution ids count up."""
        life = begun(self.counting, 1)
        life.renew()
        life.renew()
        assert life.output == [3, "round 2", {"round 1": "1", "round 2": "2"}]
        assert life.history[0].initial_custom_status == "round 2"
        assert life.kinds == ["OrchestrationStarted", "OrchestrationCompleted"]

    def test_gets_the_mail_nobody_took(self):
        """W13: everything is carried, in order, before what arrives now."""

        def orchestration(ctx, input):
            got = yield ctx.dequeue_event("q")
            if got == 200:
                return "all"
            assert got == input
            yield ctx.continue_as_new(input + 1)

        life = begun(orchestration, 0)
        life.turn(*[life.queued("q", number) for number in range(200)])
        for _ in range(199):
            life.renew()
        life.renew(life.queued("q", 200))
        assert life.output == "all"

    def test_does_not_get_external_events(self):
        """Positional events belong to their execution."""

        def orchestration(ctx, input):
            if input is None:
                yield ctx.wait_for_event("go")
                yield ctx.continue_as_new(1)
            return (yield ctx.wait_for_event("early"))

        life = begun(orchestration)
        life.turn(life.raised("early", "old"), life.raised("go"))
        life.renew()
        assert life.result.outcome is None
        life.turn(life.raised("early", "new"))
        assert life.output == "new"

    def test_ignores_completions_of_the_old_one(self):
        """A late completion carries the old execution's number."""

        def orchestration(ctx, input):
            if input is None:
                yield ctx.race(ctx.schedule_activity("Slow"), ctx.wait_for_event("go"))
                yield ctx.continue_as_new(1)
            return (yield ctx.schedule_activity("Fast"))

        life = begun(orchestration)
        late = life.completed("Slow", "late")
        life.turn(life.raised("go"))
        assert life.result.cancelled_activities == [2]
        life.renew(late)
        life.turn(late)
        assert life.result.events == []
        assert "it belongs to execution 1" in life.result.ignored[0]
        life.turn(life.completed("Fast", "fast"))
        assert life.output == "fast"

    def test_starts_with_the_kv_times_of_the_old_one(self):
        """Pruning by time sees when an entry was really set."""

        def orchestration(ctx, input):
            if input is None:
                ctx.set_kv_value("old", 1)
                yield ctx.schedule_timer(60_000)
                yield ctx.continue_as_new((yield ctx.utc_now()))
            ctx.set_kv_value("new", 2)
            return [ctx.prune_kv_values_updated_before(input), ctx.get_kv_all_keys()]

        life = begun(orchestration)
        life.turn(life.fired())
        life.renew()
        assert life.output == [1, ["new"]]


def test_children_have_other_ids_in_each_execution():
    """The automatic id holds the execution, or the second execution's child would meet the first's (spec 7)."""

    def orchestration(ctx, input):
        yield ctx.schedule_sub_orchestration("C")
        yield ctx.continue_as_new()

    life = begun(orchestration)
    assert list(life.children.values()) == ["order-1::sub::2"]
    life.turn(life.child_completed("C"))
    life.renew()
    assert list(life.children.values()) == ["order-1::sub::2_2"]


def test_children_that_nobody_gave_up_live_on():
    """W8: a child of the old execution that lost no race is not cancelled; its answer finds nobody."""

    def orchestration(ctx, input):
        def renews():
            yield ctx.wait_for_event("go")
            yield ctx.continue_as_new()

        yield ctx.all([ctx.schedule_sub_orchestration("C"), renews()])

    life = begun(orchestration)
    life.turn(life.raised("go"))
    assert life.result.cancelled_children == []
    assert "SubOrchestrationCancelRequested" not in life.kinds
