"""One turn: the batch's messages become events, the function runs, what it emitted becomes new events (spec 4)."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass

from duroxide_django.engine import events, futures, limits, messages
from duroxide_django.engine.codecs import dumps
from duroxide_django.engine.events import ENGINE_VERSION
from duroxide_django.engine.failures import Failure, cancelled
from duroxide_django.engine.futures import Leaf
from duroxide_django.engine.messages import Mail, Message
from duroxide_django.engine.outcome import (
    Completed,
    ContinuedAsNew,
    Failed,
    NewActivity,
    NewInstance,
    Outcome,
    TurnEnvironment,
    TurnResult,
)
from duroxide_django.engine.replay import BREADCRUMB_FAMILIES, DROPPED, LiveExecution
from duroxide_django.exceptions import EngineError

#: Sent to children whose parent was cancelled, or dropped them (spec 4.9, 7).
PARENT_CANCELED = "parent canceled"
PARENT_DROPPED = "parent dropped sub-orchestration future"

_COMPLETION_FAMILY = {
    messages.ACTIVITY_COMPLETED: futures.ACTIVITY,
    messages.ACTIVITY_FAILED: futures.ACTIVITY,
    messages.TIMER_FIRED: futures.TIMER,
    messages.SUB_COMPLETED: futures.CHILD,
    messages.SUB_FAILED: futures.CHILD,
}
#: Breadcrumbs of one turn are written family by family (spec part 2).
_CRUMB_ORDER = (
    futures.TIMER,  # leaves none
    futures.ACTIVITY,
    futures.SYSCALL,
    futures.CHILD,
    futures.EVENT,
    futures.QUEUE,
)
_CRUMB_CLASS = {family: cls for cls, family in BREADCRUMB_FAMILIES.items()}
# A syscall that lost before it was asked is recorded as the activity that it looks like in history.
_CRUMB_CLASS[futures.SYSCALL] = events.ActivityCancelRequested


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What the first turn of an execution needs beyond its name and version.

    Attributes:
        input: JSON text.
        parent_instance: the parent's id, for a child.
        parent_id: the parent's schedule event.
        initial_custom_status: carried over from the execution before.
    """

    input: str
    parent_instance: str | None = None
    parent_id: int | None = None
    initial_custom_status: str | None = None


