"""The guide's remaining pages: runtime options, metrics and the client's list of calls."""

from __future__ import annotations

import logging

import pytest

from duroxide_django import RuntimeOptions
from tests.acceptance.test_seed_first_steps import hello_program


def waiting_program(runtime):
    @runtime.register_orchestration("Waiting")
    def waiting(ctx, input):
        return (yield ctx.wait_for_event("go"))


@pytest.fixture
def restored_logging():
    """Leave the loggers as they were: log_level and log_format set them up for the whole process."""
    loggers = [logging.getLogger(name) for name in ("duroxide", "duroxide.orchestration", "duroxide.activity")]
    before = [(logger, logger.level, list(logger.handlers), logger.propagate) for logger in loggers]
    yield
    for logger, level, handlers, propagate in before:
        logger.setLevel(level)
        logger.propagate = propagate
        logger.handlers = handlers


@pytest.mark.usefixtures("restored_logging")
class TestRuntimeOptions:
    """The page that lists every option."""

    def test_are_taken_as_printed(self, client, start_runtime):
        """A runtime with every printed option runs a program."""
        options = RuntimeOptions(
            orchestration_concurrency=4,  # Max concurrent orchestration dispatches
            worker_concurrency=8,  # Max concurrent activity workers
            dispatcher_poll_interval_ms=100,  # Polling interval in ms
            log_level="info",  # Tracing log level
            log_format="pretty",  # "pretty" or "json"
            service_name="my-service",  # Service name for tracing metadata
            service_version="1.0.0",  # Service version for tracing metadata
            max_sessions_per_runtime=10,  # Max concurrent session slots
            session_idle_timeout_ms=300000,  # Session idle timeout (5 min default)
            worker_node_id="pod-name",  # Stable worker identity for sessions
        )
        start_runtime(hello_program, options=options)
        client.start_orchestration("hello-1", "HelloWorkflow", {"name": "World"})
        assert client.wait_for_orchestration("hello-1").output == "Hello, World!"


class TestMetrics:
    """The page about runtime.metrics_snapshot()."""

    def test_count_what_happened(self, client, start_runtime):
        """One start, one completion, one activity; read like a dict, or by attribute."""
        runtime = start_runtime(hello_program)
        client.start_orchestration("hello-1", "HelloWorkflow", {"name": "World"})
        client.wait_for_orchestration("hello-1")
        snapshot = runtime.metrics_snapshot()
        assert snapshot["orch_starts"] == 1
        assert snapshot["orch_completions"] == 1
        assert snapshot["activity_success"] == 1
        assert snapshot["provider_errors"] == 0
        assert snapshot.orch_starts == 1


class TestClientCalls:
    """The client's page, call by call."""

    def test_cancel_a_running_orchestration(self, client, start_runtime, kinds, wait_until):
        """It ends as Failed with the reason in its error."""
        start_runtime(waiting_program)
        client.start_orchestration("id", "Waiting")
        wait_until(lambda: "ExternalSubscribed" in kinds("id"))
        client.cancel_instance("id", "reason")
        result = client.wait_for_orchestration("id", 30000)
        assert (result.status, result.error, result.is_cancelled) == ("Failed", "canceled: reason", True)
        assert kinds("id")[:3] == [
            "OrchestrationStarted",
            "ExternalSubscribed",
            "OrchestrationCancelRequested",
        ]
        assert kinds("id")[-1] == "OrchestrationFailed"

    def test_wait_that_takes_too_long_times_out(self, client, start_runtime):
        """The wait ends with a TimeoutError that is a RuntimeError too; the instance runs on."""
        start_runtime(waiting_program)
        client.start_orchestration("id", "Waiting")
        with pytest.raises(TimeoutError) as raised:
            client.wait_for_orchestration("id", 100)
        assert isinstance(raised.value, RuntimeError)
        assert client.get_status("id").status == "Running"

    def test_status_of_an_unknown_instance(self, client):
        """It is NotFound, and everything else is empty."""
        result = client.get_status("nobody")
        assert (result.status, result.output, result.error) == ("NotFound", None, None)
        assert (result.custom_status, result.custom_status_version) == (None, 0)

    def test_delete_a_finished_instance(self, client, start_runtime, history):
        """Afterwards nothing of it is left."""
        start_runtime(hello_program)
        client.start_orchestration("hello-1", "HelloWorkflow", {"name": "World"})
        client.wait_for_orchestration("hello-1")
        client.delete_instance("hello-1", force=False)
        assert client.get_status("hello-1").status == "NotFound"
        assert history("hello-1") == []
        assert "hello-1" not in client.list_all_instances()

    def test_delete_refuses_a_running_instance(self, client, start_runtime):
        """Without force a running instance stays; the error is a RuntimeError."""
        start_runtime(waiting_program)
        client.start_orchestration("id", "Waiting")
        with pytest.raises(RuntimeError):
            client.delete_instance("id", force=False)
        client.delete_instance("id", force=True)
        assert client.get_status("id").status == "NotFound"

    def test_count_the_system(self, client, start_runtime, kinds, wait_until):
        """Metrics tell how many instances there are in each state; the queues are empty at rest."""
        start_runtime(hello_program)
        client.start_orchestration("hello-1", "HelloWorkflow", {"name": "World"})
        client.wait_for_orchestration("hello-1")
        metrics = client.get_system_metrics()
        assert (metrics.total_instances, metrics.completed_instances) == (1, 1)
        assert (metrics.running_instances, metrics.failed_instances) == (0, 0)
        assert (metrics.total_executions, metrics.total_events) == (1, 4)
        depths = client.get_queue_depths()
        assert (depths.orchestrator_queue, depths.worker_queue) == (0, 0)
