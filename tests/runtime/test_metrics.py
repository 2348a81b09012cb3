"""metrics_snapshot(): every counter, each thing counted once (spec 15, W32)."""

from __future__ import annotations

import time

import pytest

from duroxide_django import MetricsSnapshot
from tests.runtime.program import Program


@pytest.fixture(autouse=True)
def workflows(program):
    program.activity("Add")(lambda ctx, pair: sum(pair))

    @program.activity("Break")
    def break_(ctx, input):
        raise ValueError("no good")

    @program.orchestration("Sum")
    def add_up(ctx, pair):
        return (yield ctx.schedule_activity("Add", pair))

    @program.orchestration("Failing")
    def failing(ctx, input):
        yield ctx.schedule_activity("Break")

    @program.orchestration("Again")
    def again(ctx, count):
        yield ctx.schedule_activity("Add", [1, 1])
        if count:
            yield ctx.continue_as_new(count - 1)

    @program.orchestration("Parent")
    def parent(ctx, input):
        yield ctx.all([ctx.schedule_sub_orchestration("Sum", [number, 1]) for number in range(3)])


@pytest.fixture
def run(client, start_runtime, wait_until):
    """Run instances to their ends in one runtime, and return its counters, without those that are zero."""

    def run(*starts, **options):
        runtime = start_runtime(**options)
        for number, (name, value) in enumerate(starts):
            client.start_orchestration(f"{name}-{number}", name, value)
        for number, (name, _) in enumerate(starts):
            client.wait_for_orchestration(f"{name}-{number}")
        # The counters follow right after the commit that the client has seen.
        stored = client.get_system_metrics()
        ended = stored.completed_instances + stored.failed_instances
        wait_until(lambda: _ends(runtime) >= ended)
        ends = wait_until(lambda: _settled(runtime))
        fetched = ("orch_dispatcher_items_fetched", "worker_dispatcher_items_fetched")
        return {name: count for name, count in ends.as_dict().items() if count and name not in fetched}

    return run


def _settled(runtime):
    """Return the counters if they have stopped moving: an atomic activity's own commit is counted a moment later."""
    before = runtime.metrics_snapshot()
    time.sleep(0.3)
    after = runtime.metrics_snapshot()
    return after if after.as_dict() == before.as_dict() else None


def _ends(runtime):
    snapshot = runtime.metrics_snapshot()
    return snapshot.orch_completions + snapshot.orch_failures


class TestSnapshot:
    def test_is_none_unless_running(self, program):
        """None before start and after shutdown."""
        runtime = program.runtime()
        assert runtime.metrics_snapshot() is None
        runtime.start()
        assert runtime.metrics_snapshot() is not None
        runtime.shutdown()
        assert runtime.metrics_snapshot() is None

    def test_reads_like_a_dict_and_like_an_object(self, start_runtime):
        """Both access styles, and every documented name."""
        snapshot = start_runtime().metrics_snapshot()
        assert isinstance(snapshot, MetricsSnapshot)
        assert snapshot["orch_starts"] == snapshot.orch_starts == 0
        assert set(snapshot) == {
            "orch_starts",
            "orch_completions",
            "orch_failures",
            "orch_application_errors",
            "orch_infrastructure_errors",
            "orch_configuration_errors",
            "orch_poison",
            "orch_slow_turns",
            "activity_success",
            "activity_app_errors",
            "activity_infra_errors",
            "activity_config_errors",
            "activity_poison",
            "orch_dispatcher_items_fetched",
            "worker_dispatcher_items_fetched",
            "orch_continue_as_new",
            "suborchestration_calls",
            "provider_errors",
        }
        with pytest.raises(KeyError):
            snapshot["nonsense"]

    def test_is_a_picture_of_its_moment(self, client, start_runtime, wait_until):
        """A snapshot taken earlier doesn't change."""
        runtime = start_runtime()
        before = runtime.metrics_snapshot()
        client.start_orchestration("sum-1", "Sum", [1, 2])
        client.wait_for_orchestration("sum-1")
        wait_until(lambda: runtime.metrics_snapshot().orch_completions == 1)
        assert before.orch_completions == 0

    def test_belongs_to_one_runtime(self, client, run, start_runtime):
        """Another runtime counts its own work only."""
        run(("Sum", [1, 2]))
        other = start_runtime(orchestration_concurrency=0, worker_concurrency=0)
        assert not any(other.metrics_snapshot().values())


