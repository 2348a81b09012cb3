"""Taking a history back as planned: what follows is removed, what had arrived is delivered again."""

from __future__ import annotations

from collections.abc import Sequence

from duroxide_django.engine import events, messages
from duroxide_django.engine.cuts import custom_status_after, kv_after
from duroxide_django.engine.outcome import NewActivity
from duroxide_django.engine.time_limits import TimeLimits
from duroxide_django.storage import activities, retention, turns
from duroxide_django.storage.clock import FOR_EVER_MS
from duroxide_django.storage.database import Database, new_token
from duroxide_django.storage.inbox import Outgoing, send
from duroxide_django.storage.payloads import seal, unseal
from duroxide_django.storage.rewind_plan import Plan, Rewound, Target

_KV = (events.KeyValueSet, events.KeyValueCleared, events.KeyValuesCleared)


def carry_out(db: Database, plan: Plan) -> Rewound:
    """Do what was planned, in the transaction that locked the family's rows before it was planned."""
    target, key, cut = plan.target, plan.target.key, len(plan.kept)
    mail = turns.read_mail(db, [key]).get(key, [])
    _clear_queues(db, target, cut)
    db.execute(
        "DELETE FROM duroxide_history WHERE instance_id = %s AND execution_id = %s AND event_id > %s",
        [key, target.execution_id, cut],
    )
    if plan.deleted:
        retention.delete_rows(db, [child for child, _ in plan.deleted])
    _restore_status(db, plan)
    unseen = db.fetch("SELECT MAX(id) FROM duroxide_message WHERE instance_id = %s", [key])[0][0]
    outgoing = [_begin_anew(db, target)] if cut == 0 else []
    if cut > 0:
        _go_on(db, plan)
    outgoing += plan.outgoing
    outgoing += [
        Outgoing(instance=key, kind=messages.QUEUE_MESSAGE, name=item.queue, payload=item.data) for item in mail
    ]
    send(db, outgoing)
    if unseen is not None:
        # What has not been looked at yet comes after what is delivered again: it gets new ids.
        later = [key, unseen, messages.EXTERNAL_RAISED, messages.QUEUE_MESSAGE]
        db.execute(
            f"""
            INSERT INTO duroxide_message
                (instance_id, kind, execution_id, event_id, name, payload, force, due_ms, visible_at_ms)
            SELECT instance_id, kind, execution_id, event_id, name, payload, force, {db.now}, {db.now}
            FROM duroxide_message WHERE instance_id = %s AND id <= %s AND kind IN (%s, %s) ORDER BY id""",
            later,
        )
        db.execute("DELETE FROM duroxide_message WHERE instance_id = %s AND id <= %s AND kind IN (%s, %s)", later)
    for child in plan.retried:
        carry_out(db, child)
    return plan.summary()


def _clear_queues(db: Database, target: Target, cut: int) -> None:
    """Delete what is queued for work that is taken back; all of it for an instance that has ended."""
    db.execute("DELETE FROM duroxide_queue_message WHERE instance_id = %s", [target.key])
    if not target.is_open:
        for table in ("duroxide_message", "duroxide_activity_task"):
            db.execute(f"DELETE FROM {table} WHERE instance_id = %s", [target.key])
        return
    later = "(execution_id <> %s OR event_id > %s)"
    db.execute(
        f"DELETE FROM duroxide_activity_task WHERE instance_id = %s AND {later}",
        [target.key, target.execution_id, cut],
    )
    db.execute(
        f"""DELETE FROM duroxide_message WHERE instance_id = %s
        AND (kind = %s OR (event_id IS NOT NULL AND {later}))""",
        [target.key, messages.CONTINUE_AS_NEW, target.execution_id, cut],
    )


def _restore_status(db: Database, plan: Plan) -> None:
    """Give the custom status the value that it had after the kept events."""
    if not any(isinstance(event, events.CustomStatusUpdated) for event in plan.removed):
        return
    status = custom_status_after(plan.kept or plan.removed[:1])
    db.execute(
        """UPDATE duroxide_instance SET custom_status = %s, custom_status_version = custom_status_version + 1
        WHERE id = %s""",
        [seal(status), plan.target.key],
    )


