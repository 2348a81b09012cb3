"""What holds for every history."""

from __future__ import annotations


def check_history(client, instance_id):
    """Every schedule event has one completion at the most, ids have no gaps, the terminal event is last."""
    for execution_id in client.list_executions(instance_id):
        events = client.read_execution_history(instance_id, execution_id)
        assert [event.event_id for event in events] == list(range(1, len(events) + 1))
        completions = [
            event.source_event_id
            for event in events
            if event.kind.endswith(("Completed", "Failed", "Fired")) and event.source_event_id is not None
        ]
        assert len(completions) == len(set(completions))
        assert events[-1].kind in (
            "OrchestrationCompleted",
            "OrchestrationFailed",
            "OrchestrationContinuedAsNew",
        )
