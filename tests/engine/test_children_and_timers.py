"""Spec parts 7 and 8 as far as the engine decides: children, detached starts, timers."""

from __future__ import annotations

import pytest

from duroxide_django.engine.failures import Failure
from duroxide_django.engine.messages import SUB_FAILED
from duroxide_django.exceptions import OrchestrationCancelled, SubOrchestrationFailed
from tests.engine.harness import T0, begun


class TestAChild:
    def test_has_an_id_made_from_its_parents(self):
        """The schedule event tells; the version asked for goes with the start."""

        def orchestration(ctx, input):
            yield ctx.all(
                [
                    ctx.schedule_sub_orchestration("C", 1),
                    ctx.schedule_sub_orchestration_versioned("C", "2.0.0", 2),
                    ctx.schedule_sub_orchestration_with_id("C", "own-1", 3),
                    ctx.schedule_sub_orchestration_versioned_with_id("C", "3.0.0", "own-2", 4),
                    ctx.schedule_sub_orchestration_with_id("C", "sub::mine", 5),
                ]
            )

        life = begun(orchestration)
        assert [(new.instance_id, new.version, new.input, new.event_id) for new in life.result.children] == [
            ("order-1::sub::2", None, "1", 2),
            ("order-1::sub::3", "2.0.0", "2", 3),
            ("own-1", None, "3", 4),
            ("own-2", "3.0.0", "4", 5),
            ("order-1::sub::6", None, "5", 6),
        ]

    def test_gives_its_output(self):
        """Whatever JSON can carry."""
        life = begun(lambda ctx, input: (yield ctx.schedule_sub_orchestration("C")))
        life.turn(life.child_completed("C", {"done": [1]}))
        assert life.output == {"done": [1]}

    def test_raises_its_failure_at_the_yield(self):
        """The text is the child's own; class, id and traceback are attributes."""

        def orchestration(ctx, input):
            try:
                yield ctx.schedule_sub_orchestration("C")
            except SubOrchestrationFailed as exc:
                return [str(exc), exc.name, exc.event_id, exc.error_types[0], exc.cancelled, bool(exc.traceback_text)]

        life = begun(orchestration)
        life.turn(life.child_failed("C", ValueError("no")))
        assert life.output == ["ValueError: no", "order-1::sub::2", 2, "ValueError", False, True]

    def test_that_was_cancelled_says_so(self):
        """A cancelled child is a failure that the parent may catch."""

        def orchestration(ctx, input):
            try:
                yield ctx.schedule_sub_orchestration("C")
            except SubOrchestrationFailed as exc:
                return [str(exc), exc.cancelled]

        life = begun(orchestration)
        life.turn(life.child_failed("C", OrchestrationCancelled("by hand")))
        assert life.output == ["canceled: by hand", True]

    @pytest.mark.parametrize("category", ["Poison", "Configuration", "Infrastructure"])
    def test_that_failed_for_the_system_aborts_its_parent(self, category):
        """Uncatchable, with the same failure; the parent's own parent gets it in turn."""

        def orchestration(ctx, input):
            try:
                yield ctx.schedule_sub_orchestration("C")
            except Exception:  # noqa: BLE001
                return "caught"

        life = begun(orchestration)
        text = Failure(category=category, kind="K", message="broken").to_json()
        life.turn(life._completion(SUB_FAILED, "C", text))
        assert (life.failure.category, life.failure.message) == (category, "broken")

    def test_ends_with_a_parent_that_is_aborted(self):
        """W8: a system failure cancels the children that are still running."""
        life = begun(
            lambda ctx, input: (yield ctx.all([ctx.schedule_sub_orchestration("C"), ctx.schedule_activity("A")]))
        )
        life.turn(life.poisoned("A"))
        assert life.result.cancelled_children == [("order-1::sub::2", "parent canceled")]

    def test_may_be_given_as_a_function(self):
        """A decorated function stands for its name; an undecorated one is refused."""

        def child(ctx, input):
            return None

        def orchestration(ctx, input):
            yield ctx.schedule_sub_orchestration(child)

        assert "not registered" in begun(orchestration).failure.message
        child.duroxide_orchestration_name = "Child"
        assert begun(orchestration).result.children[0].name == "Child"

    def test_needs_an_id_when_its_parents_is_too_long(self):
        """An automatic id must fit its column: the message says what to do."""

        def orchestration(ctx, input):
            yield ctx.schedule_sub_orchestration("C")

        life = begun(orchestration, instance_id="x" * 512)
        assert "give the child an id" in life.failure.message


class TestADetachedStart:
    def test_gives_none_at_once(self):
        """No turn boundary; the start is handed out and recorded."""

        def orchestration(ctx, input):
            first = yield ctx.start_orchestration("Audit", "audit-1", {"n": 1})
            second = yield ctx.start_orchestration_versioned("Audit", "2.0.0", "audit-2")
            return [first, second]

        life = begun(orchestration)
        assert life.output == [None, None]
        assert [(new.instance_id, new.version, new.input, new.event_id) for new in life.result.detached] == [
            ("audit-1", None, '{"n":1}', None),
            ("audit-2", "2.0.0", "null", None),
        ]

    def test_is_not_repeated_by_replays(self):
        """History holds it once; later turns start nothing."""

        def orchestration(ctx, input):
            yield ctx.start_orchestration("Audit", "audit-1")
            yield ctx.schedule_activity("A")

        life = begun(orchestration, keeps=False)
        life.turn(life.completed("A"))
        assert life.detached == ["audit-1"]


class TestATimer:
    def test_has_its_time_fixed_when_it_is_made(self):
        """now + delay of the first run; replays never recompute."""
        life = begun(lambda ctx, input: (yield ctx.schedule_timer(60_000)), keeps=False)
        assert life.result.timers == [(2, T0 + 60_000)]
        life.turn(life.raised("x"), after_ms=5_000)
        life.turn(life.fired())
        assert life.output is None
        assert [event.fire_at_ms for event in life.history if hasattr(event, "fire_at_ms")] == [T0 + 60_000] * 2

    def test_of_zero_fires_in_a_later_turn(self):
        """0 is legal, and still a message."""
        life = begun(lambda ctx, input: (yield ctx.schedule_timer(0)))
        assert life.result.timers == [(2, T0)]
        assert life.result.outcome is None

    @pytest.mark.parametrize("delay", [-1, 1.5, "5", None, True, 10**18, float("nan"), float("inf")])
    def test_of_a_bad_length_is_refused_at_the_call(self, delay):
        """A ValueError that the orchestration may catch (spec 8)."""

        def orchestration(ctx, input):
            try:
                ctx.schedule_timer(delay)
            except ValueError as exc:
                return str(exc).startswith("delay_ms must")
            yield

        assert begun(orchestration).output is True

    def test_takes_a_float_that_is_whole(self):
        """JSON has no integers of its own: 5.0 is 5."""
        assert begun(lambda ctx, input: (yield ctx.schedule_timer(5.0))).result.timers == [(2, T0 + 5)]
