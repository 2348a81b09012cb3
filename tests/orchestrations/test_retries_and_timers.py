"""Spec parts 8 and 9 in virtual time: retries, time limits, timers, schedule-to-start (W15 to W17, W19)."""

from __future__ import annotations

import pytest

from duroxide_django import NonRetryable, RuntimeOptions, TagFilter, TaskTimeout


@pytest.fixture
def flaky(works):
    """Activity ``flaky`` fails as often as its input says; ``calls`` holds the seconds at which it ran."""
    begun = works.clock.now_ms

    @works.activity
    def flaky(ctx, input):
        works.calls.append((works.clock.now_ms - begun) / 1000)
        if ctx.attempt <= input:
            raise ConnectionError(f"attempt {ctx.attempt} of {ctx.max_attempts}")
        return f"done at attempt {ctx.attempt}"

    @works.orchestration
    def tries(ctx, input):
        return (yield ctx.schedule_activity_with_retry("flaky", input["fails"], input["policy"]))

    return works


class TestARetry:
    @pytest.mark.parametrize(
        ("policy", "times"),
        [
            ({}, [0, 0.1, 0.3]),
            ({"max_attempts": 5, "backoff": "exponential"}, [0, 0.1, 0.3, 0.7, 1.5]),
            ({"max_attempts": 4, "backoff": "linear"}, [0, 0.1, 0.3, 0.6]),
            ({"max_attempts": 3, "backoff": "fixed"}, [0, 1, 2]),
            ({"max_attempts": 3, "backoff_strategy": "none"}, [0, 0, 0]),
            ({"maxAttempts": 3, "initial_delay_ms": 60_000, "max_delay_ms": 90_000}, [0, 60, 150]),
        ],
    )
    def test_waits_exactly_as_its_policy_says(self, flaky, policy, times):
        """Seconds at which each attempt ran; the last error is the instance's."""
        flaky.start("t-1", "tries", {"fails": 99, "policy": policy})
        flaky.finish()
        assert flaky.calls == times
        assert flaky.error("t-1") == f"ConnectionError: attempt {len(times)} of {len(times)}"

    def test_ends_with_the_first_success(self, flaky):
        """The result is the attempt's; no timer is left."""
        flaky.start("t-1", "tries", {"fails": 2, "policy": {"max_attempts": 9}})
        flaky.finish()
        assert flaky.output("t-1") == "done at attempt 3"
        assert flaky.queued() == (0, 0)

    def test_has_one_idempotency_key_for_all_attempts(self, works):
        """The outside world can recognise the second attempt."""

        @works.activity
        def charge(ctx, input):
            works.calls.append(ctx.idempotency_key)
            raise ConnectionError("try again")

        @works.orchestration
        def pay(ctx, input):
            policy = {"max_attempts": 3, "backoff": "none"}
            tasks = [ctx.schedule_activity_with_retry("charge", None, policy) for _ in range(2)]
            yield ctx.all(tasks)

        works.start("p-1", "pay")
        assert len(works.calls) == 6
        assert sorted(works.calls.count(key) for key in set(works.calls)) == [3, 3]

    @pytest.mark.parametrize(
        ("policy", "attempts"),
        [
            ({}, 3),
            ({"retry_on": ["TimeoutError"]}, 1),
            ({"retry_on": ["OSError"]}, 3),
            ({"give_up_on": ["OSError"]}, 1),
        ],
    )
    def test_looks_at_the_original_class(self, flaky, policy, attempts):
        """W15: by name, of the class or a base of it."""
        flaky.start("t-1", "tries", {"fails": 99, "policy": {"backoff": "none", **policy}})
        assert len(flaky.calls) == attempts

    def test_obeys_an_error_that_says_no(self, works):
        """W15: NonRetryable ends it at once."""

        @works.activity
        def stolen(ctx, input):
            works.calls.append(1)
            raise NonRetryable("card stolen")

        @works.orchestration
        def pay(ctx, input):
            yield ctx.schedule_activity_with_retry("stolen")

        works.start("p-1", "pay")
        assert works.error("p-1") == "NonRetryable: card stolen"
        assert works.calls == [1]

    def test_is_bounded_by_its_total_time(self, flaky):
        """W16: 1.5 s with pauses of 1 s are two attempts, not twenty."""
        policy = {"max_attempts": 20, "backoff": "fixed", "total_timeout_ms": 1_500}
        flaky.start("t-1", "tries", {"fails": 99, "policy": policy})
        flaky.finish()
        assert flaky.calls == [0, 1]
        assert flaky.error("t-1") == "timeout: activity 'flaky' did not succeed within 1500 ms"
        assert flaky.queued() == (0, 0)

    def test_in_all_is_one_entry(self, flaky):
        """Whatever its attempts were: ok with the last one's result, or err with the last one's error."""

        @flaky.orchestration
        def joins(ctx, input):
            policy = {"max_attempts": 2, "backoff": "fixed"}
            return (yield ctx.all([ctx.schedule_activity_with_retry("flaky", fails, policy) for fails in (0, 1, 9)]))

        flaky.start("j-1", "joins")
        flaky.finish()
        assert flaky.output("j-1") == [
            {"ok": "done at attempt 1"},
            {"ok": "done at attempt 2"},
            {"err": "ConnectionError: attempt 2 of 2"},
        ]
        assert sorted(flaky.calls) == [0, 0, 0, 1, 1]

    @pytest.mark.parametrize(("fails", "winner"), [(2, 0), (9, 1)])
    def test_in_race_competes_as_a_whole(self, flaky, fails, winner):
        """Its failures lose nothing; once another has won no further attempt is made."""

        @flaky.orchestration
        def races(ctx, input):
            policy = {"max_attempts": 9, "backoff": "fixed"}
            retried = ctx.schedule_activity_with_retry("flaky", fails, policy)
            first = yield ctx.race(retried, ctx.schedule_timer(2_500))
            yield ctx.schedule_timer(60_000)
            return first["index"]

        flaky.start("r-1", "races")
        flaky.finish()
        assert flaky.output("r-1") == winner
        assert flaky.calls == [0, 1, 2]
        assert flaky.queued() == (0, 0)

    def test_survives_days(self, flaky):
        """Long pauses are durable timers: nothing runs in between."""
        policy = {"max_attempts": 3, "backoff": "fixed", "initial_delay_ms": 86_400_000}
        flaky.start("t-1", "tries", {"fails": 2, "policy": policy})
        assert flaky.advance(hours=23) == 0
        assert flaky.advance(hours=2) == 1
        flaky.finish()
        assert flaky.output("t-1") == "done at attempt 3"


