"""Looking at instances: listings with keyset paging, information, trees, sizes and depths (spec 14.2)."""

from __future__ import annotations

import json
import time

import pytest

from duroxide_django import InstanceNotFound, OrchestrationCancelled


@pytest.fixture(autouse=True)
def workflows(program):
    @program.orchestration("Echo")
    def echo(ctx, input):
        return input

    @program.orchestration("Failing")
    def failing(ctx, input):
        raise ValueError("broken")

    @program.orchestration("Waiting", "2.0.0")
    def waiting(ctx, input):
        return (yield ctx.wait_for_event("go"))

    @program.orchestration("Counting")
    def counting(ctx, count):
        if count:
            yield ctx.continue_as_new(count - 1)
        return "counted"

    @program.orchestration("Family")
    def family(ctx, depth):
        if depth:
            yield ctx.all(
                [
                    ctx.schedule_sub_orchestration_with_id("Family", f"{ctx.instance_id}.{side}", depth - 1)
                    for side in "ab"
                ]
            )
        yield ctx.start_orchestration("Echo", f"detached-{ctx.instance_id}")


@pytest.fixture
def one_of_each(client, program):
    """Start an instance in each state: completed, failed, cancelled, running, and not seen yet."""
    client.start_orchestration("completed", "Echo", {"a": 1})
    client.start_orchestration("failed", "Failing")
    client.start_orchestration("cancelled", "Waiting")
    client.cancel_instance("cancelled", "enough")
    client.start_orchestration("running", "Waiting")
    program.drain()
    client.start_orchestration("fresh", "Echo")


@pytest.mark.usefixtures("one_of_each")
class TestListings:
    def test_all_instances_come_newest_first(self, client):
        """list_all_instances() gives the ids, the last started first."""
        assert client.list_all_instances() == ["fresh", "running", "cancelled", "failed", "completed"]

    @pytest.mark.parametrize(
        ("status", "expected"),
        [
            ("Running", ["fresh", "running"]),
            ("Completed", ["completed"]),
            ("Failed", ["cancelled", "failed"]),
            ("ContinuedAsNew", []),
            ("Nonsense", []),
        ],
    )
    def test_can_be_restricted_to_a_status(self, client, status, expected):
        """By status, newest first; a status that doesn't exist gives none."""
        assert client.list_instances_by_status(status) == expected

    def test_can_be_restricted_to_an_orchestration(self, client):
        """Only instances of one orchestration."""
        assert client.list_instances_by_status("Running", name="Waiting") == ["running"]
        assert client.list_instances_by_status("Failed", name="Nobody") == []

    def test_come_in_pages(self, client):
        """``before`` goes on after the last id of the page before; the pages together are the whole."""
        pages, before = [], None
        while page := client.list_all_instances(limit=2, before=before):
            pages.append(page)
            before = page[-1]
        assert pages == [["fresh", "running"], ["cancelled", "failed"], ["completed"]]

    def test_pages_stay_put_while_instances_are_started(self, client):
        """A new instance doesn't shift the pages that follow."""
        first = client.list_all_instances(limit=3)
        client.start_orchestration("newcomer", "Echo")
        assert client.list_all_instances(limit=3, before=first[-1]) == ["failed", "completed"]

    def test_pages_by_status_too(self, client):
        """Paging and filtering go together."""
        assert client.list_instances_by_status("Failed", limit=1) == ["cancelled"]
        assert client.list_instances_by_status("Failed", limit=1, before="cancelled") == ["failed"]
        assert client.list_instances_by_status("Failed", limit=1, before="failed") == []


@pytest.mark.usefixtures("one_of_each")
class TestInstanceInfo:
    def test_of_several_come_in_the_order_asked_for(self, client):
        """One call for a page of a list; ids that nobody has are left out."""
        infos = client.get_instance_infos(["failed", "nobody", "completed"])
        assert infos == [client.get_instance_info("failed"), client.get_instance_info("completed")]

    def test_of_a_completed_instance(self, client):
        """Name, version, status, output as JSON text, and times in epoch milliseconds."""
        info = client.get_instance_info("completed")
        assert (info.instance_id, info.orchestration_name, info.orchestration_version) == (
            "completed",
            "Echo",
            "1.0.0",
        )
        assert (info.status, info.current_execution_id, info.parent_instance_id) == ("Completed", 1, None)
        assert json.loads(info.output) == {"a": 1}
        now_ms = time.time() * 1000
        assert now_ms - 60_000 < info.created_at <= info.updated_at <= now_ms + 1_000
        assert info.completed_at >= info.created_at

    def test_of_a_failed_instance(self, client):
        """The output is the error text."""
        info = client.get_instance_info("failed")
        assert (info.status, info.output, info.is_cancelled) == ("Failed", "ValueError: broken", False)

    def test_of_a_cancelled_instance(self, client):
        """Cancelled is told from failed by a flag."""
        info = client.get_instance_info("cancelled")
        assert (info.status, info.output, info.is_cancelled) == ("Failed", "canceled: enough", True)

    def test_of_an_instance_not_seen_yet(self, client):
        """Before the first turn there is no version and no output."""
        info = client.get_instance_info("fresh")
        assert (info.status, info.orchestration_version, info.output, info.completed_at) == (
            "Running",
            None,
            None,
            None,
        )

    def test_of_an_unknown_instance_is_an_error(self, client):
        """Nobody by that id."""
        with pytest.raises(InstanceNotFound, match="'nobody' not found"):
            client.get_instance_info("nobody")


