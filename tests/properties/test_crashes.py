"""Random orchestrations give the same result with live executions, with a replay before every turn, and with crashes
between any two steps and inside any transaction (design sections 5 and 6), on both databases.

DUROXIDE_EXAMPLES=500 looks for new counter-examples; without it the same examples are tried each time.
"""

from __future__ import annotations

import os
import random
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from duroxide_django import Client, RuntimeOptions, TagFilter
from duroxide_django.engine.registry import Registry
from duroxide_django.exceptions import OrchestrationCancelled
from duroxide_django.runtime.config import resolve
from duroxide_django.runtime.dispatcher import Dispatcher
from duroxide_django.runtime.metrics import Metrics
from duroxide_django.runtime.slots import InlineSlots
from duroxide_django.storage import activities, turns
from duroxide_django.storage.database import Database
from duroxide_django.testing import virtual_clock
from tests.conftest import BACKENDS, empty_tables
from tests.properties.histories import check_history

#: Longer than any lease: after a crash this time passes before others may take over.
AFTER_LEASES_S = 61

# A step is a tuple; what it gives depends on nothing but itself, so that any order of completions gives one result.
LEAVES = st.one_of(
    st.tuples(st.just("echo"), st.integers(0, 99)),
    st.tuples(st.just("fail"), st.integers(0, 99)),
    st.tuples(st.just("flaky"), st.integers(0, 99)),
    st.tuples(st.just("timer"), st.integers(0, 5_000)),
    st.tuples(st.just("kv"), st.sampled_from("abc"), st.integers(0, 99)),
    st.tuples(st.just("status"), st.integers(0, 99)),
    st.tuples(st.just("child"), st.integers(0, 99)),
    st.tuples(st.just("guarded"), st.integers(0, 99)),
    st.tuples(st.just("wins"), st.integers(0, 99)),
    st.tuples(st.just("fast"), st.integers(0, 99)),
    st.tuples(st.just("mail")),
    st.tuples(st.just("event")),
)
STEPS = st.recursive(
    LEAVES,
    lambda inner: st.tuples(
        st.sampled_from(["all", "sequence", "caught", "raced"]), st.lists(inner, min_size=1, max_size=4)
    ),
    max_leaves=6,
)
#: Steps, how often the program continues as new, and whether it is cancelled in the end.
PROGRAMS = st.tuples(st.lists(STEPS, min_size=1, max_size=4), st.integers(0, 2), st.booleans())


def build_registry():
    """Return the functions that programs use, and the list that counts real runs of activities."""
    registry = Registry()
    runs = []

    def echo(ctx, value):
        runs.append(ctx.idempotency_key)
        return value

    def fail(ctx, value):
        raise ValueError(f"no {value}")

    def flaky(ctx, value):
        if ctx.attempt == 1:
            raise OSError("first attempt")
        return value

    def child(ctx, value):
        first = yield ctx.schedule_activity("Echo", value)
        yield ctx.schedule_timer(10)
        return first + 1

    def sleeper(ctx, value):
        try:
            yield ctx.wait_for_event("never")
        except OrchestrationCancelled:
            yield ctx.schedule_activity("Echo", value)
            raise

    def cancel(ctx, value):
        ctx.get_client().cancel_instance(ctx.instance_id, "by its own activity")

    registry.add_activity("Cancel", cancel)
    registry.add_orchestration("Sleeper", sleeper)
    registry.add_activity("Echo", echo)
    registry.add_activity("Fail", fail)
    registry.add_activity("Flaky", flaky)
    registry.add_orchestration("Child", child)
    registry.add_orchestration("Program", run_program)
    return registry, runs


def run_program(ctx, input):
    steps, renewals, cancels, seen = input
    for step in steps:
        try:
            result = yield from perform(ctx, tuple(step))
        except Exception as exc:  # noqa: BLE001 - whatever a step raises is part of the result
            result = str(exc)
        seen.append(result)
    if renewals:
        return (yield ctx.continue_as_new([steps, renewals - 1, cancels, seen]))
    if cancels:
        try:
            # It comes at one of the two; the clean-up is the same.
            yield ctx.schedule_activity("Cancel")
            yield ctx.wait_for_event("never")
        except OrchestrationCancelled as cancelled:
            ctx.set_kv_value("clean-up", cancelled.reason)
            ctx.set_kv_value("echoed", (yield ctx.schedule_activity("Echo", len(seen))))
    return {"seen": seen, "kv": ctx.get_kv_all_values(), "status": ctx.get_custom_status()}


