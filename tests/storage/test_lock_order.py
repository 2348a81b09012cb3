"""All that locks rows of instances, each against each: nobody ends in a deadlock on PostgreSQL."""

from __future__ import annotations

import random
import threading
import time
from contextlib import suppress

import pytest
from django.db import DatabaseError, connections, transaction

from duroxide_django import Client
from duroxide_django.exceptions import DuroxideError
from duroxide_django.models import Execution, Instance, Message
from duroxide_django.results import PruneOptions

pytestmark = pytest.mark.parametrize("backend", ["postgres"], indirect=True)

IDS = [f"i{number}" for number in range(2)]


def _each(call):
    """Return a path that calls for each instance, in the order of their ids, in one transaction."""

    def path(client):
        for name in IDS:
            # Gone, ended, or of another state: others got there first.
            with suppress(DuroxideError), transaction.atomic(using=client.db.alias):
                call(client, name)

    return path


def _start_in_any_order(client):
    names = [f"new{number}" for number in range(30)]
    random.shuffle(names)
    with suppress(DuroxideError):
        client.start_many([(name, "Waits", None) for name in names])


PATHS = {
    "start_many": _start_in_any_order,
    "cancel": _each(lambda client, name: client.cancel_instance(name)),
    "cancel_force": _each(lambda client, name: client.cancel_instance(name, force=True)),
    "pause": _each(lambda client, name: client.pause_instance(name)),
    "resume": _each(lambda client, name: client.resume_instance(name)),
    "complete_activity": _each(lambda client, name: client.complete_activity(name, 2, None)),
    "answer_and_cancel": _each(
        lambda client, name: (client.complete_activity(name, 3, None), client.cancel_instance(name))
    ),
    "hurry_and_cancel": _each(
        lambda client, name: (client.retry_activity_now(name, 4), client.cancel_instance(name, force=True))
    ),
    "rewind": _each(lambda client, name: client.rewind_instance(name, 1)),
    "raise_event": _each(lambda client, name: client.raise_event(name, "e", 1)),
    "prune_executions": lambda client: client.prune_executions_bulk(None, PruneOptions(keep_last=1)),
    "delete": _each(lambda client, name: client.delete_instance(name, force=True)),
    "restart": _each(lambda client, name: client.start_orchestration(name, "Waits", on_conflict="restart_terminal")),
}


@pytest.fixture
def client(backend, program):
    @program.orchestration("Waits")
    def waits(ctx, _):
        yield ctx.all([ctx.schedule_activity("NobodyHasIt", None) for _ in range(4)])

    return Client(using=backend)


def _together(backend, *paths):
    """Run paths at once, each in a thread; returns what went wrong."""
    errors = []
    barrier = threading.Barrier(len(paths))

    def run(path):
        client = Client(using=backend)
        try:
            barrier.wait(10)
            with transaction.atomic(using=backend):
                path(client)
        except DatabaseError as exc:
            errors.append(exc)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run, args=[path]) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


@pytest.mark.parametrize("first", sorted(PATHS))
def test_no_two_paths_end_in_a_deadlock(first, backend, program, client):
    for second in sorted(PATHS):
        if second < first:
            continue
        for name in IDS:
            client.start_orchestration(name, "Waits", on_conflict="ignore")
        program.drain(jump=False)
        errors = _together(backend, PATHS[first], PATHS[second])
        assert errors == [], (first, second)
        client.delete_instance_bulk()


@pytest.fixture
def waiting(backend):
    """Run something in a thread and return once it waits for a lock; it ends with the test."""
    threads = []

    def waiting(call):
        pids = []

        def run():
            try:
                with connections[backend].cursor() as cursor:
                    cursor.execute("SELECT pg_backend_pid()")
                    pids.append(cursor.fetchone()[0])
                with suppress(DuroxideError), transaction.atomic(using=backend):
                    call(Client(using=backend))
            finally:
                connections.close_all()

        thread = threading.Thread(target=run)
        threads.append(thread)
        thread.start()
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with connections[backend].cursor() as cursor:
                cursor.execute("SELECT 1 FROM pg_locks WHERE NOT granted AND pid = ANY(%s)", [pids])
                if cursor.fetchone():
                    return
            time.sleep(0.005)
        raise AssertionError("it waits for nothing")

    yield waiting
    for thread in threads:
        thread.join(20)


@pytest.mark.parametrize("name", sorted(PATHS.keys() - {"start_many", "raise_event"}))
def test_who_waits_for_an_instance_has_locked_nothing_of_it(name, backend, program, client, waiting, holder):
    """Whoever has locked the instance goes on to its messages, activities and executions."""
    client.start_orchestration("i0", "Waits")
    program.drain(jump=False)
    client.raise_event("i0", "e", 1)
    key = Instance.objects.using(backend).get(instance_id="i0").pk
    # As a parked instance with hidden messages and an ended execution.
    Instance.objects.using(backend).update(lease_until_ms=2**50, blocked='{"reason": "paused"}')
    Message.objects.using(backend).update(visible_at_ms=2**50)
    if name in ("restart", "prune_executions"):
        Instance.objects.using(backend).update(status="Completed", current_execution_id=3)
        Execution.objects.using(backend).update(status="Completed")
    holder.execute("SELECT 1 FROM duroxide_instance FOR UPDATE")
    waiting(PATHS[name])
    for table in ("duroxide_message", "duroxide_activity_task", "duroxide_execution", "duroxide_history"):
        assert holder.execute(f"SELECT 1 FROM {table} WHERE instance_id = %s FOR UPDATE NOWAIT", [key]).fetchall()
    holder.rollback()


def test_instances_are_inserted_in_the_order_of_their_ids(client, waiting, holder, backend):
    insert = """INSERT INTO duroxide_instance (instance_id, name, status, is_cancelled, current_execution_id,
        last_event_id, turns, custom_status_version, created_ms, updated_ms, lease_until_ms, attempts)
        VALUES (%s, 'Waits', 'Running', false, 1, 0, 0, 0, 0, 0, 0, 0)"""
    holder.execute(insert, ["a"])
    waiting(lambda client: client.start_many([("z", "Waits", None), ("a", "Waits", None)]))
    holder.execute(insert, ["z"])
    holder.rollback()
