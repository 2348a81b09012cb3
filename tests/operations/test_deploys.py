"""``checkreplay`` and ``listversions``: what a deploy would do to live instances."""

from __future__ import annotations

import json

import pytest
from django.core.management import call_command

from duroxide_django.management import _replay
from duroxide_django.management.commands import checkreplay, listversions


@pytest.fixture
def run(backend, program, capsys, monkeypatch):
    """Run a command on the program's registry; returns (exit code, what it printed as JSON)."""
    for module in (checkreplay, listversions):
        monkeypatch.setattr(module, "default_registry", program.registry)

    def call(*arguments):
        capsys.readouterr()
        code = 0
        try:
            call_command(*arguments, "--json")
        except SystemExit as exc:
            code = exc.code
        return code, json.loads(capsys.readouterr().out)

    return call


@pytest.fixture
def code(program):
    """The name of the event that ``Flow`` waits for; change it, and the code has changed."""
    name = {"event": "A"}

    @program.orchestration("Flow")
    def flow(ctx, value):
        ctx.set_kv_value("seen", "yes")
        yield ctx.wait_for_event(name["event"])

    @program.orchestration("Loop")
    def loop(ctx, value):
        if value < 2:
            yield ctx.continue_as_new(value + 1)
        yield ctx.dequeue_event("in")

    return name


class TestCheckReplay:
    def test_is_content_with_the_code_that_wrote_the_history(self, run, code, program, client, monkeypatch):
        monkeypatch.setattr(_replay, "WINDOW", 2)
        for number in range(3):
            client.start_orchestration(f"flow-{number}", "Flow")
        client.start_orchestration("loop", "Loop", 0)
        client.enqueue_event("loop", "out", 1)
        client.start_orchestration("fresh", "Nowhere")
        program.drain(jump=False)
        assert run("checkreplay") == (0, {"checked": 4, "problems": []})
        assert run("checkreplay", "--limit", "3")[1]["checked"] == 3

    def test_finds_what_would_not_go_on(self, run, code, program, client):
        client.start_orchestration("one", "Flow")
        client.start_orchestration("two", "Loop", 5)
        program.drain(jump=False)
        code["event"] = "B"
        del program.registry.orchestrations["Loop"]
        exit_code, printed = run("checkreplay")
        assert exit_code == 4
        found = {entry["instance_id"]: entry["problem"] for entry in printed["problems"]}
        assert found == {"one": "nondeterminism", "two": "missing_code"}
        assert run("checkreplay", "--name", "Loop")[1]["checked"] == 1
        assert client.get_blocked("one") is None

    def test_prints_a_table(self, run, code, program, client, capsys):
        client.start_orchestration("one", "Flow")
        program.drain(jump=False)
        call_command("checkreplay")
        assert capsys.readouterr().out == "1 instance(s) checked, 0 would not go on.\n"


class TestListVersions:
    def test_tells_which_versions_are_needed(self, run, code, program, client):
        program.orchestration("Flow", "2.0.0")(lambda ctx, value: None)
        client.start_orchestration_versioned("one", "Flow", None, "1.0.0")
        client.start_orchestration("two", "Loop", 5)
        program.drain(jump=False)
        exit_code, lines = run("listversions")
        assert exit_code == 0
        assert [(line["name"], line["version"], line["instances"]) for line in lines] == [
            ("Flow", "1.0.0", 1),
            ("Flow", "2.0.0", 0),
            ("Loop", "1.0.0", 1),
        ]

    def test_finds_versions_that_are_missing(self, run, code, program, client):
        client.start_orchestration("one", "Flow")
        program.drain(jump=False)
        del program.registry.orchestrations["Flow"]
        exit_code, lines = run("listversions")
        assert exit_code == 4
        assert [(line["name"], line["registered"]) for line in lines] == [("Flow", False), ("Loop", True)]
