"""What client calls return: the fields that programs for the SDK read, and no way to change them (spec 14, 16.15)."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import pytest

import duroxide_django
from duroxide_django import InstanceFilter, PruneOptions, TaskFailed, parse_result

#: The SDK's fields of each class; ours may have more.
FIELDS = {
    "OrchestrationResult": "status output error custom_status custom_status_version",
    "InstanceInfo": (
        "instance_id orchestration_name orchestration_version current_execution_id status output created_at updated_at "
        "parent_instance_id"
    ),
    "ExecutionInfo": "execution_id status output started_at completed_at event_count",
    "InstanceTree": "root_id all_ids size",
    "Event": "event_id kind source_event_id timestamp_ms data",
    "SystemMetrics": (
        "total_instances total_executions running_instances completed_instances failed_instances total_events"
    ),
    "SystemStats": (
        "history_event_count history_size_bytes queue_pending_count kv_user_key_count kv_total_value_bytes"
    ),
    "QueueDepths": "orchestrator_queue worker_queue timer_queue",
    "DeleteInstanceResult": "instances_deleted executions_deleted events_deleted queue_messages_deleted",
    "PruneResult": "instances_processed executions_deleted events_deleted",
}


@pytest.fixture
def results(client, program):
    """One of each, as the client returns it."""

    @program.orchestration("Counting")
    def counting(ctx, count):
        ctx.set_custom_status(str(count))
        if count:
            yield ctx.continue_as_new(count - 1)
        return {"counted": True}

    client.start_orchestration("counting-1", "Counting", 2)
    program.drain()
    found = [
        client.get_status("counting-1"),
        client.get_instance_info("counting-1"),
        client.get_execution_info("counting-1", 1),
        client.get_instance_tree("counting-1"),
        client.read_execution_history("counting-1", 3)[0],
        client.get_system_metrics(),
        client.get_orchestration_stats("counting-1"),
        client.get_queue_depths(),
        client.prune_executions("counting-1"),
        client.delete_instance("counting-1"),
    ]
    return {type(result).__name__: result for result in found}


def test_have_the_fields_of_the_sdk(results):
    """Every class, every field."""
    assert results.keys() == FIELDS.keys()
    for name, fields in FIELDS.items():
        for field in fields.split():
            assert hasattr(results[name], field), f"{name}.{field}"


def test_can_be_kept_and_passed_on_but_not_changed(results):
    """Pickled, copied, compared; assigning raises."""
    for name, result in results.items():
        assert pickle.loads(pickle.dumps(result)) == result
        assert copy.deepcopy(result) == result
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(result, FIELDS[name].split()[0], None)


def test_tell_what_happened(results):
    """The numbers of an instance that continued as new twice."""
    assert results["OrchestrationResult"].output == {"counted": True}
    assert results["OrchestrationResult"].custom_status_version == 3
    assert results["InstanceInfo"].current_execution_id == 3
    assert results["InstanceInfo"].output == '{"counted":true}'
    assert (results["ExecutionInfo"].status, results["ExecutionInfo"].output) == ("ContinuedAsNew", "1")
    assert (results["InstanceTree"].all_ids, results["InstanceTree"].size) == (["counting-1"], 1)
    assert (results["SystemMetrics"].total_instances, results["SystemMetrics"].total_executions) == (1, 3)
    assert (results["PruneResult"].instances_processed, results["PruneResult"].executions_deleted) == (1, 2)
    assert results["DeleteInstanceResult"].instances_deleted == results["DeleteInstanceResult"].executions_deleted == 1


@pytest.mark.parametrize(
    "name", ["InstanceFilter", "OrchestrationStatus", "PruneOptions", *FIELDS, "MetricsSnapshot", "RuntimeOptions"]
)
def test_have_their_older_names(name):
    """``PyEvent`` is ``Event``, and so on."""
    assert getattr(duroxide_django, f"Py{name}") is getattr(duroxide_django, name)


def test_filters_take_their_arguments_in_order_or_by_name():
    """As in the SDK."""
    assert InstanceFilter(["a"], 5, 7) == InstanceFilter(instance_ids=["a"], completed_before=5, limit=7)
    assert PruneOptions(2, 5) == PruneOptions(keep_last=2, completed_before=5)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([{"ok": 1}, {"err": "no"}, {"ok": None}], [1, {"err": "no"}, None]),
        ({"ok": {"a": 1}}, {"a": 1}),
        ([], []),
        ("text", "text"),
        (None, None),
        ({"other": 1}, {"other": 1}),
    ],
)
def test_parse_result_unwraps(value, expected):
    """Lists of entries, single entries; anything else stays (spec 16.14)."""
    assert parse_result(value) == expected


def test_parse_result_raises_for_a_failure():
    """A single failed entry."""
    with pytest.raises(TaskFailed, match=r"^no good$"):
        parse_result({"err": "no good"})
