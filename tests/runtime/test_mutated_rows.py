"""Rows that somebody changed by hand: whatever stands in a column, a worker goes on with everything else."""

from __future__ import annotations

import pytest
from django.db import DatabaseError, connections, models, transaction

from duroxide_django.models import (
    ActivityTask,
    Execution,
    HistoryEvent,
    Instance,
    KeyValue,
    Message,
    QueueMessage,
    Session,
    Worker,
)

#: The tables with rows of an instance, and the column that leads to it.
OF_INSTANCE = {
    Instance: "id",
    Execution: "instance_id",
    HistoryEvent: "instance_id",
    Message: "instance_id",
    ActivityTask: "instance_id",
    QueueMessage: "instance_id",
    KeyValue: "instance_id",
}
TEXTS = ["", "x", "[]", "null", "[1, 2]", '{"reason": 5, "tries": "x"}', '{"activities": 5, "orchestrations": [1]}']
NUMBERS = [-1, 0, 7, 2**31 - 1, 2**63 - 1]
#: What SQLite takes in any column.
OTHERS = [b"\xff\x00", "x", 1.5, None]


def values_for(backend, field):
    texts = isinstance(field, models.CharField | models.TextField)
    return [*(TEXTS if texts else NUMBERS), *(OTHERS if backend == "sqlite" else [None])]


def columns_of(model):
    return [field for field in model._meta.concrete_fields if not field.primary_key]


@pytest.fixture(autouse=True)
def workflows(program):
    program.activity("Work")(lambda ctx, value: value)

    @program.orchestration("Victim")
    def victim(ctx, value):
        ctx.set_kv_value("key", "value")
        yield ctx.all([ctx.schedule_activity("Later", 1), ctx.wait_for_event("go")])
        yield ctx.dequeue_event("inbox")
        return "done"

    @program.orchestration("Healthy")
    def healthy(ctx, value):
        for number in range(3):
            yield ctx.schedule_activity("Work", number)
        return "done"


@pytest.fixture
def mutate(backend):
    """Write a value into a column as somebody could by hand; returns whether the database took it."""

    def mutate(model, field, value, where, key):
        try:
            with transaction.atomic(using=backend), connections[backend].cursor() as cursor:
                cursor.execute(
                    f"UPDATE {model._meta.db_table} SET {field.column} = %s WHERE {where} = %s", [value, key]
                )
                return cursor.rowcount > 0
        except (DatabaseError, OverflowError):
            return False

    return mutate


@pytest.mark.parametrize("model", OF_INSTANCE, ids=lambda model: model.__name__)
def test_of_instances_keep_no_worker_from_the_others(
    model, client, program, start_runtime, mutate, backend, wait_until
):
    """Each column with each value, all at once, beside healthy instances."""
    cases = [(field, value) for field in columns_of(model) for value in values_for(backend, field)]
    names = [f"victim-{number}" for number in range(len(cases))]
    client.start_many([(name, "Victim", 1) for name in names])
    for name in names:
        client.enqueue_event(name, "inbox", 1)
    program.drain(jump=False)
    for name in names:
        client.raise_event(name, "go")
    keys = dict(Instance.objects.using(backend).values_list("instance_id", "id"))
    # Nobody has run it until now, so that its rows are there.
    program.activity("Later")(lambda ctx, value: value)
    took = [
        mutate(model, field, value, OF_INSTANCE[model], keys[name])
        for name, (field, value) in zip(names, cases, strict=True)
    ]
    assert sum(took) > len(cases) / 4
    start_runtime()
    for number in range(10):
        client.start_orchestration(f"healthy-{number}", "Healthy")
        assert client.wait_for_orchestration(f"healthy-{number}", 20_000).output == "done"
    if model is ActivityTask:
        set_aside = ActivityTask.objects.using(backend).filter(last_error__startswith="CorruptRow: ")
        wait_until(set_aside.exists)


@pytest.mark.parametrize("model", [Worker, Session], ids=lambda model: model.__name__)
def test_of_workers_and_sessions_keep_no_worker_from_its_work(model, client, start_runtime, mutate, backend, program):
    """What other workers say of themselves is information only."""
    cases = [(field, value) for field in columns_of(model) for value in values_for(backend, field)]
    moment = 2**53
    for number, (field, value) in enumerate(cases):
        key = f"row-{number}"
        if model is Worker:
            Worker.objects.using(backend).create(
                id=key, host="h", pid=1, started_ms=1, beat_ms=moment, options="{}", handlers="{}"
            )
        else:
            Session.objects.using(backend).create(
                session_id=key, owner="o", lease_until_ms=number % 2, last_activity_ms=1
            )
        mutate(model, field, value, model._meta.pk.column, key)

    @program.orchestration("InSession")
    def in_session(ctx, value):
        return (yield ctx.schedule_activity_on_session("Work", value, value))

    start_runtime()
    client.start_many([(f"row-{number}", "InSession", f"row-{number}") for number in range(len(cases))])
    client.start_orchestration("healthy", "Healthy")
    assert client.wait_for_orchestration("healthy", 20_000).output == "done"
    client.examine_health()
