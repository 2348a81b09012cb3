"""Spec part 9 with W15 to W17: retry policies and the loop that obeys them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from duroxide_django.engine import events
from duroxide_django.engine.failures import Failure
from duroxide_django.engine.messages import ACTIVITY_FAILED
from duroxide_django.engine.replay import LiveExecution
from duroxide_django.engine.retry import RetryPolicy
from duroxide_django.engine.time_limits import NO_LIMITS, TimeLimits
from duroxide_django.exceptions import InvalidArgument, NonRetryable, TaskTimeout
from tests.engine.harness import T0, begun


def retrying(policy, **options):
    """Return an orchestration that retries activity A under ``policy``."""

    def orchestration(ctx, input):
        return (yield ctx.schedule_activity_with_retry("A", input, policy))

    return orchestration


def delays(policy, failures):
    """Return the delays after each of so many failures."""
    parsed = RetryPolicy.parse(policy)
    return [parsed.delay_ms(number) for number in range(1, failures + 1)]


class TestDelays:
    @pytest.mark.parametrize(
        ("policy", "expected"),
        [
            (None, [100, 200, 400, 800, 1_600, 3_200, 6_400, 12_800, 25_600, 30_000, 30_000]),
            ({}, [100, 200, 400]),
            ({"backoff": "exponential"}, [100, 200, 400]),
            ({"backoff": "fixed"}, [1_000, 1_000, 1_000]),
            ({"backoff": "linear"}, [100, 200, 300]),
            ({"backoff": "none"}, [0, 0, 0]),
            ({"backoff": None}, [100, 200, 400]),
            ({"backoff_strategy": "none"}, [0, 0, 0]),
            ({"backoffStrategy": "fixed"}, [1_000, 1_000]),
            ({"initial_delay_ms": 10}, [10, 20, 40]),
            ({"initialDelayMs": 10, "multiplier": 3}, [10, 30, 90]),
            ({"initial_delay_ms": 10, "multiplier": 1}, [10, 10, 10]),
            ({"multiplier": 1.5}, [100, 150, 225, 337]),
            ({"max_delay_ms": 250}, [100, 200, 250, 250]),
            ({"maxDelayMs": 150, "backoff": "linear"}, [100, 150, 150]),
            ({"backoff": "linear", "initial_delay_ms": 7}, [7, 14, 21]),
            ({"backoff": "fixed", "initial_delay_ms": 60_000}, [60_000, 60_000]),
            ({"backoff": "none", "initial_delay_ms": 60_000}, [0, 0]),
        ],
    )
    def test_follow_the_strategy(self, policy, expected):
        """Milliseconds after failure 1, 2, 3 …"""
        assert delays(policy, len(expected)) == expected

    def test_of_the_linear_strategy_end_at_thirty_seconds(self):
        """Like the exponential one."""
        assert delays({"backoff": "linear"}, 400)[-1] == 30_000

    def test_can_not_overflow(self):
        """A very large exponent gives the longest delay."""
        assert RetryPolicy.parse({"multiplier": 1e5}).delay_ms(5_000) == 30_000


class TestPolicies:
    @pytest.mark.parametrize(
        ("alias", "name", "value"),
        [
            ("maxAttempts", "max_attempts", 7),
            ("timeoutMs", "timeout_ms", 50),
            ("totalTimeoutMs", "total_timeout_ms", 500),
            ("backoff_strategy", "backoff", "linear"),
        ],
    )
    def test_know_both_spellings(self, alias, name, value):
        """The guide's and the camel-cased ones."""
        assert RetryPolicy.parse({alias: value}) == RetryPolicy.parse({name: value})
        assert getattr(RetryPolicy.parse({alias: value}), name) == value

    def test_have_the_defaults_of_the_guide(self):
        """Three attempts, exponential, no time limits."""
        policy = RetryPolicy.parse(None)
        assert (policy.max_attempts, policy.backoff) == (3, "exponential")
        assert (policy.timeout_ms, policy.total_timeout_ms, policy.jitter) == (None, None, 0.0)

    @pytest.mark.parametrize(
        ("policy", "says"),
        [
            ({"max_attempts": 0}, "max_attempts must be a whole number of at least 1, got 0"),
            ({"max_attempts": -1}, "max_attempts"),
            ({"max_attempts": "3"}, "max_attempts"),
            ({"max_attempts": 2.5}, "max_attempts"),
            ({"max_attempts": True}, "max_attempts"),
            ({"max_attempts": None}, "max_attempts"),
            ({"timeout_ms": -1}, "timeout_ms must not be negative"),
            ({"timeout_ms": "5s"}, "timeout_ms"),
            ({"total_timeout_ms": 1.5}, "total_timeout_ms"),
            ({"initial_delay_ms": -5}, "initial_delay_ms"),
            ({"max_delay_ms": "x"}, "max_delay_ms"),
            ({"backoff": "expo"}, "backoff must be one of none, fixed, linear, exponential, got 'expo'"),
            ({"backoff": ["none"]}, "backoff must be one of"),
            ({"multiplier": 0.5}, "multiplier"),
            ({"multiplier": float("nan")}, "multiplier"),
            ({"multiplier": float("inf")}, "multiplier"),
            ({"jitter": 1.5}, "jitter"),
            ({"jitter": -0.1}, "jitter"),
            ({"retry_on": 5}, "retry_on takes exception classes or their names"),
            ({"give_up_on": [""]}, "give_up_on"),
            ({"give_up_on": [int]}, "give_up_on"),
            ({"retry_timeouts": 1}, "retry_timeouts must be True or False"),
            ({"retries": 3}, "Unknown retry key 'retries'; known are"),
            ({"max_attempts": 2, "maxAttempts": 3}, "gives max_attempts twice"),
            ([("max_attempts", 3)], "must be a mapping, got list"),
            (3, "must be a mapping, got int"),
        ],
    )
    def test_that_are_wrong_are_refused_at_the_call(self, policy, says):
        """Not when the first attempt has failed."""
        with pytest.raises(InvalidArgument, match=says.replace("(", r"\(")):
            RetryPolicy.parse(policy)

    def test_given_as_an_object_are_checked_too(self):
        """A RetryPolicy that allows no attempt would succeed with None."""
        with pytest.raises(InvalidArgument, match="max_attempts"):
            RetryPolicy.parse(RetryPolicy(max_attempts=0))
        assert RetryPolicy.parse(RetryPolicy(max_attempts=9)).max_attempts == 9

    def test_take_a_key_twice_with_one_value(self):
        """Both spellings side by side do no harm when they agree."""
        assert RetryPolicy.parse({"max_attempts": 2, "maxAttempts": 2}).max_attempts == 2

    def test_are_refused_in_the_orchestration(self):
        """The error is raised where the task is made, and may be caught there."""
        assert "Unknown retry key" in begun(retrying({"tries": 3})).failure.message


