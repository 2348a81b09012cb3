"""Design section 8 as a property: random programs over the real tables never get stuck and lose nothing.

DUROXIDE_EXAMPLES=500 looks for new counter-examples; without it the same examples are tried each time.
"""

from __future__ import annotations

import json
import os
from random import Random

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from duroxide_django import RuntimeOptions, TagFilter
from duroxide_django.engine import futures
from duroxide_django.engine.replay import LiveExecution
from duroxide_django.models import Instance, Message, QueueMessage
from duroxide_django.runtime.config import resolve
from duroxide_django.runtime.dispatcher import Dispatcher
from duroxide_django.runtime.metrics import Metrics
from duroxide_django.runtime.slots import InlineSlots
from duroxide_django.storage import turns
from tests.conftest import empty_tables
from tests.engine.programs import programs

EXAMPLES = os.environ.get("DUROXIDE_EXAMPLES")
#: Sessions go on from one drain() to the next.
SAME_WORKER = RuntimeOptions(worker_node_id="node-1", worker_tag_filter=TagFilter.ANY)
LONGER_THAN_LEASES_MS = 31_000

some = settings(
    max_examples=int(EXAMPLES or 12),
    derandomize=EXAMPLES is None,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.generate, Phase.shrink),
)


@pytest.fixture
def world(works):
    def activity(ctx, input):
        if input % 4 == 0:
            raise ValueError(f"{input} is divisible by 4")
        return input

    def child(ctx, input):
        yield ctx.schedule_timer(input % 50)
        if input % 5 == 0:
            raise ValueError(f"{input} is divisible by 5")
        return input

    works.activity(activity, name="x")
    works.activity(activity, name="y")
    works.orchestration(child, name="x")
    works.orchestration(lambda ctx, input: None, name="Audit")
    return works


@some
@given(program=programs(), random=st.integers(0, 2**32).map(Random))
def check_program(world, program, random):
    begin(world, program)
    for _ in range(8):
        world.run(options=SAME_WORKER)
        check_state(world)
        world.clock.advance(ms=random.choice([0, 10, 50]))
        for _ in range(random.randrange(3)):
            disturb(world, random)
    world.finish(options=SAME_WORKER)
    check_rest(world)


@some
@given(program=programs(), random=st.integers(0, 2**32).map(Random))
def check_workers(world, program, random):
    begin(world, program)
    workers = [worker(world) for _ in range(3)]
    for _ in range(60):
        which = random.randrange(len(workers))
        if random.random() < 0.04:
            workers[which] = worker(world)  # The one before died with all that it had in its hands.
        one_step(workers[which])
        world.clock.advance(ms=random.choice([0, 0, 0, 10]))
        if random.random() < 0.2:
            disturb(world, random)
    for _ in range(12):
        world.clock.advance(ms=LONGER_THAN_LEASES_MS)
        world.finish(options=SAME_WORKER)
    check_rest(world)


def worker(world):
    """Return a worker that moves only when it is told to."""
    config = resolve(SAME_WORKER)
    slots = InlineSlots(world.registry, config, world.client.db, lambda: None)
    return Dispatcher(world.registry, config, world.client.db, slots, Metrics())


def one_step(dispatcher):
    dispatcher.claims = dispatcher.fetches = True
    dispatcher.iterate()
    dispatcher.slots.work()


def test_random_programs_never_get_stuck(world):
    """Whatever the program and whatever comes from outside, everything that waits has a reason to."""
    check_program(world)


def test_workers_that_overtake_each_other_and_die_lose_nothing(world):
    """Three workers take steps in any order, each with executions of its own; now and then one dies."""
    check_workers(world)


def begin(world, program):
    empty_tables(world.client.db.alias)
    world.registry.orchestrations.pop("program", None)
    world.orchestration(program, name="program")
    world.client.start_orchestration("p-1", "program", 1)
    world.sent = []