class Turn:
    """Runs one turn of a live execution.

    Raises NondeterminismError from ``run`` if recorded cancellations can't be reproduced; then nothing of the turn
    may be committed and the execution must be thrown away.
    """

    def __init__(self, execution: LiveExecution, environment: TurnEnvironment) -> None:
        self.execution = execution
        self.environment = environment
        self.result = TurnResult()
        self._recorded = execution.history_length
        self._created: list[tuple[Leaf, events.Event]] = []
        self._syscalls = 0

    def run(self, batch: Sequence[Message], start: Start | None = None) -> TurnResult:
        """Return what the turn wants committed.

        Args:
            batch: the messages for this execution, in the order in which they became visible.
            start: given for the first turn of an execution.
        """
        execution = self.execution
        if execution.closed:
            raise EngineError(f"A turn of {execution.instance_id!r} was begun on a closed execution.")
        execution.environment = self.environment
        try:
            execution.run_isolated(self._run, batch, start)
        finally:
            execution.environment = None
        return self.result

    def _run(self, batch: Sequence[Message], start: Start | None) -> None:
        if start is not None:
            self._append_start(start)
        for message in batch:
            self._receive(message)
        self._record_actions()
        if self.execution.cancel_reason is not None:
            self._bound_cleanup()
        self._settle()

    # Messages to events

    def _append(self, event: events.Event) -> None:
        self.result.events.append(event)
        size = event.size
        self.result.size += size
        self.execution.size_estimate += size
        self.execution.apply(event)

    @property
    def _next_id(self) -> int:
        return self.execution.history_length + 1

    def _append_start(self, start: Start) -> None:
        execution = self.execution
        self._append(
            events.OrchestrationStarted(
                event_id=1,
                timestamp_ms=self.environment.now_ms,
                name=execution.name,
                version=execution.version,
                input=start.input,
                parent_instance=start.parent_instance,
                parent_id=start.parent_id,
                initial_custom_status=start.initial_custom_status,
                strict_events=None if execution.options.buffer_events else True,
                engine=ENGINE_VERSION,
            )
        )

    def _receive(self, message: Message) -> None:
        kind = message.kind
        if kind == messages.CANCEL:
            self._receive_cancel(message)
        elif kind == messages.QUEUE_MESSAGE:
            assert message.id is not None
            self.execution.mailbox.add(Mail(id=message.id, queue=message.name or "", data=message.payload))
            self._deliver(message.name or "")
        elif self.execution.ended:
            self._ignore(message, "the execution has ended")
        elif kind in _COMPLETION_FAMILY:
            self._receive_completion(message)
        elif kind == messages.EXTERNAL_RAISED:
            self._append(
                events.ExternalEvent(
                    event_id=self._next_id,
                    timestamp_ms=self.environment.now_ms,
                    name=message.name or "",
                    data=message.payload,
                )
            )
        else:
            self._ignore(message, "the instance has started already")

    def _receive_cancel(self, message: Message) -> None:
        # Of repeated requests only the first counts, and one that forces what was only asked for.
        if self.execution.cancel_reason is None or message.force:
            self._append(
                events.OrchestrationCancelRequested(
                    event_id=self._next_id,
                    timestamp_ms=self.environment.now_ms,
                    reason=message.payload,
                    force=message.force or None,
                )
            )

    def _receive_completion(self, message: Message) -> None:
        execution = self.execution
        event_id = message.event_id or 0
        if message.execution_id != execution.execution_id:
            self._ignore(message, f"it belongs to execution {message.execution_id}")
            return
        if event_id in execution.closed_ids:
            self._ignore(message, "its work is completed already")
            return
        family = execution.known_kind(event_id)
        if family != _COMPLETION_FAMILY[message.kind]:
            # A stray message must not kill an instance (W20).
            self._ignore(message, f"no open {_COMPLETION_FAMILY[message.kind]} has event id {event_id}")
            return
        self._append(self._completion_event(message, event_id))

    def _completion_event(self, message: Message, source: int) -> events.Event:
        event_id, now_ms = self._next_id, self.environment.now_ms
        if message.kind == messages.ACTIVITY_COMPLETED:
            return events.ActivityCompleted(
                event_id=event_id, timestamp_ms=now_ms, source_event_id=source, result=message.payload
            )
        if message.kind == messages.ACTIVITY_FAILED:
            return events.ActivityFailed(
                event_id=event_id, timestamp_ms=now_ms, source_event_id=source, details=message.payload
            )
        if message.kind == messages.SUB_COMPLETED:
            return events.SubOrchestrationCompleted(
                event_id=event_id, timestamp_ms=now_ms, source_event_id=source, result=message.payload
            )
        if message.kind == messages.SUB_FAILED:
            return events.SubOrchestrationFailed(
                event_id=event_id, timestamp_ms=now_ms, source_event_id=source, details=message.payload
            )
        return events.TimerFired(
            event_id=event_id, timestamp_ms=now_ms, source_event_id=source, fire_at_ms=int(message.payload)
        )

    def _ignore(self, message: Message, why: str) -> None:
        self.result.ignored.append(f"{message.kind} dropped: {why}")

    def _deliver(self, queue: str) -> None:
        """Give waiting subscriptions their messages, one event each."""
        execution = self.execution
        while not execution.ended and (leaf := execution.next_queue_leaf(queue)):
            mail = execution.mailbox.take(queue)
            if mail is None:
                return
            execution.taken_mail.append(mail)
            self._append(
                events.QueueEventDelivered(
                    event_id=self._next_id,
                    timestamp_ms=self.environment.now_ms,
                    source_event_id=leaf.event_id,
                    name=queue,
                    data=mail.data,
                )
            )

    # Actions to events

    def _record_actions(self) -> None:
        execution, environment = self.execution, self.environment
        while execution.unmatched:
            action = execution.unmatched[0]
            event = action.to_event(self._next_id, environment.now_ms, environment.random() * 2 - 1)
            self._append(event)
            if isinstance(event, events.OrchestrationChained):
                self.result.detached.append(
                    NewInstance(instance_id=event.instance, name=event.name, version=event.version, input=event.input)
                )
            leaf = action.leaf
            if leaf is None:
                continue
            self._created.append((leaf, event))
            if leaf.family == futures.QUEUE:
                self._deliver(leaf.name)
            elif leaf.family == futures.SYSCALL and not leaf.dropped and not execution.ended:
                self._complete_syscall(leaf, event)

    def _complete_syscall(self, leaf: Leaf, event: events.Event) -> None:
        self._syscalls += 1
        if self._syscalls > limits.MAX_STEPS_WITHOUT_WAITING:
            self.execution.end_endless()
            return
        value = self.execution.syscall(leaf.task.name, leaf.task.input)
        self._append(
            events.ActivityCompleted(
                event_id=self._next_id,
                timestamp_ms=self.environment.now_ms,
                source_event_id=event.event_id,
                result=dumps(value),
            )
        )

    def _bound_cleanup(self) -> None:
        execution = self.execution
        if not execution.ended and execution.cleanup_turns >= execution.options.cancel_cleanup_turns:
            self.environment.trace("warning", f"clean-up after cancel took {execution.cleanup_turns} turns; ended")
            execution.give_up()

    # Outcome

    def _settle(self) -> None:
        execution, result = self.execution, self.result
        outcome = self._outcome()
        self._write_breadcrumbs(outcome)
        if outcome is None:
            self._enqueue_created()
        else:
            self._append_terminal(outcome)
        result.outcome = outcome
        result.kv = execution.kv.take_changes()
        result.status_changed, execution.status_changed = execution.status_changed, False
        result.custom_status = execution.custom_status
        result.consumed_mail, result.stored_mail = execution.mailbox.settle(execution.taken_mail)
        execution.taken_mail = []

    def _outcome(self) -> Outcome | None:
        execution = self.execution
        if not execution.ended:
            return None
        if isinstance(execution.outcome, Failed) and not execution.outcome.failure.is_application:
            return execution.outcome
        if execution.cancel_reason is not None:
            return Failed(failure=cancelled(execution.cancel_reason))
        return execution.outcome

    def _write_breadcrumbs(self, outcome: Outcome | None) -> None:
        execution = self.execution
        dropped = {id(leaf) for leaf in execution.dropped}
        losers = [(leaf, DROPPED) for leaf in execution.dropped if leaf.event_id in execution.open]
        execution.dropped = []
        if outcome is not None:
            losers += [
                (leaf, _terminal_reason(leaf.family, outcome))
                for leaf in execution.open.values()
                if id(leaf) not in dropped and not leaf.dropped
            ]
        losers.sort(key=lambda loser: _CRUMB_ORDER.index(loser[0].family))
        for leaf, reason in losers:
            self._write_breadcrumb(leaf, reason)

    def _write_breadcrumb(self, leaf: Leaf, reason: str) -> None:
        source = leaf.event_id or 0
        known = source <= self._recorded
        if leaf.family == futures.TIMER:
            if known:
                self.result.cancelled_timers.append(source)
            return
        crumb = _CRUMB_CLASS[leaf.family]
        if leaf.family == futures.CHILD:
            if reason != DROPPED and not self._ends_children():
                return
            if known:
                lost = reason == DROPPED and self.execution.cancel_reason is None
                self.result.cancelled_children.append((leaf.name, PARENT_DROPPED if lost else PARENT_CANCELED))
        elif leaf.family == futures.ACTIVITY and known:
            self.result.cancelled_activities.append(source)
        self._append(
            crumb(  # type: ignore[call-arg]
                event_id=self._next_id,
                timestamp_ms=self.environment.now_ms,
                source_event_id=source,
                reason=reason,
            )
        )

    def _ends_children(self) -> bool:
        # Children that the function merely didn't wait for live on; those of a cancelled or aborted one don't.
        outcome = self._outcome()
        return isinstance(outcome, Failed) and (outcome.failure.is_cancelled or not outcome.failure.is_application)

    def _enqueue_created(self) -> None:
        result = self.result
        for leaf, event in self._created:
            if leaf.dropped or leaf.event_id not in self.execution.open:
                continue
            if isinstance(event, events.ActivityScheduled):
                if leaf.family == futures.ACTIVITY:
                    result.activities.append(_new_activity(leaf, event))
            elif isinstance(event, events.TimerCreated):
                result.timers.append((event.event_id, event.fire_at_ms))
            elif isinstance(event, events.SubOrchestrationScheduled):
                result.children.append(
                    NewInstance(
                        instance_id=event.instance,
                        name=event.name,
                        version=event.version,
                        input=event.input,
                        event_id=event.event_id,
                    )
                )

    def _append_terminal(self, outcome: Outcome) -> None:
        event_id, now_ms = self._next_id, self.environment.now_ms
        event: events.Event
        if isinstance(outcome, Completed):
            event = events.OrchestrationCompleted(event_id=event_id, timestamp_ms=now_ms, output=outcome.output)
        elif isinstance(outcome, ContinuedAsNew):
            self._warn_of_lost_events()
            event = events.OrchestrationContinuedAsNew(
                event_id=event_id, timestamp_ms=now_ms, input=outcome.input, version=outcome.version
            )
        else:
            event = events.OrchestrationFailed(
                event_id=event_id, timestamp_ms=now_ms, details=outcome.failure.to_json()
            )
        self.result.events.append(event)
        self.execution.history_length = event_id

    def _warn_of_lost_events(self) -> None:
        lost = self.execution.unconsumed_events()
        if lost:
            self.environment.trace(
                "warning",
                f"{len(lost)} external event(s) that no wait consumed end with this execution: "
                f"{', '.join(sorted(set(lost)))}; an event queue would carry them into the next one",
            )


