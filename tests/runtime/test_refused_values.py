"""Values that the database refuses concern the row that has them: the worker tells it and goes on with the others."""

from __future__ import annotations

import asyncio
import uuid

import psycopg
import pytest
from django.db import connections

from duroxide_django import ActivityFailed, PostgresProvider
from duroxide_django.models import ActivityTask
from tests.runtime.program import Program

ROCKET = "to the moon \U0001f680"


def define(program):
    program.activity("Echo")(lambda ctx, value: value)
    program.activity("Rocket")(lambda ctx, value: ROCKET)

    @program.activity("RocketAsync")
    async def rocket_async(ctx, value):
        await asyncio.sleep(0)
        return ROCKET

    @program.activity("Raise")
    def raise_(ctx, value):
        raise ValueError(ROCKET)

    @program.orchestration("Calling")
    def calling(ctx, name):
        try:
            return [len((yield ctx.schedule_activity(name)))]
        except ActivityFailed as exc:
            return [exc.error_types[0]]

    @program.orchestration("Healthy")
    def healthy(ctx, value):
        for number in range(3):
            yield ctx.schedule_activity("Echo", number)
        return "done"

    @program.orchestration("Asking")
    def asking(ctx, value):
        return (yield ctx.schedule_activity("Echo", ROCKET))

    return program


@pytest.fixture
def latin(postgres_url, database_access):
    """A program on a database that has no emoji."""
    name = f"latin_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres_url, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'")
    provider = PostgresProvider.connect(postgres_url.rpartition("/")[0] + f"/{name}")
    yield define(Program(provider.alias))
    connections[provider.alias].close()
    del connections[provider.alias]
    del connections.databases[provider.alias]
    with psycopg.connect(postgres_url, autocommit=True) as admin:
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def run(latin):
    """Start a worker on it; returns the client."""
    from duroxide_django import Client

    runtime = latin.runtime()
    runtime.start()
    yield Client(using=latin.alias)
    runtime.shutdown()


class TestEncoding:
    @pytest.mark.parametrize("name", ["Rocket", "RocketAsync"])
    def test_result_of_an_activity_arrives_all_the_same(self, run, name):
        """JSON can say it in ASCII."""
        run.start_orchestration("bad", "Calling", name)
        run.start_orchestration("good", "Healthy")
        assert run.wait_for_orchestration("good", 20_000).output == "done"
        assert run.wait_for_orchestration("bad", 20_000).output == [len(ROCKET)]

    def test_error_of_an_activity_arrives_all_the_same(self, run):
        run.start_orchestration("bad", "Calling", "Raise")
        run.start_orchestration("good", "Healthy")
        assert run.wait_for_orchestration("good", 20_000).output == "done"
        assert run.wait_for_orchestration("bad", 20_000).output == ["ValueError"]

    def test_turn_is_set_aside_with_its_reason(self, run, wait_until):
        """An activity's input is part of a turn: it is blocked, the others go on."""
        run.start_orchestration("bad", "Asking")
        assert wait_until(lambda: run.get_blocked("bad"))["reason"] == "refused_by_database"
        run.start_orchestration("good", "Healthy")
        assert run.wait_for_orchestration("good", 20_000).output == "done"

    def test_progress_is_recorded_all_the_same(self, run, latin, gate, wait_until):
        @latin.activity("Progress")
        def progress(ctx, value):
            ctx.heartbeat(ROCKET)
            gate.wait()

        @latin.orchestration("Progressing")
        def progressing(ctx, value):
            yield ctx.schedule_activity("Progress")

        run.start_orchestration("bad", "Progressing")
        gate.wait_entered()
        run.start_orchestration("good", "Healthy")
        assert run.wait_for_orchestration("good", 20_000).output == "done"
        tasks = ActivityTask.objects.using(latin.alias)
        assert r"\ud83d\ude80" in wait_until(lambda: tasks.get().progress)
        gate.open()
        run.wait_for_orchestration("bad", 20_000)