def perform(ctx, step):
    kind, *parts = step
    if kind == "kv":
        ctx.set_kv_value(parts[0], parts[1])
        return None
    if kind == "status":
        ctx.set_custom_status(parts[0])
        return None
    if kind == "all":
        return (yield ctx.all([perform(ctx, tuple(part)) for part in parts[0]]))
    if kind == "raced":
        # The timer is so far away that it never wins, crashes or not.
        return (yield ctx.race(perform(ctx, ("all", *parts)), ctx.schedule_timer(10**9)))
    if kind == "sequence":
        results = []
        for part in parts[0]:
            results.append((yield from perform(ctx, tuple(part))))  # noqa: PERF401 - no yield in comprehensions
        return results
    if kind == "caught":
        try:
            return (yield from perform(ctx, ("sequence", *parts)))
        except Exception as exc:  # noqa: BLE001 - as a user would
            return (yield ctx.schedule_activity("Echo", str(exc)))
    return (yield leaf(ctx, kind, parts))


def leaf(ctx, kind, parts):
    if kind == "echo":
        return ctx.schedule_activity("Echo", parts[0])
    if kind == "fail":
        return ctx.schedule_activity("Fail", parts[0])
    if kind == "flaky":
        return ctx.schedule_activity_with_retry("Flaky", parts[0], {"max_attempts": 2, "jitter": 0.5})
    if kind == "timer":
        return ctx.schedule_timer(parts[0])
    if kind == "child":
        return ctx.schedule_sub_orchestration("Child", parts[0])
    if kind == "wins":
        return ctx.race(ctx.schedule_sub_orchestration("Sleeper", parts[0]), ctx.schedule_activity("Echo", parts[0]))
    if kind == "fast":
        sleeps = [ctx.schedule_sub_orchestration("Sleeper", parts[0]), ctx.wait_for_event("never")]
        return ctx.all([*sleeps, ctx.schedule_timer(10**9), ctx.schedule_activity("Fail", parts[0])], fail_fast=True)
    if kind == "guarded":
        return ctx.race(ctx.schedule_activity("Echo", parts[0]), ctx.schedule_timer(10**9))
    if kind == "mail":
        return ctx.dequeue_event("mail")
    return ctx.wait_for_event("event")


class Crash(BaseException):
    """The process dies here."""


class CrashingDatabase(Database):
    """Dies before the statement that ``fuse`` counts down to."""

    fuse: int | None = None

    def _burn(self):
        if CrashingDatabase.fuse is not None:
            CrashingDatabase.fuse -= 1
            if CrashingDatabase.fuse <= 0:
                CrashingDatabase.fuse = None
                raise Crash

    def execute(self, sql, parameters=()):
        self._burn()
        return super().execute(sql, parameters)

    def fetch(self, sql, parameters=()):
        self._burn()
        return super().fetch(sql, parameters)


class World:
    """One store with workers that may die at any step."""

    def __init__(self, alias, registry, clock, dice):
        self.db = CrashingDatabase(alias)
        self.registry = registry
        self.clock = clock
        self.dice = dice
        self.crashes = 0
        self.boot()

    def boot(self):
        # Every crash counts as an attempt; here none may end as poison.
        config = replace(resolve(RuntimeOptions(worker_tag_filter=TagFilter.ANY)), max_attempts=10_000)
        metrics = Metrics()
        self.slots = InlineSlots(self.registry, config, self.db, lambda: None)
        self.dispatcher = Dispatcher(self.registry, config, self.db, self.slots, metrics)

    def crash(self):
        CrashingDatabase.fuse = None
        self.crashes += 1
        self.boot()
        self.clock.advance(seconds=AFTER_LEASES_S)

    def run(self, client, instance_id, crash_share):
        """Work until the instance has ended, dying now and then; gives up after many steps."""
        for _ in range(4_000):
            if not client.list_instances_by_status("Running"):
                return
            if self.crashes < 25 and self.dice.random() < crash_share:
                CrashingDatabase.fuse = self.dice.randint(1, 12)
            try:
                self.step()
            except Crash:
                self.crash()
        raise AssertionError("the instance did not come to its end")

    def step(self):
        self.dispatcher.claims = self.dispatcher.fetches = True
        if self.dispatcher.iterate() | self.slots.work():
            return
        moments = [turns.next_visible_ms(self.db), activities.next_visible_ms(self.db)]
        due = [moment for moment in moments if moment is not None]
        if due:
            self.clock.move_to(max(self.clock.now_ms, min(due)))
        else:
            self.clock.advance(seconds=AFTER_LEASES_S)


