"""Deleting instances and pruning executions (spec 14.3 and 14.4)."""

from __future__ import annotations

import threading

import pytest
from django.db import connections, transaction

from duroxide_django import (
    Client,
    ClientError,
    InstanceFilter,
    InstanceNotFound,
    InstanceStillRunning,
    OrchestrationCancelled,
    PruneOptions,
)
from tests.runtime.program import failing_transaction


@pytest.fixture(autouse=True)
def workflows(program):
    program.activity("Add")(lambda ctx, pair: sum(pair))

    @program.orchestration("Echo")
    def echo(ctx, input):
        ctx.set_kv_value("input", str(input))
        yield ctx.schedule_activity("Add", [1, 2])
        return input

    @program.orchestration("Failing")
    def failing(ctx, input):
        raise ValueError("broken")

    @program.orchestration("Waiting")
    def waiting(ctx, input):
        yield ctx.dequeue_event("first")
        yield ctx.all([ctx.schedule_timer(3_600_000), ctx.schedule_activity("Elsewhere", tag="far")])

    @program.orchestration("Counting")
    def counting(ctx, count):
        ctx.set_kv_value("count", count)
        ctx.set_custom_status(str(count))
        if count:
            yield ctx.continue_as_new(count - 1)
        return "counted"

    @program.orchestration("Parent")
    def parent(ctx, child):
        yield ctx.schedule_sub_orchestration_with_id(child, f"{ctx.instance_id}.kid", 0)


@pytest.fixture
def start(client, program):
    """Start an instance and let it go as far as it goes."""

    def start(instance_id, name, input=None):
        client.start_orchestration(instance_id, name, input)
        program.drain(jump=False)

    return start


class TestDelete:
    def test_removes_every_trace(self, client, start, count_rows):
        """The instance, its executions, history, KV and queues are gone, and counted in the answer."""
        start("counting-1", "Counting", 2)
        start("echo-1", "Echo", "x")
        deleted = client.delete_instance("counting-1")
        assert (deleted.instances_deleted, deleted.executions_deleted) == (1, 3)
        assert deleted.events_deleted > 6
        assert client.list_all_instances() == ["echo-1"]
        client.delete_instance("echo-1")
        assert not any(count_rows().values())
        assert client.get_status("echo-1").status == "NotFound"

    def test_of_an_unknown_instance_is_an_error(self, client):
        """Nothing to delete."""
        with pytest.raises(InstanceNotFound, match="'nobody' not found"):
            client.delete_instance("nobody")

    def test_of_a_running_instance_is_refused(self, client, start, count_rows):
        """A running instance is not deleted by mistake."""
        start("waiting-1", "Waiting")
        before = count_rows()
        with pytest.raises(InstanceStillRunning, match="'waiting-1' is still running"):
            client.delete_instance("waiting-1")
        assert count_rows() == before

    def test_of_an_instance_with_a_running_descendant_is_refused(self, client, program, start, count_rows):
        """The whole family must have ended: the error names the one that hasn't."""

        @program.orchestration("Undoing")
        def undoing(ctx, input):
            try:
                yield ctx.wait_for_event("never")
            except OrchestrationCancelled:
                yield ctx.wait_for_event("undone")
                raise

        @program.orchestration("Racing")
        def racing(ctx, input):
            yield ctx.race(ctx.schedule_sub_orchestration_with_id("Undoing", "kid"), ctx.schedule_timer(0))

        start("racing-1", "Racing")
        program.drain()
        assert client.get_status("racing-1").status == "Completed"
        before = count_rows()
        with pytest.raises(InstanceStillRunning, match="'kid' is still running"):
            client.delete_instance("racing-1")
        assert count_rows() == before

    @pytest.mark.parametrize("force", [True, False])
    def test_of_a_child_is_refused(self, client, start, count_rows, force):
        """A child goes with its root only; force doesn't help. Like every refusal by state it is a RuntimeError."""
        start("parent-1", "Parent", "Echo")
        before = count_rows()
        with pytest.raises(ClientError, match="delete its root") as caught:
            client.delete_instance("parent-1.kid", force=force)
        assert isinstance(caught.value, RuntimeError)
        assert caught.value.instance_id == "parent-1.kid"
        assert count_rows() == before

    def test_takes_the_children_along(self, client, start, count_rows):
        """Totals cover the whole family."""
        start("parent-1", "Parent", "Parent")
        deleted = client.delete_instance("parent-1", force=True)
        assert deleted.instances_deleted >= 2
        assert not any(count_rows().values())

    def test_rolls_back_with_the_caller(self, client, backend, start, count_rows):
        """A transaction that fails deletes nothing."""
        start("echo-1", "Echo")
        before = count_rows()
        with failing_transaction(backend):
            client.delete_instance("echo-1")
        assert count_rows() == before


