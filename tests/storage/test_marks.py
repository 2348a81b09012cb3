"""The mark of an instance's row: what was computed from a state that the database no longer has is thrown away."""

from __future__ import annotations

import json
import threading

import pytest
from django.db import connections, transaction

from duroxide_django.engine.events import ENGINE_VERSION
from duroxide_django.models import ActivityTask, Execution, HistoryEvent, Instance, Message
from duroxide_django.storage.database import Database
from duroxide_django.testing import virtual_clock
from tests.runtime.program import take_for_quick, work


@pytest.fixture(autouse=True)
def workflows(program):
    program.activity("Echo")(lambda ctx, input: input)

    @program.orchestration("Steps")
    def steps(ctx, input):
        taken = []
        while len(taken) < 3:
            taken.append((yield ctx.wait_for_event("step")))
        return taken

    @program.orchestration("Waiting")
    def waiting(ctx, input):
        return (yield ctx.wait_for_event("go"))

    @program.orchestration("Cleaning")
    def cleaning(ctx, input):
        try:
            yield ctx.wait_for_event("go")
        finally:
            yield ctx.schedule_activity("Echo", "cleaned")


TABLES = (Instance, Execution, HistoryEvent, Message, ActivityTask)


class TestAStoreThatWasSetBack:
    """As after a failover to a standby that lagged, when no connection was cut (a pooler was paused meanwhile)."""

    def saved(self, backend):
        return {model: list(model.objects.using(backend).values()) for model in TABLES}

    def restore(self, backend, saved):
        for model in TABLES:
            model.objects.using(backend).all().delete()
            model.objects.using(backend).bulk_create([model(**row) for row in saved[model]])

    def test_is_gone_on_with_as_it_is(self, client, program, backend):
        """Another worker has taken the lost turn's place, so that the number of turns is the same again."""
        first, second = program.dispatcher(), program.dispatcher()
        client.start_orchestration("steps-1", "Steps")
        client.raise_event("steps-1", "step", 1)
        work(first)
        saved = self.saved(backend)
        client.raise_event("steps-1", "step", "lost")
        work(first)
        turns = Instance.objects.using(backend).get().turns

        self.restore(backend, saved)
        client.raise_event("steps-1", "step", 2)
        work(second)
        assert Instance.objects.using(backend).get().turns == turns
        client.raise_event("steps-1", "step", 3)
        work(first)

        assert client.get_status("steps-1").output == [1, 2, 3]

    def test_refuses_a_turn_that_was_computed_before(self, client, program, backend):
        """The guard compares the mark too."""
        first, second = program.dispatcher(), program.dispatcher()
        for worker in (first, second):
            worker.claimer.fresh_ms = 2**40
            take_for_quick(worker, "Steps")
        client.start_orchestration("steps-1", "Steps")
        work(first)
        saved = self.saved(backend)
        client.raise_event("steps-1", "step", "lost")
        work(first)
        client.raise_event("steps-1", "step", "computed")
        first.claims = True
        first.iterate()  # Computes; the next iteration commits.

        self.restore(backend, saved)
        client.raise_event("steps-1", "step", 1)
        work(second)
        work(first)
        client.raise_event("steps-1", "step", 2)
        client.raise_event("steps-1", "step", 3)
        work(second)
        assert client.get_status("steps-1").output == [1, 2, 3]


@pytest.fixture(params=["leased", "unleased"])
def worker(request, program):
    """A worker whose next iteration computes what is due, and whose second commits it."""
    dispatcher = program.dispatcher()
    if request.param == "unleased":
        dispatcher.claimer.fresh_ms = 2**40
        take_for_quick(dispatcher, "Waiting", "Cleaning")
    return dispatcher


def compute(worker):
    worker.claims = True
    worker.iterate()
    assert worker.pending


