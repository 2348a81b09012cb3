"""What earlier versions of the engine recorded differently, so that their histories go on replaying."""

from __future__ import annotations

from typing import TYPE_CHECKING

from duroxide_django.engine import actions, events, futures, tasks
from duroxide_django.engine.failures import TIMED_OUT, TIMEOUT_TYPES
from duroxide_django.exceptions import TaskTimeout

if TYPE_CHECKING:
    from duroxide_django.engine.replay import LiveExecution

#: The first engine version whose workers keep the time of an attempt. Before it, a timer raced each attempt.
WORKERS_KEEP_TIME = 2


class TimedAttempt(futures.RaceNode):
    """An attempt of a retry loop that a timer races; gives the attempt's result, or fails with TaskTimeout."""

    __slots__ = ("name",)

    def __init__(self, attempt: futures.Leaf, timer: futures.Leaf) -> None:
        super().__init__(tasks.RaceTask([attempt.task, timer.task]), 0)
        self.name = attempt.name
        self.members = [attempt, timer]
        for index, member in enumerate(self.members):
            member.index = index
            member.owner = self

    def resolve(self, value: dict[str, object]) -> None:
        """See Future; ``value`` says which member won."""
        if value["index"] == 0:
            super().resolve(value["value"])
        else:
            self.fail(TaskTimeout(TIMED_OUT, name=self.name, error_types=TIMEOUT_TYPES))


def expect_timer(execution: LiveExecution, attempt: futures.Leaf, event: events.ActivityScheduled) -> None:
    """Let a timer race the ``attempt`` if an engine recorded it that made one: its event follows that of the attempt.

    Args:
        event: the attempt's schedule event.
    """
    task = attempt.task
    if event.timeout_ms is not None or task.info is None or task.limits.timeout_ms is None:
        return
    task.raced_by_timer = True
    timer = futures.Leaf(execution, futures.TIMER, "timer", tasks.TimerTask(task.limits.timeout_ms))
    timer.dropped = attempt.dropped
    block = attempt.owner
    if isinstance(block, futures.BlockNode):
        block.waiting = TimedAttempt(attempt, timer)
        block.waiting.owner = block
    execution.unmatched.appendleft(actions.CreateTimer(timer, timer.task))