class TestTheLoop:
    @pytest.mark.parametrize("keeps", [True, False], ids=["kept", "replayed"])
    def test_waits_by_durable_timers_between_attempts(self, keeps):
        """Attempt, timer, attempt, timer, attempt; each scheduled from the time of the failure."""
        life = begun(retrying({"max_attempts": 3, "backoff": "linear"}), "in", keeps=keeps)
        life.turn(life.failed("A"))
        assert life.result.timers == [(4, T0 + 10 + 100)]
        life.turn(life.fired())
        life.turn(life.failed("A"))
        assert life.history[life.result.timers[0][0] - 1].fire_at_ms == life.now_ms + 200
        life.turn(life.fired())
        life.turn(life.completed("A", "third"))
        assert life.output == "third"
        assert [kind for kind in life.kinds if kind in ("ActivityScheduled", "TimerCreated")] == [
            "ActivityScheduled",
            "TimerCreated",
            "ActivityScheduled",
            "TimerCreated",
            "ActivityScheduled",
        ]

    def test_numbers_its_attempts(self):
        """Each knows its place, the limit, and the first one's event, from which idempotency keys are made."""
        life = begun(retrying({"max_attempts": 2, "backoff": "none"}))
        life.turn(life.failed("A"))
        first, second = life.history[1], life.history[3]
        assert (first.attempt, first.max_attempts, first.retry_of) == (1, 2, None)
        assert (second.attempt, second.max_attempts, second.retry_of) == (2, 2, 2)
        assert (life.result.activities[0].attempt, life.result.activities[0].retry_of) == (2, 2)

    def test_gives_up_with_the_last_error(self):
        """Exhausted: the text of the last failure, as if the activity had been yielded alone."""
        life = begun(retrying({"max_attempts": 2, "backoff": "none"}))
        life.turn(life.failed("A", ValueError("first")))
        life.turn(life.failed("A", KeyError("last")))
        assert life.failure.message == "KeyError: 'last'"

    def test_writes_no_timer_for_a_delay_of_zero(self):
        """Strategy none: the next attempt comes in the turn of the failure."""
        life = begun(retrying({"max_attempts": 2, "backoff": "none"}))
        life.turn(life.failed("A"))
        assert life.new_kinds == ["ActivityFailed", "ActivityScheduled"]

    def test_sends_every_attempt_to_the_session_and_tag(self):
        """Affinity holds for all of them."""

        def orchestration(ctx, input):
            policy = {"max_attempts": 2, "backoff": "none"}
            return (yield ctx.schedule_activity_with_retry_on_session("A", 1, policy, "gpu-1").with_tag("gpu"))

        life = begun(orchestration)
        life.turn(life.failed("A"))
        assert [(event.session_id, event.tag) for event in (life.history[1], life.history[3])] == [("gpu-1", "gpu")] * 2

    def test_does_not_retry_a_system_failure(self):
        """Poison aborts the orchestration, attempts left or not."""
        life = begun(retrying({"max_attempts": 5}))
        life.turn(life.poisoned("A"))
        assert life.failure.category == "Poison"