class TestForcedDelete:
    def test_removes_a_running_instance_with_its_queues(self, client, start, count_rows):
        """Timers, activities and messages of a running instance go too, and are counted."""
        start("waiting-1", "Waiting")
        client.enqueue_event("waiting-1", "other", 1)
        client.raise_event("waiting-1", "other", 1)
        assert client.delete_instance("waiting-1", force=True).queue_messages_deleted == 2
        assert not any(count_rows().values())

    def test_frees_the_id_at_once(self, client, program, start):
        """The id can be started again, and the new life begins from nothing."""
        start("again-1", "Waiting")
        client.enqueue_event("again-1", "first", 1)
        client.delete_instance("again-1", force=True)
        client.start_orchestration("again-1", "Echo", "new life")
        program.drain()
        assert client.get_status("again-1").output == "new life"
        assert client.list_executions("again-1") == [1]

    def test_while_an_activity_runs_leaves_the_next_life_alone(self, client, program, start_runtime, gate, wait_until):
        """A late completion of the old life, with the same ids, is not taken for one of the new."""

        @program.activity("Slow")
        def slow(ctx, input):
            gate.wait()
            return f"of the {input}"

        @program.orchestration("Life")
        def life(ctx, input):
            return (yield ctx.schedule_activity("Slow", input))

        runtime = start_runtime()
        client.start_orchestration("life-1", "Life", "old life")
        gate.wait_entered()
        client.delete_instance("life-1", force=True)
        client.start_orchestration("life-1", "Life", "new life")
        gate.wait_entered()
        gate.open()
        assert client.wait_for_orchestration("life-1").output == "of the new life"
        wait_until(lambda: runtime.metrics_snapshot().activity_success >= 1)
        assert [event.kind for event in client.read_execution_history("life-1", 1)].count("ActivityCompleted") == 1

    def test_during_a_turn_does_not_bring_the_instance_back(self, client, backend, program, count_rows):
        """A turn that was computing when its instance was deleted writes nothing."""

        def delete_elsewhere():
            # The turn's own thread is between two transactions of its worker.
            Client(using=backend).delete_instance("doomed-1", force=True)

        @program.orchestration("Doomed")
        def doomed(ctx, input):
            delete_elsewhere()
            ctx.set_kv_value("late", "write")
            ctx.set_custom_status("alive")
            yield ctx.all([ctx.schedule_activity("Add", [1, 1]), ctx.schedule_timer(5)])

        client.start_orchestration("doomed-1", "Doomed")
        program.drain()
        assert not any(count_rows().values())

    @pytest.mark.parametrize("backend", ["postgres"], indirect=True)  # SQLite has one writer at a time
    def test_takes_children_that_are_just_being_started(self, client, backend, program, count_rows, wait_until):
        """A turn that starts a child commits while the deletion waits for its row: the child goes too."""
        computed, commit = threading.Event(), threading.Event()

        def start_a_child():
            with transaction.atomic(using=backend):
                program.drain(jump=False)
                computed.set()
                assert commit.wait(20)
            connections.close_all()

        def delete():
            deleted.append(Client(using=backend).delete_instance("parent-1", force=True).instances_deleted)
            connections.close_all()

        deleted = []
        client.start_orchestration("parent-1", "Parent", "Waiting")
        threads = [threading.Thread(target=start_a_child), threading.Thread(target=delete)]
        threads[0].start()
        assert computed.wait(20)
        threads[1].start()
        wait_until(lambda: _waits_for_a_lock(backend))
        commit.set()
        for thread in threads:
            thread.join(20)
        assert deleted == [2]
        assert not any(count_rows().values())


def _waits_for_a_lock(alias):
    with connections[alias].cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
        return cursor.fetchone()[0]


