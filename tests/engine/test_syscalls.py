"""Spec 16.9 with W34: time, guids and other instances' KV values, recorded in the turn that asks."""

from __future__ import annotations

import json

import pytest

from duroxide_django.engine import events
from tests.engine.harness import T0, begun


class TestValuesOfTheEngine:
    def test_come_in_the_same_turn(self):
        """No round trip: the next line runs at once, however many are asked for."""

        def orchestration(ctx, input):
            return [(yield ctx.utc_now()), (yield ctx.new_guid()), (yield ctx.new_guid())]

        life = begun(orchestration)
        assert life.output == [T0, "guid-1", "guid-2"]
        assert life.result.activities == []

    def test_are_recorded_as_reserved_activities(self):
        """History shows a schedule and its completion, name and value."""
        life = begun(lambda ctx, input: (yield ctx.utc_now()))
        scheduled, completed = life.history[1:3]
        assert (scheduled.kind, scheduled.name) == ("ActivityScheduled", "__duroxide_syscall:utc_now_ms")
        assert (completed.source_event_id, json.loads(completed.result)) == (2, T0)

    def test_stay_what_they_were_on_replay(self):
        """A replay gives the recorded values, whatever the time is now."""

        def orchestration(ctx, input):
            seen.append([(yield ctx.utc_now()), (yield ctx.new_guid())])
            yield ctx.schedule_activity("A")

        seen = []
        life = begun(orchestration, keeps=False)
        life.turn(life.completed("A"), after_ms=60_000)
        assert seen == [[T0, "guid-1"]] * len(seen)
        assert len(seen) > 1

    def test_show_the_time_of_their_own_turn(self):
        """Time stands still inside a turn and moves between turns."""

        def orchestration(ctx, input):
            first, same = (yield ctx.utc_now()), (yield ctx.utc_now())
            yield ctx.schedule_activity("A")
            return [same - first, (yield ctx.utc_now()) - first]

        life = begun(orchestration)
        life.turn(life.completed("A"), after_ms=250)
        assert life.output == [0, 250]

    def test_may_be_members(self):
        """In all() and race() too."""

        def orchestration(ctx, input):
            won = yield ctx.race(ctx.schedule_activity("A"), ctx.utc_now())
            return [won, (yield ctx.all([ctx.new_guid(), ctx.new_guid()]))]

        assert begun(orchestration).output == [{"index": 1, "value": T0}, [{"ok": "guid-1"}, {"ok": "guid-2"}]]


class TestTheKvOfAnother:
    def reading(self, ctx, input):
        return (yield ctx.get_kv_value_from_instance("server-1", "address"))

    def test_is_read_as_committed_and_recorded(self):
        """The client's view at that moment, kept for replays."""
        from tests.engine.harness import Life

        life = Life(self.reading)
        life.kv_of_others["server-1", "address"] = "10.0.0.1"
        life.start()
        assert life.output == "10.0.0.1"
        assert json.loads(life.events(events.ActivityScheduled)[0].input) == ["server-1", "address"]

    def test_is_none_for_an_unknown_instance_or_key(self):
        """No error."""
        assert begun(self.reading).output is None

    @pytest.mark.parametrize(("instance_id", "key"), [("", "k"), (5, "k"), ("i", None)])
    def test_needs_texts(self, instance_id, key):
        """Anything else is refused at the call."""
        life = begun(lambda ctx, input: (yield ctx.get_kv_value_from_instance(instance_id, key)))
        assert life.failure.error_types[0] == "InvalidArgument"


@pytest.mark.parametrize("name", ["__duroxide_syscall:utc_now_ms", "__duroxide_syscall:own"])
def test_reserved_names_can_not_be_scheduled(name):
    """Nobody else may use the prefix."""
    life = begun(lambda ctx, input: (yield ctx.schedule_activity(name)))
    assert "reserved" in life.failure.message