class TestWhichErrors:
    @pytest.mark.parametrize(
        ("policy", "error", "retried"),
        [
            ({}, ValueError("x"), True),
            ({}, NonRetryable("card stolen"), False),
            ({"retry_on": [ConnectionError]}, ConnectionResetError("x"), True),
            ({"retry_on": ["ConnectionError"]}, ConnectionResetError("x"), True),
            ({"retry_on": "OSError"}, ConnectionResetError("x"), True),
            ({"retry_on": ConnectionError}, ValueError("x"), False),
            ({"give_up_on": [ValueError]}, UnicodeError("a kind of ValueError"), False),
            ({"give_up_on": [ValueError]}, KeyError("x"), True),
            ({"retry_on": [OSError], "give_up_on": [ConnectionError]}, ConnectionResetError("x"), False),
            ({"retry_on": [NonRetryable]}, NonRetryable("x"), False),
        ],
    )
    def test_are_retried(self, policy, error, retried):
        """W15: by class name of the original exception or one of its bases; NonRetryable never."""
        life = begun(retrying({"max_attempts": 2, "backoff": "none", **policy}))
        life.turn(life.failed("A", error))
        assert (life.result.outcome is None) == retried


TIMED_OUT = Failure(kind="Timeout", message="timeout: activity timed out", error_types=("TaskTimeout", "TimeoutError"))


