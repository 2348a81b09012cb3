"""Which instances have no way forward (design section 8).

The invariant: *every non-terminal instance has a visible or scheduled message, a task, an open subscription or a
pending child*. ``stuck`` looks for instances that break it, ``lost_work`` for scheduled activities and children that
nobody will complete. Both look at a window of instances at a time and check again what they found, so that a busy
database gives no false alarm.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence

from duroxide_django.storage.database import Database, Row
from duroxide_django.storage.findings import MAX_FINDINGS, PROBLEM, Finding

#: Instances that one query looks at.
WINDOW = 5_000


def stuck(db: Database, *, limit: int = MAX_FINDINGS) -> list[Finding]:
    """Return the instances that nothing will ever wake (they break the invariant)."""
    found: list[Finding] = []
    for window in open_windows(db, IDLE):
        keys = [row[0] for row in window]
        waiting = open_subscriptions(db, keys) if keys else {}
        suspects = [key for key in keys if not waiting.get(key)]
        again = {row[0]: row for row in _window(db, IDLE, keys=suspects)} if suspects else {}
        seen = {row[0]: row[3] for row in window}
        found += [_stuck(row) for key, row in again.items() if row[3] == seen[key]]
        if len(found) >= limit:
            return found[:limit]
    return found


def _stuck(row: Row) -> Finding:
    _, instance_id, name, turns = row[:4]
    return Finding(
        rule="stuck",
        severity=PROBLEM,
        subject=instance_id,
        instance_id=instance_id,
        why=f"{name} is not terminal but has no message, task, open subscription or pending child "
        f"(after {turns} committed turns): nothing will ever wake it.",
        cure="This is a defect of the engine or a change made by hand; please report it. "
        "Cancel the instance with force and start it anew.",
    )


#: Nothing is queued for the instance's current execution. A subquery with LIMIT is asked for each row by an index; NOT
#: EXISTS would let PostgreSQL read the whole tables once for each window.
IDLE = """
    (SELECT 1 FROM duroxide_message m WHERE m.instance_id = i.id
        AND (m.execution_id IS NULL OR m.execution_id = i.current_execution_id) LIMIT 1) IS NULL
    AND (SELECT 1 FROM duroxide_activity_task t WHERE t.instance_id = i.id
        AND t.execution_id = i.current_execution_id LIMIT 1) IS NULL
    AND (SELECT 1 FROM duroxide_instance c WHERE c.parent_id = i.id
        AND c.parent_execution_id = i.current_execution_id AND c.status = 'Running' LIMIT 1) IS NULL"""


def open_windows(db: Database, condition: str) -> Iterator[list[Row]]:
    """Give the open instances that meet ``condition``, one window of all instances after the other."""
    after = 0
    while True:
        ends = db.fetch(
            """SELECT MAX(id), COUNT(*) FROM (SELECT id FROM duroxide_instance WHERE status = 'Running' AND id > %s
            ORDER BY id LIMIT %s) AS w""",
            [after, WINDOW],
        )
        last, count = ends[0]
        if not count:
            return
        yield _window(db, condition, after=after, until=last)
        after = last


def _window(
    db: Database,
    condition: str,
    *,
    after: int = 0,
    until: int = 2**62,
    keys: Sequence[int] | None = None,
) -> list[Row]:
    among, parameters = "", []
    if keys is not None:
        chosen, parameter = db.any_of("i.id", keys)
        among, parameters = f"AND {chosen}", [parameter]
    return db.fetch(
        f"""
        SELECT i.id, i.instance_id, i.name, i.turns, i.current_execution_id FROM duroxide_instance i
        WHERE i.status = 'Running' AND i.id > %s AND i.id <= %s {among} AND {condition} ORDER BY i.id""",
        [after, until, *parameters],
    )


def open_subscriptions(db: Database, keys: Sequence[int]) -> dict[int, list[tuple[str, str]]]:
    """Return the (kind, name) of the open subscriptions of instances, by their keys."""
    condition, parameter = db.any_of("i.id", keys)
    found = db.fetch(
        f"""
        SELECT h.instance_id, h.event_id, h.kind, h.source_event_id,
            CASE WHEN h.kind = 'OrchestrationStarted' THEN '' ELSE h.data END
        FROM duroxide_instance i JOIN duroxide_history h
            ON h.instance_id = i.id AND h.execution_id = i.current_execution_id
        WHERE {condition} AND (h.kind = 'OrchestrationStarted' AND h.data LIKE '%%"strict_events":true%%'
            OR h.kind IN ('ExternalSubscribed', 'ExternalEvent', 'ExternalSubscribedCancelled',
            'QueueSubscribed', 'QueueEventDelivered', 'QueueSubscriptionCancelled'))
        ORDER BY h.instance_id, h.event_id""",
        [parameter],
    )
    histories: dict[int, list[Row]] = defaultdict(list)
    for instance, *event in found:
        histories[instance].append(tuple(event))
    return {instance: list(_subscriptions(history).values()) for instance, history in histories.items()}


def _subscriptions(history: Sequence[Row]) -> dict[int, tuple[str, str]]:
    """Return the open subscriptions of one history by schedule event; events are matched by name, in order."""
    waiting: dict[int, tuple[str, str]] = {}
    buffered: dict[str, int] = defaultdict(int)
    strict = False
    for event_id, kind, source, data in history:
        name = _name_in(data)
        if kind == "OrchestrationStarted":
            strict = True  # An event that nobody waits for is lost.
        elif kind == "ExternalSubscribed" and buffered[name]:
            buffered[name] -= 1
        elif kind in ("ExternalSubscribed", "QueueSubscribed"):
            waiting[event_id] = (kind, name)
        elif kind == "ExternalEvent":
            taker = next((key for key, entry in waiting.items() if entry == ("ExternalSubscribed", name)), None)
            if taker is None:
                buffered[name] += not strict
            else:
                del waiting[taker]
        else:
            waiting.pop(source, None)
    return waiting


def _name_in(data: str) -> str:
    try:
        return str(json.loads(data).get("name", ""))
    except (ValueError, AttributeError):
        return ""


def lost_work(db: Database, *, limit: int = MAX_FINDINGS) -> list[Finding]:
    """Return scheduled activities and children without a result that no row stands for any more."""
    found: list[Finding] = []
    for window in open_windows(db, "1 = 1"):
        keys = [row[0] for row in window]
        suspects = {tuple(row[:3]): row for row in _orphans(db, keys)} if keys else {}
        if not suspects:
            continue
        again = {tuple(row[:3]): row for row in _orphans(db, sorted({key[0] for key in suspects}))}
        # A turn committed between the two looks explains a difference.
        found += [_lost(row) for key, row in again.items() if key in suspects and suspects[key][5] == row[5]]
        if len(found) >= limit:
            return found[:limit]
    return found


def _orphans(db: Database, keys: Sequence[int]) -> list[Row]:
    ours, parameter = db.any_of("i.id", keys)
    instance, parent = db.features.any_of("instance_id"), db.features.any_of("parent_id")
    # Each table is read once and matched by a hash: looking up the result, the task or the child of each event would
    # cost the square of what a long history or a wide fan-out has, as no index has all columns.
    return db.fetch(
        f"""
        WITH event AS MATERIALIZED (
            SELECT h.instance_id, h.execution_id, h.event_id, i.instance_id AS name, h.kind, i.turns,
                h.source_event_id, CASE WHEN h.kind IN ('ActivityScheduled', 'SubOrchestrationScheduled')
                    THEN h.data END AS data
            FROM duroxide_instance i JOIN duroxide_history h
                ON h.instance_id = i.id AND h.execution_id = i.current_execution_id
            WHERE {ours} AND i.status = 'Running'),
        expected AS MATERIALIZED (
            SELECT instance_id, execution_id, source_event_id AS event_id FROM event WHERE source_event_id IS NOT NULL
            UNION ALL
            SELECT instance_id, execution_id, event_id FROM duroxide_activity_task WHERE {instance}
            UNION ALL
            SELECT instance_id, execution_id, event_id FROM duroxide_message WHERE {instance}
            UNION ALL
            SELECT parent_id, parent_execution_id, parent_event_id FROM duroxide_instance
            WHERE {parent} AND parent_id IS NOT NULL AND status = 'Running')
        SELECT h.instance_id, h.execution_id, h.event_id, h.name, h.kind, h.turns, h.data
        FROM event h
        WHERE h.kind IN ('ActivityScheduled', 'SubOrchestrationScheduled')
            AND NOT EXISTS (SELECT 1 FROM expected e WHERE e.instance_id = h.instance_id
                AND e.execution_id = h.execution_id AND e.event_id = h.event_id)
        ORDER BY h.instance_id, h.event_id""",
        [parameter] * 4,
    )


def _lost(row: Row) -> Finding:
    _, execution_id, event_id, instance_id, kind, _, data = row
    what = "activity" if kind == "ActivityScheduled" else "sub-orchestration"
    return Finding(
        rule="lost_work",
        severity=PROBLEM,
        subject=f"{instance_id} #{event_id}",
        instance_id=instance_id,
        why=f"The {what} {_name_in(data)!r} scheduled by event {event_id} of execution {execution_id} has no result, "
        "and no row that would bring one.",
        cure="This is a defect of the engine, or rows were deleted by hand (a child deleted by force); please report "
        "it. Complete or fail it by hand, or cancel the instance.",
    )
