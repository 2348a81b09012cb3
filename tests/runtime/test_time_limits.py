"""Time limits of an attempt: kept by the worker that runs it, from the moment its function begins."""

from __future__ import annotations

import asyncio
import json
import threading
import time

import pytest
from django.contrib.auth.models import Group

from duroxide_django import RuntimeOptions, TaskTimeout
from duroxide_django.models import ActivityTask
from duroxide_django.testing import virtual_clock

#: Longer than any limit of these tests, and bounded, so that a limit that nobody keeps doesn't hang them.
FOR_LONG_S = 20.0


@pytest.fixture
def calls(program, backend):
    """The activities; gives what their functions did, in order."""
    seen = []

    @program.activity("Slow")
    def slow(ctx, input):
        seen.append(("began", ctx.attempt))
        until = time.monotonic() + FOR_LONG_S
        while not ctx.wait_cancelled(20) and time.monotonic() < until:
            pass
        seen.append(("told", ctx.is_cancelled()))
        return "too late"

    @program.activity("SlowAsync")
    async def slow_async(ctx, input):
        seen.append(("began", ctx.attempt))
        try:
            await asyncio.sleep(FOR_LONG_S)
        except asyncio.CancelledError:
            seen.append(("told", ctx.is_cancelled()))
            raise

    @program.activity("SlowAtomic", atomic=True)
    def slow_atomic(ctx, input):
        seen.append(("began", ctx.attempt))
        Group.objects.using(backend).create(name=f"attempt {ctx.attempt}")
        time.sleep(0.3)
        seen.append(("told", ctx.is_cancelled()))

    @program.activity("Quick")
    def quick(ctx, input):
        seen.append(("deadline", ctx.deadline_ms))
        return "in time"

    @program.activity("Beating")
    def beating(ctx, beats):
        for _ in range(beats):
            time.sleep(0.05)
            ctx.heartbeat()
        until = time.monotonic() + (FOR_LONG_S if beats < 10 else 0)
        while not ctx.wait_cancelled(20) and time.monotonic() < until:
            pass
        return "beaten"

    @program.orchestration("Retrying")
    def retrying(ctx, call):
        name, given, policy = call
        try:
            return (yield ctx.schedule_activity_with_retry(name, given, {"backoff": "none", **policy}))
        except TaskTimeout as exc:
            return str(exc)

    @program.orchestration("Plain")
    def plain(ctx, call):
        name, given, limits = call
        try:
            return (yield ctx.schedule_activity(name, given, **limits))
        except TaskTimeout as exc:
            return str(exc)

    return seen


@pytest.fixture
def output_of(client, calls, start_runtime):
    """Run an orchestration in a runtime and return its output."""

    def run(orchestration, *call, **options):
        start_runtime(**options)
        client.start_orchestration("limited-1", orchestration, call)
        return client.wait_for_orchestration("limited-1").output

    return run


def kinds(client, instance_id="limited-1"):
    return [event.kind for event in client.read_execution_history(instance_id, 1)]