class TestCancel:
    def test_that_was_committed_before_the_end_wins(self, client, worker):
        """Also against a turn that was computed before, and would have ended the instance."""
        client.start_orchestration("waiting-1", "Waiting")
        client.raise_event("waiting-1", "go", "done")
        compute(worker)
        assert client.cancel_instance("waiting-1", "changed my mind") is True
        work(worker)
        status = client.get_status("waiting-1")
        assert (status.status, status.error) == ("Failed", "canceled: changed my mind")

    def test_after_the_end_says_so(self, client, worker):
        """False: it has ended."""
        client.start_orchestration("waiting-1", "Waiting")
        client.raise_event("waiting-1", "go", "done")
        compute(worker)
        work(worker)
        assert client.cancel_instance("waiting-1") is False
        assert client.get_status("waiting-1").output == "done"

    def test_does_not_wait_for_the_lease_that_it_takes_away(self, client, worker, backend):
        """The instance is computed again at once, and the attempt does not count."""
        client.start_orchestration("waiting-1", "Waiting")
        compute(worker)
        client.cancel_instance("waiting-1")
        row = Instance.objects.using(backend).get()
        assert (row.lease_token, row.lease_until_ms, row.attempts) == (None, 0, 0)
        work(worker)
        assert client.get_status("waiting-1").status == "Failed"

    def test_again_and_again_does_not_keep_it_from_its_end(self, client, program, worker):
        """Only the first, and one of those that follow its processing, throws a turn away."""
        client.start_orchestration("cleaning-1", "Cleaning")
        work(worker)
        for _ in range(30):
            client.cancel_instance("cleaning-1", "now!")
            worker.claims = worker.fetches = True
            worker.iterate()
            worker.slots.work()
        assert client.get_status("cleaning-1").error == "canceled: now!"

    def test_of_a_paused_instance_leaves_it_paused(self, client, program, worker):
        """It is processed when it is resumed."""
        client.start_orchestration("waiting-1", "Waiting")
        work(worker)
        client.pause_instance("waiting-1", reason="look")
        assert client.cancel_instance("waiting-1") is True
        work(worker)
        assert client.get_blocked("waiting-1")["reason"] == "paused"
        client.resume_instance("waiting-1")
        work(worker)
        assert client.get_status("waiting-1").status == "Failed"

    @pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
    def test_does_not_break_a_transaction_whose_snapshot_is_older_than_the_last_turn(
        self, client, program, worker, backend, level
    ):
        """PostgreSQL does not let it write the row then: it is sent like any other message."""
        if backend == "sqlite":
            return  # One writer at a time: it waits for its turn.
        client.start_orchestration("waiting-1", "Waiting")
        work(worker)

        def turn():
            client.raise_event("waiting-1", "other")
            work(program.dispatcher())
            connections.close_all()

        with transaction.atomic(using=backend):
            connections[backend].cursor().execute(f"SET TRANSACTION ISOLATION LEVEL {level}")
            Instance.objects.using(backend).count()
            thread = threading.Thread(target=turn)
            thread.start()
            thread.join(30)
            assert client.cancel_instance("waiting-1", "too late") is True
        work(program.dispatcher())
        assert client.get_status("waiting-1").error == "canceled: too late"

    def test_that_says_true_cancels_whatever_the_worker_does(self, client, start_runtime, backend):
        """Cancelled from another thread at the moment at which the instance ends."""
        start_runtime()
        said = {}

        def cancel(name):
            said[name] = client.cancel_instance(name, "raced")
            connections.close_all()

        names = [f"waiting-{number}" for number in range(40)]
        for name in names:
            client.start_orchestration(name, "Waiting")
            thread = threading.Thread(target=cancel, args=(name,))
            client.raise_event(name, "go", "done")
            thread.start()
            thread.join(30)
        for name in names:
            result = client.wait_for_orchestration(name)
            assert (result.status == "Failed") is said[name], name


