"""Instances that can't go on: they wait, say why, and go on when the cause is gone (design 1, W21; spec 12, 13.5)."""

from __future__ import annotations

import json

import pytest
from django.db import connections

from duroxide_django.models import Instance
from tests.runtime.program import Program


@pytest.fixture
def blocked(backend):
    """Return why an instance can't go on, or None."""

    def blocked(instance_id):
        text = Instance.objects.using(backend).get(instance_id=instance_id).blocked
        return None if text is None else json.loads(text)

    return blocked


@pytest.fixture
def deploy(backend):
    """Return a program with one version of an orchestration, as a deploy brings it."""

    def deploy(function, version="1.0.0"):
        program = Program(backend)
        program.activity("Add")(lambda ctx, pair: sum(pair))
        program.activity("Multiply")(lambda ctx, pair: pair[0] * pair[1])
        program.orchestration("Flow", version)(function)
        return program

    return deploy


def original(ctx, input):
    first = yield ctx.schedule_activity("Add", [1, 2])
    yield ctx.wait_for_event("go")
    return first


def other_input(ctx, input):
    first = yield ctx.schedule_activity("Add", [1, 3])
    yield ctx.wait_for_event("go")
    return first


def other_activity(ctx, input):
    first = yield ctx.schedule_activity("Multiply", [1, 2])
    yield ctx.wait_for_event("go")
    return first


def returns_early(ctx, input):
    return "early"
    yield


class TestNondeterminism:
    @pytest.mark.parametrize("broken", [other_input, other_activity, returns_early])
    def test_parks_the_instance_and_tells_why(self, client, deploy, blocked, broken):
        """Code that doesn't fit the history: nothing is lost, the reason is on the instance."""
        client.start_orchestration("flow-1", "Flow")
        deploy(original).drain()
        client.raise_event("flow-1", "go")
        before = len(client.read_execution_history("flow-1", 1))
        deploy(broken).drain(jump=False)
        assert client.get_status("flow-1").status == "Running"
        why = blocked("flow-1")
        assert why["reason"] == "nondeterminism"
        assert why["message"].startswith("nondeterministic: ")
        assert why["event_id"] == 2
        assert "Add" in why["expected"]
        assert len(client.read_execution_history("flow-1", 1)) == before

    def test_points_at_the_line(self, client, deploy, blocked):
        """The open yield's file and line are named."""
        client.start_orchestration("flow-1", "Flow")
        deploy(original).drain()
        client.raise_event("flow-1", "go")
        deploy(other_input).drain(jump=False)
        line = other_input.__code__.co_firstlineno + 1
        assert f"test_blocked.py:{line}" in blocked("flow-1")["source"]

    def test_heals_with_the_next_deploy(self, client, deploy, blocked):
        """Fixed code goes on where the instance stood, and the reason is gone."""
        client.start_orchestration("flow-1", "Flow")
        deploy(original).drain()
        client.raise_event("flow-1", "go")
        deploy(other_input).drain(jump=False)
        deploy(original).drain()
        assert client.get_status("flow-1").output == 3
        assert blocked("flow-1") is None

    def test_backs_off_instead_of_spinning(self, client, deploy, blocked):
        """Each try waits longer, up to a minute; the tries are counted and never poison the instance."""
        client.start_orchestration("flow-1", "Flow")
        deploy(original).drain()
        client.raise_event("flow-1", "go")
        from duroxide_django.testing import virtual_clock

        with virtual_clock() as clock:
            deploy(other_input).drain(until_ms=clock.now_ms + 10 * 60_000)
        assert 14 <= blocked("flow-1")["tries"] <= 18
        deploy(original).drain()
        assert client.get_status("flow-1").output == 3

    def test_fails_the_instance_if_so_configured(self, client, deploy, settings):
        """ON_NONDETERMINISM='fail' is the reference's strict behaviour."""
        client.start_orchestration("flow-1", "Flow")
        deploy(original).drain()
        client.raise_event("flow-1", "go")
        settings.DUROXIDE = {**settings.DUROXIDE, "ON_NONDETERMINISM": "fail"}
        deploy(other_input).drain()
        result = client.get_status("flow-1")
        assert result.status == "Failed"
        assert result.error.startswith("nondeterministic: ")
        ((category, _),) = result.error_details.items()
        assert category == "Configuration"

    def test_does_not_hold_other_instances_up(self, client, deploy, start_runtime):
        """A worker with a parked instance serves the rest."""
        client.start_orchestration("flow-1", "Flow")
        deploy(original).drain()
        client.raise_event("flow-1", "go")
        broken = deploy(other_input)
        with broken.runtime():
            client.start_orchestration("flow-2", "Flow")
            client.raise_event("flow-2", "go")
            assert client.wait_for_orchestration("flow-2").output == 4
        assert client.get_status("flow-1").status == "Running"

    def test_yields_to_a_forced_cancel(self, client, deploy):
        """A parked instance can be ended at once."""
        client.start_orchestration("flow-1", "Flow")
        deploy(original).drain()
        client.raise_event("flow-1", "go")
        broken = deploy(other_input)
        broken.drain(jump=False)
        client.cancel_instance("flow-1", "give up", force=True)
        broken.drain(jump=False)
        assert client.get_status("flow-1").error == "canceled: give up"


