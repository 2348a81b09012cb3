"""The payload codec: nothing that users hand over is readable in the database, and everything still works."""

from __future__ import annotations

import dataclasses
import json

import pytest
from django.core.checks import run_checks
from django.core.management import call_command
from django.db import connections

from duroxide_django import ActivityFailed, ConfigurationError, PayloadUnreadable, SubOrchestrationFailed
from duroxide_django.engine import events
from duroxide_django.payload_codec import FernetCodec
from duroxide_django.storage.payloads import MARK, PAYLOAD_FIELDS, unseal
from duroxide_django.testing import assert_healthy

OLD, NEW = FernetCodec.new_key(), FernetCodec.new_key()

#: In every payload of these tests, and in nothing else.
SECRET = "plainsecret"

#: Tables that hold something in the middle of them.
TABLES = {
    "duroxide_instance",
    "duroxide_execution",
    "duroxide_history",
    "duroxide_message",
    "duroxide_kv",
    "duroxide_queue_message",
    "duroxide_audit",
}


def fernet(*keys, **options):
    return {"BACKEND": "duroxide_django.payload_codec.FernetCodec", "OPTIONS": {"keys": list(keys), **options}}


@pytest.fixture
def configure(settings):
    """Set PAYLOAD_CODEC; None: none."""

    def configure(codec):
        settings.DUROXIDE = {**settings.DUROXIDE, "PAYLOAD_CODEC": codec}

    return configure


@pytest.fixture
def encrypted(configure):
    configure(fernet(OLD))


def rows_with(alias, text):
    """Return (table, row) of every row of ours that holds ``text``."""
    connection = connections[alias]
    found = []
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names(cursor):
            if table.startswith("duroxide_"):
                cursor.execute(f"SELECT * FROM {table}")
                found += [(table, row) for row in cursor.fetchall() if text in repr(row)]
    return found


def sealed_tables(alias):
    return {table for table, _ in rows_with(alias, repr(MARK)[1:-1])}


@pytest.fixture
def everything(program):
    """Register workflows that use every feature that stores a payload."""

    @program.activity("Work")
    def work(ctx, value):
        ctx.heartbeat(f"{SECRET} progress")
        return f"{SECRET} result of {value}"

    @program.activity("Break")
    def fail(ctx, value):
        raise ValueError(f"{SECRET} in an exception")

    @program.orchestration("Child")
    def child(ctx, value):
        return f"{SECRET} from the child"
        yield

    @program.orchestration("BrokenChild")
    def broken(ctx, value):
        raise RuntimeError(f"{SECRET} in the child's error")
        yield

    @program.orchestration("Waiter")
    def waiter(ctx, value):
        ctx.set_custom_status(f"{SECRET} status")
        ctx.set_kv_value("key", f"{SECRET} kv")
        yield ctx.wait_for_event("Never")

    @program.orchestration("All")
    def everything(ctx, value):
        ctx.set_custom_status(f"{SECRET} status {value['round']}")
        ctx.set_kv_value("key", f"{SECRET} kv {value['round']}")
        if value["round"] == 1:
            return (yield ctx.continue_as_new({"round": 2, "text": SECRET}))
        result = yield ctx.schedule_activity("Work", f"{SECRET} input")
        try:
            yield ctx.schedule_activity_with_retry(
                "Break", f"{SECRET} retried", {"max_attempts": 2, "backoff": "fixed", "initial_delay_ms": 10}
            )
        except ActivityFailed as exc:
            caught = str(exc)
        event = yield ctx.wait_for_event("Event")
        message = yield ctx.dequeue_event("queue")
        child = yield ctx.schedule_sub_orchestration("Child", f"{SECRET} child input")
        try:
            yield ctx.schedule_sub_orchestration("BrokenChild", f"{SECRET} child input")
        except SubOrchestrationFailed as exc:
            caught += str(exc)
        other = yield ctx.get_kv_value_from_instance("waiter", "key")
        ctx.start_orchestration("detached", "Child", f"{SECRET} detached input")
        yield ctx.wait_for_event("Finish")
        return {"result": result, "event": event, "message": message, "child": child, "caught": caught, "other": other}

    return program