class TestNewerEngine:
    """In a rolling update workers of two releases run side by side."""

    @pytest.fixture
    def newer(self, client, program, backend):
        """An instance whose execution a newer release has begun."""
        client.start_orchestration("waiting-1", "Waiting")
        work(program.dispatcher())
        started = HistoryEvent.objects.using(backend).filter(event_id=1)
        data = json.loads(started.get().data)
        started.update(data=json.dumps({**data, "engine": ENGINE_VERSION + 1}))
        Instance.objects.using(backend).update(engine=ENGINE_VERSION + 1, mark=1)
        client.raise_event("waiting-1", "go", "done")
        return "waiting-1"

    @pytest.mark.parametrize("fresh_ms", [None, 2**40])
    def test_executions_are_left_to_workers_that_know_it(self, client, program, newer, backend, fresh_ms):
        """Not claimed, so that those get it at once; no attempt counts."""
        older = program.dispatcher()
        older.claimer.fresh_ms = fresh_ms
        take_for_quick(older, "Waiting")
        work(older)
        row = Instance.objects.using(backend).get()
        assert (row.attempts, row.lease_until_ms, row.blocked) == (0, 0, None)
        assert Message.objects.using(backend).count() == 1

    def test_executions_that_nobody_takes_say_so(self, client, program, newer):
        """After the grace for unknown code; doctor names the cure."""
        work(program.dispatcher(unknown_code_grace_ms=0))
        assert client.get_blocked(newer)["reason"] == "newer_engine"
        assert "knows engines up to" in client.get_blocked(newer)["message"]
        (finding,) = [found for found in client.examine_health() if found.rule == "blocked_newer_engine"]
        assert "finish the update" in finding.cure

    def test_does_not_count_as_an_attempt(self, client, program, newer, backend):
        """However often it is tried, it goes on when the update is finished."""
        worker = program.dispatcher(unknown_code_grace_ms=0)
        for _ in range(12):
            Instance.objects.using(backend).update(lease_until_ms=0)
            Message.objects.using(backend).update(visible_at_ms=0)
            work(worker)
        assert Instance.objects.using(backend).get().attempts == 0

    def test_the_next_execution_is_of_the_engine_that_begins_it(self, client, program, backend):
        """The number is that of the running execution, as its first event has it."""

        @program.orchestration("Renewing")
        def renewing(ctx, round):
            if round < 2:
                yield ctx.continue_as_new(round + 1)
            yield ctx.wait_for_event("never")

        client.start_orchestration("renewing-1", "Renewing", 1)
        Instance.objects.using(backend).update(engine=0)
        work(program.dispatcher())
        assert Instance.objects.using(backend).get().engine == ENGINE_VERSION


def test_marks_are_new_with_each_turn(client, program, backend):
    """At random, so that two histories of one instance can't have the same."""
    worker = program.dispatcher()
    client.start_orchestration("steps-1", "Steps")
    seen = []
    for number in range(3):
        work(worker)
        seen.append(Database(backend).fetch("SELECT mark FROM duroxide_instance")[0][0])
        client.raise_event("steps-1", "step", number)
    assert len(set(seen)) == 3
    assert all(mark > 0 for mark in seen)


def test_a_time_out_does_not_overtake_an_event_behind_a_flood(client, program, backend, monkeypatch):
    """What is read at once has a bound; what came before a timer was due may lie beyond it."""
    monkeypatch.setattr("duroxide_django.storage.turns.MAX_BATCH_MESSAGES", 8)

    @program.orchestration("Approval")
    def approval(ctx, input):
        first = yield ctx.race(ctx.wait_for_event("approved"), ctx.schedule_timer(60_000))
        return ["approved", "expired"][first["index"]]

    with virtual_clock() as clock:
        client.start_orchestration("approval-1", "Approval")
        program.drain(jump=False)
        for number in range(20):
            client.raise_event("approval-1", "other", number)
        client.raise_event("approval-1", "approved")
        clock.advance(minutes=2)
        program.drain(jump=False)
        assert client.get_status("approval-1").output == "approved"