def disturb(world, random):
    what = random.choice(["event", "event", "mail", "mail", "cancel"])
    name, data = random.choice("xy"), random.randrange(1000)
    if what == "event" and world.client.raise_event("p-1", name, data):
        world.sent.append(("ExternalEvent", name, data))
    elif what == "mail" and world.client.enqueue_event("p-1", name, data):
        world.sent.append(("QueueEventDelivered", name, data))
    elif what == "cancel" and random.random() < 0.2:
        world.client.cancel_instance("p-1", "random", force=random.random() < 0.3)


def check_rest(world):
    """See that nothing waits in the queues, and that everything sent was recorded or kept, once and in order."""
    check_state(world)
    assert world.queued() == (0, 0), "somebody should have taken this"
    instance = Instance.objects.using(world.client.db.alias).get(instance_id="p-1")
    kept = QueueMessage.objects.using(world.client.db.alias).filter(instance=instance).order_by("id")
    for queue in "xy":
        sent = [data for kind, name, data in world.sent if (kind, name) == ("QueueEventDelivered", queue)]
        got = arrived(world, instance, "QueueEventDelivered", queue)
        got += [json.loads(message.data) for message in kept if message.queue == queue]
        # What was sent while it was about to end may have met the end.
        assert got == sent[: len(got)]
        assert len(got) == len(sent) or instance.status != "Running"
        raised = [data for kind, name, data in world.sent if (kind, name) == ("ExternalEvent", queue)]
        if instance.status == "Running" and instance.current_execution_id == 1:
            assert arrived(world, instance, "ExternalEvent", queue) == raised


def arrived(world, instance, kind, name):
    """Return the data of recorded arrivals, over all executions."""
    found = []
    for execution_id in range(1, instance.current_execution_id + 1):
        for event in world.history(instance.instance_id, execution_id):
            shown = json.loads(event.data) if event.kind == kind else {}
            found += [shown["data"]] if shown.get("name") == name else []
    return found


def check_state(world):
    """See that each instance that hasn't ended waits for something that can come, and says that it does."""
    alias = world.client.db.alias
    for instance in Instance.objects.using(alias):
        assert instance.blocked is None, instance.blocked
        assert instance.lease_token is None
        if instance.status in ("Completed", "Failed"):
            assert not Message.objects.using(alias).filter(instance=instance).exists()
            continue
        assert instance.attempts == 0
        waits = open_families(world, instance)
        assert waits, f"{instance.instance_id} waits for nothing"
        for family, name in waits:
            if family == futures.CHILD:
                assert Instance.objects.using(alias).get(instance_id=name).status == "Running"
            elif family == futures.TIMER:
                assert Message.objects.using(alias).filter(instance=instance, kind="TimerFired").exists()
            elif family == futures.QUEUE:
                assert not QueueMessage.objects.using(alias).filter(instance=instance, queue=name).exists()
            else:
                # Every activity is served, so none waits; an event may wait for ever.
                assert family == futures.EVENT


def open_families(world, instance):
    """Return what a replay of the instance's stored history waits for."""
    db = world.client.db
    address = [(instance.id, instance.current_execution_id)]
    execution = LiveExecution(
        instance_id=instance.instance_id,
        execution_id=instance.current_execution_id,
        name=instance.name,
        version=instance.version,
        function=world.registry.resolve(instance.name, instance.version)[1],
        kv_base=turns.read_kv_bases(db, address).get(instance.id, {}),
    )
    execution.replay([turns.decode(stored) for stored in turns.read_histories(db, address)[instance.id]])
    seen = {key: entry[0] for key, entry in execution.kv._entries.items()}
    assert seen == world.client.get_kv_all_values(instance.instance_id)
    assert execution.custom_status == instance.custom_status
    found = [(leaf.family, leaf.name) for leaf in execution.open.values() if not leaf.dropped]
    execution.close()
    return json.loads(json.dumps(found))