def _begin_anew(db: Database, target: Target) -> Outgoing:
    """Take the whole execution back; returns the message that begins it."""
    key, execution_id = target.key, target.execution_id
    db.execute("DELETE FROM duroxide_execution WHERE instance_id = %s AND execution_id = %s", [key, execution_id])
    first = execution_id == 1
    before = db.fetch(
        "SELECT event_count FROM duroxide_execution WHERE instance_id = %s AND execution_id = %s",
        [key, execution_id - 1],
    )
    _reopen(
        db,
        key,
        status="Running",
        execution_id=1 if first else execution_id - 1,
        last_event_id=0 if first else max(1, before[0][0] if before else 1),
    )
    db.execute(
        """
        UPDATE duroxide_kv SET value = base_value, updated_ms = COALESCE(base_updated_ms, 0), execution_id = %s,
            base_value = NULL, base_updated_ms = NULL WHERE instance_id = %s AND execution_id = %s""",
        [execution_id - 1, key, execution_id],
    )
    db.execute("DELETE FROM duroxide_kv WHERE instance_id = %s AND value IS NULL", [key])
    kind = messages.START if first else messages.CONTINUE_AS_NEW
    return Outgoing(instance=key, kind=kind, name=target.version, payload=target.input)


def _reopen(db: Database, key: int, *, status: str, execution_id: int, last_event_id: int) -> None:
    """Let the instance run from there; one that an operator paused stays paused."""
    db.execute(
        f"""
        UPDATE duroxide_instance SET status = %s, is_cancelled = false, current_execution_id = %s,
            last_event_id = %s, mark = %s, completed_ms = NULL, lease_token = NULL, attempts = 0,
            lease_until_ms = CASE WHEN lease_until_ms = %s THEN lease_until_ms ELSE 0 END,
            blocked = CASE WHEN lease_until_ms = %s THEN blocked END, updated_ms = {db.now}
        WHERE id = %s""",
        [status, execution_id, last_event_id, new_token(), FOR_EVER_MS, FOR_EVER_MS, key],
    )


def _go_on(db: Database, plan: Plan) -> None:
    """Reopen the execution after the kept events."""
    key, execution_id, cut = plan.target.key, plan.target.execution_id, len(plan.kept)
    _reopen(db, key, status="Running", execution_id=execution_id, last_event_id=cut)
    db.execute(
        """
        UPDATE duroxide_execution SET status = 'Running', output = NULL, error = NULL, completed_ms = NULL,
            event_count = %s WHERE instance_id = %s AND execution_id = %s""",
        [cut, key, execution_id],
    )
    if any(isinstance(event, _KV) for event in plan.removed):
        _restore_kv(db, plan)
    _reschedule(db, plan.target, plan.activities)


def _reschedule(db: Database, target: Target, scheduled: Sequence[events.ActivityScheduled]) -> None:
    rows = [
        activities.Insert(
            instance=target.key,
            execution_id=target.execution_id,
            activity=NewActivity(
                event_id=event.event_id,
                name=event.name,
                input=event.input,
                session_id=event.session_id,
                tag=event.tag,
                limits=TimeLimits(
                    timeout_ms=event.timeout_ms,
                    heartbeat_timeout_ms=event.heartbeat_timeout_ms,
                    schedule_to_start_timeout_ms=event.schedule_to_start_timeout_ms,
                ),
                attempt=event.attempt or 1,
                max_attempts=event.max_attempts,
                retry_of=event.retry_of,
            ),
        )
        for event in scheduled
    ]
    if rows:
        db.one_by_one(activities.insertions(db, rows, lease_ms=0, worker=""))


def _restore_kv(db: Database, plan: Plan) -> None:
    """Give the live KV entries that this execution wrote the values they had after the kept events."""
    target = plan.target
    found = db.fetch(
        "SELECT key, base_value, base_updated_ms FROM duroxide_kv WHERE instance_id = %s AND execution_id = %s",
        [target.key, target.execution_id],
    )
    base = {key: (unseal(value), at or 0) for key, value, at in found if value is not None}
    values = kv_after(base, plan.kept)
    for key, _, _ in found:
        value, at = values.get(key, (None, 0))
        db.execute(
            """UPDATE duroxide_kv SET value = %s, updated_ms = %s
            WHERE instance_id = %s AND key = %s""",
            [seal(value), at, target.key, key],
        )
