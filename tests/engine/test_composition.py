"""Spec 4.8 with W1, W2, W3: all, race, nesting, blocks, fail_fast."""

from __future__ import annotations

import gc
import json

import pytest

from duroxide_django.engine import events
from duroxide_django.engine.limits import MAX_NESTING
from duroxide_django.engine.outcome import Completed
from duroxide_django.exceptions import ActivityFailed, InvalidTask, SubOrchestrationFailed, TaskTimeout
from tests.engine.harness import Life, begun


def yielding(make):
    """Return an orchestration that returns what the one task made by ``make`` gives."""

    def orchestration(ctx, input):
        return (yield make(ctx))

    return orchestration


def step(ctx, *names):
    """A block of activities, one after another; gives their results."""
    if not names:
        return []
    first = yield ctx.schedule_activity(names[0])
    return [first, *(yield from step(ctx, *names[1:]))]


class TestAll:
    def test_keeps_the_order_of_its_members(self):
        """Results stand where their tasks stood, whichever came first."""
        life = begun(yielding(lambda ctx: ctx.all([ctx.schedule_activity(name) for name in "ABC"])))
        life.turn(life.completed("C", 3))
        life.turn(life.completed("A", 1), life.completed("B", 2))
        assert life.output == [{"ok": 1}, {"ok": 2}, {"ok": 3}]

    def test_wraps_failures_instead_of_raising(self):
        """A failed member gives its text; the others are waited for."""
        life = begun(yielding(lambda ctx: ctx.all([ctx.schedule_activity("A"), ctx.schedule_activity("B")])))
        life.turn(life.failed("A", ValueError("no")))
        assert life.result.outcome is None
        life.turn(life.completed("B", 2))
        assert life.output == [{"err": "ValueError: no"}, {"ok": 2}]

    def test_takes_every_kind_of_task(self):
        """Timers give None, waits and dequeues their data, values of the engine themselves (W3)."""
        life = begun(
            yielding(
                lambda ctx: ctx.all(
                    [
                        ctx.schedule_timer(5),
                        ctx.wait_for_event("e"),
                        ctx.dequeue_event("q"),
                        ctx.schedule_sub_orchestration("Child"),
                        ctx.schedule_activity_with_retry("R"),
                        ctx.new_guid(),
                        ctx.start_orchestration("Audit", "audit-1"),
                    ]
                )
            )
        )
        life.turn(life.raised("e", "E"), life.queued("q", "Q"), life.child_completed("Child", "C"))
        life.turn(life.completed("R", "R"), life.fired())
        assert [entry["ok"] for entry in life.output] == [None, "E", "Q", "C", "R", "guid-1", None]

    def test_of_nothing_gives_an_empty_list_at_once(self):
        """No event, no turn."""
        life = begun(yielding(lambda ctx: ctx.all([])))
        assert (life.output, life.kinds) == ([], ["OrchestrationStarted", "OrchestrationCompleted"])

    def test_parses_an_error_text_that_is_json(self):
        """A text that is JSON of a non-string comes parsed, as it always did (spec 4.8)."""

        class Coded(Exception):
            pass

        def orchestration(ctx, input):
            def fails():
                yield ctx.utc_now()
                raise Coded('{"code": 7}')

            return (yield ctx.all([fails()]))

        assert begun(orchestration).output == [{"err": {"code": 7}}]

    def test_typed_gives_bare_values(self):
        """all_typed unwraps what succeeded and leaves failures wrapped."""
        life = begun(yielding(lambda ctx: ctx.all_typed([ctx.schedule_activity("A"), ctx.schedule_activity("B")])))
        life.turn(life.completed("A", 1), life.failed("B", "no"))
        assert life.output == [1, {"err": "RuntimeError: no"}]

    def test_has_no_upper_bound(self):
        """Thousands of members, completed in one turn."""
        life = Life(yielding(lambda ctx: ctx.all([ctx.schedule_activity("A", n) for n in range(3000)])), checks=False)
        life.start()
        life.turn(*[life.completed(event_id, event_id) for event_id in list(life.activities)])
        assert [entry["ok"] for entry in life.output] == list(range(2, 3002))

    @pytest.mark.parametrize("members", [5, "ab", {"a": 1}, None])
    def test_takes_only_a_collection_of_tasks(self, members):
        """What is no list of tasks is refused at the call."""
        life = begun(yielding(lambda ctx: ctx.all(members)))
        assert life.failure.error_types[0] == "InvalidTask"

    def test_takes_any_iterable(self):
        """A generator expression is a list of tasks; a block must stand in a list."""
        assert begun(yielding(lambda ctx: ctx.all(ctx.utc_now() for _ in range(2)))).output[1]["ok"]
        failure = begun(yielding(lambda ctx: ctx.all(step(ctx, "A")))).failure
        assert "put the generator into the list" in failure.message


