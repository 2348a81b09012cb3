"""Planning to take a history back: what stays, what arrives again, what runs again, what is deleted. It only reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from duroxide_django.engine import events, messages
from duroxide_django.engine.cuts import culprit, last_good, open_schedules, time_outs, turn_before
from duroxide_django.engine.events import Event
from duroxide_django.engine.limits import RESERVED_PREFIX
from duroxide_django.exceptions import InstanceNotFound, InvalidArgument
from duroxide_django.storage import turns
from duroxide_django.storage.database import Database
from duroxide_django.storage.inbox import Outgoing
from duroxide_django.storage.payloads import unseal, unseal_optional


@dataclass(slots=True, kw_only=True)
class Rewound:
    """What was taken back, or would be.

    Attributes:
        instance_ids: the instance (of a fork: the copy), and the children that go on with it.
        kept_events: events of its history that remain; 0: the execution begins anew.
        removed_events: events taken back; of a fork: events that the copy does not have.
        rescheduled: activities that run again.
        delivered_again: what had arrived in the part that is taken back, and is delivered again: names of events and
            queues; results as ``name#event``.
        deleted_children: children that were started in that part, with their descendants; the code may start them
            again.
        restarted_timers: time limits that ran out, or would at once, and begin again with their full time, as
            ``timer#event``.
        repeats: whether a failed instance gets exactly what it had: nothing runs again, and what had arrived is
            delivered again. Unless its code has changed it fails in the same way.
    """

    instance_ids: list[str] = field(default_factory=list)
    kept_events: int = 0
    removed_events: int = 0
    rescheduled: list[str] = field(default_factory=list)
    delivered_again: list[str] = field(default_factory=list)
    deleted_children: list[str] = field(default_factory=list)
    restarted_timers: list[str] = field(default_factory=list)
    repeats: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How a history is taken back.

    Attributes:
        rerun: whether activities run again whose results are taken back; else these are delivered again.
        redeliver: whether events and queue messages that are taken back are delivered again.
        is_copy: whether a fork goes on instead, whose children are the original's.
    """

    rerun: bool = False
    redeliver: bool = True
    is_copy: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The execution to change.

    Attributes:
        input: JSON text.
    """

    key: int
    instance_id: str
    execution_id: int
    version: str
    input: str
    status: str
    is_child: bool

    @property
    def is_open(self) -> bool:
        """Whether the instance has not ended: what waits in its queues counts."""
        return self.status == "Running"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What taking a history back means.

    Attributes:
        kept, removed: the two parts of the history.
        outgoing: messages to send: what arrived in the removed part, and what open work of the kept part needs.
        delivered_again: the first of these in words.
        activities: activities of the kept part that run again.
        retried: plans for failed children that the kept part waits for.
        deleted: keys and ids of children that were started in the removed part, with their descendants.
        restarted: timers of the kept part that begin again with their full time.
        is_same: whether the execution had failed and the removed part holds nothing that may come out otherwise.
    """

    target: Target
    kept: list[Event]
    removed: list[Event]
    outgoing: list[Outgoing] = field(default_factory=list)
    delivered_again: list[str] = field(default_factory=list)
    activities: list[events.ActivityScheduled] = field(default_factory=list)
    retried: list[Plan] = field(default_factory=list)
    deleted: list[tuple[int, str]] = field(default_factory=list)
    restarted: list[events.TimerCreated] = field(default_factory=list)
    is_same: bool = False

    @property
    def repeats(self) -> bool:
        """Whether nothing can come out otherwise unless the code has changed."""
        runs_again = self.activities or self.restarted
        return self.is_same and not runs_again and all(child.repeats for child in self.retried)

    def of_copy(self, key: int, instance_id: str) -> Plan:
        """Return the same plan for a copy of the instance."""
        return replace(
            self,
            target=replace(self.target, key=key, instance_id=instance_id),
            outgoing=[replace(message, instance=key) for message in self.outgoing],
        )

    def summary(self) -> Rewound:
        """Return what it does, for the instance and its children."""
        rewound = Rewound(
            instance_ids=[self.target.instance_id],
            kept_events=len(self.kept),
            removed_events=len(self.removed),
            rescheduled=[f"{event.name}#{event.event_id}" for event in self.activities],
            delivered_again=list(self.delivered_again),
            deleted_children=[instance_id for _, instance_id in self.deleted],
            restarted_timers=[f"timer#{event.event_id}" for event in self.restarted],
            repeats=self.repeats,
        )
        for child in (plan.summary() for plan in self.retried):
            rewound.instance_ids += child.instance_ids
            rewound.rescheduled += child.rescheduled
            rewound.delivered_again += child.delivered_again
            rewound.deleted_children += child.deleted_children
            rewound.restarted_timers += child.restarted_timers
        return rewound


