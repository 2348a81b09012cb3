"""Spec part 5 with W10, W11: external events and event queues."""

from __future__ import annotations

import pytest

from duroxide_django.engine.outcome import EngineOptions
from tests.engine.harness import Life, begun

STRICT = EngineOptions(buffer_events=False)


def takes(*steps):
    """Return an orchestration that yields tasks, given as ``kind:name``, in order and returns their values."""

    def orchestration(ctx, input):
        made = {"event": ctx.wait_for_event, "queue": ctx.dequeue_event, "activity": ctx.schedule_activity}
        values = []
        for text in steps:
            kind, name = text.split(":")
            values.append((yield made[kind](name)))
        return values

    return orchestration


class TestAnExternalEvent:
    def test_is_matched_by_name(self):
        """Only the exact name counts; others are recorded for audit."""
        life = begun(takes("event:go"))
        life.turn(life.raised("Go", 1), life.raised("go ", 2))
        assert life.new_kinds == ["ExternalEvent", "ExternalEvent"]
        life.turn(life.raised("go", 3))
        assert life.output == [3]

    def test_goes_to_waits_in_their_order(self):
        """First wait, first event."""
        life = begun(lambda ctx, input: (yield ctx.all([ctx.wait_for_event("e"), ctx.wait_for_event("e")])))
        life.turn(life.raised("e", 1))
        life.turn(life.raised("e", 2))
        assert life.output == [{"ok": 1}, {"ok": 2}]

    @pytest.mark.parametrize("data", [None, "", 0, {"a": [1]}, '{"already": "json"}'])
    def test_carries_any_value(self, data):
        """What was sent arrives; a string stays a string."""
        life = begun(takes("event:e"))
        life.turn(life.raised("e", data))
        assert life.output == [data]


class TestBufferedEvents:
    """The default: an event waits until a wait consumes it (W10)."""

    def test_that_come_early_are_not_lost(self):
        """Raised before the wait was reached."""
        life = begun(takes("activity:A", "event:e"), keeps=False)
        life.turn(life.raised("e", "early"))
        life.turn(life.completed("A"))
        assert life.output == [None, "early"]

    def test_of_one_batch_are_all_delivered(self):
        """Two in quick succession serve two waits, one after another, in the same turn."""
        life = begun(takes("event:e", "event:e"))
        life.turn(life.raised("e", 1), life.raised("e", 2))
        assert life.output == [1, 2]

    def test_before_the_start_are_delivered(self):
        """Even those that the first turn's batch holds already."""
        life = Life(takes("event:e"))
        life.start(life.raised("e", 1))
        assert life.output == [1]

    def test_are_consumed_once_and_in_order(self):
        """A buffer of a name is first in, first out; other names are untouched."""
        life = begun(takes("activity:A", "event:a", "event:a", "event:b"))
        life.turn(life.raised("a", 1), life.raised("b", 2))
        life.turn(life.raised("a", 3))
        life.turn(life.completed("A"))
        assert life.output == [None, 1, 3, 2]

    def test_survive_a_race_that_their_wait_loses(self):
        """A wait that lost takes nothing with it."""

        def orchestration(ctx, input):
            yield ctx.race(ctx.wait_for_event("e"), ctx.schedule_activity("A"))
            yield ctx.schedule_activity("B")
            return (yield ctx.wait_for_event("e"))

        life = begun(orchestration)
        life.turn(life.completed("A"))
        life.turn(life.raised("e", "between"))
        life.turn(life.completed("B"))
        assert life.output == "between"


class TestStrictEvents:
    """With BUFFER_EVENTS=False an event nobody waits for is recorded and gone."""

    def test_that_come_early_are_lost(self):
        """Recorded for audit, never delivered."""
        life = begun(takes("activity:A", "event:e"), options=STRICT, keeps=False)
        life.turn(life.raised("e", "early"))
        assert life.new_kinds == ["ExternalEvent"]
        life.turn(life.completed("A"))
        assert life.result.outcome is None
        life.turn(life.raised("e", "in time"))
        assert life.output == [None, "in time"]

    def test_of_one_batch_serve_only_waits_that_stand(self):
        """The second of two finds nobody, as the next wait is registered at the end of the turn."""
        life = begun(takes("event:e", "event:e"), options=STRICT)
        life.turn(life.raised("e", 1), life.raised("e", 2))
        assert life.result.outcome is None

    def test_between_a_lost_race_and_the_next_wait_are_lost(self):
        """A cancelled subscription is none."""

        def orchestration(ctx, input):
            yield ctx.race(ctx.wait_for_event("e"), ctx.schedule_activity("A"))
            yield ctx.schedule_activity("B")
            return (yield ctx.wait_for_event("e"))

        life = begun(orchestration, options=STRICT)
        life.turn(life.completed("A"))
        life.turn(life.raised("e", "between"))
        life.turn(life.completed("B"))
        assert life.result.outcome is None

    def test_say_so_in_history(self):
        """The first event holds the rule, so that a replay obeys it."""
        assert begun(takes("event:e"), options=STRICT).history[0].strict_events is True
        assert begun(takes("event:e")).history[0].strict_events is None


