"""Workers with leases and without, crashes, messages and operators' verbs in random order, also in the middle of a
worker's look at the queue: nothing is lost, nothing is done twice, everything comes to its end.

DUROXIDE_SEEDS=500 looks for new counter-examples; without it the same few are tried each time.
"""

from __future__ import annotations

import contextlib
import os
import random
import sys
from collections import Counter

import pytest
from django.db import connections

from duroxide_django import Client
from duroxide_django.engine.registry import Registry
from duroxide_django.exceptions import DuroxideError
from duroxide_django.models import ActivityTask, Instance, Message, QueueMessage
from duroxide_django.storage import turns
from duroxide_django.storage.database import Database
from duroxide_django.testing import assert_healthy, virtual_clock
from tests.properties.histories import check_history
from tests.runtime.program import make_dispatcher, take_for_quick, work

SEEDS = range(int(os.environ.get("DUROXIDE_SEEDS", "3")))
STEPS = 120
LEASE_MS = 5_000
#: Between these reads of a look at the queue something else may happen.
READS = ["read_messages", "read_histories", "read_kv_bases", "read_mail", "read_fresh"]
#: How many messages each of the two that count them gets.
MESSAGES = 12

#: What may happen next, and how often in proportion.
ACTIONS = {
    "step": 8, "crash": 1, "pass_time": 2, "send": 6, "pause": 2, "resume": 3, "cancel": 0.5, "rewind": 1.5, "retry": 2,
    "answer": 1.5, "hurry": 1.5, "restart": 0.7, "prune": 1, "fork": 0.4,
}  # fmt: skip


def registry_of(world):
    registry = Registry()

    def echo(ctx, value):
        world.interrupt(0.1)
        return value

    def fail(ctx, _):
        if not world.is_calm:
            raise ValueError("not yet")

    def child(ctx, value):
        first = yield ctx.schedule_activity("Echo", value)
        if value % 2:
            yield ctx.schedule_timer(500)
        return first

    def mix(ctx, renewals):
        yield ctx.schedule_activity("Echo", 1)
        echoes = [ctx.schedule_activity("Echo", number) for number in range(3)]
        yield ctx.all([*echoes, ctx.schedule_sub_orchestration("Child", renewals), ctx.schedule_timer(100)])
        yield ctx.race(ctx.schedule_activity("Echo", 5), ctx.schedule_timer(3_000))
        ctx.set_kv_value("renewals", renewals)
        yield ctx.race(ctx.wait_for_event("message"), ctx.schedule_timer(2_000))
        yield ctx.schedule_activity("Fail")
        if renewals:
            yield ctx.continue_as_new(renewals - 1)

    def collector(ctx, seen):
        for _ in range(3):
            seen.append((yield ctx.dequeue_event("message")))
            yield ctx.schedule_activity("Echo", 1)
        return seen if len(seen) == MESSAGES else (yield ctx.continue_as_new(seen))

    def listener(ctx, seen):
        for _ in range(MESSAGES):
            seen.append((yield ctx.wait_for_event("message")))
            yield ctx.schedule_activity("Echo", 1)
        return seen

    registry.add_activity("Echo", echo)
    registry.add_activity("Fail", fail, atomic=True)
    for function in (child, mix, collector, listener):
        registry.add_orchestration(function.__name__.capitalize(), function)
    return registry