def result_of(alias, program, *, crash_share=0.0, seed=0):
    """Run the program in a store of its own and return what it left, without times and ids."""
    registry, runs = build_registry()
    client = Client(using=alias)
    instance_id = f"program-{random.getrandbits(64):x}"
    steps, renewals, cancels = program
    with virtual_clock() as clock:
        client.start_orchestration(instance_id, "Program", [steps, renewals, cancels, []])
        for number in range(40):
            client.enqueue_event(instance_id, "mail", number)
            client.raise_event(instance_id, "event", "same")
        world = World(alias, registry, clock, random.Random(seed))
        world.run(client, instance_id, crash_share)
        left = {
            "status": client.get_status(instance_id),
            "kv": client.get_kv_all_values(instance_id),
            "executions": len(client.list_executions(instance_id)),
            "runs": len(set(runs)),
            "family": sorted(
                (info.orchestration_name, info.status, info.output)
                for info in map(client.get_instance_info, client.get_instance_tree(instance_id).all_ids)
            ),
        }
        for member in client.get_instance_tree(instance_id).all_ids:
            check_history(client, member)
        assert set(vars_of(client.get_queue_depths()).values()) == {0}, "what has ended waits for nothing"
        client.delete_instance(instance_id, force=True)
    return left


def vars_of(depths):
    """Return the counts of queue depths by name."""
    return {name: getattr(depths, name) for name in ("orchestrator_queue", "worker_queue", "timer_queue")}


def one_event_each(program):
    """Leave programs out that wait for more events or mail than execution one gets: events don't outlive it."""
    steps, renewals, _ = program
    return renewals == 0 or "event" not in repr(steps)


EXAMPLES = os.environ.get("DUROXIDE_EXAMPLES")
QUICK = settings(
    max_examples=int(EXAMPLES or 10),
    deadline=None,
    database=None,
    derandomize=EXAMPLES is None,
    # A failing example is small enough as it is; making it smaller takes minutes.
    phases=(Phase.generate,),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture
def replaying(settings):
    """Throw live executions away after every turn while the returned function is called."""

    def run(alias, program):
        settings.DUROXIDE = {**settings.DUROXIDE, "REPLAY_EVERY_TURN": True}
        try:
            return result_of(alias, program)
        finally:
            settings.DUROXIDE = {**settings.DUROXIDE, "REPLAY_EVERY_TURN": False}

    return run


@pytest.fixture
def two_backends(database_access, postgres_url):
    """Both databases of the harness, empty."""
    for alias in BACKENDS:
        empty_tables(alias)


@QUICK
@given(program=PROGRAMS.filter(one_event_each))
def test_replaying_every_turn_changes_nothing(backend, replaying, program):
    """A replay before every turn gives what a kept execution gives."""
    assert replaying(backend, program) == result_of(backend, program)


@QUICK
@given(program=PROGRAMS.filter(one_event_each), seed=st.integers(0, 2**16))
def test_crashes_change_nothing(backend, program, seed):
    """Workers that die between and inside transactions leave the same result and no double completion."""
    calm = result_of(backend, program)
    stormy = result_of(backend, program, crash_share=0.3, seed=seed)
    assert stormy == calm


@QUICK
@given(program=PROGRAMS.filter(one_event_each))
def test_both_databases_give_the_same(two_backends, program):
    """Nothing depends on the database but speed."""
    assert result_of("sqlite", program) == result_of("postgres", program)
