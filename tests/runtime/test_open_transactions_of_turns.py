"""An orchestration that leaves a transaction open, or a session changed, stops itself and nobody else."""

from __future__ import annotations

import re

import pytest
from django.db import connections, transaction

from duroxide_django.models import Instance
from duroxide_django.storage.database import Database
from tests.runtime.program import work


@pytest.fixture(autouse=True)
def workflows(program, backend):
    program.activity("Echo")(lambda ctx, input: input)

    @program.orchestration("Healthy")
    def healthy(ctx, input):
        return (yield ctx.schedule_activity("Echo", input))

    @program.orchestration("Atomic")
    def atomic(ctx, input):
        with transaction.atomic(using=backend):
            write(backend)
            return (yield ctx.schedule_activity("Echo", input))

    @program.orchestration("AtomicLater")
    def atomic_later(ctx, input):
        yield ctx.schedule_activity("Echo", input)
        with transaction.atomic(using=backend):
            write(backend)
            yield ctx.wait_for_event("never")

    @program.orchestration("Entered")
    def entered(ctx, input):
        transaction.atomic(using=backend).__enter__()
        yield ctx.schedule_activity("Echo", input)

    @program.orchestration("Begun")
    def begun(ctx, input):
        connections[backend].cursor().execute("BEGIN")
        yield ctx.schedule_activity("Echo", input)

    @program.orchestration("NoAutocommit")
    def no_autocommit(ctx, input):
        transaction.set_autocommit(False, using=backend)
        write(backend)
        yield ctx.schedule_activity("Echo", input)

    @program.orchestration("OtherAlias")
    def other_alias(ctx, input):
        with transaction.atomic(using="default"):
            connections["default"].cursor().execute("SELECT 1")
            yield ctx.schedule_activity("Echo", input)


def write(alias):
    connections[alias].cursor().execute("UPDATE duroxide_instance SET custom_status = 'dirty' WHERE name = 'Healthy'")


BAD = ["Atomic", "AtomicLater", "Entered", "Begun", "NoAutocommit", "OtherAlias"]


@pytest.mark.parametrize("bad", BAD)
class TestByAWorker:
    def test_is_blocked_with_its_place(self, client, start_runtime, wait_until, bad):
        """Others go on, and what it wrote is rolled back."""
        client.start_orchestration("healthy-1", "Healthy", 1)
        client.start_orchestration("bad-1", bad)
        client.start_orchestration("healthy-2", "Healthy", 2)
        start_runtime()

        assert client.wait_for_orchestration("healthy-1").output == 1
        assert client.wait_for_orchestration("healthy-2").output == 2
        why = wait_until(lambda: client.get_blocked("bad-1"))
        assert why["reason"] == "open_transaction"
        place = r"left a transaction open on \w+ at its yield \(.*test_open_transactions_of_turns.py:\d+ in .*\)"
        assert re.search(place, why["message"])
        client.start_orchestration("healthy-3", "Healthy", 3)
        assert client.wait_for_orchestration("healthy-3").output == 3
        assert [client.get_status(f"healthy-{number}").custom_status for number in (1, 2, 3)] == [None] * 3

    def test_goes_on_when_the_code_is_mended(self, client, program, start_runtime, wait_until, backend, bad):
        """As after any deploy."""
        client.start_orchestration("bad-1", bad)
        runtime = start_runtime()
        wait_until(lambda: client.get_blocked("bad-1"))
        runtime.shutdown()

        @program.orchestration(bad, "1.0.1")
        def mended(ctx, input):
            return (yield ctx.schedule_activity("Echo", "mended"))

        if bad == "AtomicLater":
            return  # It has recorded its first version.
        program.registry.orchestrations[bad].pop(next(iter(program.registry.orchestrations[bad])))
        client.resume_instance("bad-1")
        start_runtime()
        assert client.wait_for_orchestration("bad-1").output == "mended"


@pytest.mark.parametrize("bad", ["Atomic", "AtomicLater", "Entered"])
def test_in_drain_the_callers_transaction_goes_on(client, program, backend, bad):
    """Only what the turn wrote is rolled back."""
    with transaction.atomic(using=backend):
        client.start_orchestration("healthy-1", "Healthy", 1)
        client.start_orchestration("bad-1", bad)
        program.drain()
        assert client.get_blocked("bad-1")["reason"] == "open_transaction"
        assert client.get_status("healthy-1").output == 1
        assert client.get_status("healthy-1").custom_status is None
        assert connections[backend].savepoint_ids == []
    assert Instance.objects.using(backend).count() == 2