def run_everything(program, client):
    """Start it and stop it in the middle, with something in every table."""
    client.start_orchestration("waiter", "Waiter", f"{SECRET} input")
    client.start_orchestration("all", "All", {"round": 1, "text": SECRET})
    program.drain()
    client.raise_event("all", "Event", f"{SECRET} event")
    client.enqueue_event("all", "queue", f"{SECRET} message")
    client.enqueue_event("all", "queue", f"{SECRET} left in the queue")
    program.drain()
    client.start_orchestration("cancelled", "Waiter", f"{SECRET} input")
    program.drain()
    client.cancel_instance("cancelled", f"{SECRET} reason")
    program.drain()
    client.pause_instance("waiter", reason=f"{SECRET} reason", actor="ann")
    client.enqueue_event("waiter", "queue", f"{SECRET} not taken over yet")
    client.start_orchestration("pending", "All", f"{SECRET} not begun")


EXPECTED = {
    "result": f"{SECRET} result of {SECRET} input",
    "event": f"{SECRET} event",
    "message": f"{SECRET} message",
    "child": f"{SECRET} from the child",
    "caught": f"ValueError: {SECRET} in an exceptionRuntimeError: {SECRET} in the child's error",
    "other": f"{SECRET} kv",
}


def finish(program, client):
    client.raise_event("all", "Finish")
    program.drain()
    result = client.get_status("all")
    assert (result.status, result.error) == ("Completed", None)
    assert result.output == EXPECTED


class TestNothingIsReadable:
    def test_in_any_table(self, everything, client, backend, encrypted):
        run_everything(everything, client)
        assert rows_with(backend, SECRET) == []
        finish(everything, client)
        assert rows_with(backend, SECRET) == []
        assert sealed_tables(backend) >= TABLES

    def test_the_scan_finds_what_is_not_encrypted(self, everything, client, backend):
        run_everything(everything, client)
        assert {table for table, _ in rows_with(backend, SECRET)} >= TABLES
        assert sealed_tables(backend) == set()

    def test_while_an_activity_runs(
        self, program, client, backend, encrypted, start_runtime, gate, wait_until, settings
    ):
        """The task's row: input and progress."""
        settings.DUROXIDE = {**settings.DUROXIDE, "CANCEL_CHECK_MS": 20}

        @program.activity("Hold")
        def hold(ctx, value):
            ctx.heartbeat({"step": f"{SECRET} progress"})
            gate.wait()
            return value

        @program.orchestration("Flow")
        def flow(ctx, value):
            return (yield ctx.schedule_activity("Hold", value))

        client.start_orchestration("one", "Flow", f"{SECRET} input")
        start_runtime()
        gate.wait_entered()
        wait_until(lambda: any("progress" in item.detail for item in client.list_pending("one")))
        assert f"{SECRET} progress" in client.list_pending("one")[0].detail
        assert rows_with(backend, SECRET) == []
        gate.open()
        assert client.wait_for_orchestration("one", 10_000).output == f"{SECRET} input"

    def test_when_code_does_not_fit_history(self, program, client, backend, encrypted):
        """What was expected and got quotes inputs."""

        @program.activity("Work")
        def work(ctx, value):
            return value

        def flow(word):
            def flow(ctx, value):
                yield ctx.schedule_activity("Work", f"{SECRET} {word}")
                yield ctx.wait_for_event("Go")

            return flow

        program.orchestration("Flow")(flow("before"))
        client.start_orchestration("one", "Flow")
        program.drain()
        program.registry = type(program.registry)()
        program.activity("Work")(work)
        program.orchestration("Flow")(flow("after"))
        client.raise_event("one", "Go")
        program.drain(jump=False)
        assert rows_with(backend, SECRET) == []
        assert client.get_blocked("one")["reason"] == "nondeterminism"
        assert f"{SECRET} after" in json.dumps(client.get_blocked("one"))

    def test_every_text_of_an_event_is_either_a_payload_or_known_to_be_none(self):
        """A new event field has to be decided about."""
        names = {"name", "version", "parent_instance", "session_id", "tag", "instance", "key"}
        texts = {
            field.name
            for cls in events.KINDS.values()
            for field in dataclasses.fields(cls)
            if "str" in str(field.type) and field.name not in ("event_id", "timestamp_ms", "source_event_id")
        }
        assert texts == names | PAYLOAD_FIELDS


