"""``async def`` activities: run side by side in one event loop, with everything plain ones have."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import connections, transaction

from duroxide_django import ActivityFailed
from duroxide_django.models import Instance


@pytest.fixture(autouse=True)
def workflows(program):
    @program.activity("Double")
    async def double(ctx, number):
        await asyncio.sleep(0)
        return number * 2

    @program.activity("Break")
    async def break_(ctx, input):
        await asyncio.sleep(0)
        raise ValueError("no good")

    @program.orchestration("Doubling")
    def doubling(ctx, number):
        return (yield ctx.schedule_activity("Double", number))


class TestAsyncActivities:
    def test_give_their_result(self, client, start_runtime):
        """The awaited value is the result."""
        start_runtime()
        client.start_orchestration("double-1", "Doubling", 21)
        assert client.wait_for_orchestration("double-1").output == 42

    def test_fail_with_their_exception(self, client, program, start_runtime):
        """What they raise reaches the orchestration as any activity's failure."""

        @program.orchestration("Catching")
        def catching(ctx, input):
            try:
                yield ctx.schedule_activity("Break")
            except ActivityFailed as exc:
                return [str(exc), exc.error_types[0]]

        start_runtime()
        client.start_orchestration("catching-1", "Catching")
        assert client.wait_for_orchestration("catching-1").output == ["ValueError: no good", "ValueError"]

    def test_run_side_by_side_up_to_the_slots(self, client, program, start_runtime):
        """As many at once as the runtime has slots, all in one thread."""
        threads, together = set(), asyncio.Barrier(3)

        @program.activity("Meet")
        async def meet(ctx, input):
            threads.add(threading.current_thread().name)
            async with asyncio.timeout(20):
                await together.wait()

        @program.orchestration("Meeting")
        def meeting(ctx, input):
            yield ctx.all([ctx.schedule_activity("Meet", number) for number in range(6)], fail_fast=True)
            return "met"

        start_runtime(worker_concurrency=3)
        client.start_orchestration("meeting-1", "Meeting")
        assert client.wait_for_orchestration("meeting-1").output == "met"
        assert len(threads) == 1

    def test_never_exceed_the_slots(self, client, program, start_runtime):
        """One slot: one at a time."""
        running, most = [], []

        @program.activity("Count")
        async def count(ctx, number):
            running.append(number)
            most.append(len(running))
            await asyncio.sleep(0.01)
            running.remove(number)

        @program.orchestration("Counting")
        def counting(ctx, input):
            yield ctx.all([ctx.schedule_activity("Count", number) for number in range(8)])

        start_runtime(worker_concurrency=1)
        client.start_orchestration("counting-1", "Counting")
        client.wait_for_orchestration("counting-1")
        assert max(most) == 1
        assert len(most) == 8

    def test_go_together_with_plain_ones(self, client, program, start_runtime):
        """A blocked plain activity doesn't hold the event loop up."""
        release = threading.Event()
        program.activity("Block")(lambda ctx, input: release.wait(20))

        @program.activity("Release")
        async def let_go(ctx, input):
            release.set()

        @program.orchestration("Both")
        def both(ctx, input):
            yield ctx.all([ctx.schedule_activity("Block"), ctx.schedule_activity("Release")])
            return release.is_set()

        start_runtime()
        client.start_orchestration("both-1", "Both")
        assert client.wait_for_orchestration("both-1").output is True

    def test_know_who_they_are(self, client, program, start_runtime):
        """ctx is the same as a plain activity's; its client is to be used in a thread."""

        def status_of(ctx):
            try:
                return ctx.get_client().get_status(ctx.instance_id)
            finally:
                connections.close_all()

        @program.activity("Tell")
        async def tell(ctx, input):
            with ThreadPoolExecutor(1) as pool:
                status = await asyncio.get_running_loop().run_in_executor(pool, status_of, ctx)
            return [ctx.instance_id, ctx.activity_name, ctx.delivery, ctx.tag(), status.status]

        @program.orchestration("Telling")
        def telling(ctx, input):
            return (yield ctx.schedule_activity("Tell"))

        start_runtime()
        client.start_orchestration("telling-1", "Telling")
        assert client.wait_for_orchestration("telling-1").output == ["telling-1", "Tell", 1, None, "Running"]

    def test_are_finished_or_given_back_by_shutdown(self, client, program, start_runtime):
        """Those that wait when the time is up run again in the next runtime."""
        deliveries, began = [], threading.Event()

        @program.activity("Linger")
        async def linger(ctx, input):
            deliveries.append(ctx.delivery)
            began.set()
            if len(deliveries) == 1:
                await asyncio.sleep(60)
            return "done"

        @program.orchestration("Lingering")
        def lingering(ctx, input):
            return (yield ctx.schedule_activity("Linger"))

        first = start_runtime()
        client.start_orchestration("lingering-1", "Lingering")
        assert began.wait(10)
        first.shutdown(50)
        start_runtime()
        assert client.wait_for_orchestration("lingering-1", 20_000).output == "done"
        assert len(deliveries) == 2

    def test_run_under_drain(self, client, program):
        """The testing kit runs them in the calling thread."""
        client.start_orchestration("double-1", "Doubling", 4)
        program.drain()
        assert client.get_status("double-1").output == 8


