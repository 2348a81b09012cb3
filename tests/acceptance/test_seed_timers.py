"""The guide's long waits: DelayedNotification and Monitor, in real and in virtual time."""

from __future__ import annotations

import json
import time

HOUR_MS = 60 * 60 * 1000


def delayed_notification_program(runtime, reminders, wait_ms=60 * 60 * 1000):
    @runtime.register_activity("SendReminder")
    def send_reminder(ctx, input):
        reminders.append(input)

    @runtime.register_orchestration("DelayedNotification")
    def delayed_notification(ctx, input):
        yield ctx.schedule_timer(wait_ms)  # wait 1 hour (survives restarts)
        yield ctx.schedule_activity("SendReminder", input)
        return "done"


def monitor_program(runtime, checked, pause_ms=30000):
    @runtime.register_activity("CheckHealth")
    def check_health(ctx, target):
        checked.append(target)
        return {"status": "healthy"}

    @runtime.register_orchestration("Monitor")
    def monitor(ctx, input):
        state = input.get("state", {"check_count": 0})

        # Do periodic work
        health = yield ctx.schedule_activity("CheckHealth", input["target"])
        ctx.trace_info(f"health check #{state['check_count']}: {health['status']}")

        # Wait before next check
        yield ctx.schedule_timer(pause_ms)  # 30 seconds

        # Restart with updated state (keeps history from growing unbounded)
        yield ctx.continue_as_new(
            {
                "target": input["target"],
                "state": {"check_count": state["check_count"] + 1},
            }
        )


ONE_ROUND = [
    "OrchestrationStarted",
    "ActivityScheduled",
    "ActivityCompleted",
    "TimerCreated",
    "TimerFired",
    "OrchestrationContinuedAsNew",
]


def fire_time(events):
    """Return when the one timer of ``events`` is due, in epoch milliseconds."""
    (timer,) = [event for event in events if event.kind == "TimerCreated"]
    return json.loads(timer.data)["fireAtMs"]


class TestDelayedNotification:
    """Program 6: an hour's wait that survives restarts."""

    def test_reminds_after_the_wait(self, client, start_runtime, history):
        """The timer fires at its time, not before; then the reminder is sent, once."""
        reminders = []
        start_runtime(delayed_notification_program, reminders=reminders, wait_ms=300)
        client.start_orchestration("delay-1", "DelayedNotification", {"to": "ann"})
        assert client.wait_for_orchestration("delay-1").output == "done"
        assert reminders == [{"to": "ann"}]
        events = history("delay-1")
        assert [event.kind for event in events] == [
            "OrchestrationStarted",
            "TimerCreated",
            "TimerFired",
            "ActivityScheduled",
            "ActivityCompleted",
            "OrchestrationCompleted",
        ]
        assert events[2].source_event_id == 2
        assert events[2].timestamp_ms >= fire_time(events)
        assert json.loads(events[2].data)["fireAtMs"] == fire_time(events)

    def test_keeps_its_hour_over_restarts(self, client, start_runtime, history, kinds, wait_until):
        """The fire time is fixed once, an hour ahead; two restarts neither move it nor let it fire."""
        reminders = []
        runtime = start_runtime(delayed_notification_program, reminders=reminders)
        client.start_orchestration("delay-1", "DelayedNotification", {"to": "ann"})
        wait_until(lambda: "TimerCreated" in kinds("delay-1"))
        due = fire_time(history("delay-1"))
        created = history("delay-1")[1].timestamp_ms
        assert abs(due - created - HOUR_MS) < 1000
        for _ in range(2):
            runtime.shutdown()
            runtime = start_runtime(delayed_notification_program, reminders=reminders)
            assert fire_time(history("delay-1")) == due
        assert kinds("delay-1") == ["OrchestrationStarted", "TimerCreated"]
        assert client.get_status("delay-1").status == "Running"
        assert reminders == []

    def test_fires_when_a_new_runtime_waits_for_it(self, client, start_runtime, history, kinds, wait_until):
        """A timer begun under one runtime fires under the next, at the time that was fixed."""
        reminders = []
        first = start_runtime(delayed_notification_program, reminders=reminders, wait_ms=1500)
        client.start_orchestration("delay-1", "DelayedNotification", {"to": "ann"})
        wait_until(lambda: "TimerCreated" in kinds("delay-1"))
        first.shutdown()
        assert reminders == []
        start_runtime(delayed_notification_program, reminders=reminders, wait_ms=1500)
        assert client.wait_for_orchestration("delay-1").output == "done"
        assert reminders == [{"to": "ann"}]
        assert history("delay-1")[2].timestamp_ms >= fire_time(history("delay-1"))

    def test_fires_at_once_when_overdue(self, client, start_runtime, history, kinds, wait_until):
        """A timer that fell due while nothing ran fires as soon as a runtime is up."""
        reminders = []
        first = start_runtime(delayed_notification_program, reminders=reminders, wait_ms=400)
        client.start_orchestration("delay-1", "DelayedNotification", {"to": "ann"})
        wait_until(lambda: "TimerCreated" in kinds("delay-1"))
        first.shutdown()
        wait_until(lambda: time.time() * 1000 > fire_time(history("delay-1")))
        start_runtime(delayed_notification_program, reminders=reminders, wait_ms=400)
        assert client.wait_for_orchestration("delay-1", 5000).output == "done"
        assert reminders == [{"to": "ann"}]


