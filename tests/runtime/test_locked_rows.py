"""A transaction elsewhere that keeps rows locked: its instances wait, all others go on as if nothing were."""

from __future__ import annotations

import threading
import time

import pytest
from django.db import connections, transaction

from duroxide_django import Client
from duroxide_django.models import ActivityTask, Instance

pytestmark = pytest.mark.parametrize("backend", ["postgres"], indirect=True)

#: Far more than the others need, far less than the locks are held for.
AT_ONCE_S = 2.0


@pytest.fixture
def client(backend):
    return Client(using=backend)


@pytest.fixture(autouse=True)
def functions(program):
    @program.activity("Step")
    def step(ctx, value):
        return value

    @program.orchestration("Other")
    def other(ctx, _):
        return (yield ctx.schedule_activity("Step", "done"))


@pytest.fixture
def others_go_on(client):
    """Assert that instances without a locked row do not wait."""

    def check(count=3):
        for number in range(count):
            began = time.monotonic()
            name = client.start_orchestration(f"other-{number}-{time.monotonic_ns()}", "Other")
            assert client.wait_for_orchestration(name, timeout_ms=10_000).output == "done"
            assert time.monotonic() - began < AT_ONCE_S

    return check


@pytest.fixture
def lock(holder):
    """Lock the rows of an instance, or of its activities, until ``holder`` ends its transaction."""

    def lock(instance_id, table="duroxide_instance"):
        column = "id" if table == "duroxide_instance" else "instance_id"
        holder.execute(
            f"SELECT 1 FROM {table} WHERE {column} = "
            "(SELECT id FROM duroxide_instance WHERE instance_id = %s) FOR UPDATE",
            [instance_id],
        )

    return lock


def test_instance_whose_turn_is_computed(program, client, start_runtime, others_go_on, lock, holder, backend):
    turns = []

    @program.orchestration("Held")
    def held(ctx, _):
        turns.append(1)
        if len(turns) == 1:
            lock("held")  # After the claim, before the commit.
        return (yield ctx.schedule_activity("Step", "kept"))

    start_runtime()
    client.start_orchestration("held", "Held")
    while not turns:
        time.sleep(0.01)
    others_go_on()
    assert client.get_status("held").status == "Running"
    holder.rollback()
    assert client.wait_for_orchestration("held", timeout_ms=10_000).output == "kept"
    assert Instance.objects.using(backend).get(instance_id="held").attempts == 0


def test_activity_that_ends(program, client, start_runtime, others_go_on, lock, holder, gate):
    runs = []

    @program.activity("Locked")
    def locked(ctx, _):
        runs.append(1)
        lock("held", "duroxide_activity_task")
        lock("held")
        gate.entered.release()
        return "kept"

    @program.orchestration("Held")
    def held(ctx, _):
        return (yield ctx.schedule_activity("Locked", None))

    start_runtime()
    client.start_orchestration("held", "Held")
    gate.wait_entered()
    others_go_on()
    holder.rollback()
    assert client.wait_for_orchestration("held", timeout_ms=10_000).output == "kept"
    assert runs == [1]


def test_instance_that_a_view_deletes(program, client, start_runtime, others_go_on, gate, backend):
    @program.activity("Slow")
    def slow(ctx, _):
        gate.wait()

    @program.orchestration("Doomed")
    def doomed(ctx, _):
        yield ctx.schedule_activity("Slow", None)

    start_runtime()
    client.start_orchestration("doomed", "Doomed")
    gate.wait_entered()
    deleted, checked = threading.Event(), threading.Event()

    def view():
        try:
            with transaction.atomic(using=backend):
                client.delete_instance("doomed", force=True)
                deleted.set()
                assert checked.wait(30)
        finally:
            connections.close_all()

    thread = threading.Thread(target=view)
    thread.start()
    try:
        assert deleted.wait(10)
        gate.open()  # The activity ends while its row is locked.
        others_go_on()
    finally:
        checked.set()
        thread.join()
    others_go_on(1)
    assert not ActivityTask.objects.using(backend).exists()


def test_child_whose_id_an_open_transaction_inserts(program, client, start_runtime, others_go_on, backend):
    @program.orchestration("Parent")
    def parent(ctx, _):
        return (yield ctx.schedule_sub_orchestration_with_id("Other", "taken"))

    start_runtime()
    inserted, checked = threading.Event(), threading.Event()

    def view():
        try:
            with transaction.atomic(using=backend):
                client.start_orchestration("taken", "Other")
                inserted.set()
                assert checked.wait(30)
                transaction.set_rollback(True, using=backend)
        finally:
            connections.close_all()

    thread = threading.Thread(target=view)
    thread.start()
    try:
        assert inserted.wait(10)
        client.start_orchestration("parent", "Parent")
        others_go_on(6)
    finally:
        checked.set()
        thread.join()
    assert client.wait_for_orchestration("parent", timeout_ms=10_000).output == "done"
