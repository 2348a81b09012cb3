"""A batch whose turns together take longer than their leases: others must not compute the same turns again."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import pytest

from duroxide_django.models import Instance
from duroxide_django.runtime import dispatcher, slow_turns
from duroxide_django.testing import virtual_clock
from tests.runtime.program import work

#: Seconds that each turn takes, and milliseconds of its lease: a third of that is enough for two.
TURN_S, LEASE_MS = 10, 60_000
NAMES = [f"slow-{number}" for number in range(9)]


@pytest.fixture
def clock(monkeypatch):
    """The workers' clock and the database's; it stands still but for turns."""
    with virtual_clock() as clock:
        for module in (dispatcher, slow_turns):
            monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock.now_ms / 1000))
        yield clock


@pytest.fixture
def ran(program, clock):
    """How often the function of each instance ran, and all activities."""
    ran = Counter()

    @program.activity("Note")
    def note(ctx, _):
        ran["activities"] += 1

    @program.orchestration("Slow")
    def slow(ctx, has_activity):
        if has_activity:
            yield ctx.schedule_activity("Note")
        ran[ctx.instance_id] += 1
        clock.advance(seconds=TURN_S)
        return "done"

    return ran


@pytest.fixture
def make_worker(program):
    return lambda: program.dispatcher(turn_lease_ms=LEASE_MS, activity_lease_ms=LEASE_MS)


def outputs(client):
    return [client.get_status(name).output for name in NAMES]


class TestALongBatch:
    def test_is_given_back_in_part(self, client, make_worker, ran, backend):
        """Without counting it as an attempt; what is done is committed before its leases run out."""
        client.start_many([(name, "Slow", False) for name in NAMES])
        worker = make_worker()
        worker.iterate()
        assert (len(ran), len(worker.pending), len(worker.parked)) == (2, 2, 7)
        worker.iterate(claiming=False)
        rest = Instance.objects.using(backend).filter(status="Running")
        assert set(rest.values_list("attempts", "lease_token")) == {(0, None)}
        assert rest.count() == 7
        work(worker)
        assert outputs(client) == ["done"] * 9

    def test_is_shared(self, client, make_worker, ran):
        """Each of two workers takes what the other one gives back; every function runs once."""
        client.start_many([(name, "Slow", False) for name in NAMES])
        workers = make_worker(), make_worker()
        while client.list_instances_by_status("Running"):
            for worker in workers:
                worker.claims = True
                worker.iterate()
        assert ran == dict.fromkeys(NAMES, 1)
        assert outputs(client) == ["done"] * 9

    def test_of_local_completions_loses_none(self, client, make_worker, ran):
        """The worker holds no turn leases then, but activities', which nobody renews any more: none runs twice."""
        client.start_many([(name, "Slow", True) for name in NAMES])
        worker = make_worker()
        worker.iterate()
        worker.claims = worker.fetches = False
        worker.iterate()
        while worker.slots.work():
            pass
        done = ran["activities"]
        worker.iterate()
        assert len(ran) - 1 < done
        work(worker)
        assert ran == {**dict.fromkeys(NAMES, 1), "activities": len(NAMES)}
        assert outputs(client) == ["done"] * 9


class TestASlowInstance:
    """Each of its turns takes longer than a batch may, and its next message is always due."""

    @pytest.fixture
    def worker(self, client, program, clock):
        @program.orchestration("Heavy")
        def heavy(ctx, _):
            while True:
                done = client.list_instances_by_status("Completed")
                program.done_at_turns.append(len(done))
                clock.advance(seconds=12)
                yield ctx.schedule_timer(1)

        @program.orchestration("Light")
        def light(ctx, has_activity):
            if has_activity:
                yield ctx.schedule_activity("Note")

        program.activity("Note")(lambda ctx, _: None)
        program.done_at_turns = []
        client.start_orchestration("heavy-1", "Heavy")
        return program.dispatcher(turn_lease_ms=30_000, activity_lease_ms=30_000)

    def serve(self, worker, iterations):
        for _ in range(iterations):
            worker.claims = worker.fetches = True
            worker.iterate()
            while worker.slots.work():
                pass

    def test_does_not_starve_those_that_came_later(self, client, worker):
        """What has waited longest is computed first."""
        client.start_many([(f"light-{number}", "Light", True) for number in range(20)])
        self.serve(worker, 12)
        assert len(client.list_instances_by_status("Completed")) == 20

    def test_holds_up_nothing_that_was_computed_before(self, client, program, worker):
        """Once it is known, the others' turns are committed before its own begins."""
        self.serve(worker, 4)
        client.start_many([(f"light-{number}", "Light", None) for number in range(20)])
        turns_before = len(program.done_at_turns)
        self.serve(worker, 12)
        # One turn of its own may have been under way.
        assert program.done_at_turns[turns_before : turns_before + 3] in ([20, 20, 20], [0, 20, 20])

    def test_goes_on(self, client, program, worker):
        """However much else there is to do."""
        for number in range(20):
            client.start_orchestration(f"light-{number}", "Light", True)
            self.serve(worker, 2)
        assert len(program.done_at_turns) >= 10

    def test_does_not_make_its_orchestration_slow_for_good(self, client, program, worker, clock):
        """Others of it are computed apart too, until a turn of one was quick."""
        claimer = worker.claimer
        self.serve(worker, 2)
        other = SimpleNamespace(key=-1, name="Heavy")
        assert claimer.slow_turns.expects(other)
        claimer.slow_turns.note(other, 0.1, None)
        assert not claimer.slow_turns.expects(other)

    def test_is_logged_with_the_place_once_a_minute(self, worker, caplog):
        worker.place_of = lambda work: "workflows.py:7 in heavy"
        self.serve(worker, 24)
        said = [record.getMessage() for record in caplog.records if "A turn took 12.0 s" in record.getMessage()]
        assert 2 <= len(said) <= worker.metrics.snapshot().orch_slow_turns / 4
        assert all("it was seen at workflows.py:7 in heavy" in line for line in said)
