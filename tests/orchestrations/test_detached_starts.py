"""Spec part 7 with W7: orchestrations started without linkage."""

from __future__ import annotations

import pytest

from duroxide_django import OrchestrationCancelled


@pytest.fixture
def audited(works):
    """An orchestration ``audit`` that returns its input and waits for nothing."""
    works.orchestration(lambda ctx, input: [ctx.orchestration_version, input], name="audit")
    works.orchestration(lambda ctx, input: [ctx.orchestration_version, input], name="audit", version="1.5.0")
    return works


class TestADetachedStart:
    def test_begins_a_root(self, audited):
        """No parent, no place in the tree, no answer to the starter."""

        @audited.orchestration
        def starter(ctx, input):
            return (yield ctx.start_orchestration("audit", "a-1", {"by": ctx.instance_id}))

        audited.start("s-1", "starter")
        assert audited.output("s-1") is None
        assert audited.output("a-1") == ["1.5.0", {"by": "s-1"}]
        assert audited.client.get_instance_info("a-1").parent_instance_id is None
        assert audited.client.get_instance_tree("s-1").all_ids == ["s-1"]

    def test_may_name_a_version(self, audited):
        """Exactly that one."""

        @audited.orchestration
        def starter(ctx, input):
            yield ctx.start_orchestration_versioned("audit", "1.0.0", "a-1")

        audited.start("s-1", "starter")
        assert audited.output("a-1") == ["1.0.0", None]

    def test_of_an_id_that_exists_is_ignored(self, audited):
        """The starter learns nothing, the other instance is untouched."""

        @audited.orchestration
        def starter(ctx, input):
            yield ctx.start_orchestration("audit", "a-1", "second")
            yield ctx.start_orchestration("audit", "a-1", "third")
            return "on"

        audited.start("a-1", "audit", "first")
        audited.start("s-1", "starter")
        assert audited.output("s-1") == "on"
        assert audited.output("a-1") == ["1.5.0", "first"]
        assert audited.client.list_executions("a-1") == [1]

    def test_happens_once_however_often_its_starter_is_replayed(self, audited):
        """One OrchestrationChained, one instance."""

        @audited.orchestration
        def starter(ctx, input):
            yield ctx.start_orchestration("audit", "a-1")
            for _ in range(5):
                yield ctx.schedule_timer(1_000)

        audited.start("s-1", "starter")
        audited.finish()
        assert audited.kinds("s-1").count("OrchestrationChained") == 1
        assert sorted(audited.client.list_all_instances()) == ["a-1", "s-1"]

    @pytest.mark.parametrize("ending", ["return", "raise", "renew"])
    def test_is_honoured_in_the_turn_that_ends(self, audited, ending):
        """W7: completed, failed or continued as new, the start is committed with the end."""

        @audited.orchestration
        def starter(ctx, input):
            yield ctx.start_orchestration("audit", "a-1")
            if ending == "renew" and ctx.execution_id == 1:
                yield ctx.continue_as_new()
            if ending == "raise":
                raise ValueError("after the start")

        audited.start("s-1", "starter")
        assert audited.output("a-1") == ["1.5.0", None]
        assert audited.status("s-1").status == ("Failed" if ending == "raise" else "Completed")

    @pytest.mark.parametrize("where", ["before", "clean-up"])
    def test_is_honoured_in_the_turn_that_is_cancelled(self, audited, where):
        """W7: what was started before the cancel was taken, and what its clean-up starts."""

        @audited.orchestration
        def starter(ctx, input):
            try:
                yield ctx.wait_for_event("go")
                if where == "before":
                    yield ctx.start_orchestration("audit", "a-1")
                yield ctx.wait_for_event("never")
            except OrchestrationCancelled:
                if where == "clean-up":
                    yield ctx.start_orchestration("audit", "a-1")
                raise

        audited.start("s-1", "starter")
        audited.client.raise_event("s-1", "go")
        audited.client.cancel_instance("s-1", "enough")
        audited.run()
        assert audited.error("s-1") == "canceled: enough"
        assert audited.output("a-1") == ["1.5.0", None]

    def test_may_chain_thousands(self, audited):
        """A fan-out of 1,000 in one turn."""

        @audited.orchestration
        def starter(ctx, input):
            for number in range(1000):
                yield ctx.start_orchestration("audit", f"a-{number}", number)

        audited.start("s-1", "starter")
        assert audited.client.get_system_metrics().completed_instances == 1001
