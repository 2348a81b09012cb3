"""The guide's sessions: SessionWorkflow, MyActivity, BatchProcess, and affinity between runtimes."""

from __future__ import annotations

import threading

from duroxide_django import Runtime, RuntimeOptions


def session_program(runtime, seen):
    @runtime.register_activity("ProcessData")
    def process_data(ctx, input):
        seen.append((ctx.session_id, ctx.worker_id))
        return f"{input} on {ctx.session_id}"

    @runtime.register_orchestration("SessionWorkflow")
    def session_workflow(ctx, input):
        # Explicit method
        r1 = yield ctx.schedule_activity_on_session("ProcessData", input, "my-session-1")

        # Keyword argument (equivalent)
        r2 = yield ctx.schedule_activity("ProcessData", input, session_id="my-session-1")

        return [r1, r2]


def my_activity_program(runtime):
    @runtime.register_activity("MyActivity")
    def my_activity(ctx, input):
        if ctx.session_id:
            print(f"Running in session: {ctx.session_id}")  # noqa: T201 - as printed
        else:
            print("No session (regular activity)")  # noqa: T201 - as printed
        return input

    @runtime.register_orchestration("Both")
    def both(ctx, input):
        yield ctx.schedule_activity("MyActivity", input)
        yield ctx.schedule_activity("MyActivity", input, session_id="s1")


def batch_program(runtime):
    # Stateful activity — shares in-memory state within a session
    session_state = {}

    @runtime.register_activity("Accumulate")
    def accumulate(ctx, input):
        sid = ctx.session_id
        if sid not in session_state:
            session_state[sid] = []
        session_state[sid].append(input)
        return session_state[sid]

    @runtime.register_orchestration("BatchProcess")
    def batch_process(ctx, input):
        for item in input["items"]:
            result = yield ctx.schedule_activity_on_session("Accumulate", item, f"batch-{input['batch_id']}")
        return result  # All items accumulated in order


def options_of_the_guide():
    return RuntimeOptions(
        max_sessions_per_runtime=5,
        session_idle_timeout_ms=60000,
        worker_node_id="worker-1",
    )


class TestSessionWorkflow:
    """Program 13, first half: the two spellings of a session."""

    def test_takes_both_spellings(self, client, start_runtime, history, kinds):
        """Either way the activity is told the session and runs on the same worker."""
        seen = []
        start_runtime(session_program, seen=seen)
        client.start_orchestration("session-1", "SessionWorkflow", "data")
        assert client.wait_for_orchestration("session-1").output == ["data on my-session-1"] * 2
        assert [session for session, _ in seen] == ["my-session-1"] * 2
        assert len({worker for _, worker in seen}) == 1
        assert kinds("session-1") == [
            "OrchestrationStarted",
            *["ActivityScheduled", "ActivityCompleted"] * 2,
            "OrchestrationCompleted",
        ]

    def test_moves_to_the_runtime_that_is_left(self, client, start_runtime, wait_until):
        """Stopped in its second activity: the next runtime takes the session over and repeats that one only."""
        second, release = threading.Event(), threading.Event()

        class Stuck(list):
            def append(self, item):
                super().append(item)
                if len(self) == 2:
                    second.set()
                    release.wait(60)

        options = RuntimeOptions(worker_lock_timeout_ms=2000)
        first = start_runtime(session_program, options=options, seen=Stuck())
        try:
            client.start_orchestration("session-1", "SessionWorkflow", "data")
            wait_until(second.is_set)
            first.shutdown(timeout_ms=0)
            seen = []
            start_runtime(session_program, options=options, seen=seen)
            result = client.wait_for_orchestration("session-1", 20000)
        finally:
            release.set()
        assert result.output == ["data on my-session-1"] * 2
        assert [session for session, _ in seen] == ["my-session-1"]

    def test_tells_an_activity_without_session_none(self, client, start_runtime, capsys):
        """ctx.session_id is None for a regular activity, the id for one on a session."""
        start_runtime(my_activity_program)
        client.start_orchestration("both-1", "Both", "x")
        assert client.wait_for_orchestration("both-1").status == "Completed"
        printed = capsys.readouterr().out.splitlines()
        assert [line for line in printed if "ession" in line] == [
            "No session (regular activity)",
            "Running in session: s1",
        ]


class TestBatchProcess:
    """Program 13, second half: state kept in the process between activities."""

    def test_accumulates_in_order(self, client, start_runtime):
        """All three items end up in one process's list, in order."""
        start_runtime(batch_program, options=options_of_the_guide())
        client.start_orchestration("batch-1", "BatchProcess", {"batch_id": "001", "items": ["a", "b", "c"]})
        assert client.wait_for_orchestration("batch-1").output == ["a", "b", "c"]

    def test_keeps_batches_apart(self, client, start_runtime):
        """Several batches at once: each has its own session and its own list."""
        start_runtime(batch_program, options=options_of_the_guide())
        for number in range(4):
            arguments = {"batch_id": number, "items": [f"{number}{letter}" for letter in "abc"]}
            client.start_orchestration(f"batch-{number}", "BatchProcess", arguments)
        for number in range(4):
            result = client.wait_for_orchestration(f"batch-{number}")
            assert result.output == [f"{number}{letter}" for letter in "abc"]

    def test_stays_with_one_of_two_runtimes(self, client, provider):
        """With two runtimes on one store, each holding its own state, a session's items never part."""
        runtimes = [Runtime(provider, RuntimeOptions(worker_node_id=f"node-{number}")) for number in (1, 2)]
        for runtime in runtimes:
            batch_program(runtime)
            runtime.start()
        try:
            for number in range(6):
                arguments = {"batch_id": number, "items": list("abcde")}
                client.start_orchestration(f"batch-{number}", "BatchProcess", arguments)
            for number in range(6):
                assert client.wait_for_orchestration(f"batch-{number}").output == list("abcde")
        finally:
            for runtime in runtimes:
                runtime.shutdown()
