"""Rewinding: whatever the event, the instance goes on from there as if what followed had not been."""

from __future__ import annotations

import pytest

from duroxide_django import InstanceNotFound, InvalidArgument
from duroxide_django.testing import assert_healthy, virtual_clock
from tests.operations.rewinding import RESULT, event_of, key_of, kinds, rows_of, run_all


def some_of(history, rerun):
    """Return every second event id, the one half or the other."""
    return range(int(rerun), len(history), 2)


@pytest.mark.slow
class TestAtEveryEvent:
    @pytest.mark.parametrize("rerun", [False, True])
    def test_of_an_ended_instance_rewinding_leads_to_the_same_end(self, client, flows, backend, calls, rerun):
        run_all(client, flows)
        whole = kinds(client)
        for event_id in some_of(whole, rerun):
            before, now = len(calls), kinds(client)
            rewound = client.rewind_instance("all", event_id, rerun_activities=rerun)
            assert 0 <= rewound.kept_events <= event_id
            assert rewound.kept_events + rewound.removed_events == len(whole)
            assert kinds(client) == now[: rewound.kept_events]
            assert_healthy(backend)
            assert client.get_status("all").status == "Running"
            flows.drain()
            result = client.get_status("all")
            assert (result.status, result.output, result.custom_status) == ("Completed", RESULT, "nearly"), event_id
            assert client.get_kv_all_values("all") == {"kept": "from the first execution"}
            assert sorted(kinds(client)) == sorted(whole)
            assert_healthy(backend)
            if "ActivityFailed" not in now[rewound.kept_events :] and not rerun:
                assert len(calls) == before
        assert len(client.list_audit_records("all")) == len(some_of(whole, rerun))

    @pytest.mark.parametrize("rerun", [False, True])
    def test_forking_leads_to_the_same_end_and_leaves_the_original_alone(self, client, flows, backend, rerun):
        run_all(client, flows)
        key = key_of(backend, "all")
        original = rows_of(backend, key)
        whole, refused = kinds(client), 0
        for event_id in some_of(whole, rerun):
            name = f"fork-{event_id}"
            try:
                client.fork_instance("all", name, event_id=event_id, rerun_activities=rerun)
            except InvalidArgument as exc:
                assert "a fork can't share it" in str(exc)  # noqa: PT017 - only some events are refused
                refused += 1
                continue
            flows.drain()
            result = client.get_status(name)
            assert (result.status, result.output, result.custom_status) == ("Completed", RESULT, "nearly"), event_id
            assert_healthy(backend)
            assert rows_of(backend, key) == original
        assert refused == 0

    def test_while_it_runs_too(self, client, flows, backend):
        """At each point where it waits, back to each event before."""
        client.start_orchestration("all", "All", 1)
        flows.drain()
        for event_id in range(len(kinds(client))):
            client.rewind_instance("all", event_id)
            flows.drain()
        client.raise_event("all", "Event", "event")
        client.enqueue_event("all", "queue", "first")
        flows.drain()
        for event_id in range(0, len(kinds(client)), 3):
            client.rewind_instance("all", event_id)
            assert_healthy(backend)
            flows.drain()
        client.enqueue_event("all", "queue", "second")
        flows.drain()
        assert client.get_status("all").output == RESULT


