"""Workflows to rewind and fork, and looks at what became of them."""

from __future__ import annotations

import pytest
from django.db import connections

from duroxide_django import ActivityFailed
from tests.runtime.program import TABLES


@pytest.fixture
def calls():
    return []


@pytest.fixture
def flows(program, calls):
    """Register workflows that use every feature."""

    @program.activity("Work")
    def work(ctx, value):
        calls.append(value)
        return f"{value} done"

    @program.activity("Flaky")
    def flaky(ctx, value):
        calls.append("flaky")
        raise ValueError("always")

    @program.orchestration("Child")
    def child(ctx, value):
        return (yield ctx.schedule_activity("Work", value))

    @program.orchestration("Grandparent")
    def grandparent(ctx, value):
        return (yield ctx.schedule_sub_orchestration("Child", value))

    @program.orchestration("Listener")
    def listener(ctx, value):
        return (yield ctx.wait_for_event("Go"))

    @program.orchestration("All")
    def everything(ctx, value):
        if value == 1:
            ctx.set_kv_value("kept", "from the first execution")
            yield ctx.schedule_activity("Work", "first execution")
            return (yield ctx.continue_as_new(2))
        found = []
        ctx.set_custom_status("begun")
        ctx.set_kv_value("step", "1")
        found.append((yield ctx.schedule_activity("Work", "one")))
        yield ctx.utc_now()
        found.append((yield ctx.all([ctx.schedule_activity("Work", letter) for letter in "abc"])))
        ctx.set_kv_value("step", "2")
        ctx.set_custom_status("waiting")
        found.append((yield ctx.wait_for_event("Event")))
        found.append((yield ctx.dequeue_event("queue")))
        yield ctx.schedule_timer(1_000)
        found.append((yield ctx.schedule_sub_orchestration("Grandparent", "child")))
        try:
            yield ctx.schedule_activity_with_retry("Flaky", None, {"max_attempts": 2, "initial_delay_ms": 100})
        except ActivityFailed as exc:
            found.append(str(exc))
        winner = yield ctx.race(ctx.schedule_activity("Work", "race"), ctx.schedule_timer(3_600_000))
        found.append(winner["index"])
        ctx.clear_kv_value("step")
        found.append((yield ctx.dequeue_event("queue")))
        ctx.set_custom_status("nearly")
        found.append(ctx.get_kv_value("kept"))
        return found

    return program


RESULT = [
    "one done",
    [{"ok": f"{letter} done"} for letter in "abc"],
    "event",
    "first",
    "child done",
    "ValueError: always",
    0,
    "second",
    "from the first execution",
]


def run_all(client, flows):
    client.start_orchestration("all", "All", 1)
    flows.drain()
    client.raise_event("all", "Event", "event")
    client.enqueue_event("all", "queue", "first")
    client.enqueue_event("all", "queue", "second")
    client.enqueue_event("all", "queue", "third, not asked for")
    flows.drain()
    assert client.get_status("all").output == RESULT


def kinds(client, instance_id="all", execution_id=2):
    return [event.kind for event in client.read_execution_history(instance_id, execution_id)]


def rows_of(alias, key):
    found = {}
    with connections[alias].cursor() as cursor:
        for table in TABLES:
            if table != "duroxide_session":
                column = "id" if table == "duroxide_instance" else "instance_id"
                cursor.execute(f"SELECT * FROM {table} WHERE {column} = %s", [key])
                found[table] = sorted(cursor.fetchall(), key=repr)
    return found


def key_of(alias, instance_id):
    with connections[alias].cursor() as cursor:
        cursor.execute("SELECT id FROM duroxide_instance WHERE instance_id = %s", [instance_id])
        return cursor.fetchone()[0]


@pytest.fixture
def shop(program):
    """An order: charge, wait for approval, ship; it counts what was done and keeps a status and a KV entry."""
    done = []

    @program.activity("Charge")
    def charge(ctx, order):
        done.append("charge")
        return f"receipt {done.count('charge')}"

    @program.activity("Ship")
    def ship(ctx, order):
        done.append("ship")
        return "shipped"

    @program.orchestration("Order")
    def order(ctx, order):
        ctx.set_custom_status("charging")
        receipt = yield ctx.schedule_activity("Charge", order)
        ctx.set_custom_status("charged")
        ctx.set_kv_value("receipt", receipt)
        answer = yield ctx.wait_for_event("approved")
        yield ctx.schedule_activity("Ship", order)
        return [receipt, answer]

    return done


def event_of(client, instance_id, kind):
    """The id of the last event before the first of this kind."""
    history = client.read_execution_history(instance_id, client.list_executions(instance_id)[-1])
    return next(event.event_id for event in history if event.kind == kind) - 1
