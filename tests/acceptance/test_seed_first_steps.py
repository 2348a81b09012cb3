"""The guide's first programs: a greeting and a pipeline, run and restarted on every store."""

from __future__ import annotations

import threading

from duroxide_django import Client


def hello_program(runtime):
    @runtime.register_activity("SayHello")
    def say_hello(ctx, name):
        return f"Hello, {name}!"

    @runtime.register_orchestration("HelloWorkflow")
    def hello_workflow(ctx, input):
        greeting = yield ctx.schedule_activity("SayHello", input["name"])
        return greeting


def pipeline_program(runtime, done, steps=("Extract", "Transform", "Load"), begun=None):
    @runtime.register_orchestration("Pipeline")
    def pipeline(ctx, input):
        step1 = yield ctx.schedule_activity("Extract", input)
        step2 = yield ctx.schedule_activity("Transform", step1)
        step3 = yield ctx.schedule_activity("Load", step2)
        return step3

    def step(name):
        def run(ctx, input):
            done.append(("begin", name, input))
            if begun is not None:
                begun.release()
            done.append(("end", name))
            return [*input, name]

        return run

    for name in steps:
        runtime.register_activity(name, step(name))


class TestMinimalExample:
    """Program 1: one activity, one greeting."""

    def test_greets_by_name(self, client, start_runtime):
        """The output is the activity's greeting and the instance is Completed."""
        start_runtime(hello_program)
        client.start_orchestration("hello-1", "HelloWorkflow", {"name": "World"})
        result = client.wait_for_orchestration("hello-1")
        assert result.output == "Hello, World!"
        assert result.status == "Completed"
        assert result.error is None
        assert result.custom_status is None
        assert result.custom_status_version == 0

    def test_records_four_events(self, client, start_runtime, history):
        """The history is start, schedule, completion of that schedule, end; numbered from 1 without gaps."""
        start_runtime(hello_program)
        client.start_orchestration("hello-1", "HelloWorkflow", {"name": "World"})
        client.wait_for_orchestration("hello-1")
        events = history("hello-1")
        assert [(event.event_id, event.kind, event.source_event_id) for event in events] == [
            (1, "OrchestrationStarted", None),
            (2, "ActivityScheduled", None),
            (3, "ActivityCompleted", 2),
            (4, "OrchestrationCompleted", None),
        ]
        assert all(event.timestamp_ms > 0 for event in events)

    def test_start_before_any_runtime_is_kept(self, client, start_runtime):
        """A start written while no runtime is up is carried out by the first one that comes."""
        client.start_orchestration("hello-1", "HelloWorkflow", {"name": "World"})
        assert client.get_status("hello-1").status == "Running"
        start_runtime(hello_program)
        assert client.wait_for_orchestration("hello-1").output == "Hello, World!"

    def test_result_outlives_the_runtime(self, client, provider, start_runtime):
        """The output can be read after shutdown, also by a client made later."""
        runtime = start_runtime(hello_program)
        client.start_orchestration("hello-1", "HelloWorkflow", {"name": "World"})
        client.wait_for_orchestration("hello-1")
        runtime.shutdown()
        assert Client(provider).get_status("hello-1").output == "Hello, World!"


class TestPipeline:
    """Program 2: three activities, each fed by the one before."""

    def test_runs_its_steps_one_after_another(self, client, start_runtime, kinds):
        """Each step begins after the former has ended and sees its result."""
        done = []
        start_runtime(pipeline_program, done=done)
        client.start_orchestration("pipe-1", "Pipeline", ["raw"])
        assert client.wait_for_orchestration("pipe-1").output == ["raw", "Extract", "Transform", "Load"]
        assert done == [
            ("begin", "Extract", ["raw"]),
            ("end", "Extract"),
            ("begin", "Transform", ["raw", "Extract"]),
            ("end", "Transform"),
            ("begin", "Load", ["raw", "Extract", "Transform"]),
            ("end", "Load"),
        ]
        assert kinds("pipe-1") == [
            "OrchestrationStarted",
            *["ActivityScheduled", "ActivityCompleted"] * 3,
            "OrchestrationCompleted",
        ]

    def test_goes_on_where_a_stopped_runtime_left_it(self, client, start_runtime, kinds, wait_until):
        """A first runtime without the later steps does the first; the next one does only the rest."""
        first_done, second_done = [], []
        first = start_runtime(pipeline_program, done=first_done, steps=["Extract"])
        client.start_orchestration("pipe-1", "Pipeline", ["raw"])
        wait_until(lambda: kinds("pipe-1").count("ActivityScheduled") == 2)
        first.shutdown()

        start_runtime(pipeline_program, done=second_done)
        assert client.wait_for_orchestration("pipe-1").output == ["raw", "Extract", "Transform", "Load"]
        assert [entry[1] for entry in first_done if entry[0] == "begin"] == ["Extract"]
        assert [entry[1] for entry in second_done if entry[0] == "begin"] == ["Transform", "Load"]

    def test_leaves_nothing_behind_whenever_it_is_stopped(self, client, start_runtime):
        """Stopped in order at different moments, the next runtime goes on at once: no lease is left over."""
        for moment in range(12):
            done = []
            begun = threading.Semaphore(0)
            first = start_runtime(pipeline_program, done=done, begun=begun)
            client.start_orchestration(f"pipe-{moment}", "Pipeline", [])
            for _ in range(1 + moment % 3):
                assert begun.acquire(timeout=10)
            first.shutdown()

            second = start_runtime(pipeline_program, done=done)
            result = client.wait_for_orchestration(f"pipe-{moment}", 5000)
            second.shutdown()
            assert result.output == ["Extract", "Transform", "Load"]
            assert [entry[1] for entry in done if entry[0] == "begin"] == result.output
