"""Bad input: a typed exception at the earliest point, which says what was expected, and nothing is written."""

from __future__ import annotations

import asyncio
import dataclasses
import decimal
import math

import pytest

from duroxide_django import (
    InstanceFilter,
    InvalidArgument,
    InvalidTask,
    PayloadError,
    PayloadTooLarge,
    PruneOptions,
    Runtime,
)
from duroxide_django.engine.registry import Registry


@pytest.fixture(autouse=True)
def running(client, program):
    """An instance to signal: whatever is refused must not reach it."""

    @program.orchestration("Waiting")
    def waiting(ctx, input):
        return (yield ctx.wait_for_event("go"))

    client.start_orchestration("waiting-1", "Waiting")
    program.drain()


@pytest.fixture
def refused(count_rows):
    """Call something and expect InvalidArgument (or a subclass) with a message; nothing may be written."""

    def refused(call, match, error=InvalidArgument):
        before = count_rows()
        with pytest.raises(error, match=match) as caught:
            call()
        assert isinstance(caught.value, (ValueError, TypeError))
        assert count_rows() == before

    return refused


BAD_IDS = [
    (None, "instance_id must be a str, got NoneType"),
    (17, "instance_id must be a str, got int"),
    (b"id", "instance_id must be a str, got bytes"),
    ("", "instance_id must not be empty"),
    ("x" * 513, "instance_id may have 512 characters at most, got 513"),
    ("nul\x00", "instance_id must not contain NUL"),
    ("lone\ud800", "instance_id contains a lone surrogate at position 4"),
]


#: Every call that takes an instance id.
WRITES = [
    lambda client, bad: client.start_orchestration(bad, "Waiting"),
    lambda client, bad: client.start_orchestration_versioned(bad, "Waiting", None, "1.0.0"),
    lambda client, bad: client.raise_event(bad, "go"),
    lambda client, bad: client.enqueue_event(bad, "inbox"),
    lambda client, bad: client.cancel_instance(bad),
    lambda client, bad: client.delete_instance(bad, force=True),
    lambda client, bad: client.prune_executions(bad),
]
READS = [
    lambda client, bad: client.get_status(bad),
    lambda client, bad: client.wait_for_orchestration(bad, 0),
    lambda client, bad: client.wait_for_status_change(bad, 0, 10, 0),
    lambda client, bad: client.wait_for_kv_value(bad, "key", 0),
    lambda client, bad: client.get_kv_value(bad, "key"),
    lambda client, bad: client.get_kv_all_values(bad),
    lambda client, bad: client.get_instance_info(bad),
    lambda client, bad: client.get_execution_info(bad, 1),
    lambda client, bad: client.list_executions(bad),
    lambda client, bad: client.read_execution_history(bad, 1),
    lambda client, bad: client.get_instance_tree(bad),
    lambda client, bad: client.get_orchestration_stats(bad),
]


class TestInstanceIds:
    @pytest.mark.parametrize(("bad", "message"), BAD_IDS)
    def test_that_no_instance_can_have_are_refused(self, client, refused, bad, message):
        """A wrong type, an empty or too long id, and characters no database stores."""
        for call in WRITES:
            refused(lambda call=call: call(client, bad), message)

    @pytest.mark.parametrize(("bad", "message"), [*BAD_IDS[:3], *BAD_IDS[5:]])
    def test_are_checked_when_reading_too(self, client, refused, bad, message):
        """A read with something that is no id says so, the same on every database."""
        for call in READS:
            refused(lambda call=call: call(client, bad), message)

    def test_of_512_characters_are_fine(self, client, program):
        """The longest id allowed works."""
        client.start_orchestration("ä" * 512, "Waiting")
        client.raise_event("ä" * 512, "go", 1)
        program.drain()
        assert client.get_status("ä" * 512).output == 1


