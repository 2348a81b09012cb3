"""W21, spec 12, 13.5, 13.6: nondeterminism, missing code and poison: parked, healed by a deploy, or ended."""

from __future__ import annotations

import json

import pytest

from duroxide_django.models import HistoryEvent, Instance

#: The longest pause between two tries of a parked instance, milliseconds.
LONGEST_PAUSE_MS = 60_000


def blocked(works, instance_id):
    text = works.row(instance_id).blocked
    return None if text is None else json.loads(text)


def first_release(works):
    @works.orchestration
    def order(ctx, input):
        yield ctx.schedule_activity("reserve", input)
        return (yield ctx.wait_for_event("paid"))

    works.recording("reserve")


def broken_release(works):
    @works.orchestration
    def order(ctx, input):
        yield ctx.schedule_activity("check", input)  # came in between
        yield ctx.schedule_activity("reserve", input)
        return (yield ctx.wait_for_event("paid"))

    works.recording("reserve")
    works.recording("check")


@pytest.fixture
def deployed(works):
    """An order that waits under the first release, and the second release that doesn't fit it."""
    first_release(works)
    works.start("o-1", "order", 7)
    works.deploy()
    broken_release(works)
    return works


class TestNondeterminism:
    def test_parks_the_instance_and_says_why(self, deployed):
        """Expected, got, event id and source line; no event is written, the message stays."""
        before = deployed.kinds("o-1")
        deployed.client.raise_event("o-1", "paid", "yes")
        deployed.run()
        why = blocked(deployed, "o-1")
        assert (why["reason"], why["event_id"], why["tries"]) == ("nondeterminism", 2, 1)
        assert "'reserve'" in why["expected"] or "name reserve" in why["expected"]
        assert "activity 'check'" in why["got"]
        assert f"{__file__}:" in why["source"]
        assert why["message"].startswith("nondeterministic: ")
        assert deployed.status("o-1").status == "Running"
        assert deployed.kinds("o-1") == before
        assert deployed.queued() == (1, 0)

    def test_is_healed_by_a_deploy(self, deployed):
        """The right code goes on where it stood, with the message that waited."""
        deployed.client.raise_event("o-1", "paid", "yes")
        deployed.run()
        deployed.deploy()
        first_release(deployed)
        deployed.advance(ms=LONGEST_PAUSE_MS)
        assert deployed.output("o-1") == "yes"
        assert deployed.row("o-1").blocked is None

    def test_is_tried_again_with_growing_pauses(self, deployed):
        """1, 2, 4 … 60 seconds, never poison."""
        deployed.client.raise_event("o-1", "paid", "yes")
        deployed.run()
        pauses = []
        for _ in range(12):
            seconds = 0
            tries = blocked(deployed, "o-1")["tries"]
            while blocked(deployed, "o-1")["tries"] == tries:
                deployed.advance(seconds=1)
                seconds += 1
            pauses.append(seconds)
        assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60, 60, 60, 60]
        assert deployed.status("o-1").status == "Running"

    def test_does_not_hold_others_up(self, deployed):
        """Instances of the new code run beside it."""
        deployed.client.raise_event("o-1", "paid")
        deployed.start("o-2", "order", 8)
        deployed.client.raise_event("o-2", "paid", "new")
        deployed.run()
        assert deployed.output("o-2") == "new"
        assert deployed.calls == [7, 8, 8]

    def test_keeps_messages_in_order(self, deployed):
        """What arrives while it is parked comes after what waited."""
        deployed.client.raise_event("o-1", "paid", "first")
        deployed.run()
        deployed.client.raise_event("o-1", "paid", "second")
        deployed.run()
        deployed.deploy()
        first_release(deployed)
        deployed.advance(ms=LONGEST_PAUSE_MS)
        assert deployed.output("o-1") == "first"

    def test_fails_the_instance_under_the_strict_setting(self, deployed):
        """ON_NONDETERMINISM=fail: a system failure, with its category in the details."""
        deployed.configure(ON_NONDETERMINISM="fail")
        deployed.client.raise_event("o-1", "paid")
        deployed.run()
        result = deployed.status("o-1")
        assert result.error.startswith("nondeterministic: schedule mismatch at event 2")
        assert list(result.error_details) == ["Configuration"]
        assert deployed.queued() == (0, 0)

    def test_of_an_early_return_is_noticed(self, works):
        """W21: code that returns before history ends is no completion."""
        first_release(works)
        works.start("o-1", "order", 7)
        works.deploy()
        works.orchestration(lambda ctx, input: "early", name="order")
        works.client.raise_event("o-1", "paid")
        works.run()
        assert blocked(works, "o-1")["reason"] == "nondeterminism"

    def test_can_be_ended_by_force(self, deployed):
        """A parked instance needs no fitting code to be cancelled at once, and doesn't wait for its pause."""
        deployed.client.raise_event("o-1", "paid")
        deployed.run()
        deployed.client.cancel_instance("o-1", "gave up", force=True)
        deployed.run()
        assert deployed.error("o-1") == "canceled: gave up"
        assert deployed.kinds("o-1")[-3:] == [
            "OrchestrationCancelRequested",
            "ExternalSubscribedCancelled",
            "OrchestrationFailed",
        ]

    def test_holds_for_children_and_their_waiting_parents(self, works):
        """A parked child keeps its parent waiting, and both end when the child is healed."""

        @works.orchestration
        def parent(ctx, input):
            return (yield ctx.schedule_sub_orchestration_with_id("order", "o-1", 7))

        first_release(works)
        works.start("p-1", "parent")
        works.deploy()
        works.orchestration(parent)
        broken_release(works)
        works.client.raise_event("o-1", "paid", "yes")
        works.run()
        assert works.status("p-1").status == "Running"
        works.deploy()
        works.orchestration(parent)
        first_release(works)
        works.advance(ms=LONGEST_PAUSE_MS)
        assert works.output("p-1") == "yes"


