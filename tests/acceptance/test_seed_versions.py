"""The guide's versions: MyWorkflow 1.0.0 and 1.0.1 side by side."""

from __future__ import annotations

import json

from duroxide_django import RuntimeOptions, TagFilter


def activities(runtime, calls):
    @runtime.register_activity("Work")
    def work(ctx, input):
        calls.append("Work")
        return f"worked on {input}"

    @runtime.register_activity("Validate")
    def validate(ctx, input):
        calls.append("Validate")


def first_version(runtime, calls):
    activities(runtime, calls)

    @runtime.register_orchestration("MyWorkflow")
    def my_workflow_v1(ctx, input):
        # v1.0.0 — original
        r = yield ctx.schedule_activity("Work", input)
        return r


def both_versions(runtime, calls):
    first_version(runtime, calls)

    @runtime.register_orchestration_versioned("MyWorkflow", "1.0.1")
    def my_workflow_v2(ctx, input):
        # v1.0.1 — with validation
        yield ctx.schedule_activity("Validate", input)
        r = yield ctx.schedule_activity("Work", input)
        return r


class TestVersions:
    """Program 21: new starts on the latest version, begun ones on theirs."""

    def test_starts_on_the_latest(self, client, start_runtime, history):
        """Without a version a start takes 1.0.1, and says so."""
        calls = []
        start_runtime(both_versions, calls=calls)
        client.start_orchestration("new-1", "MyWorkflow", "x")
        assert client.wait_for_orchestration("new-1").output == "worked on x"
        assert calls == ["Validate", "Work"]
        assert client.get_instance_info("new-1").orchestration_version == "1.0.1"
        assert json.loads(history("new-1")[0].data)["version"] == "1.0.1"

    def test_starts_on_the_version_asked_for(self, client, start_runtime):
        """With a version a start takes exactly that one."""
        calls = []
        start_runtime(both_versions, calls=calls)
        client.start_orchestration_versioned("old-1", "MyWorkflow", "x", "1.0.0")
        assert client.wait_for_orchestration("old-1").output == "worked on x"
        assert calls == ["Work"]
        assert client.get_instance_info("old-1").orchestration_version == "1.0.0"

    def test_finishes_what_was_begun_on_the_old_version(self, client, start_runtime, history, kinds, wait_until):
        """Begun before the deploy of 1.0.1, an instance finishes on 1.0.0; a later start takes 1.0.1."""
        before, after = [], []
        no_workers = RuntimeOptions(worker_tag_filter=TagFilter.NONE)
        first = start_runtime(first_version, options=no_workers, calls=before)
        client.start_orchestration("old-1", "MyWorkflow", "x")
        wait_until(lambda: kinds("old-1") == ["OrchestrationStarted", "ActivityScheduled"])
        first.shutdown()

        start_runtime(both_versions, calls=after)
        assert client.wait_for_orchestration("old-1").output == "worked on x"
        assert after == ["Work"]
        assert client.get_instance_info("old-1").orchestration_version == "1.0.0"

        client.start_orchestration("new-1", "MyWorkflow", "y")
        assert client.wait_for_orchestration("new-1").output == "worked on y"
        assert after == ["Work", "Validate", "Work"]
        assert before == []

    def test_takes_the_version_of_the_runtime_that_begins_it(self, client, start_runtime):
        """A start written before the deploy but begun after it takes the new version."""
        calls = []
        client.start_orchestration("new-1", "MyWorkflow", "x")
        start_runtime(both_versions, calls=calls)
        client.wait_for_orchestration("new-1")
        assert calls == ["Validate", "Work"]
