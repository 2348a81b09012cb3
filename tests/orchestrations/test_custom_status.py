"""Spec 11.1 with W9b: the custom status and its version."""

from __future__ import annotations

from duroxide_django.engine.limits import MAX_CUSTOM_STATUS_BYTES


def seen(works, instance_id="f-1"):
    result = works.status(instance_id)
    return result.custom_status, result.custom_status_version


class TestTheVersion:
    def test_grows_by_one_for_each_turn_that_sets(self, works):
        """Not for each call; also for the same text and for a reset; never for a turn that sets nothing."""

        @works.orchestration
        def flow(ctx, input):
            yield ctx.wait_for_event("next")
            ctx.set_custom_status("one")
            ctx.set_custom_status("two")
            yield ctx.wait_for_event("next")
            ctx.set_custom_status("two")
            yield ctx.wait_for_event("next")
            yield ctx.wait_for_event("next")
            ctx.reset_custom_status()
            yield ctx.wait_for_event("next")

        works.start("f-1", "flow")
        states = [seen(works)]
        for _ in range(5):
            works.client.raise_event("f-1", "next")
            works.run()
            states.append(seen(works))
        assert states == [(None, 0), ("two", 1), ("two", 2), ("two", 2), (None, 3), (None, 3)]

    def test_does_not_grow_by_replays(self, works):
        """A status set once stays at version 1 for a hundred turns."""

        @works.orchestration
        def flow(ctx, input):
            ctx.set_custom_status("once")
            for _ in range(30):
                yield ctx.schedule_timer(1_000)

        works.start("f-1", "flow")
        works.finish()
        assert seen(works) == ("once", 1)

    def test_stays_after_the_end(self, works):
        """Completed or failed, the last status is kept."""

        @works.orchestration
        def flow(ctx, input):
            ctx.set_custom_status("last words")
            raise ValueError("no")
            yield

        works.start("f-1", "flow")
        assert works.error("f-1") == "ValueError: no"
        assert seen(works) == ("last words", 1)

    def test_begins_anew_with_a_new_life(self, works):
        """A restarted id has status None, version 0."""

        @works.orchestration
        def flow(ctx, input):
            if input:
                ctx.set_custom_status("old life")
            return input
            yield

        works.start("f-1", "flow", True)
        assert seen(works) == ("old life", 1)
        works.start("f-1", "flow", False, on_conflict="restart_terminal")
        assert seen(works) == (None, 0)


class TestTheText:
    def test_of_the_very_limit_is_stored(self, works):
        """262,144 bytes; one more is refused at the call and nothing of it is stored (W9b)."""

        @works.orchestration
        def flow(ctx, input):
            ctx.set_custom_status("x" * MAX_CUSTOM_STATUS_BYTES)
            yield ctx.wait_for_event("next")
            ctx.set_custom_status("x" * (MAX_CUSTOM_STATUS_BYTES + 1))

        works.start("f-1", "flow")
        works.client.raise_event("f-1", "next")
        works.run()
        assert "is 262145 bytes, the limit is 262144 bytes" in works.error("f-1")
        text, version = seen(works)
        assert (len(text), version) == (MAX_CUSTOM_STATUS_BYTES, 1)

    def test_of_a_pending_instance_is_none(self, works):
        """Nothing was set yet; the instance reads as Running."""
        works.client.start_orchestration("f-1", "nowhere yet")
        assert works.status("f-1").status == "Running"
        assert seen(works) == (None, 0)