class TestRewind:
    def test_delivers_messages_again_in_their_order(self, client, program):
        """Those that were consumed, those that wait, those that nobody has looked at yet."""

        @program.orchestration("Queue")
        def queue(ctx, _):
            found = []
            for _ in range(4):
                found.append((yield ctx.dequeue_event("queue")))
                yield ctx.wait_for_event("Next")
            return found

        client.start_orchestration("one", "Queue")
        for number in range(3):
            client.enqueue_event("one", "queue", number)
        program.drain()
        client.raise_event("one", "Next")
        program.drain()
        client.enqueue_event("one", "queue", 3)
        client.raise_event("one", "Next")
        client.rewind_instance("one", 1)
        program.drain()
        client.raise_event("one", "Next")
        client.raise_event("one", "Next")
        program.drain()
        assert client.get_status("one").output == [0, 1, 2, 3]

    @pytest.mark.parametrize("event_id", [0, 2])
    def test_of_a_paused_instance_leaves_it_paused(self, client, program, event_id):
        """It goes on from there when it is resumed."""
        program.activity("Work")(lambda ctx, value: value)

        @program.orchestration("Flow")
        def flow(ctx, _):
            first = yield ctx.schedule_activity("Work", 1)
            return [first, (yield ctx.wait_for_event("Go"))]

        client.start_orchestration("one", "Flow")
        program.drain()
        client.pause_instance("one", reason="stocktaking", actor="ann")
        paused = client.get_blocked("one")
        client.rewind_instance("one", event_id)
        client.raise_event("one", "Go", 2)
        program.drain()
        assert client.get_blocked("one") == paused
        assert len(kinds(client, "one", 1)) == event_id
        client.resume_instance("one")
        program.drain()
        assert client.get_status("one").output == [1, 2]

    def test_runs_activities_again_or_keeps_their_results(self, client, flows, calls):
        @flows.orchestration("Two")
        def two(ctx, _):
            first = yield ctx.schedule_activity("Work", "one")
            return [first, (yield ctx.schedule_activity("Work", "two"))]

        client.start_orchestration("one", "Two")
        flows.drain()
        client.rewind_instance("one", 2)
        flows.drain()
        assert calls == ["one", "two", "two"]
        rewound = client.rewind_instance("one", 2, rerun_activities=True)
        assert rewound.rescheduled == ["Work#2"]
        flows.drain()
        assert calls == ["one", "two", "two", "one", "two"]
        assert client.get_status("one").output == ["one done", "two done"]

    def test_goes_on_with_the_code_of_today(self, client, program):
        program.activity("Work")(lambda ctx, value: value)

        @program.orchestration("Flow")
        def flow(ctx, _):
            first = yield ctx.schedule_activity("Work", "right")
            yield ctx.schedule_activity("Work", "wrong")
            return [first, "wrong"]

        client.start_orchestration("one", "Flow")
        program.drain()
        program.registry = type(program.registry)()
        program.activity("Work")(lambda ctx, value: value)

        @program.orchestration("Flow")
        def mended(ctx, _):
            first = yield ctx.schedule_activity("Work", "right")
            return [first, (yield ctx.schedule_activity("Work", "mended"))]

        client.rewind_instance("one", 2)
        program.drain()
        assert client.get_status("one").output == ["right", "mended"]

    def test_removes_children_that_came_later_with_theirs(self, client, flows, backend):
        @flows.orchestration("Family")
        def family(ctx, _):
            yield ctx.wait_for_event("Start")
            return (yield ctx.schedule_sub_orchestration_with_id("Middle", "middle"))

        @flows.orchestration("Middle")
        def middle(ctx, _):
            return (yield ctx.schedule_sub_orchestration_with_id("Listener", "leaf"))

        client.start_orchestration("root", "Family")
        flows.drain()
        client.raise_event("root", "Start")
        flows.drain()
        assert set(client.list_all_instances()) == {"root", "middle", "leaf"}
        rewound = client.rewind_instance("root", 2)
        assert set(rewound.deleted_children) == {"middle", "leaf"}
        assert client.list_all_instances() == ["root"]
        flows.drain()
        client.raise_event("leaf", "Go", "heard")
        flows.drain()
        assert client.get_status("root").output == "heard"
        assert_healthy(backend)

    def test_of_a_running_child_is_its_own_matter(self, client, flows, backend):
        @flows.orchestration("Parent")
        def parent(ctx, _):
            return (yield ctx.schedule_sub_orchestration_with_id("Slow", "child"))

        @flows.orchestration("Slow")
        def slow(ctx, _):
            first = yield ctx.schedule_activity("Work", "child's")
            return [first, (yield ctx.wait_for_event("Go"))]

        client.start_orchestration("parent", "Parent")
        flows.drain()
        client.rewind_instance("child", 2, rerun_activities=True)
        flows.drain()
        client.raise_event("child", "Go", 1)
        flows.drain()
        assert client.get_status("parent").output == ["child's done", 1]
        with pytest.raises(InvalidArgument, match="whose parent knows of its end"):
            client.rewind_instance("child", 2)
        assert_healthy(backend)

    def test_undoes_a_continue_as_new_that_no_worker_has_taken_up(self, client, program, backend):
        @program.orchestration("Loop")
        def loop(ctx, number):
            yield ctx.wait_for_event("Go")
            return (yield ctx.continue_as_new(number + 1))

        client.start_orchestration("one", "Loop", 0)
        program.drain()
        client.raise_event("one", "Go")
        program.drain(max_steps=1_000)
        client.raise_event("one", "Go")
        client.rewind_instance("one", 0)
        program.drain()
        assert_healthy(backend)
        assert client.get_instance_info("one").current_execution_id == 3

    def test_leaves_a_timer_its_time(self, client, program, backend):
        """A timer that was open at that point, whether it has fired since or not."""

        @program.orchestration("Flow")
        def flow(ctx, _):
            winner = yield ctx.race(ctx.wait_for_event("Go"), ctx.schedule_timer(3_600_000))
            yield ctx.wait_for_event("End")
            return winner["index"]

        with virtual_clock() as clock:
            client.start_orchestration("one", "Flow")
            program.drain(jump=False)
            client.raise_event("one", "Go")
            program.drain(jump=False)
            client.rewind_instance("one", 0)
            program.drain(jump=False)
            client.rewind_instance("one", 3)
            assert_healthy(backend)
            program.drain(jump=False)
            client.raise_event("one", "End")
            program.drain(jump=False)
            assert client.get_status("one").output == 0
            assert clock.now_ms

    @pytest.mark.parametrize(
        ("event_id", "message"), [(-1, "whole number"), (99, "nothing follows event 99"), ("2", "whole number")]
    )
    def test_is_refused(self, client, flows, event_id, message):
        client.start_orchestration("one", "Listener")
        with pytest.raises(InvalidArgument, match="not begun"):
            client.rewind_instance("one", 0)
        flows.drain()
        with pytest.raises(InvalidArgument, match=message):
            client.rewind_instance("one", event_id)
        with pytest.raises(InstanceNotFound):
            client.rewind_instance("nobody", 1)
        assert client.list_audit_records() == []

    def test_beside_workers_that_hold_it(self, client, flows, calls, start_runtime, gate, wait_until, backend):
        """A live execution, an activity before the cut and one after it: the first counts, the last doesn't."""

        @flows.activity("Hold")
        def hold(ctx, value):
            calls.append(value)
            gate.wait()
            return value

        @flows.orchestration("Holding")
        def holding(ctx, _):
            both = ctx.all([ctx.schedule_activity("Hold", "early"), ctx.wait_for_event("Go")])
            found = yield both
            return found

        client.start_orchestration("one", "Holding")
        start_runtime()
        gate.wait_entered()
        client.raise_event("one", "Go", 1)
        wait_until(lambda: len(kinds(client, "one", 1)) == 4)
        client.rewind_instance("one", 3)
        wait_until(lambda: len(kinds(client, "one", 1)) == 4)
        gate.open()
        assert client.wait_for_orchestration("one", 10_000).output == [{"ok": "early"}, {"ok": 1}]
        assert calls == ["early"]
        assert_healthy(backend)

    def test_what_a_worker_runs_for_a_removed_event_does_not_count(
        self, client, flows, start_runtime, gate, wait_until, backend
    ):
        first = []

        @flows.activity("Hold")
        def hold(ctx, value):
            if not first:
                first.append(True)
                gate.wait()
                return "stale"
            return "fresh"

        @flows.orchestration("Holding")
        def holding(ctx, _):
            yield ctx.wait_for_event("Go")
            return (yield ctx.schedule_activity("Hold", None))

        client.start_orchestration("one", "Holding")
        client.raise_event("one", "Go")
        start_runtime()
        gate.wait_entered()
        client.rewind_instance("one", 2)
        assert client.wait_for_orchestration("one", 10_000).output == "fresh"
        gate.open()
        assert_healthy(backend)


