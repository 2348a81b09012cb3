"""Worker rows and session leases: small periodic writes of each running worker."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from duroxide_django.storage.database import Database


def beat(
    db: Database,
    *,
    worker_id: str,
    host: str,
    pid: int,
    options: str,
    handlers: str,
    slots_used: int,
    draining: bool,
) -> None:
    """Announce that a worker lives.

    Args:
        options, handlers: JSON text for people.
        slots_used: activities running now.
        draining: whether it is about to stop.
    """
    db.execute(
        f"""
        INSERT INTO duroxide_worker (id, host, pid, started_ms, beat_ms, options, handlers, slots_used, draining)
        VALUES (%s, %s, %s, {db.now}, {db.now}, %s, %s, %s, %s)
        ON CONFLICT (id) DO UPDATE SET beat_ms = excluded.beat_ms, slots_used = excluded.slots_used,
            draining = excluded.draining""",
        [worker_id, host, pid, options, handlers, slots_used, draining],
    )


def peers(db: Database, worker_id: str, *, within_ms: int) -> list[tuple[dict[str, Any], dict[str, Any], bool]]:
    """Return (options, handlers, whether it began before this one) of the other live workers; see ``announced``.

    Args:
        within_ms: milliseconds since their last beat, at the most.
    """
    found = db.fetch(
        f"""
        SELECT w.options, w.handlers, (w.started_ms < me.started_ms OR (w.started_ms = me.started_ms AND w.id < me.id))
        FROM duroxide_worker me JOIN duroxide_worker w ON w.id <> me.id
        WHERE me.id = %s AND w.beat_ms > {db.now} - %s AND NOT w.draining""",
        [worker_id, within_ms],
    )
    return [(announced(options), announced(handlers), bool(elder)) for options, handlers, elder in found]


#: Types of the values of a worker's options and handlers that are read.
_ANNOUNCED: dict[str, type | tuple[type, ...]] = {
    "owner": str, "runs_orchestrations": bool, "worker_concurrency": int, "activities": list, "orchestrations": dict,
}  # fmt: skip


def announced(text: Any) -> dict[str, Any]:
    """Return the options or handlers that a worker announced, without values that nothing can be done with."""
    try:
        value = json.loads(text)
    except (ValueError, TypeError):
        return {}
    if not isinstance(value, dict):
        return {}
    value = {key: item for key, item in value.items() if isinstance(item, _ANNOUNCED.get(key, object))}
    if "activities" in value:
        value["activities"] = [name for name in value["activities"] if isinstance(name, str)]
    if "orchestrations" in value:
        value["orchestrations"] = {
            name: [version for version in versions if isinstance(version, str)]
            for name, versions in value["orchestrations"].items()
            if isinstance(versions, list)
        }
    return value


def remove(db: Database, worker_id: str) -> None:
    """Delete a stopped worker's row."""
    db.execute("DELETE FROM duroxide_worker WHERE id = %s", [worker_id])


def remove_stale(db: Database, *, older_than_ms: int) -> None:
    """Delete the rows of workers whose last beat is older than so many milliseconds."""
    db.execute(f"DELETE FROM duroxide_worker WHERE beat_ms < {db.now} - %s", [older_than_ms])


def renew_sessions(db: Database, *, owner: str, in_flight: Sequence[str], lease_ms: int, idle_ms: int) -> None:
    """Extend the live leases of an owner's sessions that are in use or not idle yet (spec 10.1).

    Args:
        in_flight: sessions with an activity running now; they count as active.
        lease_ms: milliseconds of the new lease.
        idle_ms: milliseconds after which an unused session is let go.
    """
    active, parameter = db.any_of("session_id", in_flight)
    db.execute(
        f"""
        UPDATE duroxide_session SET lease_until_ms = {db.now} + %s,
            last_activity_ms = CASE WHEN {active} THEN {db.now} ELSE last_activity_ms END
        WHERE owner = %s AND lease_until_ms > {db.now} AND ({active} OR last_activity_ms > {db.now} - %s)""",
        [lease_ms, parameter, owner, parameter, idle_ms],
    )


def release_sessions(db: Database, *, owner: str) -> None:
    """Let go of all sessions of an owner that stops for good."""
    db.execute("UPDATE duroxide_session SET lease_until_ms = 0 WHERE owner = %s", [owner])


def clean_sessions(db: Database) -> None:
    """Delete sessions whose lease has run out and that no queued activity names."""
    db.execute(
        f"""
        DELETE FROM duroxide_session WHERE lease_until_ms <= {db.now} AND session_id NOT IN (
            SELECT t.session_id FROM duroxide_activity_task t WHERE t.session_id IS NOT NULL)"""
    )
