"""What turns send to other instances, and to themselves for later."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from duroxide_django.engine import messages
from duroxide_django.engine.failures import Failure
from duroxide_django.engine.outcome import Completed, ContinuedAsNew, Failed, NewInstance
from duroxide_django.storage import inbox
from duroxide_django.storage.chunks import chunks
from duroxide_django.storage.database import Database
from duroxide_django.storage.inbox import Outgoing, StartRow

if TYPE_CHECKING:
    from duroxide_django.storage.commits import Commit, Committed


def send_messages(db: Database, done: Sequence[Commit], committed: Committed) -> None:
    """Enqueue what turns send to their own instances (timers, the next execution), their parents and their children."""
    own: list[Outgoing] = []
    to_parents: list[Outgoing] = []
    cancels: list[tuple[str, int, str]] = []
    for turn in done:
        key, outcome = turn.claimed.key, turn.result.outcome
        for event_id, fire_at_ms in turn.result.timers:
            committed.timers_ms.append(fire_at_ms)
            own.append(
                Outgoing(
                    instance=key,
                    kind=messages.TIMER_FIRED,
                    execution_id=turn.execution_id,
                    event_id=event_id,
                    payload=str(fire_at_ms),
                    visible_at_ms=fire_at_ms,
                )
            )
        if isinstance(outcome, ContinuedAsNew):
            committed.wakes = True
            own.append(
                Outgoing(instance=key, kind=messages.CONTINUE_AS_NEW, name=outcome.version, payload=outcome.input)
            )
        elif outcome is not None and turn.claimed.parent is not None:
            committed.wakes = True
            to_parents.append(_to_parent(turn, outcome))
        cancels += [(child, key, reason) for child, reason in turn.result.cancelled_children]
    inbox.send(db, own)
    inbox.send(db, to_parents, check_instance=True)
    if cancels:
        committed.wakes = True
        _cancel_children(db, cancels)


def _to_parent(turn: Commit, outcome: Completed | Failed) -> Outgoing:
    completed = isinstance(outcome, Completed)
    return Outgoing(
        instance=turn.claimed.parent or 0,
        kind=messages.SUB_COMPLETED if completed else messages.SUB_FAILED,
        execution_id=turn.claimed.parent_execution_id,
        event_id=turn.claimed.parent_event_id,
        payload=outcome.output if isinstance(outcome, Completed) else outcome.failure.to_json(),
    )


_CANCEL_COLUMNS = (("child", "text"), ("parent", "bigint"), ("reason", "payload"))


def _cancel_children(db: Database, cancels: list[tuple[str, int, str]]) -> None:
    # "+ 0" keeps the planner from the index of all children of a parent, NOT IN from that of all open instances: it
    # would look through them for each child.
    for chunk in chunks(_CANCEL_COLUMNS, cancels):
        source, parameters = db.rows(_CANCEL_COLUMNS, chunk)
        db.execute(
            f"""
            INSERT INTO duroxide_message (instance_id, kind, payload, force, due_ms, visible_at_ms)
            SELECT i.id, '{messages.CANCEL}', r.reason, false, {db.now}, {db.now}
            FROM {source} JOIN duroxide_instance i ON i.instance_id = r.child AND i.parent_id + 0 = r.parent
            WHERE i.status NOT IN ('Completed', 'Failed')""",
            parameters,
        )


def start_instances(db: Database, done: Sequence[Commit], committed: Committed) -> None:
    """Start the children and detached instances of turns; an id that is taken fails the child's schedule event."""
    starts: list[tuple[Commit, NewInstance]] = [
        (turn, new) for turn in done for new in (*turn.result.children, *turn.result.detached)
    ]
    if not starts:
        return
    committed.wakes = True
    rows = [
        StartRow(
            instance_id=new.instance_id,
            name=new.name,
            version=new.version,
            input=new.input,
            parent=None if new.event_id is None else turn.claimed.key,
            parent_execution=None if new.event_id is None else turn.execution_id,
            parent_event=new.event_id,
        )
        for turn, new in starts
    ]
    begun = inbox.start(db, rows)
    refused: list[tuple[Commit, NewInstance]] = []
    taken: dict[str, int] = defaultdict(int)
    for turn, new in starts:
        taken[new.instance_id] += 1
        if new.event_id is not None and (new.instance_id not in begun or taken[new.instance_id] > 1):
            refused.append((turn, new))
    if refused:
        _refuse_children(db, refused)


def _refuse_children(db: Database, refused: list[tuple[Commit, NewInstance]]) -> None:
    condition, parameter = db.any_of("instance_id", sorted({new.instance_id for _, new in refused}))
    statuses: dict[str, str] = dict(
        db.fetch(f"SELECT instance_id, status FROM duroxide_instance WHERE {condition}", [parameter])
    )
    outgoing = []
    for turn, new in refused:
        ended = " and is terminal" if statuses.get(new.instance_id) in ("Completed", "Failed") else ""
        failure = Failure(
            kind="SubOrchestrationFailed",
            message=f"sub-orchestration instance id {new.instance_id!r} already exists{ended}",
            error_types=("InstanceAlreadyExists",),
            retryable=False,
        )
        outgoing.append(
            Outgoing(
                instance=turn.claimed.key,
                kind=messages.SUB_FAILED,
                execution_id=turn.execution_id,
                event_id=new.event_id,
                payload=failure.to_json(),
            )
        )
    inbox.send(db, outgoing)
