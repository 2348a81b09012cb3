"""The guide's composed programs: Parent and Child, CreateInstance, BlockA and BlockB."""

from __future__ import annotations

import json
import threading

import pytest

from duroxide_django import RuntimeOptions, TagFilter


def parent_and_child_program(runtime, do_work):
    runtime.register_activity("DoWork", do_work)

    @runtime.register_orchestration("Parent")
    def parent(ctx, input):
        child_result = yield ctx.schedule_sub_orchestration("Child", input)
        return {"parent_result": child_result}

    @runtime.register_orchestration("Child")
    def child(ctx, input):
        r = yield ctx.schedule_activity("DoWork", input)
        return r

    # With an explicit instance ID:
    @runtime.register_orchestration("ParentWithId")
    def parent_with_id(ctx, input):
        result = yield ctx.schedule_sub_orchestration_with_id("Child", f"child-{input['id']}", input)
        return result


def create_instance_program(runtime, provisioned):
    @runtime.register_activity("ProvisionVM")
    def provision_vm(ctx, input):
        provisioned.append(input["instance_id"])

    @runtime.register_orchestration("InstanceMonitor")
    def instance_monitor(ctx, input):
        reason = yield ctx.wait_for_event("stop")
        return {"stopped": input["instance_id"], "reason": reason}

    @runtime.register_orchestration("CreateInstance")
    def create_instance(ctx, input):
        yield ctx.schedule_activity("ProvisionVM", input)

        # Launch monitor — runs independently
        yield ctx.start_orchestration(
            "InstanceMonitor",
            f"monitor-{input['instance_id']}",
            {"instance_id": input["instance_id"]},
        )
        return {"status": "provisioned"}


def blocks_program(runtime, step):
    runtime.register_activity("Step", step)

    @runtime.register_orchestration("BlockA")
    def block_a(ctx, input):
        first = yield ctx.schedule_activity("Step", "A1")
        if "step" in first:
            second = yield ctx.schedule_activity("Step", "A2")
            return f"A:[{first},{second}]"
        return "A:fallback"

    @runtime.register_orchestration("BlockB")
    def block_b(ctx, input):
        yield ctx.schedule_timer(5)
        result = yield ctx.schedule_activity("Step", "B1")
        return f"B:[timer,{result}]"

    # Parent: join/race sub-orchestration descriptors
    @runtime.register_orchestration("Parent")
    def parent(ctx, input):
        # Join multiple multi-step blocks
        a, b = yield ctx.all(
            [
                ctx.schedule_sub_orchestration("BlockA", ""),
                ctx.schedule_sub_orchestration("BlockB", ""),
            ]
        )
        return f"{a},{b}"


PARENT_OF_ONE = [
    "OrchestrationStarted",
    "SubOrchestrationScheduled",
    "SubOrchestrationCompleted",
    "OrchestrationCompleted",
]


class TestParentAndChild:
    """Program 8: a workflow that waits for a smaller one."""

    def test_returns_what_the_child_returned(self, client, start_runtime, history, kinds):
        """The child gets the parent's input, an id made from the parent's, and its result comes back."""
        start_runtime(parent_and_child_program, do_work=lambda ctx, input: {"worked on": input})
        client.start_orchestration("family-1", "Parent", {"n": 3})
        assert client.wait_for_orchestration("family-1").output == {"parent_result": {"worked on": {"n": 3}}}
        assert kinds("family-1") == PARENT_OF_ONE
        scheduled = history("family-1")[1]
        assert json.loads(scheduled.data)["name"] == "Child"
        assert history("family-1")[2].source_event_id == 2
        assert kinds("family-1::sub::2") == [
            "OrchestrationStarted",
            "ActivityScheduled",
            "ActivityCompleted",
            "OrchestrationCompleted",
        ]
        assert client.get_instance_info("family-1::sub::2").parent_instance_id == "family-1"

    def test_gives_the_child_the_id_it_is_told(self, client, start_runtime, kinds):
        """With an explicit id the child is found by exactly that id, and belongs to the parent's tree."""
        start_runtime(parent_and_child_program, do_work=lambda ctx, input: "worked")
        client.start_orchestration("family-1", "ParentWithId", {"id": 7})
        assert client.wait_for_orchestration("family-1").output == "worked"
        assert client.get_status("child-7").output == "worked"
        assert kinds("family-1") == PARENT_OF_ONE
        tree = client.get_instance_tree("family-1")
        assert (tree.root_id, set(tree.all_ids), tree.size) == ("family-1", {"family-1", "child-7"}, 2)

    def test_tells_the_parent_of_a_failure(self, client, start_runtime, kinds):
        """A failing child fails a parent that doesn't catch it; its error names the cause."""

        def do_work(ctx, input):
            raise ValueError("no work today")

        start_runtime(parent_and_child_program, do_work=do_work)
        client.start_orchestration("family-1", "Parent", None)
        result = client.wait_for_orchestration("family-1")
        assert result.status == "Failed"
        assert "no work today" in result.error
        assert kinds("family-1") == [
            "OrchestrationStarted",
            "SubOrchestrationScheduled",
            "SubOrchestrationFailed",
            "OrchestrationFailed",
        ]

    @pytest.mark.parametrize(
        ("name", "child_id", "output"),
        [("Parent", "family-1::sub::2", {"parent_result": "worked"}), ("ParentWithId", "child-7", "worked")],
    )
    def test_finds_its_child_after_a_restart(self, client, start_runtime, kinds, wait_until, name, child_id, output):
        """Stopped while the child's activity was waiting, both go on under the next runtime and meet."""
        calls = []

        def do_work(ctx, input):
            calls.append(input)
            return "worked"

        first = start_runtime(
            parent_and_child_program,
            options=RuntimeOptions(worker_tag_filter=TagFilter.NONE),
            do_work=do_work,
        )
        client.start_orchestration("family-1", name, {"id": 7})
        wait_until(lambda: kinds(child_id) == ["OrchestrationStarted", "ActivityScheduled"])
        first.shutdown()
        assert calls == []

        start_runtime(parent_and_child_program, do_work=do_work)
        assert client.wait_for_orchestration("family-1").output == output
        assert calls == [{"id": 7}]
        assert kinds("family-1") == PARENT_OF_ONE


