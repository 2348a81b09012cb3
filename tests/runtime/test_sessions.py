"""Sessions: whoever owns one runs all its activities, until its lease runs out (spec 10.1)."""

from __future__ import annotations

import threading

import pytest
from django.db import connections

from duroxide_django import ConfigurationError, Runtime, RuntimeOptions
from duroxide_django.models import Session
from tests.runtime.program import work


@pytest.fixture(autouse=True)
def workflows(program, gate):
    program.ran = []

    @program.activity("Note")
    def note(ctx, input):
        program.ran.append((ctx.session_id, ctx.worker_id))
        return ctx.worker_id

    @program.activity("Held")
    def held(ctx, input):
        program.ran.append((ctx.session_id, ctx.worker_id))
        gate.wait()
        return ctx.worker_id

    @program.orchestration("Notes")
    def notes(ctx, session):
        workers = []
        for number in range(4):
            workers += [(yield ctx.schedule_activity("Note", number, session_id=session))]
        return workers

    @program.orchestration("Holding")
    def holding(ctx, session):
        return (yield ctx.schedule_activity("Held", None, session_id=session))

    @program.orchestration("HoldingMany")
    def holding_many(ctx, sessions):
        yield ctx.all([ctx.schedule_activity("Held", None, session_id=session) for session in sessions])


@pytest.fixture
def owners(backend):
    """Return who owns which session."""
    return lambda: dict(Session.objects.using(backend).values_list("session_id", "owner"))


class TestAffinity:
    def test_all_activities_of_a_session_go_to_one_worker(self, client, program, start_runtime):
        """With two workers, each session stays with the one that took it first."""
        start_runtime()
        start_runtime()
        for number in range(6):
            client.start_orchestration(f"notes-{number}", "Notes", f"session-{number}")
        for number in range(6):
            assert len(set(client.wait_for_orchestration(f"notes-{number}").output)) == 1

    def test_a_session_spans_instances(self, client, program, start_runtime):
        """The same session id used by several instances is one session."""
        start_runtime()
        start_runtime()
        for number in range(5):
            client.start_orchestration(f"notes-{number}", "Notes", "shared")
        for number in range(5):
            client.wait_for_orchestration(f"notes-{number}")
        assert len({worker for _, worker in program.ran}) == 1

    def test_a_session_survives_continue_as_new(self, client, program, start_runtime):
        """Executions come and go, the session stays."""

        @program.orchestration("Again")
        def again(ctx, count):
            yield ctx.schedule_activity("Note", count, session_id="lasting")
            if count:
                yield ctx.continue_as_new(count - 1)

        start_runtime()
        start_runtime()
        client.start_orchestration("again-1", "Again", 4)
        client.wait_for_orchestration("again-1")
        assert len(program.ran) == 5
        assert len({worker for _, worker in program.ran}) == 1

    def test_an_activity_without_a_session_is_told_none(self, client, program, start_runtime):
        """Regular activities know of no session."""
        start_runtime()
        client.start_orchestration("notes-1", "Notes", None)
        client.wait_for_orchestration("notes-1")
        assert {session for session, _ in program.ran} == {None}


class TestOwner:
    def test_is_each_runtime_itself_by_default(self, client, start_runtime, owners):
        """Without an identity of its own a runtime is known by its worker id."""
        runtime = start_runtime()
        client.start_orchestration("notes-1", "Notes", "s")
        client.wait_for_orchestration("notes-1")
        assert owners() == {"s": runtime.config.worker_id}

    def test_is_the_node_if_it_has_a_name(self, client, start_runtime, owners):
        """worker_node_id names the owner; the next runtime of that name goes on at once."""
        first = start_runtime(worker_node_id="node-1")
        client.start_orchestration("notes-1", "Notes", "s")
        client.wait_for_orchestration("notes-1")
        first.shutdown()
        assert owners() == {"s": "node-1"}
        start_runtime(worker_node_id="node-1")
        client.start_orchestration("notes-2", "Notes", "s")
        assert client.wait_for_orchestration("notes-2", 10_000).status == "Completed"

    def test_that_stops_lets_go_of_its_sessions(self, client, start_runtime, program):
        """A nameless runtime that shuts down frees its sessions at once: the next worker needn't wait for the lease."""
        first = start_runtime()
        client.start_orchestration("notes-1", "Notes", "s")
        client.wait_for_orchestration("notes-1")
        first.shutdown()
        start_runtime()
        client.start_orchestration("notes-2", "Notes", "s")
        assert client.wait_for_orchestration("notes-2", 10_000).status == "Completed"
        assert len({worker for _, worker in program.ran}) == 2

    def test_with_a_live_lease_keeps_others_out(self, client, start_runtime, backend, wait_until, program):
        """While somebody else's lease lives, nobody takes the session's activities."""
        _own(backend, "taken", "somebody else", for_ms=60_000)
        start_runtime()
        client.start_orchestration("notes-1", "Notes", "taken")
        client.start_orchestration("notes-2", "Notes", "free")
        client.wait_for_orchestration("notes-2")
        wait_until(lambda: client.get_queue_depths().worker_ready == 1)
        assert {session for session, _ in program.ran} == {"free"}