class TestTheTimeLimitsOfAnAttempt:
    LIMITS = {"timeout_ms": 5_000, "heartbeat_timeout_ms": 500, "schedule_to_start_timeout_ms": 60_000}

    def test_are_recorded_and_handed_out_without_a_timer(self):
        """The worker that runs the attempt keeps its time, so a wait in the queue costs none of it."""
        life = begun(retrying(self.LIMITS))
        assert life.kinds[1:] == ["ActivityScheduled"]
        (activity,) = life.result.activities
        assert activity.limits == TimeLimits(**self.LIMITS)
        recorded = json.loads(life.history[1].public_data())
        assert {name: recorded[name] for name in self.LIMITS} == self.LIMITS

    def test_hold_for_each_attempt(self):
        """The second attempt has its own full time."""
        life = begun(retrying({**self.LIMITS, "max_attempts": 2, "backoff": "none"}))
        life.turn(life.failed("A"))
        (activity,) = life.result.activities
        assert (activity.attempt, activity.limits) == (2, TimeLimits(**self.LIMITS))
        assert begun(retrying({})).result.activities[0].limits == NO_LIMITS

    @pytest.mark.parametrize(
        ("policy", "retried"),
        [
            ({}, True),
            ({"retry_timeouts": None}, True),
            ({"retry_timeouts": True, "retry_on": ["ValueError"]}, True),
            ({"retry_on": ["TimeoutError"]}, True),
            ({"retry_timeouts": False}, False),
            ({"retry_timeouts": False, "retry_on": ["TimeoutError"]}, False),
            ({"give_up_on": ["TaskTimeout"]}, False),
            ({"retry_on": ["ValueError"]}, False),
        ],
    )
    def test_that_ran_out_are_a_failure_like_any_other(self, policy, retried):
        """Attempts that timed out are retried unless the policy says otherwise, whichever limit it was."""
        life = begun(retrying({"backoff": "none", **policy}))
        life.turn(life._completion(ACTIVITY_FAILED, "A", TIMED_OUT.to_json()))
        assert (life.result.outcome is None) == retried

    def test_reach_the_code_as_a_timeout(self):
        """The last attempt's time-out is raised at the yield."""

        def orchestration(ctx, input):
            try:
                yield ctx.schedule_activity_with_retry("A", None, {"max_attempts": 1, "timeout_ms": 5_000})
            except TaskTimeout as exc:
                return [str(exc), isinstance(exc, TimeoutError), exc.name]

        life = begun(orchestration)
        life.turn(life._completion(ACTIVITY_FAILED, "A", TIMED_OUT.to_json()))
        assert life.output == ["timeout: activity timed out", True, "A"]

    def test_may_change_between_deploys(self):
        """The recorded limits count: a deploy that changes them, adds or removes one doesn't break a replay."""
        life = begun(retrying({"timeout_ms": 5_000}), keeps=False)
        for policy in ({}, {"timeout_ms": 1}, {"heartbeat_timeout_ms": 1}):
            life.replayed(retrying(policy))
        life = begun(retrying({}), keeps=False)
        life.replayed(retrying({"timeout_ms": 5_000}))

    @pytest.mark.parametrize("name", ["timeout_ms", "heartbeat_timeout_ms", "schedule_to_start_timeout_ms"])
    @pytest.mark.parametrize(
        "schedule",
        [
            lambda ctx, limits: ctx.schedule_activity("A", None, **limits),
            lambda ctx, limits: ctx.schedule_activity_on_session("A", None, "s", **limits),
            lambda ctx, limits: ctx.schedule_activity_typed("A", None, int, **limits),
            lambda ctx, limits: ctx.schedule_activity_on_session_typed("A", None, "s", int, **limits),
            lambda ctx, limits: ctx.schedule_activity_with_retry("A", None, limits),
            lambda ctx, limits: ctx.schedule_activity_with_retry_typed("A", None, limits, int),
            lambda ctx, limits: ctx.schedule_activity_with_retry_on_session_typed("A", None, limits, "s", int),
        ],
    )
    def test_can_be_given_to_every_activity(self, schedule, name):
        """With a policy or without one; a bad value is refused at the call."""

        def orchestration(ctx, value):
            yield schedule(ctx, {name: value})

        assert getattr(begun(orchestration, 70).result.activities[0].limits, name) == 70
        assert f"{name} must not be negative" in begun(orchestration, -1).failure.message


