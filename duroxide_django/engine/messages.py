"""What reaches an instance from outside: the messages of a turn's batch (spec part 3)."""

from __future__ import annotations

from dataclasses import dataclass

START = "StartOrchestration"
CONTINUE_AS_NEW = "ContinueAsNew"
ACTIVITY_COMPLETED = "ActivityCompleted"
ACTIVITY_FAILED = "ActivityFailed"
TIMER_FIRED = "TimerFired"
EXTERNAL_RAISED = "ExternalRaised"
QUEUE_MESSAGE = "QueueMessage"
SUB_COMPLETED = "SubOrchCompleted"
SUB_FAILED = "SubOrchFailed"
CANCEL = "CancelInstance"

COMPLETIONS = frozenset({ACTIVITY_COMPLETED, ACTIVITY_FAILED, TIMER_FIRED, SUB_COMPLETED, SUB_FAILED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message for an instance.

    Attributes:
        kind: one of the constants above.
        id: its row, or None for a completion that never was in the queue.
        execution_id: completions: the execution that scheduled the work.
        event_id: completions: the schedule event.
        name: event or queue name; the requested version of a start.
        payload: JSON text: input, result, failure, data; the reason of a cancel.
        force: cancels: end at once.
    """

    kind: str
    id: int | None = None
    execution_id: int | None = None
    event_id: int | None = None
    name: str | None = None
    payload: str = "null"
    force: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Mail:
    """One queue message that waits in the instance's mailbox.

    Attributes:
        id: its row.
        queue: the queue's name.
        data: JSON text.
    """

    id: int
    queue: str
    data: str
