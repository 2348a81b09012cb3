"""``manage.py duroxide``: what it prints, and its exit codes."""

from __future__ import annotations

import json

import pytest
from django.core.management import CommandError, call_command
from django.db import connections


@pytest.fixture
def duroxide(backend, capsys):
    """Run the command; returns what it printed, or (exit code, what it printed) if that is not 0."""

    def run(*arguments):
        capsys.readouterr()
        try:
            call_command("duroxide", *arguments)
        except SystemExit as exc:
            return exc.code, capsys.readouterr().out
        except CommandError as exc:
            return exc.returncode, str(exc)
        return capsys.readouterr().out

    return run


@pytest.fixture
def flow(program):
    """An orchestration that sets a status and a key, runs an activity and waits for an event."""

    @program.activity("Double")
    def double(ctx, value):
        return value * 2

    @program.orchestration("Flow")
    def flow(ctx, value):
        ctx.set_custom_status("begun")
        ctx.set_kv_value("colour", "red")
        doubled = yield ctx.schedule_activity("Double", value)
        approval = yield ctx.wait_for_event("Approved")
        return [doubled, approval]

    return program


class TestLooking:
    def test_lists_instances_newest_first(self, duroxide, client, flow):
        client.start_orchestration("one", "Flow", 1)
        client.start_orchestration("two", "Flow", 2)
        lines = duroxide("list").splitlines()
        assert lines[0].split() == ["INSTANCE", "ORCHESTRATION", "VERSION", "STATUS", "CREATED"]
        assert [line.split()[0] for line in lines[1:]] == ["two", "one"]

    def test_list_filters_and_pages(self, duroxide, client, flow):
        for number in range(3):
            client.start_orchestration(f"i{number}", "Flow", number)
        client.start_orchestration("other", "Elsewhere")
        listed = json.loads(duroxide("list", "--name", "Flow", "--limit", "2", "--json"))
        assert [info["instance_id"] for info in listed] == ["i2", "i1"]
        assert [info["instance_id"] for info in json.loads(duroxide("list", "--before", "i1", "--json"))] == ["i0"]
        assert json.loads(duroxide("list", "--status", "Failed", "--json")) == []

    def test_show_tells_what_it_waits_for(self, duroxide, client, flow):
        client.start_orchestration("one", "Flow", 21)
        flow.drain()
        shown = duroxide("show", "one")
        assert "Approved" in shown
        assert "begun" in shown
        found = json.loads(duroxide("show", "one", "--json"))
        assert [(item["kind"], item["name"]) for item in found["pending"]] == [("event", "Approved")]
        assert found["blocked"] is None

    def test_show_tells_why_it_is_blocked(self, duroxide, client, program):
        client.start_orchestration("one", "Nowhere")
        program.drain(jump=False)
        assert "missing_code: no orchestration 'Nowhere' is registered" in duroxide("show", "one")

    def test_history_and_tree(self, duroxide, client, program):
        @program.orchestration("Child")
        def child(ctx, value):
            return (yield ctx.wait_for_event("Go"))

        @program.orchestration("Parent")
        def parent(ctx, value):
            return (yield ctx.schedule_sub_orchestration_with_id("Child", "kid", None))

        client.start_orchestration("root", "Parent")
        program.drain()
        assert "SubOrchestrationScheduled" in duroxide("history", "root")
        events = json.loads(duroxide("history", "root", "--execution", "1", "--json"))
        assert [event["kind"] for event in events] == ["OrchestrationStarted", "SubOrchestrationScheduled"]
        assert duroxide("tree", "root").splitlines() == ["root  Parent  Running", "  kid  Child  Running"]
        assert duroxide("history", "root", "--execution", "2")[0] == 3

    def test_status_kv_metrics_and_depths(self, duroxide, client, flow):
        client.start_orchestration("one", "Flow", 1)
        assert json.loads(duroxide("depths", "--json"))["orchestrator_ready"] == 1
        flow.drain()
        assert duroxide("status", "one").strip() == "Running"
        assert duroxide("kv", "one", "colour").strip() == "red"
        assert json.loads(duroxide("kv", "one", "--json")) == {"colour": "red"}
        assert json.loads(duroxide("metrics", "--json"))["running_instances"] == 1

    @pytest.mark.parametrize(
        "verb",
        ["show", "history", "tree", "status", "kv", "cancel", "delete", "prune"],
    )
    def test_an_unknown_instance_gives_3(self, duroxide, verb):
        assert duroxide(verb, "nobody")[0] == 3

    def test_an_unknown_key_gives_3(self, duroxide, client, flow):
        client.start_orchestration("one", "Flow", 1)
        assert duroxide("kv", "one", "weight")[0] == 3


