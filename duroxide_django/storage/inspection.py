"""Reading for people and admin calls. Nothing here changes a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from duroxide_django.engine.failures import Failure
from duroxide_django.exceptions import PayloadUnreadable
from duroxide_django.storage.database import Database, Row
from duroxide_django.storage.payloads import shown, unseal
from duroxide_django.storage.turns import StoredEvent

#: Conditions that the index of each state serves; with the status as a parameter, PostgreSQL could not know which.
_STATUSES = {
    "Running": "i.status = 'Running'",
    "Completed": "i.status = 'Completed'",
    "Failed": "(i.status = 'Failed' AND NOT i.is_cancelled OR i.status = 'Failed' AND i.is_cancelled)",
}


def list_instances(
    db: Database,
    *,
    status: str | None = None,
    name: str | None = None,
    limit: int | None = None,
    before: str | None = None,
) -> list[str]:
    """Return instance ids, newest first; ``before`` is the id after which to go on."""
    conditions, parameters = ["true"], []
    if status is not None:
        conditions.append(_STATUSES.get(status, "1 = 0"))
    if name is not None:
        conditions.append("i.name = %s")
        parameters.append(name)
    if before is not None:
        conditions.append("i.id < (SELECT b.id FROM duroxide_instance b WHERE b.instance_id = %s)")
        parameters.append(before)
    limited = "" if limit is None else f"LIMIT {int(limit)}"
    found = db.fetch(
        f"SELECT i.instance_id FROM duroxide_instance i WHERE {' AND '.join(conditions)} ORDER BY i.id DESC {limited}",
        parameters,
    )
    return [instance_id for (instance_id,) in found]


def exists(db: Database, instance_id: str) -> bool:
    """Return whether there is an instance with this id."""
    return bool(db.fetch("SELECT 1 FROM duroxide_instance WHERE instance_id = %s", [instance_id]))


def instances(db: Database, instance_ids: Sequence[str]) -> list[dict[str, Any]]:
    """Return the fields of instances, in the order of the ids; unknown ones are left out."""
    condition, parameter = db.any_of("i.instance_id", instance_ids)
    found = db.fetch(
        f"""
        SELECT i.instance_id, i.name, i.version, i.current_execution_id, i.status, e.output, e.error, i.created_ms,
            i.updated_ms, p.instance_id, i.is_cancelled, i.completed_ms, i.custom_status
        FROM duroxide_instance i
        LEFT JOIN duroxide_execution e ON e.instance_id = i.id AND e.execution_id = i.current_execution_id
        LEFT JOIN duroxide_instance p ON p.id = i.parent_id
        WHERE {condition}""",
        [parameter],
    )
    by_id = {row[0]: _instance_fields(row) for row in found}
    return [by_id[instance_id] for instance_id in instance_ids if instance_id in by_id]


def _instance_fields(row: Row) -> dict[str, Any]:
    return {
        "instance_id": row[0],
        "orchestration_name": row[1],
        "orchestration_version": row[2],
        "current_execution_id": row[3],
        "status": row[4],
        "output": _raw_output(row[5], row[6]),
        "created_at": row[7],
        "updated_at": row[8],
        "parent_instance_id": row[9],
        "is_cancelled": bool(row[10]),
        "completed_at": row[11],
        "custom_status": shown(row[12]),
    }


def _raw_output(output: str | None, error: str | None) -> str | None:
    if error is None:
        return shown(output)
    try:
        return Failure.from_json(unseal(error)).message
    except PayloadUnreadable:
        return shown(error)


def execution(db: Database, instance_id: str, execution_id: int) -> dict[str, Any] | None:
    """Return an execution's fields, or None."""
    found = db.fetch(
        """
        SELECT e.execution_id, e.status, e.output, e.error, e.started_ms, e.completed_ms,
            CASE WHEN e.execution_id = i.current_execution_id THEN i.last_event_id ELSE e.event_count END
        FROM duroxide_instance i JOIN duroxide_execution e ON e.instance_id = i.id AND e.execution_id = %s
        WHERE i.instance_id = %s""",
        [execution_id, instance_id],
    )
    if not found:
        return None
    row = found[0]
    return {
        "execution_id": row[0],
        "status": row[1],
        "output": _raw_output(row[2], row[3]),
        "started_at": row[4],
        "completed_at": row[5],
        "event_count": row[6],
    }


def executions(db: Database, instance_id: str) -> list[int]:
    """Return the execution ids of an instance, ascending."""
    found = db.fetch(
        """
        SELECT e.execution_id FROM duroxide_instance i JOIN duroxide_execution e ON e.instance_id = i.id
        WHERE i.instance_id = %s ORDER BY e.execution_id""",
        [instance_id],
    )
    return [execution_id for (execution_id,) in found]


