"""Runtime: starting, registering, stopping gracefully, and what is left behind for others (spec 15, 13.7)."""

from __future__ import annotations

import threading

import pytest
from django.db import connections

from duroxide_django import ConfigurationError, InvalidArgument, Runtime, RuntimeStateError
from tests.runtime.program import stopwatch


@pytest.fixture(autouse=True)
def workflows(program, gate):
    program.activity("Add")(lambda ctx, pair: sum(pair))
    ran = program.ran = []

    @program.activity("Slow")
    def slow(ctx, input):
        ran.append((input, ctx.delivery))
        gate.wait()
        return f"{input} done"

    @program.orchestration("Sum")
    def add_up(ctx, pair):
        return (yield ctx.schedule_activity("Add", pair))

    @program.orchestration("SlowFlow")
    def slow_flow(ctx, input):
        return (yield ctx.schedule_activity("Slow", input))


class TestStart:
    def test_returns_at_once_and_serves(self, client, start_runtime):
        """start() comes back while the work goes on in the background, also with what waited before."""
        client.start_orchestration("before", "Sum", [1, 2])
        start_runtime()
        client.start_orchestration("after", "Sum", [3, 4])
        assert client.wait_for_orchestration("before").output == 3
        assert client.wait_for_orchestration("after").output == 7

    def test_twice_is_refused(self, start_runtime):
        """A running runtime can't be started again; the error is a RuntimeError."""
        runtime = start_runtime()
        with pytest.raises(RuntimeStateError, match="started before"):
            runtime.start()
        with pytest.raises(RuntimeError):
            runtime.start()

    def test_after_shutdown_is_refused(self, start_runtime):
        """A stopped runtime stays stopped."""
        runtime = start_runtime()
        runtime.shutdown()
        with pytest.raises(RuntimeStateError, match="make a new one"):
            runtime.start()

    def test_without_tables_is_refused(self, empty_alias):
        """Missing tables are noticed at once, with the command that makes them."""
        before = set(threading.enumerate())
        with pytest.raises(ConfigurationError, match=f"migrate --database {empty_alias}"):
            Runtime(using=empty_alias).start()
        assert set(threading.enumerate()) == before

    def test_serves_inside_a_with_block(self, client, program):
        """The block's end shuts it down."""
        with program.runtime() as runtime:
            client.start_orchestration("sum-1", "Sum", [1, 2])
            assert client.wait_for_orchestration("sum-1").output == 3
            assert runtime.is_alive
        assert not runtime.is_alive


class TestRegistering:
    def test_after_start_is_refused(self, start_runtime):
        """What a running runtime would never notice is refused, in both spellings."""
        runtime = start_runtime()
        with pytest.raises(RuntimeStateError, match="activity 'Late' while the runtime runs; register before start"):
            runtime.register_activity("Late", lambda ctx, input: None)
        with pytest.raises(RuntimeStateError, match="orchestration 'Late'"):
            runtime.register_orchestration("Late", lambda ctx, input: None)
        with pytest.raises(RuntimeStateError, match="orchestration 'Late'"):
            runtime.register_orchestration_versioned("Late", "1.2.0")(lambda ctx, input: None)

    def test_gives_the_function_back(self, program):
        """As decorator and directly: the function itself comes back, unchanged."""
        runtime = program.runtime()

        def work(ctx, input):
            return None

        assert runtime.register_activity("A", work) is work
        assert runtime.register_activity("B")(work) is work
        assert runtime.register_orchestration("A", work) is work
        assert runtime.register_orchestration_versioned("B", "1.2.0")(work) is work
        assert runtime.register_activity_typed("C", work) is work

    def test_with_a_provider_is_apart_from_other_runtimes(self, client, runtime_factory, backend):
        """Two runtimes of one process don't see each other's functions (W31)."""
        from duroxide_django import Provider

        first, second = runtime_factory(Provider(backend)), runtime_factory(Provider(backend))
        first.register_orchestration("Mine", lambda ctx, input: "first's")
        second.register_orchestration("Mine", lambda ctx, input: "second's")
        second.start()
        client.start_orchestration("mine-1", "Mine")
        assert client.wait_for_orchestration("mine-1").output == "second's"


