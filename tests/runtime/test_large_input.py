"""Large, wide input: a worker reads, computes and writes in bounded pieces, and others are served meanwhile."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import replace

import psycopg
import pytest
from django.db import OperationalError, connections

from duroxide_django.engine.outcome import Completed
from duroxide_django.models import HistoryEvent, Instance
from duroxide_django.storage import activities, chunks, commits, turns
from duroxide_django.storage.activities import Wanted
from duroxide_django.storage.database import Database
from duroxide_django.testing import virtual_clock
from tests.runtime.program import take_for_quick, work

KB = 1024
BLOB = "x" * 20 * KB


@pytest.fixture(autouse=True)
def workflows(program):
    program.activity("Echo")(lambda ctx, input: input)

    @program.orchestration("Events")
    def events(ctx, n):
        seen = 0
        for _ in range(n):
            seen += len((yield ctx.wait_for_event("go")))
        return seen

    @program.orchestration("Length")
    def length(ctx, input):
        return len(input)

    @program.orchestration("Wait")
    def wait(ctx, input):
        return len((yield ctx.wait_for_event("go")))

    @program.orchestration("Wide")
    def wide(ctx, n):
        results = yield ctx.all([ctx.schedule_activity("Echo", BLOB) for _ in range(n)])
        return sum(len(result["ok"]) for result in results)


@pytest.fixture
def sizes(monkeypatch):
    """Record how many bytes of messages each turn and each batch of a worker had."""
    seen = []
    read = turns.read_messages

    def watch(*arguments):
        batches, left = read(*arguments)
        seen.append([sum(len(message.payload) for message in batch) for batch in batches.values()])
        return batches, left

    monkeypatch.setattr(turns, "read_messages", watch)
    return seen


def test_a_flood_of_large_events_is_taken_turn_by_turn(client, program, sizes):
    """And an instance whose event came after them is served in the first batch."""
    client.start_many([("flooded", "Events", 30), ("bystander", "Wait", None)])
    worker = program.dispatcher(batch_bytes=100 * KB)
    work(worker)
    sizes.clear()
    for _ in range(30):
        client.raise_event("flooded", "go", BLOB)
    client.raise_event("bystander", "go", "hi")
    worker.claims = True
    worker.iterate()
    worker.iterate()
    assert client.get_status("bystander").output == 2
    work(worker)
    assert client.get_status("flooded").output == 30 * len(BLOB)
    assert max(map(max, filter(None, sizes))) <= 50 * KB
    assert max(map(sum, sizes)) <= 100 * KB
    assert not Instance.objects.using(client.db.alias).exclude(attempts=0).exists()


@pytest.mark.parametrize("quick", [False, True])
def test_starts_with_large_inputs_are_taken_in_bounded_batches(client, program, sizes, quick):
    names = [f"large-{number}" for number in range(20)]
    worker = program.dispatcher(batch_bytes=100 * KB)
    if quick:
        worker.claimer.fresh_ms = 3_600_000
        take_for_quick(worker, "Length")
    client.start_many([(name, "Length", BLOB) for name in names])
    work(worker)
    assert [client.get_status(name).output for name in names] == [len(BLOB)] * 20
    assert sum(map(len, sizes)) == 20
    assert max(map(sum, sizes)) <= 100 * KB


def test_one_message_beyond_the_bounds_is_taken_alone(client, program):
    worker = program.dispatcher(batch_bytes=KB)
    client.start_many([("one", "Length", BLOB), ("two", "Length", BLOB)])
    work(worker)
    assert client.get_status("one").output == client.get_status("two").output == len(BLOB)


def test_histories_are_replayed_in_bounded_batches(client, program, backend, monkeypatch):
    """Instances without a live execution: what their replays read together is bounded, and each is served."""

    @program.orchestration("Two")
    def two(ctx, input):
        yield ctx.wait_for_event("go")
        yield ctx.wait_for_event("go")

    names = [f"cold-{number}" for number in range(10)]
    client.start_many([(name, "Two", BLOB) for name in names])
    work(program.dispatcher())
    read = turns.read_histories
    replayed = []

    def watch(db, executions):
        histories = read(db, executions)
        replayed.append(sum(len(data) for history in histories.values() for *_, data in history))
        return histories

    monkeypatch.setattr(turns, "read_histories", watch)
    for name in names:
        client.raise_event(name, "go")
    work(program.dispatcher(batch_bytes=50 * KB))
    assert sum(replayed) > 10 * len(BLOB)
    assert max(replayed) <= 50 * KB
    assert set(Instance.objects.using(backend).values_list("turns", "attempts")) == {(2, 0)}


def test_inputs_are_fetched_in_bounded_batches(client, program, backend):
    """The activities that exceed the bytes stay in the queue as they were."""
    client.start_orchestration("wide", "Wide", 10)
    worker = program.dispatcher(slots=0)
    work(worker)
    wanted = Wanted(
        limit=10, names=["Echo"], untagged=True, tags=[], owner="worker", session_lease_ms=1_000,
        sessions_in_flight=[], new_sessions=1, max_bytes=50 * KB,
    )  # fmt: skip
    database = Database(backend)
    tasks = activities.fetch(database, wanted, lease_ms=60_000, worker="worker")
    assert [json.loads(task.input) for task in tasks] == [BLOB, BLOB]
    others = activities.fetch(database, replace(wanted, max_bytes=10**9), lease_ms=60_000, worker="worker")
    assert len(others) == 8
    assert {task.attempts for task in others} == {1}
    activities.release(database, [*tasks, *others])
    work(program.dispatcher(batch_bytes=50 * KB))
    assert client.get_status("wide").output == 10 * len(BLOB)


def test_what_turns_write_is_bounded(client, program, backend, monkeypatch):
    """No statement grows with what a turn schedules, and a batch ends when it has much to write."""
    monkeypatch.setattr(chunks, "CHARS", 60 * KB)
    client.start_many([(f"wide-{number}", "Wide", 10) for number in range(8)])
    sent = []

    def watch(execute, sql, parameters, *rest):
        sent.append(len(repr(parameters)))
        return execute(sql, parameters, *rest)

    worker = program.dispatcher(batch_bytes=100 * KB)
    batches = []
    write = commits.commit
    monkeypatch.setattr(commits, "commit", lambda db, done, **how: batches.append(len(done)) or write(db, done, **how))
    with connections[backend].execute_wrapper(watch):
        work(worker)
    assert {client.get_status(f"wide-{number}").output for number in range(8)} == {10 * len(BLOB)}
    assert max(sent) < 2 * 60 * KB
    assert max(batches) <= 3


def broken(backend):
    """Return what a connection that breaks under a statement raises."""
    error = OperationalError("server closed the connection unexpectedly")
    error.__cause__ = psycopg.OperationalError("server closed the connection unexpectedly")
    if backend == "sqlite":
        error.__cause__ = sqlite3.OperationalError("out of memory")
        error.__cause__.sqlite_errorcode = 7
    return error


def drive(worker, times=200):
    """Let a worker go on as its loop does after failures; return when nothing is left to do."""
    for _ in range(times):
        worker.claims = worker.fetches = True
        try:
            if not (worker.iterate() | worker.slots.work()):
                return
        except OperationalError:
            worker.reset()


def test_a_turn_that_breaks_the_connection_ends_as_poison_alone(client, program, backend, monkeypatch):
    """Batches get smaller until it is alone; then its attempts count. The others are served meanwhile."""
    names = [f"fine-{number}" for number in range(20)]
    client.start_many([("bad", "Length", "bad"), *((name, "Length", "fine") for name in names)])
    failed = []
    write = commits.commit

    def break_down(db, done, **how):
        if any(turn.claimed.instance_id == "bad" and isinstance(turn.result.outcome, Completed) for turn in done):
            failed.append(len(done))
            raise broken(backend)
        return write(db, done, **how)

    monkeypatch.setattr(commits, "commit", break_down)
    with virtual_clock() as clock:
        worker = program.dispatcher(batch=20, max_attempts=4)
        drive(worker)
        assert [client.get_status(name).output for name in names] == [4] * 20
        assert "database" in Instance.objects.using(backend).get(instance_id="bad").blocked
        for _ in range(10):
            clock.advance(minutes=2)
            drive(worker)
    status = client.get_status("bad")
    assert status.status == "Failed"
    assert "poison" in status.error
    assert failed[0] == 20
    assert failed[-4:] == [1, 1, 1, 1]


def test_an_outage_costs_no_attempt(client, program, backend, monkeypatch):
    """A batch that fails for another reason than its size is repeated, and the next ones are full again."""
    names = [f"fine-{number}" for number in range(20)]
    client.start_many([(name, "Length", "fine") for name in names])
    failures = [broken(backend)]
    write = commits.commit

    def break_down(db, done, **how):
        if failures:
            raise failures.pop()
        return write(db, done, **how)

    monkeypatch.setattr(commits, "commit", break_down)
    worker = program.dispatcher(batch=20)
    drive(worker)
    assert [client.get_status(name).output for name in names] == [4] * 20
    assert not worker.claimer.size.is_halved
    assert not HistoryEvent.objects.using(backend).filter(kind="OrchestrationFailed").exists()


def test_results_are_committed_in_bounded_batches(client, program, monkeypatch):
    """Completions of this process that exceed the bytes wait for its next transaction."""
    client.start_orchestration("wide", "Wide", 10)
    written = []
    write = commits.commit

    def watch(db, done, **how):
        written.append(sum(len(item.payload) for turn in done for item in turn.finished))
        return write(db, done, **how)

    monkeypatch.setattr(commits, "commit", watch)
    work(program.dispatcher(batch_bytes=50 * KB))
    assert client.get_status("wide").output == 10 * len(BLOB)
    assert sum(written) == 10 * len(json.dumps(BLOB))
    assert max(written) <= 50 * KB


def test_live_executions_are_kept_by_the_size_of_their_payloads(client, program):
    """The one used last stays, however large: its next turn would read all of it again."""
    client.start_many([(f"wait-{number}", "Wait", BLOB) for number in range(10)])
    few, one = program.dispatcher(cache_bytes=100 * KB), program.dispatcher(cache_bytes=KB)
    work(few)
    assert len(few.cache) == 4
    for number in range(10):
        client.raise_event(f"wait-{number}", "other")
    work(one)
    assert len(one.cache) == 1