class TestFailFast:
    def make(self, *names):
        return yielding(lambda ctx: ctx.all([ctx.schedule_activity(name) for name in names], fail_fast=True))

    def test_gives_bare_values(self):
        """Nothing to unwrap when nothing failed."""
        life = begun(self.make("A", "B"))
        life.turn(life.completed("B", 2), life.completed("A", 1))
        assert life.output == [1, 2]

    def test_raises_the_first_failure_and_cancels_the_rest(self):
        """W1b: the others are given up as losers of a race are."""
        life = begun(self.make("A", "B", "C"))
        life.turn(life.completed("A", 1))
        life.turn(life.failed("C", ValueError("no")))
        assert life.failure.message == "ValueError: no"
        assert life.new_kinds == ["ActivityFailed", "ActivityCancelRequested", "OrchestrationFailed"]
        assert life.result.cancelled_activities == [3]

    def test_can_be_caught(self):
        """The failure is raised at the yield, with its type."""

        def orchestration(ctx, input):
            try:
                yield ctx.all([ctx.schedule_activity("A"), ctx.schedule_timer(5)], fail_fast=True)
            except ActivityFailed as exc:
                return [exc.name, str(exc)]

        life = begun(orchestration)
        life.turn(life.failed("A", "no"))
        assert life.output == ["A", "RuntimeError: no"]

    def test_notices_a_member_that_failed_at_once(self):
        """A block that raises before it waits for anything."""

        def fails(ctx):
            yield ctx.utc_now()
            raise ValueError("at once")

        def orchestration(ctx, input):
            yield ctx.all([ctx.schedule_activity("A"), fails(ctx)], fail_fast=True)

        assert begun(orchestration).failure.message == "ValueError: at once"


class TestRace:
    @pytest.mark.parametrize("count", [1, 2, 3, 7])
    def test_takes_one_to_many_tasks(self, count):
        """W1: the winner's index and value; the others are given up."""
        life = begun(yielding(lambda ctx: ctx.race(*[ctx.schedule_activity(f"A{n}") for n in range(count)])))
        life.turn(life.completed(f"A{count - 1}", "won"))
        assert life.output == {"index": count - 1, "value": "won"}
        assert life.new_kinds.count("ActivityCancelRequested") == count - 1

    def test_of_nothing_is_refused(self):
        """Nobody could win."""
        assert "at least one task" in begun(yielding(lambda ctx: ctx.race())).failure.message

    def test_takes_a_list_too(self):
        """race([a, b]) is race(a, b)."""
        life = begun(yielding(lambda ctx: ctx.race([ctx.schedule_activity("A"), ctx.schedule_timer(5)])))
        life.turn(life.fired())
        assert life.output == {"index": 1, "value": None}

    def test_is_won_by_the_first_in_history(self):
        """The order of completions in the batch decides, not that of the members."""
        life = begun(yielding(lambda ctx: ctx.race(ctx.schedule_activity("A"), ctx.schedule_activity("B"))))
        life.turn(life.completed("B", 2), life.completed("A", 1))
        assert life.output == {"index": 1, "value": 2}

    def test_is_won_by_the_lower_index_when_both_are_there(self):
        """Two dequeues with messages waiting: the first member wins, the other's message stays."""
        life = Life(yielding(lambda ctx: ctx.race(ctx.dequeue_event("a"), ctx.dequeue_event("b"))))
        life.start(life.queued("b", 2), life.queued("a", 1))
        assert life.output == {"index": 0, "value": 1}
        assert [mail.data for mail in life.mail.values()] == ["2"]

    def test_raises_what_the_winner_raised(self):
        """A winner that failed raises exactly what yielding it alone would (appendix A 9)."""

        def orchestration(ctx, input):
            try:
                yield ctx.race(ctx.schedule_activity("A"), ctx.schedule_timer(5))
            except ActivityFailed as exc:
                return [exc.name, exc.event_id, str(exc)]

        life = begun(orchestration)
        life.turn(life.failed("A", KeyError("k")))
        assert life.output == ["A", 2, "KeyError: 'k'"]

    def test_raises_a_childs_failure_with_its_type(self):
        """The same for children."""

        def orchestration(ctx, input):
            try:
                yield ctx.race(ctx.schedule_sub_orchestration("C"), ctx.schedule_timer(5))
            except SubOrchestrationFailed as exc:
                return [exc.name, exc.cancelled]

        life = begun(orchestration)
        life.turn(life.child_failed("C"))
        assert life.output == ["order-1::sub::2", False]

    @pytest.mark.parametrize("call", ["all", "race"])
    def test_and_all_refuse_continue_as_new(self, call):
        """It ends the execution, so it can't be one of several."""

        def orchestration(ctx, input):
            with pytest.raises(InvalidTask, match="continue_as_new, which must be yielded alone"):
                getattr(ctx, call)([ctx.utc_now(), ctx.continue_as_new()])
            return "refused"
            yield

        assert begun(orchestration).output == "refused"