class TestNames:
    @pytest.mark.parametrize(
        ("bad", "message"),
        [
            (None, "orchestration name must be a str, got NoneType"),
            ("", "orchestration name must not be empty"),
            ("n" * 256, "orchestration name may have 255 characters at most, got 256"),
            ("nul\x00", "orchestration name must not contain NUL"),
            (math.floor, "'floor' is not registered as an orchestration; decorate it"),
        ],
    )
    def test_of_orchestrations(self, client, refused, bad, message):
        """Neither a name nor a decorated function."""
        refused(lambda: client.start_orchestration("new", bad), message)

    @pytest.mark.parametrize("bad", [None, "", "n" * 256, "nul\x00", 5])
    def test_of_events_and_queues(self, client, refused, bad):
        """The same rules for what is sent to an instance."""
        refused(lambda: client.raise_event("waiting-1", bad), "event name m")
        refused(lambda: client.enqueue_event("waiting-1", bad), "queue name m")

    @pytest.mark.parametrize("bad", [5, None, b"key", "nul\x00"])
    def test_of_kv_keys(self, client, refused, bad):
        """A key is a text."""
        refused(lambda: client.get_kv_value("waiting-1", bad), "key must")
        refused(lambda: client.wait_for_kv_value("waiting-1", bad, 0), "key must")


class TestVersions:
    @pytest.mark.parametrize("bad", [None, "", "1", "1.2", "v1.2.3", "1.2.x", "01.2.3", 1.2, "1." + "2" * 70 + ".3"])
    def test_must_be_semantic(self, client, refused, bad):
        """What is no version is refused at the call, not by a worker later."""
        expected = "must be a semantic version like '1.2.0'"
        refused(lambda: client.start_orchestration_versioned("new", "Waiting", None, bad), expected)
        refused(lambda: Registry().add_orchestration("Waiting", lambda ctx, input: None, bad), expected)


class Opaque:
    pass


@dataclasses.dataclass
class Holder:
    content: object


def _circular():
    value: list = []
    value.append(value)
    return value


def _deep():
    value: list = []
    for _ in range(100_000):
        value = [value]
    return value


BAD_VALUES = [
    (Opaque(), r"\$ is of type Opaque"),
    ({"order": {"items": [1, Opaque()]}}, r"\$\.order\.items\[1\] is of type Opaque"),
    (Holder(Opaque()), "is of type Opaque"),
    ({(1, 2): 3}, "has a key of type tuple; keys must be str"),
    ([float("nan")], r"\$\[0\] is nan, which JSON has no number for"),
    ({"a": -math.inf}, r"\$\.a is -inf"),
    (b"bytes", r"\$ is of type bytes"),
    (_circular(), r"\$\[0\] contains itself"),
    (_deep(), "too deeply"),
    ({"text": "nul\x00"}, r"the text at \$\.text contains a NUL"),
    ({"nul\x00": 1}, "contains a NUL"),
    (["\udc80"], r"the text at \$\[0\] contains a lone surrogate"),
    (decimal.Decimal, "is of type type"),
]


class TestPayloads:
    @pytest.mark.parametrize(("bad", "message"), BAD_VALUES)
    def test_that_json_cannot_carry_are_refused(self, client, refused, bad, message):
        """PayloadError gives the path of the offending value, for starts, events and messages alike."""
        refused(lambda: client.start_orchestration("new", "Waiting", bad), message, PayloadError)
        refused(lambda: client.raise_event("waiting-1", "go", bad), message, PayloadError)
        refused(lambda: client.enqueue_event("waiting-1", "inbox", bad), message, PayloadError)

    def test_errors_are_type_and_value_errors(self, client):
        """Whoever catches what json.dumps raises catches these too."""
        with pytest.raises(TypeError) as caught:
            client.start_orchestration("new", "Waiting", Opaque())
        assert isinstance(caught.value, ValueError)

    def test_that_are_too_large_are_refused(self, client, refused, settings, program):
        """PayloadTooLarge says how large and what is allowed; exactly the limit is fine."""
        settings.DUROXIDE = {**settings.DUROXIDE, "MAX_PAYLOAD_BYTES": 100}
        for big in ("x" * 99, "ä" * 50):
            message = r"is 10[12] bytes as JSON, the limit is 100 bytes"
            refused(lambda value=big: client.start_orchestration("new", "Waiting", value), message, PayloadTooLarge)
            refused(lambda value=big: client.raise_event("waiting-1", "go", value), message, PayloadTooLarge)
            refused(lambda value=big: client.enqueue_event("waiting-1", "q", value), message, PayloadTooLarge)
        client.raise_event("waiting-1", "go", "x" * 98)
        program.drain()
        assert client.get_status("waiting-1").output == "x" * 98


