"""Spec 5.1 with W10, W12, W35: external events by the public API."""

from __future__ import annotations

import pytest
from django.db import transaction

from duroxide_django import InstanceNotFound


@pytest.fixture
def waiting(works):
    """``takes`` waits for as many events ``e`` as its input says, after a timer of a second."""

    @works.orchestration
    def takes(ctx, input):
        yield ctx.schedule_timer(1_000)
        got = []
        for _ in range(input):
            got.append((yield ctx.wait_for_event("e")))  # noqa: PERF401 - a yield
        return got

    return works


class TestAnEvent:
    @pytest.mark.parametrize("data", [None, "", "text", '"quoted"', 0, [1, {"a": None}], "ünï ☃"])
    def test_carries_its_data(self, works, data):
        """What was sent arrives."""

        @works.orchestration
        def takes(ctx, input):
            return [(yield ctx.wait_for_event("e"))]

        works.start("t-1", "takes")
        assert works.client.raise_event("t-1", "e", data) is True
        works.run()
        assert works.output("t-1") == [data]

    def test_to_an_unknown_instance_is_an_error(self, works):
        """W12: nothing is kept for an id that nobody started."""
        with pytest.raises(InstanceNotFound):
            works.client.raise_event("nobody", "e")
        assert works.queued() == (0, 0)

    def test_to_an_ended_instance_is_told(self, works):
        """W12: False, and no event."""
        works.orchestration(lambda ctx, input: "done", name="quick")
        works.start("q-1", "quick")
        assert works.client.raise_event("q-1", "e") is False
        assert works.client.enqueue_event("q-1", "inbox") is False
        works.run()
        assert works.kinds("q-1") == ["OrchestrationStarted", "OrchestrationCompleted"]

    def test_right_after_the_start_is_delivered(self, waiting):
        """The instance exists from start_orchestration on."""
        waiting.client.start_orchestration("t-1", "takes", 1)
        waiting.client.raise_event("t-1", "e", "early")
        waiting.finish()
        assert waiting.output("t-1") == ["early"]


class TestBuffering:
    def test_keeps_events_until_they_are_consumed(self, waiting):
        """W10: early, in quick succession, over several turns; first in, first out."""
        waiting.start("t-1", "takes", 4)
        for number in range(3):
            waiting.client.raise_event("t-1", "e", number)
        waiting.run()
        waiting.client.raise_event("t-1", "e", 3)
        waiting.finish()
        assert waiting.output("t-1") == [0, 1, 2, 3]

    def test_serves_hundreds_in_one_turn(self, waiting):
        """All of one batch."""
        waiting.start("t-1", "takes", 300)
        with transaction.atomic(using=waiting.client.db.alias):
            for number in range(300):
                waiting.client.raise_event("t-1", "e", number)
        waiting.finish()
        assert waiting.output("t-1") == list(range(300))


class TestStrictness:
    def test_drops_what_nobody_waits_for(self, waiting):
        """With BUFFER_EVENTS=False: recorded, never delivered."""
        waiting.configure(BUFFER_EVENTS=False)
        waiting.start("t-1", "takes", 1)
        waiting.client.raise_event("t-1", "e", "early")
        waiting.finish()
        assert waiting.status("t-1").status == "Running"
        assert waiting.kinds("t-1").count("ExternalEvent") == 1
        waiting.client.raise_event("t-1", "e", "in time")
        waiting.run()
        assert waiting.output("t-1") == ["in time"]

    @pytest.mark.parametrize("before", [True, False])
    def test_is_decided_by_the_start(self, waiting, before):
        """Changing the setting under a running instance changes nothing for it."""
        waiting.configure(BUFFER_EVENTS=before)
        waiting.start("t-1", "takes", 1)
        waiting.client.raise_event("t-1", "e", "early")
        waiting.run()
        waiting.configure(BUFFER_EVENTS=not before)
        waiting.finish()
        assert waiting.status("t-1").status == ("Completed" if before else "Running")
        assert waiting.row("t-1").blocked is None


class TestTheOrderOfABatch:
    def test_is_that_of_becoming_visible(self, works):
        """W35: after a pause, an event that came before the deadline wins against the timer."""

        @works.orchestration
        def approval(ctx, input):
            won = yield ctx.race(ctx.wait_for_event("approve"), ctx.schedule_timer(60_000))
            return "approved" if won["index"] == 0 else "too late"

        works.start("in time", "approval")
        works.start("too late", "approval")
        works.clock.advance(seconds=59)
        works.client.raise_event("in time", "approve")
        works.clock.advance(seconds=2)
        works.client.raise_event("too late", "approve")
        works.clock.advance(hours=5)
        works.run()
        assert (works.output("in time"), works.output("too late")) == ("approved", "too late")

    def test_of_timers_is_that_of_their_times(self, works):
        """Timers that came due during a pause fire in the order of their times."""

        @works.orchestration
        def races(ctx, input):
            return (yield ctx.race(*[ctx.schedule_timer(delay) for delay in (3_000, 1_000, 2_000)]))["index"]

        works.start("r-1", "races")
        works.advance(days=1)
        assert works.output("r-1") == 1
