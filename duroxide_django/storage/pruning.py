"""Retention: deleting whole families of ended instances, in small batches."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from duroxide_django.storage import retention
from duroxide_django.storage.database import Database

_TABLES = {
    "executions_deleted": ("duroxide_execution",),
    "events_deleted": ("duroxide_history",),
    "queue_messages_deleted": ("duroxide_message", "duroxide_activity_task", "duroxide_queue_message"),
}

#: Conditions that the index of each state serves.
_ENDED = {
    "Completed": "status = 'Completed'",
    "Failed": "(status = 'Failed' AND NOT is_cancelled OR status = 'Failed' AND is_cancelled)",
}

#: What is counted.
COUNTERS = ("families", "instances_deleted", *_TABLES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which families are to go.

    Attributes:
        completed_before_ms: every member ended before this time, epoch milliseconds.
        name: the root's orchestration; None: any but ``excluding``.
        status: the root's status, Completed or Failed.
    """

    completed_before_ms: int
    status: str
    name: str | None = None
    excluding: tuple[str, ...] = ()


def batches(db: Database, selection: Selection, *, size: int, until: int | None = None) -> Iterator[dict[int, str]]:
    """Give ended root instances, the orchestration's name by row key, batch by batch.

    Args:
        size: roots in one batch.
        until: the highest row key to look at.
    """
    conditions = [_ENDED[selection.status], "parent_id IS NULL", "completed_ms < %s"]
    parameters: list[object] = [selection.completed_before_ms]
    if selection.name is not None:
        conditions.append("name = %s")
        parameters.append(selection.name)
    elif selection.excluding:
        excluded, parameter = db.any_of("name", selection.excluding)
        conditions.append(f"NOT ({excluded})")
        parameters.append(parameter)
    if until is not None:
        conditions.append("id <= %s")
        parameters.append(until)
    after = 0
    while True:
        found = db.fetch(
            f"""
            SELECT id, name FROM duroxide_instance WHERE {" AND ".join(conditions)} AND id > %s
            ORDER BY id LIMIT %s""",
            [*parameters, after, size],
        )
        if not found:
            return
        yield dict(found)
        after = found[-1][0]


def last_created_before(db: Database, moment_ms: int) -> int:
    """Return about the highest row key of the instances that were created before a time (0: none).

    Keys grow with time, so a few probes find it without an index; what they miss for a clock that was set back is
    found later.
    """
    least, high = db.fetch("SELECT COALESCE(MIN(id), 1), COALESCE(MAX(id), 0) FROM duroxide_instance")[0]
    low = least - 1
    while low < high:
        middle = (low + high + 1) // 2
        found = db.fetch(
            "SELECT id, created_ms FROM duroxide_instance WHERE id <= %s ORDER BY id DESC LIMIT 1", [middle]
        )
        if found and found[0][1] >= moment_ms:
            high = found[0][0] - 1
        else:
            low = middle
    return int(low)


def prune(
    db: Database, roots: dict[int, str], selection: Selection, *, room: int, dry_run: bool = False
) -> dict[str, dict[str, int]]:
    """Delete the families of ``roots`` that have ended as a whole; returns COUNTERS by orchestration.

    Call it inside a transaction.

    Args:
        roots: the orchestration's name by row key.
        room: how many families at the most.
        dry_run: delete nothing, only count.
    """
    ended = families(db, list(roots), completed_before_ms=selection.completed_before_ms, lock=not dry_run)
    by_name: dict[str, list[list[int]]] = defaultdict(list)
    for root in sorted(ended)[:room]:
        by_name[roots[root]].append(ended[root])
    counted = {}
    for name, members in by_name.items():
        keys = [key for family in members for key in family]
        counts = count(db, keys) if dry_run else retention.delete_rows(db, keys)
        counted[name] = {"families": len(members), **counts}
    return counted


def families(db: Database, roots: Sequence[int], *, completed_before_ms: int, lock: bool) -> dict[int, list[int]]:
    """Return the keys of each root's family by root, of those families that ended as a whole before the given time.

    Args:
        lock: lock their rows where the database can, in the order of their keys.
    """
    condition, parameter = db.any_of("id", roots)
    found = db.fetch(
        f"""
        WITH RECURSIVE family AS (
            SELECT id, id AS root FROM duroxide_instance WHERE {condition}
            UNION ALL
            SELECT c.id, f.root FROM duroxide_instance c JOIN family f ON c.parent_id = f.id)
        SELECT id, root FROM family""",
        [parameter],
    )
    members: dict[int, list[int]] = defaultdict(list)
    for key, root in found:
        members[root].append(key)
    condition, parameter = db.any_of("id", [key for key, _ in found])
    locking = "ORDER BY id FOR UPDATE" if lock and db.features.skip_locked else ""
    ended = {
        key
        for key, status, completed_ms in db.fetch(
            f"SELECT id, status, completed_ms FROM duroxide_instance WHERE {condition} {locking}", [parameter]
        )
        if status in ("Completed", "Failed") and completed_ms is not None and completed_ms < completed_before_ms
    }
    return {root: keys for root, keys in members.items() if ended.issuperset(keys)}


def count(db: Database, keys: Sequence[int]) -> dict[str, int]:
    """Return what deleting these instances would delete."""
    condition, parameter = db.any_of("instance_id", keys)
    counts = {
        name: sum(
            int(db.fetch(f"SELECT COUNT(*) FROM {table} WHERE {condition}", [parameter])[0][0]) for table in tables
        )
        for name, tables in _TABLES.items()
    }
    return {"instances_deleted": len(keys), **counts}


def may_prune(db: Database) -> bool:
    """Return whether nobody else is pruning by policy; holds them off until this transaction ends."""
    return bool(db.fetch(f"SELECT {db.features.try_retention_lock}")[0][0])


def is_first_worker(db: Database, worker_id: str, *, live_ms: int) -> bool:
    """Return whether this is the first of the live workers, to which duties fall that one is to do for all.

    Args:
        live_ms: how long ago a live worker's last beat may be, milliseconds.
    """
    found = db.fetch(f"SELECT MIN(id) FROM duroxide_worker WHERE beat_ms > {db.now} - %s", [live_ms])
    return bool(found[0][0] == worker_id)