class TestDjangosOwnOptions:
    @pytest.mark.parametrize("option", [["--settings", "tests.settings"], ["--traceback"], ["--no-color"], ["-v", "2"]])
    def test_may_stand_before_and_behind_the_verb(self, duroxide, option):
        """People write them at the end, as with every other command."""
        before, behind = duroxide(*option, "list", "--json"), duroxide("list", *option, "--json")
        assert before == behind == "[]\n"

    def test_are_not_repeated_in_the_help_of_each_verb(self, duroxide, capsys):
        with pytest.raises(SystemExit):
            call_command("duroxide", "list", "--help")
        assert "--settings" not in capsys.readouterr().out


class TestSignalling:
    def test_start_raise_and_end(self, duroxide, client, flow):
        duroxide("start", "one", "Flow", "--input", "4")
        flow.drain()
        assert json.loads(duroxide("raise", "one", "Approved", "--data", '{"by": "me"}', "--json"))["delivered"]
        flow.drain()
        assert client.get_status("one").output == [8, {"by": "me"}]
        assert duroxide("raise", "one", "Approved")[0] == 1

    def test_starting_twice_is_refused(self, duroxide, client, flow):
        duroxide("start", "one", "Flow")
        assert duroxide("start", "one", "Flow")[0] == 1
        assert duroxide("start", "one", "Flow", "--on-conflict", "ignore") == "Started one.\n"

    def test_cancel_and_enqueue(self, duroxide, client, program):
        @program.orchestration("Chat")
        def chat(ctx, value):
            heard = yield ctx.dequeue_event("in")
            ctx.set_custom_status(heard)
            yield ctx.dequeue_event("in")

        duroxide("start", "one", "Chat", "--orchestration-version", "1.0.0")
        duroxide("enqueue", "one", "in", "--data", '"hello"')
        program.drain()
        assert client.get_status("one").custom_status == "hello"
        duroxide("cancel", "one", "--reason", "enough")
        program.drain()
        assert client.get_status("one").error == "canceled: enough"
        assert duroxide("status", "one").strip() == "Cancelled"

    @pytest.mark.parametrize(
        "arguments", [("start", "x", "Flow", "--input", "{"), ("list", "--limit", "0"), ("dance",)]
    )
    def test_a_wrong_command_line_is_refused(self, duroxide, arguments):
        assert duroxide(*arguments)[0] in (1, 2)

    def test_delete_wants_force_for_a_running_instance(self, duroxide, client, flow, count_rows):
        duroxide("start", "one", "Flow")
        assert duroxide("delete", "one")[0] == 1
        assert json.loads(duroxide("delete", "one", "--force", "--json"))["instances_deleted"] == 1
        assert count_rows("duroxide_instance") == 0

    def test_prune_keeps_the_current_execution(self, duroxide, client, program):
        @program.orchestration("Counter")
        def counter(ctx, value):
            if value < 3:
                yield ctx.continue_as_new(value + 1)
            return value

        duroxide("start", "one", "Counter", "--input", "0")
        program.drain()
        assert json.loads(duroxide("prune", "one", "--json"))["executions_deleted"] == 3


class TestDoctor:
    def test_is_content_with_an_empty_store(self, duroxide):
        assert duroxide("doctor") == "Healthy: nothing needs attention.\n"

    def test_names_what_it_finds_with_its_cure(self, duroxide, client, flow, backend):
        client.start_orchestration("one", "Flow", 1)
        flow.drain()
        with connections[backend].cursor() as cursor:
            cursor.execute("DELETE FROM duroxide_history WHERE kind = 'ExternalSubscribed'")
        code, printed = duroxide("doctor")
        assert code == 4
        assert "PROBLEM stuck: one" in printed
        assert "cure:" in printed
        code, printed = duroxide("doctor", "--json")
        assert {finding["rule"] for finding in json.loads(printed)} == {"stuck", "unserved_orchestration"}
        assert "PROBLEM stuck: one" in duroxide("doctor", "--fail-on", "never")