class TestMissingCode:
    def test_of_a_new_instance_parks_it(self, works):
        """Nothing is recorded; the reason names what is missing and what there is."""
        works.orchestration(lambda ctx, input: "other", name="other")
        works.start("o-1", "order", 7)
        assert blocked(works, "o-1")["reason"] == "missing_code"
        assert blocked(works, "o-1")["message"] == "no orchestration 'order' is registered"
        assert works.kinds("o-1") == []
        assert works.status("o-1").status == "Running"

    def test_is_healed_by_a_deploy(self, works):
        """The start waited; it runs on the new code."""
        works.start("o-1", "order", 7)
        first_release(works)
        works.advance(ms=LONGEST_PAUSE_MS)
        works.client.raise_event("o-1", "paid", "yes")
        works.run()
        assert works.output("o-1") == "yes"

    def test_of_a_version_is_missing_code(self, works):
        """An exact version that was never registered."""
        first_release(works)
        works.client.start_orchestration_versioned("o-1", "order", 7, "2.0.0")
        works.run()
        assert blocked(works, "o-1")["message"] == "orchestration 'order' has no version 2.0.0 (registered: 1.0.0)"
        works.orchestration(lambda ctx, input: ["two", input], name="order", version="2.0.0")
        works.advance(ms=LONGEST_PAUSE_MS)
        assert works.output("o-1") == ["two", 7]

    def test_of_a_running_instance_waits_for_its_exact_version(self, works):
        """A later version does not take it over."""
        first_release(works)
        works.start("o-1", "order", 7)
        works.deploy()
        works.orchestration(lambda ctx, input: "two", name="order", version="2.0.0")
        works.client.raise_event("o-1", "paid", "yes")
        works.run()
        assert "no version 1.0.0 (registered: 2.0.0)" in blocked(works, "o-1")["message"]
        first_release(works)
        works.advance(ms=LONGEST_PAUSE_MS)
        assert works.output("o-1") == "yes"

    def test_after_continue_as_new_waits_too(self, works):
        """The old execution has ended, the next one begins when its version is there."""

        @works.orchestration
        def order(ctx, input):
            yield ctx.continue_as_new_versioned("next", "9.0.0")

        works.start("o-1", "order")
        assert blocked(works, "o-1")["reason"] == "missing_code"
        assert works.status("o-1").status == "Running"
        works.orchestration(lambda ctx, input: [ctx.execution_id, input], name="order", version="9.0.0")
        works.advance(ms=LONGEST_PAUSE_MS)
        assert works.output("o-1") == [2, "next"]

    def test_is_never_poison(self, works):
        """Days without the code don't end the instance."""
        works.start("o-1", "order", 7)
        for _ in range(30):
            works.advance(minutes=2)
        assert works.status("o-1").status == "Running"
        assert blocked(works, "o-1")["tries"] > 20
        works.orchestration(lambda ctx, input: input, name="order")
        works.advance(ms=LONGEST_PAUSE_MS)
        assert works.output("o-1") == 7

    def test_of_an_activity_leaves_it_in_the_queue(self, works):
        """It runs as soon as somebody serves it."""

        @works.orchestration
        def order(ctx, input):
            return (yield ctx.schedule_activity("pay", input))

        works.start("o-1", "order", 7)
        assert works.queued() == (0, 1)
        works.clock.advance(days=1)
        works.recording("pay")
        works.run()
        assert works.output("o-1") == 7


