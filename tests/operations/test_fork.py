"""Forking: a copy goes its own way from an event on, and the original stays as it is."""

from __future__ import annotations

import json

import pytest
from django.core.management import call_command

from duroxide_django import InstanceAlreadyExists, InstanceNotFound, InvalidArgument
from duroxide_django.engine.limits import MAX_INSTANCE_ID_CHARS
from duroxide_django.storage.database import Database
from duroxide_django.testing import assert_healthy
from tests.operations.rewinding import RESULT, event_of, key_of, rows_of, run_all


class TestFork:
    def test_of_a_running_instance_goes_its_own_way(self, client, flows, backend):
        client.start_orchestration("one", "Listener")
        flows.drain()
        client.fork_instance("one", "two", reason="what if", actor="ann")
        client.raise_event("two", "Go", "other")
        flows.drain()
        assert client.get_status("two").output == "other"
        assert client.get_status("one").status == "Running"
        client.raise_event("one", "Go", "own")
        flows.drain()
        assert client.get_status("one").output == "own"
        (record,) = client.list_audit_records("one")
        assert (record.verb, record.actor, record.reason) == ("fork", "ann", "what if")
        assert record.details["new_instance_id"] == "two"
        assert client.list_audit_records("two")[0].details["forked_from"] == "one"
        assert_healthy(backend)

    def test_of_a_failed_instance_tries_again(self, client, program):
        good = []

        @program.activity("Work")
        def work(ctx, value):
            if not good:
                raise ValueError("bad")
            return value

        @program.orchestration("Flow")
        def flow(ctx, value):
            return (yield ctx.schedule_activity("Work", value))

        client.start_orchestration("one", "Flow", 7)
        program.drain()
        good.append(True)
        client.fork_instance("one", "two")
        program.drain()
        assert client.get_status("two").output == 7
        assert client.get_status("one").status == "Failed"

    def test_is_refused(self, client, flows):
        @flows.orchestration("Parent")
        def parent(ctx, _):
            return (yield ctx.schedule_sub_orchestration("Listener", None))

        client.start_orchestration("one", "Parent")
        with pytest.raises(InvalidArgument, match="not begun"):
            client.fork_instance("one", "two")
        flows.drain()
        with pytest.raises(InvalidArgument, match="a fork can't share it"):
            client.fork_instance("one", "two")
        with pytest.raises(InstanceAlreadyExists):
            client.fork_instance("one", "one", event_id=0)
        with pytest.raises(InvalidArgument):
            client.fork_instance("one", "x" * (MAX_INSTANCE_ID_CHARS + 1))
        assert client.list_audit_records() == []
        assert len(client.list_all_instances()) == 2

    def test_of_a_child_is_a_root(self, client, flows, backend):
        """No parent waits for it, also if it goes on with the history that names one."""

        @flows.orchestration("Parent")
        def parent(ctx, _):
            return (yield ctx.schedule_sub_orchestration_with_id("Listener", "child"))

        client.start_orchestration("parent", "Parent")
        flows.drain()
        client.fork_instance("child", "copy")
        flows.drain()
        client.raise_event("copy", "Go", "other")
        flows.drain()
        assert client.get_status("copy").output == "other"
        assert client.get_instance_info("copy").parent_instance_id is None
        assert "parent" not in client.read_execution_history("copy", 1)[0].data
        assert "parent" in client.read_execution_history("child", 1)[0].data
        assert client.get_status("parent").status == "Running"
        client.raise_event("child", "Go", "own")
        flows.drain()
        assert client.get_status("parent").output == "own"
        assert_healthy(backend)