def of_retry(db: Database, key: int) -> Plan:
    """Plan to let a failed root go on from its last good event.

    A plan holds as long as nobody else changes the family: to carry it out, lock its rows before.

    Raises:
        InstanceNotFound: it has been deleted meanwhile.
        InvalidArgument: it has not failed, or it is a child that has ended, or a child it needs is gone.
        CorruptHistory, PayloadUnreadable: its history can't be read.
    """
    target = _root(db, key)
    if target.status != "Failed":
        raise InvalidArgument(
            f"Instance {target.instance_id!r} has not failed ({target.status}); only failed ones can be retried."
        )
    return _retry(db, target)


def of_rewind(db: Database, key: int, *, keep: int, manner: Manner) -> Plan:
    """Plan to take an instance back to the end of the turn that its event ``keep`` belongs to, or the one before.

    See of_retry().

    Args:
        keep: the last event to keep, at the most; 0: none.
    """
    target = _root(db, key)
    history = _history(db, target)
    if not history:
        raise InvalidArgument(f"Instance {target.instance_id!r} has not begun; there is nothing to rewind.")
    return _plan(db, target, history, _cut(target, history, keep), manner)


def of_fork(db: Database, key: int, *, keep: int | None, manner: Manner) -> Plan:
    """Plan to let a copy of an instance's current execution go on from an event; see of_rewind() and Plan.of_copy().

    Args:
        keep: None: all that is good.

    Raises:
        InvalidArgument: also: a child runs at that event.
    """
    target = _target(db, key)
    history = _history(db, target)
    if not history:
        raise InvalidArgument(f"Instance {target.instance_id!r} has not begun; start a new one instead.")
    if keep is not None:
        cut = _cut(target, history, keep)
    elif target.is_open and not isinstance(history[-1], events.TERMINAL):
        cut = len(history)
    else:
        cut = _good_for_a_copy(history)
    return _plan(db, target, history, cut, replace(manner, is_copy=True))


def _good_for_a_copy(history: Sequence[Event]) -> int:
    """Return how many events are good for a copy: it can't retry the original's child, but start one of its own."""
    ended_by = culprit(history)
    if ended_by is not None and isinstance(history[ended_by], events.SubOrchestrationFailed):
        child = history[ended_by].source_event_id
        return turn_before(history, next(n for n, event in enumerate(history) if event.event_id == child))
    return last_good(history)


def _root(db: Database, key: int) -> Target:
    target = _target(db, key)
    if target.is_child and not target.is_open:
        raise InvalidArgument(
            f"Instance {target.instance_id!r} is a sub-orchestration, whose parent knows of its end; "
            "retry or rewind the root instance instead."
        )
    return target


def _retry(db: Database, target: Target) -> Plan:
    history = _history(db, target)
    return _plan(db, target, history, last_good(history), Manner())


def _target(db: Database, key: int) -> Target:
    """Return the current execution of an instance."""
    found = db.fetch(
        """
        SELECT i.id, i.instance_id, i.current_execution_id, e.version, e.input, i.status, i.parent_id
        FROM duroxide_instance i LEFT JOIN duroxide_execution e
            ON e.instance_id = i.id AND e.execution_id = i.current_execution_id
        WHERE i.id = %s""",
        [key],
    )
    if not found:
        raise InstanceNotFound(f"The instance with row key {key} has been deleted meanwhile.")
    key, instance_id, execution_id, version, text, status, parent = found[0]
    return Target(
        key=key,
        instance_id=instance_id,
        execution_id=execution_id,
        version=version,
        input=unseal_optional(text) or "null",
        status=status,
        is_child=parent is not None,
    )


