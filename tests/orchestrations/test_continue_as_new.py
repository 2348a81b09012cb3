"""Spec part 6 with W13: continue-as-new by the public API."""

from __future__ import annotations

import pytest

from duroxide_django.models import Message
from duroxide_django.storage import turns


class TestAnEndlessOrchestration:
    @pytest.fixture
    def monitor(self, works):
        """Counts checks, one a minute, in executions of two events each."""

        @works.orchestration
        def watch(ctx, input):
            ctx.set_custom_status(f"check {input}")
            ctx.set_kv_value("checks", input)
            yield ctx.schedule_timer(60_000)
            yield ctx.continue_as_new(input + 1)

        return works

    def test_has_bounded_history_and_one_id(self, monitor):
        """Half an hour is thirty executions; the client sees one running instance."""
        monitor.start("m-1", "watch", 1)
        monitor.finish(until_ms=monitor.clock.now_ms + 1_800_000)
        result = monitor.status("m-1")
        assert (result.status, result.custom_status, result.custom_status_version) == ("Running", "check 31", 31)
        assert monitor.client.list_executions("m-1") == list(range(1, 32))
        assert len(monitor.history("m-1", 31)) == 4
        assert monitor.client.get_kv_value("m-1", "checks") == "31"

    def test_tells_each_executions_end(self, monitor):
        """Status ContinuedAsNew, the next input as output."""
        monitor.start("m-1", "watch", 1)
        monitor.advance(minutes=1)
        info = monitor.client.get_execution_info("m-1", 1)
        assert (info.status, info.output) == ("ContinuedAsNew", "2")
        assert monitor.client.get_instance_info("m-1").current_execution_id == 2

    def test_can_be_cancelled_in_any_execution(self, monitor):
        """The cancel finds the current one."""
        monitor.start("m-1", "watch", 1)
        monitor.finish(until_ms=monitor.clock.now_ms + 300_000)
        monitor.client.cancel_instance("m-1", "enough")
        monitor.run()
        assert monitor.error("m-1") == "canceled: enough"
        assert monitor.queued() == (0, 0)

    def test_keeps_its_values_when_old_executions_are_pruned(self, monitor):
        """KV entries and status belong to the instance."""
        from duroxide_django import PruneOptions

        monitor.start("m-1", "watch", 1)
        monitor.finish(until_ms=monitor.clock.now_ms + 300_000)
        assert monitor.client.prune_executions("m-1", PruneOptions(keep_last=1)).executions_deleted == 5
        monitor.advance(minutes=1)
        assert monitor.status("m-1").custom_status == "check 7"


class TestWhatSurvives:
    def test_kv_with_its_times(self, works):
        """Entries of older executions are there, may be pruned by age, overwritten and removed."""

        @works.orchestration
        def flow(ctx, input):
            if input == 1:
                ctx.set_kv_value("old", 1)
                ctx.set_kv_value("removed", 1)
                yield ctx.schedule_timer(1_000)
                yield ctx.continue_as_new(2)
            seen = ctx.get_kv_all_values()
            ctx.clear_kv_value("removed")
            ctx.set_kv_value("new", 2)
            yield ctx.schedule_timer(1_000)
            return [seen, ctx.prune_kv_values_updated_before((yield ctx.utc_now()) - 1_500), ctx.get_kv_all_keys()]

        works.start("f-1", "flow", 1)
        works.finish()
        assert works.output("f-1") == [{"old": "1", "removed": "1"}, 1, ["new"]]
        assert works.client.get_kv_all_values("f-1") == {"new": "2"}

    def test_status_without_a_new_version(self, works):
        """The text is seeded into the next execution; the counter counts changes only."""

        @works.orchestration
        def flow(ctx, input):
            if input < 3:
                if input == 1:
                    ctx.set_custom_status("set once")
                yield ctx.continue_as_new(input + 1)
            return ctx.get_custom_status()

        works.start("f-1", "flow", 1)
        result = works.status("f-1")
        assert (result.output, result.custom_status, result.custom_status_version) == ("set once", "set once", 1)

    def test_mail_in_order(self, works):
        """W13: 120 messages, some before the first turn, each consumed by its own execution, none lost."""

        @works.orchestration
        def flow(ctx, input):
            number = yield ctx.dequeue_event("inbox")
            if number == 119:
                return [*input, number]
            yield ctx.continue_as_new([*input, number] if number % 50 == 49 else input)

        works.client.start_orchestration("f-1", "flow", [])
        for number in range(60):
            works.client.enqueue_event("f-1", "inbox", number)
        works.run()
        assert len(works.client.list_executions("f-1")) == 61
        for number in range(60, 120):
            works.client.enqueue_event("f-1", "inbox", number)
        works.run()
        assert works.output("f-1") == [49, 99, 119]

    def test_queues_that_nobody_read_yet(self, works):
        """A message of a queue that only the third execution reads waits for it."""

        @works.orchestration
        def flow(ctx, input):
            if input < 3:
                yield ctx.schedule_timer(1_000)
                yield ctx.continue_as_new(input + 1)
            return [(yield ctx.dequeue_event("late")), (yield ctx.dequeue_event("late"))]

        works.start("f-1", "flow", 1)
        works.client.enqueue_event("f-1", "late", "one")
        works.advance(seconds=1)
        works.client.enqueue_event("f-1", "late", "two")
        works.finish()
        assert works.output("f-1") == ["one", "two"]