def _new_activity(leaf: Leaf, event: events.ActivityScheduled) -> NewActivity:
    return NewActivity(
        event_id=event.event_id,
        name=event.name,
        input=event.input,
        session_id=event.session_id,
        tag=event.tag,
        limits=leaf.task.limits,
        attempt=event.attempt or 1,
        max_attempts=event.max_attempts,
        retry_of=event.retry_of,
    )


def _terminal_reason(family: str, outcome: Outcome | None) -> str:
    if family in (futures.EVENT, futures.QUEUE):
        return "orchestration_terminal"
    if isinstance(outcome, Completed):
        return "orchestration_terminal_completed"
    if isinstance(outcome, ContinuedAsNew):
        return "orchestration_terminal_continued_as_new"
    return "orchestration_terminal_failed"


def end_without_code(
    history: Sequence[events.Event], failure: Failure, now_ms: int, *, cancel_reason: str | None = None
) -> TurnResult:
    """Return a turn that ends an execution as Failed without running its code.

    For poison, corrupt or unreplayable histories, and forced cancels: what is still open is cancelled.

    Args:
        history: the recorded events that can be read; may be incomplete, but its last id must be the highest.
        failure: why it ends.
        now_ms: epoch milliseconds of the turn.
        cancel_reason: recorded as OrchestrationCancelRequested unless one is there.
    """
    result = TurnResult(outcome=Failed(failure=failure))
    open_events = {event.event_id: event for event in history if type(event) in _FAMILY}
    closed = {event.source_event_id for event in history if event.source_event_id is not None}
    for source in closed | _consumed_waits(history, closed):
        open_events.pop(source, None)
    next_id = (history[-1].event_id if history else 0) + 1
    requested = any(isinstance(event, events.OrchestrationCancelRequested) for event in history)
    if cancel_reason is not None and not requested:
        result.events.append(
            events.OrchestrationCancelRequested(event_id=next_id, timestamp_ms=now_ms, reason=cancel_reason, force=True)
        )
    for source, event in open_events.items():
        if isinstance(event, events.TimerCreated):
            result.cancelled_timers.append(source)
            continue
        if isinstance(event, events.ActivityScheduled):
            result.cancelled_activities.append(source)
        elif isinstance(event, events.SubOrchestrationScheduled):
            result.cancelled_children.append((event.instance, PARENT_CANCELED))
        result.events.append(
            _CRUMB_CLASS[_FAMILY[type(event)]](  # type: ignore[call-arg]
                event_id=next_id + len(result.events),
                timestamp_ms=now_ms,
                source_event_id=source,
                reason=_terminal_reason(_FAMILY[type(event)], result.outcome),
            )
        )
    result.events.append(
        events.OrchestrationFailed(
            event_id=next_id + len(result.events), timestamp_ms=now_ms, details=failure.to_json()
        )
    )
    return result


def _consumed_waits(history: Sequence[events.Event], closed: set[int]) -> set[int]:
    """Return the waits that an external event answered; it names none, so they are matched as the engine does."""
    waiting: dict[str, deque[int]] = defaultdict(deque)
    buffered: Counter[str] = Counter()
    consumed: set[int] = set()
    strict = isinstance(history[0], events.OrchestrationStarted) and history[0].strict_events if history else False
    for event in history:
        # A wait that lost a race never got an event.
        if isinstance(event, events.ExternalSubscribed) and event.event_id not in closed:
            if buffered[event.name]:
                buffered[event.name] -= 1
                consumed.add(event.event_id)
            else:
                waiting[event.name].append(event.event_id)
        elif isinstance(event, events.ExternalEvent):
            if waiting[event.name]:
                consumed.add(waiting[event.name].popleft())
            elif not strict:
                buffered[event.name] += 1
    return consumed


_FAMILY: dict[type[events.Event], str] = {
    events.ActivityScheduled: futures.ACTIVITY,
    events.SubOrchestrationScheduled: futures.CHILD,
    events.ExternalSubscribed: futures.EVENT,
    events.QueueSubscribed: futures.QUEUE,
    events.TimerCreated: futures.TIMER,
}