class TestNesting:
    def test_gives_the_inner_result_as_the_outer_value(self):
        """W2: a race of races, as the guide recommends for three tasks."""
        life = begun(
            yielding(
                lambda ctx: ctx.race(
                    ctx.race(ctx.schedule_activity("A"), ctx.schedule_activity("B")), ctx.schedule_activity("C")
                )
            )
        )
        life.turn(life.completed("B", "b"))
        assert life.output == {"index": 0, "value": {"index": 1, "value": "b"}}

    def test_cancels_inner_losers_with_the_outer_loser(self):
        """Everything below a loser is given up."""
        life = begun(
            yielding(
                lambda ctx: ctx.race(
                    ctx.all([ctx.schedule_activity("A"), ctx.race(ctx.schedule_activity("B"), ctx.dequeue_event("q"))]),
                    ctx.wait_for_event("go"),
                )
            )
        )
        life.turn(life.raised("go"))
        assert life.output == {"index": 1, "value": None}
        assert sorted(life.result.cancelled_activities) == [2, 3]
        assert "QueueSubscriptionCancelled" in life.new_kinds

    def test_goes_to_any_depth(self):
        """Fifty levels of all and race."""

        def nested(ctx, depth):
            if depth == 0:
                return ctx.schedule_activity("A")
            inner = nested(ctx, depth - 1)
            return ctx.race(inner, ctx.wait_for_event("never")) if depth % 2 else ctx.all([inner])

        life = begun(yielding(lambda ctx: nested(ctx, 50)))
        life.turn(life.completed("A", "deep"))
        assert json.dumps(life.output).count("deep") == 1

    @pytest.mark.parametrize(
        "around", [lambda ctx, task: ctx.race(task), lambda ctx, task: ctx.all([task], fail_fast=True)]
    )
    def test_has_a_bound_that_is_told(self, around):
        """What Python's stack can't hold is refused at the yield; what is allowed resolves and can be cancelled."""

        def orchestration(ctx, depth):
            task = ctx.schedule_activity("A")
            for _ in range(depth):
                task = around(ctx, task)
            yield task
            return "resolved"

        life = begun(orchestration, MAX_NESTING)
        assert life.turn(life.completed("A")).outcome == Completed(output='"resolved"')
        life = begun(orchestration, MAX_NESTING)
        assert life.turn(life.cancel()).cancelled_activities == [2]
        assert begun(orchestration, MAX_NESTING + 1).failure.message.endswith("may nest 100 levels deep.")

    def test_of_blocks_is_bounded_too_when_they_nest_as_time_goes_by(self):
        """A block that calls itself for each step is told before the stack is full."""

        def poll(ctx, number):
            yield ctx.schedule_timer(10)
            return (yield poll(ctx, number + 1))

        life = begun(yielding(lambda ctx: poll(ctx, 1)), checks=False)
        while life.result.outcome is None:
            life.turn(life.fired())
        assert life.failure.error_types[0] == "InvalidTask"
        assert len(life.events(events.TimerFired)) == MAX_NESTING
        life.check()

    def test_keeps_errors_of_an_inner_all_wrapped(self):
        """An inner all() never fails; an inner race() may."""

        def orchestration(ctx, input):
            return (yield ctx.all([ctx.all([ctx.schedule_activity("A")]), ctx.race(ctx.schedule_activity("B"))]))

        life = begun(orchestration)
        life.turn(life.failed("A", "no"), life.failed("B", "no"))
        assert life.output == [{"ok": [{"err": "RuntimeError: no"}]}, {"err": "RuntimeError: no"}]