class TestWhoReads:
    def test_client_and_commands(self, everything, client, backend, encrypted, capsys):
        run_everything(everything, client)
        finish(everything, client)
        history = client.read_execution_history("all", 2)
        assert SECRET in json.dumps([event.data for event in history])
        assert client.get_kv_value("all", "key") == f"{SECRET} kv 2"
        assert client.get_kv_all_values("all") == {"key": f"{SECRET} kv 2"}
        assert client.get_status("waiter").custom_status == f"{SECRET} status"
        assert SECRET in client.get_instance_info("all").output
        assert client.get_blocked("waiter")["message"] == f"paused by ann: {SECRET} reason"
        assert client.list_audit_records()[0].reason == f"{SECRET} reason"
        # The same id once more: the stored input is compared.
        client.start_orchestration("waiter", "Waiter", f"{SECRET} input", on_conflict="ignore")
        call_command("duroxide", "history", "all", "--using", backend, "--json")
        assert SECRET in capsys.readouterr().out
        with pytest.raises(SystemExit) as doctor:
            call_command("duroxide", "doctor", "--using", backend)
        assert doctor.value.code == 4
        assert f"paused by ann: {SECRET} reason" in capsys.readouterr().out

    def test_rewinding(self, program, client, backend, encrypted):
        """Results, events, messages and KV values are delivered again after a retry."""
        good = []

        @program.activity("Work")
        def work(ctx, value):
            if not good:
                raise ValueError(f"{SECRET} error")
            return value

        @program.orchestration("Flow")
        def flow(ctx, value):
            ctx.set_kv_value("key", f"{SECRET} before")
            first = yield ctx.wait_for_event("Event")
            result = yield ctx.schedule_activity("Work", first)
            second = yield ctx.dequeue_event("queue")
            return [value, result, second]

        client.start_orchestration("one", "Flow", f"{SECRET} input")
        program.drain()
        client.enqueue_event("one", "queue", f"{SECRET} message")
        client.raise_event("one", "Event", f"{SECRET} event")
        program.drain()
        assert client.get_status("one").error == f"ValueError: {SECRET} error"
        good.append(True)
        client.retry_instance("one")
        assert rows_with(backend, SECRET) == []
        program.drain()
        assert client.get_status("one").output == [f"{SECRET} input", f"{SECRET} event", f"{SECRET} message"]

    def test_checkreplay(self, program, client, backend, encrypted):
        from duroxide_django.management import _replay
        from duroxide_django.storage.database import Database

        @program.orchestration("Flow")
        def flow(ctx, value):
            ctx.set_kv_value("key", value)
            yield ctx.wait_for_event("Go")

        client.start_orchestration("one", "Flow", SECRET)
        program.drain()
        (checked,) = _replay.check(Database(backend), program.registry, name=None, limit=None)
        assert (checked.instance_id, checked.problem) == ("one", None)


