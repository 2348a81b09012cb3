"""What a database's clock hides after it went back: an NTP step, or a failover to a host that is behind."""

from __future__ import annotations

from duroxide_django.engine.messages import TIMER_FIRED
from duroxide_django.storage.clock import FOR_EVER_MS
from duroxide_django.storage.database import Database
from duroxide_django.storage.findings import PROBLEM, Finding

#: A moment that lies further ahead than this was written before the clock went back, milliseconds: hosts of one
#: database differ by less.
TOLERANCE_MS = 1_000
#: The longest time for which anything is hidden on purpose, timers aside, milliseconds.
LONGEST_PARK_MS = 60_000


def show_hidden(db: Database, *, lease_ms: int) -> int:
    """Let be claimed now what became due before the clock went back; returns how many messages these were.

    They keep their order: by id. Call it outside of transactions, or in one of the loop.

    Args:
        lease_ms: milliseconds after which the leases end that seem to last longer than two of these: their holders
            renew them until then, or are gone.
    """
    late = f"kind <> '{TIMER_FIRED}' AND visible_at_ms > {db.now} AND due_ms > {db.now} + {TOLERANCE_MS}"
    shown = db.execute(
        f"UPDATE duroxide_message SET due_ms = {db.now}, visible_at_ms = {db.now} "
        f"WHERE {_free(db, 'duroxide_message', 'instance_id, id', late)}"
    )
    if not shown and not _hides_leases(db):
        return 0
    parked = f"status = 'Running' AND lease_until_ms > {db.now} + {2 * max(lease_ms, LONGEST_PARK_MS)}"
    parked += f" AND lease_until_ms < {FOR_EVER_MS}"
    db.execute(
        f"UPDATE duroxide_instance SET lease_until_ms = CASE WHEN lease_token IS NULL THEN 0 ELSE {db.now} + %s END "
        f"WHERE {_free(db, 'duroxide_instance', 'id', parked)}",
        [lease_ms],
    )
    hidden = f"visible_at_ms > {db.now} + {2 * LONGEST_PARK_MS}"
    db.execute(
        f"UPDATE duroxide_activity_task SET visible_at_ms = {db.now} "
        f"WHERE {_free(db, 'duroxide_activity_task', 'instance_id, id', hidden)}"
    )
    leased = f"lease_until_ms > {db.now} + {2 * max(lease_ms, LONGEST_PARK_MS)}"
    db.execute(
        f"UPDATE duroxide_activity_task SET lease_until_ms = {db.now} + %s "
        f"WHERE {_free(db, 'duroxide_activity_task', 'instance_id, id', leased)}",
        [lease_ms],
    )
    return shown


def _hides_leases(db: Database) -> bool:
    return bool(
        db.fetch(
            f"""SELECT 1 FROM duroxide_activity_task WHERE visible_at_ms > {db.now} + {2 * LONGEST_PARK_MS}
            ORDER BY visible_at_ms LIMIT 1"""
        )
    )


def _free(db: Database, table: str, key: str, condition: str) -> str:
    """Return the condition for rows that nobody has locked."""
    if not db.features.has_row_locks:
        return condition
    return f"({key}) IN (SELECT {key} FROM {table} WHERE {condition} FOR UPDATE {db.features.skip_locked})"


def hidden_by_clock(db: Database, now_ms: int) -> list[Finding]:
    """Return a finding if messages become visible later than they were due and the longest pause, or due too late."""
    found = db.fetch(
        f"""
        SELECT COUNT(*), MAX(m.visible_at_ms), MIN(i.instance_id)
        FROM duroxide_message m JOIN duroxide_instance i ON i.id = m.instance_id
        WHERE m.visible_at_ms > %s AND (m.visible_at_ms > m.due_ms + %s OR m.kind <> '{TIMER_FIRED}' AND m.due_ms > %s)
        """,
        [now_ms + LONGEST_PARK_MS, LONGEST_PARK_MS, now_ms + LONGEST_PARK_MS],
    )
    count, until_ms, example = found[0]
    if not count:
        return []
    return [
        Finding(
            rule="hidden_by_clock",
            severity=PROBLEM,
            subject="duroxide_message",
            instance_id=example,
            count=count,
            why=f"{count} message(s) (for example of {example}) stay hidden for up to {(until_ms - now_ms) // 1000} s "
            "longer than anything is hidden on purpose: the database's clock went back, or somebody changed the rows.",
            cure="Workers show them when they notice that the clock went back, and when they start: restart one. "
            "Look after the clock of the database's host (NTP), and of its standbys.",
        )
    ]