def test_what_a_turn_sets_in_its_session_goes_with_it(client, program, backend):
    """The worker's own statements run in a session that no user's code has changed."""
    setting = {
        "sqlite": ("PRAGMA cache_size = 77", "PRAGMA cache_size"),
        "postgres": (
            "SET statement_timeout = 77",
            "SELECT setting::int FROM pg_settings WHERE name = 'statement_timeout'",
        ),
    }
    change, read = setting[backend]

    @program.orchestration("Setting")
    def set_session(ctx, input):
        connections[backend].cursor().execute(change)
        yield ctx.wait_for_event("never")

    client.start_orchestration("setting-1", "Setting")
    worker = program.dispatcher()
    worker.claims = True
    worker.iterate()
    assert Database(backend).fetch(read) != [(77,)]
    worker.iterate()
    assert client.get_status("setting-1").status == "Running"


def test_reading_another_instances_values_is_no_change(client, program, backend):
    """The engine's own statement keeps the session."""

    @program.orchestration("Reading")
    def reading(ctx, input):
        yield ctx.get_kv_value_from_instance("nobody", "key")
        return "read"

    worker = program.dispatcher()
    session = connections[backend].connection
    client.start_orchestration("reading-1", "Reading")
    while worker.iterate() | worker.slots.work():
        pass
    assert client.get_status("reading-1").output == "read"
    assert connections[backend].connection is session


class TestFinallyBlocks:
    """They run when an execution is thrown away, which must not be in the middle of the worker's transaction."""

    @pytest.fixture
    def make_worker(self, program):
        made = []

        def make(**config):
            made.append(program.dispatcher(**config))
            return made[-1]

        yield make
        for worker in made:
            # Here and now, not when the garbage collector comes to them.
            worker.drop_executions()

    @pytest.fixture(params=["begins a transaction", "switches autocommit off", "fails in SQL"])
    def careless(self, request, program, backend):
        def clean_up():
            if request.param == "begins a transaction":
                transaction.atomic(using=backend).__enter__()
            elif request.param == "switches autocommit off":
                transaction.set_autocommit(False, using=backend)
                write(backend)
            else:
                connections[backend].cursor().execute("SELECT * FROM nowhere")

        @program.orchestration("Careless")
        def careless(ctx, rounds):
            try:
                yield ctx.schedule_activity("Echo", 1)
                if rounds:
                    return (yield ctx.continue_as_new(rounds - 1))
                yield ctx.wait_for_event("go")
            finally:
                clean_up()

    def test_of_an_execution_that_continues_as_new(self, careless, client, make_worker, backend):
        worker = make_worker()
        client.start_orchestration("careless-1", "Careless", 3)
        client.start_orchestration("healthy-1", "Healthy", 1)
        work(worker)
        assert client.get_status("healthy-1").output == 1
        assert client.get_status("healthy-1").custom_status is None
        assert client.get_instance_info("careless-1").current_execution_id == 4
        assert not connections[backend].in_atomic_block
        assert connections[backend].get_autocommit()

    def test_of_an_execution_that_makes_room_for_others(self, careless, client, make_worker, backend):
        worker = make_worker(cache_executions=1)
        for number in range(4):
            client.start_orchestration(f"careless-{number}", "Careless", 0)
        client.start_orchestration("healthy-1", "Healthy", 1)
        work(worker)
        assert client.get_status("healthy-1").output == 1
        assert client.get_status("healthy-1").custom_status is None
        assert [client.get_blocked(f"careless-{number}") for number in range(4)] == [None] * 4
        assert not connections[backend].in_atomic_block

    def test_of_executions_that_are_all_thrown_away(self, careless, client, make_worker, backend):
        worker = make_worker()
        client.start_orchestration("careless-1", "Careless", 0)
        work(worker)
        worker.drop_executions()
        assert not connections[backend].in_atomic_block
        client.start_orchestration("healthy-1", "Healthy", 1)
        work(worker)
        assert client.get_status("healthy-1").output == 1
