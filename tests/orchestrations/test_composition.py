"""Spec 4.8 with W1 to W3: all, race, nesting and blocks over real time, activities and children."""

from __future__ import annotations

import pytest

from duroxide_django import ActivityFailed


@pytest.fixture
def shop(works):
    """Activity ``step`` gives its input, or fails if it is negative."""

    def step(ctx, input):
        works.calls.append(input)
        if input < 0:
            raise ValueError(f"step {input}")
        return input

    works.activity(step)
    return works


class TestAll:
    def test_joins_everything(self, shop):
        """Activities, timers, events, messages, children, recorded values and blocks side by side."""

        def block(ctx):
            first = yield ctx.schedule_activity("step", 10)
            yield ctx.schedule_timer(5_000)
            return first + (yield ctx.schedule_activity("step", 20))

        @shop.orchestration
        def joins(ctx, input):
            results = yield ctx.all(
                [
                    ctx.schedule_activity("step", 1),
                    ctx.schedule_activity("step", -1),
                    ctx.schedule_timer(1_000),
                    ctx.wait_for_event("e"),
                    ctx.dequeue_event("q"),
                    ctx.schedule_sub_orchestration("child", 2),
                    ctx.utc_now(),
                    block(ctx),
                ]
            )
            return [entry.get("ok", entry.get("err")) for entry in results]

        @shop.orchestration
        def child(ctx, input):
            yield ctx.schedule_timer(2_000)
            return input * 2

        began = shop.clock.now_ms
        shop.client.start_orchestration("j-1", "joins")
        shop.client.raise_event("j-1", "e", "event")
        shop.client.enqueue_event("j-1", "q", "message")
        shop.finish()
        assert shop.output("j-1") == [1, "ValueError: step -1", None, "event", "message", 4, began, 30]
        assert shop.clock.now_ms - began == 5_000

    def test_takes_hundreds_of_activities(self, shop):
        """All complete, each once, in any order."""

        @shop.orchestration
        def fans_out(ctx, input):
            results = yield ctx.all([ctx.schedule_activity("step", number) for number in range(200)])
            return sum(entry["ok"] for entry in results)

        shop.start("f-1", "fans_out")
        assert shop.output("f-1") == sum(range(200))
        assert sorted(shop.calls) == list(range(200))

    def test_can_fail_fast(self, shop):
        """W1b: the first failure is raised; timers, children and queued activities of the rest are gone."""

        @shop.orchestration
        def strict(ctx, input):
            try:
                yield ctx.all(
                    [
                        ctx.schedule_activity("nobody serves this"),
                        ctx.schedule_timer(60_000),
                        ctx.schedule_sub_orchestration_with_id("waits", "c-1"),
                        ctx.schedule_activity("step", -5),
                    ],
                    fail_fast=True,
                )
            except ActivityFailed as exc:
                return str(exc)

        @shop.orchestration
        def waits(ctx, input):
            yield ctx.wait_for_event("never")

        shop.start("s-1", "strict")
        assert shop.output("s-1") == "ValueError: step -5"
        assert shop.error("c-1") == "canceled: parent dropped sub-orchestration future"
        assert shop.queued() == (0, 0)


class TestRace:
    @pytest.mark.parametrize(("winner", "after_s"), [(0, 1), (1, 2), (2, 3)])
    def test_of_several_is_won_by_the_earliest(self, shop, winner, after_s):
        """W1: three timers, an event; virtual time tells who was first."""
        delays = [9_000, 9_000, 9_000]
        delays[winner] = after_s * 1_000

        @shop.orchestration
        def races(ctx, input):
            won = yield ctx.race(*[ctx.schedule_timer(delay) for delay in delays], ctx.wait_for_event("e"))
            return won["index"]

        began = shop.clock.now_ms
        shop.start("r-1", "races")
        shop.finish()
        assert shop.output("r-1") == winner
        assert shop.clock.now_ms - began == after_s * 1_000

    def test_nests_with_blocks_and_retries(self, shop):
        """W2, W3: a deadline over a sequence with a retry inside a fan-out."""

        def charge(ctx, amount):
            yield ctx.schedule_timer(1_000)
            return (yield ctx.schedule_activity_with_retry("step", amount, {"max_attempts": 2, "backoff": "fixed"}))

        @shop.orchestration
        def pays(ctx, input):
            work = ctx.all([charge(ctx, amount) for amount in input["amounts"]])
            won = yield ctx.race(work, ctx.schedule_timer(input["deadline"]))
            return "late" if won["index"] else won["value"]

        shop.start("p-1", "pays", {"amounts": [1, -2, 3], "deadline": 60_000})
        shop.start("p-2", "pays", {"amounts": [1, -2, 3], "deadline": 1_500})
        shop.finish()
        assert shop.output("p-1") == [{"ok": 1}, {"err": "ValueError: step -2"}, {"ok": 3}]
        assert shop.output("p-2") == "late"
        assert shop.queued() == (0, 0)

    def test_raises_what_its_winner_raised(self, shop):
        """A failing winner is a failure, not a value."""

        @shop.orchestration
        def races(ctx, input):
            yield ctx.race(ctx.schedule_activity("step", -1), ctx.schedule_timer(9_000))

        shop.start("r-1", "races")
        assert shop.error("r-1") == "ValueError: step -1"


class TestRecordedValues:
    def test_cost_no_turn(self, works):
        """W34: a thousand of them in the first and only turn."""

        @works.orchestration
        def asks(ctx, input):
            guids = set()
            for _ in range(500):
                guids.add((yield ctx.new_guid()))
                yield ctx.utc_now()
            return len(guids)

        works.start("a-1", "asks")
        assert works.output("a-1") == 500
        assert works.row("a-1").turns == 1

    def test_are_the_same_after_every_replay(self, works):
        """Over many turns, in whichever process."""

        @works.orchestration
        def remembers(ctx, input):
            guid, now = (yield ctx.new_guid()), (yield ctx.utc_now())
            ctx.set_kv_value("guid", guid)
            for _ in range(5):
                yield ctx.schedule_timer(1_000)
                assert ctx.get_kv_value("guid") == guid
            return [guid, now]

        began = works.clock.now_ms
        works.start("r-1", "remembers")
        committed = works.client.get_kv_value("r-1", "guid")
        works.finish()
        assert works.output("r-1") == [committed, began]
