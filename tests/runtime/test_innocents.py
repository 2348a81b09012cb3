"""What dies beside a killer, or is killed from outside, is told apart from what kills its process."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
from django.db import connections

from duroxide_django.runtime.config import resolve
from duroxide_django.runtime.dispatcher import Dispatcher
from duroxide_django.runtime.metrics import Metrics
from duroxide_django.runtime.slots import ThreadSlots
from duroxide_django.storage.database import Database


@pytest.fixture
def process(program):
    """Make workers that run activities in threads and iterate when they are told to."""
    made = []

    def make(**config):
        resolved = replace(resolve(None), **{"slots": 4, "max_attempts": 5, **config})
        db = Database(program.alias)
        slots = ThreadSlots(program.registry, resolved, db, lambda: None)
        made.append(slots)
        return Dispatcher(program.registry, resolved, db, slots, Metrics())

    yield make
    for slots in made:
        slots.stop()
        assert slots.join(10)


def execute(alias, sql):
    with connections[alias].cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchall() if sql.startswith("SELECT") else None


def attempts(alias, table="duroxide_activity_task"):
    return sorted(count for (count,) in execute(alias, f"SELECT attempts FROM {table}"))


def die(alias):
    """Let all leases run out, as those of a process that was killed do; what it left can be taken at once."""
    for table in ("duroxide_activity_task", "duroxide_instance"):
        execute(alias, f"UPDATE {table} SET lease_until_ms = 0, lease_token = NULL")
    for table in ("duroxide_activity_task", "duroxide_message"):
        execute(alias, f"UPDATE {table} SET visible_at_ms = 0")


def lose(alias):
    """Let all leases run out, and leave the tokens: that is how a worker is lost."""
    execute(alias, "UPDATE duroxide_activity_task SET lease_until_ms = 0, visible_at_ms = 0")


class Clock:
    """The monotonic clock of the slots; it moves when it is told to."""

    def __init__(self, monkeypatch):
        self.now_s = 1_000.0
        clock = SimpleNamespace(monotonic=lambda: self.now_s, perf_counter=time.perf_counter)
        monkeypatch.setattr("duroxide_django.runtime.slots.time", clock)


def step(dispatcher):
    dispatcher.fetches = dispatcher.claims = True
    return dispatcher.iterate()


@pytest.fixture
def wide(program, client):
    """Start an instance with so many activities, and schedule these."""
    from duroxide_django import RuntimeOptions

    def start(*names):
        @program.orchestration("Wide")
        def wide(ctx, input):
            results = yield ctx.all([ctx.schedule_activity(name) for name in input])
            return [result["ok"] for result in results]

        client.start_orchestration("wide-1", "Wide", list(names))
        program.drain(options=RuntimeOptions(worker_concurrency=0))

    return start


class TestActivities:
    def test_killed_from_outside_again_and_again_are_not_poison(self, program, backend, process, wide, gate, client):
        """Twelve processes die with six activities that do no harm: all complete in the thirteenth."""
        program.activity("Held")(lambda ctx, input: gate.wait())
        wide(*["Held"] * 6)
        for _ in range(12):
            dispatcher = process(slots=8)
            for _ in range(3):
                step(dispatcher)
            assert len(dispatcher.slots.tasks()) > 0
            die(backend)
        assert max(attempts(backend)) <= 5
        gate.open()
        dispatcher = process()
        while client.get_status("wide-1").status == "Running":
            step(dispatcher)
        assert client.get_status("wide-1").status == "Completed"

    def test_that_wait_to_be_tried_do_not_count(self, program, backend, process, wide, gate):
        """A suspect that its process has not begun when it dies is none of the causes."""
        program.activity("Held")(lambda ctx, input: gate.wait())
        program.activity("Suspect")(lambda ctx, input: None)
        wide("Held", "Suspect")
        execute(backend, "UPDATE duroxide_activity_task SET attempts = 2 WHERE name = 'Suspect'")
        step(process())
        gate.wait_entered()
        assert attempts(backend) == [1, 2]

    def test_that_are_tried_together_do_not_count(self, program, backend, process, wide, gate):
        """Who of them it was nobody knows."""
        program.activity("Held")(lambda ctx, input: gate.wait())
        wide(*["Held"] * 3)
        execute(backend, "UPDATE duroxide_activity_task SET attempts = 2")
        dispatcher = process()
        dispatcher.slots.trust.survived()
        step(dispatcher)
        step(dispatcher)
        gate.wait_entered(2)
        assert attempts(backend) == [2, 2, 2]

    def test_that_outlive_their_trial_do_not_count(self, program, backend, process, wide, gate, monkeypatch):
        """From then on others run beside it, which may be the cause."""
        program.activity("Held")(lambda ctx, input: gate.wait())
        wide("Held")
        execute(backend, "UPDATE duroxide_activity_task SET attempts = 2")
        dispatcher = process()
        step(dispatcher)
        step(dispatcher)
        gate.wait_entered()
        assert attempts(backend) == [3]
        assert dispatcher.slots.isolates()
        monkeypatch.setattr(dispatcher.slots, "_trial_until", 0.0)
        step(dispatcher)
        assert not dispatcher.slots.isolates()
        assert attempts(backend) == [2]

    def test_that_kill_later_and_later_are_alone_for_longer_until_they_count(
        self, program, backend, process, wide, gate, client, monkeypatch
    ):
        """Each process is lost after the trial's end, until the trial is longer than the killer takes."""
        clock = Clock(monkeypatch)
        program.activity("Kill")(lambda ctx, input: gate.wait())
        wide("Kill")
        alone_s = []
        for _ in range(10):
            dispatcher = process()
            step(dispatcher)
            step(dispatcher)
            if (until := dispatcher.slots.isolates_until()) is not None:
                alone_s.append(round(until - clock.now_s))
                if alone_s[-1] < 50:  # The killer takes 50 seconds: it outlives its trial.
                    clock.now_s = until
                    step(dispatcher)
            lose(backend)
        assert alone_s == [2, 4, 8, 16, 32, 64, 128, 256]
        dispatcher = process()
        while client.get_status("wide-1").status == "Running":
            step(dispatcher)
        assert client.get_status("wide-1").error.startswith("poison: activity Kill")

    def test_that_were_given_back_are_not_lost(self, program, backend, process, wide, gate):
        """Only a lease that ran out says that a worker was lost."""
        from duroxide_django.storage import activities

        program.activity("Held")(lambda ctx, input: gate.wait())
        wide("Held")
        for _ in range(2):
            dispatcher = process()
            step(dispatcher)
            gate.wait_entered()
            activities.release(dispatcher.db, dispatcher.slots.tasks(), begun=True)
        activities.interrupt(dispatcher.db, [(task, "away") for task in dispatcher.slots.tasks()])
        step(process())
        assert execute(backend, "SELECT losses FROM duroxide_activity_task") == [(0,)]

    def test_given_back_before_they_were_tried_count_as_before(self, program, backend, process, wide, gate):
        """A worker that stops gives its suspects back as it found them."""
        from duroxide_django.storage import activities

        program.activity("Held")(lambda ctx, input: gate.wait())
        wide("Held")
        execute(backend, "UPDATE duroxide_activity_task SET attempts = 2")
        dispatcher = process()
        step(dispatcher)
        activities.release(dispatcher.db, dispatcher.slots.unstarted())
        assert attempts(backend) == [2]

    def test_that_kill_are_poison_in_the_end(self, program, backend, process, wide, client):
        """Whatever is tried alone each time that the process dies was it."""
        ran = threading.Semaphore(0)
        over = threading.Event()
        program.activity("Kill")(lambda ctx, input: (ran.release(), over.wait(30)))
        wide("Kill")
        for _ in range(5):
            dispatcher = process()
            step(dispatcher)
            step(dispatcher)
            assert ran.acquire(timeout=10)
            die(backend)
        dispatcher = process()
        while client.get_status("wide-1").status == "Running":
            step(dispatcher)
        assert client.get_status("wide-1").error.startswith("poison: activity Kill")
        over.set()

    def test_results_are_committed_before_a_suspect_begins(self, program, backend, process, wide, wait_until):
        """What its death would take along is safe."""
        began = threading.Event()
        program.activity("Quick")(lambda ctx, input: None)
        program.activity("Suspect")(lambda ctx, input: began.set())
        wide("Quick", "Suspect")
        execute(backend, "UPDATE duroxide_activity_task SET attempts = 2 WHERE name = 'Suspect'")
        dispatcher = process()
        write, early = dispatcher.committer.write, []

        def slow_write(batch, **options):
            if batch.foreign or batch.turns:
                early.append(began.wait(0.3))
            return write(batch, **options)

        dispatcher.committer.write = slow_write
        step(dispatcher)
        wait_until(dispatcher.slots.finished)
        while not began.is_set():
            step(dispatcher)
        assert early
        assert not early[0]