class TestCancellation:
    def test_is_raised_in_the_activity(self, client, program, start_runtime, wait_until):
        """The loser of a race is told by CancelledError, and its clean-up knows why."""
        seen = []

        @program.activity("Sleep")
        async def sleep(ctx, input):
            seen.append("asleep")
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                seen.append(("cancelled", ctx.is_cancelled()))
                raise

        @program.orchestration("Racing")
        def racing(ctx, input):
            yield ctx.race(ctx.schedule_activity("Sleep"), ctx.wait_for_event("enough"))

        start_runtime()
        client.start_orchestration("racing-1", "Racing")
        wait_until(lambda: seen)
        client.raise_event("racing-1", "enough")
        client.wait_for_orchestration("racing-1")
        wait_until(lambda: seen == ["asleep", ("cancelled", True)])

    def test_spares_those_that_have_not_begun(self, client, program, start_runtime, wait_until):
        """A loser that waits for a slot never runs."""
        began, release = [], threading.Event()

        @program.activity("Hold")
        async def hold(ctx, number):
            began.append(number)
            await asyncio.to_thread(release.wait, 20)

        @program.orchestration("Racing")
        def racing(ctx, input):
            first = ctx.schedule_activity("Hold", 1)
            yield ctx.race(ctx.all([first, ctx.schedule_activity("Hold", 2)]), ctx.wait_for_event("enough"))

        runtime = start_runtime(worker_concurrency=1)
        client.start_orchestration("racing-1", "Racing")
        wait_until(lambda: began)
        client.raise_event("racing-1", "enough")
        client.wait_for_orchestration("racing-1")
        release.set()
        wait_until(runtime.is_idle)
        assert began == [1]


class TestShutdown:
    def test_lets_no_further_one_begin(self, client, program, start_runtime, wait_until):
        """What waits for a slot is given back at once; only what runs is waited for."""
        began, release = [], threading.Event()

        @program.activity("Step")
        async def step(ctx, number):
            began.append(number)
            if number == "long":
                await asyncio.to_thread(release.wait, 20)
            return number

        @program.orchestration("Stepping")
        def stepping(ctx, input):
            # Short ones first: the worker then takes more than it has slots.
            yield ctx.all([ctx.schedule_activity("Step", number) for number in range(50)])
            return (yield ctx.all_typed([ctx.schedule_activity("Step", "long") for _ in range(20)]))

        first = start_runtime(worker_concurrency=1)
        client.start_orchestration("stepping-1", "Stepping")
        wait_until(lambda: "long" in began)
        stopping = threading.Thread(target=first.shutdown, args=(20_000,))
        stopping.start()
        wait_until(lambda: client.get_queue_depths().worker_ready == 19)
        release.set()
        stopping.join(10)
        assert not stopping.is_alive()
        assert began.count("long") == 1
        start_runtime()
        assert client.wait_for_orchestration("stepping-1").output == ["long"] * 20
        assert began.count("long") == 20