class TestTheTimeOfAnAttempt:
    @pytest.mark.parametrize("name", ["Slow", "SlowAsync"])
    def test_runs_out_and_the_function_is_told(self, client, calls, output_of, wait_until, name):
        """Each attempt has the whole time; there is no timer; late results are dropped."""
        policy = {"timeout_ms": 100, "max_attempts": 2}
        assert output_of("Retrying", name, None, policy, worker_concurrency=2) == "timeout: activity timed out"
        wait_until(lambda: len(calls) == 4)
        assert sorted(calls) == [("began", 1), ("began", 2), ("told", True), ("told", True)]
        assert kinds(client) == [
            "OrchestrationStarted",
            *["ActivityScheduled", "ActivityFailed"] * 2,
            "OrchestrationCompleted",
        ]

    def test_holds_without_a_policy(self, client, calls, output_of):
        """A plain activity can have a limit, too; it isn't run again."""
        assert output_of("Plain", "Slow", None, {"timeout_ms": 100}) == "timeout: activity timed out"
        assert calls.count(("began", 1)) == 1

    def test_is_not_retried_where_the_policy_says_so(self, calls, output_of):
        """retry_timeouts=False ends the task with the first time-out."""
        policy = {"timeout_ms": 100, "retry_timeouts": False}
        assert output_of("Retrying", "Slow", None, policy) == "timeout: activity timed out"
        assert calls.count(("began", 2)) == 0

    def test_rolls_an_atomic_activity_back(self, backend, client, calls, output_of):
        """What it wrote past its time is not committed."""
        policy = {"timeout_ms": 100, "max_attempts": 2}
        assert output_of("Retrying", "SlowAtomic", None, policy) == "timeout: activity timed out"
        assert client.get_status("limited-1").status == "Completed"
        assert not Group.objects.using(backend).filter(name__startswith="attempt").exists()

    def test_counts_from_the_moment_it_begins(self, client, calls, program, backend):
        """The wait for a worker, and for a slot of it, costs nothing of it."""
        with virtual_clock() as clock:
            client.start_orchestration("limited-1", "Retrying", ["Quick", None, {"timeout_ms": 30_000}])
            program.drain(options=RuntimeOptions(worker_concurrency=0))
            assert ActivityTask.objects.using(backend).get().name == "Quick"
            began_ms = clock.advance(seconds=35)
            program.drain()
        assert client.get_status("limited-1").output == "in time"
        assert calls == [("deadline", began_ms + 30_000)]

    def test_costs_nothing_while_others_have_the_slot(self, client, program, start_runtime):
        """Many started at once on one slot: together they take longer than one may."""

        @program.activity("Takes50")
        def takes_50(ctx, input):
            time.sleep(0.05)
            return "in time"

        @program.orchestration("Order")
        def order(ctx, input):
            return (yield ctx.schedule_activity_with_retry("Takes50", None, {"timeout_ms": 700, "max_attempts": 1}))

        start_runtime(worker_concurrency=1)
        names = [f"order-{number}" for number in range(24)]
        client.start_many([(name, "Order", None) for name in names])
        assert {client.wait_for_orchestration(name).output for name in names} == {"in time"}

    def test_of_an_activity_that_an_older_engine_enqueued_is_kept_by_its_timer(self, client, calls, program, backend):
        """Its row has a deadline that counted from its scheduling; the worker ignores it."""
        client.start_orchestration("limited-1", "Retrying", ["Quick", None, {"timeout_ms": 30_000}])
        program.drain(options=RuntimeOptions(worker_concurrency=0), jump=False)
        assert ActivityTask.objects.using(backend).update(retry="[2, 3, 7, 1700000000000]")
        program.drain(jump=False)
        assert client.get_status("limited-1").output == "in time"
        assert calls == [("deadline", None)]

    def test_leaves_what_ended_in_time_alone(self, calls, output_of):
        """The deadline that the function sees is that of this attempt."""
        before = time.time() * 1000
        assert output_of("Retrying", "Quick", None, {"timeout_ms": 30_000}) == "in time"
        ((_, deadline_ms),) = calls
        assert before + 29_000 < deadline_ms < time.time() * 1000 + 30_001

    def test_is_in_its_row_while_it_runs(self, backend, client, calls, start_runtime, wait_until):
        """Operators see when it will run out."""
        start_runtime()
        client.start_orchestration("limited-1", "Retrying", ["Slow", None, {"timeout_ms": 60_000}])
        tasks = ActivityTask.objects.using(backend)
        wait_until(lambda: tasks.filter(deadline_ms__gt=0).exists(), 15)
        assert 40_000 < tasks.get().deadline_ms - time.time() * 1000 <= 60_000
        (activity,) = [item for item in client.list_pending("limited-1") if item.kind == "activity"]
        assert "times out in" in activity.detail
        client.cancel_instance("limited-1", "enough")
        assert client.wait_for_orchestration("limited-1").is_cancelled

    def test_begins_again_with_a_delivery_that_was_given_back(self, backend, client, calls, start_runtime, wait_until):
        """A worker that stops never ends an activity: the next one gives it the full time."""
        first = start_runtime()
        client.start_orchestration("limited-1", "Retrying", ["Slow", None, {"timeout_ms": 60_000}])
        wait_until(lambda: calls)
        first.shutdown(0)
        task = ActivityTask.objects.using(backend).get()
        assert (task.deadline_ms, json.loads(task.retry)[3]) == (None, 60_000)
        client.cancel_instance("limited-1", "enough")