def _history(db: Database, target: Target) -> list[Event]:
    stored = turns.read_histories(db, [(target.key, target.execution_id)]).get(target.key, [])
    return [turns.decode(row) for row in stored]


def _cut(target: Target, history: Sequence[Event], keep: int) -> int:
    if keep >= len(history):
        raise InvalidArgument(
            f"Execution {target.execution_id} of instance {target.instance_id!r} has {len(history)} events; "
            f"nothing follows event {keep}; choose one from 0 to {len(history) - 1}."
        )
    return turn_before(history, keep)


def _plan(db: Database, target: Target, history: list[Event], cut: int, manner: Manner) -> Plan:
    plan = Plan(target=target, kept=history[:cut], removed=history[cut:])
    plan = replace(plan, is_same=_is_same(target, history, plan.removed, manner))
    still_open = open_schedules(plan.kept)
    timed_out = _timed_out(target, history)
    for event in plan.removed:
        if isinstance(event, events.TimerFired) and event.source_event_id in timed_out:
            continue
        message = _again(target, event, still_open, manner)
        if message is not None:
            schedule = still_open.pop(event.source_event_id or 0, None)
            plan.outgoing.append(message)
            plan.delivered_again.append(_named(message, schedule))
    if not manner.is_copy:
        plan.deleted.extend(_children_after(db, target, cut))
        for event_id in _queued(db, target, cut):
            still_open.pop(event_id, None)
    retried_at: set[int] = set()
    for event in still_open.values():
        if isinstance(event, events.SubOrchestrationScheduled):
            if _add_child(db, plan, event, manner):
                retried_at.add(event.timestamp_ms)
        elif isinstance(event, events.ActivityScheduled):
            plan.activities.append(event)
    _add_timers(db, plan, still_open, timed_out, retried_at)
    return plan


def _timed_out(target: Target, history: Sequence[Event]) -> set[int]:
    """Return the timers whose firing ended a failed execution, with others that were time limits."""
    ended_by = culprit(history) if target.status == "Failed" else None
    if ended_by is None or not isinstance(history[ended_by], events.TimerFired):
        return set()
    return {history[n].source_event_id or 0 for n in (ended_by, *time_outs(history))}


def _is_same(target: Target, history: Sequence[Event], removed: Sequence[Event], manner: Manner) -> bool:
    """Return whether a failed execution's removed part holds nothing that may come out otherwise."""
    if target.status != "Failed" or any(isinstance(event, events.OrchestrationCancelRequested) for event in history):
        return False
    others = [event for event in removed if not _is_syscall(event)]
    dropped = (events.ExternalEvent, events.QueueEventDelivered)
    return not any(
        isinstance(event, (events.ActivityScheduled, events.SubOrchestrationScheduled))
        or (isinstance(event, dropped) and not manner.redeliver)
        for event in others
    )


def _is_syscall(event: Event) -> bool:
    return isinstance(event, events.ActivityScheduled) and event.name.startswith(RESERVED_PREFIX)


def _add_timers(
    db: Database, plan: Plan, still_open: dict[int, Event], timed_out: set[int], retried_at: set[int]
) -> None:
    """Plan for timers without a result in the history.

    A time limit must not run out before what it limits has run again. Nothing in a history says which timers are such
    limits, but those were set in the turn that scheduled what they limit.
    """
    timers = [event for event in still_open.values() if isinstance(event, events.TimerCreated)]
    if not timers:
        return
    scheduled_at = {event.event_id: event.timestamp_ms for event in plan.kept}
    limited_at = retried_at | {
        scheduled_at.get(event.retry_of or event.event_id, event.timestamp_ms) for event in plan.activities
    }
    limited_at |= {event.timestamp_ms for event in plan.activities}
    now_ms = db.now_ms()
    for event in timers:
        is_over = event.fire_at_ms <= now_ms and event.timestamp_ms in limited_at
        if event.event_id in timed_out or is_over:
            plan.restarted.append(event)
            event = replace(event, fire_at_ms=now_ms + event.fire_at_ms - event.timestamp_ms)  # noqa: PLW2901
        plan.outgoing.append(_timer(plan.target, event))


def _named(message: Outgoing, schedule: Event | None) -> str:
    if message.name is not None:
        return message.name
    return f"{getattr(schedule, 'name', 'timer')}#{message.event_id}"


