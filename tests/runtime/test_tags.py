"""Tags: which worker takes which activity (spec 10.2), and what happens to one that nobody takes (W19)."""

from __future__ import annotations

from collections import defaultdict

import pytest

from duroxide_django import InvalidArgument, RuntimeOptions, TagFilter, TaskTimeout
from duroxide_django.exceptions import ConfigurationError

#: Form of the filter, what it accepts of None, "gpu" and "eu".
FORMS = [
    (TagFilter.DEFAULT_ONLY, [True, False, False]),
    (None, [True, False, False]),
    (TagFilter.ANY, [True, True, True]),
    (TagFilter.NONE, [False, False, False]),
    (TagFilter.tags(["gpu"]), [False, True, False]),
    (TagFilter.tags(["gpu", "eu"]), [False, True, True]),
    (TagFilter.default_and(["eu"]), [True, False, True]),
    ({"tags": ["gpu"]}, [False, True, False]),
    ('{"default_and": ["gpu"]}', [True, True, False]),
]
MALFORMED = [
    "everything",
    "",
    "DEFAULT_ONLY",
    5,
    True,
    [],
    {"tags": []},
    {"tags": "gpu"},
    {"tags": ["gpu"], "default_and": ["eu"]},
    {"only": ["gpu"]},
    {"tags": [5]},
    {"tags": ["x" * 257]},
    {"tags": [""]},
    '{"tags": ["a", "b", "c", "d", "e", "f"]}',
    '{"tags":',
]


class TestFilter:
    @pytest.mark.parametrize(("form", "accepts"), FORMS)
    def test_has_five_forms(self, form, accepts):
        """Each form takes what it says."""
        parsed = TagFilter.parse(form)
        assert [parsed.accepts(tag) for tag in (None, "gpu", "eu")] == accepts
        assert TagFilter.parse(parsed.as_json()) == parsed

    @pytest.mark.parametrize("bad", MALFORMED)
    def test_that_is_malformed_is_refused(self, bad, settings):
        """By options when they are made, and by the setting when it is read."""
        with pytest.raises(InvalidArgument, match="tag"):
            RuntimeOptions(worker_tag_filter=bad)
        settings.DUROXIDE = {**settings.DUROXIDE, "WORKER_TAG_FILTER": bad}
        from duroxide_django.conf import settings as duroxide_settings

        with pytest.raises(ConfigurationError, match="WORKER_TAG_FILTER"):
            _ = duroxide_settings.WORKER_TAG_FILTER

    @pytest.mark.parametrize("make", [TagFilter.tags, TagFilter.default_and])
    def test_takes_one_to_five_tags(self, make):
        """None and six are refused, five are fine."""
        make(list("abcde"))
        for bad in ([], list("abcdef"), "gpu", [""], [None]):
            with pytest.raises(InvalidArgument):
                make(bad)


@pytest.fixture(autouse=True)
def workflows(program):
    @program.activity("Where")
    def where(ctx, input):
        return [ctx.tag(), ctx.worker_id]

    @program.orchestration("Tagged")
    def tagged(ctx, tag):
        task = ctx.schedule_activity("Where", tag)
        return (yield task if tag is None else task.with_tag(tag))

    @program.orchestration("AllTags")
    def all_tags(ctx, tags):
        return (yield ctx.all_typed([ctx.schedule_activity("Where", tag).with_tag(tag) for tag in tags]))