class TestHeartbeats:
    def test_that_stay_away_end_an_attempt(self, calls, output_of):
        """Time counts from the last one."""
        began = time.monotonic()
        text = output_of("Plain", "Beating", 4, {"heartbeat_timeout_ms": 500})
        assert text == "timeout: activity sent no heartbeat for 500 ms"
        assert time.monotonic() - began >= 0.7

    def test_that_come_keep_it_alive(self, calls, output_of):
        """It may take longer than the limit in all."""
        assert output_of("Plain", "Beating", 20, {"heartbeat_timeout_ms": 500}) == "beaten"

    def test_of_a_lost_attempt_count_as_a_failure(self, calls, output_of):
        """A policy retries it."""
        policy = {"heartbeat_timeout_ms": 100, "max_attempts": 2}
        text = output_of("Retrying", "Slow", None, policy, worker_concurrency=2)
        assert text == "timeout: activity sent no heartbeat for 100 ms"
        assert [call for call in calls if call[0] == "began"] == [("began", 1), ("began", 2)]


class TestTheQueue:
    def test_of_an_attempt_is_limited_by_the_policy(self, client, calls, program):
        """Nobody begins: each attempt fails with a time-out, and is retried as one."""
        client.start_orchestration(
            "limited-1", "Retrying", ["Nobody", None, {"schedule_to_start_timeout_ms": 5_000, "max_attempts": 2}]
        )
        with virtual_clock() as clock:
            before = clock.now_ms
            program.drain()
            assert clock.now_ms - before >= 10_000
        assert client.get_status("limited-1").output == "timeout: no worker started activity 'Nobody' in time"
        assert kinds(client).count("ActivityFailed") == 2


class TestInDrain:
    @pytest.mark.parametrize("limits", [{"timeout_ms": 30_000}, {"heartbeat_timeout_ms": 30_000}])
    @pytest.mark.parametrize("kind", ["plain", "async", "atomic"])
    def test_an_attempt_that_moves_the_clock_beyond_its_time_fails(self, client, calls, program, backend, limits, kind):
        """A test says by the virtual clock how long an activity takes."""
        with virtual_clock() as clock:

            def takes(ctx, input):
                Group.objects.using(backend).create(name=f"attempt {ctx.attempt}")
                clock.advance(seconds=31 if ctx.attempt == 1 else 29)
                return ctx.attempt

            async def takes_async(ctx, input):
                clock.advance(seconds=31 if ctx.attempt == 1 else 29)
                return ctx.attempt

            program.activity("Takes", atomic=kind == "atomic")(takes_async if kind == "async" else takes)
            client.start_orchestration("limited-1", "Retrying", ["Takes", None, limits])
            before_ms = clock.now_ms
            program.drain()
            assert clock.now_ms >= before_ms + 60_000
        assert client.get_status("limited-1").output == 2
        if kind == "atomic":
            names = Group.objects.using(backend).filter(name__startswith="attempt").values_list("name", flat=True)
            assert list(names) == ["attempt 2"]

    def test_a_coroutine_that_waits_for_longer_is_cancelled(self, client, calls, program):
        """Real time counts as well."""
        client.start_orchestration("limited-1", "Plain", ["SlowAsync", None, {"timeout_ms": 50}])
        program.drain()
        assert client.get_status("limited-1").output == "timeout: activity timed out"
        assert calls == [("began", 1), ("told", False)]


def test_a_function_that_does_not_listen_keeps_its_slot(client, program, start_runtime, wait_until, calls):
    """The next attempt waits for the slot, and its own time counts only from then on."""
    let_go, attempts = threading.Event(), []

    @program.activity("Deaf")
    def deaf(ctx, input):
        attempts.append(ctx.attempt)
        if ctx.attempt == 1:
            let_go.wait(FOR_LONG_S)
        return ctx.attempt

    start_runtime(worker_concurrency=1)
    client.start_orchestration("limited-1", "Retrying", ["Deaf", None, {"timeout_ms": 100}])
    wait_until(lambda: "ActivityFailed" in kinds(client))
    assert attempts == [1]
    let_go.set()
    assert client.wait_for_orchestration("limited-1").output == 2
