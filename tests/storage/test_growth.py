"""What a turn does twice as often costs twice as much, not four times: every statement, under the loop's planner."""

from __future__ import annotations

import pytest

from duroxide_django import Client
from duroxide_django.storage import chunks
from duroxide_django.storage.database import Database
from tests.runtime.program import work
from tests.storage.plans import effort

#: How many of each thing a turn does; the costs of the second are compared with those of the first.
FEW, MANY = 100, 400
#: What costs less than this, for MANY, is no matter: whole pages of an index, or a plan's fixed part.
FREE = 3_000


@pytest.fixture(autouse=True)
def workflows(program):
    program.activity("Nothing")(lambda ctx, input: None)

    @program.orchestration("Child")
    def child(ctx, input):
        yield ctx.wait_for_event("never")

    @program.orchestration("Activities")
    def activities(ctx, n):
        yield ctx.race(
            ctx.wait_for_event("stop"), *(ctx.schedule_activity("Nothing", i).with_tag("elsewhere") for i in range(n))
        )

    @program.orchestration("Timers")
    def timers(ctx, n):
        yield ctx.race(ctx.wait_for_event("stop"), *(ctx.schedule_timer(3_600_000 + i) for i in range(n)))

    @program.orchestration("Children")
    def children(ctx, n):
        prefix = ctx.instance_id
        yield ctx.race(
            ctx.wait_for_event("stop"),
            *(ctx.schedule_sub_orchestration_with_id("Child", f"{prefix}-{i}", i) for i in range(n)),
        )

    @program.orchestration("Detached")
    def detached(ctx, n):
        for i in range(n):
            yield ctx.start_orchestration("Child", f"{ctx.instance_id}-{i}", i)
        yield ctx.wait_for_event("stop")

    @program.orchestration("Taken")
    def taken(ctx, n):
        ids = [f"{ctx.instance_id}-{i}" for i in range(n)]
        for name in ids:
            yield ctx.start_orchestration("Child", name, 0)
        yield ctx.all([ctx.schedule_sub_orchestration_with_id("Child", name, 0) for name in ids])
        yield ctx.wait_for_event("stop")

    @program.orchestration("Events")
    def events(ctx, n):
        yield ctx.wait_for_event("stop")
        yield ctx.all([ctx.wait_for_event("stop") for _ in range(n)])

    @program.orchestration("Messages")
    def queue_messages(ctx, n):
        yield ctx.wait_for_event("stop")
        for _ in range(n):
            yield ctx.dequeue_event("box")

    @program.orchestration("Local")
    def local(ctx, n):
        yield ctx.wait_for_event("stop")
        yield ctx.all([ctx.schedule_activity("Nothing", i) for i in range(n)])


def costs(program, backend, monkeypatch, name, n):
    """Return what each statement of a worker costs that runs an orchestration which does something ``n`` times."""
    client = Client(using=backend)
    worker = program.dispatcher(slots=2_000)
    instance = f"{name}-{n}"
    database = Database(backend)
    # The planner's statistics are from a quiet time, as they are when much comes at once.
    for table in ("instance", "message", "activity_task", "queue_message", "kv", "history", "execution"):
        database.execute(f"ANALYZE duroxide_{table}")
    with effort(database) as found:
        client.start_orchestration(instance, name, n)
        work(worker)
        if name in ("Events", "Messages"):
            for number in range(n):
                if name == "Events":
                    client.raise_event(instance, "stop", number)
                else:
                    client.enqueue_event(instance, "box", number)
            work(worker)
        client.raise_event(instance, "stop")
        work(worker)
    worker.cache.clear()
    return found()


@pytest.mark.parametrize(
    "name", ["Activities", "Timers", "Children", "Detached", "Taken", "Events", "Messages", "Local"]
)
def test_a_turn_that_does_more_costs_as_much_more(program, backend, monkeypatch, name):
    monkeypatch.setattr(chunks, "ROWS", 40)
    few, many = (costs(program, backend, monkeypatch, name, n) for n in (FEW, MANY))
    assert max(many.values()) > MANY
    factor = 1.5 * MANY / FEW
    steep = {sql: (few.get(sql, 0), cost) for sql, cost in many.items() if cost > max(FREE, factor * few.get(sql, 0))}
    assert not steep
