"""Users' code that does what it shouldn't: it fails by itself, and the worker goes on."""

from __future__ import annotations

import asyncio
import threading

import pytest
from django.contrib.auth.models import Group
from django.db import connections, transaction

from duroxide_django import ActivityFailed
from tests.runtime.program import stopwatch


class Stop(BaseException):
    """Neither an Exception nor one of Python's own ways to end a process."""


class Unprintable(Exception):
    def __str__(self):
        raise ValueError("not even this works")


def endless(depth=0):
    return endless(depth + 1)


def raise_(error):
    raise error


#: What an activity may do, and the beginning of the error that the orchestration sees.
FAILURES = {
    "sys.exit()": (lambda: raise_(SystemExit("leaving")), "SystemExit: leaving"),
    "a BaseException": (lambda: raise_(Stop("no more")), "Stop: no more"),
    "asyncio's cancellation": (lambda: raise_(asyncio.CancelledError("gone")), "CancelledError: gone"),
    "an error that can't be printed": (lambda: raise_(Unprintable()), "Unprintable: "),
    "an error with a NUL": (lambda: raise_(ValueError("nul \x00 inside")), "ValueError: nul "),
    "an error with a lone surrogate": (lambda: raise_(ValueError("lone \ud800")), "ValueError: lone "),
    "a very long error": (lambda: raise_(ValueError("x" * 3_000_000)), "ValueError: xxx"),
    "endless recursion": (endless, "RecursionError"),
    "a result that is no JSON": (object, "PayloadError: result of activity 'Act' is not JSON serializable"),
    "a result that is too large": (lambda: "x" * 3_000_000, "PayloadTooLarge: result of activity 'Act' is 3000002"),
    "a result with a NUL": (lambda: {"a": "\x00"}, "PayloadError: result of activity 'Act' can't be stored"),
}


@pytest.fixture
def act(client, program, start_runtime):
    """Run a function as activity ``Act`` in a worker with one slot; return what the orchestration caught."""

    def act(function, *, atomic=False):
        @program.activity("Act", atomic=atomic)
        def act(ctx, input):
            return function()

        @program.orchestration("Acting")
        def acting(ctx, input):
            try:
                return (yield ctx.schedule_activity("Act"))
            except ActivityFailed as exc:
                return str(exc)

        @program.activity("Innocent")
        def innocent(ctx, name):
            Group.objects.using(ctx.get_client().db.alias).create(name=name)
            return name

        @program.orchestration("Innocent")
        def next_one(ctx, name):
            return (yield ctx.schedule_activity("Innocent", name))

        start_runtime(worker_concurrency=1)
        client.start_orchestration("acting-1", "Acting")
        return client.wait_for_orchestration("acting-1", 20_000).output

    return act


@pytest.fixture
def next_activity_works(client, backend):
    """Check that the worker's only slot runs the next activity, and that its write is committed."""

    def check():
        client.start_orchestration("innocent-1", "Innocent", "alive")
        assert client.wait_for_orchestration("innocent-1", 20_000).output == "alive"
        assert Group.objects.using(backend).filter(name="alive").exists()

    return check


class TestActivities:
    @pytest.mark.parametrize("failure", FAILURES)
    @pytest.mark.parametrize("atomic", [False, True], ids=["plain", "atomic"])
    def test_that_fail_badly_fail_alone(self, act, next_activity_works, failure, atomic):
        """Whatever is raised or returned becomes an ActivityFailed; the slot is free for the next one."""
        function, error = FAILURES[failure]
        assert act(function, atomic=atomic).startswith(error)
        next_activity_works()

    def test_that_break_their_connection_do_no_harm(self, act, next_activity_works, backend):
        """A connection that an activity closed under Django's feet is replaced."""

        def close():
            connections[backend].ensure_connection()
            connections[backend].connection.close()

        act(close)
        next_activity_works()

    def test_that_leave_autocommit_off_do_no_harm(self, act, next_activity_works, backend):
        """The next activity's writes are committed all the same."""
        act(lambda: connections[backend].set_autocommit(False))
        next_activity_works()

    def test_that_leave_a_transaction_open_do_no_harm(self, act, next_activity_works, backend):
        """A block that was entered and never left doesn't swallow what later activities write."""
        act(lambda: transaction.atomic(using=backend).__enter__())
        next_activity_works()

    def test_that_stop_their_own_runtime_do_not_hang(self, client, program, start_runtime):
        """shutdown() from inside an activity comes back, and the activity runs again elsewhere."""
        runtimes, took, calls = [], [], []

        @program.activity("Shutdown")
        def shut_down(ctx, input):
            calls.append(ctx.worker_id)
            if len(calls) == 1:
                with stopwatch() as watch:
                    runtimes[0].shutdown(100)
                took.append(watch())
            return "done"

        @program.orchestration("Stopping")
        def stopping(ctx, input):
            return (yield ctx.schedule_activity("Shutdown"))

        runtimes.append(start_runtime())
        client.start_orchestration("stopping-1", "Stopping")
        start_runtime()
        assert client.wait_for_orchestration("stopping-1", 30_000).output == "done"
        assert all(seconds < 10 for seconds in took)


