"""What one instance waits for."""

from __future__ import annotations

from dataclasses import dataclass

from duroxide_django.storage.database import Database
from duroxide_django.storage.findings import MAX_FINDINGS
from duroxide_django.storage.invariant import open_subscriptions
from duroxide_django.storage.payloads import shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """One thing that an instance waits for.

    Attributes:
        kind: activity, message, timer, event, queue or child.
        name: of the activity, event, queue or child instance; the message's kind.
        event_id: the schedule event, if there is one.
        due_ms: when it comes due, epoch milliseconds, if known.
        detail: more in words.
    """

    kind: str
    name: str
    event_id: int | None = None
    due_ms: int | None = None
    detail: str = ""


def pending(db: Database, instance_id: str) -> list[Pending]:
    """Return what an instance waits for; nothing for an ended or unknown one."""
    found = db.fetch("SELECT id FROM duroxide_instance WHERE instance_id = %s AND status = 'Running'", [instance_id])
    if not found:
        return []
    key = found[0][0]
    return [*_tasks_of(db, key), *_messages_of(db, key), *_subscriptions_of(db, key), *_children_of(db, key)]


def _tasks_of(db: Database, key: int) -> list[Pending]:
    found = db.fetch(
        f"""
        SELECT name, event_id, visible_at_ms, attempts, interruptions, worker, tag, session_id, last_error, progress,
            CASE WHEN lease_until_ms > {db.now} THEN 1 ELSE 0 END, deadline_ms - {db.now}
        FROM duroxide_activity_task WHERE instance_id = %s ORDER BY event_id LIMIT %s""",
        [key, MAX_FINDINGS],
    )
    return [
        Pending(
            kind="activity",
            name=name,
            event_id=event_id,
            due_ms=due_ms,
            detail=", ".join(
                filter(
                    None,
                    [
                        f"runs on {worker}" if leased else "waits for a worker",
                        f"times out in {left_ms / 1000:.0f} s" if leased and left_ms is not None else "",
                        f"fetch {attempts}" if attempts else "",
                        f"retrying for the database ({interruptions} interrupted)" if interruptions else "",
                        f"tag {tag}" if tag else "",
                        f"session {session}" if session else "",
                        f"progress {shown(progress)}" if progress else "",
                        f"last error: {shown(error)}" if error else "",
                    ],
                )
            ),
        )
        for (
            name,
            event_id,
            due_ms,
            attempts,
            interruptions,
            worker,
            tag,
            session,
            error,
            progress,
            leased,
            left_ms,
        ) in found
    ]


def _messages_of(db: Database, key: int) -> list[Pending]:
    found = db.fetch(
        """SELECT kind, name, event_id, visible_at_ms FROM duroxide_message
        WHERE instance_id = %s ORDER BY visible_at_ms, id LIMIT %s""",
        [key, MAX_FINDINGS],
    )
    return [
        Pending(
            kind="timer" if kind == "TimerFired" else "message",
            name="timer" if kind == "TimerFired" else kind,
            event_id=event_id,
            due_ms=due_ms,
            detail=name or "",
        )
        for kind, name, event_id, due_ms in found
    ]


def _subscriptions_of(db: Database, key: int) -> list[Pending]:
    return [
        Pending(kind="event" if kind == "ExternalSubscribed" else "queue", name=name)
        for kind, name in open_subscriptions(db, [key]).get(key, [])
    ]


def _children_of(db: Database, key: int) -> list[Pending]:
    found = db.fetch(
        """SELECT c.instance_id, c.parent_event_id, c.name,
            CASE WHEN c.last_event_id = 0 THEN 'Pending' ELSE c.status END FROM duroxide_instance c
        JOIN duroxide_instance i ON i.id = c.parent_id AND c.parent_execution_id = i.current_execution_id
        WHERE i.id = %s AND c.status = 'Running' ORDER BY c.id LIMIT %s""",
        [key, MAX_FINDINGS],
    )
    return [
        Pending(kind="child", name=instance_id, event_id=event_id, detail=f"{name}, {status}")
        for instance_id, event_id, name, status in found
    ]
