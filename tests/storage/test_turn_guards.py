"""Claiming and committing turns: one worker at a time, and stale turns are thrown away (design 6)."""

from __future__ import annotations

import threading

import pytest
from django.db import connections, transaction

from duroxide_django import Client
from duroxide_django.models import ActivityTask, HistoryEvent, Instance, Message
from duroxide_django.storage import turns
from duroxide_django.storage.database import Database
from tests.runtime.program import Program


@pytest.fixture
def database(backend):
    return Database(backend)


@pytest.fixture(autouse=True)
def workflows(program):
    program.activity("Add")(lambda ctx, pair: sum(pair))

    @program.orchestration("Sum")
    def add_up(ctx, pair):
        return (yield ctx.schedule_activity("Add", pair))

    @program.orchestration("Waiting")
    def waiting(ctx, input):
        ctx.set_custom_status("waiting")
        return (yield ctx.wait_for_event("go"))


class TestClaim:
    def test_gives_an_instance_to_one_worker(self, client, database):
        """A claimed instance isn't there for the next claim."""
        for number in range(3):
            client.start_orchestration(f"sum-{number}", "Sum")
        first, now_ms, _ = turns.claim(database, limit=2, lease_ms=30_000)
        assert [claimed.instance_id for claimed in first] == ["sum-0", "sum-1"]
        assert abs(now_ms - database.now_ms()) < 60_000
        second, *_ = turns.claim(database, limit=10, lease_ms=30_000)
        assert [claimed.instance_id for claimed in second] == ["sum-2"]
        assert turns.claim(database, limit=10, lease_ms=30_000)[0] == []

    def test_counts_the_attempts(self, client, database):
        """Each claim counts, so that an instance that kills its workers is found out."""
        client.start_orchestration("sum-1", "Sum")
        for attempt in (1, 2, 3):
            ((claimed,), *_) = turns.claim(database, limit=10, lease_ms=0)
            assert claimed.attempts == attempt

    def test_takes_the_longest_waiting_first(self, client, database, backend):
        """Whoever's message has been visible longest goes first."""
        for number in range(3):
            client.start_orchestration(f"sum-{number}", "Sum")
        newest = Message.objects.using(backend).get(instance__instance_id="sum-2")
        Message.objects.using(backend).filter(pk=newest.pk).update(visible_at_ms=1)
        ((first, *_), *_) = turns.claim(database, limit=1, lease_ms=30_000)
        assert first.instance_id == "sum-2"

    def test_leaves_alone_what_is_not_due(self, client, database, backend):
        """Messages for later don't count; the next moment is known."""
        client.start_orchestration("sum-1", "Sum")
        later = database.now_ms() + 3_600_000
        Message.objects.using(backend).update(visible_at_ms=later)
        assert turns.claim(database, limit=10, lease_ms=30_000)[0] == []
        assert not turns.has_claimable(database)
        assert turns.next_visible_ms(database) == later

    def test_of_many_connections_never_overlaps(self, client, backend):
        """Several threads claim at once: every instance goes to exactly one of them."""
        count, workers = 60, 4
        for number in range(count):
            client.start_orchestration(f"sum-{number}", "Sum")
        claimed: list[list[str]] = [[] for _ in range(workers)]
        ready = threading.Barrier(workers)

        def work(mine):
            # Threads share no connection.
            own = Database(backend)
            ready.wait(10)
            while found := turns.claim(own, limit=3, lease_ms=60_000)[0]:
                mine += [item.instance_id for item in found]
            connections.close_all()

        threads = [threading.Thread(target=work, args=(mine,)) for mine in claimed]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        together = [instance_id for mine in claimed for instance_id in mine]
        assert len(together) == len(set(together)) == count

    def test_skips_what_another_transaction_holds(self, client, backend, program):
        """On PostgreSQL a locked row doesn't make the others wait."""
        if backend == "sqlite":
            # One writer at a time: there is nothing to skip.
            return
        client.start_orchestration("locked", "Sum", [1, 2])
        client.start_orchestration("free", "Sum", [3, 4])
        found = []

        def claim():
            found.extend(turns.claim(Database(backend), limit=10, lease_ms=30_000)[0])
            connections.close_all()

        with transaction.atomic(using=backend):
            Instance.objects.using(backend).select_for_update().get(instance_id="locked")
            thread = threading.Thread(target=claim)
            thread.start()
            thread.join(10)
            assert [claimed.instance_id for claimed in found] == ["free"]


