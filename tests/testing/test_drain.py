"""drain(): workflows in an ordinary TestCase, in its thread and transaction (design 11)."""

from __future__ import annotations

import threading
from unittest import mock

import pytest
from django.contrib.auth.models import Group
from django.db import IntegrityError, connection, transaction
from django.test import TestCase, TransactionTestCase

from duroxide_django import ActivityFailed, Client, RuntimeOptions, WaitInTransaction
from duroxide_django.engine.registry import Registry
from duroxide_django.models import ActivityTask, Instance
from duroxide_django.runtime import dispatcher
from duroxide_django.testing import DrainLimit, drain, virtual_clock

HOUR_MS = 60 * 60 * 1000


class WorkflowCase(TestCase):
    """A client and a registry with a few functions; the workflows live on alias ``default``."""

    def setUp(self):
        self.client_ = Client(using="default")
        self.registry = Registry()
        self.ran = []
        self.registry.add_activity("Note", self.note)
        self.registry.add_activity("Break", self.fail_on_purpose)
        self.registry.add_orchestration("Noting", self.noting)
        self.registry.add_orchestration("Waiting", self.waiting)
        self.registry.add_orchestration("Reminding", self.reminding)

    def drain(self, **options):
        return drain(using="default", registry=self.registry, **options)

    def note(self, ctx, what):
        self.ran.append(what)
        return f"noted {what}"

    def fail_on_purpose(self, ctx, what):
        raise ValueError(what)

    @staticmethod
    def noting(ctx, what):
        return (yield ctx.schedule_activity("Note", what))

    @staticmethod
    def waiting(ctx, _input):
        return (yield ctx.wait_for_event("go"))

    @staticmethod
    def reminding(ctx, hours):
        yield ctx.schedule_timer(hours * HOUR_MS)
        yield ctx.schedule_activity("Note", hours)
        return "reminded"


class TestInATestCase(WorkflowCase):
    def test_runs_everything_that_is_due(self):
        """Orchestrations and activities run to their ends; the number of activities is returned."""
        for number in range(3):
            self.client_.start_orchestration(f"noting-{number}", "Noting", number)
        assert self.drain() == 3
        assert self.client_.get_status("noting-2").output == "noted 2"
        assert self.ran == [0, 1, 2]

    def test_runs_in_the_calling_thread_and_transaction(self):
        """Activities see the test's uncommitted rows, and the test sees theirs."""
        Group.objects.create(name="uncommitted")

        def look(ctx, input):
            Group.objects.create(name="written by the activity")
            return [threading.current_thread() is threading.main_thread(), Group.objects.count()]

        self.registry.add_activity("Look", look)

        def looking(ctx, input):
            return (yield ctx.schedule_activity("Look"))

        self.registry.add_orchestration("Looking", looking)
        self.client_.start_orchestration("looking-1", "Looking")
        self.drain()
        assert self.client_.get_status("looking-1").output == [True, 2]
        assert Group.objects.filter(name="written by the activity").exists()
        assert connection.in_atomic_block

    def test_leaves_what_waits(self):
        """It comes to rest when everything waits for somebody."""
        self.client_.start_orchestration("waiting-1", "Waiting")
        assert self.drain() == 0
        assert self.client_.get_status("waiting-1").status == "Running"
        self.client_.raise_event("waiting-1", "go", "now")
        self.drain()
        assert self.client_.get_status("waiting-1").output == "now"

    def test_may_be_called_with_nothing_to_do(self):
        """An empty store is at rest already."""
        assert self.drain() == 0

    def test_fails_activities_as_a_worker_does(self):
        """An exception of an activity reaches the orchestration, not the test."""

        def catching(ctx, input):
            try:
                yield ctx.schedule_activity("Break", "no good")
            except ActivityFailed as exc:
                return str(exc)

        self.registry.add_orchestration("Catching", catching)
        self.client_.start_orchestration("catching-1", "Catching")
        self.drain()
        assert self.client_.get_status("catching-1").output == "ValueError: no good"

    def test_survives_a_database_error_in_an_activity(self):
        """A broken constraint fails the activity and leaves the test's transaction usable, on every database."""

        def twice(ctx, name):
            Group.objects.create(name=name)
            Group.objects.create(name=name)

        def careful(ctx, name):
            try:
                yield ctx.schedule_activity("Twice", name)
            except ActivityFailed as exc:
                return exc.error_types[0]

        self.registry.add_activity("Twice", twice)
        self.registry.add_orchestration("Careful", careful)
        self.client_.start_orchestration("careful-1", "Careful", "same")
        self.drain()
        assert self.client_.get_status("careful-1").output == IntegrityError.__name__
        Group.objects.create(name="afterwards")

    def test_rolls_atomic_activities_back(self):
        """An atomic activity that fails leaves no row, inside the test's transaction too."""

        def write(ctx, name):
            Group.objects.create(name=name)
            raise ValueError("after the write")

        self.registry.add_activity("Write", write, atomic=True)
        self.registry.add_orchestration("Writing", lambda ctx, input: (yield ctx.schedule_activity("Write", "lost")))
        self.client_.start_orchestration("writing-1", "Writing")
        self.drain()
        assert self.client_.get_status("writing-1").error == "ValueError: after the write"
        assert not Group.objects.exists()

    def test_serves_every_tag_and_session(self):
        """Whatever worker an activity is meant for, the test runs it."""

        def tagged(ctx, input):
            yield ctx.schedule_activity("Note", "tagged", tag="gpu")
            yield ctx.schedule_activity("Note", "in a session", session_id="s")

        self.registry.add_orchestration("Tagged", tagged)
        self.client_.start_orchestration("tagged-1", "Tagged")
        assert self.drain() == 2

    def test_takes_runtime_options(self):
        """A filter or a concurrency of 0 leaves activities for later."""
        self.client_.start_orchestration("noting-1", "Noting", 1)
        assert self.drain(options=RuntimeOptions(worker_concurrency=0)) == 0
        assert ActivityTask.objects.count() == 1
        assert self.drain() == 1

    def test_can_be_called_by_parts_of_a_rolled_back_block(self):
        """What a savepoint started and drained is gone with it."""
        with transaction.atomic():
            self.client_.start_orchestration("noting-1", "Noting", 1)
            self.drain()
            assert self.client_.get_status("noting-1").status == "Completed"
            transaction.set_rollback(True)
        assert self.client_.get_status("noting-1").status == "NotFound"

    def test_is_the_way_to_wait(self):
        """wait_for_orchestration() inside the test's transaction is refused: it could never end."""
        self.client_.start_orchestration("noting-1", "Noting", 1)
        with pytest.raises(WaitInTransaction):
            self.client_.wait_for_orchestration("noting-1")

    def test_runs_async_activities(self):
        """``async def`` activities run too."""

        async def note(ctx, what):
            return f"async {what}"

        def noting(ctx, what):
            return (yield ctx.schedule_activity("AsyncNote", what))

        self.registry.add_activity("AsyncNote", note)
        self.registry.add_orchestration("AsyncNoting", noting)
        self.client_.start_orchestration("noting-1", "AsyncNoting", 1)
        self.drain()
        assert self.client_.get_status("noting-1").output == "async 1"


