"""Retrying an instance whose code had done more after the failure."""

from __future__ import annotations

from duroxide_django import ActivityFailed
from duroxide_django.testing import assert_healthy, virtual_clock


class TestRetryAfterACleanUp:
    def test_may_start_the_same_children_again(self, client, program, backend):
        """The clean-up's child has the same id in the second try."""
        good = []

        @program.activity("Work")
        def work(ctx, value):
            if len(good) < 2:
                good.append(True)
                raise ValueError("not yet")
            return value

        @program.orchestration("CleanUp")
        def clean_up(ctx, value):
            return value
            yield

        @program.orchestration("Flow")
        def flow(ctx, value):
            try:
                return (yield ctx.schedule_activity("Work", value))
            except ActivityFailed:
                yield ctx.schedule_sub_orchestration_with_id("CleanUp", "clean-up")
                raise

        client.start_orchestration("one", "Flow", 7)
        for _ in range(2):
            program.drain()
            assert client.get_status("one").error == "ValueError: not yet"
            assert client.retry_instance("one").deleted_children == ["clean-up"]
        program.drain()
        assert client.get_status("one").output == 7
        assert_healthy(backend)

    def test_an_open_timer_keeps_its_time(self, client, program, backend):
        good = []

        @program.activity("Work")
        def work(ctx, value):
            if not good:
                raise ValueError("not yet")
            return value

        @program.orchestration("Flow")
        def flow(ctx, value):
            winner = yield ctx.race(ctx.schedule_timer(3_600_000), ctx.schedule_activity("Work", value))
            if winner["index"] == 1 and isinstance(winner["value"], dict) and "err" in winner["value"]:
                raise ValueError(winner["value"])
            return winner["index"]

        with virtual_clock():
            client.start_orchestration("one", "Flow", 7)
            program.drain(jump=False)
            assert client.get_status("one").status == "Failed"
            good.append(True)
            client.retry_instance("one")
            assert_healthy(backend)
            program.drain(jump=False)
            assert client.get_status("one").output == 1


class TestRetryOfAFamily:
    def test_takes_the_failed_children_back_too_and_tells_so(self, client, program, backend):
        """Also when its parent is rewound to where it waited for the child; the preview tells the same."""
        good = []

        @program.activity("Work")
        def work(ctx, value):
            if len(good) < 2:
                raise ValueError("not yet")
            return value

        @program.orchestration("CleanUp")
        def clean_up(ctx, value):
            return value
            yield

        @program.orchestration("Child")
        def child(ctx, value):
            yield ctx.wait_for_event("Go")
            try:
                return (yield ctx.schedule_activity("Work", value))
            except ActivityFailed:
                yield ctx.schedule_sub_orchestration_with_id("CleanUp", "clean-up")
                raise

        @program.orchestration("Parent")
        def parent(ctx, value):
            return (yield ctx.schedule_sub_orchestration_with_id("Child", "child", value))

        client.start_orchestration("one", "Parent", 7)
        program.drain()
        client.raise_event("child", "Go")
        program.drain()
        history = client.read_execution_history("one", 1)
        waiting = next(event.event_id for event in history if event.kind == "SubOrchestrationFailed") - 1
        preview = client.preview_rewind("one", waiting)
        for take_back in (lambda: client.rewind_instance("one", waiting), lambda: client.retry_instance("one")):
            good.append(True)
            rewound = take_back()
            assert rewound == preview
            assert rewound.instance_ids == ["one", "child"]
            assert [name.partition("#")[0] for name in rewound.rescheduled] == ["Work"]
            assert rewound.deleted_children == ["clean-up"]
            assert_healthy(backend)
            program.drain()
        assert client.get_status("one").output == 7