class TestAHistoryOfTheEngineBeforeTheLimits:
    """It raced each attempt with a timer, and did not retry time-outs by default."""

    POLICY = {"timeout_ms": 5_000, "max_attempts": 2, "backoff": "none"}

    def replayed(self, function, *recorded):
        """Replay events after the start of an execution that engine 1 began."""
        history = [
            events.OrchestrationStarted(event_id=1, timestamp_ms=T0, name="O", version="1.0.0", input="null", engine=1)
        ]
        for kind, fields in recorded:
            history.append(kind(event_id=len(history) + 1, timestamp_ms=T0 + len(history), **fields))
        execution = LiveExecution(instance_id="i", execution_id=1, name="O", version="1.0.0", function=function)
        execution.replay(history)
        return execution

    def attempt(self, number, name="A", first=None):
        """An attempt and its timer, as they were recorded."""
        fields = {"name": name, "input": "null", "attempt": number, "max_attempts": 2, "retry_of": first}
        return (events.ActivityScheduled, fields), (events.TimerCreated, {"fire_at_ms": T0 + 5_000})

    def fired(self, source):
        return events.TimerFired, {"source_event_id": source, "fire_at_ms": T0 + 5_000}

    def given_up(self, source):
        return events.ActivityCancelRequested, {"source_event_id": source, "reason": "dropped_future"}

    def result_of(self, source, result="7"):
        return events.ActivityCompleted, {"source_event_id": source, "result": result}

    def test_replays_where_it_waits(self):
        """The activity and its timer are open."""
        execution = self.replayed(retrying(self.POLICY), *self.attempt(1))
        assert sorted(execution.open) == [2, 3]
        assert [y.waits_for for y in execution.open_yields()] == [(("activity", "A", 2), ("timer", "timer", 3))]

    def test_replays_to_a_success(self):
        """The attempt won; its value is the task's."""
        output = (events.OrchestrationCompleted, {"output": "7"})
        execution = self.replayed(retrying(self.POLICY), *self.attempt(1), self.result_of(2), output)
        assert execution.outcome.output == "7"

    def test_replays_to_a_time_out_that_nothing_followed(self):
        """Its default was not to retry."""
        timed_out = Failure(message="timeout: activity timed out").to_json()
        ended = (events.OrchestrationFailed, {"details": timed_out})
        execution = self.replayed(retrying(self.POLICY), *self.attempt(1), self.fired(3), self.given_up(2), ended)
        assert execution.outcome.failure.message == "timeout: activity timed out"

    def test_replays_to_a_time_out_that_was_retried_on_request(self):
        """The policy that said so still does."""
        policy = {**self.POLICY, "retry_timeouts": True}
        recorded = [*self.attempt(1), self.fired(3), *self.attempt(2, first=2), self.given_up(2), self.result_of(5)]
        execution = self.replayed(retrying(policy), *recorded, (events.OrchestrationCompleted, {"output": "7"}))
        assert execution.outcome.output == "7"

    def test_replays_attempts_side_by_side(self):
        """Each timer follows its own attempt."""

        def orchestration(ctx, input):
            return (yield ctx.all([ctx.schedule_activity_with_retry(name, None, self.POLICY) for name in "AB"]))

        recorded = [*self.attempt(1, "A"), *self.attempt(1, "B"), self.fired(3), self.given_up(2), self.result_of(4)]
        output = '[{"err":"timeout: activity timed out"},{"ok":7}]'
        execution = self.replayed(orchestration, *recorded, (events.OrchestrationCompleted, {"output": output}))
        assert json.loads(execution.outcome.output) == json.loads(output)

    def test_replays_an_attempt_that_lost_a_race_before_it_was_scheduled(self):
        """Neither it nor its timer is waited for."""

        def at_once(ctx):
            return 1
            yield

        def orchestration(ctx, input):
            yield ctx.race(ctx.schedule_activity_with_retry("A", None, self.POLICY), at_once(ctx))
            yield ctx.wait_for_event("go")

        waits = (events.ExternalSubscribed, {"name": "go"})
        execution = self.replayed(orchestration, *self.attempt(1), waits, self.given_up(2))
        assert [y.waits_for for y in execution.open_yields()] == [(("event", "go", 4),)]

    @pytest.mark.parametrize("timer_wins", [True, False])
    def test_ends_its_open_attempt_by_the_old_rules(self, timer_wins):
        """A live turn does what its replay does: the harness replays after it."""
        life = begun(retrying(self.POLICY), keeps=False)
        started, scheduled = life.history
        timer = events.TimerCreated(event_id=3, timestamp_ms=T0, fire_at_ms=T0 + 5_000)
        life.history = [replace(started, engine=1), replace(scheduled, timeout_ms=None), timer]
        life.timers[3] = timer.fire_at_ms
        life.turn(life.fired(3) if timer_wins else life.completed("A", 7))
        if timer_wins:
            assert life.new_kinds == ["TimerFired", "ActivityCancelRequested", "OrchestrationFailed"]
            assert life.result.cancelled_activities == [2]
        else:
            assert (life.output, life.result.cancelled_timers) == (7, [3])

    def test_goes_on_by_the_new_rules(self):
        """What is scheduled from now on has its limit in its event."""

        def orchestration(ctx, input):
            for name in "AB":
                yield ctx.schedule_activity_with_retry(name, None, self.POLICY)

        fields = {"name": "B", "input": "null", "attempt": 1, "max_attempts": 2, "timeout_ms": 5_000}
        recorded = [*self.attempt(1), self.result_of(2), (events.ActivityScheduled, fields)]
        execution = self.replayed(orchestration, *recorded)
        assert [y.waits_for for y in execution.open_yields()] == [(("activity", "B", 5),)]


