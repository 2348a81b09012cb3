"""Waiting for an end, a custom status or a KV value; reading without waiting."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import pickle
import threading

import pytest
from django.db import transaction

from duroxide_django import Client, ClientError, OrchestrationFailed, WaitInTransaction, WaitTimeout
from tests.runtime.program import stopwatch

WAITS = {
    "wait_for_orchestration": lambda client, timeout: client.wait_for_orchestration("waiting-1", timeout),
    "wait_for_orchestration_typed": lambda client, timeout: client.wait_for_orchestration_typed("waiting-1", timeout),
    "wait_for_kv_value": lambda client, timeout: client.wait_for_kv_value("waiting-1", "key", timeout),
    "wait_for_kv_value_typed": lambda client, timeout: client.wait_for_kv_value_typed("waiting-1", "key", timeout),
}
STATUS_WAIT = {
    "wait_for_status_change": lambda client, timeout: client.wait_for_status_change("waiting-1", 0, 50, timeout),
}


@pytest.fixture(autouse=True)
def workflows(program):
    @program.orchestration("Waiting")
    def waiting(ctx, input):
        return (yield ctx.wait_for_event("go"))

    @program.orchestration("Stages")
    def stages(ctx, input):
        while (stage := (yield ctx.dequeue_event("stages"))) is not None:
            ctx.set_custom_status(stage)
        return "all stages"

    @program.orchestration("Echo")
    def echo(ctx, input):
        return input

    @program.orchestration("Failing")
    def failing(ctx, input):
        raise ValueError("broken")


class TestTimeouts:
    @pytest.mark.parametrize("wait", WAITS)
    @pytest.mark.parametrize("started", [True, False], ids=["running", "unknown"])
    def test_raise_wait_timeout(self, client, wait, started):
        """The time is up, for a running instance as for an unknown one: an error of both worlds' types."""
        if started:
            client.start_orchestration("waiting-1", "Waiting")
        with stopwatch() as took, pytest.raises(WaitTimeout, match=r"timed out.*'waiting-1'.*30 ms") as caught:
            WAITS[wait](client, 30)
        assert isinstance(caught.value, TimeoutError)
        assert isinstance(caught.value, RuntimeError)
        assert caught.value.instance_id == "waiting-1"
        assert 0.025 < took() < 5

    @pytest.mark.parametrize("started", [True, False], ids=["running", "unknown"])
    def test_give_none_for_a_status_change(self, client, started):
        """wait_for_status_change() returns None instead."""
        if started:
            client.start_orchestration("waiting-1", "Waiting")
        assert client.wait_for_status_change("waiting-1", 0, 10, 30) is None

    def test_of_zero_look_once(self, client, program):
        """With no time to wait, what is there is returned and what isn't times out."""
        client.start_orchestration("echo-1", "Echo", 1)
        with pytest.raises(WaitTimeout):
            client.wait_for_orchestration("echo-1", 0)
        program.drain()
        assert client.wait_for_orchestration("echo-1", 0).output == 1


class TestInTransaction:
    @pytest.mark.parametrize("wait", [*WAITS, *STATUS_WAIT])
    def test_a_wait_is_refused(self, client, backend, wait):
        """Inside atomic() no change could ever be seen: refused at once, and the transaction stays usable."""
        with transaction.atomic(using=backend):
            client.start_orchestration("waiting-1", "Waiting")
            with stopwatch() as took, pytest.raises(WaitInTransaction, match="after the transaction has committed"):
                (WAITS | STATUS_WAIT)[wait](client, 30_000)
            assert took() < 5
        assert client.get_status("waiting-1").status == "Running"

    def test_a_transaction_on_another_alias_does_not_matter(self, client, program):
        """Only the workflows' own alias counts."""
        client.start_orchestration("echo-1", "Echo", 1)
        program.drain()
        with transaction.atomic(using="default"):
            assert client.wait_for_orchestration("echo-1").output == 1


