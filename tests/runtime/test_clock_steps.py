"""The database's clock goes back: an NTP step, or a failover to a host that is behind."""

from __future__ import annotations

import time

import pytest
from django.db.models import F

from duroxide_django import Client
from duroxide_django.models import Instance, Message
from duroxide_django.storage.database import Database
from duroxide_django.storage.health import examine
from duroxide_django.testing import virtual_clock
from tests.runtime.program import take_for_quick, work

HOUR_MS = 3_600_000


@pytest.fixture
def client(backend, program):
    @program.orchestration("Takes")
    def takes(ctx, count):
        taken = yield ctx.all([ctx.dequeue_event("q") for _ in range(count)])
        return [item["ok"] for item in taken]

    @program.orchestration("Races")
    def races(ctx, _):
        return (yield ctx.race(ctx.schedule_timer(1_000), ctx.wait_for_event("e")))["index"]

    return Client(using=backend)


@pytest.fixture
def go_back(backend):
    """Let everything that is stored so far look as if the clock had been an hour ahead."""

    def go_back():
        Message.objects.using(backend).update(due_ms=F("due_ms") + HOUR_MS, visible_at_ms=F("visible_at_ms") + HOUR_MS)

    return go_back


def test_messages_of_a_queue_keep_their_order(client, program, backend):
    """A step of milliseconds, too small to be noticed by anyone."""
    with virtual_clock() as clock:
        client.start_orchestration("one", "Takes", 2)
        program.drain(jump=False)
        client.enqueue_event("one", "q", "first")
        Message.objects.using(backend).update(due_ms=F("due_ms") + 5, visible_at_ms=F("visible_at_ms") + 5)
        client.enqueue_event("one", "q", "second")
        clock.advance(ms=10)
        program.drain(jump=False)
        assert client.get_status("one").output == ["first", "second"]


def test_timers_and_events_keep_the_order_in_which_they_were_due(client, program):
    with virtual_clock() as clock:
        for name in ("event", "timer"):
            client.start_orchestration(name, "Races")
        program.drain(jump=False)
        client.raise_event("event", "e", None)
        clock.advance(seconds=2)
        client.raise_event("timer", "e", None)
        program.drain(jump=False)
        assert (client.get_status("event").output, client.get_status("timer").output) == (1, 0)


def test_worker_that_starts_takes_what_the_clock_hides(client, program, start_runtime, go_back):
    client.start_orchestration("one", "Takes", 2)
    client.enqueue_event("one", "q", "first")
    go_back()
    client.enqueue_event("one", "q", "second")
    start_runtime()
    assert client.wait_for_orchestration("one", 10_000).output == ["first", "second"]


@pytest.mark.parametrize("fresh_ms", [None, 60_000], ids=["with a lease", "without"])
def test_worker_notices_that_the_clock_goes_back(client, program, go_back, backend, fresh_ms):
    """Before it takes what came after it."""
    worker = program.dispatcher()
    worker.claimer.fresh_ms = fresh_ms
    take_for_quick(worker, "Takes")
    client.start_orchestration("one", "Takes", 2)
    work(worker)
    client.enqueue_event("one", "q", "first")
    go_back()
    worker.claimer.check_clock(Database(backend).now_ms(), time.monotonic())
    # As it would have seen the time before.
    worker.claimer._clock = (worker.claimer._clock[0] + HOUR_MS, worker.claimer._clock[1])
    client.enqueue_event("one", "q", "second")
    work(worker)
    assert client.get_status("one").output == ["first", "second"]


def test_parked_instance_is_tried_again(client, program, backend, go_back):
    client.start_orchestration("one", "Takes", 0)
    go_back()
    Instance.objects.using(backend).update(lease_until_ms=Database(backend).now_ms() + HOUR_MS)
    worker = program.dispatcher()
    worker.claimer.show_hidden()
    work(worker)
    assert client.get_status("one").output == []


def test_timers_stay_hidden(client, program, backend):
    client.start_orchestration("one", "Races")
    worker = program.dispatcher()
    work(worker)
    before = Message.objects.using(backend).get().visible_at_ms
    worker.claimer.show_hidden()
    assert Message.objects.using(backend).get().visible_at_ms == before


def test_doctor_names_what_is_hidden(client, go_back, backend):
    client.start_orchestration("one", "Takes", 1)
    database = Database(backend)
    assert "hidden_by_clock" not in {finding.rule for finding in examine(database)}
    go_back()
    found = next(finding for finding in examine(database) if finding.rule == "hidden_by_clock")
    assert (found.count, found.instance_id) == (1, "one")
