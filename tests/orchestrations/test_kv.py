"""Spec part 11 with W9, W23: KV entries by the public API."""

from __future__ import annotations

from duroxide_django import MAX_KV_KEYS, MAX_KV_VALUE_BYTES, LimitExceeded
from duroxide_django.models import KeyValue


class TestKvEntries:
    def test_are_visible_when_the_turn_commits(self, works):
        """Set, overwritten, cleared: the client sees what the last committed turn left."""

        @works.orchestration
        def flow(ctx, input):
            ctx.set_kv_value("a", 1)
            ctx.set_kv_value("b", 1)
            yield ctx.wait_for_event("next")
            ctx.set_kv_value("a", 2)
            ctx.clear_kv_value("b")
            yield ctx.wait_for_event("next")
            ctx.clear_all_kv_values()
            ctx.set_kv_value("c", 3)

        works.start("f-1", "flow")
        assert works.client.get_kv_all_values("f-1") == {"a": "1", "b": "1"}
        works.client.raise_event("f-1", "next")
        works.run()
        assert works.client.get_kv_all_values("f-1") == {"a": "2"}
        assert works.client.get_kv_value("f-1", "b") is None
        works.client.raise_event("f-1", "next")
        works.run()
        assert works.client.get_kv_all_values("f-1") == {"c": "3"}

    def test_are_read_from_other_instances_as_committed(self, works):
        """In the turn that asks, recorded: a later change doesn't change the past."""

        @works.orchestration
        def server(ctx, input):
            ctx.set_kv_value("address", "10.0.0.1")
            yield ctx.wait_for_event("move")
            ctx.set_kv_value("address", "10.0.0.2")
            yield ctx.wait_for_event("end")

        @works.orchestration
        def reads(ctx, input):
            first = yield ctx.get_kv_value_from_instance("server-1", "address")
            missing = yield ctx.get_kv_value_from_instance("nobody", "address")
            yield ctx.wait_for_event("again")
            return [first, missing, (yield ctx.get_kv_value_from_instance("server-1", "address"))]

        works.start("server-1", "server")
        works.start("r-1", "reads")
        works.client.raise_event("server-1", "move")
        works.run()
        works.client.raise_event("r-1", "again")
        works.run()
        assert works.output("r-1") == ["10.0.0.1", None, "10.0.0.2"]
        assert works.queued() == (0, 0)

    def test_belong_to_one_instance(self, works):
        """Children have their own."""

        @works.orchestration
        def parent(ctx, input):
            ctx.set_kv_value("k", "parent")
            return [(yield ctx.schedule_sub_orchestration_with_id("child", "c-1")), ctx.get_kv_value("k")]

        @works.orchestration
        def child(ctx, input):
            seen = ctx.get_kv_value("k")
            ctx.set_kv_value("k", "child")
            yield ctx.utc_now()
            return seen

        works.start("p-1", "parent")
        assert works.output("p-1") == [None, "parent"]
        assert works.client.get_kv_value("c-1", "k") == "child"

    def test_go_with_their_instance(self, works):
        """Deleting it deletes them."""

        @works.orchestration
        def flow(ctx, input):
            ctx.set_kv_value("k", 1)
            yield ctx.utc_now()

        works.start("f-1", "flow")
        assert works.client.get_kv_value("f-1", "k") == "1"
        works.client.delete_instance("f-1")
        assert not KeyValue.objects.using(works.client.db.alias).exists()


class TestReplay:
    def test_starts_from_the_state_at_the_start_of_the_execution(self, works):
        """Not from the latest: decisions by values that were changed since must come out as they did."""

        @works.orchestration
        def flow(ctx, input):
            if input is None:
                ctx.set_kv_value("phase", "base")
                yield ctx.continue_as_new("second")
            decisions = []
            for _ in range(4):
                decisions.append(ctx.get_kv_value("phase"))
                if decisions[-1] == "base":
                    ctx.set_kv_value("phase", "changed")
                    yield ctx.schedule_activity("work", "first")
                else:
                    ctx.clear_kv_value("phase")
                    ctx.set_kv_value("phase", f"{decisions[-1]}!")
                    yield ctx.schedule_timer(1_000)
            return decisions

        works.recording("work")
        works.start("f-1", "flow")
        works.finish()
        assert works.output("f-1") == ["base", "changed", "changed!", "changed!!"]
        assert works.calls == ["first"]

    def test_prunes_by_recorded_times(self, works):
        """W23: a log that keeps the last three minutes, over many turns and executions."""

        @works.orchestration
        def log(ctx, input):
            for minute in range(input, input + 4):
                ctx.set_kv_value(f"minute {minute}", "x")
                now = yield ctx.utc_now()
                ctx.prune_kv_values_updated_before(now - 120_000)
                yield ctx.schedule_timer(60_000)
            if input < 8:
                yield ctx.continue_as_new(input + 4)
            return ctx.get_kv_all_keys()

        works.start("l-1", "log", 0)
        works.finish()
        assert works.output("l-1") == ["minute 10", "minute 11", "minute 9"]


class TestLimits:
    def test_can_be_reacted_to(self, works):
        """Raised at the call; the instance goes on."""

        @works.orchestration
        def flow(ctx, input):
            ctx.set_kv_value("large", "ü" * (MAX_KV_VALUE_BYTES // 2))
            for number in range(MAX_KV_KEYS - 1):
                ctx.set_kv_value(f"k{number}", number)
            yield ctx.schedule_timer(1)
            refused = 0
            for key, value in (("one more", "1"), ("large", "x" * (MAX_KV_VALUE_BYTES + 1))):
                try:
                    ctx.set_kv_value(key, value)
                except LimitExceeded:
                    refused += 1
            return [refused, ctx.get_kv_length()]

        works.start("f-1", "flow")
        works.finish()
        assert works.output("f-1") == [2, MAX_KV_KEYS]
        assert len(works.client.get_kv_value("f-1", "large")) == MAX_KV_VALUE_BYTES // 2

    def test_fail_the_instance_and_tell_its_parent_otherwise(self, works):
        """W9: uncaught, it is an ordinary failure; the parent hears of it, nothing of the turn is half done."""

        @works.orchestration
        def parent(ctx, input):
            try:
                yield ctx.schedule_sub_orchestration_with_id("child", "c-1")
            except Exception as exc:  # noqa: BLE001
                return str(exc)

        @works.orchestration
        def child(ctx, input):
            ctx.set_kv_value("fits", 1)
            ctx.set_kv_value("large", "x" * (MAX_KV_VALUE_BYTES + 1))
            yield ctx.utc_now()

        works.start("p-1", "parent")
        assert "'large' is 65537 bytes, the limit is 65536 bytes" in works.output("p-1")
        assert works.client.get_kv_all_values("c-1") == {"fits": "1"}
        assert works.kinds("c-1")[-1] == "OrchestrationFailed"
        assert "OrchestrationCompleted" not in works.kinds("c-1")