class TestPoison:
    def exhausted(self, works, instance_id, attempts=10):
        """Make the instance look as if so many workers had died in its turn."""
        changed = Instance.objects.using(works.client.db.alias).filter(instance_id=instance_id)
        assert changed.update(attempts=attempts) == 1

    def test_ends_an_instance_that_kills_its_workers(self, works):
        """After MAX_ATTEMPTS turns that were begun and never committed: Failed, told as poison."""
        first_release(works)
        works.start("o-1", "order", 7)
        works.client.raise_event("o-1", "paid")
        self.exhausted(works, "o-1")
        works.run()
        assert works.error("o-1") == "poison: orchestration o-1 exceeded 11 attempts (max 10)"
        assert list(works.status("o-1").error_details) == ["Poison"]
        assert works.queued() == (0, 0)

    def test_comes_not_too_early(self, works):
        """The tenth attempt is still run."""
        first_release(works)
        works.start("o-1", "order", 7)
        works.client.raise_event("o-1", "paid", "yes")
        self.exhausted(works, "o-1", 9)
        works.run()
        assert works.output("o-1") == "yes"
        assert works.row("o-1").attempts == 0

    def test_before_the_first_turn_leaves_a_history(self, works):
        """A start that can't be processed: its row, its start event and the reason are there."""
        first_release(works)
        works.client.start_orchestration("o-1", "order", 7)
        self.exhausted(works, "o-1")
        works.run()
        assert works.kinds("o-1") == ["OrchestrationStarted", "OrchestrationFailed"]
        assert works.error("o-1").startswith("poison: ")

    def test_cancels_what_is_in_flight_and_aborts_the_parent(self, works):
        """Children are told, activities removed; the parent can't catch it."""

        @works.orchestration
        def grandparent(ctx, input):
            try:
                yield ctx.schedule_sub_orchestration_with_id("parent", "p-1")
            except Exception:  # noqa: BLE001
                return "caught"

        @works.orchestration
        def parent(ctx, input):
            yield ctx.all(
                [
                    ctx.schedule_sub_orchestration_with_id("order", "o-1", 7),
                    ctx.schedule_activity("nobody serves this"),
                    ctx.schedule_timer(60_000),
                ]
            )

        first_release(works)
        works.start("g-1", "grandparent")
        works.client.raise_event("p-1", "anything")
        self.exhausted(works, "p-1")
        works.run()
        assert works.error("p-1") == works.error("g-1") == "poison: orchestration p-1 exceeded 11 attempts (max 10)"
        assert works.error("o-1") == "canceled: parent canceled"
        assert works.queued() == (0, 0)


class TestAHistoryThatCanNotBeRead:
    def test_parks_the_instance_and_leaves_the_rest_alone(self, works):
        """An event kind of a newer release, or damage: never skipped silently, never fatal for others."""
        first_release(works)
        works.start("o-1", "order", 7)
        works.start("o-2", "order", 8)
        damaged = HistoryEvent.objects.using(works.client.db.alias).filter(instance__instance_id="o-1", event_id=2)
        assert damaged.update(kind="ActivityPaused") == 1
        for instance_id in ("o-1", "o-2"):
            works.client.raise_event(instance_id, "paid", "yes")
        works.run()
        assert blocked(works, "o-1")["reason"] == "corrupt_history"
        assert "unknown kind 'ActivityPaused'" in blocked(works, "o-1")["message"]
        assert works.output("o-2") == "yes"
        damaged.update(kind="ActivityScheduled")
        works.advance(ms=LONGEST_PAUSE_MS)
        assert works.output("o-1") == "yes"

    def test_can_be_ended_by_force(self, works):
        """The end is appended behind what can't be read."""
        first_release(works)
        works.start("o-1", "order", 7)
        HistoryEvent.objects.using(works.client.db.alias).filter(event_id=1).update(data="{")
        works.client.cancel_instance("o-1", "damaged", force=True)
        works.run()
        assert works.error("o-1") == "canceled: damaged"