class TestOfAnOrder:
    @pytest.fixture
    def waiting(self, program, shop, client):
        client.start_orchestration("one", "Order", 7)
        program.drain(jump=False)
        client.raise_event("one", "approved", "yes")
        program.drain(jump=False)
        return "one"

    def test_goes_on_alone_with_what_it_took_over(self, program, shop, client, waiting, backend):
        forked = client.fork_instance(
            waiting, "two", event_id=event_of(client, waiting, "ExternalEvent"), redeliver=False, actor="ann"
        )
        assert forked.rescheduled == []
        assert_healthy(backend)
        assert client.get_kv_all_values("two") == {"receipt": "receipt 1"}
        assert client.get_status("two").custom_status == "charged"
        client.raise_event("two", "approved", "no")
        program.drain(jump=False)
        assert client.get_status("two").output == ["receipt 1", "no"]
        assert client.get_status("one").output == ["receipt 1", "yes"]
        assert shop == ["charge", "ship", "ship"]
        assert client.list_audit_records("one")[0].details["new_instance_id"] == "two"

    def test_runs_what_had_no_result_there(self, program, shop, client, waiting):
        forked = client.fork_instance(
            waiting,
            "two",
            event_id=event_of(client, waiting, "ActivityCompleted"),
            rerun_activities=True,
            redeliver=False,
        )
        assert [name.partition("#")[0] for name in forked.rescheduled] == ["Charge"]
        program.drain(jump=False)
        client.raise_event("two", "approved", "no")
        program.drain(jump=False)
        assert client.get_status("two").output == ["receipt 2", "no"]

    def test_from_zero_it_begins_with_the_same_input(self, program, shop, client, waiting):
        assert client.fork_instance(waiting, "two", event_id=0).kept_events == 0
        program.drain(jump=False)
        assert client.get_status("two").custom_status == "charged"

    def test_a_later_execution_takes_its_kv_entries_along(self, program, client):
        @program.orchestration("Loop")
        def loop(ctx, number):
            ctx.set_kv_value(f"round {number}", "x")
            yield ctx.wait_for_event("Go")
            if number == 2:
                return ctx.execution_id
            yield ctx.continue_as_new(number + 1)

        client.start_orchestration("one", "Loop", 1)
        program.drain(jump=False)
        client.raise_event("one", "Go")
        program.drain(jump=False)
        client.raise_event("one", "Go")
        program.drain(jump=False)
        client.fork_instance("one", "two", event_id=event_of(client, "one", "ExternalEvent"), redeliver=False)
        assert client.get_kv_all_values("two") == {"round 1": "x", "round 2": "x"}
        client.raise_event("two", "Go")
        program.drain(jump=False)
        assert client.get_status("two").output == 2

    def test_the_preview_tells_the_same_and_changes_nothing(self, program, shop, client, waiting, backend):
        event = event_of(client, waiting, "ActivityCompleted")
        original = rows_of(backend, key_of(backend, waiting))
        preview = client.preview_fork(waiting, event_id=event, rerun_activities=True)
        assert client.list_all_instances() == ["one"]
        forked = client.fork_instance(waiting, "two", event_id=event, rerun_activities=True)
        assert forked.instance_ids == ["two"]
        assert (forked.kept_events, forked.rescheduled, forked.delivered_again) == (event, ["Charge#3"], ["approved"])
        forked.instance_ids = preview.instance_ids
        assert forked == preview
        assert rows_of(backend, key_of(backend, waiting)) == original

    def test_is_refused(self, program, shop, client, waiting):
        @program.orchestration("Kid")
        def kid(ctx, value):
            return (yield ctx.wait_for_event("Go"))

        @program.orchestration("Parent")
        def parent(ctx, value):
            yield ctx.all([ctx.schedule_sub_orchestration("Kid"), ctx.wait_for_event("Go")])

        client.start_orchestration("parent", "Parent")
        program.drain(jump=False)
        client.raise_event("parent", "Go")
        program.drain(jump=False)
        event = event_of(client, "parent", "ExternalEvent")
        with pytest.raises(InvalidArgument, match="can't share it"):
            client.fork_instance("parent", "two", event_id=event)
        with pytest.raises(InvalidArgument, match="can't share it"):
            client.preview_fork("parent", event_id=event)
        with pytest.raises(InstanceAlreadyExists):
            client.fork_instance(waiting, "parent", event_id=0)
        with pytest.raises(InvalidArgument, match="choose one"):
            client.fork_instance(waiting, "two", event_id=99)
        with pytest.raises(InstanceNotFound):
            client.preview_fork("nobody")
        assert client.get_status("two").status == "NotFound"

    def test_the_command_previews_both_and_drops_events(self, program, shop, client, waiting, capsys):
        event = str(event_of(client, waiting, "ExternalEvent"))
        call_command("duroxide", "rewind", "one", event, "--dry-run", "--json")
        assert json.loads(capsys.readouterr().out)["delivered_again"] == ["approved"]
        call_command("duroxide", "fork", "one", "two", "--event", event, "--dry-run", "--json")
        assert json.loads(capsys.readouterr().out)["delivered_again"] == ["approved"]
        assert client.list_all_instances() == ["one"]
        call_command("duroxide", "fork", "one", "two", "--event", event, "--reason", "try", "--json")
        assert json.loads(capsys.readouterr().out)["instance_ids"] == ["two"]
        call_command("duroxide", "rewind", "one", event, "--drop", "--actor", "ann", "--json")
        assert client.get_status("one").status == "Running"
        assert [record.verb for record in client.list_audit_records("one")] == ["rewind", "fork"]


def test_the_command_offers_both(client, flows, backend, capsys):
    run_all(client, flows)
    call_command("duroxide", "rewind", "all", "5", "--rerun", "--reason", "why", "--actor", "ann", "--json")
    assert json.loads(capsys.readouterr().out)["kept_events"] <= 5
    flows.drain()
    call_command("duroxide", "fork", "all", "copy", "--event", "5", "--json")
    flows.drain()
    assert client.get_status("all").output == client.get_status("copy").output == RESULT
    assert [record.verb for record in client.list_audit_records("all")] == ["fork", "rewind"]


def test_both_work_on_encrypted_payloads_and_leave_none_in_clear(program, shop, client, settings, backend):
    pytest.importorskip("cryptography")
    from cryptography.fernet import Fernet

    codec = {
        "BACKEND": "duroxide_django.payload_codec.FernetCodec",
        "OPTIONS": {"keys": [Fernet.generate_key().decode()]},
    }
    settings.DUROXIDE = {**settings.DUROXIDE, "PAYLOAD_CODEC": codec}
    client.start_orchestration("one", "Order", "secret order")
    program.drain(jump=False)
    client.raise_event("one", "approved", "secret answer")
    event = event_of(client, "one", "ActivityCompleted")
    client.fork_instance("one", "two", event_id=event, rerun_activities=True)
    client.rewind_instance("one", event, rerun_activities=True)
    rows = [
        row
        for table in ("history", "execution", "message", "kv", "instance", "activity_task")
        for row in Database(backend).fetch(f"SELECT * FROM duroxide_{table}")
    ]
    assert not [row for row in rows if "secret" in str(row) or "receipt 1" in str(row)]
    program.drain(jump=False)
    client.raise_event("two", "approved", "no")
    program.drain(jump=False)
    outputs = [client.get_status(name).output for name in ("one", "two")]
    assert [answer for _, answer in outputs] == ["secret answer", "no"]
    assert {receipt for receipt, _ in outputs} == {"receipt 2", "receipt 3"}
