"""What waiting costs: looks as rare as the caller says, and one connection for all waits that can listen."""

from __future__ import annotations

import asyncio
import contextlib
import threading

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.db import connections

from duroxide_django import Client, WaitTimeout, change_listener, waiting

MANY = 12
#: For what must not be what ends a wait, in seconds.
NEVER_S = 1_000.0


@pytest.fixture(autouse=True)
def workflows(program):
    @program.orchestration("Waiting")
    def waits(ctx, input):
        stage = yield ctx.wait_for_event("stage")
        ctx.set_custom_status(stage)
        ctx.set_kv_value("stage", stage)
        return (yield ctx.wait_for_event("go"))


@pytest.fixture
def only_postgres(backend):
    if backend == "sqlite":
        pytest.skip("SQLite can't notify")


@pytest.fixture
def only_hints(only_postgres, monkeypatch):
    """Nothing but a hint tells of a change."""
    monkeypatch.setattr(change_listener, "COMPARE_S", NEVER_S)
    monkeypatch.setattr(change_listener, "_COMPARE_SOON_S", NEVER_S)
    monkeypatch.setattr(waiting, "_SELDOM_S", NEVER_S)


@contextlib.contextmanager
def counted(alias):
    """Count the statements of this thread."""
    sent = []

    def count(execute, sql, *arguments):
        sent.append(sql)
        return execute(sql, *arguments)

    with connections[alias].execute_wrapper(count):
        yield sent


@pytest.fixture
def backends_of(backend):
    """Return how many connections the test's database has."""

    def count():
        with connections[backend].cursor() as cursor:
            cursor.execute("SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database()")
            return cursor.fetchone()[0]

    return count


def watched_by(runtime):
    return len(runtime._loop.dispatcher.watched._until)


class Waiters:
    """Threads, each with a wait of its own."""

    def __init__(self, alias, ids, wait):
        self.found = {}
        self.threads = [threading.Thread(target=self._wait, args=(alias, name, wait)) for name in ids]
        for thread in self.threads:
            thread.start()

    def _wait(self, alias, name, wait):
        try:
            self.found[name] = wait(Client(using=alias), name)
        finally:
            connections.close_all()

    def join(self):
        for thread in self.threads:
            thread.join(30)
        return self.found


@pytest.fixture
def ids(client, start_runtime):
    """Return the ids of waiting instances, and the runtime that serves them."""

    def start(count=MANY):
        runtime = start_runtime()
        return client.start_many([(f"waiting-{number}", "Waiting", None) for number in range(count)]), runtime

    return start


def test_looks_no_more_often_than_the_interval_says(client, backend, settings):
    """Without hints a wait looks often at first, soon only at the interval."""
    settings.DUROXIDE = {**settings.DUROXIDE, "NOTIFY": False}
    client.start_orchestration("waiting-1", "Waiting")
    with counted(backend) as sent:
        assert client.wait_for_status_change("waiting-1", 0, poll_interval_ms=1_000, timeout_ms=1_000) is None
    assert len(sent) <= 20


def test_a_long_wait_does_not_look_while_it_listens(client, backend, only_postgres):
    """With hints the looks stop after a moment."""
    client.start_orchestration("waiting-1", "Waiting")
    with counted(backend) as sent, pytest.raises(WaitTimeout):
        client.wait_for_orchestration("waiting-1", 1_500)
    assert len(sent) <= 60


def test_all_waits_of_a_process_share_a_connection(client, backend, ids, only_hints, backends_of, wait_until):
    """However many threads wait, one connection is open for it, and hints end the waits."""
    started, runtime = ids()
    wait_until(lambda: len(client.list_instances_by_status("Running")) == MANY)
    before = backends_of()
    waiters = Waiters(backend, started, lambda other, name: other.wait_for_orchestration(name, 30_000).output)
    wait_until(lambda: watched_by(runtime) == MANY)
    wait_until(lambda: backends_of() <= before + 1)
    for name in started:
        client.raise_event(name, "stage", "begun")
        client.raise_event(name, "go", name)
    assert waiters.join() == {name: name for name in started}


@pytest.mark.parametrize(
    ("wait", "expected"),
    [
        (lambda other, name: other.wait_for_status_change(name, 0, 60_000, 30_000).custom_status, "begun"),
        (lambda other, name: other.wait_for_kv_value(name, "stage", 30_000), "begun"),
    ],
    ids=["status", "kv"],
)
def test_hints_tell_of_each_kind_of_change(client, backend, ids, only_hints, wait_until, wait, expected):
    """A custom status and a KV entry end waits as an instance's end does."""
    (name,), runtime = ids(1)
    waiters = Waiters(backend, [name], wait)
    wait_until(lambda: watched_by(runtime))
    client.raise_event(name, "stage", "begun")
    assert waiters.join() == {name: expected}


def test_async_waits_share_it_too(client, backend, ids, only_hints, backends_of, wait_until):
    """Coroutines that wait hold one connection together, besides that of Django's thread."""
    started, runtime = ids()
    before = backends_of()

    async def wait_for_all():
        other = Client(using=backend)
        waits = [asyncio.create_task(other.await_for_orchestration(name, 30_000)) for name in started]
        await asyncio.to_thread(wait_until, lambda: watched_by(runtime) == MANY)
        assert await sync_to_async(backends_of)() <= before + 2
        for name in started:
            await other.araise_event(name, "stage", "begun")
            await other.araise_event(name, "go", name)
        found = [(await wait).output for wait in waits]
        await sync_to_async(connections.close_all)()
        return found

    assert async_to_sync(wait_for_all)() == started


def test_a_change_without_a_hint_is_found(client, backend, ids, only_postgres, settings, wait_until):
    """Workers that send no hints delay a wait by a moment only."""
    settings.DUROXIDE = {**settings.DUROXIDE, "NOTIFY": False}
    (name,), _ = ids(1)
    settings.DUROXIDE = {**settings.DUROXIDE, "NOTIFY": True}
    waiters = Waiters(backend, [name], lambda other, it: other.wait_for_orchestration(it, 30_000).output)
    wait_until(lambda: change_listener.is_listening(backend))
    client.raise_event(name, "stage", "begun")
    client.raise_event(name, "go", "found")
    assert waiters.join() == {name: "found"}


def test_waits_outlive_the_connection_that_they_listen_on(client, backend, ids, only_postgres, wait_until):
    """Backends that are terminated end no wait."""
    (name,), _ = ids(1)
    waiters = Waiters(backend, [name], lambda other, it: other.wait_for_orchestration(it, 30_000).output)
    wait_until(lambda: change_listener.is_listening(backend))
    with connections[backend].cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    wait_until(lambda: not change_listener.is_listening(backend))
    client.raise_event(name, "stage", "begun")
    client.raise_event(name, "go", "found")
    assert waiters.join() == {name: "found"}
