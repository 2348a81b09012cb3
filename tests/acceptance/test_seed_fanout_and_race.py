"""The guide's parallel programs: FanOut, MixedAll, RaceExample, on every store and over a restart."""

from __future__ import annotations

import threading

from duroxide_django import RuntimeOptions


def fan_out_program(runtime, process_item):
    runtime.register_activity("ProcessItem", process_item)

    @runtime.register_orchestration("FanOut")
    def fan_out(ctx, input):
        tasks = [ctx.schedule_activity("ProcessItem", item) for item in input["items"]]
        results = yield ctx.all(tasks)
        return results


def mixed_all_program(runtime):
    @runtime.register_activity("Work")
    def work(ctx, input):
        return input.upper()

    @runtime.register_orchestration("MixedAll")
    def mixed_all(ctx, input):
        act_result, _, event_data = yield ctx.all(
            [
                ctx.schedule_activity("Work", input),
                ctx.schedule_timer(1000),  # timers return {"ok": None}
                ctx.wait_for_event("approval"),  # waits return {"ok": event_data}
            ]
        )
        ctx.set_kv_value("timer", repr(_))
        ctx.set_kv_value("event", repr(event_data))
        return act_result


def race_program(runtime, fast_service, timeout_ms=5000):
    runtime.register_activity("FastService", fast_service)

    @runtime.register_orchestration("RaceExample")
    def race_example(ctx, input):
        winner = yield ctx.race(
            ctx.schedule_activity("FastService", input),
            ctx.schedule_timer(timeout_ms),  # 5 second timeout
        )
        if winner["index"] == 0:
            return winner["value"]  # FastService completed first
        else:
            return "timed out"


class TestFanOut:
    """Program 3: many activities at once, results in the order of the inputs."""

    def test_lists_ok_entries_in_input_order(self, client, start_runtime, history):
        """Whoever finishes first, entry n belongs to item n; all are scheduled before any completes."""
        later_is_done = threading.Event()

        def process_item(ctx, item):
            if item == "first":
                assert later_is_done.wait(20)
            if item == "last":
                later_is_done.set()
            return f"{item}!"

        start_runtime(fan_out_program, process_item=process_item)
        client.start_orchestration("fan-1", "FanOut", {"items": ["first", "middle", "last"]})
        assert client.wait_for_orchestration("fan-1").output == [
            {"ok": "first!"},
            {"ok": "middle!"},
            {"ok": "last!"},
        ]
        events = history("fan-1")
        assert [event.kind for event in events] == [
            "OrchestrationStarted",
            *["ActivityScheduled"] * 3,
            *["ActivityCompleted"] * 3,
            "OrchestrationCompleted",
        ]
        sources = [event.source_event_id for event in events if event.kind == "ActivityCompleted"]
        assert sorted(sources) == [2, 3, 4]
        assert sources.index(4) < sources.index(2)

    def test_carries_a_failure_as_an_entry(self, client, start_runtime):
        """One failing item leaves an err entry in its place and harms no other."""

        def process_item(ctx, item):
            if item == 2:
                raise ValueError("no twos")
            return item * 10

        start_runtime(fan_out_program, process_item=process_item)
        client.start_orchestration("fan-1", "FanOut", {"items": [1, 2, 3]})
        first, second, third = client.wait_for_orchestration("fan-1").output
        assert (first, third) == ({"ok": 10}, {"ok": 30})
        assert list(second) == ["err"]
        assert "no twos" in second["err"]

    def test_of_nothing_is_an_empty_list(self, client, start_runtime, kinds):
        """No items: no activity, an empty list, at once."""
        start_runtime(fan_out_program, process_item=lambda ctx, item: item)
        client.start_orchestration("fan-1", "FanOut", {"items": []})
        assert client.wait_for_orchestration("fan-1").output == []
        assert kinds("fan-1") == ["OrchestrationStarted", "OrchestrationCompleted"]

    def test_runs_as_many_items_at_once_as_there_are_slots(self, client, start_runtime):
        """Items that wait for each other meet, as long as there is a slot for each: none queues behind another."""
        meeting_of = {size: threading.Barrier(size) for size in range(1, 9)}

        def process_item(ctx, size):
            return meeting_of[size].wait(10) >= 0

        start_runtime(fan_out_program, options=RuntimeOptions(worker_concurrency=8), process_item=process_item)
        for size in range(1, 9):
            client.start_orchestration(f"fan-{size}", "FanOut", {"items": [size] * size})
            result = client.wait_for_orchestration(f"fan-{size}")
            assert result.output == [{"ok": True}] * size

    def test_survives_a_stop_in_the_middle(self, client, start_runtime, history, kinds, wait_until):
        """Items done before the stop keep their result; the one cut off runs again; each counts once."""
        stuck, release = threading.Event(), threading.Event()
        first_calls, second_calls = [], []

        def first_process(ctx, item):
            first_calls.append(item)
            if item == "c":
                stuck.set()
                release.wait(60)
            return f"{item} by the first"

        def second_process(ctx, item):
            second_calls.append(item)
            return f"{item} by the second"

        options = RuntimeOptions(worker_lock_timeout_ms=2000, worker_concurrency=8)
        first = start_runtime(fan_out_program, options=options, process_item=first_process)
        try:
            client.start_orchestration("fan-1", "FanOut", {"items": ["a", "b", "c", "d"]})
            wait_until(lambda: stuck.is_set() and kinds("fan-1").count("ActivityCompleted") == 3)
            first.shutdown(timeout_ms=0)

            start_runtime(fan_out_program, options=options, process_item=second_process)
            result = client.wait_for_orchestration("fan-1", 20000)
        finally:
            release.set()
        assert result.output == [
            {"ok": "a by the first"},
            {"ok": "b by the first"},
            {"ok": "c by the second"},
            {"ok": "d by the first"},
        ]
        assert sorted(first_calls) == ["a", "b", "c", "d"]
        assert second_calls == ["c"]
        assert kinds("fan-1").count("ActivityCompleted") == 4


