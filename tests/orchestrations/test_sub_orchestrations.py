"""Spec part 7: children that an orchestration waits for."""

from __future__ import annotations

import pytest

from duroxide_django import SubOrchestrationFailed


@pytest.fixture
def family(works):
    """A parent that passes its input on and returns what the child does."""

    @works.orchestration
    def parent(ctx, input):
        return {"from child": (yield ctx.schedule_sub_orchestration("child", input))}

    @works.orchestration
    def child(ctx, input):
        return (yield ctx.schedule_activity("work", input))

    works.recording("work", lambda input: f"{input} done")
    return works


class TestAChild:
    def test_gets_an_id_made_from_its_parents(self, family):
        """``<parent>::sub::<event id>``; parent, tree and history know each other."""
        family.start("p-1", "parent", "tea")
        assert family.output("p-1") == {"from child": "tea done"}
        assert family.output("p-1::sub::2") == "tea done"
        assert family.client.get_instance_info("p-1::sub::2").parent_instance_id == "p-1"
        assert sorted(family.client.get_instance_tree("p-1").all_ids) == ["p-1", "p-1::sub::2"]

    def test_gets_the_id_it_is_given(self, works):
        """An explicit id is used as it is."""

        @works.orchestration
        def parent(ctx, input):
            return (yield ctx.schedule_sub_orchestration_with_id("child", "my child", input))

        works.orchestration(lambda ctx, input: [ctx.instance_id, input], name="child")
        works.start("p-1", "parent", 1)
        assert works.output("p-1") == ["my child", 1]

    @pytest.mark.parametrize(("version", "expected"), [(None, "2.0.0"), ("1.0.0", "1.0.0")])
    def test_runs_the_version_asked_for(self, works, version, expected):
        """None takes the latest at the child's first turn."""

        @works.orchestration
        def parent(ctx, input):
            return (yield ctx.schedule_sub_orchestration_versioned("child", version))

        for known in ("1.0.0", "2.0.0"):
            works.orchestration(lambda ctx, input: ctx.orchestration_version, name="child", version=known)
        works.start("p-1", "parent")
        assert works.output("p-1") == expected

    def test_may_continue_as_new(self, works):
        """The parent waits for the last execution's output."""

        @works.orchestration
        def parent(ctx, input):
            return (yield ctx.schedule_sub_orchestration("counts", 3))

        @works.orchestration
        def counts(ctx, input):
            yield ctx.schedule_timer(1_000)
            if input:
                yield ctx.continue_as_new(input - 1)
            return ctx.execution_id

        works.start("p-1", "parent")
        works.finish()
        assert works.output("p-1") == 4
        assert works.kinds("p-1").count("SubOrchestrationCompleted") == 1

    def test_belongs_to_its_execution(self, works):
        """A child of the first execution does not answer the second one's child (unique automatic ids)."""

        @works.orchestration
        def parent(ctx, input):
            got = yield ctx.schedule_sub_orchestration("child", input)
            if input < 3:
                yield ctx.continue_as_new(input + 1)
            return got

        works.orchestration(lambda ctx, input: [ctx.instance_id, input], name="child")
        works.start("p-1", "parent", 1)
        assert works.output("p-1") == ["p-1::sub::3_2", 3]

    def test_that_outlives_its_parents_execution_answers_nobody(self, works):
        """The parent went on without it: the late result finds another execution and is dropped."""

        @works.orchestration
        def parent(ctx, input):
            if input == "second":
                return (yield ctx.wait_for_event("end"))

            def renews():
                yield ctx.wait_for_event("renew")
                yield ctx.continue_as_new("second")

            yield ctx.all([ctx.schedule_sub_orchestration_with_id("child", "c-1"), renews()])

        @works.orchestration
        def child(ctx, input):
            return (yield ctx.wait_for_event("go"))

        works.start("p-1", "parent", "first")
        works.client.raise_event("p-1", "renew")
        works.run()
        works.client.raise_event("c-1", "go", "late")
        works.run()
        assert works.output("c-1") == "late"
        assert works.kinds("p-1", 2) == ["OrchestrationStarted", "ExternalSubscribed"]
        works.client.raise_event("p-1", "end", "fine")
        works.run()
        assert works.output("p-1") == "fine"

    def test_may_have_many_siblings_and_descendants(self, works):
        """200 at once, and 20 levels deep."""

        @works.orchestration
        def parent(ctx, input):
            wide = yield ctx.all([ctx.schedule_sub_orchestration("leaf", number) for number in range(200)])
            return [len(wide), (yield ctx.schedule_sub_orchestration("deep", 20))]

        @works.orchestration
        def deep(ctx, input):
            return 0 if input == 0 else 1 + (yield ctx.schedule_sub_orchestration("deep", input - 1))

        works.orchestration(lambda ctx, input: input, name="leaf")
        works.start("p-1", "parent")
        assert works.output("p-1") == [200, 20]
        assert works.client.get_instance_tree("p-1").size == 222
        assert works.queued() == (0, 0)


