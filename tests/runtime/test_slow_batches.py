"""A batch whose turns together take longer than their leases: others must not compute the same turns again."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import pytest

from duroxide_django.models import Instance
from duroxide_django.runtime import dispatcher
from duroxide_django.testing import virtual_clock
from tests.runtime.program import work

#: Seconds that each turn takes, and milliseconds of its lease: a third of that is enough for two.
TURN_S, LEASE_MS = 10, 60_000
NAMES = [f"slow-{number}" for number in range(9)]


@pytest.fixture
def clock(monkeypatch):
    """The workers' clock and the database's; it stands still but for turns."""
    with virtual_clock() as clock:
        monkeypatch.setattr(dispatcher, "time", SimpleNamespace(monotonic=lambda: clock.now_ms / 1000))
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