class TestFailOver:
    def test_gives_a_dead_owner_s_session_away(self, client, start_runtime, backend, owners):
        """The lease runs out, another worker goes on with the session."""
        _own(backend, "s", "dead", for_ms=600)
        runtime = start_runtime()
        client.start_orchestration("notes-1", "Notes", "s")
        assert client.wait_for_orchestration("notes-1", 20_000).status == "Completed"
        assert owners() == {"s": runtime.config.worker_id}

    def test_spares_a_living_owner(self, client, start_runtime, gate, backend, settings, wait_until, owners):
        """A lease is renewed while an activity of the session runs, however long."""
        settings.DUROXIDE = {**settings.DUROXIDE, "SESSION_LEASE_MS": 3_000}
        runtime = start_runtime()
        client.start_orchestration("holding-1", "Holding", "s")
        gate.wait_entered()
        first = Session.objects.using(backend).get().lease_until_ms
        wait_until(lambda: Session.objects.using(backend).get().lease_until_ms > first + 1_000)
        gate.open()
        client.wait_for_orchestration("holding-1")
        assert owners() == {"s": runtime.config.worker_id}

    def test_ends_an_idle_session(self, client, start_runtime, backend, settings, wait_until):
        """A session without activities for its idle time is not renewed any more, so that it can move."""
        settings.DUROXIDE = {**settings.DUROXIDE, "SESSION_LEASE_MS": 1_200}
        start_runtime(session_idle_timeout_ms=400, worker_lock_timeout_ms=600)
        client.start_orchestration("notes-1", "Notes", "s")
        client.wait_for_orchestration("notes-1")
        wait_until(lambda: _expired(backend, "s"))


class TestCleanUp:
    def test_forgets_sessions_that_are_over(self, client, start_runtime, backend, monkeypatch, wait_until, owners):
        """Its lease has run out and no activity waits for it: the row goes; the others stay."""
        start_runtime(worker_concurrency=0)
        client.start_orchestration("notes-1", "Notes", "wanted")
        wait_until(lambda: client.get_queue_depths().worker_ready == 1)
        _own(backend, "held", "somebody else", for_ms=60_000)
        _own(backend, "wanted", "gone", for_ms=-1)
        _own(backend, "over", "gone", for_ms=-1)
        monkeypatch.setattr("duroxide_django.runtime.loop.SESSION_CLEANUP_MS", 50)
        # The running loop looks again in five minutes, another one at once.
        start_runtime(worker_concurrency=0)
        wait_until(lambda: owners() == {"held": "somebody else", "wanted": "gone"})


class TestCap:
    def test_bounds_the_sessions_in_flight(self, client, program, start_runtime, gate, wait_until):
        """At the cap, further sessions are left for other workers."""
        start_runtime(max_sessions_per_runtime=2, worker_concurrency=8)
        client.start_orchestration("many-1", "HoldingMany", ["a", "b", "c", "d"])
        gate.wait_entered(2)
        second = start_runtime(max_sessions_per_runtime=2, worker_concurrency=8)
        gate.wait_entered(2)
        by_worker = [worker for _, worker in program.ran]
        assert by_worker.count(second.config.worker_id) == 2
        assert len({session for session, _ in program.ran}) == 4
        gate.open()
        client.wait_for_orchestration("many-1")

    def test_still_serves_the_sessions_in_flight(self, client, program, start_runtime, gate):
        """At the cap, more work for a session that is in flight here is taken (W18), and so is work without one."""
        start_runtime(max_sessions_per_runtime=1, worker_concurrency=8)
        client.start_orchestration("holding-1", "Holding", "only")
        gate.wait_entered()
        client.start_orchestration("notes-1", "Notes", "only")
        client.start_orchestration("notes-2", "Notes", None)
        assert client.wait_for_orchestration("notes-1", 10_000).status == "Completed"
        assert client.wait_for_orchestration("notes-2", 10_000).status == "Completed"

    def test_frees_a_place_when_a_session_is_through(self, client, program, start_runtime):
        """Many sessions pass through a worker that may hold one at a time."""
        start_runtime(max_sessions_per_runtime=1)
        for number in range(5):
            client.start_orchestration(f"notes-{number}", "Notes", f"session-{number}")
        for number in range(5):
            assert client.wait_for_orchestration(f"notes-{number}", 20_000).status == "Completed"

    def test_does_not_make_sessions_wait_for_a_poll(self, client, program):
        """What a worker can't have yet is not hidden: the next session has the place as soon as one is through."""
        worker = program.dispatcher(max_sessions=3, slots=8)
        for number in range(20):
            client.start_orchestration(f"notes-{number}", "Notes", f"session-{number}")
        client.start_orchestration("notes-without", "Notes", None)
        work(worker)
        assert client.list_instances_by_status("Running") == []

    def test_leaves_the_others_to_other_workers_at_once(self, client, program):
        """A worker with places finds what one at its cap can't have."""
        for number in range(3):
            client.start_orchestration(f"notes-{number}", "Notes", f"session-{number}")
        work(program.dispatcher(slots=0))
        full, free = program.dispatcher(max_sessions=1, slots=8), program.dispatcher(slots=8, owner="free")
        assert len(full.fetcher.fetch(8, relaxed=False)) == 1
        assert len(free.fetcher.fetch(8, relaxed=False)) == 2

    def test_counts_atomic_activities_that_are_through(self, client, program):
        """They commit without the loop, which then sees that there is room for another session."""
        program.activity("Write", atomic=True)(lambda ctx, number: number)

        @program.orchestration("Writes")
        def writes(ctx, count):
            yield ctx.all([ctx.schedule_activity("Write", n, session_id=f"s-{n}") for n in range(count)])

        client.start_orchestration("writes-1", "Writes", 5)
        work(program.dispatcher(max_sessions=1, slots=8))
        assert client.get_status("writes-1").status == "Completed"