def history(db: Database, instance_id: str, execution_id: int) -> list[StoredEvent]:
    """Return the stored events of one execution, in order."""
    return db.fetch(
        """
        SELECT h.event_id, h.kind, h.source_event_id, h.timestamp_ms, h.data
        FROM duroxide_instance i JOIN duroxide_history h ON h.instance_id = i.id AND h.execution_id = %s
        WHERE i.instance_id = %s ORDER BY h.event_id""",
        [execution_id, instance_id],
    )


def tree(db: Database, instance_id: str) -> list[str]:
    """Return the ids of an instance and all its descendants, or nothing."""
    found = db.fetch(
        """
        WITH RECURSIVE family AS (
            SELECT id, instance_id, 0 AS depth FROM duroxide_instance WHERE instance_id = %s
            UNION ALL
            SELECT c.id, c.instance_id, f.depth + 1 FROM duroxide_instance c JOIN family f ON c.parent_id = f.id)
        SELECT instance_id FROM family ORDER BY depth, id""",
        [instance_id],
    )
    return [found_id for (found_id,) in found]


def system_metrics(db: Database) -> dict[str, int]:
    """Return counts over the whole store."""
    by_status: dict[str, int] = dict(db.fetch("SELECT status, COUNT(*) FROM duroxide_instance GROUP BY status"))
    (executions_count,) = db.fetch("SELECT COUNT(*) FROM duroxide_execution")[0]
    (events_count,) = db.fetch("SELECT COUNT(*) FROM duroxide_history")[0]
    return {
        "total_instances": sum(by_status.values()),
        "total_executions": executions_count,
        "running_instances": by_status.get("Running", 0),
        "completed_instances": by_status.get("Completed", 0),
        "failed_instances": by_status.get("Failed", 0),
        "total_events": events_count,
    }


def stats(db: Database, instance_id: str) -> dict[str, int] | None:
    """Return sizes of an instance, or None."""
    size = db.features.byte_length
    found = db.fetch(
        f"""
        SELECT i.last_event_id,
            (SELECT COALESCE(SUM({size("h.data")}), 0) FROM duroxide_history h
                WHERE h.instance_id = i.id AND h.execution_id = i.current_execution_id),
            (SELECT COUNT(*) FROM duroxide_queue_message q WHERE q.instance_id = i.id)
                + (SELECT COUNT(*) FROM duroxide_message m WHERE m.instance_id = i.id AND m.kind = 'QueueMessage'),
            (SELECT COUNT(*) FROM duroxide_kv k WHERE k.instance_id = i.id AND k.value IS NOT NULL),
            (SELECT COALESCE(SUM({size("k.value")}), 0) FROM duroxide_kv k WHERE k.instance_id = i.id)
        FROM duroxide_instance i WHERE i.instance_id = %s""",
        [instance_id],
    )
    if not found:
        return None
    names = (
        "history_event_count",
        "history_size_bytes",
        "queue_pending_count",
        "kv_user_key_count",
        "kv_total_value_bytes",
    )
    return {name: int(value) for name, value in zip(names, found[0], strict=True)}


def queue_depths(db: Database) -> dict[str, int]:
    """Return how many entries of each queue no worker holds: all, ready now, and for later."""
    # A held instance has a message that is due: it was claimed for it, and a turn deletes what it took at its end.
    ready, scheduled = db.fetch(
        f"""
        WITH held AS MATERIALIZED (
            SELECT i.id FROM duroxide_message m JOIN duroxide_instance i ON i.id = m.instance_id
            WHERE m.visible_at_ms <= {db.now} AND i.lease_token IS NOT NULL AND i.lease_until_ms > {db.now})
        SELECT COALESCE(SUM(CASE WHEN visible_at_ms <= {db.now} THEN 1 ELSE 0 END), 0),
            COALESCE(SUM(CASE WHEN visible_at_ms > {db.now} THEN 1 ELSE 0 END), 0)
        FROM duroxide_message WHERE instance_id NOT IN (SELECT id FROM held)"""
    )[0]
    tasks_ready, tasks_scheduled = db.fetch(
        f"""
        SELECT COALESCE(SUM(CASE WHEN visible_at_ms <= {db.now} THEN 1 ELSE 0 END), 0),
            COALESCE(SUM(CASE WHEN visible_at_ms > {db.now} THEN 1 ELSE 0 END), 0)
        FROM duroxide_activity_task WHERE lease_until_ms <= {db.now}"""
    )[0]
    return {
        "orchestrator_queue": int(ready + scheduled),
        "worker_queue": int(tasks_ready + tasks_scheduled),
        "orchestrator_ready": int(ready),
        "orchestrator_scheduled": int(scheduled),
        "worker_ready": int(tasks_ready),
        "worker_scheduled": int(tasks_scheduled),
    }