class TestRouting:
    def test_each_worker_gets_its_own(self, client, start_runtime):
        """Three workers with three filters: every activity ends up where it belongs."""
        plain = start_runtime()
        gpu = start_runtime(worker_tag_filter=TagFilter.tags(["gpu"]))
        both = start_runtime(worker_tag_filter=TagFilter.tags(["eu", "us"]))
        expected = {None: plain, "gpu": gpu, "eu": both, "us": both}
        for round_ in range(3):
            for tag in expected:
                client.start_orchestration(f"{tag}-{round_}", "Tagged", tag)
        for round_ in range(3):
            for tag, runtime in expected.items():
                output = client.wait_for_orchestration(f"{tag}-{round_}", 10_000).output
                assert output == [tag, runtime.config.worker_id]

    def test_one_orchestration_uses_several_workers(self, client, start_runtime):
        """Activities of one instance go different ways."""
        gpu = start_runtime(worker_tag_filter=TagFilter.default_and(["gpu"]))
        eu = start_runtime(worker_tag_filter=TagFilter.tags(["eu"]))
        client.start_orchestration("all-1", "AllTags", ["gpu", "eu", "gpu"])
        workers = [worker for _, worker in client.wait_for_orchestration("all-1", 10_000).output]
        assert workers == [gpu.config.worker_id, eu.config.worker_id, gpu.config.worker_id]

    def test_a_worker_without_activities_runs_orchestrations(self, client, start_runtime, wait_until):
        """TagFilter.NONE and a concurrency of 0 take no activity; another worker does."""
        start_runtime(worker_tag_filter=TagFilter.NONE)
        start_runtime(worker_concurrency=0)
        client.start_orchestration("plain-1", "Tagged", None)
        wait_until(lambda: client.get_queue_depths().worker_ready == 1)
        worker = start_runtime(orchestration_concurrency=0)
        assert client.wait_for_orchestration("plain-1", 10_000).output == [None, worker.config.worker_id]

    def test_a_worker_without_orchestrations_runs_activities_only(self, client, start_runtime):
        """A runtime for activities alone starts no instance."""
        start_runtime(orchestration_concurrency=0)
        client.start_orchestration("plain-1", "Tagged", None)
        assert client.wait_for_status_change("plain-1", 0, 50, 300) is None
        assert client.list_executions("plain-1") == []

    def test_retries_keep_their_tag(self, client, program, start_runtime):
        """Every attempt goes to a worker that serves the tag."""
        seen = []

        @program.activity("Flaky")
        def flaky(ctx, input):
            seen.append((ctx.tag(), ctx.worker_id))
            if ctx.attempt < 3:
                raise ValueError("again")
            return ctx.attempt

        @program.orchestration("Retrying")
        def retrying(ctx, input):
            policy = {"max_attempts": 3, "backoff": "none"}
            return (yield ctx.schedule_activity_with_retry("Flaky", None, policy).with_tag("gpu"))

        start_runtime()
        gpu = start_runtime(worker_tag_filter=TagFilter.tags(["gpu"]))
        client.start_orchestration("retrying-1", "Retrying")
        assert client.wait_for_orchestration("retrying-1", 10_000).output == 3
        assert seen == [("gpu", gpu.config.worker_id)] * 3

    def test_tags_sessions_and_retries_go_together(self, client, program, start_runtime):
        """Four workers, twelve sessions, two tags, failing attempts: each session stays with one fitting worker."""
        seen = defaultdict(set)

        @program.activity("Step")
        def step(ctx, number):
            seen[ctx.session_id, ctx.tag()].add(ctx.worker_id)
            if ctx.attempt == 1 and number % 3 == 0:
                raise ValueError("not yet")
            return number

        @program.orchestration("Steps")
        def steps(ctx, which):
            policy = {"max_attempts": 2, "initial_delay_ms": 1}
            for number in range(6):
                task = ctx.schedule_activity_with_retry_on_session("Step", number, policy, f"session-{which}")
                yield task.with_tag("gpu" if which % 2 else "cpu")
            return which

        fits = {
            start_runtime(worker_tag_filter=TagFilter.tags(["gpu"]), max_sessions_per_runtime=2): {"gpu"},
            start_runtime(worker_tag_filter=TagFilter.default_and(["cpu"]), max_sessions_per_runtime=1): {"cpu"},
            start_runtime(worker_tag_filter=TagFilter.ANY, max_sessions_per_runtime=2): {"gpu", "cpu"},
            start_runtime(worker_tag_filter=TagFilter.NONE): set(),
        }
        tags = {runtime.config.worker_id: accepted for runtime, accepted in fits.items()}
        for which in range(12):
            client.start_orchestration(f"steps-{which}", "Steps", which)
        for which in range(12):
            assert client.wait_for_orchestration(f"steps-{which}").output == which
        assert len(seen) == 12
        for (_, tag), workers in seen.items():
            (worker,) = workers
            assert tag in tags[worker]

    def test_a_tag_goes_together_with_a_session(self, client, program, start_runtime):
        """Both must fit: the session's activities stay with the worker that serves the tag."""

        @program.orchestration("TaggedSession")
        def tagged_session(ctx, input):
            first = yield ctx.schedule_activity("Where", None, session_id="s").with_tag("gpu")
            second = yield ctx.schedule_activity("Where", None, session_id="s").with_tag("gpu")
            return [first, second]

        start_runtime()
        gpu = start_runtime(worker_tag_filter=TagFilter.tags(["gpu"]))
        client.start_orchestration("session-1", "TaggedSession")
        expected = [["gpu", gpu.config.worker_id]] * 2
        assert client.wait_for_orchestration("session-1", 10_000).output == expected


class TestNobodyServesIt:
    def test_it_waits_for_a_worker_that_does(self, client, start_runtime, wait_until):
        """The activity stays in the queue, visibly, until such a worker comes."""
        start_runtime()
        client.start_orchestration("gpu-1", "Tagged", "gpu")
        wait_until(lambda: client.get_queue_depths().worker_ready == 1)
        gpu = start_runtime(worker_tag_filter=TagFilter.tags(["gpu"]))
        assert client.wait_for_orchestration("gpu-1", 10_000).output == ["gpu", gpu.config.worker_id]

    def test_a_race_with_a_timer_gives_up(self, client, program, start_runtime):
        """The reference's pattern: the timer wins and the activity is taken back."""

        @program.orchestration("Racing")
        def racing(ctx, input):
            task = ctx.schedule_activity("Where").with_tag("nobody")
            return (yield ctx.race(task, ctx.schedule_timer(50)))["index"]

        start_runtime()
        client.start_orchestration("racing-1", "Racing")
        assert client.wait_for_orchestration("racing-1", 10_000).output == 1
        assert client.get_queue_depths().worker_queue == 0

    def test_schedule_to_start_timeout_fails_it(self, client, program, start_runtime):
        """An activity that no worker began in time fails with a timeout that names the tag."""

        @program.orchestration("Impatient")
        def impatient(ctx, input):
            try:
                yield ctx.schedule_activity("Where", tag="nobody", schedule_to_start_timeout_ms=50)
            except TaskTimeout as exc:
                return str(exc)

        start_runtime()
        client.start_orchestration("impatient-1", "Impatient")
        output = client.wait_for_orchestration("impatient-1", 20_000).output
        assert "'Where' with tag 'nobody'" in output
        assert client.get_queue_depths().worker_queue == 0

    def test_schedule_to_start_timeout_spares_one_that_began(self, client, program, start_runtime, gate):
        """The time limit is for the beginning, not for the run."""
        program.activity("Held")(lambda ctx, input: gate.wait())

        @program.orchestration("Patient")
        def patient(ctx, input):
            yield ctx.all_typed(
                [ctx.schedule_activity("Held", schedule_to_start_timeout_ms=500), ctx.schedule_timer(2_000)]
            )
            return "begun in time"

        start_runtime()
        client.start_orchestration("patient-1", "Patient")
        gate.wait_entered()
        gate.open()
        assert client.wait_for_orchestration("patient-1", 20_000).output == "begun in time"
