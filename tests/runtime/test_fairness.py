"""Who gets a free slot: what waits in the queue is not passed by for ever by what the same worker just scheduled."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from duroxide_django.models import ActivityTask
from duroxide_django.runtime import fetching, slots
from duroxide_django.storage import activities
from tests.runtime.program import take_for_quick, work

#: Seconds that each step of a chain takes.
STEP_S = 0.1


@pytest.fixture
def clock(monkeypatch):
    """The worker's clock; activities move it. A slot is a slot: short activities don't pile up."""
    clock = SimpleNamespace(s=100.0)
    monkeypatch.setattr(fetching, "time", SimpleNamespace(monotonic=lambda: clock.s))
    monkeypatch.setattr(slots, "BACKLOG_PER_SLOT", 1)
    return clock


@pytest.fixture
def begun(program, clock):
    """When which activity began, by the worker's clock, in order."""
    begun = []

    @program.activity("Step")
    def step(ctx, name):
        begun.append((name, clock.s))
        clock.s += STEP_S

    @program.orchestration("Chain")
    def chain(ctx, name):
        while True:
            yield ctx.schedule_activity("Step", name)

    @program.orchestration("Once")
    def once(ctx, session):
        yield ctx.schedule_activity("Step", ctx.instance_id, session_id=session)

    return begun


@pytest.fixture
def busy(client, program, begun):
    """A worker with one slot that a chain of activities keeps busy, with nothing else to do."""
    worker = program.dispatcher(slots=1)
    take_for_quick(worker, "Chain")
    client.start_orchestration("chain-1", "Chain", "chain")
    worker.claims = worker.fetches = True
    run(worker, steps=3)
    return worker


@pytest.fixture
def queue(client, program):
    """Start an instance whose activity has to wait in the queue: the worker that schedules it has no slots."""

    def queue(name, session=None):
        client.start_orchestration(name, "Once", session)
        work(program.dispatcher(slots=0))

    return queue


def run(worker, *, steps):
    """Let a worker run so many activities, or all there are."""
    for _ in range(10 * steps):
        worker.iterate()
        steps -= worker.slots.work()
        if not steps:
            return


def passed_by(begun, name, since_s):
    """Return how many seconds after ``since_s`` the last activity was scheduled that began before ``name``."""
    names = [other for other, _ in begun]
    assert name in names, f"{name} never began"
    # Each step is scheduled when the one before it ends.
    before = [at_s for other, at_s in begun[: names.index(name)] if other == "chain"]
    return before[-1] - since_s


class TestAQueuedActivity:
    @pytest.mark.parametrize("session", [None, "s"])
    def test_begins_before_what_was_scheduled_a_second_later(self, busy, queue, begun, clock, session):
        """Though a chain of activities always has the next one ready when the slot is free."""
        since_s = clock.s
        queue("once-1", session)
        run(busy, steps=30)
        assert passed_by(begun, "once-1", since_s) <= 1.0

    def test_that_comes_back_from_a_dead_worker_does_too(self, busy, queue, begun, clock, backend):
        """When its lease has run out it is the oldest of all."""
        queue("once-1")
        ActivityTask.objects.using(backend).filter(lease_token=None).update(
            lease_token=1, lease_until_ms=1, attempts=1, worker="dead"
        )
        since_s = clock.s
        run(busy, steps=30)
        assert passed_by(begun, "once-1", since_s) <= 1.0

    def test_has_its_turn_by_age(self, busy, queue, begun):
        """Several of them begin in the order in which they came, and the chain goes on among them."""
        for number in range(4):
            queue(f"once-{number}")
        run(busy, steps=30)
        assert [name for name, _ in begun if name != "chain"] == [f"once-{number}" for number in range(4)]
        assert begun[-1][0] == "chain"

    def test_keeps_its_place_when_it_is_given_back(self, client, program, queue, begun):
        """A worker whose slots are busy after all fetched it: that must not put it behind what came later."""
        for number in range(2):
            queue(f"once-{number}")
        first = program.dispatcher(slots=1)
        held = first.fetcher.fetch(1, relaxed=False)
        activities.release(first.db, held)
        assert first.fetcher.fetch(1, relaxed=False)[0].instance_id == held[0].instance_id == "once-0"


class TestNothingThatWaits:
    def test_costs_one_fetch_a_second(self, busy, begun, clock, monkeypatch):
        """A chain's activities have their slots without the queue."""
        fetched = []
        fetch = activities.fetch
        monkeypatch.setattr(activities, "fetch", lambda *args, **kwargs: fetched.append(1) or fetch(*args, **kwargs))
        monkeypatch.setattr(slots, "BACKLOG_PER_SLOT", 64)
        # Until the activities are known to be short.
        run(busy, steps=50)
        fetched.clear()
        run(busy, steps=100)
        assert len(begun) > 150
        assert len(fetched) <= 100 * STEP_S + 1


class TestOtherWorkers:
    def test_are_told_of_what_this_one_leaves(self, busy, queue, begun):
        """The chain's next activity waits behind an older one: another worker may have a slot for it."""
        told = []
        busy.announce = told.append
        queue("once-1")
        run(busy, steps=30)
        assert "activities" in told