class TestAChildThatFails:
    def test_passes_its_error_up_through_all_levels(self, works):
        """Class and text of what the activity raised reach the top unchanged."""

        @works.activity
        def pay(ctx, input):
            raise LookupError("no such card")

        @works.orchestration
        def bottom(ctx, input):
            yield ctx.schedule_activity("pay")

        @works.orchestration
        def middle(ctx, input):
            yield ctx.schedule_sub_orchestration("bottom")

        @works.orchestration
        def top(ctx, input):
            try:
                yield ctx.schedule_sub_orchestration("middle")
            except SubOrchestrationFailed as exc:
                return [str(exc), exc.error_types[0], exc.name, "pay" in exc.traceback_text]

        works.start("t-1", "top")
        assert works.output("t-1") == ["LookupError: no such card", "LookupError", "t-1::sub::2", True]
        assert works.error("t-1::sub::2") == "LookupError: no such card"

    def test_fails_its_parent_if_that_does_not_catch(self, family):
        """With the same text."""

        @family.orchestration(name="child", version="2.0.0")
        def child(ctx, input):
            raise ValueError("bad child")
            yield

        family.start("p-1", "parent")
        assert family.error("p-1") == "ValueError: bad child"

    def test_for_the_system_aborts_its_parent(self, works):
        """Nondeterminism under ON_NONDETERMINISM=fail: uncatchable on every level above."""
        works.configure(ON_NONDETERMINISM="fail")

        @works.orchestration
        def parent(ctx, input):
            try:
                yield ctx.schedule_sub_orchestration_with_id("child", "c-1")
            except Exception:  # noqa: BLE001
                return "caught"

        @works.orchestration
        def child(ctx, input):
            yield ctx.wait_for_event("a")

        works.start("p-1", "parent")
        works.deploy()
        works.orchestration(parent)

        @works.orchestration(name="child")
        def changed(ctx, input):
            yield ctx.wait_for_event("b")

        works.client.raise_event("c-1", "a")
        works.run()
        assert works.error("c-1").startswith("nondeterministic: ")
        assert works.error("p-1").startswith("nondeterministic: ")


class TestAnIdThatIsTaken:
    @pytest.fixture
    def taking(self, works):
        @works.orchestration
        def parent(ctx, input):
            return (yield ctx.all([ctx.schedule_sub_orchestration_with_id("child", name) for name in input]))

        @works.orchestration
        def child(ctx, input):
            return (yield ctx.wait_for_event("end"))

        return works

    def test_by_a_running_instance_fails_the_child(self, taking):
        """The parent gets an error that says so; the other instance is untouched."""
        taking.start("c-1", "child")
        taking.start("p-1", "parent", ["c-1"])
        (entry,) = taking.output("p-1")
        assert entry["err"] == "sub-orchestration instance id 'c-1' already exists"
        assert taking.client.get_instance_info("c-1").parent_instance_id is None
        taking.client.raise_event("c-1", "end", "its own")
        taking.run()
        assert taking.output("c-1") == "its own"

    def test_by_an_ended_instance_says_that_too(self, taking):
        """``and is terminal`` tells that waiting is no use."""
        taking.start("c-1", "child")
        taking.client.raise_event("c-1", "end")
        taking.run()
        taking.start("p-1", "parent", ["c-1"])
        assert taking.output("p-1") == [
            {"err": "sub-orchestration instance id 'c-1' already exists and is terminal"},
        ]

    def test_by_a_sibling_fails_the_second(self, taking):
        """Two children of one id in one turn: the first is started."""
        taking.start("p-1", "parent", ["c-1", "c-1"])
        taking.client.raise_event("c-1", "end", "first")
        taking.run()
        first, second = taking.output("p-1")
        assert first == {"ok": "first"}
        assert "already exists" in second["err"]

    def test_by_the_parent_itself_fails_the_child(self, taking):
        """An instance can't be its own child."""
        taking.start("p-1", "parent", ["p-1"])
        assert "already exists" in taking.output("p-1")[0]["err"]