class TestMixedAll:
    """Program 4: an activity, a timer and an event awaited together."""

    def test_waits_for_all_three(self, client, start_runtime, kinds, wait_until):
        """It stays Running until the event comes too, then gives the first task's entry."""
        start_runtime(mixed_all_program)
        client.start_orchestration("mixed-1", "MixedAll", "work")
        wait_until(lambda: kinds("mixed-1")[4:] == ["ActivityCompleted", "TimerFired"])
        assert client.get_status("mixed-1").status == "Running"
        client.raise_event("mixed-1", "approval", {"by": "ann"})
        assert client.wait_for_orchestration("mixed-1").output == {"ok": "WORK"}
        assert client.get_kv_value("mixed-1", "timer") == "{'ok': None}"
        assert client.get_kv_value("mixed-1", "event") == "{'ok': {'by': 'ann'}}"
        assert [kind for kind in kinds("mixed-1") if kind != "KeyValueSet"] == [
            "OrchestrationStarted",
            "ActivityScheduled",
            "TimerCreated",
            "ExternalSubscribed",
            "ActivityCompleted",
            "TimerFired",
            "ExternalEvent",
            "OrchestrationCompleted",
        ]

    def test_collects_its_parts_over_a_restart(self, client, start_runtime, kinds, wait_until):
        """What came before, during and after the stop is put together."""
        first = start_runtime(mixed_all_program)
        client.start_orchestration("mixed-1", "MixedAll", "work")
        wait_until(lambda: "ActivityCompleted" in kinds("mixed-1"))
        first.shutdown()
        client.raise_event("mixed-1", "approval", {"by": "ann"})
        start_runtime(mixed_all_program)
        assert client.wait_for_orchestration("mixed-1").output == {"ok": "WORK"}
        assert kinds("mixed-1").count("ActivityScheduled") == 1
        assert kinds("mixed-1").count("TimerCreated") == 1


