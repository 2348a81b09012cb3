"""Spec 4.9: what happens to tasks that lost a race."""

from __future__ import annotations

import pytest

from tests.engine.harness import begun


def race_against_go(*makes, then=None):
    """Return an orchestration that races tasks against event ``go`` and then goes on."""

    def orchestration(ctx, input):
        yield ctx.race(*[make(ctx) for make in makes], ctx.wait_for_event("go"))
        return (yield (then or (lambda ctx: ctx.wait_for_event("end")))(ctx))

    return orchestration


def a(ctx):
    return ctx.schedule_activity("A")


class TestAnActivity:
    def test_is_taken_out_of_the_queue(self):
        """The breadcrumb and the deletion come in the turn that decides the race."""
        life = begun(race_against_go(a))
        life.turn(life.raised("go"))
        assert life.result.cancelled_activities == [2]
        assert life.new_kinds == ["ExternalEvent", "ExternalSubscribed", "ActivityCancelRequested"]
        assert life.activities == {}

    def test_is_never_enqueued_if_it_lost_at_once(self):
        """Scheduled and dropped in one turn: two events, no work."""

        def orchestration(ctx, input):
            yield ctx.race(ctx.all([]), a(ctx))
            yield ctx.wait_for_event("end")

        life = begun(orchestration)
        assert life.kinds[1:] == ["ActivityScheduled", "ExternalSubscribed", "ActivityCancelRequested"]
        assert life.result.activities == []

    def test_may_complete_all_the_same(self):
        """A completion that was under way is recorded and ignored by the code, even a poisonous one."""
        life = begun(race_against_go(a))
        life.turn(life.raised("go"))
        life.turn(life.poisoned(2))
        assert life.new_kinds == ["ActivityFailed"]
        assert life.result.outcome is None

    def test_is_not_told_if_its_completion_came_in_the_same_turn(self):
        """Nothing is left to cancel."""
        life = begun(race_against_go(a))
        life.turn(life.raised("go"), life.completed("A"))
        assert "ActivityCancelRequested" not in life.new_kinds
        assert life.result.cancelled_activities == []

    def test_is_told_once(self):
        """Later turns and replays don't send the breadcrumb again."""
        life = begun(race_against_go(a), keeps=False)
        life.turn(life.raised("go"))
        life.turn(life.raised("x"))
        life.turn(life.raised("end"))
        assert life.kinds.count("ActivityCancelRequested") == 1


class TestARetry:
    def test_loses_its_running_attempt_and_its_timer(self):
        """Only what is outstanding is dropped; no further attempt is made."""
        policy = {"max_attempts": 5, "timeout_ms": 1_000}
        life = begun(race_against_go(lambda ctx: ctx.schedule_activity_with_retry("A", None, policy)))
        life.turn(life.raised("go"))
        assert (life.activities, life.timers) == ({}, {})

    def test_loses_while_it_waits_for_the_next_attempt(self):
        """The back-off timer is given up, the attempt after it never comes."""
        life = begun(race_against_go(lambda ctx: ctx.schedule_activity_with_retry("A")))
        life.turn(life.failed("A"))
        (timer,) = life.timers
        life.turn(life.raised("go"))
        assert life.result.cancelled_timers == [timer]
        life.turn(life.raised("end"))
        assert life.kinds.count("ActivityScheduled") == 1


class TestATimer:
    def test_is_removed_without_a_breadcrumb(self):
        """A timer that nobody waits for must not wake the instance."""
        life = begun(race_against_go(lambda ctx: ctx.schedule_timer(1_000)))
        life.turn(life.raised("go"))
        assert life.result.cancelled_timers == [2]
        assert life.new_kinds == ["ExternalEvent", "ExternalSubscribed"]

    def test_that_fires_all_the_same_is_recorded_and_ignored(self):
        """Its message was taken together with what decided the race, or just before."""
        life = begun(race_against_go(lambda ctx: ctx.schedule_timer(1_000)))
        fired = life.fired()
        life.turn(life.raised("go"), fired)
        assert life.new_kinds == ["ExternalEvent", "TimerFired", "ExternalSubscribed"]
        assert life.result.outcome is None


class TestASubscription:
    @pytest.mark.parametrize(
        ("make", "crumb"),
        [
            (lambda ctx: ctx.wait_for_event("e"), "ExternalSubscribedCancelled"),
            (lambda ctx: ctx.dequeue_event("q"), "QueueSubscriptionCancelled"),
        ],
    )
    def test_is_recorded_as_cancelled(self, make, crumb):
        """Waits and dequeues leave their own breadcrumb."""
        life = begun(race_against_go(make))
        life.turn(life.raised("go"))
        assert crumb in life.new_kinds
        assert life.result.events[-1].source_event_id == 2

    def test_to_an_event_does_not_starve_the_next(self):
        """The event goes to the wait that still stands."""
        life = begun(race_against_go(lambda ctx: ctx.wait_for_event("e"), then=lambda ctx: ctx.wait_for_event("e")))
        life.turn(life.raised("go"))
        life.turn(life.raised("e", "for the second"))
        assert life.output == "for the second"

    def test_to_a_queue_takes_no_message(self):
        """The message goes to the next subscription."""
        life = begun(race_against_go(lambda ctx: ctx.dequeue_event("q"), then=lambda ctx: ctx.dequeue_event("q")))
        life.turn(life.raised("go"))
        life.turn(life.queued("q", "for the second"))
        assert life.output == "for the second"


class TestAChild:
    def test_is_asked_to_end(self):
        """Breadcrumb, and a cancel with the reason that its parent dropped it."""
        life = begun(race_against_go(lambda ctx: ctx.schedule_sub_orchestration("C")))
        life.turn(life.raised("go"))
        assert life.result.cancelled_children == [("order-1::sub::2", "parent dropped sub-orchestration future")]
        assert "SubOrchestrationCancelRequested" in life.new_kinds

    def test_fails_later_without_effect(self):
        """The cancelled child's failure is recorded and ignored."""
        life = begun(race_against_go(lambda ctx: ctx.schedule_sub_orchestration("C")))
        life.turn(life.raised("go"))
        life.turn(life.child_failed(2))
        assert life.new_kinds == ["SubOrchestrationFailed"]
        assert life.result.outcome is None

    def test_is_never_started_if_it_lost_at_once(self):
        """Nobody is started only to be cancelled."""

        def orchestration(ctx, input):
            yield ctx.race(ctx.utc_now(), ctx.schedule_sub_orchestration("C"))
            yield ctx.wait_for_event("end")

        life = begun(orchestration)
        assert (life.result.children, life.result.cancelled_children) == ([], [])

    def test_is_cancelled_when_the_race_is_decided_in_the_last_turn(self):
        """W8: the same when the function ends, or continues as new, in the turn that decides."""

        def renews(ctx, input):
            yield ctx.race(ctx.schedule_sub_orchestration("C"), ctx.wait_for_event("go"))
            yield ctx.continue_as_new()

        life = begun(renews)
        life.turn(life.raised("go"))
        assert life.result.cancelled_children == [("order-1::sub::2", "parent dropped sub-orchestration future")]


class TestAValueOfTheEngine:
    def test_that_lost_is_not_asked_for(self):
        """utc_now that lost before it was asked: its schedule is recorded as given up, not answered."""

        def orchestration(ctx, input):
            yield ctx.race(ctx.all([]), ctx.utc_now())
            yield ctx.wait_for_event("end")

        life = begun(orchestration)
        assert life.kinds[1:] == ["ActivityScheduled", "ExternalSubscribed", "ActivityCancelRequested"]
        assert (life.result.activities, life.result.cancelled_activities) == ([], [])
