"""Spec 4.4: matching actions with history, and every way in which they can disagree (N1 to N10)."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path

import pytest

from duroxide_django.engine import events
from duroxide_django.exceptions import CorruptHistory, NondeterminismError
from tests.engine.harness import begun


def mismatch(life, function, *, history=None):
    """Return the error of replaying ``life`` with other code."""
    with pytest.raises(NondeterminismError) as caught:
        life.replayed(function, history=history)
    assert str(caught.value).startswith("nondeterministic: ")
    return caught.value


def scheduled(*tasks):
    """Return an orchestration that yields the tasks made by ``tasks``, one after another."""

    def orchestration(ctx, input):
        for make in tasks:
            yield make(ctx)

    return orchestration


def activity(ctx):
    return ctx.schedule_activity("Pay", {"n": 1})


FITTING = {
    "the same activity": (activity, activity),
    "a timer of another length": (lambda ctx: ctx.schedule_timer(5), lambda ctx: ctx.schedule_timer(9_000)),
    "a child with another id": (
        lambda ctx: ctx.schedule_sub_orchestration_with_id("Child", "child-1", 1),
        lambda ctx: ctx.schedule_sub_orchestration_with_id("Child", "child-2", 1),
    ),
    "a child at another version": (
        lambda ctx: ctx.schedule_sub_orchestration("Child", 1),
        lambda ctx: ctx.schedule_sub_orchestration_versioned("Child", "2.0.0", 1),
    ),
    "a retry with other delays": (
        lambda ctx: ctx.schedule_activity_with_retry("Pay", 1),
        lambda ctx: ctx.schedule_activity_with_retry("Pay", 1, {"backoff": "none", "max_attempts": 9}),
    ),
}

DIFFERING = {
    "another activity": (activity, lambda ctx: ctx.schedule_activity("Refund", {"n": 1})),
    "another input": (activity, lambda ctx: ctx.schedule_activity("Pay", {"n": 2})),
    "another order of keys": (
        lambda ctx: ctx.schedule_activity("Pay", {"a": 1, "b": 2}),
        lambda ctx: ctx.schedule_activity("Pay", {"b": 2, "a": 1}),
    ),
    "another session": (activity, lambda ctx: ctx.schedule_activity("Pay", {"n": 1}, session_id="s")),
    "another tag": (activity, lambda ctx: ctx.schedule_activity("Pay", {"n": 1}).with_tag("gpu")),
    "another kind of task": (activity, lambda ctx: ctx.schedule_timer(5)),
    "another event": (lambda ctx: ctx.wait_for_event("a"), lambda ctx: ctx.wait_for_event("b")),
    "a queue instead of an event": (lambda ctx: ctx.wait_for_event("a"), lambda ctx: ctx.dequeue_event("a")),
    "another queue": (lambda ctx: ctx.dequeue_event("a"), lambda ctx: ctx.dequeue_event("b")),
    "another child": (
        lambda ctx: ctx.schedule_sub_orchestration("Child"),
        lambda ctx: ctx.schedule_sub_orchestration("Kid"),
    ),
    "another child's input": (
        lambda ctx: ctx.schedule_sub_orchestration("Child", 1),
        lambda ctx: ctx.schedule_sub_orchestration("Child", 2),
    ),
    "another value from the engine": (
        lambda ctx: ctx.all([ctx.utc_now(), activity(ctx)]),
        lambda ctx: ctx.all([ctx.new_guid(), activity(ctx)]),
    ),
    "another detached start": (
        lambda ctx: ctx.all([ctx.start_orchestration("Audit", "audit-1"), activity(ctx)]),
        lambda ctx: ctx.all([ctx.start_orchestration("Audit", "audit-2"), activity(ctx)]),
    ),
    "another order in all": (
        lambda ctx: ctx.all([activity(ctx), ctx.schedule_timer(5)]),
        lambda ctx: ctx.all([ctx.schedule_timer(5), activity(ctx)]),
    ),
}


class TestWhatMayChange:
    @pytest.mark.parametrize("pair", FITTING.values(), ids=FITTING)
    def test_replays(self, pair):
        """Code may differ from history in what is not compared; what is recorded counts."""
        before, after = pair
        life = begun(scheduled(before))
        assert life.replayed(scheduled(after)).history_length == len(life.history)

    def test_the_recorded_id_of_a_child_is_used(self):
        """A child keeps the id it was started with, whatever the code says now."""
        life = begun(scheduled(FITTING["a child with another id"][0]))
        replayed = life.replayed(scheduled(FITTING["a child with another id"][1]))
        assert replayed.open[2].name == "child-1"

    def test_the_text_of_a_status_may_change(self):
        """A custom status is compared by kind only."""

        def says(text):
            def orchestration(ctx, input):
                ctx.set_custom_status(text)
                yield ctx.wait_for_event("go")

            return orchestration

        life = begun(says("working"))
        assert life.replayed(says("arbeite")).custom_status == "arbeite"


class TestWhatMayNotChange:
    @pytest.mark.parametrize("pair", DIFFERING.values(), ids=DIFFERING)
    def test_is_a_mismatch_that_shows_both_sides(self, pair):
        """N2, N3: the oldest action differs from the event: both are named, with the event's id."""
        before, after = pair
        life = begun(scheduled(before))
        error = mismatch(life, scheduled(after))
        assert "schedule mismatch" in str(error)
        assert error.event_id == 2
        assert error.expected.startswith(life.history[1].kind)
        assert error.got
        assert error.got in str(error)

    @pytest.mark.parametrize(
        ("before", "after"),
        [
            (lambda ctx: ctx.set_kv_value("a", 1), lambda ctx: ctx.set_kv_value("a", 2)),
            (lambda ctx: ctx.set_kv_value("a", 1), lambda ctx: ctx.set_kv_value("b", 1)),
            (lambda ctx: ctx.clear_kv_value("a"), lambda ctx: ctx.clear_kv_value("b")),
            (lambda ctx: ctx.clear_kv_value("a"), lambda ctx: ctx.clear_all_kv_values()),
            (lambda ctx: ctx.set_custom_status("a"), lambda ctx: ctx.set_kv_value("a", 1)),
            (lambda ctx: ctx.set_custom_status("a"), lambda ctx: None),
        ],
    )
    def test_holds_for_status_and_kv_too(self, before, after):
        """N3: what needs no yield is compared as well, even if the code does nothing instead."""

        def first(act):
            def orchestration(ctx, input):
                act(ctx)
                yield ctx.wait_for_event("go")

            return orchestration

        assert mismatch(begun(first(before)), first(after)).event_id == 2