class TestMissingKey:
    @pytest.fixture
    def flow(self, program):
        @program.activity("Work")
        def work(ctx, value):
            return f"{value} done"

        @program.orchestration("Flow")
        def flow(ctx, value):
            ctx.set_kv_value("key", value)
            event = yield ctx.wait_for_event("Go")
            return (yield ctx.schedule_activity("Work", event))

        @program.orchestration("Renewing")
        def renewing(ctx, value):
            if value == "first":
                ctx.set_custom_status(f"{SECRET} status")
                yield ctx.wait_for_event("Go")
                return (yield ctx.continue_as_new("second"))
            return value

        @program.orchestration("Reading")
        def reading(ctx, value):
            yield ctx.wait_for_event("Go")
            return (yield ctx.get_kv_value_from_instance("one", "key"))

        return program

    @pytest.mark.parametrize("codec", [None, fernet(NEW)], ids=["no codec", "another key"])
    def test_parks_the_instance_and_heals_it(self, flow, client, backend, configure, codec):
        """At every point where payloads are read: the start, a message, the history, the KV base."""
        configure(fernet(OLD))
        for name in ("start", "message", "history"):
            client.start_orchestration(name, "Flow", f"{SECRET} {name}")
            if name != "start":
                flow.drain()
        client.start_orchestration("renewed", "Renewing", "first")
        flow.drain(until_ms=0)
        client.raise_event("message", "Go", SECRET)
        configure(codec)
        client.raise_event("history", "Go", SECRET)
        client.raise_event("renewed", "Go", SECRET)
        client.start_orchestration("neighbour", "Flow", SECRET)
        flow.drain(jump=False)
        client.raise_event("neighbour", "Go", SECRET)
        flow.drain(jump=False)
        assert client.get_status("neighbour").output == f"{SECRET} done"
        names = ("message", "history", "renewed")
        for name in names:
            why = client.get_blocked(name)
            assert why["reason"] == "payload_unreadable"
            assert "PAYLOAD_CODEC" in why["message"]
        found = [finding for finding in client.examine_health() if finding.rule == "blocked_payload_unreadable"]
        assert {finding.instance_id for finding in found} == set(names)
        assert "PAYLOAD_CODEC" in found[0].cure
        configure(fernet(NEW, OLD))
        flow.drain()
        for name in ("message", "history"):
            assert client.get_status(name).output == f"{SECRET} done"
        assert client.get_status("renewed").output == "second"
        assert client.get_blocked("history") is None

    def test_of_the_start_message(self, flow, client, configure):
        configure(fernet(OLD))
        client.start_orchestration("one", "Flow", SECRET)
        configure(None)
        flow.drain(jump=False)
        assert client.get_status("one").status == "Running"
        assert client.get_blocked("one")["reason"] == "payload_unreadable"
        configure(fernet(OLD))
        client.raise_event("one", "Go", SECRET)
        flow.drain()
        assert client.get_status("one").output == f"{SECRET} done"

    def test_of_another_instances_value(self, flow, client, configure):
        """A KV cross-read happens inside a turn: it must not fail the reader's code."""
        configure(fernet(OLD))
        client.start_orchestration("one", "Flow", SECRET)
        flow.drain()
        configure(None)
        client.start_orchestration("reader", "Reading")
        flow.drain(jump=False)
        client.raise_event("reader", "Go")
        flow.drain(jump=False)
        assert client.get_blocked("reader")["reason"] == "payload_unreadable"
        configure(fernet(OLD))
        flow.drain()
        assert client.get_status("reader").output == SECRET

    def test_of_an_activitys_input(self, flow, client, configure, backend):
        """The task waits, is named by doctor, and no attempt is lost."""
        configure(fernet(OLD))
        client.start_orchestration("one", "Flow", SECRET)
        flow.drain()
        client.raise_event("one", "Go", SECRET)
        from duroxide_django import RuntimeOptions
        from duroxide_django.testing import virtual_clock

        flow.drain(options=RuntimeOptions(worker_concurrency=0), jump=False)
        configure(fernet(NEW))
        with virtual_clock() as clock:
            flow.drain(jump=False)
            (finding,) = [found for found in client.examine_health() if found.rule == "unreadable_activity"]
            assert finding.instance_id == "one"
            assert "PAYLOAD_CODEC" in finding.why
            flow.drain(until_ms=clock.now_ms + 300_000)
            assert client.get_status("one").status == "Running"
            configure(fernet(NEW, OLD))
            flow.drain(until_ms=clock.now_ms + 60_000)
        assert client.get_status("one").output == f"{SECRET} done"
        assert_healthy(backend)

    def test_does_not_keep_a_forced_cancel_from_ending_it(self, flow, client, configure):
        configure(fernet(OLD))
        client.start_orchestration("one", "Flow", SECRET)
        flow.drain()
        client.raise_event("one", "Go", SECRET)
        configure(None)
        flow.drain(jump=False)
        client.cancel_instance("one", "no key", force=True)
        flow.drain(jump=False)
        assert client.get_instance_info("one").is_cancelled

    def test_is_an_error_for_clients_that_names_the_setting(self, flow, client, configure):
        configure(fernet(OLD))
        client.start_orchestration("one", "Flow", SECRET)
        flow.drain()
        configure(None)
        for read in (
            lambda: client.get_kv_value("one", "key"),
            lambda: client.read_execution_history("one", 1),
        ):
            with pytest.raises(PayloadUnreadable, match=r"'fernet'.*none is configured.*PAYLOAD_CODEC"):
                read()

    def test_leaves_operators_something_to_look_at(self, everything, client, configure, backend, capsys):
        configure(fernet(OLD))
        run_everything(everything, client)
        configure(fernet(NEW))
        for name in ("all", "waiter", "cancelled", "pending"):
            call_command("duroxide", "show", name, "--using", backend)
            assert name in capsys.readouterr().out
        call_command("duroxide", "list", "--using", backend)
        assert {"all", "waiter", "cancelled", "pending"} <= set(capsys.readouterr().out.split())
        call_command("duroxide", "audit", "--using", backend)
        assert "PayloadUnreadable" in capsys.readouterr().out
        call_command("duroxide", "doctor", "--fail-on", "never", "--using", backend)
        assert client.get_instance_info("cancelled").output.startswith("[PayloadUnreadable: ")

    def test_of_changed_ciphertext(self, flow, client, configure, backend):
        """Fernet authenticates: who changes a row by hand gets no turn from it."""
        configure(fernet(OLD))
        client.start_orchestration("one", "Flow", SECRET)
        with connections[backend].cursor() as cursor:
            cursor.execute("UPDATE duroxide_message SET payload = REPLACE(payload, 'gAAAA', 'gAAAB')")
        flow.drain(jump=False)
        assert client.get_blocked("one")["reason"] == "payload_unreadable"