class TestSerial:
    @pytest.fixture
    def overlap(self, program):
        """Register an activity that notices company, and return the most that ever ran together."""
        lock, running, most, together = threading.Lock(), [], [], threading.Event()

        @program.activity("Alone")
        def alone(ctx, number):
            with lock:
                running.append(number)
                most.append(len(running))
                if len(running) > 1:
                    together.set()
            together.wait(0.05)
            with lock:
                running.remove(number)
            return number

        @program.orchestration("Crowd")
        def crowd(ctx, count):
            return (yield ctx.all_typed([ctx.schedule_activity("Alone", n, session_id="s") for n in range(count)]))

        return lambda: max(most)

    def test_runs_one_activity_of_a_session_at_a_time(self, client, start_runtime, overlap):
        """One after another, over all slots and all workers of the owner."""
        for _ in range(2):
            start_runtime(serial_sessions=True, worker_node_id="node-1", worker_concurrency=4)
        client.start_orchestration("crowd-1", "Crowd", 6)
        assert client.wait_for_orchestration("crowd-1").output == list(range(6))
        assert overlap() == 1

    def test_is_off_by_default(self, client, start_runtime, overlap):
        """Without it a session's activities share the worker's slots."""
        start_runtime(worker_concurrency=4)
        client.start_orchestration("crowd-1", "Crowd", 6)
        client.wait_for_orchestration("crowd-1")
        assert overlap() > 1

    def test_does_not_hold_other_sessions_up(self, client, program, start_runtime, gate):
        """Another session's activities run meanwhile."""
        start_runtime(serial_sessions=True)
        client.start_orchestration("holding-1", "Holding", "held")
        gate.wait_entered()
        client.start_orchestration("notes-1", "Notes", "other")
        assert client.wait_for_orchestration("notes-1", 10_000).status == "Completed"


@pytest.mark.parametrize("lease_ms", [50, 999, 30_000])
def test_leases_are_renewed_before_they_end(backend, settings, lease_ms):
    """However short SESSION_LEASE_MS is: a lease that has run out is not renewed, its session may have moved."""
    settings.DUROXIDE = {**settings.DUROXIDE, "SESSION_LEASE_MS": lease_ms}
    assert Runtime(using=backend).config.session_renewal_ms <= lease_ms / 2


def test_an_idle_time_below_the_renewal_is_refused(backend):
    """Sessions would be lost while their activities run: refused when the runtime is made."""
    with pytest.raises(ConfigurationError, match="must exceed the lease renewal interval"):
        Runtime(options=RuntimeOptions(session_idle_timeout_ms=1_000, worker_lock_timeout_ms=30_000), using=backend)


def _own(alias, session, owner, *, for_ms):
    from duroxide_django.storage.database import Database

    now = Database(alias).now
    with connections[alias].cursor() as cursor:
        cursor.execute(
            "INSERT INTO duroxide_session (session_id, owner, lease_until_ms, last_activity_ms) "
            f"VALUES (%s, %s, {now} + {for_ms}, {now})",
            [session, owner],
        )


def _expired(alias, session):
    from duroxide_django.storage.database import Database

    return Session.objects.using(alias).get(session_id=session).lease_until_ms < Database(alias).now_ms()