class TestOrchestrationEnd:
    def test_gives_the_result_of_an_ended_instance_at_once(self, client, program):
        """The whole result comes back, of a completed instance as of a failed one."""
        client.start_orchestration("echo-1", "Echo", {"a": 1})
        client.start_orchestration("failing-1", "Failing")
        program.drain()
        assert client.wait_for_orchestration("echo-1").output == {"a": 1}
        failed = client.wait_for_orchestration("failing-1")
        assert (failed.status, failed.error, failed.output) == ("Failed", "ValueError: broken", None)

    def test_sees_an_end_that_another_thread_brings_about(self, client, start_runtime):
        """A wait begun before the end returns soon after it."""
        start_runtime()
        client.start_orchestration("waiting-1", "Waiting")
        helper = threading.Timer(0.1, lambda: _raise_and_close(client.db.alias))
        helper.start()
        assert client.wait_for_orchestration("waiting-1", 20_000).output == "late"
        helper.join()

    def test_spans_continue_as_new(self, client, program):
        """An execution that ended for the next one isn't the end."""

        @program.orchestration("Again")
        def again(ctx, count):
            if count:
                yield ctx.continue_as_new(count - 1)
            return ctx.execution_id

        client.start_orchestration("again-1", "Again", 3)
        program.drain()
        assert client.wait_for_orchestration("again-1").output == 4

    def test_typed_gives_the_output_itself(self, client, program):
        """The output comes bare, or built into the given type."""

        @dataclasses.dataclass
        class Receipt:
            number: int
            day: dt.date

        client.start_orchestration("echo-1", "Echo", {"number": 7, "day": dt.date(2024, 2, 29)})
        program.drain()
        assert client.wait_for_orchestration_typed("echo-1") == {"number": 7, "day": "2024-02-29"}
        assert client.wait_for_orchestration_typed("echo-1", result_type=Receipt) == Receipt(7, dt.date(2024, 2, 29))

    def test_typed_raises_the_failure(self, client, program):
        """A failed instance raises OrchestrationFailed with its error text."""
        client.start_orchestration("failing-1", "Failing")
        program.drain()
        with pytest.raises(OrchestrationFailed, match=r"^ValueError: broken$") as caught:
            client.wait_for_orchestration_typed("failing-1")
        assert isinstance(caught.value, ClientError)
        assert caught.value.instance_id == "failing-1"
        assert caught.value.error_types[0] == "ValueError"
        assert "Traceback (most recent call last)" in caught.value.traceback_text
        assert not caught.value.is_cancelled

    def test_typed_tells_a_cancel_from_a_failure(self, client, program):
        """A cancelled instance raises too, and says that it was cancelled."""
        client.start_orchestration("failing-1", "Failing")
        client.cancel_instance("failing-1", "enough")
        program.drain()
        with pytest.raises(OrchestrationFailed, match=r"^canceled: enough$") as caught:
            client.wait_for_orchestration_typed("failing-1")
        assert caught.value.is_cancelled


def _raise_and_close(alias):
    from django.db import connections

    Client(using=alias).raise_event("waiting-1", "go", "late")
    connections.close_all()


