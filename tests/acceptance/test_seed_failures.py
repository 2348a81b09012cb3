"""The guide's programs about failing: SafeWorkflow and the retries."""

from __future__ import annotations

import json
import threading
import time

import pytest

from duroxide_django import RuntimeOptions, TagFilter

POLICY_OF_THE_GUIDE = {
    "max_attempts": 3,
    "backoff": "exponential",
    "timeout_ms": 5000,  # per-attempt timeout
    "total_timeout_ms": 30000,  # total timeout across all attempts
}


def safe_program(runtime, cleaned, risky_call):
    runtime.register_activity("RiskyCall", risky_call)

    @runtime.register_activity("Cleanup")
    def cleanup(ctx, input):
        cleaned.append(input)

    @runtime.register_orchestration("SafeWorkflow")
    def safe_workflow(ctx, input):
        try:
            result = yield ctx.schedule_activity("RiskyCall", input)
            return result  # noqa: TRY300 - as printed
        except Exception as e:  # noqa: BLE001 - as printed
            ctx.trace_error(f"activity failed: {e}")
            yield ctx.schedule_activity("Cleanup", {"error": str(e)})
            return {"status": "failed", "error": str(e)}


def retry_program(runtime, flakey_api, policy=POLICY_OF_THE_GUIDE):
    runtime.register_activity("FlakeyApi", flakey_api)

    @runtime.register_orchestration("RetryWorkflow")
    def retry_workflow(ctx, input):
        result = yield ctx.schedule_activity_with_retry("FlakeyApi", input, policy)
        return result


def retry_session_program(runtime, flakey_gpu_task):
    runtime.register_activity("FlakeyGpuTask", flakey_gpu_task)

    @runtime.register_orchestration("RetrySessionWorkflow")
    def retry_session_workflow(ctx, input):
        result = yield ctx.schedule_activity_with_retry_on_session(
            "FlakeyGpuTask",
            input,
            {"max_attempts": 3, "backoff_strategy": "none"},
            "gpu-session-1",
        )
        return result


def failing(times, calls, answer="finally"):
    """Return an activity that fails ``times`` times, then answers; its calls go to ``calls``."""

    def run(ctx, input):
        calls.append((input, ctx.session_id, ctx.worker_id))
        if len(calls) <= times:
            raise ConnectionError(f"flake {len(calls)}")
        return answer

    return run


class TestSafeWorkflow:
    """Program 11: try and except around a yield."""

    def test_cleans_up_after_a_failure(self, client, start_runtime, kinds):
        """The failure is an exception whose text can be handed to the clean-up and returned."""

        def risky_call(ctx, input):
            raise ValueError("too hot to handle")

        cleaned = []
        start_runtime(safe_program, cleaned=cleaned, risky_call=risky_call)
        client.start_orchestration("safe-1", "SafeWorkflow", None)
        result = client.wait_for_orchestration("safe-1")
        assert result.status == "Completed"
        assert result.output == {"status": "failed", "error": "ValueError: too hot to handle"}
        assert cleaned == [{"error": "ValueError: too hot to handle"}]
        assert kinds("safe-1") == [
            "OrchestrationStarted",
            "ActivityScheduled",
            "ActivityFailed",
            "ActivityScheduled",
            "ActivityCompleted",
            "OrchestrationCompleted",
        ]

    def test_returns_the_result_of_a_call_that_went_well(self, client, start_runtime, kinds):
        """Without a failure there is no clean-up."""
        cleaned = []
        start_runtime(safe_program, cleaned=cleaned, risky_call=lambda ctx, input: input + 1)
        client.start_orchestration("safe-1", "SafeWorkflow", 1)
        assert client.wait_for_orchestration("safe-1").output == 2
        assert cleaned == []
        assert kinds("safe-1") == [
            "OrchestrationStarted",
            "ActivityScheduled",
            "ActivityCompleted",
            "OrchestrationCompleted",
        ]

    def test_cleans_up_after_a_restart(self, client, start_runtime, wait_until):
        """Stopped while it cleans up: the failure is remembered, and only the clean-up is done again."""
        cleaning, release = threading.Event(), threading.Event()
        calls = []

        class Stuck(list):
            def append(self, _item):
                cleaning.set()
                release.wait(60)

        def risky_call(ctx, input):
            calls.append(input)
            raise ValueError("too hot to handle")

        options = RuntimeOptions(worker_lock_timeout_ms=2000)
        first = start_runtime(safe_program, options=options, cleaned=Stuck(), risky_call=risky_call)
        try:
            client.start_orchestration("safe-1", "SafeWorkflow", None)
            wait_until(cleaning.is_set)
            first.shutdown(timeout_ms=0)
            cleaned = []
            start_runtime(safe_program, options=options, cleaned=cleaned, risky_call=risky_call)
            result = client.wait_for_orchestration("safe-1", 20000)
        finally:
            release.set()
        assert result.output == {"status": "failed", "error": "ValueError: too hot to handle"}
        assert cleaned == [{"error": "ValueError: too hot to handle"}]
        assert calls == [None]