class TestTurnInProgress:
    def test_keeps_other_workers_away(self, client, program, start_runtime, gate):
        """While one worker computes an instance's turn, no other begins one, whatever arrives."""
        begun = []

        @program.orchestration("Slow")
        def slow(ctx, input):
            begun.append(threading.current_thread())
            gate.wait()
            return (yield ctx.wait_for_event("go"))

        start_runtime()
        start_runtime()
        client.start_orchestration("slow-1", "Slow")
        gate.wait_entered()
        client.raise_event("slow-1", "go", "once")
        # The other worker is alive and looks at the queue: it runs these, and not the instance.
        for number in range(3):
            client.start_orchestration(f"sum-{number}", "Sum", [number, 1])
            assert client.wait_for_orchestration(f"sum-{number}").output == number + 1
        assert len(begun) == 1
        gate.open()
        assert client.wait_for_orchestration("slow-1").output == "once"
        kinds = [event.kind for event in client.read_execution_history("slow-1", 1)]
        assert kinds.count("OrchestrationStarted") == 1


class TestPark:
    def test_hides_the_instance_for_a_while_and_keeps_its_messages(self, client, database, backend, program):
        """Parked instances come back by themselves, with their messages in order."""
        client.start_orchestration("waiting-1", "Waiting")
        client.raise_event("waiting-1", "go", 1)
        (claimed, *_) = turns.claim(database, limit=10, lease_ms=30_000)
        turns.park(database, [turns.Parked(claimed=claimed[0], delay_ms=60_000, blocked={"reason": "test"})])
        assert turns.claim(database, limit=10, lease_ms=30_000)[0] == []
        assert Message.objects.using(backend).count() == 2
        row = Instance.objects.using(backend).get()
        assert (row.attempts, row.blocked, row.lease_token) == (0, '{"reason": "test"}', None)

    def test_of_a_lost_lease_changes_nothing(self, client, database, backend):
        """Whoever lost the lease can't park the instance under its new holder."""
        client.start_orchestration("sum-1", "Sum")
        ((stale,), *_) = turns.claim(database, limit=1, lease_ms=0)
        ((fresh,), *_) = turns.claim(database, limit=1, lease_ms=30_000)
        turns.park(database, [turns.Parked(claimed=stale, delay_ms=60_000, blocked={"reason": "stale"})])
        row = Instance.objects.using(backend).get()
        assert (row.lease_token, row.blocked) == (fresh.token, None)


class Interrupted:
    """A program whose first turn is interrupted: something happens between its claim and its commit."""

    def __init__(self, program, happen):
        self.turns = 0

        @program.orchestration("Interrupted")
        def interrupted(ctx, input):
            self.turns += 1
            ctx.set_kv_value("turn", self.turns)
            ctx.set_custom_status(f"turn {self.turns}")
            if self.turns == 1:
                happen()
            yield ctx.schedule_activity("Add", [1, 2])
            return f"turn {self.turns}"