class TestSwitching:
    def test_on_leaves_older_rows_readable(self, everything, client, configure, backend):
        run_everything(everything, client)
        configure(fernet(OLD))
        finish(everything, client)
        assert client.get_kv_value("waiter", "key") == f"{SECRET} kv"

    def test_rotation(self, everything, client, configure, backend, capsys):
        """New key first, older ones decrypt; reencode; then the older key may go."""
        run_everything(everything, client)
        configure(fernet(OLD))
        call_command("duroxide", "reencode", "--dry-run", "--using", backend)
        assert rows_with(backend, SECRET) != []
        call_command("duroxide", "reencode", "--using", backend)
        assert rows_with(backend, SECRET) == []
        configure(fernet(NEW, OLD))
        call_command("duroxide", "reencode", "--using", backend)
        configure(fernet(NEW))
        capsys.readouterr()
        call_command("duroxide", "reencode", "--using", backend, "--json")
        assert {total["rewritten"] for total in json.loads(capsys.readouterr().out).values()} == {0}
        assert client.list_audit_records()[0].reason == f"{SECRET} reason"
        client.resume_instance("waiter")
        finish(everything, client)

    def test_off(self, everything, client, configure, backend):
        configure(fernet(OLD))
        run_everything(everything, client)
        configure(fernet(OLD, decrypt_only=True))
        call_command("duroxide", "reencode", "--using", backend)
        configure(None)
        assert sealed_tables(backend) == set()
        finish(everything, client)

    def test_reencode_says_what_it_could_not_read(self, everything, client, configure, backend, capsys):
        configure(fernet(OLD))
        run_everything(everything, client)
        before = rows_with(backend, MARK)
        configure(fernet(NEW))
        with pytest.raises(SystemExit) as left:
            call_command("duroxide", "reencode", "--using", backend)
        assert left.value.code == 4
        assert "none of the 1" in capsys.readouterr().out
        assert rows_with(backend, MARK) == before

    @pytest.mark.parametrize("token", ["gäöü", "gAAAA", ""], ids=["not ASCII", "too short", "empty"])
    def test_reencode_goes_on_after_a_token_that_is_none(self, everything, client, configure, backend, capsys, token):
        """It stays as it is and is reported; all else is rewritten."""
        configure(fernet(OLD))
        run_everything(everything, client)
        damaged = f"{MARK}fernet:{token}"
        with connections[backend].cursor() as cursor:
            cursor.execute("UPDATE duroxide_execution SET output = %s WHERE execution_id = 1", [damaged])
            count = cursor.rowcount
        configure(fernet(NEW, OLD))
        for _ in range(2):
            with pytest.raises(SystemExit) as left:
                call_command("duroxide", "reencode", "--using", backend, "--json")
            assert left.value.code == 4
            tables = json.loads(capsys.readouterr().out)
            assert {name: table["unreadable"] for name, table in tables.items() if table["unreadable"]} == {
                "duroxide_execution": count
            }
            assert tables["duroxide_execution"]["why"]
        # Nothing else needs the older key now, not even the other columns of these rows.
        configure(fernet(NEW))
        with connections[backend].cursor() as cursor:
            cursor.execute("SELECT input FROM duroxide_execution WHERE output = %s", [damaged])
            assert len([unseal(row[0]) for row in cursor.fetchall()]) == count
        with pytest.raises(SystemExit):
            call_command("duroxide", "reencode", "--using", backend, "--json")
        tables = json.loads(capsys.readouterr().out)
        assert sum(table["unreadable"] for table in tables.values()) == count
        assert sum(table["rewritten"] for table in tables.values()) == 0

    def test_reencode_goes_on_after_whatever_a_codec_raises(self, everything, client, configure, backend, capsys):
        configure(f"{__name__}.Reversing")
        run_everything(everything, client)
        configure(f"{__name__}.Faulty")
        with pytest.raises(SystemExit) as left:
            call_command("duroxide", "reencode", "--using", backend)
        assert left.value.code == 4
        shown = capsys.readouterr().out
        assert "ZeroDivisionError" in shown
        assert "duroxide_kv" in shown

    @pytest.mark.parametrize("codec", [None, fernet(OLD)], ids=["no codec", "fernet"])
    def test_texts_that_look_encrypted_are_not_taken_for_it(self, program, client, configure, backend, codec):
        """Whoever may set a status or a key can't block an instance by it."""
        configure(codec)
        text = f"{MARK}fernet:gAAAA"

        @program.orchestration("Flow")
        def flow(ctx, value):
            ctx.set_custom_status(text)
            ctx.set_kv_value("key", text)
            yield ctx.wait_for_event("Go")
            return [value, ctx.get_kv_value("key")]

        client.start_orchestration("one", "Flow", text)
        program.drain()
        client.raise_event("one", "Go", text)
        program.drain()
        result = client.get_status("one")
        assert (result.output, result.custom_status) == ([text, text], text)
        assert client.get_kv_value("one", "key") == text
        client.start_orchestration("two", "Flow", text)
        program.drain()
        client.cancel_instance("two", text)
        program.drain()
        assert client.get_status("two").error == f"canceled: {text}"