class TestCreateInstance:
    """Program 9: a workflow that starts another and leaves it alone."""

    def test_completes_at_once_and_the_monitor_goes_on(self, client, start_runtime, kinds, wait_until):
        """The starter doesn't wait; the monitor is a root of its own and ends when it likes."""
        provisioned = []
        start_runtime(create_instance_program, provisioned=provisioned)
        client.start_orchestration("create-1", "CreateInstance", {"instance_id": "vm-9"})
        assert client.wait_for_orchestration("create-1").output == {"status": "provisioned"}
        assert provisioned == ["vm-9"]
        assert kinds("create-1") == [
            "OrchestrationStarted",
            "ActivityScheduled",
            "ActivityCompleted",
            "OrchestrationChained",
            "OrchestrationCompleted",
        ]
        wait_until(lambda: kinds("monitor-vm-9") == ["OrchestrationStarted", "ExternalSubscribed"])
        assert client.get_status("monitor-vm-9").status == "Running"
        assert client.get_instance_info("monitor-vm-9").parent_instance_id is None
        assert set(client.get_instance_tree("create-1").all_ids) == {"create-1"}

        client.raise_event("monitor-vm-9", "stop", "sold")
        result = client.wait_for_orchestration("monitor-vm-9")
        assert result.output == {"stopped": "vm-9", "reason": "sold"}

    def test_leaves_a_monitor_that_survives_a_restart(self, client, start_runtime, kinds, wait_until):
        """The monitor lives on under the next runtime, though its starter is long done."""
        first = start_runtime(create_instance_program, provisioned=[])
        client.start_orchestration("create-1", "CreateInstance", {"instance_id": "vm-9"})
        client.wait_for_orchestration("create-1")
        first.shutdown()
        start_runtime(create_instance_program, provisioned=[])
        wait_until(lambda: kinds("monitor-vm-9") == ["OrchestrationStarted", "ExternalSubscribed"])
        client.raise_event("monitor-vm-9", "stop", "sold")
        assert client.wait_for_orchestration("monitor-vm-9").status == "Completed"


class TestBlocks:
    """Program 22: blocks of several steps joined through children."""

    def test_joins_two_blocks(self, client, start_runtime, kinds):
        """Both blocks run to their end; the parent gets an ok entry for each, in order."""
        start_runtime(blocks_program, step=lambda ctx, input: f"step {input}")
        client.start_orchestration("blocks-1", "Parent", None)
        assert client.wait_for_orchestration("blocks-1").output == (
            "{'ok': 'A:[step A1,step A2]'},{'ok': 'B:[timer,step B1]'}"
        )
        assert kinds("blocks-1") == [
            "OrchestrationStarted",
            *["SubOrchestrationScheduled"] * 2,
            *["SubOrchestrationCompleted"] * 2,
            "OrchestrationCompleted",
        ]
        assert kinds("blocks-1::sub::2").count("ActivityScheduled") == 2
        assert kinds("blocks-1::sub::3")[1:3] == ["TimerCreated", "TimerFired"]
        assert client.get_instance_tree("blocks-1").size == 3

    def test_takes_the_fallback(self, client, start_runtime):
        """A block decides by itself: without "step" in the first answer there is no second call."""
        asked = []

        def other(ctx, input):
            asked.append(input)
            return f"other {input}"

        start_runtime(blocks_program, step=other)
        client.start_orchestration("blocks-1", "Parent", None)
        assert client.wait_for_orchestration("blocks-1").output == ("{'ok': 'A:fallback'},{'ok': 'B:[timer,other B1]'}")
        assert sorted(asked) == ["A1", "B1"]

    def test_joins_blocks_over_a_restart(self, client, start_runtime, kinds, wait_until):
        """One block is done before the stop, the other only after it; the join holds both."""
        only_a, second_runtime = threading.Event(), threading.Event()

        def step(ctx, input):
            if input == "B1" and not second_runtime.is_set():
                only_a.wait(20)
                raise AssertionError("B1 must not end under the first runtime")
            return f"step {input}"

        options = RuntimeOptions(worker_lock_timeout_ms=2000)
        first = start_runtime(blocks_program, options=options, step=step)
        try:
            client.start_orchestration("blocks-1", "Parent", None)
            wait_until(lambda: "SubOrchestrationCompleted" in kinds("blocks-1"))
            first.shutdown(timeout_ms=0)
            second_runtime.set()
            start_runtime(blocks_program, options=options, step=step)
            result = client.wait_for_orchestration("blocks-1", 20000)
        finally:
            only_a.set()
        assert result.output == "{'ok': 'A:[step A1,step A2]'},{'ok': 'B:[timer,step B1]'}"