class TestStatusChange:
    def stage(self, client, program, *stages):
        for stage in stages:
            client.enqueue_event("stages-1", "stages", stage)
            program.drain()

    def test_gives_the_state_once_its_version_is_newer(self, client, program):
        """Each version is seen once: the last seen one is waited past."""
        client.start_orchestration("stages-1", "Stages")
        self.stage(client, program, "first")
        seen = client.wait_for_status_change("stages-1", 0)
        assert (seen.status, seen.custom_status, seen.custom_status_version) == ("Running", "first", 1)
        assert client.wait_for_status_change("stages-1", 1, 10, 30) is None
        self.stage(client, program, "second", "third")
        seen = client.wait_for_status_change("stages-1", 1)
        assert (seen.custom_status, seen.custom_status_version) == ("third", 3)

    def test_sees_a_change_while_it_waits(self, client, start_runtime):
        """A wait begun before the change returns with it."""
        start_runtime()
        client.start_orchestration("stages-1", "Stages")

        def send():
            from django.db import connections

            Client(using=client.db.alias).enqueue_event("stages-1", "stages", "now")
            connections.close_all()

        helper = threading.Timer(0.1, send)
        helper.start()
        assert client.wait_for_status_change("stages-1", 0, 50, 20_000).custom_status == "now"
        helper.join()

    def test_reports_the_end_to_everybody_and_every_time(self, client, program):
        """The end is news even if the status stands still; whoever shares the client hears of it as well."""
        client.start_orchestration("stages-1", "Stages")
        self.stage(client, program, "only", None)
        for last_seen in (0, 1, 1, 7):
            with stopwatch() as took:
                state = client.wait_for_status_change("stages-1", last_seen)
            assert (state.status, state.output, state.custom_status_version) == ("Completed", "all stages", 1)
            assert took() < 10

    def test_ends_the_polling_loop_of_who_has_heard_of_the_end(self, client, program):
        """Handing back the version of the end's own report gives None at once, though the time isn't up."""
        client.start_orchestration("stages-1", "Stages")
        self.stage(client, program, "only")
        running = client.wait_for_status_change("stages-1", 0)
        self.stage(client, program, None)
        ended = client.wait_for_status_change("stages-1", running.custom_status_version)
        assert (running.status, ended.status) == ("Running", "Completed")
        handed_on = pickle.loads(pickle.dumps(ended))  # To another process.
        with stopwatch() as took:
            for version in (ended.custom_status_version, handed_on.custom_status_version):
                assert client.wait_for_status_change("stages-1", version, 50, 30_000) is None
        assert took() < 10

    def test_reports_the_end_of_the_next_life_of_an_id(self, client, program):
        """Who has heard of one life's end has not heard of the next one's."""
        client.start_orchestration("echo-1", "Echo", "first")
        program.drain()
        seen = client.wait_for_status_change("echo-1").custom_status_version
        client.start_orchestration("echo-1", "Echo", "second", on_conflict="restart_terminal")
        program.drain()
        assert client.wait_for_status_change("echo-1", seen).output == "second"

    def test_gives_versions_that_are_numbers(self, client, program):
        """Nobody needs to know that the end's version is a special one."""
        client.start_orchestration("echo-1", "Echo", 1)
        program.drain()
        version = client.wait_for_status_change("echo-1").custom_status_version
        assert (version, json.dumps(version), f"{version}", version + 1) == (0, "0", "0", 1)

    def test_reports_the_end_of_an_instance_without_any_status(self, client, program):
        """An instance that never set a status is reported when it has ended."""
        client.start_orchestration("echo-1", "Echo", 1)
        program.drain()
        result = client.wait_for_status_change("echo-1", 0)
        assert (result.status, result.custom_status, result.custom_status_version) == ("Completed", None, 0)