class TestTurns:
    def test_that_wait_to_be_tried_do_not_count(self, program, backend, process, client):
        """Instances that were claimed often, and are not computed yet when their process dies."""
        program.orchestration("Plain")(lambda ctx, input: input)
        for number in range(3):
            client.start_orchestration(f"plain-{number}", "Plain", number)
        execute(backend, "UPDATE duroxide_instance SET attempts = 2")
        dispatcher = process()
        step(dispatcher)
        assert dispatcher.suspect is not None
        assert attempts(backend, "duroxide_instance") == [2, 2, 2]

    def test_are_tried_together_once_one_has_done_no_harm(self, program, backend, process, client):
        """After a storm of kills the work goes on quickly."""
        program.orchestration("Plain")(lambda ctx, input: input)
        for number in range(15):
            client.start_orchestration(f"plain-{number}", "Plain", number)
        execute(backend, "UPDATE duroxide_instance SET attempts = 4")
        dispatcher = process()
        looks = 0
        while any(client.get_status(f"plain-{number}").status == "Running" for number in range(15)):
            execute(backend, "UPDATE duroxide_message SET visible_at_ms = 0")
            execute(backend, "UPDATE duroxide_instance SET lease_until_ms = 0 WHERE lease_token IS NULL")
            step(dispatcher)
            looks += 1
        assert looks <= 12