class TestRetry:
    """Program 12: attempts with back-off and two time limits."""

    def test_tries_until_it_succeeds(self, client, start_runtime, kinds):
        """Two failures are borne, the third attempt's result is the task's."""
        calls = []
        start_runtime(retry_program, flakey_api=failing(2, calls))
        client.start_orchestration("retry-1", "RetryWorkflow", {"q": 1})
        result = client.wait_for_orchestration("retry-1")
        assert result.output == "finally"
        assert [call[0] for call in calls] == [{"q": 1}] * 3
        assert [kind for kind in kinds("retry-1") if kind.startswith("Activity")] == [
            *["ActivityScheduled", "ActivityFailed"] * 2,
            "ActivityScheduled",
            "ActivityCompleted",
        ]

    def test_fails_with_the_last_error(self, client, start_runtime, kinds):
        """After max_attempts failures the task fails as the last attempt did; there is no fourth."""
        calls = []
        start_runtime(retry_program, flakey_api=failing(99, calls))
        client.start_orchestration("retry-1", "RetryWorkflow", None)
        result = client.wait_for_orchestration("retry-1")
        assert result.status == "Failed"
        assert "ConnectionError: flake 3" in result.error
        assert len(calls) == 3
        assert kinds("retry-1").count("ActivityScheduled") == 3

    def test_backs_off_exponentially_by_durable_timers(self, client, start_runtime, history):
        """Without time limits the history is exact: failure, timer, next attempt; waits of 100 and 200 ms."""
        calls = []
        policy = {"max_attempts": 3, "backoff": "exponential"}
        start_runtime(retry_program, flakey_api=failing(2, calls), policy=policy)
        client.start_orchestration("retry-1", "RetryWorkflow", None)
        assert client.wait_for_orchestration("retry-1").output == "finally"
        events = history("retry-1")
        assert [event.kind for event in events] == [
            "OrchestrationStarted",
            *["ActivityScheduled", "ActivityFailed", "TimerCreated", "TimerFired"] * 2,
            "ActivityScheduled",
            "ActivityCompleted",
            "OrchestrationCompleted",
        ]
        waits = [
            json.loads(event.data)["fireAtMs"] - event.timestamp_ms for event in events if event.kind == "TimerCreated"
        ]
        assert waits == pytest.approx([100, 200], abs=30)

    def test_retries_an_attempt_that_took_too_long(self, client, start_runtime, kinds):
        """An attempt beyond timeout_ms is told to stop and is a failure like any other."""
        told, calls = threading.Event(), []

        def slow(ctx, input):
            calls.append(input)
            give_up = time.monotonic() + 20
            while not ctx.is_cancelled() and time.monotonic() < give_up:
                told.wait(0.02)
            told.set()

        policy = {**POLICY_OF_THE_GUIDE, "timeout_ms": 150, "max_attempts": 2}
        start_runtime(retry_program, flakey_api=slow, policy=policy)
        client.start_orchestration("retry-1", "RetryWorkflow", None)
        result = client.wait_for_orchestration("retry-1")
        assert result.status == "Failed"
        assert "timeout: activity timed out" in result.error
        assert told.wait(3)
        assert len(calls) == 2
        assert kinds("retry-1").count("ActivityScheduled") == kinds("retry-1").count("ActivityFailed") == 2

    def test_holds_the_total_time_over_all_attempts(self, client, start_runtime):
        """Quick failures without end are stopped by total_timeout_ms, though attempts are left."""
        calls = []
        policy = {"max_attempts": 1000, "backoff": "linear", "timeout_ms": 5000, "total_timeout_ms": 700}
        start_runtime(retry_program, flakey_api=failing(1000, calls), policy=policy)
        began = time.monotonic()
        client.start_orchestration("retry-1", "RetryWorkflow", None)
        result = client.wait_for_orchestration("retry-1", 10000)
        assert result.status == "Failed"
        assert "timeout" in result.error.lower()
        assert 0.7 <= time.monotonic() - began < 5
        assert 1 <= len(calls) < 10

    def test_goes_on_counting_after_a_restart(self, client, start_runtime, wait_until):
        """Attempts made before the stop count: three calls in all, whichever runtime made them."""
        calls = []
        first = start_runtime(retry_program, flakey_api=failing(2, calls))
        client.start_orchestration("retry-1", "RetryWorkflow", None)
        wait_until(lambda: calls)
        first.shutdown()
        start_runtime(retry_program, flakey_api=failing(2, calls))
        assert client.wait_for_orchestration("retry-1").output == "finally"
        assert len(calls) == 3

    def test_keeps_an_attempt_that_was_only_queued(self, client, start_runtime, kinds, wait_until):
        """An attempt scheduled by a runtime without workers is made by the next one."""
        calls = []
        nobody = RuntimeOptions(worker_tag_filter=TagFilter.NONE)
        first = start_runtime(retry_program, options=nobody, flakey_api=failing(0, calls))
        client.start_orchestration("retry-1", "RetryWorkflow", None)
        wait_until(lambda: "ActivityScheduled" in kinds("retry-1"))
        first.shutdown()
        start_runtime(retry_program, flakey_api=failing(2, calls))
        assert client.wait_for_orchestration("retry-1").output == "finally"
        assert len(calls) == 3