class TestIsolation(WorkflowCase):
    """Each test begins with empty tables, as any rows of a TestCase."""

    def test_one(self):
        """The same id in two tests."""
        assert not Instance.objects.exists()
        self.client_.start_orchestration("same", "Noting", 1)
        self.drain()

    def test_two(self):
        """Nothing is left of the other one."""
        assert not Instance.objects.exists()
        self.client_.start_orchestration("same", "Noting", 2)
        self.drain()
        assert self.client_.get_status("same").output == "noted 2"


class TestJumping(WorkflowCase):
    def test_passes_over_timers(self):
        """A month goes by in no time, and the clock of the test is none the wiser."""
        self.client_.start_orchestration("reminding-1", "Reminding", 24 * 30)
        self.drain()
        assert self.client_.get_status("reminding-1").output == "reminded"
        created = next(e for e in self.client_.read_execution_history("reminding-1", 1) if e.kind == "TimerFired")
        assert created.timestamp_ms - self.client_.get_instance_info("reminding-1").created_at >= 24 * 30 * HOUR_MS

    def test_runs_timers_in_the_order_of_their_times(self):
        """Whoever is due first runs first, whatever the order of their starts."""
        for hours in (5, 1, 3):
            self.client_.start_orchestration(f"reminding-{hours}", "Reminding", hours)
        self.drain()
        assert self.ran == [1, 3, 5]

    def test_is_not_held_up_by_a_slow_batch(self):
        """What a batch gives back as its leases would run out can go on."""
        for hours in (5, 1, 3):
            self.client_.start_orchestration(f"reminding-{hours}", "Reminding", hours)
        with mock.patch.object(dispatcher, "_BATCH_SHARE", 0):
            self.drain()
        assert self.ran == [1, 3, 5]

    def test_can_be_switched_off(self):
        """jump=False runs what is due now."""
        self.client_.start_orchestration("reminding-1", "Reminding", 1)
        self.client_.start_orchestration("noting-1", "Noting", "now")
        self.drain(jump=False)
        assert self.ran == ["now"]
        assert self.client_.get_status("reminding-1").status == "Running"

    def test_stops_at_until_ms(self):
        """Jumps no further than the given moment; the rest comes later."""
        with virtual_clock(start_ms=0) as clock:
            for hours in (1, 2, 3):
                self.client_.start_orchestration(f"reminding-{hours}", "Reminding", hours)
            self.drain(until_ms=2 * HOUR_MS)
            assert self.ran == [1, 2]
            assert clock.now_ms == 2 * HOUR_MS
            self.drain()
            assert self.ran == [1, 2, 3]

    def test_bounds_an_endless_orchestration_by_until_ms(self):
        """A monitor that loops for ever runs as long as the test says."""

        def monitor(ctx, count):
            yield ctx.schedule_activity("Note", count)
            yield ctx.schedule_timer(HOUR_MS)
            yield ctx.continue_as_new(count + 1)

        self.registry.add_orchestration("Monitor", monitor)
        with virtual_clock() as clock:
            self.client_.start_orchestration("monitor-1", "Monitor", 0)
            self.drain(until_ms=clock.now_ms + 5 * HOUR_MS)
        assert self.ran == [0, 1, 2, 3, 4, 5]

    def test_passes_over_retries(self):
        """Back-off delays are jumped over too."""
        attempts = []

        def flaky(ctx, input):
            attempts.append(ctx.attempt)
            raise ValueError("again")

        def retrying(ctx, input):
            policy = {"max_attempts": 4, "initial_delay_ms": HOUR_MS, "max_delay_ms": 10 * HOUR_MS}
            yield ctx.schedule_activity_with_retry("Flaky", None, policy)

        self.registry.add_activity("Flaky", flaky)
        self.registry.add_orchestration("Retrying", retrying)
        self.client_.start_orchestration("retrying-1", "Retrying")
        self.drain()
        assert attempts == [1, 2, 3, 4]
        info = self.client_.get_instance_info("retrying-1")
        assert info.completed_at - info.created_at >= (1 + 2 + 4) * HOUR_MS

    def test_passes_over_schedule_to_start_timeouts(self):
        """An activity that nobody has a function for fails when its time is up."""

        def impatient(ctx, input):
            yield ctx.schedule_activity("Nobody", schedule_to_start_timeout_ms=HOUR_MS)

        self.registry.add_orchestration("Impatient", impatient)
        self.client_.start_orchestration("impatient-1", "Impatient")
        self.drain()
        assert "no worker started activity 'Nobody'" in self.client_.get_status("impatient-1").error