class TestRaceExample:
    """Program 5: an activity against a timer."""

    def test_gives_the_value_of_a_service_that_is_first(self, client, start_runtime, kinds):
        """The service answers in time: its value is the output; the timer was created, nothing more."""
        start_runtime(race_program, fast_service=lambda ctx, input: {"answer": input})
        client.start_orchestration("race-1", "RaceExample", 42)
        assert client.wait_for_orchestration("race-1").output == {"answer": 42}
        assert kinds("race-1") == [
            "OrchestrationStarted",
            "ActivityScheduled",
            "TimerCreated",
            "ActivityCompleted",
            "OrchestrationCompleted",
        ]

    def test_times_out_and_cancels_a_slow_service(self, client, start_runtime, history, wait_until):
        """The timer fires first: the output says so, and the running activity is told to stop."""
        told, give_up = threading.Event(), threading.Event()

        def slow_service(ctx, input):
            while not give_up.wait(0.02):
                if ctx.is_cancelled():
                    told.set()
                    break
            return "too late"

        start_runtime(race_program, fast_service=slow_service, timeout_ms=100)
        try:
            client.start_orchestration("race-1", "RaceExample", None)
            assert client.wait_for_orchestration("race-1").output == "timed out"
            assert told.wait(3), "a lost activity learns of it within a second"
        finally:
            give_up.set()
        assert [(event.kind, event.source_event_id) for event in history("race-1")] == [
            ("OrchestrationStarted", None),
            ("ActivityScheduled", None),
            ("TimerCreated", None),
            ("TimerFired", 3),
            ("ActivityCancelRequested", 2),
            ("OrchestrationCompleted", None),
        ]

    def test_loses_an_activity_that_nobody_started(self, client, start_runtime, wait_until):
        """A queued activity that lost is taken off the queue and never runs."""
        calls = []
        nobody = RuntimeOptions(worker_concurrency=0)
        first = start_runtime(race_program, options=nobody, fast_service=lambda ctx, input: None, timeout_ms=50)
        client.start_orchestration("race-1", "RaceExample", None)
        assert client.wait_for_orchestration("race-1").output == "timed out"
        first.shutdown()
        assert client.get_queue_depths().worker_queue == 0

        start_runtime(race_program, fast_service=lambda ctx, input: calls.append(input))
        client.start_orchestration("race-2", "RaceExample", "second")
        client.wait_for_orchestration("race-2")
        assert calls == ["second"]

    def test_is_decided_after_a_restart(self, client, start_runtime, kinds, wait_until):
        """Stopped in the middle of the race: the next runtime runs the service, and the timer that was set counts."""
        first = start_runtime(
            race_program, options=RuntimeOptions(worker_concurrency=0), fast_service=lambda ctx, input: None
        )
        client.start_orchestration("race-1", "RaceExample", 42)
        wait_until(lambda: "TimerCreated" in kinds("race-1"))
        first.shutdown()
        start_runtime(race_program, fast_service=lambda ctx, input: {"answer": input})
        assert client.wait_for_orchestration("race-1").output == {"answer": 42}
        assert kinds("race-1").count("TimerCreated") == 1

    def test_times_out_after_a_restart(self, client, start_runtime, kinds, wait_until):
        """The timer set before the stop fires afterwards, although nobody ran the service."""
        nobody = RuntimeOptions(worker_concurrency=0)
        first = start_runtime(race_program, options=nobody, fast_service=lambda ctx, input: None, timeout_ms=400)
        client.start_orchestration("race-1", "RaceExample", 42)
        wait_until(lambda: "TimerCreated" in kinds("race-1"))
        first.shutdown()
        start_runtime(race_program, options=nobody, fast_service=lambda ctx, input: None, timeout_ms=60_000)
        assert client.wait_for_orchestration("race-1", 5000).output == "timed out"