class TestBulkDelete:
    @pytest.fixture(autouse=True)
    def several(self, client, start):
        start("echo-1", "Echo")
        start("failing-1", "Failing")
        start("parent-1", "Parent", "Echo")
        start("waiting-1", "Waiting")

    def test_takes_all_ended_roots(self, client, program):
        """Without a filter: everything that has ended, with its children; running ones are skipped."""
        program.drain()
        deleted = client.delete_instance_bulk()
        assert deleted.instances_deleted == 4
        assert client.list_all_instances() == ["waiting-1"]

    def test_takes_the_named_ones(self, client):
        """Only the given ids, and of those only ended roots that exist."""
        ids = ["echo-1", "waiting-1", "parent-1.kid", "nobody"]
        assert client.delete_instance_bulk(InstanceFilter(instance_ids=ids)).instances_deleted == 1
        assert "echo-1" not in client.list_all_instances()
        assert client.get_status("waiting-1").status == "Running"
        assert client.get_status("parent-1.kid").status == "Completed"

    def test_takes_ids_that_can_be_read_once(self, client):
        """A generator of ids is as good as a list."""
        ids = (f"{name}-1" for name in ("echo", "failing"))
        assert client.delete_instance_bulk(InstanceFilter(instance_ids=ids)).instances_deleted == 2

    def test_of_an_empty_list_takes_none(self, client):
        """No ids is not the same as no filter."""
        assert client.delete_instance_bulk(InstanceFilter(instance_ids=[])).instances_deleted == 0

    def test_takes_those_completed_before_a_time(self, client):
        """Strictly before; of instances that end later none."""
        end_ms = client.get_instance_info("echo-1").completed_at
        only = ["echo-1"]
        kept = client.delete_instance_bulk(InstanceFilter(instance_ids=only, completed_before=end_ms))
        assert kept.instances_deleted == 0
        gone = client.delete_instance_bulk(InstanceFilter(instance_ids=only, completed_before=end_ms + 1))
        assert gone.instances_deleted == 1

    def test_stops_at_its_limit(self, client):
        """The oldest roots first, as many as asked for."""
        assert client.delete_instance_bulk(InstanceFilter(limit=1)).instances_deleted == 1
        assert "echo-1" not in client.list_all_instances()
        assert client.delete_instance_bulk(InstanceFilter(limit=0)).instances_deleted == 0


class TestPrune:
    @pytest.fixture(autouse=True)
    def old_executions(self, start):
        start("counting-1", "Counting", 4)

    def test_keeps_the_current_execution(self, client):
        """By default everything but the current execution goes, with its history; state stays."""
        result = client.prune_executions("counting-1")
        assert (result.instances_processed, result.executions_deleted) == (1, 4)
        assert result.events_deleted == 4 * 4
        assert client.list_executions("counting-1") == [5]
        assert client.read_execution_history("counting-1", 4) == []
        status = client.get_status("counting-1")
        assert (status.output, status.custom_status, status.custom_status_version) == ("counted", "0", 5)
        assert client.get_kv_value("counting-1", "count") == "0"

    @pytest.mark.parametrize(
        ("keep_last", "left"), [(None, [5]), (0, [5]), (1, [5]), (2, [4, 5]), (9, [1, 2, 3, 4, 5])]
    )
    def test_keeps_the_last_n(self, client, keep_last, left):
        """None, 0 and 1 are the same: the current one is never pruned."""
        client.prune_executions("counting-1", PruneOptions(keep_last=keep_last))
        assert client.list_executions("counting-1") == left

    def test_takes_those_completed_before_a_time(self, client, backend):
        """Strictly before, and both criteria must hold."""
        with connections[backend].cursor() as cursor:
            cursor.execute("UPDATE duroxide_execution SET completed_ms = execution_id * 1000")
        client.prune_executions("counting-1", PruneOptions(completed_before=2000))
        assert client.list_executions("counting-1") == [2, 3, 4, 5]
        client.prune_executions("counting-1", PruneOptions(completed_before=9000, keep_last=3))
        assert client.list_executions("counting-1") == [3, 4, 5]

    def test_of_a_running_instance_goes_on_afterwards(self, client, program, start):
        """Allowed at any time, even by an activity of the instance itself."""
        pruned = []

        @program.activity("Prune")
        def prune(ctx, input):
            pruned.append(ctx.get_client().prune_executions(ctx.instance_id).executions_deleted)

        @program.orchestration("Pruning")
        def pruning(ctx, count):
            if count:
                yield ctx.continue_as_new(count - 1)
            yield ctx.schedule_activity("Prune")
            return "alive"

        start("pruning-1", "Pruning", 2)
        assert pruned == [2]
        assert client.get_status("pruning-1").output == "alive"
        assert client.list_executions("pruning-1") == [3]

    def test_of_an_unknown_instance_is_an_error(self, client):
        """Nobody to prune."""
        with pytest.raises(InstanceNotFound, match="'nobody' not found"):
            client.prune_executions("nobody")

    def test_of_many_looks_at_instances_of_any_status(self, client, start):
        """Bulk pruning counts the instances it looked at and what it removed."""
        start("counting-2", "Counting", 2)
        start("waiting-1", "Waiting")
        result = client.prune_executions_bulk()
        assert (result.instances_processed, result.executions_deleted) == (3, 6)
        assert client.list_executions("counting-2") == [3]

    def test_of_many_follows_filter_and_options(self, client, start):
        """Only the chosen instances, keeping what the options say."""
        start("counting-2", "Counting", 2)
        chosen = InstanceFilter(instance_ids=["counting-2", "nobody"])
        result = client.prune_executions_bulk(chosen, PruneOptions(keep_last=2))
        assert (result.instances_processed, result.executions_deleted) == (1, 1)
        assert client.list_executions("counting-1") == [1, 2, 3, 4, 5]
        assert client.prune_executions_bulk(InstanceFilter(limit=1)).instances_processed == 1