class TestShutdown:
    def test_may_be_called_at_any_time(self, program):
        """Before start, and again and again, it does nothing."""
        runtime = program.runtime()
        runtime.shutdown()
        runtime.shutdown(0)
        started = program.runtime()
        started.start()
        started.shutdown()
        started.shutdown()
        assert not started.is_alive

    @pytest.mark.parametrize("bad", [-1, 0.5, "100", True])
    def test_with_a_malformed_time_is_refused(self, start_runtime, bad):
        """And nothing is stopped."""
        runtime = start_runtime()
        with pytest.raises(InvalidArgument, match="timeout_ms must be a whole number of at least 0"):
            runtime.shutdown(bad)
        assert runtime.is_alive

    def test_of_an_idle_runtime_returns_at_once(self, start_runtime):
        """The time-out is a bound, not a sleep (W26)."""
        runtime = start_runtime()
        with stopwatch() as took:
            runtime.shutdown(30_000)
        assert took() < 10

    def test_waits_for_running_activities(self, client, program, start_runtime, gate):
        """An activity that is running may end, and its completion is committed."""
        runtime = start_runtime()
        client.start_orchestration("slow-1", "SlowFlow", "it")
        gate.wait_entered()
        stopping = threading.Thread(target=runtime.shutdown, args=(30_000,))
        stopping.start()
        gate.open()
        stopping.join(20)
        assert not stopping.is_alive()
        assert "ActivityCompleted" in [event.kind for event in client.read_execution_history("slow-1", 1)] or (
            client.get_queue_depths().orchestrator_ready == 1
        )
        program.drain()
        assert client.get_status("slow-1").output == "it done"
        assert program.ran == [("it", 1)]

    def test_takes_nothing_new(self, client, program, start_runtime, gate, wait_until):
        """While it drains, new instances are left for others."""
        runtime = start_runtime()
        client.start_orchestration("slow-1", "SlowFlow", "it")
        gate.wait_entered()
        stopping = threading.Thread(target=runtime.shutdown, args=(30_000,))
        stopping.start()
        wait_until(lambda: runtime.metrics_snapshot() is None)
        client.start_orchestration("late-1", "Sum", [1, 2])
        gate.open()
        stopping.join(20)
        assert client.get_status("late-1").status == "Running"
        assert client.list_executions("late-1") == []
        program.drain()
        assert client.get_status("late-1").output == 3

    def test_gives_back_what_has_not_begun(self, client, program, start_runtime, gate, backend):
        """Activities that wait for a slot are handed to the next worker without counting a delivery."""
        runtime = start_runtime(worker_concurrency=1)
        for number in range(4):
            client.start_orchestration(f"slow-{number}", "SlowFlow", number)
        gate.wait_entered()
        stopping = threading.Thread(target=runtime.shutdown, args=(30_000,))
        stopping.start()
        gate.open()
        stopping.join(20)
        assert not leased_tasks(backend)
        program.drain()
        assert sorted(program.ran) == [(number, 1) for number in range(4)]
        assert [client.get_status(f"slow-{number}").output for number in range(4)] == [f"{n} done" for n in range(4)]

    def test_gives_running_activities_back_when_the_time_is_up(
        self, client, program, start_runtime, gate, wait_until, backend
    ):
        """What still runs is told to stop and runs again elsewhere at once; its late result doesn't count."""
        runtime = start_runtime()
        client.start_orchestration("slow-1", "SlowFlow", "it")
        gate.wait_entered()
        with stopwatch() as took:
            runtime.shutdown(100)
        assert took() < 10
        assert not leased_tasks(backend)
        start_runtime()
        gate.wait_entered()
        gate.open()
        assert client.wait_for_orchestration("slow-1").output == "it done"
        assert len(program.ran) == 2
        kinds = [event.kind for event in client.read_execution_history("slow-1", 1)]
        assert kinds.count("ActivityCompleted") == 1

    def test_with_no_time_at_all_leaves_nothing_locked(self, client, program, start_runtime, gate, backend):
        """shutdown(0) doesn't wait, but gives leases back like any other."""
        runtime = start_runtime()
        client.start_orchestration("slow-1", "SlowFlow", "it")
        gate.wait_entered()
        runtime.shutdown(0)
        assert not leased_tasks(backend)
        assert client.get_status("slow-1").status == "Running"

    def test_leaves_no_worker_row_behind(self, start_runtime, backend, wait_until):
        """A running runtime announces itself; a stopped one is gone from the list."""
        from duroxide_django.models import Worker

        runtime = start_runtime(worker_concurrency=3)
        row = wait_until(lambda: Worker.objects.using(backend).first())
        assert row.id == runtime.config.worker_id
        assert '"Sum"' in row.handlers
        runtime.shutdown()
        assert not Worker.objects.using(backend).exists()

    def test_in_the_middle_of_many_instances_loses_none(self, client, program, start_runtime):
        """Stopped at a random moment under load; the next runtime finishes every one, each step once."""
        count = 60

        @program.orchestration("Steps")
        def steps(ctx, start):
            total = start
            for _ in range(4):
                total = yield ctx.schedule_activity("Add", [total, 1])
            return total

        for number in range(count):
            client.start_orchestration(f"steps-{number}", "Steps", number)
        first = start_runtime()
        client.wait_for_orchestration("steps-0")
        first.shutdown()
        start_runtime()
        for number in range(count):
            assert client.wait_for_orchestration(f"steps-{number}").output == number + 4


def leased_tasks(alias):
    with connections[alias].cursor() as cursor:
        cursor.execute("SELECT name FROM duroxide_activity_task WHERE lease_token IS NOT NULL")
        return cursor.fetchall()


class TestIdle:
    def test_a_turn_that_is_being_computed_is_work(self, client, program, start_runtime, wait_until):
        """What the loop has taken is in no queue; ``runworkers --drain`` must not end before it is done."""
        computing, release = threading.Event(), threading.Event()

        @program.orchestration("Slow")
        def slow(ctx, input):
            computing.set()
            release.wait(10)
            return input

        runtime = start_runtime()
        wait_until(runtime.is_idle)
        client.start_orchestration("slow-1", "Slow", 7)
        try:
            assert computing.wait(10)
            assert not runtime.is_idle()
        finally:
            release.set()
        wait_until(runtime.is_idle)
        assert client.get_status("slow-1").output == 7
