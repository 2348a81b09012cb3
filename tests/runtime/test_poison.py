"""Poison: what was fetched too often is failed instead of run (spec 13.6)."""

from __future__ import annotations

import time

import pytest
from django.db import connections

from duroxide_django import TaskFailed


@pytest.fixture(autouse=True)
def few_attempts(settings):
    settings.DUROXIDE = {**settings.DUROXIDE, "MAX_ATTEMPTS": 3}


@pytest.fixture(autouse=True)
def workflows(program):
    program.ran = []
    program.activity("Note")(lambda ctx, input: program.ran.append(input))

    @program.orchestration("Noting")
    def noting(ctx, input):
        try:
            yield ctx.schedule_activity("Note", input)
        except TaskFailed as exc:
            return f"caught {exc}"

    @program.orchestration("Parent")
    def parent(ctx, input):
        try:
            yield ctx.schedule_sub_orchestration_with_id("Noting", "child-1", input)
        except TaskFailed as exc:
            return f"caught {exc}"


def pretend_attempts(alias, table, attempts, where="1 = 1"):
    """Leave the traces of a worker that died so many times."""
    with connections[alias].cursor() as cursor:
        cursor.execute(f"UPDATE {table} SET attempts = {attempts} WHERE {where}")


class TestActivity:
    def scheduled(self, client, program):
        from duroxide_django import RuntimeOptions

        client.start_orchestration("noting-1", "Noting", "it")
        program.drain(options=RuntimeOptions(worker_concurrency=0))

    def test_fetched_too_often_is_not_run_again(self, client, program, backend, start_runtime):
        """It counts as poisonous: the orchestration fails, and can't catch it."""
        self.scheduled(client, program)
        pretend_attempts(backend, "duroxide_activity_task", 3)
        runtime = start_runtime()
        result = client.wait_for_orchestration("noting-1")
        assert (result.status, result.error) == (
            "Failed",
            "poison: activity Note#2 exceeded 4 attempts (max 3)",
        )
        assert program.ran == []
        assert client.get_queue_depths().worker_queue == 0
        assert runtime.metrics_snapshot().activity_poison == 1

    def test_fetched_as_often_as_allowed_is_run(self, client, program, backend, start_runtime):
        """The last allowed attempt is a real one."""
        self.scheduled(client, program)
        pretend_attempts(backend, "duroxide_activity_task", 2)
        start_runtime()
        assert client.wait_for_orchestration("noting-1").status == "Completed"
        assert program.ran == ["it"]

    def test_suspects_are_tried_alone_at_first(self, client, program, backend, start_runtime):
        """Delivered twice in vain: one is begun alone, then ever more together as long as the process lives."""
        from duroxide_django import RuntimeOptions

        running, most = [], []

        @program.activity("Suspect")
        def suspect(ctx, input):
            running.append(input)
            most.append(len(running))
            time.sleep(0.1)
            running.remove(input)
            return input

        @program.orchestration("Wide")
        def wide(ctx, input):
            results = yield ctx.all([ctx.schedule_activity("Suspect", number) for number in range(7)])
            return [result["ok"] for result in results]

        client.start_orchestration("wide-1", "Wide")
        program.drain(options=RuntimeOptions(worker_concurrency=0))
        pretend_attempts(backend, "duroxide_activity_task", 2)
        start_runtime(worker_concurrency=4)
        assert client.wait_for_orchestration("wide-1", 30_000).output == list(range(7))
        assert most[:3] == [1, 1, 2]
        assert sorted(most[3:]) == [1, 2, 3, 4]


class TestOrchestration:
    def test_claimed_too_often_is_failed(self, client, backend, start_runtime, wait_until):
        """An instance whose turns kill their workers ends as Failed, with a history that says why."""
        client.start_orchestration("noting-1", "Noting", "it")
        pretend_attempts(backend, "duroxide_instance", 3)
        runtime = start_runtime()
        result = client.wait_for_orchestration("noting-1")
        assert result.status == "Failed"
        assert result.error == "poison: orchestration noting-1 exceeded 4 attempts (max 3)"
        kinds = [event.kind for event in client.read_execution_history("noting-1", 1)]
        assert kinds == ["OrchestrationStarted", "OrchestrationFailed"]
        wait_until(lambda: runtime.metrics_snapshot().orch_poison == 1)

    def test_that_is_a_child_fails_its_parent(self, client, program, backend, start_runtime):
        """The parent is told, and aborts: it can't catch it."""
        from duroxide_django import RuntimeOptions

        client.start_orchestration("parent-1", "Parent", "it")
        program.drain(options=RuntimeOptions(worker_concurrency=0))
        client.raise_event("child-1", "anything")
        pretend_attempts(backend, "duroxide_instance", 3, "instance_id = 'child-1'")
        start_runtime()
        result = client.wait_for_orchestration("parent-1")
        assert result.status == "Failed"
        assert result.error.startswith("poison: orchestration child-1")

    def test_a_suspect_does_not_hold_others_up(self, client, backend, start_runtime):
        """An instance under suspicion is tried apart from the innocent ones, and completes if it is innocent too."""
        for number in range(5):
            client.start_orchestration(f"noting-{number}", "Noting", number)
        pretend_attempts(backend, "duroxide_instance", 2, "instance_id IN ('noting-1', 'noting-3')")
        start_runtime()
        for number in range(5):
            assert client.wait_for_orchestration(f"noting-{number}", 10_000).status == "Completed"

    def test_attempts_are_forgotten_after_a_committed_turn(self, client, program, backend, start_runtime):
        """Bad luck long ago doesn't count."""
        client.start_orchestration("noting-1", "Noting", "it")
        pretend_attempts(backend, "duroxide_instance", 2)
        start_runtime()
        client.wait_for_orchestration("noting-1")
        with connections[backend].cursor() as cursor:
            cursor.execute("SELECT attempts FROM duroxide_instance")
            assert cursor.fetchone()[0] == 0