def _again(target: Target, event: Event, still_open: dict[int, Event], manner: Manner) -> Outgoing | None:
    """Return the message that brings what ``event`` recorded once more, or None."""
    if isinstance(event, (events.ExternalEvent, events.QueueEventDelivered)):
        if not manner.redeliver:
            return None
        kind = messages.EXTERNAL_RAISED if isinstance(event, events.ExternalEvent) else messages.QUEUE_MESSAGE
        return Outgoing(instance=target.key, kind=kind, name=event.name, payload=event.data)
    source = event.source_event_id or 0
    if source not in still_open:
        return None
    if isinstance(event, events.ActivityCompleted) and not manner.rerun:
        return _completion(target, messages.ACTIVITY_COMPLETED, source, event.result)
    if isinstance(event, events.SubOrchestrationCompleted):
        return _completion(target, messages.SUB_COMPLETED, source, event.result)
    if isinstance(event, events.SubOrchestrationFailed) and manner.is_copy:
        return _completion(target, messages.SUB_FAILED, source, event.details)
    if isinstance(event, events.TimerFired):
        return _completion(target, messages.TIMER_FIRED, source, str(event.fire_at_ms))
    return None


def _completion(target: Target, kind: str, event_id: int, payload: str) -> Outgoing:
    return Outgoing(
        instance=target.key, kind=kind, execution_id=target.execution_id, event_id=event_id, payload=payload
    )


def _timer(target: Target, event: events.TimerCreated) -> Outgoing:
    message = _completion(target, messages.TIMER_FIRED, event.event_id, str(event.fire_at_ms))
    return replace(message, visible_at_ms=event.fire_at_ms)


def _queued(db: Database, target: Target, cut: int) -> list[int]:
    """Return the kept schedule events for which an entry is queued; what an ended instance left counts no more."""
    if not target.is_open:
        return []
    where = "instance_id = %s AND execution_id = %s AND event_id <= %s"
    found = db.fetch(
        f"""
        SELECT event_id FROM duroxide_message WHERE {where}
        UNION SELECT event_id FROM duroxide_activity_task WHERE {where}""",
        [target.key, target.execution_id, cut] * 2,
    )
    return [event_id for (event_id,) in found]


def _children_after(db: Database, target: Target, cut: int) -> list[tuple[int, str]]:
    """Return keys and ids of the children that were started after the cut, with theirs."""
    return [
        (key, instance_id)
        for key, instance_id in db.fetch(
            """
            WITH RECURSIVE family AS (
                SELECT id, instance_id FROM duroxide_instance
                WHERE parent_id = %s AND parent_execution_id = %s AND parent_event_id > %s
                UNION ALL
                SELECT c.id, c.instance_id FROM duroxide_instance c JOIN family f ON c.parent_id = f.id)
            SELECT id, instance_id FROM family ORDER BY id""",
            [target.key, target.execution_id, cut],
        )
    ]


def _add_child(db: Database, plan: Plan, event: events.SubOrchestrationScheduled, manner: Manner) -> bool:
    """Plan for a child without a result in the history: bring its result, let it be retried, or wait for it.

    Returns:
        whether it is retried.
    """
    target = plan.target
    if manner.is_copy:
        raise InvalidArgument(
            f"At that event the child {event.instance!r} runs, and a fork can't share it; fork at an event before it "
            "was started or after it ended."
        )
    found = db.fetch(
        """
        SELECT c.id, c.status, e.output FROM duroxide_instance c LEFT JOIN duroxide_execution e
            ON e.instance_id = c.id AND e.execution_id = c.current_execution_id
        WHERE c.parent_id = %s AND c.parent_execution_id = %s AND c.parent_event_id = %s""",
        [target.key, target.execution_id, event.event_id],
    )
    if not found:
        raise InvalidArgument(
            f"Instance {target.instance_id!r} can't go on from there: its child {event.instance!r} is gone."
        )
    key, status, output = found[0]
    if status == "Completed":
        plan.outgoing.append(_completion(target, messages.SUB_COMPLETED, event.event_id, unseal(output)))
    elif status == "Failed":
        plan.retried.append(_retry(db, _target(db, key)))
    return bool(status == "Failed")