class TestExecutions:
    def test_are_listed_in_order(self, client, program):
        """One for each continue-as-new and the last; an unknown instance has none."""
        client.start_orchestration("counting-1", "Counting", 2)
        program.drain()
        assert client.list_executions("counting-1") == [1, 2, 3]
        assert client.get_instance_info("counting-1").current_execution_id == 3
        assert client.list_executions("nobody") == []

    def test_tell_how_they_ended(self, client, program):
        """An old one's output is the next one's input; the last one's is the result."""
        client.start_orchestration("counting-1", "Counting", 1)
        program.drain()
        first = client.get_execution_info("counting-1", 1)
        assert (first.execution_id, first.status, first.output) == (1, "ContinuedAsNew", "0")
        assert first.event_count == 2
        last = client.get_execution_info("counting-1", 2)
        assert (last.status, last.output) == ("Completed", '"counted"')
        assert first.started_at <= first.completed_at <= last.started_at <= last.completed_at

    def test_of_a_running_instance_have_no_end(self, client, program):
        """A running execution has neither output nor end; its events are counted."""
        client.start_orchestration("waiting-1", "Waiting")
        program.drain()
        info = client.get_execution_info("waiting-1", 1)
        assert (info.status, info.output, info.completed_at) == ("Running", None, None)
        assert info.event_count == len(client.read_execution_history("waiting-1", 1)) == 2

    @pytest.mark.parametrize(("instance_id", "execution_id"), [("nobody", 1), ("echo-1", 2), ("echo-1", 0)])
    def test_that_do_not_exist_are_an_error(self, client, program, instance_id, execution_id):
        """Unknown instance or execution: InstanceNotFound; its history is empty."""
        client.start_orchestration("echo-1", "Echo")
        program.drain()
        with pytest.raises(InstanceNotFound, match=f"{execution_id} of instance '{instance_id}' not found"):
            client.get_execution_info(instance_id, execution_id)
        assert client.read_execution_history(instance_id, execution_id) == []


class TestTree:
    def test_holds_all_descendants(self, client, program):
        """Children and theirs, each after its parent; detached ones and strangers aren't in it."""
        client.start_orchestration("stranger", "Echo")
        client.start_orchestration("root", "Family", 2)
        program.drain()
        tree = client.get_instance_tree("root")
        assert tree.root_id == tree.all_ids[0] == "root"
        assert sorted(tree.all_ids) == ["root", "root.a", "root.a.a", "root.a.b", "root.b", "root.b.a", "root.b.b"]
        assert tree.size == 7
        assert client.get_status("detached-root.a").status == "Completed"

    def test_can_begin_anywhere(self, client, program):
        """A child's tree is its own branch; a leaf's is itself."""
        client.start_orchestration("root", "Family", 2)
        program.drain()
        assert sorted(client.get_instance_tree("root.a").all_ids) == ["root.a", "root.a.a", "root.a.b"]
        assert client.get_instance_tree("root.b.b").size == 1
        assert client.get_instance_info("root.a").parent_instance_id == "root"

    def test_of_an_unknown_instance_is_an_error(self, client):
        """Nobody has no family."""
        with pytest.raises(InstanceNotFound):
            client.get_instance_tree("nobody")