class TestBlocks:
    def test_run_side_by_side(self):
        """W3: two blocks in all(), each its own sequence; their returns are their values."""
        life = begun(yielding(lambda ctx: ctx.all([step(ctx, "A1", "A2"), step(ctx, "B1", "B2")])))
        life.turn(life.completed("B1", 3))
        life.turn(life.completed("B2", 4))
        life.turn(life.completed("A1", 1))
        life.turn(life.completed("A2", 2))
        assert life.output == [{"ok": [1, 2]}, {"ok": [3, 4]}]

    def test_stand_where_a_task_stands(self):
        """A block yielded alone is run to its end; its errors are raised at the yield."""

        def fails(ctx):
            yield ctx.schedule_activity("A")
            raise LookupError("in block")

        def orchestration(ctx, input):
            try:
                yield fails(ctx)
            except LookupError as exc:
                return [str(exc), (yield step(ctx, "B"))]

        life = begun(orchestration)
        life.turn(life.completed("A"))
        life.turn(life.completed("B", "b"))
        assert life.output == ["in block", ["b"]]

    def test_lose_with_what_they_wait_for(self):
        """A losing block is closed at its yield; it never runs on."""
        reached = []

        def block(ctx):
            yield ctx.schedule_activity("A1")
            reached.append(1)
            yield ctx.schedule_activity("A2")

        life = begun(yielding(lambda ctx: ctx.race(block(ctx), ctx.schedule_timer(9))))
        life.turn(life.fired())
        assert life.output == {"index": 1, "value": None}
        assert (reached, life.result.cancelled_activities) == ([], [2])

    def test_that_refuse_to_lose_are_not_heard_any_more(self):
        """Python closes a generator that swallowed GeneratorExit once more when it is freed; ctx stays inert."""
        closings = []

        def clings(ctx):
            while len(closings) < 2:
                try:
                    yield ctx.schedule_activity("A")
                except GeneratorExit:
                    closings.append(1)
                    ctx.set_kv_value("closed", len(closings))

        def orchestration(ctx, input):
            yield ctx.race(clings(ctx), ctx.schedule_timer(9))
            gc.collect()
            yield ctx.wait_for_event("go")
            return ctx.get_kv_all_values()

        life = begun(orchestration, checks=False)
        life.turn(life.fired())
        gc.collect()
        life.turn(life.raised("go"))
        assert life.output == {}

    def test_may_catch_and_retry_on_their_own(self):
        """Failures inside a block are the block's first."""

        def block(ctx):
            try:
                yield ctx.schedule_activity("A")
            except ActivityFailed:
                return (yield ctx.schedule_activity("B"))

        life = begun(yielding(lambda ctx: ctx.race(block(ctx), ctx.schedule_timer(9))))
        life.turn(life.failed("A"))
        life.turn(life.completed("B", "plan B"))
        assert life.output == {"index": 0, "value": "plan B"}

    def test_may_end_the_execution(self):
        """continue_as_new inside a block ends everything; siblings that are begun later stay inert."""

        def ends(ctx):
            yield ctx.schedule_activity("A")
            yield ctx.continue_as_new("next")

        life = begun(yielding(lambda ctx: ctx.all([ends(ctx), ctx.schedule_activity("B")])))
        life.turn(life.completed("A"))
        assert life.history[-1].input == '"next"'
        assert life.result.cancelled_activities == [3]

    def test_that_end_at_once_begin_nothing_beside_them(self):
        """A block that continues as new before its siblings began: nothing of them is asked for."""

        def ends(ctx):
            yield ctx.continue_as_new("next")

        life = begun(yielding(lambda ctx: ctx.all([ends(ctx), ctx.utc_now(), step(ctx, "B")])))
        assert life.history[-1].kind == "OrchestrationContinuedAsNew"
        assert (life.result.activities, "ActivityCompleted" in life.kinds) == ([], False)

    def test_are_yielded_once(self):
        """A generator that runs or ran already would give None silently: it is refused, alone and as a member."""

        def orchestration(ctx, input):
            block = step(ctx)
            messages = []
            yield block
            for again in (block, ctx.all([block], fail_fast=True), ctx.race(block)):
                try:
                    yield again
                except InvalidTask as exc:
                    messages.append(str(exc))
            return messages

        assert begun(orchestration).output == ["Block step runs or ran already; call its function again."] * 3

    def test_may_not_wait_for_themselves(self):
        """The same for a block that yields itself."""

        def orchestration(ctx, input):
            def block():
                yield own[0]

            own = [block()]
            yield own[0]

        assert begun(orchestration).failure.error_types[0] == "InvalidTask"

    def test_time_out_as_a_whole(self):
        """A sequence against one timer, with a typed error of the user's own making."""

        def orchestration(ctx, input):
            winner = yield ctx.race(step(ctx, "A", "B"), ctx.schedule_timer(50))
            if winner["index"] == 1:
                raise TaskTimeout("too slow")
            return winner["value"]

        life = begun(orchestration)
        life.turn(life.completed("A"))
        life.turn(life.fired())
        assert life.failure.message == "too slow"
        assert "TimeoutError" in life.failure.error_types