class TestTimes:
    @pytest.mark.parametrize("bad", [-1, 1.5, "100", None, True, math.nan])
    def test_of_waits_must_be_whole_milliseconds(self, client, refused, bad):
        """No negative, broken or textual times."""
        refused(lambda: client.wait_for_orchestration("waiting-1", bad), "timeout_ms must")
        refused(lambda: client.wait_for_kv_value("waiting-1", "key", bad), "timeout_ms must")
        refused(lambda: client.wait_for_status_change("waiting-1", 0, 10, bad), "timeout_ms must")
        refused(lambda: client.wait_for_status_change("waiting-1", 0, bad, 10), "poll_interval_ms must")


class TestAdminArguments:
    @pytest.mark.parametrize("bad", ["two", -1, 1.5])
    def test_limits_must_be_whole_numbers(self, client, refused, bad):
        """Limits of listings, filters and prune options are checked the same on every database."""
        refused(lambda: client.list_all_instances(limit=bad), "limit must")
        refused(lambda: client.list_instances_by_status("Running", limit=bad), "limit must")
        refused(lambda: client.delete_instance_bulk(InstanceFilter(limit=bad)), "limit must")
        refused(lambda: client.prune_executions("waiting-1", PruneOptions(keep_last=bad)), "keep_last must")
        refused(lambda: client.prune_executions_bulk(InstanceFilter(limit=bad)), "limit must")

    @pytest.mark.parametrize("bad", [{"limit": 1}, "all", 5])
    def test_filters_and_options(self, client, refused, bad):
        """They are made by their classes."""
        refused(lambda: client.delete_instance_bulk(bad), r"Expected InstanceFilter\(…\), got ")
        refused(lambda: client.prune_executions("waiting-1", bad), r"Expected PruneOptions\(…\), got ")
        refused(lambda: client.prune_executions_bulk(bad), r"Expected InstanceFilter\(…\), got ")
        refused(lambda: client.prune_executions_bulk(None, bad), r"Expected PruneOptions\(…\), got ")

    @pytest.mark.parametrize("bad", ["yes", "false", 1, None])
    def test_force(self, client, refused, bad):
        """A text that happens to be true must not delete a running instance."""
        refused(lambda: client.delete_instance("waiting-1", force=bad), "force must be True or False")

    @pytest.mark.parametrize("bad", ["yesterday", 1.5])
    def test_times_must_be_epoch_milliseconds(self, client, refused, bad):
        """Times of filters are whole numbers."""
        refused(lambda: client.delete_instance_bulk(InstanceFilter(completed_before=bad)), "completed_before must")
        refused(
            lambda: client.prune_executions("waiting-1", PruneOptions(completed_before=bad)), "completed_before must"
        )

    @pytest.mark.parametrize("bad", ["waiting-1", [1], [None]])
    def test_ids_of_a_filter_must_be_a_list_of_texts(self, client, refused, bad):
        """A lone text is not taken for a list of letters."""
        refused(
            lambda: client.delete_instance_bulk(InstanceFilter(instance_ids=bad)), "instance_ids must|instance_id m"
        )

    @pytest.mark.parametrize("bad", [5, ["why"], "nul\x00"])
    def test_a_reason_must_be_a_text(self, client, refused, bad):
        """The reason of a cancel."""
        refused(lambda: client.cancel_instance("waiting-1", bad), "reason must")


