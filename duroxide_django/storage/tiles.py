"""How many instances stand how: the numbers at the top of the overview, each bounded."""

from __future__ import annotations

from dataclasses import dataclass

from duroxide_django.storage import overview
from duroxide_django.storage.database import Database
from duroxide_django.storage.overview import COUNT_LIMIT, Filters

#: Entries of the queues that are looked at for instances that work now.
_ENTRIES = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiles:
    """Counts of instances; COUNT_LIMIT stands for that many or more.

    Attributes:
        running: open ones with an activity that runs, or a message that a worker can take now.
        waiting: the other open ones.
        attention: those of the list's preset.
        failed_today: of the COUNT_LIMIT newest failed ones, those that ended since midnight; cancelled ones excepted.
    """

    running: int
    waiting: int
    attention: int
    failed_today: int


def tiles(db: Database, *, midnight_ms: int) -> Tiles:
    """Return the counts; ``midnight_ms``: when today began, epoch milliseconds."""
    found = db.fetch(
        f"""
        SELECT
            (SELECT COUNT(*) FROM (
                SELECT 1 FROM duroxide_instance WHERE status = 'Running' LIMIT {COUNT_LIMIT}) AS o),
            (SELECT COUNT(*) FROM (
                SELECT instance_id FROM (
                    SELECT instance_id, lease_until_ms FROM duroxide_activity_task LIMIT {_ENTRIES}) AS t
                WHERE lease_until_ms > {db.now}
                UNION
                SELECT instance_id FROM (
                    SELECT instance_id FROM duroxide_message WHERE visible_at_ms <= {db.now}
                    ORDER BY visible_at_ms LIMIT {_ENTRIES}) AS m) AS w),
            (SELECT COUNT(*) FROM (
                SELECT completed_ms FROM duroxide_instance WHERE status = 'Failed' AND NOT is_cancelled
                ORDER BY id DESC LIMIT {COUNT_LIMIT}) AS f WHERE f.completed_ms >= %s)""",
        [midnight_ms],
    )
    still_open, working, failed = (int(number) for number in found[0])
    return Tiles(
        running=min(working, COUNT_LIMIT),
        waiting=still_open if still_open >= COUNT_LIMIT else max(still_open - working, 0),
        attention=overview.count(db, Filters(preset="attention"), limit=COUNT_LIMIT),
        failed_today=failed,
    )
