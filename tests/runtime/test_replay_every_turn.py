"""REPLAY_EVERY_TURN: live executions are thrown away after each turn, and nothing else changes (design 5)."""

from __future__ import annotations

import itertools

import pytest

from duroxide_django import OrchestrationCancelled


@pytest.fixture(params=[True, False], ids=["replaying", "cached"])
def replaying(request, settings):
    settings.DUROXIDE = {**settings.DUROXIDE, "REPLAY_EVERY_TURN": request.param}
    return request.param


@pytest.fixture(autouse=True)
def workflows(program):
    program.begun = itertools.count()
    program.activity("Add")(lambda ctx, pair: sum(pair))

    @program.activity("Break")
    def break_(ctx, input):
        raise ValueError("no good")

    @program.orchestration("Child")
    def child(ctx, number):
        return (yield ctx.schedule_activity("Add", [number, 1]))

    @program.orchestration("Everything")
    def everything(ctx, input):
        next(program.begun)
        trail = [(yield ctx.schedule_activity("Add", [1, 2]))]
        trail += yield ctx.all_typed([ctx.schedule_activity("Add", [n, n]) for n in range(5)])
        trail.append((yield ctx.race(ctx.schedule_timer(5), ctx.wait_for_event("never")))["index"])
        try:
            yield ctx.schedule_activity_with_retry("Break", None, {"max_attempts": 3, "initial_delay_ms": 5})
        except Exception as exc:  # noqa: BLE001 - as a user writes it
            trail.append(str(exc))
        trail.append((yield ctx.schedule_sub_orchestration("Child", 10)))
        for _ in range(3):
            trail += [(yield ctx.dequeue_event("inbox"))]
        trail.append((yield ctx.wait_for_event("go")))
        moment = yield ctx.utc_now()
        guid = yield ctx.new_guid()
        ctx.set_kv_value("trail", len(trail))
        ctx.set_custom_status("nearly there")
        yield ctx.schedule_timer(1)
        trail.append(len(guid))
        if input:
            yield ctx.continue_as_new(input - 1)
        return [*trail, moment > 0, ctx.execution_id, ctx.get_kv_value("trail"), ctx.get_custom_status()]


def send(client):
    for number in range(6):
        client.enqueue_event("all-1", "inbox", number)
    client.raise_event("all-1", "go", "gone")


#: What Everything returns in its second execution.
OUTPUT = [3, 0, 2, 4, 6, 8, 0, "ValueError: no good", 11, 3, 4, 5, "again", 36, True, 2, "13", "nearly there"]


class TestSameResult:
    def test_under_a_runtime(self, client, program, start_runtime, replaying, wait_until):
        """Every feature in one orchestration gives the same output either way."""
        start_runtime()
        client.start_orchestration("all-1", "Everything", 1)
        send(client)
        wait_until(lambda: client.list_executions("all-1") == [1, 2])
        client.raise_event("all-1", "go", "again")
        assert client.wait_for_orchestration("all-1").output == OUTPUT
        began = next(program.begun)
        assert began > 20 if replaying else began == 2

    def test_under_drain(self, client, program, replaying):
        """The testing kit obeys the setting too."""
        client.start_orchestration("all-1", "Everything", 1)
        send(client)
        program.drain()
        client.raise_event("all-1", "go", "again")
        program.drain()
        assert client.get_status("all-1").output == OUTPUT

    def test_leaves_the_same_history(self, client, program, settings):
        """Event by event the two histories are of the same kinds and data."""
        histories = []
        for replay in (True, False):
            settings.DUROXIDE = {**settings.DUROXIDE, "REPLAY_EVERY_TURN": replay}
            client.start_orchestration("all-1", "Everything", 0)
            send(client)
            program.drain()
            events = client.read_execution_history("all-1", 1)
            histories.append([(event.kind, event.source_event_id) for event in events])
            client.delete_instance("all-1", force=True)
        assert histories[0] == histories[1]


class TestTraces:
    def test_are_written_once(self, client, program, start_runtime, replaying, caplog):
        """However often the code is replayed, a line it logged is logged once."""

        @program.orchestration("Talking")
        def talking(ctx, input):
            for number in range(5):
                ctx.trace_warn(f"step {number}")
                yield ctx.schedule_activity("Add", [number, 1])

        start_runtime()
        client.start_orchestration("talking-1", "Talking")
        client.wait_for_orchestration("talking-1")
        lines = [record.message for record in caplog.records if record.name == "duroxide.orchestration"]
        assert lines == [f"step {number}" for number in range(5)]


class TestCleanUp:
    def test_of_a_cancelled_orchestration_runs_once(self, client, program, replaying):
        """The clean-up's activities are not repeated by replays."""
        undone = []
        program.activity("Undo")(lambda ctx, input: undone.append(input))

        @program.orchestration("Careful")
        def careful(ctx, input):
            try:
                yield ctx.schedule_activity("Add", [1, 2])
                yield ctx.wait_for_event("never")
            except OrchestrationCancelled:
                for number in range(3):
                    yield ctx.schedule_activity("Undo", number)
                raise

        client.start_orchestration("careful-1", "Careful")
        program.drain()
        client.cancel_instance("careful-1", "stop")
        program.drain()
        assert undone == [0, 1, 2]
        assert client.get_status("careful-1").error == "canceled: stop"


class TestFinally:
    def test_blocks_run_at_the_end_only(self, client, program, replaying):
        """Throwing a live execution away runs no code of the user that could be recorded."""

        @program.orchestration("Tidy")
        def tidy(ctx, input):
            try:
                yield ctx.schedule_activity("Add", [1, 2])
                yield ctx.schedule_activity("Add", [3, 4])
            finally:
                ctx.set_kv_value("tidied", "yes")
                ctx.set_custom_status("tidy")
            return "end"

        client.start_orchestration("tidy-1", "Tidy")
        program.drain()
        kinds = [event.kind for event in client.read_execution_history("tidy-1", 1)]
        assert (kinds.count("KeyValueSet"), kinds.count("CustomStatusUpdated")) == (1, 1)
        assert client.get_status("tidy-1").output == "end"