class TestOfAnOrder:
    @pytest.fixture
    def ended(self, program, shop, client):
        client.start_orchestration("one", "Order", 7)
        program.drain(jump=False)
        client.raise_event("one", "approved", "by mistake")
        program.drain(jump=False)
        assert client.get_status("one").output == ["receipt 1", "by mistake"]
        return "one"

    def test_a_completed_instance_goes_on_from_there_with_another_answer(self, program, shop, client, ended, backend):
        event = event_of(client, ended, "ExternalEvent")
        rewound = client.rewind_instance(ended, event, redeliver=False, reason="wrong answer", actor="ann")
        assert (rewound.kept_events, rewound.rescheduled, rewound.delivered_again) == (event, [], [])
        assert client.get_status(ended).status == "Running"
        assert_healthy(backend)
        program.drain(jump=False)
        client.raise_event(ended, "approved", "by the boss")
        program.drain(jump=False)
        assert client.get_status(ended).output == ["receipt 1", "by the boss"]
        assert shop == ["charge", "ship", "ship"]
        record = client.list_audit_records(ended)[0]
        assert (record.verb, record.actor, record.reason, record.details["event_id"]) == (
            "rewind", "ann", "wrong answer", event,
        )  # fmt: skip

    def test_events_are_delivered_again_unless_told_otherwise(self, program, shop, client, ended):
        rewound = client.rewind_instance(ended, event_of(client, ended, "ExternalEvent"))
        assert rewound.delivered_again == ["approved"]
        program.drain(jump=False)
        assert client.get_status(ended).output == ["receipt 1", "by mistake"]

    def test_an_activity_whose_result_is_taken_back_runs_again(self, program, shop, client, ended):
        rewound = client.rewind_instance(ended, event_of(client, ended, "ActivityCompleted"), rerun_activities=True)
        assert [name.partition("#")[0] for name in rewound.rescheduled] == ["Charge"]
        assert client.get_status(ended).custom_status == "charging"
        assert client.get_kv_all_values(ended) == {}
        program.drain(jump=False)
        assert client.get_status(ended).output == ["receipt 2", "by mistake"]
        assert client.get_kv_all_values(ended) == {"receipt": "receipt 2"}

    def test_an_event_inside_a_turn_means_the_end_of_the_turn_before(self, program, shop, client, ended):
        within = event_of(client, ended, "ActivityCompleted") + 2
        preview = client.preview_rewind(ended, within)
        assert preview.kept_events == event_of(client, ended, "ActivityCompleted")

    def test_zero_begins_anew(self, program, shop, client, ended):
        assert client.rewind_instance(ended, 0).kept_events == 0
        program.drain(jump=False)
        assert client.get_status(ended).output == ["receipt 2", "by mistake"]

    def test_the_preview_tells_the_same_and_changes_nothing(self, program, shop, client, ended):
        event = event_of(client, ended, "ActivityCompleted")
        before = client.read_execution_history(ended, 1)
        preview = client.preview_rewind(ended, event)
        assert client.read_execution_history(ended, 1) == before
        assert client.get_status(ended).status == "Completed"
        assert (preview.rescheduled, preview.delivered_again) == ([], ["Charge#3", "approved"])
        assert client.rewind_instance(ended, event) == preview

    def test_a_running_instance_keeps_what_has_arrived_and_was_not_seen(self, program, shop, client):
        client.start_orchestration("one", "Order", 7)
        program.drain(jump=False)
        client.raise_event("one", "approved", "in time")
        client.rewind_instance("one", event_of(client, "one", "ActivityCompleted"), rerun_activities=True)
        program.drain(jump=False)
        assert client.get_status("one").output == ["receipt 2", "in time"]

    def test_children_that_are_taken_back_are_deleted(self, program, client, backend):
        @program.orchestration("Kid")
        def kid(ctx, value):
            return (yield ctx.wait_for_event("Go"))

        @program.orchestration("Parent")
        def parent(ctx, value):
            yield ctx.wait_for_event("Begin")
            return (yield ctx.schedule_sub_orchestration_with_id("Kid", "kid"))

        client.start_orchestration("one", "Parent")
        program.drain(jump=False)
        client.raise_event("one", "Begin")
        program.drain(jump=False)
        rewound = client.rewind_instance("one", event_of(client, "one", "ExternalEvent"), redeliver=False)
        assert rewound.deleted_children == ["kid"]
        assert client.get_status("kid").status == "NotFound"
        assert_healthy(backend)
        client.raise_event("one", "Begin")
        program.drain(jump=False)
        client.raise_event("kid", "Go", 5)
        program.drain(jump=False)
        assert client.get_status("one").output == 5
        with pytest.raises(InvalidArgument, match="root"):
            client.rewind_instance("kid", 0)

    def test_the_preview_is_refused_as_the_rewind_is(self, client, ended):
        for call in (client.preview_rewind, client.rewind_instance):
            with pytest.raises(InvalidArgument, match="choose one from 0"):
                call(ended, 99)
            with pytest.raises(InstanceNotFound):
                call("two", 0)
        client.start_orchestration("new", "Order", 7)
        for call in (client.preview_rewind, client.rewind_instance):
            with pytest.raises(InvalidArgument, match="not begun"):
                call("new", 0)
        assert client.list_audit_records() == []
