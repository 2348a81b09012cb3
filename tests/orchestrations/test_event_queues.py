"""Spec 5.2 with W11, W12: event queues by the public API."""

from __future__ import annotations

import pytest
from django.db import transaction

from duroxide_django import InstanceNotFound
from duroxide_django.models import QueueMessage


@pytest.fixture
def reading(works):
    """``reads`` returns messages of its queue until one says stop."""

    @works.orchestration
    def reads(ctx, input):
        got = []
        while (message := (yield ctx.dequeue_event(input))) != "stop":
            got.append(message)
        return got

    return works


def waiting(works):
    return list(QueueMessage.objects.using(works.client.db.alias).order_by("id").values_list("queue", "data"))


class TestAQueue:
    def test_is_first_in_first_out_over_turns(self, reading):
        """Single messages and bursts, before the start's first turn and after."""
        reading.client.start_orchestration("r-1", "reads", "q")
        sent = 0
        for burst in (1, 7, 1, 30):
            for _ in range(burst):
                reading.client.enqueue_event("r-1", "q", sent)
                sent += 1
            reading.run()
        reading.client.enqueue_event("r-1", "q", "stop")
        reading.run()
        assert reading.output("r-1") == list(range(sent))
        assert waiting(reading) == []

    def test_takes_thousands_in_one_turn(self, reading):
        """W11: no cap; 2,000 messages that were sent before anybody looked."""
        reading.client.start_orchestration("r-1", "reads", "q")
        with transaction.atomic(using=reading.client.db.alias):
            for number in range(2_000):
                reading.client.enqueue_event("r-1", "q", number)
            reading.client.enqueue_event("r-1", "q", "stop")
        reading.run()
        assert reading.output("r-1") == list(range(2_000))
        assert reading.row("r-1").turns == 1

    def test_keeps_messages_of_other_queues(self, reading):
        """They wait in the instance's mailbox, in order, seen by inspection."""
        reading.start("r-1", "reads", "q")
        for name, data in (("b", 1), ("q", 2), ("a", 3), ("b", 4)):
            reading.client.enqueue_event("r-1", name, data)
        reading.run()
        assert waiting(reading) == [("b", "1"), ("a", "3"), ("b", "4")]
        assert reading.client.get_orchestration_stats("r-1").queue_pending_count == 3

    def test_is_read_from_the_mailbox_later(self, works):
        """A message stored in an earlier turn is consumed once, also after the worker forgot the execution."""

        @works.orchestration
        def later(ctx, input):
            yield ctx.schedule_timer(1_000)
            first = yield ctx.dequeue_event("q")
            yield ctx.schedule_timer(1_000)
            return [first, (yield ctx.dequeue_event("q"))]

        works.start("l-1", "later")
        works.client.enqueue_event("l-1", "q", "one")
        works.run()
        works.client.enqueue_event("l-1", "q", "two")
        works.finish()
        assert works.output("l-1") == ["one", "two"]
        assert waiting(works) == []

    def test_is_independent_of_events_of_its_name(self, works):
        """One name may be both."""

        @works.orchestration
        def both(ctx, input):
            return [(yield ctx.dequeue_event("x")), (yield ctx.wait_for_event("x"))]

        works.start("b-1", "both")
        works.client.raise_event("b-1", "x", "event")
        works.client.enqueue_event("b-1", "x", "message")
        works.run()
        assert works.output("b-1") == ["message", "event"]

    def test_keeps_the_message_that_a_lost_race_did_not_take(self, works):
        """The next dequeue gets it."""

        @works.orchestration
        def races(ctx, input):
            lost = yield ctx.race(ctx.dequeue_event("q"), ctx.schedule_timer(1_000))
            return [lost["index"], (yield ctx.dequeue_event("q"))]

        works.start("r-1", "races")
        works.advance(seconds=1)
        works.client.enqueue_event("r-1", "q", "kept")
        works.run()
        assert works.output("r-1") == [1, "kept"]

    @pytest.mark.parametrize("data", [None, "", '{"text": "json in a string"}', {"deep": [1.5, None, "ü"]}])
    def test_carries_any_value(self, reading, data):
        """A string stays the string it was."""
        reading.start("r-1", "reads", "q")
        reading.client.enqueue_event("r-1", "q", data)
        reading.client.enqueue_event("r-1", "q", "stop")
        reading.run()
        assert reading.output("r-1") == [data]

    def test_of_an_unknown_instance_is_an_error(self, works):
        """W12: nothing is kept, nothing is silently deleted."""
        with pytest.raises(InstanceNotFound):
            works.client.enqueue_event("nobody", "q", 1)
        assert works.queued() == (0, 0)

    def test_is_not_carried_into_another_life(self, reading):
        """A restarted id begins with an empty mailbox."""
        reading.start("r-1", "reads", "q")
        reading.client.enqueue_event("r-1", "other", "old")
        reading.client.enqueue_event("r-1", "q", "stop")
        reading.run()
        reading.client.start_orchestration("r-1", "reads", "other", on_conflict="restart_terminal")
        reading.client.enqueue_event("r-1", "other", "stop")
        reading.run()
        assert reading.output("r-1") == []
