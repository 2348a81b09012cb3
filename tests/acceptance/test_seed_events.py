"""The guide's programs that wait for the world outside: ApprovalWorkflow and RequestServer."""

from __future__ import annotations

import json

import pytest

BEFORE_THE_DECISION = ["OrchestrationStarted", "ActivityScheduled", "ActivityCompleted", "ExternalSubscribed"]


def approval_program(runtime, done):
    @runtime.register_activity("RequestApproval")
    def request_approval(ctx, input):
        done.append(("RequestApproval", input))

    @runtime.register_activity("Execute")
    def execute(ctx, input):
        done.append(("Execute", input))

    @runtime.register_orchestration("ApprovalWorkflow")
    def approval_workflow(ctx, input):
        yield ctx.schedule_activity("RequestApproval", input)
        ctx.trace_info("waiting for approval...")

        approval = yield ctx.wait_for_event("approval")

        if approval["approved"]:
            yield ctx.schedule_activity("Execute", input)
            return "approved"
        else:
            return "rejected"


def request_server_program(runtime):
    @runtime.register_orchestration("RequestServer")
    def request_server(ctx, input):
        ctx.set_kv_value("status", "ready")
        request = yield ctx.wait_for_event("request")
        response = request["command"][::-1]
        ctx.set_kv_value(f"response:{request['op_id']}", response)
        return "done"


class TestApprovalWorkflow:
    """Program 7: a decision from outside, both ways."""

    def test_executes_when_approved(self, client, start_runtime, kinds, wait_until):
        """An approving event leads to Execute and the output "approved"."""
        done = []
        start_runtime(approval_program, done=done)
        client.start_orchestration("instance-1", "ApprovalWorkflow", {"amount": 7})
        wait_until(lambda: kinds("instance-1") == BEFORE_THE_DECISION)
        client.raise_event("instance-1", "approval", {"approved": True})
        assert client.wait_for_orchestration("instance-1").output == "approved"
        assert done == [("RequestApproval", {"amount": 7}), ("Execute", {"amount": 7})]
        assert kinds("instance-1") == [
            *BEFORE_THE_DECISION,
            "ExternalEvent",
            "ActivityScheduled",
            "ActivityCompleted",
            "OrchestrationCompleted",
        ]

    def test_executes_nothing_when_rejected(self, client, start_runtime, history, kinds, wait_until):
        """A rejecting event ends it with "rejected"; its data is in the history."""
        done = []
        start_runtime(approval_program, done=done)
        client.start_orchestration("instance-1", "ApprovalWorkflow", {"amount": 7})
        wait_until(lambda: kinds("instance-1") == BEFORE_THE_DECISION)
        client.raise_event("instance-1", "approval", {"approved": False})
        assert client.wait_for_orchestration("instance-1").output == "rejected"
        assert done == [("RequestApproval", {"amount": 7})]
        assert kinds("instance-1") == [*BEFORE_THE_DECISION, "ExternalEvent", "OrchestrationCompleted"]
        assert json.loads(history("instance-1")[4].data) == {"name": "approval", "data": {"approved": False}}

    def test_ignores_events_of_other_names(self, client, start_runtime, kinds, wait_until):
        """An event by another name is recorded and decides nothing."""
        start_runtime(approval_program, done=[])
        client.start_orchestration("instance-1", "ApprovalWorkflow", {})
        wait_until(lambda: kinds("instance-1") == BEFORE_THE_DECISION)
        client.raise_event("instance-1", "weather", {"approved": True})
        wait_until(lambda: kinds("instance-1") == [*BEFORE_THE_DECISION, "ExternalEvent"])
        assert client.get_status("instance-1").status == "Running"
        client.raise_event("instance-1", "approval", {"approved": False})
        assert client.wait_for_orchestration("instance-1").output == "rejected"

    @pytest.mark.parametrize(("approved", "output"), [(True, "approved"), (False, "rejected")])
    def test_waits_over_restarts(self, client, start_runtime, kinds, wait_until, approved, output):
        """The decision made while nothing runs is found by the next runtime; nothing is asked twice."""
        done = []
        first = start_runtime(approval_program, done=done)
        client.start_orchestration("instance-1", "ApprovalWorkflow", {"amount": 7})
        wait_until(lambda: kinds("instance-1") == BEFORE_THE_DECISION)
        first.shutdown()
        start_runtime(approval_program, done=done).shutdown()
        client.raise_event("instance-1", "approval", {"approved": approved})
        assert client.get_status("instance-1").status == "Running"
        start_runtime(approval_program, done=done)
        assert client.wait_for_orchestration("instance-1").output == output
        assert done.count(("RequestApproval", {"amount": 7})) == 1
        assert done.count(("Execute", {"amount": 7})) == int(approved)

    def test_keeps_a_decision_that_came_early(self, client, start_runtime):
        """An event raised before the wait is reached waits for it."""
        client.start_orchestration("instance-1", "ApprovalWorkflow", {})
        client.raise_event("instance-1", "approval", {"approved": True})
        start_runtime(approval_program, done=[])
        assert client.wait_for_orchestration("instance-1").output == "approved"


class TestRequestServer:
    """Program 15: a value published for the client, a request answered by another."""

    def test_publishes_before_and_after_the_request(self, client, start_runtime, kinds):
        """The status key is visible before the event is raised, the response key after the end."""
        start_runtime(request_server_program)
        client.start_orchestration("server-1", "RequestServer", None)
        status = client.wait_for_kv_value("server-1", "status", 10000)
        assert status == "ready"
        assert client.get_kv_value("server-1", "response:op-1") is None
        assert client.get_status("server-1").status == "Running"

        client.raise_event("server-1", "request", {"op_id": "op-1", "command": "hello"})
        assert client.wait_for_orchestration("server-1").output == "done"
        response = client.get_kv_value("server-1", "response:op-1")
        assert response == "olleh"
        assert client.get_kv_value("server-1", "status") == "ready"
        assert kinds("server-1") == [
            "OrchestrationStarted",
            "KeyValueSet",
            "ExternalSubscribed",
            "ExternalEvent",
            "KeyValueSet",
            "OrchestrationCompleted",
        ]

    def test_keeps_its_values_over_a_restart(self, client, start_runtime):
        """Values set under one runtime stay readable without one, and under the next."""
        first = start_runtime(request_server_program)
        client.start_orchestration("server-1", "RequestServer", None)
        client.wait_for_kv_value("server-1", "status", 10000)
        first.shutdown()
        assert client.get_kv_value("server-1", "status") == "ready"
        client.raise_event("server-1", "request", {"op_id": "op-1", "command": "abc"})
        start_runtime(request_server_program)
        assert client.wait_for_kv_value("server-1", "response:op-1", 10000) == "cba"
        assert client.wait_for_orchestration("server-1").output == "done"

    def test_wait_for_a_key_that_never_comes_times_out(self, client, start_runtime):
        """Waiting for a key ends with a TimeoutError that is a RuntimeError too."""
        start_runtime(request_server_program)
        client.start_orchestration("server-1", "RequestServer", None)
        client.wait_for_kv_value("server-1", "status", 10000)
        with pytest.raises(TimeoutError) as raised:
            client.wait_for_kv_value("server-1", "no such key", 50)
        assert isinstance(raised.value, RuntimeError)
