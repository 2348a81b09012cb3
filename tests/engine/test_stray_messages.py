"""W20 and spec 4.10: messages that fit nothing must not kill an instance."""

from __future__ import annotations

import pytest

from duroxide_django.engine import messages
from duroxide_django.engine.messages import Message
from tests.engine.harness import begun


def waits(ctx, input):
    first = yield ctx.schedule_activity("A")
    second = yield ctx.schedule_activity("B")
    return [first, second]


class TestAStrayCompletion:
    @pytest.mark.parametrize("kind", sorted(messages.COMPLETIONS))
    @pytest.mark.parametrize(("execution_id", "event_id"), [(1, 99), (1, 1), (2, 2), (None, None)])
    def test_is_dropped_and_told(self, kind, execution_id, event_id):
        """N7, W20: no event, no failure, one line for the log."""
        life = begun(waits)
        life.turn(Message(kind=kind, execution_id=execution_id, event_id=event_id, payload="null"))
        assert (life.result.events, life.result.outcome) == ([], None)
        assert life.result.ignored[0].startswith(f"{kind} dropped: ")

    def test_of_another_family_is_dropped(self):
        """N8: a timer's firing for an activity's event; the activity's own completion still counts."""
        life = begun(waits)
        life.turn(
            Message(kind=messages.TIMER_FIRED, execution_id=1, event_id=2, payload="0"),
            life.completed("A", 1),
        )
        assert life.result.ignored == ["TimerFired dropped: no open timer has event id 2"]
        life.turn(life.completed("B", 2))
        assert life.output == [1, 2]

    @pytest.mark.parametrize("keeps", [True, False], ids=["kept", "replayed"])
    def test_that_repeats_is_dropped(self, keeps):
        """The first delivery counts, in the same batch and later."""
        life = begun(waits, keeps=keeps)
        life.turn(life.completed("A", "first"), life.completed(2, "again"), life.failed(2))
        assert life.new_kinds == ["ActivityCompleted", "ActivityScheduled"]
        life.turn(life.completed(2, "much later"))
        assert life.result.events == []
        assert life.result.ignored == ["ActivityCompleted dropped: its work is completed already"]
        life.turn(life.completed("B"))
        assert life.output == ["first", None]


class TestAStrayStart:
    @pytest.mark.parametrize("kind", [messages.START, messages.CONTINUE_AS_NEW])
    def test_does_not_touch_a_running_execution(self, kind):
        """A duplicate start has no influence (spec 4.1 step 5)."""
        life = begun(waits)
        life.turn(Message(kind=kind, id=9, payload='{"other": "input"}'))
        assert (life.result.events, len(life.result.ignored)) == ([], 1)