class TestMissingCode:
    def test_of_an_unknown_orchestration(self, client, program, blocked):
        """The instance waits and names what is missing."""
        client.start_orchestration("flow-1", "Flow")
        program.drain(jump=False)
        why = blocked("flow-1")
        assert (why["reason"], why["message"]) == ("missing_code", "no orchestration 'Flow' is registered")
        assert client.get_status("flow-1").status == "Running"

    def test_of_a_version_names_those_there_are(self, client, deploy, blocked):
        """The versions at hand are listed."""
        client.start_orchestration_versioned("flow-1", "Flow", None, "2.0.0")
        deploy(original, "1.10.0").drain(jump=False)
        assert blocked("flow-1")["message"] == "orchestration 'Flow' has no version 2.0.0 (registered: 1.10.0)"

    def test_of_a_running_instance_s_version_waits(self, client, deploy, blocked):
        """A pinned version that a deploy took away: the instance waits until it is back."""
        client.start_orchestration("flow-1", "Flow")
        deploy(original).drain()
        client.raise_event("flow-1", "go")
        deploy(original, "1.1.0").drain(jump=False)
        assert blocked("flow-1")["reason"] == "missing_code"
        deploy(original).drain()
        assert client.get_status("flow-1").output == 3

    def test_is_found_by_a_real_worker_when_it_comes(self, client, deploy, start_runtime, wait_until, blocked):
        """A worker that was started with the code takes the instance after the other's back-off."""
        start_runtime()
        client.start_orchestration("flow-1", "Flow")
        client.raise_event("flow-1", "go")
        wait_until(lambda: blocked("flow-1"))
        with deploy(original).runtime():
            assert client.wait_for_orchestration("flow-1", 20_000).output == 3

    def test_does_not_disorder_what_arrives_meanwhile(self, client, backend):
        """Messages that arrived before and during the wait are read in the order of their arrival."""
        program = Program(backend)

        def inbox(ctx, count):
            received = []
            while len(received) < count:
                received += [(yield ctx.dequeue_event("inbox"))]
            return received

        client.start_orchestration("inbox-1", "Inbox", 6)
        for number in range(6):
            client.enqueue_event("inbox-1", "inbox", number)
            if number % 2:
                program.drain(jump=False)
        program.orchestration("Inbox")(inbox)
        program.drain()
        assert client.get_status("inbox-1").output == list(range(6))


class TestCorruptHistory:
    @pytest.fixture
    def corrupted(self, client, deploy, backend):
        """An instance whose history holds an event that nobody can read."""
        client.start_orchestration("flow-1", "Flow")
        deploy(original).drain()
        with connections[backend].cursor() as cursor:
            cursor.execute("UPDATE duroxide_history SET kind = 'FromTheFuture' WHERE event_id = 2")
        client.raise_event("flow-1", "go")

    def test_waits_and_says_so(self, client, deploy, blocked, corrupted):
        """An unknown kind is never skipped silently."""
        deploy(original).drain(jump=False)
        why = blocked("flow-1")
        assert why["reason"] == "corrupt_history"
        assert "'FromTheFuture'" in why["message"]
        assert client.get_status("flow-1").status == "Running"

    def test_goes_on_once_it_can_be_read(self, client, deploy, backend, corrupted):
        """A newer worker that knows the kind completes it."""
        deploy(original).drain(jump=False)
        with connections[backend].cursor() as cursor:
            cursor.execute("UPDATE duroxide_history SET kind = 'ActivityScheduled' WHERE event_id = 2")
        deploy(original).drain()
        assert client.get_status("flow-1").output == 3

    def test_can_be_ended_by_force(self, client, deploy, corrupted):
        """A forced cancel needs no readable history."""
        program = deploy(original)
        program.drain(jump=False)
        client.cancel_instance("flow-1", "hopeless", force=True)
        program.drain(jump=False)
        assert client.get_status("flow-1").error == "canceled: hopeless"