class TestKeyValues:
    @pytest.fixture(autouse=True)
    def filled(self, client, program):
        @program.orchestration("Keys")
        def keys(ctx, input):
            ctx.set_kv_value("plain", "text")
            ctx.set_kv_value("json", '{"a": [1, 2]}')
            ctx.set_kv_value("", "empty key")
            ctx.set_kv_value("empty", "")
            ctx.set_kv_value("gone", "soon")
            ctx.clear_kv_value("gone")
            return "done"

        client.start_orchestration("keys-1", "Keys")
        program.drain()

    def test_can_be_read(self, client):
        """Values are texts; an absent key, a removed one and an unknown instance give None."""
        assert client.get_kv_value("keys-1", "plain") == "text"
        assert client.get_kv_value("keys-1", "") == "empty key"
        assert client.get_kv_value("keys-1", "empty") == ""
        assert client.get_kv_value("keys-1", "gone") is None
        assert client.get_kv_value("keys-1", "never") is None
        assert client.get_kv_value("nobody", "plain") is None

    def test_can_be_read_all_at_once(self, client):
        """All live entries as a dict; an unknown instance has none."""
        assert client.get_kv_all_values("keys-1") == {
            "": "empty key",
            "empty": "",
            "json": '{"a": [1, 2]}',
            "plain": "text",
        }
        assert client.get_kv_all_values("nobody") == {}

    def test_hold_values_that_are_no_text_as_json(self, client, program):
        """The typed getters give back what the orchestration set."""
        value = {"total": 12.5, "lines": [1, None, "tea"], "done": True}

        @program.orchestration("Storing")
        def storing(ctx, input):
            ctx.set_kv_value("value", value)
            ctx.set_kv_value("list", [1, "2"])
            ctx.set_custom_status({"step": 1})
            yield ctx.schedule_timer(1)

        client.start_orchestration("storing-1", "Storing")
        program.drain()
        assert client.get_kv_value_typed("storing-1", "value") == value
        assert client.wait_for_kv_value_typed("storing-1", "list") == [1, "2"]
        assert json.loads(client.get_status("storing-1").custom_status) == {"step": 1}

    def test_can_be_decoded(self, client):
        """The typed getters decode JSON; what is none is a ValueError, what is absent None."""
        assert client.get_kv_value_typed("keys-1", "json") == {"a": [1, 2]}
        assert client.wait_for_kv_value_typed("keys-1", "json") == {"a": [1, 2]}
        assert client.get_kv_value_typed("keys-1", "never") is None
        with pytest.raises(ValueError, match="Expecting value"):
            client.get_kv_value_typed("keys-1", "plain")

    def test_can_be_waited_for(self, client, program, start_runtime):
        """A wait returns the value as soon as a turn that set it is committed, an empty one too."""
        assert client.wait_for_kv_value("keys-1", "plain", 0) == "text"
        assert client.wait_for_kv_value("keys-1", "empty", 0) == ""

        @program.orchestration("Late")
        def late(ctx, input):
            yield ctx.schedule_timer(100)
            ctx.set_kv_value("key", "late")

        client.start_orchestration("late-1", "Late")
        start_runtime()
        assert client.wait_for_kv_value("late-1", "key", 20_000) == "late"


class TestStatus:
    def test_an_unknown_instance_is_not_found(self, client):
        """Reading an unknown id is no error: the status says NotFound, all else is empty."""
        result = client.get_status("nobody")
        assert dataclasses.asdict(result) == {
            "status": "NotFound",
            "output": None,
            "error": None,
            "custom_status": None,
            "custom_status_version": 0,
            "is_cancelled": False,
            "error_details": None,
        }

    def test_a_failed_instance_tells_why(self, client, program):
        """The error text is '<Class>: <message>'; class names and the traceback stand beside it."""
        client.start_orchestration("failing-1", "Failing")
        program.drain()
        result = client.get_status("failing-1")
        assert (result.status, result.error, result.is_cancelled) == ("Failed", "ValueError: broken", False)
        (details,) = result.error_details.values()
        assert details["types"][:2] == ["ValueError", "Exception"]
        assert 'raise ValueError("broken")' in details["traceback"]

    def test_a_custom_status_outlives_the_end(self, client, program):
        """The last status and its version stay after completion."""

        @program.orchestration("Reporting")
        def reporting(ctx, input):
            ctx.set_custom_status("begun")
            yield ctx.schedule_timer(1)
            ctx.set_custom_status("nearly")
            ctx.set_custom_status("done")

        client.start_orchestration("reporting-1", "Reporting")
        program.drain()
        result = client.get_status("reporting-1")
        assert (result.status, result.custom_status, result.custom_status_version) == ("Completed", "done", 2)
