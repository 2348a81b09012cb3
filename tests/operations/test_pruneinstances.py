"""``manage.py pruneinstances``: what goes, what stays, and what it says."""

from __future__ import annotations

import json

import pytest
from django.core.management import CommandError, call_command

from duroxide_django import InvalidArgument, OrchestrationCancelled
from duroxide_django.testing import virtual_clock


@pytest.fixture
def prune(backend, capsys):
    """Run the command; returns the counts it printed."""

    def run(*arguments):
        capsys.readouterr()
        call_command("pruneinstances", *arguments, "--json")
        return json.loads(capsys.readouterr().out)

    return run


@pytest.fixture
def families(program, client):
    """Start a parent with one child that waits for ``Go``, as ``families("p1")``; ``finish("p1")`` ends both."""

    @program.orchestration("Child")
    def child(ctx, value):
        return (yield ctx.wait_for_event("Go"))

    @program.orchestration("Parent")
    def parent(ctx, value):
        return (yield ctx.schedule_sub_orchestration_with_id("Child", f"{ctx.instance_id}-child"))

    @program.orchestration("Single")
    def single(ctx, value):
        if value == "fail":
            raise ValueError(value)
        return value

    def start(name):
        client.start_orchestration(name, "Parent")
        program.drain(jump=False)

    return start


@pytest.fixture
def finish(program, client):
    def run(name):
        client.raise_event(f"{name}-child", "Go")
        program.drain(jump=False)

    return run


class TestPruneInstances:
    def test_deletes_whole_families_that_ended_long_ago(self, prune, client, families, finish, count_rows):
        with virtual_clock() as clock:
            families("old")
            families("running")
            finish("old")
            clock.advance(days=31)
            families("young")
            finish("young")
            assert prune("--older-than", "30d", "--dry-run")["instances_deleted"] == 2
            assert count_rows("duroxide_instance") == 6
            dry = prune("--older-than", "30d", "--dry-run")
            assert prune("--older-than", "30d") == dry
            assert dry["families"] == 1
            assert dry["executions_deleted"] == 2
            assert dry["events_deleted"] > 4
            assert set(client.list_all_instances()) == {"running", "running-child", "young", "young-child"}

    def test_spares_an_ended_parent_whose_child_still_runs(self, prune, client, program, families):
        @program.orchestration("Careless")
        def careless(ctx, value):
            yield ctx.race(ctx.schedule_sub_orchestration_with_id("Stubborn", "stubborn"), ctx.schedule_timer(1))

        @program.orchestration("Stubborn")
        def stubborn(ctx, value):
            try:
                yield ctx.wait_for_event("Go")
            except OrchestrationCancelled:
                yield ctx.wait_for_event("Go")

        with virtual_clock() as clock:
            client.start_orchestration("careless", "Careless")
            program.drain()
            assert client.get_status("careless").status == "Completed"
            assert client.get_status("stubborn").status == "Running"
            clock.advance(days=2)
            assert prune("--older-than", "1d")["families"] == 0

    def test_filters_batches_and_limit(self, prune, client, program, families):
        with virtual_clock() as clock:
            for number in range(5):
                client.start_orchestration(f"good-{number}", "Single", number)
                client.start_orchestration(f"bad-{number}", "Single", "fail")
            families("p")
            program.drain(jump=False)
            clock.advance(hours=2)
            assert prune("--older-than", "1h", "--name", "Elsewhere")["families"] == 0
            assert prune("--older-than", "3h")["families"] == 0
            assert prune("--older-than", "1h", "--status", "Failed", "--limit", "3", "--batch", "2")["families"] == 3
            assert prune("--older-than", "1h", "--name", "Single", "--batch", "2")["families"] == 7
            assert set(client.list_all_instances()) == {"p", "p-child"}

    @pytest.mark.parametrize(
        "arguments", [(), ("--older-than", "soon"), ("--older-than", "1d", "--limit", "0"), ("--older-than", "-1d")]
    )
    def test_a_wrong_command_line_is_refused(self, prune, arguments):
        with pytest.raises((CommandError, SystemExit)):
            prune(*arguments)

    def test_running_instances_can_not_be_asked_for(self, client):
        with pytest.raises(InvalidArgument, match="never pruned"):
            client.prune_instances(0, status="Running")