class TestOrchestrations:
    @pytest.fixture(autouse=True)
    def innocent(self, program):
        program.activity("Add")(lambda ctx, pair: sum(pair))
        program.orchestration("Echo")(lambda ctx, input: input)

    @pytest.fixture(params=[True, False], ids=["replaying", "cached"])
    def start_worker(self, request, settings, start_runtime):
        settings.DUROXIDE = {**settings.DUROXIDE, "REPLAY_EVERY_TURN": request.param}
        return start_runtime

    def check_alive(self, client):
        client.start_orchestration("echo-1", "Echo", "alive")
        assert client.wait_for_orchestration("echo-1", 20_000).output == "alive"

    @pytest.mark.parametrize(
        ("error", "text"),
        [
            (SystemExit("leaving"), "SystemExit: leaving"),
            (Stop("no more"), "Stop: no more"),
            (asyncio.CancelledError("gone"), "CancelledError: gone"),
            (GeneratorExit(), "GeneratorExit"),
            (StopIteration("early"), "StopIteration"),
            (Unprintable(), "Unprintable: "),
        ],
    )
    def test_that_raise_anything_fail_alone(self, client, program, start_worker, error, text):
        """The instance fails with the error's text; the worker serves the next one."""

        @program.orchestration("Raising")
        def raising(ctx, input):
            yield ctx.schedule_activity("Add", [1, 2])
            raise error

        start_worker()
        client.start_orchestration("raising-1", "Raising")
        result = client.wait_for_orchestration("raising-1", 20_000)
        assert result.status == "Failed"
        assert text in result.error
        self.check_alive(client)

    def test_that_refuse_to_be_closed_do_no_harm(self, client, program, start_worker):
        """A generator that swallows GeneratorExit is given up; it still completes."""

        @program.orchestration("Clinging")
        def clinging(ctx, input):
            total = 0
            for number in range(3):
                try:
                    total += yield ctx.schedule_activity("Add", [number, 1])
                except GeneratorExit:
                    yield ctx.schedule_activity("Add", [100, 100])
            return total

        runtime = start_worker()
        client.start_orchestration("clinging-1", "Clinging")
        assert client.wait_for_orchestration("clinging-1", 20_000).output == 6
        self.check_alive(client)
        runtime.shutdown()

    def test_that_talk_while_they_are_closed_are_not_heard(self, client, program, start_worker):
        """What a finally block does when a live execution is thrown away leaves no trace."""

        @program.orchestration("Shouting")
        def shouting(ctx, input):
            try:
                yield ctx.wait_for_event("never")
            finally:
                ctx.set_custom_status("closed")
                ctx.set_kv_value("closed", "yes")

        runtime = start_worker()
        client.start_orchestration("shouting-1", "Shouting")
        self.check_alive(client)
        runtime.shutdown()
        assert client.get_status("shouting-1").custom_status is None
        assert client.get_kv_all_values("shouting-1") == {}

    def test_that_use_the_database_do_not_disturb_the_loop(self, client, program, start_worker, backend):
        """They shouldn't, but a query or a broken constraint in a turn harms nobody else."""

        @program.orchestration("Querying")
        def querying(ctx, input):
            Group.objects.using(backend).create(name=f"group {ctx.instance_id}")
            Group.objects.using(backend).create(name=f"group {ctx.instance_id}")
            yield ctx.schedule_timer(0)

        start_worker()
        client.start_orchestration("querying-1", "Querying")
        assert client.wait_for_orchestration("querying-1", 20_000).error.startswith("IntegrityError")
        self.check_alive(client)

    def test_that_block_hold_up_their_own_worker_only(self, client, program, start_runtime, gate):
        """A turn that takes long keeps one worker busy; another one serves the rest."""

        @program.orchestration("Blocking")
        def blocking(ctx, input):
            gate.wait()
            return threading.current_thread().name

        start_runtime()
        client.start_orchestration("blocking-1", "Blocking")
        gate.wait_entered()
        start_runtime()
        self.check_alive(client)
        gate.open()
        client.wait_for_orchestration("blocking-1")