def test_no_first_delay_is_no_delay_however_often_it_grew():
    """0 stays 0, where the factor no longer fits a float."""
    policy = RetryPolicy(initial_delay_ms=0)
    assert [policy.delay_ms(failures) for failures in (1, 2, 1_025, 100_000)] == [0, 0, 0, 0]
    assert RetryPolicy(initial_delay_ms=1).delay_ms(1_025) == 30_000


class TestTheTotalTimeout:
    POLICY = {"max_attempts": 100, "total_timeout_ms": 1_500, "backoff": "fixed"}

    def test_is_one_timer_over_all_attempts_and_waits(self):
        """W16: it starts with the first attempt and is never renewed."""
        life = begun(retrying(self.POLICY))
        assert life.result.timers == [(3, T0 + 1_500)]
        life.turn(life.failed("A"))
        life.turn(life.fired(5))
        life.turn(life.failed("A"))
        life.turn(life.fired(3))
        assert life.failure.message == "timeout: activity 'A' did not succeed within 1500 ms"
        assert life.kinds.count("ActivityScheduled") == 2

    def test_cancels_the_running_attempt(self):
        """It is a race loser."""
        life = begun(retrying(self.POLICY))
        life.turn(life.fired())
        assert life.result.cancelled_activities == [2]
        assert "TaskTimeout" in life.failure.error_types

    def test_goes_with_the_success(self):
        """The timer is removed."""
        life = begun(retrying(self.POLICY))
        life.turn(life.completed("A", "quick"))
        assert (life.output, life.result.cancelled_timers) == ("quick", [3])

    def test_stands_beside_that_of_the_attempts(self):
        """Both limits hold: the guide's own example."""
        life = begun(
            retrying({"max_attempts": 3, "backoff": "exponential", "timeout_ms": 5_000, "total_timeout_ms": 30_000})
        )
        assert [fire_at - T0 for _, fire_at in life.result.timers] == [30_000]
        assert life.result.activities[0].limits == TimeLimits(timeout_ms=5_000)


class TestJitter:
    @pytest.mark.parametrize(("random", "delay"), [(0.0, 500), (0.5, 1_000), (1.0, 1_500), (0.75, 1_250)])
    def test_varies_the_delay_by_its_share(self, random, delay):
        """0.5 means half as long to half as long again."""
        life = begun(retrying({"backoff": "fixed", "jitter": 0.5}), randoms=[random])
        life.turn(life.failed("A"))
        assert life.result.timers == [(4, life.now_ms + delay)]

    def test_is_decided_once(self):
        """The recorded fire time counts on replay: other random numbers change nothing."""
        life = begun(retrying({"backoff": "fixed", "jitter": 1.0}), randoms=[0.1, 0.9], keeps=False)
        life.turn(life.failed("A"))
        (timer,) = life.timers.items()
        life.turn(life.raised("x"))
        assert list(life.timers.items()) == [timer]


def test_a_retry_in_all_gives_an_entry():
    """Success is an ok entry, exhaustion an err entry."""

    def orchestration(ctx, input):
        policy = {"max_attempts": 1}
        tasks = [ctx.schedule_activity_with_retry(name, None, policy) for name in "AB"]
        return (yield ctx.all(tasks))

    life = begun(orchestration)
    life.turn(life.completed("A", 1), life.failed("B", "no"))
    assert life.output == [{"ok": 1}, {"err": "RuntimeError: no"}]


def test_a_decorated_function_and_no_policy_are_enough():
    """Three attempts with growing pauses by default."""

    def charge(ctx, order):
        return None

    charge.duroxide_activity_name = "Charge"
    life = begun(lambda ctx, input: (yield ctx.schedule_activity_with_retry(charge)))
    life.turn(life.failed("Charge"))
    assert life.result.timers == [(4, life.now_ms + 100)]
