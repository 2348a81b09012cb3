"""The guide's activities: client access, failing, cooperative cancellation."""

from __future__ import annotations

import time


def email_program(runtime):
    @runtime.register_activity("SendEmail")
    def send_email(ctx, input):
        ctx.trace_info(f"sending to {input['to']}")
        # ... actual email sending ...
        return {"sent": True}

    @runtime.register_orchestration("Notify")
    def notify(ctx, input):
        return (yield ctx.schedule_activity("SendEmail", input))


def trigger_program(runtime):
    @runtime.register_activity("TriggerCleanup")
    def trigger_cleanup(ctx, input):
        client = ctx.get_client()
        client.start_orchestration(
            f"cleanup-{input['id']}",
            "CleanupWorkflow",
            {"resource_id": input["id"]},
        )
        return {"triggered": True}

    @runtime.register_activity("Announce")
    def announce(ctx, input):
        ctx.get_client().raise_event(input["to"], "go", {"from": ctx.instance_id})

    @runtime.register_orchestration("CleanupWorkflow")
    def cleanup_workflow(ctx, input):
        go = yield ctx.wait_for_event("go")
        return {"cleaned": input["resource_id"], "told by": go["from"]}

    @runtime.register_orchestration("Trigger")
    def trigger(ctx, input):
        triggered = yield ctx.schedule_activity("TriggerCleanup", input)
        yield ctx.schedule_activity("Announce", {"to": f"cleanup-{input['id']}"})
        return triggered


def validate_program(runtime):
    @runtime.register_activity("ValidateInput")
    def validate_input(ctx, input):
        if not input.get("email"):
            raise Exception("email is required")  # noqa: TRY002 - as printed
        return {"valid": True}

    @runtime.register_orchestration("Register")
    def register(ctx, input):
        return (yield ctx.schedule_activity("ValidateInput", input))


def long_running_program(runtime, begun, returned):
    def long_running(ctx, input):
        for _i in range(100):
            if ctx.is_cancelled():
                ctx.trace_info("cancelled, cleaning up")
                return "cancelled"
            time.sleep(0.1)  # do work
        return "done"

    @runtime.register_activity("LongRunning")
    def observed(ctx, input):
        begun.append(input)
        returned.append(long_running(ctx, input))
        return returned[-1]

    @runtime.register_orchestration("Impatient")
    def impatient(ctx, input):
        winner = yield ctx.race(ctx.schedule_activity("LongRunning", input), ctx.schedule_timer(input))
        return winner["index"]


class TestActivities:
    """Program 19: what an activity may do."""

    def test_returns_a_result(self, client, start_runtime):
        """What the activity returns is what the yield gives."""
        start_runtime(email_program)
        client.start_orchestration("mail-1", "Notify", {"to": "ann@example.com"})
        assert client.wait_for_orchestration("mail-1").output == {"sent": True}

    def test_starts_and_signals_other_orchestrations(self, client, start_runtime):
        """Through ctx.get_client() an activity starts an instance and raises an event for it."""
        start_runtime(trigger_program)
        client.start_orchestration("trigger-1", "Trigger", {"id": 5})
        assert client.wait_for_orchestration("trigger-1").output == {"triggered": True}
        result = client.wait_for_orchestration("cleanup-5")
        assert result.output == {"cleaned": 5, "told by": "trigger-1"}
        assert client.get_instance_info("cleanup-5").parent_instance_id is None

    def test_starts_by_one_that_later_runtimes_carry_out(self, client, start_runtime, kinds, wait_until):
        """What an activity started survives a restart like anything else."""
        first = start_runtime(trigger_program)
        client.start_orchestration("trigger-1", "Trigger", {"id": 5})
        client.wait_for_orchestration("trigger-1")
        first.shutdown()
        start_runtime(trigger_program)
        assert client.wait_for_orchestration("cleanup-5").status == "Completed"

    def test_fails_by_raising(self, client, start_runtime, kinds):
        """An exception marks the activity failed; uncaught, the instance fails with its message."""
        start_runtime(validate_program)
        client.start_orchestration("register-1", "Register", {"email": ""})
        result = client.wait_for_orchestration("register-1")
        assert result.status == "Failed"
        assert "Exception: email is required" in result.error
        assert result.output is None
        assert not result.is_cancelled
        assert kinds("register-1") == [
            "OrchestrationStarted",
            "ActivityScheduled",
            "ActivityFailed",
            "OrchestrationFailed",
        ]

    def test_passes_a_valid_input(self, client, start_runtime):
        """The same activity succeeds on good input."""
        start_runtime(validate_program)
        client.start_orchestration("register-1", "Register", {"email": "ann@example.com"})
        assert client.wait_for_orchestration("register-1").output == {"valid": True}

    def test_learns_that_it_lost_a_race(self, client, start_runtime, kinds, wait_until):
        """A running activity that lost sees is_cancelled() soon, long before its ten seconds are over."""
        begun, returned = [], []
        start_runtime(long_running_program, begun=begun, returned=returned)
        client.start_orchestration("race-1", "Impatient", 500)
        assert client.wait_for_orchestration("race-1").output == 1
        wait_until(lambda: returned == ["cancelled"], timeout_s=3)
        assert "ActivityCancelRequested" in kinds("race-1")
        assert "ActivityCompleted" not in kinds("race-1")

    def test_learns_that_its_instance_was_cancelled(self, client, start_runtime, kinds, wait_until):
        """The same holds when the whole instance is cancelled."""
        begun, returned = [], []
        start_runtime(long_running_program, begun=begun, returned=returned)
        client.start_orchestration("race-1", "Impatient", 60000)
        wait_until(lambda: begun)
        client.cancel_instance("race-1", "no more")
        result = client.wait_for_orchestration("race-1")
        assert (result.status, result.error) == ("Failed", "canceled: no more")
        wait_until(lambda: returned == ["cancelled"], timeout_s=3)