class TestLimit(WorkflowCase):
    def test_stops_an_orchestration_that_never_rests(self):
        """DrainLimit names the likely cause, instead of a test that hangs."""

        def forever(ctx, count):
            yield ctx.continue_as_new(count + 1)

        self.registry.add_orchestration("Forever", forever)
        self.client_.start_orchestration("forever-1", "Forever", 0)
        with pytest.raises(DrainLimit, match="within 50 steps; does an orchestration loop for ever"):
            self.drain(max_steps=50)
        assert self.client_.get_instance_info("forever-1").current_execution_id > 10

    def test_counts_jumps_as_steps(self):
        """A timer loop without an end is caught too."""

        def ticking(ctx, count):
            while True:
                yield ctx.schedule_timer(HOUR_MS)

        self.registry.add_orchestration("Ticking", ticking)
        self.client_.start_orchestration("ticking-1", "Ticking")
        with pytest.raises(DrainLimit):
            self.drain(max_steps=50)


class TestProjectRegistry(TestCase):
    def test_is_served_by_default(self):
        """Without a registry the project's own workflows run: those of the shop here."""
        client = Client(using="default")
        client.start_orchestration("chat-1", "ChatBot", "")
        drain(using="default")
        assert client.get_instance_info("chat-1").status == "Running"
        assert client.get_instance_info("chat-1").orchestration_version is not None


class TestWithoutATransaction(TransactionTestCase):
    def test_works_too(self):
        """In a TransactionTestCase each step is committed as a worker would."""
        client, registry = Client(using="default"), Registry()
        registry.add_activity("Add", lambda ctx, pair: sum(pair))

        def add_up(ctx, pair):
            yield ctx.schedule_timer(HOUR_MS)
            return (yield ctx.schedule_activity("Add", pair))

        registry.add_orchestration("Sum", add_up)
        client.start_orchestration("sum-1", "Sum", [1, 2])
        drain(using="default", registry=registry)
        assert client.wait_for_orchestration("sum-1").output == 3


class TestAnInstanceThatCannotGoOn(WorkflowCase):
    def test_does_not_keep_it_going(self):
        """Jumping from one retry to the next would never end: no other code comes in the middle of a call."""
        self.client_.start_orchestration("lost-1", "Unknown")
        self.client_.start_orchestration("reminding-1", "Reminding", 1)
        self.drain(max_steps=50)
        assert self.client_.get_status("reminding-1").output == "reminded"
        assert self.client_.get_blocked("lost-1")["reason"] == "missing_code"

    def test_is_tried_again_by_the_next_call(self):
        self.client_.start_orchestration("lost-1", "Later")
        self.drain()
        self.registry.add_orchestration("Later", lambda ctx, input: "found")
        self.drain()
        assert self.client_.get_status("lost-1").output == "found"
