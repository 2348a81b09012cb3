"""The client's async twins: the same calls with an ``a`` before their names, and waits that free the loop."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import inspect

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.db import transaction

from duroxide_django import (
    ActivityFailed,
    Client,
    InstanceAlreadyExists,
    InstanceNotFound,
    InvalidArgument,
    OrchestrationFailed,
    WaitInTransaction,
    WaitTimeout,
)
from duroxide_django.admin_client import AdminClient
from duroxide_django.operations_client import OperationsClient
from duroxide_django.retention_client import RetentionClient


@pytest.fixture(autouse=True)
def workflows(request):
    """The programs that the tests start, for those that use a database."""
    if "client" not in request.fixturenames:
        yield
        return
    request.getfixturevalue("database_access")
    program = request.getfixturevalue("program")

    @program.orchestration("Echo")
    def echo(ctx, input):
        ctx.set_kv_value("heard", '{"input": 1}')
        ctx.set_custom_status("echoing")
        return input

    @program.orchestration("Waiting")
    def waiting(ctx, input):
        return [(yield ctx.wait_for_event("go")), (yield ctx.dequeue_event("box"))]

    @program.orchestration("Failing")
    def failing(ctx, input):
        raise ValueError("broken")

    yield
    # async_to_sync's thread ends when its traces are collected; exceptions keep them a while.
    gc.collect()


def twins():
    """Return (sync method, async twin or None) of all calls that ask the database.

    Writing every payload anew is left out: it gives its progress batch by batch, for a command.
    """
    own = {**vars(AdminClient), **vars(OperationsClient), **vars(RetentionClient), **vars(Client)}
    names = [name for name, value in own.items() if not name.startswith("_") and inspect.isfunction(value)]
    names.remove("reencode_payloads")
    return [(getattr(Client, name), getattr(Client, f"a{name}", None)) for name in names]


@pytest.mark.parametrize(("method", "twin"), twins(), ids=lambda value: getattr(value, "__name__", "none"))
def test_every_call_has_a_twin_of_the_same_form(method, twin):
    """An ``a`` before the name, the same parameters with the same defaults."""
    assert twin is not None
    assert inspect.iscoroutinefunction(twin)
    assert str(inspect.signature(twin)) == str(inspect.signature(method))


class TestOperating:
    def test_twins_do_what_their_sync_twins_do(self, client, program):
        """Look, pause, resume, answer by hand, repair, and read what was done."""

        @program.orchestration("Manual")
        def manual(ctx, input):
            done = yield ctx.schedule_activity("Nobody has it")
            try:
                yield ctx.schedule_activity_with_retry(
                    "Nor this", None, {"max_attempts": 2, "initial_delay_ms": 60_000}
                )
            except ActivityFailed as exc:
                return [done, str(exc)]

        async def operate():
            await client.astart_orchestration("manual-1", "Manual")
            await run()
            (pending,) = await client.alist_pending("manual-1")
            await client.apause_instance("manual-1", reason="look first", actor="ada")
            assert (await client.aget_blocked("manual-1"))["reason"] == "paused"
            await client.aresume_instance("manual-1")
            assert await client.acomplete_activity("manual-1", pending.event_id, 7) == "Nobody has it"
            await run()
            (pending,) = await client.alist_pending("manual-1")
            assert await client.afail_activity("manual-1", pending.event_id, "first") == "Nor this"
            await run()
            (timer,) = await client.alist_pending("manual-1")
            assert await client.aretry_activity_now("manual-1", timer.event_id) == "timer"
            await run()
            (pending,) = await client.alist_pending("manual-1")
            await client.afail_activity("manual-1", pending.event_id, "last", retryable=False)
            await run()
            assert (await client.aget_status("manual-1")).output == [7, "last"]
            assert await client.afind_instances(status="Completed", name="Manual", limit=5) == ["manual-1"]
            assert await client.acount_live_versions() == {}
            assert await client.aexamine_health(overdue_ms=60_000) == []
            verbs = [entry.verb for entry in await client.alist_audit_records("manual-1", limit=9)]
            assert verbs[-2:] == ["resume", "pause"]
            assert len(verbs) == 6

            await client.astart_orchestration("failing-1", "Failing")
            await run()
            assert (await client.aretry_instance("failing-1", reason="try again")).instance_ids == ["failing-1"]
            await run()
            assert (await client.afork_instance("failing-1", "failing-2", event_id=0)).kept_events == 0
            assert (await client.apreview_fork("failing-1", event_id=0)).kept_events == 0
            assert (await client.apreview_rewind("failing-1", 0)).kept_events == 0
            assert (await client.arewind_instance("failing-1", 0, reason="again")).kept_events == 0
            await run()
            assert (await client.aprune_instances(2**50, dry_run=True)).families == 3
            assert (await client.aprune_instances(2**50, name="Failing")).families == 2

        run = sync_to_async(lambda: program.drain(jump=False))
        async_to_sync(operate)()


class TestCalls:
    def test_do_what_their_sync_twins_do(self, client, program):
        """A whole life of an instance, from the event loop."""

        async def begin():
            assert await client.astart_orchestration("waiting-1", "Waiting") == "waiting-1"
            await client.astart_orchestration_versioned("echo-1", "Echo", {"a": 1}, "1.0.0")
            assert await client.araise_event("waiting-1", "go", 1) is True
            assert await client.aenqueue_event("waiting-1", "box", 2) is True
            return await client.aget_status("waiting-1")

        assert async_to_sync(begin)().status == "Running"
        program.drain()

        async def look():
            assert (await client.aget_status("waiting-1")).output == [1, 2]
            assert await client.aget_kv_value_typed("echo-1", "heard") == {"input": 1}
            assert await client.aget_kv_all_values("echo-1") == {"heard": '{"input": 1}'}
            assert await client.alist_all_instances(limit=1) == ["echo-1"]
            assert await client.alist_executions("echo-1") == [1]
            assert len(await client.aread_execution_history("echo-1", 1)) == 4
            assert (await client.aget_system_metrics()).completed_instances == 2
            assert await client.acancel_instance("echo-1") is False
            return await client.adelete_instance("echo-1")

        assert async_to_sync(look)().instances_deleted == 1

    def test_raise_the_same_errors(self, client):
        """Typed errors come out of the await."""

        async def calls():
            await client.astart_orchestration("echo-1", "Echo")
            with pytest.raises(InstanceAlreadyExists):
                await client.astart_orchestration("echo-1", "Echo")
            with pytest.raises(InstanceNotFound):
                await client.araise_event("nobody", "go")
            with pytest.raises(InvalidArgument):
                await client.astart_orchestration("", "Echo")

        async_to_sync(calls)()

    def test_join_the_transaction_of_a_sync_block(self, client, backend):
        """sync_to_async runs in the thread that holds the transaction, so a rollback takes the start along."""
        with transaction.atomic(using=backend):
            async_to_sync(client.astart_orchestration)("echo-1", "Echo")
            assert client.get_status("echo-1").status == "Running"
            transaction.set_rollback(True, using=backend)
        assert client.get_status("echo-1").status == "NotFound"


class TestWaits:
    def test_return_what_they_waited_for(self, client, start_runtime):
        """Ends, outputs, custom statuses and KV values."""

        @dataclasses.dataclass
        class Point:
            x: int

        async def wait():
            await client.astart_orchestration("echo-1", "Echo", {"x": 1})
            assert (await client.await_for_orchestration("echo-1", 20_000)).output == {"x": 1}
            assert await client.await_for_orchestration_typed("echo-1", result_type=Point) == Point(1)
            assert (await client.await_for_status_change("echo-1", 0)).custom_status == "echoing"
            assert await client.await_for_kv_value("echo-1", "heard") == '{"input": 1}'
            assert await client.await_for_kv_value_typed("echo-1", "heard") == {"input": 1}

        start_runtime()
        async_to_sync(wait)()

    def test_let_other_coroutines_work(self, client, start_runtime):
        """What ends the wait happens in the same event loop, while it waits."""

        async def send():
            await client.araise_event("waiting-1", "go", "from here")
            await client.aenqueue_event("waiting-1", "box", "and there")

        async def both():
            await client.astart_orchestration("waiting-1", "Waiting")
            result, _ = await asyncio.gather(client.await_for_orchestration("waiting-1", 20_000), send())
            return result.output

        start_runtime()
        assert async_to_sync(both)() == ["from here", "and there"]

    def test_time_out(self, client):
        """WaitTimeout, or None for a status change."""

        async def wait():
            with pytest.raises(WaitTimeout):
                await client.await_for_orchestration("nobody", 20)
            with pytest.raises(TimeoutError):
                await client.await_for_kv_value("nobody", "key", 20)
            assert await client.await_for_status_change("nobody", 0, 10, 20) is None

        async_to_sync(wait)()

    def test_can_be_cancelled(self, client):
        """A wait is an ordinary coroutine: asyncio's own time-out ends it."""

        async def wait():
            async with asyncio.timeout(0.05):
                await client.await_for_orchestration("nobody", 30_000)

        with pytest.raises(TimeoutError):
            async_to_sync(wait)()

    def test_raise_the_failure(self, client, program):
        """The typed wait raises OrchestrationFailed."""
        client.start_orchestration("failing-1", "Failing")
        program.drain()
        with pytest.raises(OrchestrationFailed, match="ValueError: broken"):
            async_to_sync(client.await_for_orchestration_typed)("failing-1")

    def test_are_refused_inside_a_transaction(self, client, backend):
        """As the sync ones: no change could be seen."""
        with transaction.atomic(using=backend), pytest.raises(WaitInTransaction):
            async_to_sync(client.await_for_orchestration)("nobody")