class Reversing:
    """A codec of a project's own."""

    name = "reversed"

    def encode(self, text):
        return text[::-1]

    def decode(self, stored):
        return stored[::-1]

    def is_current(self, stored):
        return True


class Faulty(Reversing):
    def encode(self, text):
        return 1 / 0

    def is_current(self, stored):
        return 1 / 0


class Nameless(Reversing):
    name = "Not Valid"


class Refusing:
    """A project's codec that quotes its key in its errors."""

    def __init__(self, error):
        raise {"TypeError": TypeError, "ValueError": ValueError}[error]("short-key-text is no key")


class TestConfiguration:
    def test_takes_any_codec_by_its_path(self, everything, client, configure, backend):
        configure(f"{__name__}.Reversing")
        run_everything(everything, client)
        assert rows_with(backend, SECRET) == []
        finish(everything, client)

    @pytest.mark.parametrize(
        ("codec", "problem"),
        [
            (7, "must be None, a dotted path"),
            ({"OPTIONS": {}}, "must be None, a dotted path"),
            pytest.param(OLD, "no dotted path", id="a key"),
            ({"BACKEND": "short-key-text"}, "no dotted path"),
            ({"BACKEND": f"{__name__}.Refusing", "OPTIONS": {"error": "TypeError"}}, "doesn't take these options"),
            ({"BACKEND": f"{__name__}.Refusing", "OPTIONS": {"error": "ValueError"}}, "can't be made.*ValueError"),
            ({"BACKEND": "no.such.module"}, "can't be imported"),
            (fernet(), "at least one key"),
            (fernet("short-key-text"), r"OPTIONS\['keys'\]\[0\]"),
            (fernet(OLD, unknown=1), "doesn't take these options"),
            ({"BACKEND": "duroxide_django.payload_codec.FernetCodec", "MORE": 1}, "'BACKEND' and 'OPTIONS'"),
            (f"{__name__}.Nameless", "no valid name"),
        ],
    )
    def test_what_is_wrong_is_an_error_of_the_check_without_the_key(self, configure, backend, client, codec, problem):
        configure(codec)
        messages = [message.msg for message in run_checks() if message.id == "duroxide_django.E001"]
        assert len(messages) == 1
        assert "short-key-text" not in messages[0]
        assert OLD not in messages[0]
        with pytest.raises(ConfigurationError, match=problem) as refused:
            client.start_orchestration("one", "Flow")
        assert "short-key-text" not in str(refused.value)
        assert OLD not in str(refused.value)

    def test_a_worker_does_not_start_with_a_wrong_one(self, configure, program):
        configure(fernet("short"))
        with pytest.raises(ConfigurationError, match="PAYLOAD_CODEC"):
            program.runtime().start()