class TestMonitor:
    """Program 10: an endless loop by continue-as-new."""

    def test_goes_round_with_its_state_in_the_input(self, client, start_runtime, history, kinds, wait_until):
        """Each round is one execution with a short history; the counter travels in the input."""
        checked = []
        start_runtime(monitor_program, checked=checked, pause_ms=20)
        client.start_orchestration("mon-1", "Monitor", {"target": "db"})
        wait_until(lambda: len(client.list_executions("mon-1")) > 4)
        assert client.get_status("mon-1").status == "Running"
        for execution_id in (1, 2, 3, 4):
            assert kinds("mon-1", execution_id) == ONE_ROUND
        inputs = [json.loads(history("mon-1", execution_id)[0].data)["input"] for execution_id in (1, 2, 3, 4)]
        assert inputs == [
            {"target": "db"},
            {"target": "db", "state": {"check_count": 1}},
            {"target": "db", "state": {"check_count": 2}},
            {"target": "db", "state": {"check_count": 3}},
        ]
        assert set(checked) == {"db"}
        client.cancel_instance("mon-1", "enough")
        result = client.wait_for_orchestration("mon-1")
        assert result.status == "Failed"
        assert result.error == "canceled: enough"
        assert result.is_cancelled

    def test_numbers_its_executions_from_one_without_gaps(self, client, start_runtime, wait_until):
        """The list of executions is ascending and complete; finished ones are ContinuedAsNew."""
        start_runtime(monitor_program, checked=[], pause_ms=20)
        client.start_orchestration("mon-1", "Monitor", {"target": "db"})
        wait_until(lambda: len(client.list_executions("mon-1")) > 3)
        client.cancel_instance("mon-1", "enough")
        client.wait_for_orchestration("mon-1")
        executions = client.list_executions("mon-1")
        assert executions == list(range(1, len(executions) + 1))
        assert client.get_instance_info("mon-1").current_execution_id == executions[-1]
        statuses = [client.get_execution_info("mon-1", execution_id).status for execution_id in executions]
        assert statuses == ["ContinuedAsNew"] * (len(executions) - 1) + ["Failed"]

    def test_counts_on_after_a_restart(self, client, start_runtime, history, wait_until):
        """A second runtime takes over in the round where the first stopped."""
        first = start_runtime(monitor_program, checked=[], pause_ms=50)
        client.start_orchestration("mon-1", "Monitor", {"target": "db"})
        wait_until(lambda: len(client.list_executions("mon-1")) > 2)
        first.shutdown()
        reached = client.get_instance_info("mon-1").current_execution_id
        start_runtime(monitor_program, checked=[], pause_ms=50)
        wait_until(lambda: client.get_instance_info("mon-1").current_execution_id >= reached + 2)
        started = json.loads(history("mon-1", reached + 1)[0].data)
        assert started["input"] == {"target": "db", "state": {"check_count": reached}}

    def test_waits_its_thirty_seconds(self, client, start_runtime, history, kinds, wait_until):
        """As printed, the next check is due half a minute after the last."""
        start_runtime(monitor_program, checked=[])
        client.start_orchestration("mon-1", "Monitor", {"target": "db"})
        wait_until(lambda: "TimerCreated" in kinds("mon-1"))
        events = history("mon-1")
        assert abs(fire_time(events) - events[-1].timestamp_ms - 30000) < 1000