class TestTheCodeDoesLess:
    def test_than_history_schedules(self):
        """N1, N4: history goes on where the code waits."""
        life = begun(scheduled(lambda ctx: ctx.all([activity(ctx), ctx.schedule_timer(5)])))
        error = mismatch(life, scheduled(activity))
        assert error.event_id == 3
        assert error.got == "nothing"
        assert "TimerCreated" in error.expected

    def test_and_returns_early(self):
        """W21: an early return with history left is a mismatch, not a completion."""
        life = begun(scheduled(activity))
        error = mismatch(life, lambda ctx, input: "early")
        assert error.event_id == 2
        assert "the code ended but history goes on" in str(error)

    def test_and_returns_early_after_a_step(self):
        """W21: also when the part that is left begins after a completion."""
        life = begun(scheduled(activity, activity))
        life.turn(life.completed("Pay"))
        assert mismatch(life, scheduled(activity)).event_id == 4

    def test_and_ends_where_history_only_received(self):
        """A function that ended although the instance still runs: nothing says so but the missing end."""
        life = begun(scheduled(lambda ctx: ctx.all([ctx.wait_for_event("a"), ctx.schedule_timer(5)])))
        life.turn(life.raised("a"))
        life.checks = False
        error = mismatch(life, scheduled(lambda ctx: ctx.race(ctx.wait_for_event("a"), ctx.schedule_timer(5))))
        assert "ended" in str(error)


class TestTheCodeDoesMore:
    def test_than_history_records(self):
        """An action that no event answers would be new work decided by old history."""
        life = begun(scheduled(activity))
        error = mismatch(life, scheduled(lambda ctx: ctx.all([activity(ctx), ctx.schedule_timer(5)])))
        assert error.event_id is None
        assert (error.expected, error.got) == ("nothing more", "timer of 5 ms")

    def test_and_goes_on_after_the_recorded_end(self):
        """A terminal event where the code still waits."""
        life = begun(scheduled(activity))
        life.turn(life.completed("Pay"))
        assert "history ended" in str(mismatch(life, scheduled(activity, activity)))