class TestCancelling:
    @pytest.fixture
    def levels(self, works):
        @works.orchestration
        def level(ctx, input):
            if input == 0:
                yield ctx.wait_for_event("never")
            yield ctx.all([ctx.schedule_sub_orchestration("level", input - 1) for _ in range(2)])

        return works

    def test_cascades_to_all_descendants(self, levels):
        """Each is Failed, cancelled, with the reason that its parent was."""
        levels.start("top", "level", 2)
        tree = levels.client.get_instance_tree("top").all_ids
        assert len(tree) == 7
        levels.client.cancel_instance("top", "by hand")
        levels.run()
        reasons = {instance_id: levels.error(instance_id) for instance_id in tree}
        assert reasons.pop("top") == "canceled: by hand"
        assert set(reasons.values()) == {"canceled: parent canceled"}
        assert all(levels.status(instance_id).is_cancelled for instance_id in tree)
        assert levels.queued() == (0, 0)

    def test_reaches_a_child_that_has_not_begun(self, levels):
        """Parent and child are cancelled before anybody ran the child's first turn."""
        levels.client.start_orchestration("top", "level", 1)
        levels.client.cancel_instance("top", "early")
        levels.run()
        assert levels.error("top") == "canceled: early"
        assert levels.queued() == (0, 0)
        assert len(levels.client.list_instances_by_status("Running")) == 0

    def test_a_child_directly_is_an_error_for_the_parent(self, works):
        """Catchable, with the reason, and told apart from other failures."""

        @works.orchestration
        def parent(ctx, input):
            try:
                yield ctx.schedule_sub_orchestration_with_id("child", "c-1")
            except SubOrchestrationFailed as exc:
                return [str(exc), exc.cancelled]

        @works.orchestration
        def child(ctx, input):
            yield ctx.wait_for_event("never")

        works.start("p-1", "parent")
        works.client.cancel_instance("c-1", "out of stock")
        works.run()
        assert works.output("p-1") == ["canceled: out of stock", True]

    def test_happens_to_a_child_that_lost_a_race(self, works):
        """Its reason is that its parent dropped it; the parent ignores its failure."""

        @works.orchestration
        def parent(ctx, input):
            yield ctx.race(ctx.schedule_sub_orchestration_with_id("child", "c-1"), ctx.wait_for_event("go"))
            yield ctx.schedule_timer(1_000)
            return "went on"

        @works.orchestration
        def child(ctx, input):
            yield ctx.wait_for_event("never")

        works.start("p-1", "parent")
        works.client.raise_event("p-1", "go")
        works.finish()
        assert works.error("c-1") == "canceled: parent dropped sub-orchestration future"
        assert works.output("p-1") == "went on"
        assert "SubOrchestrationFailed" in works.kinds("p-1")

    def test_spares_detached_ones(self, works):
        """What was started without linkage lives on."""

        @works.orchestration
        def parent(ctx, input):
            yield ctx.start_orchestration("other", "o-1")
            yield ctx.wait_for_event("never")

        @works.orchestration
        def other(ctx, input):
            return (yield ctx.wait_for_event("end"))

        works.start("p-1", "parent")
        works.client.cancel_instance("p-1")
        works.run()
        assert works.status("o-1").status == "Running"
