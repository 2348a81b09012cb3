"""Leases of running activities: renewed while they run, taken over when their worker is gone (spec 13.4)."""

from __future__ import annotations

import threading

import pytest
from django.db import connections

from duroxide_django.models import ActivityTask, Session
from duroxide_django.runtime.watchdog import Watchdog
from duroxide_django.storage.database import Database
from tests.runtime.program import stopwatch

#: A lease short enough to run out in a test, long enough to be renewed in time on a busy machine.
LEASE_MS = 900


@pytest.fixture(autouse=True)
def workflows(program, gate):
    program.ran = []

    @program.activity("Held")
    def held(ctx, input):
        program.ran.append((ctx.worker_id, ctx.delivery))
        gate.wait()
        return ctx.delivery

    @program.orchestration("Holding")
    def holding(ctx, input):
        return (yield ctx.schedule_activity("Held", input, session_id=input))


@pytest.fixture
def task(backend):
    """Return the row of the only activity."""
    return lambda: ActivityTask.objects.using(backend).get()


class TestRenewal:
    def test_keeps_a_long_activity_with_its_worker(self, client, program, start_runtime, gate, task, wait_until):
        """An activity of several lease times runs once, though another worker is free."""
        start_runtime(worker_lock_timeout_ms=LEASE_MS)
        client.start_orchestration("holding-1", "Holding")
        gate.wait_entered()
        first_lease_ends = task().lease_until_ms
        start_runtime(worker_lock_timeout_ms=LEASE_MS)
        wait_until(lambda: task().lease_until_ms > first_lease_ends + 2 * LEASE_MS)
        gate.open()
        assert client.wait_for_orchestration("holding-1").output == 1
        assert len(program.ran) == 1

    def test_covers_all_running_activities(self, client, program, start_runtime, gate, backend, wait_until):
        """Every lease of the process is renewed, not only one."""
        start_runtime(worker_lock_timeout_ms=LEASE_MS, worker_concurrency=5)
        for number in range(5):
            client.start_orchestration(f"holding-{number}", "Holding")
        gate.wait_entered(5)
        tasks = ActivityTask.objects.using(backend)
        latest = max(task.lease_until_ms for task in tasks.all())
        wait_until(lambda: min(task.lease_until_ms for task in tasks.all()) > latest + LEASE_MS)
        gate.open()
        for number in range(5):
            assert client.wait_for_orchestration(f"holding-{number}").output == 1
        assert len(program.ran) == 5


class TestWhileTheLoopIsBusy:
    """Turns that take long hold the thread up that renews otherwise."""

    @pytest.fixture
    def busy(self, program):
        """Lets the loop's turn end."""
        over, program.begun = threading.Event(), threading.Event()

        @program.orchestration("Slow")
        def slow(ctx, _):
            program.begun.set()
            over.wait(60)

        yield over
        over.set()

    @pytest.fixture
    def hold_up(self, client, program, start_runtime, gate, busy):
        """Start a runtime, let it begin an activity of a session, and keep its loop busy; returns the runtime."""

        def hold_up(**options):
            runtime = start_runtime(worker_lock_timeout_ms=LEASE_MS, **options)
            client.start_orchestration("holding-1", "Holding", "s")
            gate.wait_entered()
            client.start_orchestration("slow-1", "Slow")
            assert program.begun.wait(10)
            return runtime

        return hold_up

    def test_they_are_renewed(self, client, program, hold_up, start_runtime, busy, gate, task, wait_until):
        """The activity runs once, though another worker is free."""
        hold_up()
        start_runtime(worker_lock_timeout_ms=LEASE_MS)
        lease_ends = task().lease_until_ms
        wait_until(lambda: task().lease_until_ms > lease_ends + 2 * LEASE_MS, timeout_s=10)
        busy.set()
        gate.open()
        assert client.wait_for_orchestration("holding-1").output == 1
        assert len(program.ran) == 1

    def test_what_has_ended_is_kept_for_its_commit(
        self, client, program, hold_up, start_runtime, busy, gate, task, wait_until
    ):
        """A result that waits for the loop is as good as recorded: nobody runs the activity again."""
        runtime = hold_up()
        start_runtime(worker_lock_timeout_ms=LEASE_MS)
        gate.open()
        wait_until(runtime._loop.slots.finished)
        lease_ends = task().lease_until_ms
        wait_until(lambda: task().lease_until_ms > lease_ends + 2 * LEASE_MS, timeout_s=10)
        busy.set()
        assert client.wait_for_orchestration("holding-1").output == 1
        assert len(program.ran) == 1

    def test_sessions_are_renewed(self, client, program, hold_up, backend, settings, wait_until):
        """Another worker would take the session over in the middle of its activity."""
        settings.DUROXIDE = {**settings.DUROXIDE, "SESSION_LEASE_MS": 900}
        hold_up(session_idle_timeout_ms=60_000)
        session = Session.objects.using(backend).get
        lease_ends = session().lease_until_ms
        wait_until(lambda: session().lease_until_ms > lease_ends + 900, timeout_s=10)

    def test_a_loop_that_hangs_loses_them(self, hold_up, backend, settings, task, wait_until, monkeypatch):
        """Even if they can't be given back: others are to have what it holds."""
        settings.DUROXIDE = {**settings.DUROXIDE, "TURN_TIMEOUT_MS": 1_500}
        monkeypatch.setattr(Watchdog, "_give_everything_back", lambda *_: None)
        runtime = hold_up()
        wait_until(lambda: runtime.hangs)
        wait_until(lambda: task().lease_until_ms < Database(backend).now_ms(), timeout_s=10)