class World:
    """One store, three workers, and somebody who does all that one may do."""

    def __init__(self, alias, dice, clock):
        self.alias, self.dice, self.clock = alias, dice, clock
        self.client = Client(using=alias)
        self.instances = Instance.objects.using(alias)
        self.registry = registry_of(self)
        self.bounds = {"cache_executions": dice.choice([0, 2, 2_000]), "batch": dice.choice([2, 50])}
        self.sent = Counter()
        self.is_calm = False
        # Those that are in the middle of something, and so can do nothing else.
        self.busy = []
        self.workers = [self.boot() for _ in range(3)]

    def boot(self):
        db = Database(self.alias).for_loop()
        db.set_up()
        worker = make_dispatcher(
            self.registry,
            db,
            # Every crash counts as an attempt; here none may end as poison.
            max_attempts=10_000,
            slots=self.dice.choice([1, 4]),
            turn_lease_ms=LEASE_MS,
            activity_lease_ms=LEASE_MS,
            owner=str(self.dice.random()),
            **self.bounds,
        )
        take_for_quick(worker, *self.registry.orchestrations)
        return worker

    def interrupt(self, share):
        """Let something else happen here, one time out of ``1 / share``."""
        if len(self.busy) == 1 and not connections[self.alias].in_atomic_block and self.dice.random() < share:
            self.act()

    def act(self):
        action = self.dice.choices(list(ACTIONS), list(ACTIONS.values()))[0]
        name = self.dice.choice(list(self.instances.order_by("pk").values_list("instance_id", flat=True)))
        if name in ("collector", "listener") and action in ("cancel", "rewind", "retry", "answer", "restart", "fork"):
            return
        # Not everything can be done at any time.
        with contextlib.suppress(DuroxideError):
            getattr(self, action)(name)

    # Actions

    def step(self, _name):
        worker = self.dice.choice([worker for worker in self.workers if worker not in self.busy])
        self.busy.append(worker)
        worker.claimer.fresh_ms = self.dice.choice([None, 20, sys.maxsize])
        # These times are by the real clock, on which next to nothing passes here.
        worker.claimer._leases_until = float("-inf")
        worker.committer.careful_until = self.dice.choice([float("-inf"), float("inf")])
        worker.claims = self.dice.random() < 0.8
        worker.fetches = self.dice.random() < 0.7
        worker.iterate()
        if self.dice.random() < 0.7:
            worker.slots.work()
        self.busy.remove(worker)

    def crash(self, _name):
        number = self.dice.randrange(len(self.workers))
        if self.workers[number] not in self.busy:
            self.workers[number] = self.boot()

    def pass_time(self, _name):
        self.clock.advance(ms=self.dice.choice([1, 100, 1_000, LEASE_MS + 1_000]))

    def send(self, name):
        """Send the next message to each that counts them, and an event to another instance."""
        self.client.raise_event(name if name != "listener" else "mix-0", "message", "any")
        for target, verb in (("collector", self.client.enqueue_event), ("listener", self.client.raise_event)):
            if self.sent[target] < MESSAGES and verb(target, "message", self.sent[target]):
                self.sent[target] += 1

    def pause(self, name):
        self.client.pause_instance(name)

    def resume(self, name):
        self.client.resume_instance(name)

    def cancel(self, name):
        self.client.cancel_instance(name, force=self.dice.random() < 0.4)

    def rewind(self, name):
        last = self.instances.get(instance_id=name).last_event_id
        rerun = self.dice.random() < 0.5
        self.client.rewind_instance(name, self.dice.randint(0, max(0, last - 1)), rerun_activities=rerun)

    def retry(self, name):
        self.client.retry_instance(name)

    def answer(self, name):
        for pending in self._pending(name):
            self.client.complete_activity(name, pending.event_id, 1)

    def hurry(self, name):
        for pending in self._pending(name):
            self.client.retry_activity_now(name, pending.event_id)

    def _pending(self, name):
        found = [pending for pending in self.client.list_pending(name) if pending.kind in ("activity", "timer")]
        return [self.dice.choice(found)] if found else []

    def restart(self, name):
        self.client.delete_instance(name, force=True)
        self.client.start_orchestration(name, "Mix", 1)

    def prune(self, name):
        self.client.prune_executions(name)

    def fork(self, name):
        self.client.fork_instance(name, f"fork-{self.dice.random()}")

    # The end

    def calm_down(self):
        """Send what has not been sent, and let one worker do the rest."""
        self.is_calm = True
        self.busy = self.workers
        for name in self.instances.values_list("instance_id", flat=True):
            with contextlib.suppress(DuroxideError):
                self.client.resume_instance(name)
        for _ in range(MESSAGES):
            self.send("mix-0")
        worker = self.boot()
        for _ in range(100):
            worker.claimer.fresh_ms = self.dice.choice([None, sys.maxsize])
            work(worker)
            self.clock.advance(ms=LEASE_MS)
            if not self.instances.filter(status="Running").exists() and not self.left():
                return

    def left(self):
        return [row for model in (Message, ActivityTask, QueueMessage) for row in model.objects.using(self.alias).all()]


@pytest.mark.parametrize("seed", SEEDS)
def test_of_workers_and_operators_lose_nothing(backend, monkeypatch, caplog, seed):
    """Whatever happens while an instance is read, computed or committed."""
    with virtual_clock() as clock:
        world = World(backend, random.Random(seed), clock)
        client = world.client
        for number in range(4):
            client.start_orchestration(f"mix-{number}", "Mix", 1)
        client.start_orchestration("collector", "Collector", [])
        client.start_orchestration("listener", "Listener", [])
        with monkeypatch.context() as patched:
            for name in READS:
                patched.setattr(turns, name, interrupted(world, getattr(turns, name)))
            for _ in range(STEPS):
                world.act()
        world.calm_down()
        assert_healthy(backend)
        assert world.left() == []
        for name in world.instances.values_list("instance_id", flat=True):
            result = client.get_status(name)
            assert result.status == "Completed" or result.is_cancelled or "not yet" in result.error, (name, result)
            check_history(client, name)
    for name in ("collector", "listener"):
        assert client.get_status(name).output == list(range(MESSAGES))
    assert "inside the engine" not in caplog.text


def interrupted(world, read):
    def interrupted(*arguments, **options):
        world.interrupt(0.25)
        return read(*arguments, **options)

    return interrupted