class TestCounts:
    def test_of_an_empty_store_are_zero(self, client):
        """A fresh database counts nothing."""
        metrics, depths = client.get_system_metrics(), client.get_queue_depths()
        assert (metrics.total_instances, metrics.total_executions, metrics.total_events) == (0, 0, 0)
        assert (depths.orchestrator_queue, depths.worker_queue, depths.timer_queue) == (0, 0, 0)

    def test_of_the_store_add_up(self, client, program, one_of_each):
        """Instances by state, executions and events over the whole store."""
        client.start_orchestration("counting-1", "Counting", 2)
        program.drain(jump=False)
        metrics = client.get_system_metrics()
        assert metrics.total_instances == 6
        assert (metrics.running_instances, metrics.completed_instances, metrics.failed_instances) == (1, 3, 2)
        assert metrics.total_executions == 8
        ids = client.list_all_instances()
        events = [client.read_execution_history(id_, n) for id_ in ids for n in client.list_executions(id_)]
        assert metrics.total_events == sum(map(len, events))

    def test_of_queues_tell_ready_from_scheduled(self, client, program):
        """What can be taken now, and what is for later."""

        @program.orchestration("Later")
        def later(ctx, input):
            yield ctx.all(
                [
                    ctx.schedule_timer(3_600_000),
                    ctx.schedule_timer(7_200_000),
                    ctx.schedule_activity("Elsewhere", tag="far"),
                ]
            )

        client.start_orchestration("later-1", "Later")
        depths = client.get_queue_depths()
        assert (depths.orchestrator_ready, depths.orchestrator_scheduled, depths.worker_queue) == (1, 0, 0)

        program.drain(jump=False)
        client.start_orchestration("fresh", "Echo")
        depths = client.get_queue_depths()
        assert (depths.orchestrator_queue, depths.orchestrator_ready, depths.orchestrator_scheduled) == (3, 1, 2)
        assert (depths.worker_queue, depths.worker_ready, depths.worker_scheduled) == (1, 1, 0)
        assert depths.timer_queue == 0

    def test_of_queues_leave_out_what_a_worker_holds(self, client, program, backend):
        """Neither the message that an instance was claimed for nor its timers wait for a worker."""
        from duroxide_django.storage import turns
        from duroxide_django.storage.database import Database

        @program.orchestration("Racing")
        def racing(ctx, input):
            yield ctx.race(ctx.wait_for_event("go"), ctx.schedule_timer(3_600_000))

        for name in ("held", "free"):
            client.start_orchestration(name, "Racing")
        program.drain(jump=False)
        client.raise_event("held", "go")
        assert client.get_queue_depths().orchestrator_queue == 3
        (claimed,), *_ = turns.claim(Database(backend), limit=5, lease_ms=60_000, known=["Racing@1.0.0"])
        assert claimed.instance_id == "held"
        depths = client.get_queue_depths()
        assert (depths.orchestrator_ready, depths.orchestrator_scheduled) == (0, 1)

    def test_of_an_instance_are_its_sizes(self, client, program):
        """Events, bytes, waiting queue messages and KV entries of one instance."""

        @program.orchestration("Sized")
        def sized(ctx, input):
            ctx.set_kv_value("a", "12345")
            ctx.set_kv_value("b", "äöü")
            ctx.set_kv_value("c", "gone")
            ctx.clear_kv_value("c")
            yield ctx.dequeue_event("wanted")
            yield ctx.dequeue_event("wanted")

        client.start_orchestration("sized-1", "Sized")
        for number in range(3):
            client.enqueue_event("sized-1", "unwanted", number)
        client.enqueue_event("sized-1", "wanted", "taken")
        program.drain()
        client.enqueue_event("sized-1", "unwanted", "not even ingested")

        stats = client.get_orchestration_stats("sized-1")
        events = client.read_execution_history("sized-1", 1)
        assert stats.history_event_count == len(events)
        assert stats.history_size_bytes >= sum(len(event.data or "") for event in events) / 2
        assert stats.queue_pending_count == 4
        assert stats.kv_user_key_count == 2
        assert stats.kv_total_value_bytes == 5 + 6

    def test_of_an_unknown_instance_are_none(self, client):
        """No instance, no sizes."""
        assert client.get_orchestration_stats("nobody") is None


def test_a_cancelled_instance_that_cleans_up_counts_as_running(client, program):
    """Until its clean-up has ended the instance is listed as running."""

    @program.orchestration("Slow")
    def slow(ctx, input):
        try:
            yield ctx.wait_for_event("never")
        except OrchestrationCancelled:
            yield ctx.wait_for_event("cleaned")
            raise

    client.start_orchestration("slow-1", "Slow")
    program.drain()
    client.cancel_instance("slow-1", "stop")
    program.drain()
    assert client.list_instances_by_status("Running") == ["slow-1"]
    client.raise_event("slow-1", "cleaned")
    program.drain()
    assert client.list_instances_by_status("Failed") == ["slow-1"]