class TestAdmin:
    @pytest.fixture
    def instances(self, everything, client, encrypted):
        run_everything(everything, client)
        client.start_orchestration("long", "Waiter", f"{SECRET} " + "long " * 1_000)
        client.start_orchestration("huge", "Waiter", f"{SECRET} " + "huge " * 20_000)
        everything.drain()

    def test_shows_payloads(self, instances, client, browser, page_of):
        page = browser.get(page_of("all")).content.decode()
        for text in ("status 2", "input", "event", "message", "left in the queue", "kv 2", "in an exception"):
            assert f"{SECRET} {text}" in page, text
        assert MARK not in page
        assert f"{SECRET} reason" in browser.get(page_of("waiter")).content.decode()
        events = json.loads(b"".join(browser.get(page_of("all", "history_json", 2)).streaming_content))
        assert any(f"{SECRET} event" in json.dumps(event) for event in events)
        assert MARK not in json.dumps(events, ensure_ascii=False)

    def test_cuts_long_ones_and_shows_them_in_full_when_asked(self, instances, browser, page_of):
        page = browser.get(page_of("long")).content.decode()
        assert f"{SECRET} long long" in page
        assert len(page) < 100_000
        assert "characters, encoded" in browser.get(page_of("huge")).content.decode()
        full = browser.get(page_of("huge", "input", 1)).content.decode()
        assert full.count("huge") == 20_000

    def test_works_without_the_key_and_says_so(self, instances, client, configure, browser, page_of):
        configure(None)
        for name in ("all", "waiter", "cancelled", "long", "huge", "pending"):
            response = browser.get(page_of(name))
            assert response.status_code == 200
            assert "PayloadUnreadable" in response.content.decode()
        assert browser.get("/admin/duroxide_django/instance/").status_code == 200
        downloaded = b"".join(browser.get(page_of("all", "history_json", 2)).streaming_content)
        assert b"PayloadUnreadable" in downloaded