class TestTheNextExecution:
    """It begins once, however its beginning comes to the worker."""

    @pytest.fixture
    def renewing(self, works):
        @works.orchestration
        def renewing(ctx, rounds):
            event = yield ctx.wait_for_event("go")
            if rounds:
                yield ctx.continue_as_new(rounds - 1)
            return event

        works.start("r-1", "renewing", 1)
        return works

    def test_begins_once_in_a_flood_of_messages(self, renewing, monkeypatch):
        """More older messages than one batch takes must not hide what begins it."""
        monkeypatch.setattr(turns, "MAX_BATCH_MESSAGES", 5)
        for number in range(23):
            renewing.client.raise_event("r-1", "go", number)
        renewing.run()
        assert renewing.client.list_executions("r-1") == [1, 2]
        assert renewing.kinds("r-1").count("OrchestrationContinuedAsNew") == 1
        assert renewing.output("r-1") in range(23)

    def test_begins_once_if_an_event_comes_into_sight_before_it(self, renewing):
        """What was hidden while the instance was parked may become visible a moment after a new event."""
        works = renewing
        works.deploy()
        works.orchestration(lambda ctx, rounds: (yield ctx.continue_as_new_versioned(0, "2.0.0")), name="renewing_to")
        works.start("r-2", "renewing_to", 1)
        assert "no version 2.0.0" in works.row("r-2").blocked
        beginning = Message.objects.using(works.client.db.alias).get(instance__instance_id="r-2")
        beginning.visible_at_ms += 60_000
        beginning.save()
        works.client.raise_event("r-2", "go", "early")
        works.advance(seconds=2)
        assert works.kinds("r-2").count("OrchestrationContinuedAsNew") == 1
        works.orchestration(lambda ctx, rounds: (yield ctx.wait_for_event("go")), name="renewing_to", version="2.0.0")
        works.advance(seconds=30)
        assert works.kinds("r-2").count("OrchestrationContinuedAsNew") == 1
        assert works.client.list_executions("r-2") == [1]
        works.advance(seconds=120)
        assert works.output("r-2") == "early"


class TestWhatDoesNotSurvive:
    def test_external_events(self, works):
        """An event of the old execution is not delivered to the new one."""

        @works.orchestration
        def flow(ctx, input):
            if input == 1:
                yield ctx.wait_for_event("renew")
                yield ctx.continue_as_new(2)
            return (yield ctx.wait_for_event("early"))

        works.start("f-1", "flow", 1)
        works.client.raise_event("f-1", "early", "old")
        works.client.raise_event("f-1", "renew")
        works.run()
        assert works.status("f-1").status == "Running"
        works.client.raise_event("f-1", "early", "new")
        works.run()
        assert works.output("f-1") == "new"

    def test_activities_and_timers_in_flight(self, works):
        """Their entries are gone with the execution; nothing wakes the next one."""

        @works.orchestration
        def flow(ctx, input):
            if input == 2:
                return (yield ctx.wait_for_event("end"))
            never = ctx.schedule_activity("nobody serves this")

            def renews():
                yield ctx.wait_for_event("renew")
                yield ctx.continue_as_new(2)

            yield ctx.all([never, ctx.schedule_timer(60_000), renews()])

        works.start("f-1", "flow", 1)
        assert works.queued() == (1, 1)
        works.client.raise_event("f-1", "renew")
        works.run()
        assert works.queued() == (0, 0)
        works.client.raise_event("f-1", "end")
        works.finish()
        assert len(works.history("f-1", 2)) == 4


class TestVersions:
    def test_the_next_execution_takes_the_latest(self, works):
        """The upgrade path of an endless orchestration."""

        @works.orchestration
        def flow(ctx, input):
            yield ctx.wait_for_event("next")
            yield ctx.continue_as_new([*input, ctx.orchestration_version])

        works.start("f-1", "flow", [])

        @works.orchestration(name="flow", version="1.10.0")
        def later(ctx, input):
            return [*input, ctx.orchestration_version]
            yield

        works.orchestration(lambda ctx, input: "not the latest", name="flow", version="1.9.0")
        works.client.raise_event("f-1", "next")
        works.run()
        assert works.output("f-1") == ["1.0.0", "1.10.0"]
        assert works.client.get_instance_info("f-1").orchestration_version == "1.10.0"

    def test_the_next_execution_takes_the_one_it_is_told(self, works):
        """continue_as_new_versioned goes to exactly that version, also an older one."""

        @works.orchestration(name="flow", version="2.0.0")
        def two(ctx, input):
            yield ctx.continue_as_new_versioned("from two", "1.0.0")

        works.orchestration(lambda ctx, input: [ctx.orchestration_version, input], name="flow")
        works.start("f-1", "flow")
        assert works.output("f-1") == ["1.0.0", "from two"]

    def test_a_running_execution_stays_on_its_own(self, works):
        """A new version does not touch what runs."""

        @works.orchestration
        def flow(ctx, input):
            yield ctx.wait_for_event("go")
            return ctx.orchestration_version

        works.start("f-1", "flow")
        works.orchestration(lambda ctx, input: "new code", name="flow", version="2.0.0")
        works.client.raise_event("f-1", "go")
        works.run()
        assert works.output("f-1") == "1.0.0"