class TestCounters:
    def test_of_completions(self, run):
        """A start, a completion and a success for each instance with one activity."""
        assert run(("Sum", [1, 2]), ("Sum", [3, 4])) == {
            "orch_starts": 2,
            "orch_completions": 2,
            "activity_success": 2,
        }

    def test_of_failures(self, run):
        """One failure of the activity, one of the orchestration, each in its category."""
        assert run(("Failing", None)) == {
            "orch_starts": 1,
            "orch_failures": 1,
            "orch_application_errors": 1,
            "activity_app_errors": 1,
        }

    def test_of_continue_as_new(self, run):
        """An instance starts and completes once, whatever the number of its executions."""
        assert run(("Again", 3)) == {
            "orch_starts": 1,
            "orch_completions": 1,
            "orch_continue_as_new": 3,
            "activity_success": 4,
        }

    def test_of_sub_orchestrations(self, run):
        """Every call of a child; children are instances too."""
        assert run(("Parent", None)) == {
            "orch_starts": 4,
            "orch_completions": 4,
            "suborchestration_calls": 3,
            "activity_success": 3,
        }

    def test_are_the_same_when_every_turn_is_replayed(self, run, settings):
        """Replays count nothing again."""
        settings.DUROXIDE = {**settings.DUROXIDE, "REPLAY_EVERY_TURN": True}
        assert run(("Again", 2), ("Failing", None)) == {
            "orch_starts": 2,
            "orch_completions": 1,
            "orch_failures": 1,
            "orch_application_errors": 1,
            "orch_continue_as_new": 2,
            "activity_success": 3,
            "activity_app_errors": 1,
        }

    def test_of_atomic_activities(self, client, program, run):
        """An atomic activity that succeeds counts once."""
        program.activity("Write", atomic=True)(lambda ctx, input: input)

        @program.orchestration("Writing")
        def writing(ctx, input):
            yield ctx.schedule_activity("Write", 1)

        assert run(("Writing", None)) == {"orch_starts": 1, "orch_completions": 1, "activity_success": 1}

    def test_leave_out_activities_whose_result_did_not_count(self, client, program, start_runtime, gate, wait_until):
        """The lost result of a cancelled activity is neither a success nor an error."""
        program.activity("Held")(lambda ctx, input: gate.wait())
        self.lose_a_race(client, program, start_runtime, gate, wait_until)

    @pytest.mark.parametrize("backend", ["postgres"], indirect=True)  # SQLite's only writer is the activity itself
    def test_leave_out_atomic_activities_that_were_rolled_back(self, client, program, start_runtime, gate, wait_until):
        """An atomic activity that was cancelled while it ran is neither a success nor an error."""
        program.activity("Held", atomic=True)(lambda ctx, input: gate.wait())
        self.lose_a_race(client, program, start_runtime, gate, wait_until)

    def lose_a_race(self, client, program, start_runtime, gate, wait_until):
        @program.orchestration("Racing")
        def racing(ctx, input):
            yield ctx.race(ctx.schedule_activity("Held"), ctx.wait_for_event("enough"))
            yield ctx.schedule_activity("Add", [1, 2])

        # One slot: the second activity runs when the first one is through.
        runtime = start_runtime(worker_concurrency=1)
        client.start_orchestration("racing-1", "Racing")
        gate.wait_entered()
        client.raise_event("racing-1", "enough")
        wait_until(lambda: "ActivityCancelRequested" in _kinds(client, "racing-1"))
        gate.open()
        client.wait_for_orchestration("racing-1")
        wait_until(lambda: _ends(runtime) == 1)
        counted = runtime.metrics_snapshot()
        assert (counted.activity_success, counted.activity_app_errors) == (1, 0)

    def test_of_work_that_comes_eagerly(self, client, program, start_runtime, wait_until):
        """A worker that schedules activities for itself doesn't fetch them, nor their results."""
        runtime = start_runtime()
        client.start_orchestration("sum-1", "Sum", [1, 2])
        client.wait_for_orchestration("sum-1")
        counted = wait_until(lambda: _ends(runtime) == 1 and runtime.metrics_snapshot())
        assert counted.orch_dispatcher_items_fetched == 1
        assert counted.worker_dispatcher_items_fetched == 0
        assert counted.provider_errors == 0

    def test_of_work_that_comes_through_the_queues(self, client, start_runtime, wait_until):
        """Every activity is fetched once, every start and result is, and both sides count their own."""
        count = 10
        orchestrating = start_runtime(worker_concurrency=0)
        acting = start_runtime(orchestration_concurrency=0)
        client.start_many([(f"sum-{number}", "Sum", [number, 1]) for number in range(count)])
        for number in range(count):
            client.wait_for_orchestration(f"sum-{number}")
        wait_until(lambda: _ends(orchestrating) == count)
        assert _nonzero(orchestrating) == {
            "orch_starts": count,
            "orch_completions": count,
            "orch_dispatcher_items_fetched": 2 * count,
        }
        assert _nonzero(acting) == {"activity_success": count, "worker_dispatcher_items_fetched": count}

    def test_of_activities_that_nobody_began(self, client, program, run):
        """A schedule-to-start time that ran out is a failure of the activity."""

        @program.orchestration("Unserved")
        def unserved(ctx, input):
            task = ctx.schedule_activity("Add", [1, 2], schedule_to_start_timeout_ms=10).with_tag("gpu")
            yield ctx.all([task])

        assert run(("Unserved", None)) == {"orch_starts": 1, "orch_completions": 1, "activity_app_errors": 1}

    def test_of_retried_activities(self, client, program, run):
        """Every attempt's outcome counts."""

        @program.activity("Flaky")
        def flaky(ctx, input):
            if ctx.attempt < 3:
                raise ValueError("not yet")

        @program.orchestration("Retrying")
        def retrying(ctx, input):
            yield ctx.schedule_activity_with_retry("Flaky", None, {"max_attempts": 5, "initial_delay_ms": 1})

        assert run(("Retrying", None)) == {
            "orch_starts": 1,
            "orch_completions": 1,
            "activity_app_errors": 2,
            "activity_success": 1,
        }

    def test_of_cancelled_instances(self, client, program, start_runtime, wait_until):
        """A cancel is an application failure; its child's as well."""

        @program.orchestration("Waiting")
        def waiting(ctx, input):
            yield ctx.wait_for_event("never")

        @program.orchestration("Above")
        def above(ctx, input):
            yield ctx.schedule_sub_orchestration_with_id("Waiting", "below-1")

        runtime = start_runtime()
        client.start_orchestration("above-1", "Above")
        wait_until(lambda: "below-1" in client.list_all_instances())
        client.cancel_instance("above-1", "enough")
        wait_until(lambda: _ends(runtime) == 2)
        counted = runtime.metrics_snapshot()
        assert (counted.orch_failures, counted.orch_application_errors) == (2, 2)
        assert (counted.orch_starts, counted.suborchestration_calls) == (2, 1)

    def test_of_code_that_does_not_fit(self, client, backend, settings, wait_until):
        """Where a mismatch fails the instance, it is a configuration error."""
        settings.DUROXIDE = {**settings.DUROXIDE, "ON_NONDETERMINISM": "fail"}
        before, after = Program(backend), Program(backend)
        before.orchestration("Changing")(lambda ctx, input: (yield ctx.wait_for_event("go")))
        after.orchestration("Changing")(lambda ctx, input: (yield ctx.wait_for_event("other")))
        client.start_orchestration("changing-1", "Changing")
        before.drain()
        client.raise_event("changing-1", "go")
        with after.runtime() as runtime:
            client.wait_for_orchestration("changing-1")
            wait_until(lambda: _ends(runtime) == 1)
            assert _nonzero(runtime) == {
                "orch_failures": 1,
                "orch_configuration_errors": 1,
                "orch_dispatcher_items_fetched": 1,
            }


def _nonzero(runtime):
    return {name: count for name, count in runtime.metrics_snapshot().items() if count}


def _kinds(client, instance_id):
    return [event.kind for event in client.read_execution_history(instance_id, 1)]
