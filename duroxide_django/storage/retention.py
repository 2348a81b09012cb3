"""Deleting instances and old executions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from duroxide_django.storage.database import Database

#: Instances that one bulk call takes by default (spec 17).
BULK_LIMIT = 1_000


@dataclass(frozen=True, slots=True)
class TreeRow:
    """One instance of a family."""

    key: int
    instance_id: str
    parent: int | None
    running: bool


def lock_tree(db: Database, instance_id: str) -> list[TreeRow]:
    """Return the instance and its descendants, root first, with their rows locked where the database can.

    A turn that is computing then waits here with its commit, and finds its row changed or gone. One that commits
    while the rows are being locked may add children: the tree is read again until it has no new ones.
    """
    seen: set[int] = set()
    statuses: dict[int, str] = {}
    while True:
        found = _read_tree(db, instance_id)
        new = {row[0] for row in found} - seen
        if not new:
            break
        seen |= new
        condition, parameter = db.any_of("id", sorted(new))
        lock = "FOR UPDATE" if db.features.skip_locked else ""
        statuses |= dict(
            db.fetch(f"SELECT id, status FROM duroxide_instance WHERE {condition} ORDER BY id {lock}", [parameter])
        )
    return [
        TreeRow(key, name, parent, statuses[key] not in ("Completed", "Failed"))
        for key, name, parent in found
        if key in statuses
    ]


def _read_tree(db: Database, instance_id: str) -> list[tuple[int, str, int | None]]:
    return [
        (key, name, parent)
        for key, name, parent in db.fetch(
            """
            WITH RECURSIVE family AS (
                SELECT id, instance_id, parent_id, 0 AS depth FROM duroxide_instance WHERE instance_id = %s
                UNION ALL
                SELECT c.id, c.instance_id, c.parent_id, f.depth + 1
                FROM duroxide_instance c JOIN family f ON c.parent_id = f.id)
            SELECT id, instance_id, parent_id FROM family ORDER BY depth, id""",
            [instance_id],
        )
    ]


def delete_rows(db: Database, keys: Sequence[int]) -> dict[str, int]:
    """Delete instances with everything that belongs to them; returns how much."""
    condition, parameter = db.any_of("instance_id", keys)
    deleted = {
        table: db.execute(f"DELETE FROM {table} WHERE {condition}", [parameter])
        for table in (
            "duroxide_message",
            "duroxide_activity_task",
            "duroxide_queue_message",
            "duroxide_kv",
            "duroxide_execution",
            "duroxide_history",
        )
    }
    by_id, parameter = db.any_of("id", keys)
    instances = db.execute(f"DELETE FROM duroxide_instance WHERE {by_id}", [parameter])
    return {
        "instances_deleted": instances,
        "executions_deleted": deleted["duroxide_execution"],
        "events_deleted": deleted["duroxide_history"],
        "queue_messages_deleted": deleted["duroxide_message"]
        + deleted["duroxide_activity_task"]
        + deleted["duroxide_queue_message"],
    }


def deletable_roots(
    db: Database, *, instance_ids: Sequence[str] | None, completed_before_ms: int | None, limit: int
) -> list[str]:
    """Return ids of ended root instances, oldest first."""
    conditions, parameters = _filters(db, instance_ids, completed_before_ms)
    conditions += ["i.parent_id IS NULL", "i.status IN ('Completed', 'Failed')"]
    found = db.fetch(
        f"SELECT i.instance_id FROM duroxide_instance i WHERE {' AND '.join(conditions)} ORDER BY i.id LIMIT %s",
        [*parameters, limit],
    )
    return [instance_id for (instance_id,) in found]


def prunable(
    db: Database, *, instance_ids: Sequence[str] | None, completed_before_ms: int | None, limit: int
) -> list[str]:
    """Return ids of instances of any status that the filter selects, oldest first."""
    conditions, parameters = _filters(db, instance_ids, completed_before_ms)
    where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    found = db.fetch(
        f"SELECT i.instance_id FROM duroxide_instance i {where} ORDER BY i.id LIMIT %s", [*parameters, limit]
    )
    return [instance_id for (instance_id,) in found]


def _filters(
    db: Database, instance_ids: Sequence[str] | None, completed_before_ms: int | None
) -> tuple[list[str], list[object]]:
    conditions: list[str] = []
    parameters: list[object] = []
    if instance_ids is not None:
        condition, parameter = db.any_of("i.instance_id", list(instance_ids))
        conditions.append(condition)
        parameters.append(parameter)
    if completed_before_ms is not None:
        conditions.append("i.completed_ms < %s")
        parameters.append(completed_before_ms)
    return conditions, parameters


def prune(
    db: Database, instance_ids: Sequence[str], *, keep_last: int | None, completed_before_ms: int | None
) -> tuple[int, int]:
    """Delete old executions; returns (executions, events) deleted.

    Args:
        keep_last: keep so many newest executions of each instance; None, 0 and 1 keep the current one.
        completed_before_ms: only executions completed before this time, epoch milliseconds.
    """
    condition, parameter = db.any_of("i.instance_id", list(instance_ids))
    parameters: list[object] = [parameter, max(1, keep_last or 1)]
    before = ""
    if completed_before_ms is not None:
        before = "AND e.completed_ms < %s"
        parameters.append(completed_before_ms)
    # A lock that keeps deletions off until this is done, but no turn.
    lock = "FOR KEY SHARE OF i FOR UPDATE OF e" if db.features.has_row_locks else ""
    found = db.fetch(
        f"""
        SELECT e.instance_id, e.execution_id FROM duroxide_execution e JOIN duroxide_instance i ON i.id = e.instance_id
        WHERE {condition} AND e.execution_id <= i.current_execution_id - %s AND e.status <> 'Running' {before}
        ORDER BY e.instance_id, e.execution_id {lock}""",
        parameters,
    )
    if not found:
        return 0, 0
    source, rows = db.rows((("instance", "bigint"), ("execution_id", "int")), found)
    keys, key_parameter = db.any_of("t.instance_id", sorted({row[0] for row in found}))

    def delete(table: str) -> int:
        return db.execute(
            f"""
            DELETE FROM {table} AS t WHERE {keys} AND (t.instance_id, t.execution_id) IN (
                SELECT r.instance, r.execution_id FROM {source})""",
            [key_parameter, *rows],
        )

    return delete("duroxide_execution"), delete("duroxide_history")
