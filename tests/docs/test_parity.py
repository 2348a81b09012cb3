"""Rows of docs/reference/parity.md that no test of another subject shows."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from decimal import Decimal

import pytest

from duroxide_django.engine.registry import Registry


@dataclass
class Money:
    amount: Decimal
    paid_on: dt.date


MONEY_JSON = {"amount": "1.50", "paid_on": "2030-01-31"}
MONEY = Money(Decimal("1.50"), dt.date(2030, 1, 31))


class Program:
    """Functions of one test, and running them until nothing is due."""

    def __init__(self, backend):
        self.backend = backend
        self.registry = Registry()

    def activity(self, name):
        return lambda function: self.registry.add_activity(name, function)

    def orchestration(self, name, version="1.0.0"):
        return lambda function: self.registry.add_orchestration(name, function, version)

    def drain(self, **options):
        from duroxide_django.testing import drain

        return drain(using=self.backend, registry=self.registry, jump=False, **options)


@pytest.fixture
def program(backend):
    made = Program(backend)
    made.activity("Echo")(lambda ctx, value: value)
    return made


@pytest.fixture
def output(client, program):
    """Run an orchestration function and return what it returns."""

    def run(function, input=None):
        program.orchestration("Asked")(function)
        client.start_orchestration("asked", "Asked", input)
        program.drain()
        result = client.get_status("asked")
        assert result.status == "Completed", result
        return result.output

    return run


class TestVersionedStarts:
    @pytest.fixture(autouse=True)
    def two_versions(self, program):
        program.orchestration("Kid", "1.0.0")(lambda ctx, input: "old")
        program.orchestration("Kid", "1.1.0")(lambda ctx, input: "new")

    def test_children_run_at_the_version_asked_for(self, client, output):
        def parent(ctx, input):
            latest = yield ctx.schedule_sub_orchestration_versioned("Kid")
            old = yield ctx.schedule_sub_orchestration_versioned("Kid", "1.0.0")
            named = yield ctx.schedule_sub_orchestration_versioned_with_id("Kid", "1.0.0", "named", 1)
            return [latest, old, named]

        assert output(parent) == ["new", "old", "old"]
        assert client.get_instance_info("named").orchestration_version == "1.0.0"

    def test_detached_ones_too(self, client, output, program):
        def starter(ctx, input):
            yield ctx.start_orchestration_versioned("Kid", "1.0.0", "detached-old")
            yield ctx.start_orchestration_versioned("Kid", None, "detached-new")

        output(starter)
        program.drain()
        assert client.get_status("detached-old").output == "old"
        assert client.get_status("detached-new").output == "new"

    def test_a_bad_version_is_refused_at_the_call(self, output):
        def parent(ctx, input):
            try:
                yield ctx.schedule_sub_orchestration_versioned("Kid", "newest")
            except ValueError as exc:
                return str(exc)

        assert "semantic version" in output(parent)


class TestKvOfAnotherInstance:
    def test_is_read_as_committed(self, client, output, program):
        program.orchestration("Server")(lambda ctx, input: ctx.set_kv_value("state", "ready"))
        client.start_orchestration("server", "Server")
        program.drain()

        def reader(ctx, input):
            found = yield ctx.get_kv_value_from_instance("server", "state")
            absent = yield ctx.get_kv_value_from_instance("server", "other")
            unknown = yield ctx.get_kv_value_from_instance("nobody", "state")
            return [found, absent, unknown]

        assert output(reader) == ["ready", None, None]


class TestTypedSpellings:
    def test_of_activities_build_the_type(self, output):
        def typed(ctx, input):
            policy = {"max_attempts": 2}
            found = yield ctx.all_typed(
                [
                    ctx.schedule_activity_typed("Echo", input, Money),
                    ctx.schedule_activity_on_session_typed("Echo", input, "s", Money),
                    ctx.schedule_activity_with_retry_typed("Echo", input, policy, Money),
                    ctx.schedule_activity_with_retry_on_session_typed("Echo", input, policy, "s", Money),
                ]
            )
            return found == [MONEY] * 4

        assert output(typed, MONEY_JSON) is True

    def test_of_children_build_the_type(self, output, program):
        program.orchestration("Kid")(lambda ctx, input: input)

        def typed(ctx, input):
            first = yield ctx.schedule_sub_orchestration_typed("Kid", input, Money)
            second = yield ctx.schedule_sub_orchestration_with_id_typed("Kid", "kid", input, Money)
            return [first, second] == [MONEY] * 2

        assert output(typed, MONEY_JSON) is True

    def test_of_events_and_messages_build_the_type(self, client, program):
        def typed(ctx, input):
            event = yield ctx.wait_for_event_typed("paid", Money)
            message = yield ctx.dequeue_event_typed("payments", Money)
            return [event, message] == [MONEY] * 2

        program.orchestration("Typed")(typed)
        client.start_orchestration("typed", "Typed")
        client.raise_event("typed", "paid", MONEY_JSON)
        client.enqueue_event("typed", "payments", MONEY_JSON)
        program.drain()
        assert client.get_status("typed").output is True

    def test_take_a_str_for_json_text(self, client, output, program):
        program.orchestration("Kid")(lambda ctx, input: input)

        def typed(ctx, input):
            listed = yield ctx.schedule_activity_typed("Echo", "[1, 2]")
            plain = yield ctx.schedule_activity("Echo", "[1, 2]")
            yield ctx.start_orchestration_typed("Kid", "detached", "[3]")
            yield ctx.start_orchestration_versioned_typed("Kid", "1.0.0", "detached-versioned", "[4]")
            return [listed, plain]

        assert output(typed) == [[1, 2], "[1, 2]"]
        program.drain()
        assert client.get_status("detached").output == [3]
        assert client.get_status("detached-versioned").output == [4]

    def test_take_a_str_for_a_str_where_a_type_is_named(self, output, program):
        """What looks like JSON reaches the activity or child as it was passed, and comes back as the type says."""
        program.orchestration("Kid")(lambda ctx, input: input)
        looks = ["12345", "null", "[1, 2]", '"quoted"']

        def typed(ctx, input):
            found = []
            for text in looks:
                found.append((yield ctx.schedule_activity_typed("Echo", text, str)))
                found.append((yield ctx.schedule_activity_with_retry_typed("Echo", text, None, str)))
                found.append((yield ctx.schedule_activity_on_session_typed("Echo", text, "s", str)))
                found.append((yield ctx.schedule_sub_orchestration_typed("Kid", text, str)))
                child = f"kid-{looks.index(text)}"
                found.append((yield ctx.schedule_sub_orchestration_with_id_typed("Kid", child, text, str)))
            return found

        assert output(typed) == [text for text in looks for _ in range(5)]

    def test_continue_as_new_too(self, output):
        def typed(ctx, input):
            if input is None:
                yield ctx.continue_as_new_typed('{"round": 2}')
            return input

        assert output(typed) == {"round": 2}

    def test_of_the_runtime_are_the_same_methods(self):
        from duroxide_django import Runtime

        assert Runtime.register_activity_typed is Runtime.register_activity
        assert Runtime.register_orchestration_typed is Runtime.register_orchestration
        assert Runtime.register_orchestration_versioned_typed is Runtime.register_orchestration_versioned


class TestArgumentNames:
    """Programs for the SDK may pass arguments by name."""

    def test_of_registering(self, backend):
        from duroxide_django import Runtime

        runtime = Runtime(using=backend, options=None, registry=Registry())
        for register in (runtime.register_activity, runtime.register_activity_typed):
            assert register(name=register.__name__ + str(len(runtime.registry.activities)), fn=print) is print
        assert runtime.register_orchestration(name="Named", fn=print) is print
        assert runtime.register_orchestration_typed(name="Typed", fn=print) is print
        assert runtime.register_orchestration_versioned(name="Named", version="1.0.1", fn=print) is print
        assert runtime.register_orchestration_versioned_typed(name="Typed", version="1.0.1", fn=print) is print

    def test_of_all(self, output):
        def gather(ctx, input):
            plain = yield ctx.all(tasks=[ctx.schedule_activity(name="Echo", input=1, session_id=None)])
            typed = yield ctx.all_typed(tasks=[ctx.schedule_activity_typed(name="Echo", input=1, result_type=int)])
            return [plain, typed]

        assert output(gather) == [[{"ok": 1}], [1]]

    def test_of_entra_options(self):
        from duroxide_django import PostgresEntraOptions

        named = PostgresEntraOptions(audience="a", max_connections=1, acquire_timeout_ms=2, refresh_interval_ms=3)
        assert PostgresEntraOptions("a", 1, 2, 3) == named


class TestChildrenAndExecutions:
    def test_a_child_that_continues_as_new_answers_its_parent(self, output, program):
        """W5."""

        def child(ctx, rounds):
            yield ctx.schedule_activity("Echo")
            if rounds:
                yield ctx.continue_as_new(rounds - 1)
            return "after three executions"

        program.orchestration("Kid")(child)

        def parent(ctx, input):
            return (yield ctx.schedule_sub_orchestration("Kid", 2))

        assert output(parent) == "after three executions"

    def test_a_child_of_an_execution_that_has_ended_answers_nobody(self, client, program):
        """W6."""

        def child(ctx, name):
            return (yield ctx.wait_for_event("go")) or name

        def parent(ctx, rounds):
            kid = ctx.schedule_sub_orchestration_with_id("Kid", f"kid-{rounds}", f"kid-{rounds}")
            if rounds:
                yield ctx.race(kid, ctx.wait_for_event("next"))
                yield ctx.continue_as_new(rounds - 1)
            return (yield kid)

        program.orchestration("Kid")(child)
        program.orchestration("Parent")(parent)
        client.start_orchestration("parent", "Parent", 1)
        program.drain()
        client.raise_event("parent", "next")
        program.drain()
        assert client.get_status("kid-1").is_cancelled
        assert client.get_status("parent").status == "Running"
        client.raise_event("kid-0", "go")
        program.drain()
        assert client.get_status("parent").output == "kid-0"


class TestOrderAfterAPause:
    def test_a_result_that_was_there_in_time_beats_the_timer(self, client, program):
        """W35."""
        from duroxide_django import RuntimeOptions
        from duroxide_django.testing import virtual_clock

        def race(ctx, input):
            first = yield ctx.race(ctx.schedule_timer(1_000), ctx.schedule_activity("Echo", "in time"))
            return first["index"]

        program.orchestration("Race")(race)
        with virtual_clock() as clock:
            client.start_orchestration("race", "Race")
            program.drain(options=RuntimeOptions(worker_concurrency=0))
            clock.advance(ms=500)
            program.drain(options=RuntimeOptions(orchestration_concurrency=0))
            clock.advance(ms=5_000)  # the timer is overdue when orchestrations run again
            program.drain()
            assert client.get_status("race").output == 1