class TestStaleTurns:
    def test_of_a_lease_that_another_worker_has_now_are_thrown_away(self, client, program, backend):
        """The turn's lease ran out while it computed, and another worker went on: nothing of it is written."""

        def go_on_elsewhere():
            Instance.objects.using(backend).update(lease_until_ms=0)
            Program.drain(elsewhere)

        elsewhere = Program(backend)
        elsewhere.registry = program.registry
        interrupted = Interrupted(program, go_on_elsewhere)
        client.start_orchestration("it", "Interrupted")
        program.drain()
        result = client.get_status("it")
        assert (result.status, result.output) == ("Completed", "turn 2")
        assert (result.custom_status, result.custom_status_version) == ("turn 2", 1)
        assert client.get_kv_value("it", "turn") == "2"
        kinds = [event.kind for event in client.read_execution_history("it", 1)]
        assert kinds.count("OrchestrationStarted") == kinds.count("ActivityScheduled") == 1
        assert interrupted.turns == 2
        assert not ActivityTask.objects.using(backend).exists()

    def test_of_a_lease_that_merely_ran_out_still_count(self, client, program, backend):
        """Nobody took the instance meanwhile: the late turn is as good as any."""
        interrupted = Interrupted(program, lambda: Instance.objects.using(backend).update(lease_until_ms=0))
        client.start_orchestration("it", "Interrupted")
        program.drain()
        assert client.get_status("it").output == "turn 1"
        assert interrupted.turns == 1

    def test_of_a_deleted_instance_are_thrown_away(self, client, program, backend, count_rows):
        """A forced delete wins over the turn that was computing."""
        Interrupted(program, lambda: Client(using=backend).delete_instance("it", force=True))
        client.start_orchestration("it", "Interrupted")
        program.drain()
        assert not any(count_rows().values())

    def test_of_a_deleted_and_restarted_id_are_thrown_away(self, client, program, backend):
        """The id's new life isn't touched by a turn of the old one."""

        def replace():
            other = Client(using=backend)
            other.delete_instance("it", force=True)
            other.start_orchestration("it", "Sum", [20, 1])

        Interrupted(program, replace)
        client.start_orchestration("it", "Interrupted")
        program.drain()
        result = client.get_status("it")
        assert (result.output, result.custom_status) == (21, None)
        assert client.get_kv_all_values("it") == {}

    def test_leave_the_rest_of_their_batch_alone(self, client, program, backend):
        """One turn of a batch is stale; the others of the same transaction are committed."""
        Interrupted(program, lambda: Client(using=backend).delete_instance("it", force=True))
        for number in range(5):
            client.start_orchestration(f"sum-{number}", "Sum", [number, 1])
            if number == 2:
                client.start_orchestration("it", "Interrupted")
        program.drain()
        assert [client.get_status(f"sum-{number}").output for number in range(5)] == [1, 2, 3, 4, 5]
        assert client.get_status("it").status == "NotFound"


class TestWhatAwaitsTheCommit:
    def test_messages_that_arrive_during_a_turn_are_for_the_next(self, client, program, backend):
        """An event raised while the turn computes isn't lost with the turn's own messages."""

        @program.orchestration("Busy")
        def busy(ctx, input):
            if not ctx.is_replaying and input["first"]:
                input["first"] = False
                Client(using=backend).raise_event("busy-1", "go", "in time")
            return (yield ctx.wait_for_event("go"))

        client.start_orchestration("busy-1", "Busy", {"first": True})
        program.drain()
        assert client.get_status("busy-1").output == "in time"

    def test_messages_for_an_ended_instance_are_cleared_away(self, client, program, backend):
        """What was enqueued just before the end is discarded, without an event."""
        client.start_orchestration("sum-1", "Sum", [1, 2])
        program.drain()
        row = Instance.objects.using(backend).get()
        now = Database(backend).now_ms()
        Message.objects.using(backend).create(
            instance=row, kind="ExternalRaised", name="go", payload="1", due_ms=now, visible_at_ms=now
        )
        events = HistoryEvent.objects.using(backend).count()
        program.drain()
        assert not Message.objects.using(backend).exists()
        assert HistoryEvent.objects.using(backend).count() == events
        assert client.get_status("sum-1").output == 3

    def test_are_thrown_away_by_a_runtime_without_harm_to_their_batch(self, client, program, start_runtime, backend):
        """If one turn of a batch was overtaken, the others are committed all the same."""

        def take_over():
            Instance.objects.using(backend).filter(instance_id="it").update(lease_token=1, lease_until_ms=0)

        interrupted = Interrupted(program, take_over)
        for number in range(5):
            client.start_orchestration(f"sum-{number}", "Sum", [number, 1])
        client.start_orchestration("it", "Interrupted")
        start_runtime()
        assert client.wait_for_orchestration("it").output == "turn 2"
        assert interrupted.turns == 2
        assert (client.get_status("it").custom_status_version, client.get_kv_value("it", "turn")) == (1, "2")
        kinds = [event.kind for event in client.read_execution_history("it", 1)]
        assert kinds.count("OrchestrationStarted") == 1
        for number in range(5):
            assert client.wait_for_orchestration(f"sum-{number}").output == number + 1
            assert len(client.read_execution_history(f"sum-{number}", 1)) == 4