class TestATimer:
    @pytest.fixture
    def sleeping(self, works):
        @works.orchestration
        def sleeps(ctx, input):
            before = yield ctx.utc_now()
            yield ctx.schedule_timer(input)
            return (yield ctx.utc_now()) - before

        return works

    def test_fires_when_it_is_due_and_not_before(self, sleeping):
        """To the millisecond of the virtual clock."""
        sleeping.start("s-1", "sleeps", 3_600_000)
        sleeping.advance(ms=3_599_999)
        assert sleeping.status("s-1").status == "Running"
        sleeping.advance(ms=1)
        assert sleeping.output("s-1") == 3_600_000

    def test_fires_late_if_nobody_was_there(self, sleeping):
        """A pause of the workers delays it; the recorded fire time stays the planned one."""
        sleeping.start("s-1", "sleeps", 1_000)
        sleeping.advance(days=3)
        assert sleeping.output("s-1") == 3 * 86_400_000
        fired = next(event for event in sleeping.history("s-1") if event.kind == "TimerFired")
        assert f'{{"fireAtMs": {fired.timestamp_ms - 3 * 86_400_000 + 1_000}}}' == fired.data

    def test_may_be_years_long(self, sleeping):
        """A timer of ten years is a row, not a thread."""
        sleeping.start("s-1", "sleeps", 10 * 365 * 86_400_000)
        sleeping.finish()
        assert sleeping.output("s-1") == 10 * 365 * 86_400_000

    def test_of_zero_fires_at_once(self, sleeping):
        """In the next turn, without the clock moving."""
        sleeping.start("s-1", "sleeps", 0)
        assert sleeping.output("s-1") == 0

    def test_that_lost_a_race_does_not_wake_anybody(self, works):
        """Its message is gone: an instance that ended at once is not looked at again in an hour."""

        @works.orchestration
        def races(ctx, input):
            return (yield ctx.race(ctx.utc_now(), ctx.schedule_timer(3_600_000)))["index"]

        @works.orchestration
        def later(ctx, input):
            yield ctx.race(ctx.schedule_timer(3_600_000), ctx.wait_for_event("go"))
            yield ctx.wait_for_event("never")

        works.start("r-1", "races")
        works.start("l-1", "later")
        works.client.raise_event("l-1", "go")
        works.run()
        assert works.output("r-1") == 0
        assert works.queued() == (0, 0)


class TestScheduleToStart:
    """W19: an activity that nobody picks up."""

    @pytest.fixture
    def routed(self, works):
        works.recording("train")

        @works.orchestration
        def trains(ctx, input):
            try:
                return (yield ctx.schedule_activity("train", 1, tag="gpu", schedule_to_start_timeout_ms=60_000))
            except TaskTimeout as exc:
                return [str(exc), exc.name]

        return works

    def test_times_out_with_a_clear_error(self, routed):
        """Name and tag tell what is missing; the entry is gone."""
        routed.client.start_orchestration("t-1", "trains")
        routed.run(options=RuntimeOptions(worker_tag_filter=TagFilter.DEFAULT_ONLY))
        assert routed.queued() == (0, 1)
        routed.finish(options=RuntimeOptions(worker_tag_filter=TagFilter.DEFAULT_ONLY))
        assert routed.output("t-1") == ["timeout: no worker started activity 'train' with tag 'gpu' in time", "train"]
        assert (routed.queued(), routed.calls) == ((0, 0), [])

    def test_does_not_matter_once_it_runs(self, routed):
        """A worker that serves the tag in time: the limit is over."""
        routed.start("t-1", "trains")
        routed.finish()
        assert routed.output("t-1") == 1

    def test_without_a_limit_waits_forever(self, works):
        """The entry is visible for days, and runs when a worker comes."""
        works.recording("train")

        @works.orchestration
        def trains(ctx, input):
            return (yield ctx.schedule_activity("train", 1).with_tag("gpu"))

        works.client.start_orchestration("t-1", "trains")
        works.run(options=RuntimeOptions(worker_tag_filter=TagFilter.DEFAULT_ONLY))
        works.clock.advance(days=30)
        works.run(options=RuntimeOptions(worker_tag_filter=TagFilter.DEFAULT_ONLY))
        assert works.queued() == (0, 1)
        works.run(options=RuntimeOptions(worker_tag_filter=TagFilter.tags(["gpu"])))
        assert works.output("t-1") == 1
