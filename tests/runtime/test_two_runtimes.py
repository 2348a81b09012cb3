"""Two runtimes on one store: they share the work, and no instance or activity is processed twice."""

from __future__ import annotations

import collections
import random

import pytest

from duroxide_django.models import ActivityTask, HistoryEvent, Message


@pytest.fixture(autouse=True)
def workflows(program):
    program.ran = []

    @program.activity("Step")
    def step(ctx, number):
        program.ran.append((ctx.instance_id, ctx.activity_id, ctx.worker_id))
        return number + 1

    @program.orchestration("Sequence")
    def sequence(ctx, steps):
        total = 0
        for _ in range(steps):
            total = yield ctx.schedule_activity("Step", total)
        return total

    @program.orchestration("Mail")
    def mail(ctx, count):
        received = []
        while len(received) < count:
            message = yield ctx.dequeue_event("inbox")
            received += [(yield ctx.schedule_activity("Step", message))]
        return received


class TestSharing:
    def test_every_step_is_run_once(self, client, program, start_runtime):
        """Many sequences over two workers: each activity once, every result right."""
        for _ in range(2):
            start_runtime(worker_concurrency=3)
        for number in range(40):
            client.start_orchestration(f"sequence-{number}", "Sequence", 5)
        for number in range(40):
            assert client.wait_for_orchestration(f"sequence-{number}").output == 5
        counted = collections.Counter((instance, event) for instance, event, _ in program.ran)
        assert len(counted) == 200
        assert set(counted.values()) == {1}

    def test_messages_are_taken_once_and_in_order(self, client, program, start_runtime):
        """Messages sent while two workers compete for the instances: none lost, none doubled, none out of order."""
        for _ in range(2):
            start_runtime()
        count, instances = 25, [f"mail-{number}" for number in range(6)]
        for instance in instances:
            client.start_orchestration(instance, "Mail", count)
        sent = [(instance, number) for instance in instances for number in range(count)]
        random.Random(7).shuffle(sent)
        sent.sort(key=lambda pair: pair[1] // 5)
        order = collections.defaultdict(list)
        for instance, number in sent:
            client.enqueue_event(instance, "inbox", number)
            order[instance].append(number + 1)
        for instance in instances:
            assert client.wait_for_orchestration(instance).output == order[instance]

    def test_histories_are_whole(self, client, program, start_runtime, backend):
        """No gaps and no second completion in any history; nothing left in the queues."""
        for _ in range(2):
            start_runtime()
        for number in range(20):
            client.start_orchestration(f"sequence-{number}", "Sequence", 4)
        for number in range(20):
            client.wait_for_orchestration(f"sequence-{number}")
        events = HistoryEvent.objects.using(backend).order_by("instance", "event_id")
        events = events.values_list("instance", "event_id", "kind", "source_event_id")
        by_instance = collections.defaultdict(list)
        for instance, event_id, kind, source in events:
            by_instance[instance].append((event_id, kind, source))
        for history in by_instance.values():
            assert [event_id for event_id, _, _ in history] == list(range(1, 11))
            sources = [source for _, kind, source in history if kind == "ActivityCompleted"]
            assert len(set(sources)) == len(sources) == 4
        assert not Message.objects.using(backend).exists()
        assert not ActivityTask.objects.using(backend).exists()

    def test_one_can_stop_and_another_can_join(self, client, program, start_runtime):
        """Workers come and go while the work goes on."""
        first = start_runtime()
        for number in range(30):
            client.start_orchestration(f"sequence-{number}", "Sequence", 6)
        second = start_runtime()
        client.wait_for_orchestration("sequence-0")
        first.shutdown()
        third = start_runtime()
        second.shutdown()
        for number in range(30):
            assert client.wait_for_orchestration(f"sequence-{number}").output == 6
        assert third.is_alive


class TestFairness:
    @pytest.fixture(autouse=True)
    def held(self, program, gate):
        @program.activity("Held")
        def held(ctx, input):
            program.ran.append((ctx.instance_id, ctx.activity_id, ctx.worker_id))
            gate.wait()

        @program.orchestration("Holding")
        def holding(ctx, input):
            yield ctx.schedule_activity("Held")

        @program.orchestration("Mixed")
        def mixed(ctx, count):
            steps = [ctx.schedule_activity("Step", number) for number in range(count)]
            yield ctx.all([ctx.schedule_activity("Held"), *steps])

    @pytest.mark.parametrize("waiting", [True, False], ids=["started before", "started after"])
    def test_a_worker_takes_no_more_long_activities_than_it_has_slots(
        self, client, program, start_runtime, gate, waiting
    ):
        """Two workers with one slot each and two long activities: each runs one."""

        def start_instances():
            for number in range(2):
                client.start_orchestration(f"holding-{number}", "Holding")

        if waiting:
            start_instances()
        for _ in range(2):
            start_runtime(worker_concurrency=1)
        if not waiting:
            start_instances()
        gate.wait_entered(2)
        assert len({worker for _, _, worker in program.ran}) == 2

    def test_short_activities_do_not_wait_behind_a_long_one(self, client, program, start_runtime, gate, wait_until):
        """A worker whose activities were short took a backlog; one of it turns out long: idle workers get the rest."""
        start_runtime(worker_concurrency=1)
        client.start_orchestration("sequence-1", "Sequence", 80)
        client.wait_for_orchestration("sequence-1")
        start_runtime(worker_concurrency=1)
        program.ran.clear()
        client.start_orchestration("mixed-1", "Mixed", 10)
        gate.wait_entered()
        wait_until(lambda: len(program.ran) == 11, timeout_s=15)
        gate.open()
        assert client.wait_for_orchestration("mixed-1").status == "Completed"


class TestDifferentCode:
    def test_an_instance_goes_to_the_worker_that_has_its_code(self, client, backend, gate, start_runtime, program):
        """A rolling deploy: the old worker lacks the new orchestration and leaves it to the new one."""
        from tests.runtime.program import Program

        newer = Program(backend)
        newer.orchestration("Brand", "2.0.0")(lambda ctx, input: "new")
        start_runtime()
        runtime = newer.runtime()
        client.start_orchestration("brand-1", "Brand")
        client.start_orchestration("sequence-1", "Sequence", 2)
        assert client.wait_for_orchestration("sequence-1").output == 2
        runtime.start()
        try:
            assert client.wait_for_orchestration("brand-1", 20_000).output == "new"
        finally:
            runtime.shutdown()

    def test_an_instance_moves_to_the_worker_that_has_its_next_version(
        self, client, backend, start_runtime, program, wait_until
    ):
        """Continue-as-new to a version that only another worker has: the old worker leaves it alone."""
        from tests.runtime.program import Program

        @program.orchestration("Moving", "1.0.0")
        def moving(ctx, input):
            yield ctx.continue_as_new_versioned(input, "2.0.0")

        newer = Program(backend)
        newer.orchestration("Moving", "2.0.0")(lambda ctx, input: f"{input} moved")
        start_runtime()
        with newer.runtime():
            for number in range(5):
                client.start_orchestration_versioned(f"moving-{number}", "Moving", number, "1.0.0")
            for number in range(5):
                assert client.wait_for_orchestration(f"moving-{number}").output == f"{number} moved"

    def test_an_instance_whose_next_version_nobody_has_waits_visibly(
        self, client, backend, start_runtime, program, wait_until
    ):
        """It says which version it needs, to people and to the listing of live versions, and goes on when it comes."""
        from tests.runtime.program import Program

        @program.orchestration("Moving", "1.0.0")
        def moving(ctx, input):
            yield ctx.continue_as_new_versioned(input, "2.0.0")

        start_runtime()
        client.start_orchestration("moving-1", "Moving", "it")
        blocked = wait_until(lambda: client.get_blocked("moving-1"))
        assert blocked["reason"] == "missing_code"
        assert "has no version 2.0.0" in blocked["message"]
        assert client.get_status("moving-1").status == "Running"
        assert client.count_live_versions() == {("Moving", "2.0.0"): 1}
        assert any(finding.instance_id == "moving-1" for finding in client.examine_health())
        newer = Program(backend)
        newer.orchestration("Moving", "2.0.0")(lambda ctx, input: f"{input} moved")
        with newer.runtime():
            assert client.wait_for_orchestration("moving-1").output == "it moved"
        assert client.get_blocked("moving-1") is None

    def test_an_activity_goes_to_the_worker_that_has_it(self, client, backend, start_runtime, program):
        """Activities that a worker has no function for stay in the queue for others."""
        from tests.runtime.program import Program

        @program.orchestration("Elsewhere")
        def elsewhere(ctx, input):
            return (yield ctx.schedule_activity("OnlyThere", input))

        other = Program(backend)
        other.activity("OnlyThere")(lambda ctx, input: f"{input} from there")
        start_runtime()
        runtime = other.runtime(orchestration_concurrency=0)
        client.start_orchestration("elsewhere-1", "Elsewhere", "greetings")
        runtime.start()
        try:
            assert client.wait_for_orchestration("elsewhere-1", 20_000).output == "greetings from there"
        finally:
            runtime.shutdown()