class TestAQueue:
    def test_is_first_in_first_out(self):
        """Messages are consumed in the order of arrival, over turns and within one."""
        life = begun(takes("queue:q", "queue:q", "queue:q"), keeps=False)
        life.turn(life.queued("q", 1), life.queued("q", 2))
        life.turn(life.queued("q", 3))
        assert life.output == [1, 2, 3]

    def test_keeps_what_nobody_takes_yet(self):
        """The message goes into the mailbox, out of the message queue, without a history event."""
        life = begun(takes("activity:A", "queue:q"))
        life.turn(life.queued("q", "early"))
        assert life.result.events == []
        assert [(mail.queue, mail.data) for mail in life.result.stored_mail] == [("q", '"early"')]
        life.turn(life.completed("A"))
        assert life.output == [None, "early"]
        assert life.result.consumed_mail == [1]

    def test_is_stored_once(self):
        """A message that waits is stored by the turn that took it, not again by later ones."""
        life = begun(takes("activity:A", "queue:q"))
        life.turn(life.queued("q", 1))
        life.turn(life.queued("other", 2))
        assert [mail.id for mail in life.result.stored_mail] == [2]

    def test_delivers_with_a_source(self):
        """The delivery names the subscription that got it, so that history tells who consumed what."""
        life = begun(takes("queue:q"))
        life.turn(life.queued("q", 1))
        delivered = life.result.events[0]
        assert (delivered.kind, delivered.source_event_id, delivered.name) == ("QueueEventDelivered", 2, "q")

    def test_is_independent_of_others_and_of_events(self):
        """One name may be a queue and an event."""
        life = begun(takes("queue:a", "queue:b", "event:a"))
        life.turn(life.queued("b", "b"), life.raised("a", "event"), life.queued("a", "a"))
        assert life.output == ["a", "b", "event"]

    def test_serves_subscriptions_in_their_order(self):
        """Two dequeues of one queue in all(): first subscription, first message."""
        life = begun(lambda ctx, input: (yield ctx.all([ctx.dequeue_event("q"), ctx.dequeue_event("q")])))
        life.turn(life.queued("q", 1))
        life.turn(life.queued("q", 2))
        assert life.output == [{"ok": 1}, {"ok": 2}]

    def test_gives_the_message_of_a_loser_to_the_next(self):
        """A race lost in the turn in which the message comes, before it: the message stays."""

        def orchestration(ctx, input):
            first = yield ctx.race(ctx.dequeue_event("q"), ctx.wait_for_event("stop"))
            return [first["index"], (yield ctx.dequeue_event("q"))]

        life = begun(orchestration)
        life.turn(life.raised("stop"), life.queued("q", "kept"))
        assert life.output == [1, "kept"]

    @pytest.mark.parametrize("keeps", [True, False], ids=["kept", "replayed"])
    def test_is_drained_in_one_turn_however_long_it_is(self, keeps):
        """W11: thousands of messages in one turn, no cap, in order."""

        def orchestration(ctx, input):
            total = []
            while len(total) < 3000:
                total.append((yield ctx.dequeue_event("q")))
            return total

        life = Life(orchestration, keeps=keeps, checks=False)
        life.start()
        life.turn(*[life.queued("q", number) for number in range(1500)])
        life.turn(*[life.queued("q", number) for number in range(1500, 3000)])
        assert life.output == list(range(3000))
        assert len(life.results) == 3

    def test_keeps_what_comes_after_the_end_for_nobody(self):
        """Messages of the last batch that nobody consumed don't become events."""
        life = begun(takes("queue:q"))
        life.turn(life.queued("q", 1), life.queued("q", 2))
        assert life.output == [1]
        assert life.kinds.count("QueueEventDelivered") == 1
