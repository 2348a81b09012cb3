"""How an activity learns that its result is no longer wanted (W4), and what becomes of the result."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

#: W4 says 1 s; a busy machine gets as much again. Without the check it would be a lease's 30 s.
LEARNS_WITHIN_S = 10.0


class Listening:
    """An activity that asks until it is cancelled; remembers when it was."""

    def __init__(self):
        self.began = threading.Event()
        self.learnt = threading.Event()
        self.learnt_at = None

    def __call__(self, ctx, input):
        self.began.set()
        deadline = time.monotonic() + 30
        while not ctx.wait_cancelled(50) and time.monotonic() < deadline:
            pass
        assert ctx.is_cancelled()
        self.learnt_at = time.monotonic()
        self.learnt.set()
        return "too late"


@pytest.fixture
def listening(program):
    made = Listening()
    program.activity("Listen")(made)

    @program.orchestration("Listening")
    def listening(ctx, input):
        return (yield ctx.schedule_activity("Listen"))

    @program.orchestration("Racing")
    def racing(ctx, input):
        winner = yield ctx.race(ctx.schedule_activity("Listen"), ctx.wait_for_event("enough"))
        return winner["index"]

    @program.orchestration("Parent")
    def parent(ctx, input):
        yield ctx.schedule_sub_orchestration_with_id("Listening", "child-1")

    return made


@pytest.fixture(params=["one runtime", "two runtimes"])
def runtimes(request, start_runtime):
    """Start one runtime for everything, or one for orchestrations and another one for activities.

    The two share nothing but the database, as two processes do.
    """
    if request.param == "one runtime":
        start_runtime()
    else:
        start_runtime(worker_concurrency=0)
        start_runtime(orchestration_concurrency=0)


@pytest.mark.usefixtures("runtimes")
class TestLearning:
    def cancelled_by(self, client, listening, name, cause):
        client.start_orchestration("it", name)
        assert listening.began.wait(60)
        caused_at = time.monotonic()
        cause()
        assert listening.learnt.wait(60), "the activity never learnt that it was cancelled"
        assert listening.learnt_at - caused_at < LEARNS_WITHIN_S

    def test_of_a_cancelled_instance(self, client, listening):
        """cancel_instance() reaches the running activity soon."""
        self.cancelled_by(client, listening, "Listening", lambda: client.cancel_instance("it", "stop"))
        assert client.wait_for_orchestration("it").error == "canceled: stop"

    def test_of_a_lost_race(self, client, listening):
        """The loser of a race learns it soon."""
        self.cancelled_by(client, listening, "Racing", lambda: client.raise_event("it", "enough"))
        assert client.wait_for_orchestration("it").output == 1

    def test_of_a_cancelled_parent(self, client, listening):
        """Cancelling the parent reaches the child's activity."""
        self.cancelled_by(client, listening, "Parent", lambda: client.cancel_instance("it", "stop"))
        assert client.wait_for_orchestration("child-1").error == "canceled: parent canceled"

    def test_of_a_deleted_instance(self, client, listening):
        """A forced delete is noticed too."""
        self.cancelled_by(client, listening, "Listening", lambda: client.delete_instance("it", force=True))
        assert client.get_status("it").status == "NotFound"


class TestResult:
    def test_of_a_cancelled_activity_is_dropped(self, client, program, listening, start_runtime, wait_until):
        """What it returns afterwards is not recorded, and nothing of it stays in the queue."""
        runtime = start_runtime()
        client.start_orchestration("it", "Racing")
        assert listening.began.wait(60)
        client.raise_event("it", "enough")
        client.wait_for_orchestration("it")
        assert listening.learnt.wait(60)
        runtime.shutdown()
        kinds = [event.kind for event in client.read_execution_history("it", 1)]
        assert "ActivityCancelRequested" in kinds
        assert "ActivityCompleted" not in kinds
        depths = client.get_queue_depths()
        assert (depths.worker_queue, depths.orchestrator_queue) == (0, 0)

    def test_of_an_activity_cancelled_before_it_began_does_not_exist(
        self, client, program, start_runtime, gate, backend
    ):
        """One that still waits for a slot never runs."""
        ran = []
        program.activity("Hold")(lambda ctx, input: gate.wait())
        program.activity("Note")(lambda ctx, input: ran.append(input))

        @program.orchestration("Holding")
        def holding(ctx, input):
            yield ctx.schedule_activity("Hold")

        @program.orchestration("Noting")
        def noting(ctx, input):
            yield ctx.race(ctx.schedule_activity("Note", "cancelled"), ctx.wait_for_event("enough"))
            yield ctx.schedule_activity("Note", "kept")

        start_runtime(worker_concurrency=1)
        client.start_orchestration("holding-1", "Holding")
        gate.wait_entered()
        client.start_orchestration("noting-1", "Noting")
        client.raise_event("noting-1", "enough")
        client.start_orchestration("noting-2", "Noting")
        client.cancel_instance("noting-2")
        client.wait_for_orchestration("noting-2")
        gate.open()
        client.wait_for_orchestration("noting-1")
        assert ran == ["kept"]


class TestAsync:
    def test_a_coroutine_is_cancelled_where_it_waits(self, client, program, start_runtime):
        """An ``async def`` activity gets CancelledError at its await and may clean up."""
        seen, began, ended = [], threading.Event(), threading.Event()

        @program.activity("Wait")
        async def wait(ctx, input):
            began.set()
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                seen.append(ctx.is_cancelled())
                raise
            finally:
                ended.set()

        @program.orchestration("Waiting")
        def waiting(ctx, input):
            yield ctx.schedule_activity("Wait")

        start_runtime()
        client.start_orchestration("waiting-1", "Waiting")
        assert began.wait(60)
        caused_at = time.monotonic()
        client.cancel_instance("waiting-1", "stop")
        assert ended.wait(60)
        assert time.monotonic() - caused_at < LEARNS_WITHIN_S
        assert seen == [True]
        assert client.wait_for_orchestration("waiting-1").error == "canceled: stop"