class TestTakeOver:
    def test_of_an_activity_whose_worker_is_gone(self, client, program, start_runtime, gate, backend, wait_until):
        """The lease of a dead worker runs out, and another one runs the activity, as its second delivery."""
        client.start_orchestration("holding-1", "Holding")
        program.drain(jump=False, options=_orchestrations_only())
        _lease_to_the_dead(backend, for_ms=500)
        start_runtime()
        gate.open()
        assert client.wait_for_orchestration("holding-1", 20_000).output == 2
        assert [delivery for _, delivery in program.ran] == [2]

    def test_of_an_instance_whose_worker_is_gone(self, client, program, start_runtime, gate, backend):
        """A turn claimed by a dead worker is run by another one once the lease has run out."""
        client.start_orchestration("holding-1", "Holding")
        with connections[backend].cursor() as cursor:
            cursor.execute(
                f"UPDATE duroxide_instance SET lease_token = 1, attempts = 1, lease_until_ms = {_now(backend)} + 500"
            )
        start_runtime()
        gate.open()
        assert client.wait_for_orchestration("holding-1", 20_000).output == 1

    def test_does_not_wait_for_the_slow_poll(self, client, program, start_runtime, gate, backend):
        """A worker notices within seconds that a lease has run out; of several runs one completion is recorded."""
        start_runtime()
        client.start_orchestration("holding-1", "Holding")
        gate.wait_entered()
        client.start_orchestration("holding-2", "Holding")
        gate.wait_entered()
        with connections[backend].cursor() as cursor:
            cursor.execute("UPDATE duroxide_activity_task SET lease_token = 1, lease_until_ms = 0")
        with stopwatch() as took:
            gate.wait_entered(2)
        assert took() < 10
        gate.open()
        for instance_id in ("holding-1", "holding-2"):
            client.wait_for_orchestration(instance_id)
            kinds = [event.kind for event in client.read_execution_history(instance_id, 1)]
            assert kinds.count("ActivityCompleted") == 1
        assert len(program.ran) == 4


def _orchestrations_only():
    from duroxide_django import RuntimeOptions

    return RuntimeOptions(worker_concurrency=0)


def _lease_to_the_dead(alias, *, for_ms):
    with connections[alias].cursor() as cursor:
        cursor.execute(
            "UPDATE duroxide_activity_task SET lease_token = 1, attempts = attempts + 1, worker = 'dead', "
            f"lease_until_ms = {_now(alias)} + {for_ms}"
        )


def _now(alias):
    from duroxide_django.storage.database import Database

    return Database(alias).now