RULES = {
    "postgres": (
        "ALTER TABLE {table} ADD CONSTRAINT refused CHECK ({column} NOT LIKE '%poison%')",
        "ALTER TABLE {table} DROP CONSTRAINT IF EXISTS refused",
    ),
    "sqlite": (
        """CREATE TRIGGER refused_{when}_{table} BEFORE {when} ON {table} WHEN NEW.{column} LIKE '%poison%'
        BEGIN SELECT RAISE(ABORT, 'refused'); END""",
        "DROP TRIGGER IF EXISTS refused_{when}_{table}",
    ),
}


@pytest.fixture
def refuse(backend):
    """Let the database refuse the word in a column."""
    undone = []

    def execute(sql, **names):
        for when in ("INSERT", "UPDATE"):
            with connections[backend].cursor() as cursor:
                cursor.execute(sql.format(when=when, **names))
            if backend == "postgres":
                return

    def refuse(table, column):
        rule, undo = RULES[backend]
        execute(rule, table=table, column=column)
        undone.append((undo, table))

    yield refuse
    for undo, table in undone:
        execute(undo, table=table)


class TestConstraint:
    @pytest.fixture(autouse=True)
    def workflows(self, program):
        define(program)
        program.activity("Bitter")(lambda ctx, value: "poison")

        @program.orchestration("Giving")
        def giving(ctx, value):
            try:
                return (yield ctx.schedule_activity("Bitter"))
            except ActivityFailed as exc:
                return exc.error_types[0]

    def test_refused_result_is_the_activity_s_failure(self, client, start_runtime, refuse):
        """The orchestration can catch it."""
        refuse("duroxide_message", "payload")
        refuse("duroxide_history", "data")
        start_runtime()
        client.start_orchestration("bad", "Giving")
        client.start_orchestration("good", "Healthy")
        assert client.wait_for_orchestration("good", 20_000).output == "done"
        assert client.wait_for_orchestration("bad", 20_000).output == "IntegrityError"

    def test_refused_interruption_is_written_without_its_text(self, client, start_runtime, refuse, program, backend):
        """A text that can't be written is no reason to stop."""
        from tests.runtime.test_database_interruptions import busy

        refuse("duroxide_activity_task", "last_error")

        @program.activity("Busy")
        def busily(ctx, value):
            raise type(busy())("poison") from busy()

        @program.orchestration("Waiting")
        def waiting(ctx, value):
            yield ctx.schedule_activity("Busy")

        start_runtime()
        client.start_orchestration("bad", "Waiting")
        client.start_orchestration("good", "Healthy")
        assert client.wait_for_orchestration("good", 20_000).output == "done"

    def test_worker_s_own_row_may_be_refused(self, client, start_runtime, refuse):
        """It can't announce itself, and works."""
        refuse("duroxide_worker", "handlers")
        start_runtime()
        client.start_orchestration("good", "Healthy")
        assert client.wait_for_orchestration("good", 20_000).output == "done"

    def test_refused_claim_keeps_nobody_else_waiting(self, client, start_runtime, backend, wait_until):
        """A row that can't be updated at all."""
        client.start_orchestration("bad", "Healthy")
        with connections[backend].cursor() as cursor:
            if backend == "postgres":
                cursor.execute(
                    "ALTER TABLE duroxide_instance ADD CONSTRAINT refused CHECK (instance_id <> 'bad' OR attempts = 0)"
                )
            else:
                cursor.execute(
                    "CREATE TRIGGER refused BEFORE UPDATE ON duroxide_instance WHEN NEW.instance_id = 'bad' AND "
                    "NEW.attempts > 0 BEGIN SELECT RAISE(ABORT, 'no'); END"
                )
        try:
            start_runtime()
            client.start_orchestration("good", "Healthy")
            assert client.wait_for_orchestration("good", 20_000).output == "done"
            assert wait_until(lambda: client.get_blocked("bad"))["reason"] == "corrupt_row"
        finally:
            with connections[backend].cursor() as cursor:
                cursor.execute(
                    "ALTER TABLE duroxide_instance DROP CONSTRAINT refused"
                    if backend == "postgres"
                    else "DROP TRIGGER refused"
                )