class TestDatabase:
    @pytest.fixture(autouse=True)
    def counting(self, program, backend):
        @program.activity("Count")
        async def count(ctx, input):
            return await Instance.objects.using(backend).acount()

        @program.orchestration("Counting")
        def counting(ctx, number):
            return (yield ctx.all_typed([ctx.schedule_activity("Count") for _ in range(number)]))

    def test_is_reached_by_djangos_async_orm(self, client, start_runtime):
        """Several activities at once, and no thread or connection is left behind (the fixtures look)."""
        start_runtime()
        client.start_orchestration("counting-1", "Counting", 5)
        assert client.wait_for_orchestration("counting-1").output == [1] * 5

    def test_is_the_caller_s_transaction_under_drain(self, client, program, backend):
        """In a test case the activity sees what the test has written and not committed."""
        with transaction.atomic(using=backend):
            client.start_orchestration("counting-1", "Counting", 1)
            program.drain()
            assert client.get_status("counting-1").output == [1]

    def test_error_under_drain_spoils_nothing(self, client, program, backend):
        """A refused statement fails the activity; the caller's transaction goes on."""

        @program.activity("Refuse")
        async def refuse(ctx, input):
            await Instance.objects.using(backend).acreate(pk=1, instance_id=None)

        @program.orchestration("Refusing")
        def refusing(ctx, input):
            try:
                yield ctx.schedule_activity("Refuse")
            except ActivityFailed as exc:
                return "IntegrityError" in exc.error_types

        with transaction.atomic(using=backend):
            client.start_orchestration("refusing-1", "Refusing")
            program.drain()
            assert client.get_status("refusing-1").output is True
        # Django remembers the error, and with its frames asgiref's thread.
        connections[backend].rollback_exc = None
        gc.collect()

    @pytest.mark.parametrize("backend", ["postgres"], indirect=True)  # SQLite's connections can't be cut from outside
    def test_failure_is_not_the_activity_s(self, client, program, start_runtime, backend):
        """A connection that is cut: the activity runs again, on a new one; the orchestration sees no failure."""
        deliveries = []

        @program.activity("Cut")
        async def cut(ctx, input):
            deliveries.append(ctx.delivery)
            if len(deliveries) == 1:
                await Instance.objects.using(backend).extra(where=["pg_terminate_backend(pg_backend_pid())"]).acount()
            return await Instance.objects.using(backend).acount()

        @program.orchestration("Cutting")
        def cutting(ctx, input):
            return (yield ctx.schedule_activity("Cut"))

        start_runtime()
        client.start_orchestration("cutting-1", "Cutting")
        assert client.wait_for_orchestration("cutting-1", 20_000).output == 1
        assert deliveries == [1, 2]


def test_context_variables_do_not_leak(client, program, start_runtime):
    """What one activity sets, another doesn't see."""
    variable = contextvars.ContextVar("variable", default="unset")

    @program.activity("Set")
    async def set_it(ctx, number):
        before = variable.get()
        variable.set(str(number))
        await asyncio.sleep(0)
        return [before, variable.get()]

    @program.orchestration("Setting")
    def setting(ctx, input):
        return (yield ctx.all_typed([ctx.schedule_activity("Set", number) for number in range(4)]))

    start_runtime()
    client.start_orchestration("setting-1", "Setting")
    assert client.wait_for_orchestration("setting-1").output == [["unset", str(number)] for number in range(4)]