class TestRegistration:
    @pytest.mark.parametrize(
        ("name", "function", "message"),
        [
            ("", lambda ctx, input: None, "activity name must not be empty"),
            (5, lambda ctx, input: None, "activity name must be a str, got int"),
            ("__duroxide_syscall:new_guid", lambda ctx, input: None, "are reserved"),
            ("NotCallable", "text", "must be a function, got str"),
            ("Generator", lambda ctx, input: (yield), "only orchestrations yield"),
            ("Short", lambda ctx: None, r"must take \(ctx, input\), its signature is \(ctx\)"),
        ],
    )
    def test_of_activities(self, backend, name, function, message):
        """Bad names and things that aren't activities are refused when they are registered."""
        with pytest.raises(InvalidArgument, match=message):
            Runtime(using=backend, registry=Registry()).register_activity(name, function)

    @pytest.mark.parametrize(
        ("name", "function", "message"),
        [
            ("", lambda ctx, input: None, "orchestration name must not be empty"),
            ("NotCallable", 5, "must be a function, got int"),
            ("Async", lambda: asyncio.sleep(0), None),
        ],
    )
    def test_of_orchestrations(self, backend, name, function, message):
        """An async function is refused with the cure, others with what was expected."""
        if message is None:

            async def function(ctx, input):
                return None

            message = "is async; write a generator"
        with pytest.raises(InvalidArgument, match=message):
            Runtime(using=backend, registry=Registry()).register_orchestration(name, function)

    def test_twice_under_one_name_is_refused(self, backend):
        """Two functions can't share a name, nor a name and version; the first is named in the error."""
        runtime = Runtime(using=backend, registry=Registry())
        runtime.register_activity("Work", lambda ctx, input: 1)
        with pytest.raises(InvalidArgument, match="'Work' is registered already"):
            runtime.register_activity("Work", lambda ctx, input: 2)
        runtime.register_orchestration("Flow", lambda ctx, input: 1)
        runtime.register_orchestration_versioned("Flow", "1.0.1", lambda ctx, input: 2)
        with pytest.raises(InvalidArgument, match=r"'Flow' 1\.0\.0 is registered already"):
            runtime.register_orchestration("Flow", lambda ctx, input: 3)

    def test_of_an_async_activity_as_atomic_is_refused(self, backend):
        """Django's transactions are not async."""

        async def work(ctx, input):
            return None

        with pytest.raises(InvalidArgument, match="can't be atomic"):
            Runtime(using=backend, registry=Registry()).register_activity("Work", work, atomic=True)


#: What goes wrong inside an orchestration: the line at fault, the exception there, the text of its error.
MISTAKES = {
    "a negative delay": (lambda ctx: ctx.schedule_timer(-1), InvalidArgument, "delay_ms must not be negative"),
    "half a millisecond": (lambda ctx: ctx.schedule_timer(0.5), InvalidArgument, "delay_ms must be a whole number"),
    "yielding a text": (lambda ctx: "Work", InvalidTask, "str"),
    "yielding nothing": (lambda ctx: None, InvalidTask, "NoneType"),
    "all of a text": (lambda ctx: ctx.all("tasks"), InvalidTask, "takes a list of tasks, got str"),
    "a number in all": (lambda ctx: ctx.all([ctx.schedule_timer(0), 5]), InvalidTask, "member 1 is no task but int"),
    "an empty race": (lambda ctx: ctx.race(), InvalidTask, "at least one task"),
    "an opaque input": (lambda ctx: ctx.schedule_activity("Work", Opaque()), PayloadError, "is of type Opaque"),
    "a bad version": (
        lambda ctx: ctx.schedule_sub_orchestration_versioned("Child", "one"),
        InvalidArgument,
        "semantic version",
    ),
    "an empty child id": (
        lambda ctx: ctx.schedule_sub_orchestration_with_id("Child", ""),
        InvalidArgument,
        "instance_id must not be empty",
    ),
    "a reserved activity": (
        lambda ctx: ctx.schedule_activity("__duroxide_syscall:x"),
        InvalidArgument,
        "are reserved",
    ),
    "an unknown retry key": (
        lambda ctx: ctx.schedule_activity_with_retry("Work", 1, {"attempts": 3}),
        InvalidArgument,
        "Unknown retry key 'attempts'; known are",
    ),
    "no attempts": (
        lambda ctx: ctx.schedule_activity_with_retry("Work", 1, {"max_attempts": 0}),
        InvalidArgument,
        "max_attempts must be a whole number of at least 1, got 0",
    ),
    "a long tag": (
        lambda ctx: ctx.schedule_activity("Work").with_tag("t" * 257),
        InvalidArgument,
        "tag may have 256 characters at most",
    ),
}


class TestInsideAnOrchestration:
    @pytest.mark.parametrize("mistake", MISTAKES)
    def test_a_mistake_is_raised_where_it_is_made(self, client, program, mistake):
        """The function can catch it at the line at fault; uncaught, the instance fails with the same text."""
        make, error, text = MISTAKES[mistake]

        @program.orchestration("Catching")
        def catching(ctx, input):
            try:
                yield make(ctx)
            except error as exc:
                return f"caught {exc}"

        @program.orchestration("Failing")
        def failing(ctx, input):
            yield make(ctx)

        client.start_orchestration("catching-1", "Catching")
        client.start_orchestration("failing-1", "Failing")
        program.drain()
        assert text in client.get_status("catching-1").output
        assert text in client.get_status("failing-1").error
        assert "ActivityScheduled" not in {event.kind for event in client.read_execution_history("failing-1", 1)}
