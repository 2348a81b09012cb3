"""Operators' changes to single instances: pause, resume, answer an activity by hand, hurry it on.

Call each inside a transaction. A write to an instance's row changes its mark, so that live executions elsewhere notice.
"""

from __future__ import annotations

from duroxide_django.engine import messages
from duroxide_django.storage.clock import FOR_EVER_MS
from duroxide_django.storage.database import Database, new_token
from duroxide_django.storage.health import PAUSED
from duroxide_django.storage.inbox import Outgoing, send, show_messages
from duroxide_django.storage.payloads import seal_blocked


def pause(db: Database, instance_id: str, *, message: str) -> bool:
    """Keep an instance from being computed; returns whether there is one that has not ended.

    A turn that is being computed is thrown away. Activities that run go on, and their results wait.

    Args:
        message: why, for people.
    """
    blocked = seal_blocked({"reason": PAUSED, "message": message})
    changed = db.execute(
        f"""
        UPDATE duroxide_instance SET lease_token = NULL, lease_until_ms = %s, attempts = 0, blocked = %s,
            mark = %s, updated_ms = {db.now}
        WHERE instance_id = %s AND status = 'Running'""",
        [FOR_EVER_MS, blocked, new_token(), instance_id],
    )
    return bool(changed)


def resume(db: Database, instance_id: str) -> bool:
    """Let a paused or blocked instance be tried at once; returns whether there is one."""
    found = db.fetch(
        f"""
        UPDATE duroxide_instance SET lease_until_ms = 0, attempts = 0, blocked = NULL, updated_ms = {db.now}
        WHERE instance_id = %s AND status = 'Running' AND lease_token IS NULL AND blocked IS NOT NULL
        RETURNING id""",
        [instance_id],
    )
    for (key,) in found:
        show_messages(db, key)
    return bool(found)


def _lock(db: Database, instance_id: str) -> None:
    """Lock the instance's row before its messages and activities (see architecture.md, Order of locks)."""
    if db.features.has_row_locks:
        db.fetch("SELECT id FROM duroxide_instance WHERE instance_id = %s FOR NO KEY UPDATE", [instance_id])


_OF_CURRENT = """
    instance_id = (SELECT id FROM duroxide_instance WHERE instance_id = %s AND status = 'Running')
    AND event_id = %s AND execution_id = (SELECT current_execution_id FROM duroxide_instance WHERE instance_id = %s)"""


def answer_activity(db: Database, instance_id: str, event_id: int, *, kind: str, payload: str) -> str | None:
    """Give a pending activity its result by hand; returns its name, or None if there is none.

    A worker that runs it loses its lease, and what it returns is dropped.

    Args:
        event_id: the schedule event.
        kind: ActivityCompleted or ActivityFailed.
        payload: JSON text of the result, or of the failure details.
    """
    _lock(db, instance_id)
    found = db.fetch(
        f"DELETE FROM duroxide_activity_task WHERE {_OF_CURRENT} RETURNING instance_id, execution_id, name",
        [instance_id, event_id, instance_id],
    )
    if not found:
        return None
    key, execution_id, name = found[0]
    send(db, [Outgoing(instance=key, kind=kind, execution_id=execution_id, event_id=event_id, payload=payload)])
    return str(name)


def hurry(db: Database, instance_id: str, event_id: int) -> str | None:
    """Let a waiting activity be fetched, or a timer fire, at once; returns its name, or None if none waits.

    An activity that runs now is left alone.
    """
    _lock(db, instance_id)
    found = db.fetch(
        f"""
        UPDATE duroxide_activity_task SET visible_at_ms = {db.now}, attempts = 0, interruptions = 0, losses = 0,
            start_by_ms = CASE WHEN attempts = 0 THEN start_by_ms END
        WHERE {_OF_CURRENT} AND lease_until_ms <= {db.now} RETURNING name""",
        [instance_id, event_id, instance_id],
    )
    if found:
        return str(found[0][0])
    fired = db.execute(
        f"""
        UPDATE duroxide_message SET visible_at_ms = {db.now}, due_ms = {db.now}
        WHERE {_OF_CURRENT} AND kind = '{messages.TIMER_FIRED}'""",
        [instance_id, event_id, instance_id],
    )
    return "timer" if fired else None