class TestCompletions:
    def test_without_an_open_schedule_are_a_mismatch(self):
        """N5: a completion whose source was never opened, or is closed already."""
        life = begun(scheduled(activity, activity))
        life.turn(life.completed("Pay"))
        twice = [*life.history, dataclasses.replace(life.history[2], event_id=5)]
        assert "completion without an open schedule" in str(mismatch(life, life.function, history=twice))

    def test_of_another_family_are_a_mismatch(self):
        """N6: a timer's firing can't complete an activity."""
        life = begun(scheduled(activity))
        fired = events.TimerFired(event_id=3, timestamp_ms=0, source_event_id=2, fire_at_ms=0)
        error = mismatch(life, life.function, history=[*life.history, fired])
        assert "completion kind mismatch" in str(error)
        assert error.event_id == 3


class TestRecordedLosers:
    def lost(self):
        life = begun(scheduled(lambda ctx: ctx.race(activity(ctx), ctx.wait_for_event("go")), activity))
        life.turn(life.raised("go"))
        return life

    def test_must_lose_again(self):
        """N9: history says that a task was given up, the code still wants it."""
        life = begun(scheduled(lambda ctx: ctx.all([activity(ctx), ctx.wait_for_event("go")])))
        life.turn(life.raised("go"))
        crumb = events.ActivityCancelRequested(event_id=5, timestamp_ms=0, source_event_id=2, reason="dropped_future")
        error = mismatch(life, life.function, history=[*life.history, crumb])
        assert "cancellation mismatch" in str(error)
        assert error.event_id == 5

    def test_may_be_recorded_twice(self):
        """The second breadcrumb of a loser says nothing new."""
        life = self.lost()
        crumb = next(event for event in life.history if isinstance(event, events.ActivityCancelRequested))
        twice = dataclasses.replace(crumb, event_id=len(life.history) + 1)
        life.history.append(twice)
        assert life.replayed().history_length == twice.event_id

    def test_may_have_completed_meanwhile(self):
        """A loser's late completion is recorded and has no effect."""
        life = self.lost()
        life.turn(life.completed(2, "too late"))
        assert life.new_kinds == ["ActivityCompleted"]
        life.turn(life.completed(life.scheduled("Pay"), "in time"))
        assert life.new_kinds == ["ActivityCompleted", "OrchestrationCompleted"]


class TestCorruptHistories:
    @pytest.mark.parametrize("keep", [slice(0, 0), slice(1, None)], ids=["empty", "without its start"])
    def test_are_no_nondeterminism(self, keep):
        """N10: a history without OrchestrationStarted is damaged; other code can't heal it."""
        life = begun(scheduled(activity))
        with pytest.raises(CorruptHistory):
            life.replayed(history=life.history[keep])

    def test_with_events_out_of_order_are_refused(self):
        """Event ids only grow."""
        life = begun(scheduled(activity))
        with pytest.raises(CorruptHistory, match="Event 2"):
            life.replayed(history=[*life.history, life.history[1]])

    def test_with_gaps_are_fine(self):
        """Readers tolerate gaps between ids."""
        life = begun(scheduled(activity))
        moved = [life.history[0], dataclasses.replace(life.history[1], event_id=7)]
        assert life.replayed(history=moved).open.keys() == {7}


class TestTheSourceLine:
    def test_is_that_of_the_open_yield(self):
        """The error names file, line and function of the yield at which the code stood."""

        def orchestration(ctx, input):
            yield ctx.schedule_timer(1)  # here
            yield ctx.schedule_timer(1)

        error = mismatch(begun(scheduled(activity)), orchestration)
        lines, first = inspect.getsourcelines(orchestration)
        here = first + next(number for number, line in enumerate(lines) if "# here" in line)
        assert error.source.startswith(f"{Path(__file__)}:{here} in ")
        assert error.source.endswith("orchestration")
        assert error.source in str(error)

    def test_is_found_in_the_generator_that_is_delegated_to(self):
        """With ``yield from`` it is the inner line, where the decision was made."""

        def inner(ctx):
            yield ctx.schedule_timer(1)

        def orchestration(ctx, input):
            yield from inner(ctx)

        assert mismatch(begun(scheduled(activity)), orchestration).source.endswith("inner")

    def test_is_missing_when_the_function_has_ended(self):
        """A function that returned has no line any more."""
        assert mismatch(begun(scheduled(activity)), lambda ctx, input: "early").source is None
