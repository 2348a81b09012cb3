"""Rows that the database refuses: set aside with their reason, without spoiling the batch (design 6)."""

from __future__ import annotations

import json

import pytest
from django.db import connections

from duroxide_django.models import Instance

POSTGRES_RULE = "ALTER TABLE duroxide_history ADD CONSTRAINT refuse_poison CHECK (data NOT LIKE '%%poison%%')"
SQLITE_RULE = """CREATE TRIGGER refuse_poison BEFORE INSERT ON duroxide_history WHEN NEW.data LIKE '%%poison%%'
    BEGIN SELECT RAISE(ABORT, 'poison is refused'); END"""
POSTGRES_UNDO = "ALTER TABLE duroxide_history DROP CONSTRAINT IF EXISTS refuse_poison"
SQLITE_UNDO = "DROP TRIGGER IF EXISTS refuse_poison"


@pytest.fixture
def lift_rule(backend):
    """Make the database refuse history with the word 'poison'; return how to lift the rule."""
    rule, undo = (SQLITE_RULE, SQLITE_UNDO) if backend == "sqlite" else (POSTGRES_RULE, POSTGRES_UNDO)

    def execute(sql):
        with connections[backend].cursor() as cursor:
            cursor.execute(sql.replace("%%", "%"))

    execute(rule)
    yield lambda: execute(undo)
    execute(undo)


@pytest.fixture(autouse=True)
def workflows(program):
    program.activity("Echo")(lambda ctx, text: text)

    @program.orchestration("Saying")
    def saying(ctx, words):
        ctx.set_custom_status("saying")
        for word in words:
            yield ctx.schedule_activity("Echo", word)
        return "said"


class TestRefusedTurn:
    def test_does_not_spoil_the_batch(self, client, program, lift_rule):
        """The other instances of the same transaction are committed."""
        for number in range(3):
            client.start_orchestration(f"good-{number}", "Saying", ["hello"])
            client.start_orchestration(f"bad-{number}", "Saying", ["poison"])
        program.drain(jump=False)
        assert {client.get_status(f"good-{number}").output for number in range(3)} == {"said"}
        assert {client.get_status(f"bad-{number}").status for number in range(3)} == {"Running"}

    def test_counts_as_an_error_of_the_provider(self, client, start_runtime, lift_rule, wait_until):
        """Every refusal, once; the other instance's turns are counted as ever."""
        runtime = start_runtime()
        client.start_many([("bad-1", "Saying", ["poison"]), ("good-1", "Saying", ["hello"])])
        client.wait_for_orchestration("good-1")
        wait_until(lambda: runtime.metrics_snapshot().provider_errors)
        wait_until(lambda: runtime.metrics_snapshot().orch_completions == 1)
        assert client.get_blocked("bad-1")["reason"] == "refused_by_database"
        lift_rule()
        wait_until(lambda: runtime.metrics_snapshot().orch_completions == 2)
        assert runtime.metrics_snapshot().orch_starts == 2

    def test_writes_nothing_of_itself(self, client, program, lift_rule):
        """No half of a turn: neither history nor status nor activity."""
        client.start_orchestration("bad-1", "Saying", ["poison"])
        program.drain(jump=False)
        assert client.read_execution_history("bad-1", 1) == []
        assert client.get_status("bad-1").custom_status is None
        assert client.get_queue_depths().worker_queue == 0

    def test_says_why_on_the_instance(self, client, program, backend, lift_rule):
        """The database's words are kept where the operator looks."""
        client.start_orchestration("bad-1", "Saying", ["poison"])
        program.drain(jump=False)
        why = json.loads(Instance.objects.using(backend).get().blocked)
        assert why["reason"] == "refused_by_database"
        assert "poison" in why["message"]

    def test_is_tried_again_until_it_works(self, client, program, backend, lift_rule):
        """Once the cause is gone the instance goes on, and the reason with it."""
        client.start_orchestration("bad-1", "Saying", ["poison"])
        program.drain(jump=False)
        lift_rule()
        program.drain()
        assert client.get_status("bad-1").output == "said"
        assert Instance.objects.using(backend).get().blocked is None

    def test_is_never_logged_with_its_payload(self, client, program, lift_rule, caplog):
        """The database's error may quote the row: the log says which instance, not what it holds."""
        client.start_orchestration("good-1", "Saying", ["hello"])
        client.start_orchestration("bad-1", "Saying", ["hunter2 poison"])
        program.drain(jump=False)
        assert any("refused" in record.getMessage() for record in caplog.records)
        for record in caplog.records:
            assert "hunter2" not in str(vars(record))

    def test_after_a_local_completion_keeps_the_completion(self, client, program, start_runtime, lift_rule, backend):
        """The result of an activity is not lost with the turn that took it: it isn't run again."""
        ran = []
        program.activity("Note")(lambda ctx, input: ran.append(input))

        @program.orchestration("Later")
        def later(ctx, input):
            yield ctx.schedule_activity("Note", "once")
            yield ctx.schedule_activity("Echo", "poison")
            return "said"

        runtime = start_runtime()
        client.start_orchestration("later-1", "Later")
        assert client.wait_for_status_change("later-1", 0, 50, 1_000) is None
        runtime.shutdown()
        lift_rule()
        program.drain()
        assert client.get_status("later-1").output == "said"
        assert ran == ["once"]

    def test_does_not_stop_a_runtime(self, client, program, start_runtime, lift_rule):
        """A worker goes on with everything else while one instance is refused."""
        start_runtime()
        client.start_orchestration("bad-1", "Saying", ["hello", "poison"])
        for number in range(5):
            client.start_orchestration(f"good-{number}", "Saying", ["hello"])
            assert client.wait_for_orchestration(f"good-{number}").output == "said"
        lift_rule()
        assert client.wait_for_orchestration("bad-1", 20_000).output == "said"