class TestRetryOnSession:
    """Program 17: attempts pinned to one session, without any back-off."""

    def test_makes_all_attempts_on_the_session_without_waiting(self, client, start_runtime, kinds):
        """No timer between attempts; each sees the session and the same worker."""
        calls = []
        start_runtime(retry_session_program, flakey_gpu_task=failing(2, calls, "rendered"))
        client.start_orchestration("gpu-1", "RetrySessionWorkflow", "frame 1")
        assert client.wait_for_orchestration("gpu-1").output == "rendered"
        assert kinds("gpu-1") == [
            "OrchestrationStarted",
            *["ActivityScheduled", "ActivityFailed"] * 2,
            "ActivityScheduled",
            "ActivityCompleted",
            "OrchestrationCompleted",
        ]
        assert {call[1] for call in calls} == {"gpu-session-1"}
        assert len({call[2] for call in calls}) == 1

    def test_fails_after_three_attempts(self, client, start_runtime, kinds):
        """max_attempts holds on a session too."""
        calls = []
        start_runtime(retry_session_program, flakey_gpu_task=failing(99, calls))
        client.start_orchestration("gpu-1", "RetrySessionWorkflow", "frame 1")
        assert "flake 3" in client.wait_for_orchestration("gpu-1").error
        assert len(calls) == 3
        assert "TimerCreated" not in kinds("gpu-1")

    def test_makes_the_attempts_that_are_left_after_a_restart(self, client, start_runtime, wait_until):
        """Stopped in the second attempt: the session moves to the next runtime, the attempts go on counting."""
        calls, second_attempt, release = [], threading.Event(), threading.Event()

        def stuck(ctx, input):
            calls.append(ctx.attempt)
            if ctx.attempt == 1:
                raise ConnectionError("flake")
            second_attempt.set()
            release.wait(60)

        def works(ctx, input):
            calls.append(ctx.attempt)
            return f"{input} on {ctx.session_id}"

        options = RuntimeOptions(worker_lock_timeout_ms=2000)
        first = start_runtime(retry_session_program, options=options, flakey_gpu_task=stuck)
        try:
            client.start_orchestration("gpu-1", "RetrySessionWorkflow", "frame 1")
            wait_until(second_attempt.is_set)
            first.shutdown(timeout_ms=0)
            start_runtime(retry_session_program, options=options, flakey_gpu_task=works)
            assert client.wait_for_orchestration("gpu-1", 20000).output == "frame 1 on gpu-session-1"
        finally:
            release.set()
        assert calls == [1, 2, 2]
