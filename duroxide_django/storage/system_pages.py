"""Read queries of the admin's pages about the whole system: workers, queues, sessions, activity over time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from duroxide_django.storage.database import Database
from duroxide_django.storage.overview import CLOCK_MARGIN_MS, first_key_since
from duroxide_django.storage.workers import announced

#: A worker that has not announced itself for so long is shown as gone (it does every 5 s).
LIVE_MS = 30_000
#: Entries of each queue that are counted.
QUEUE_LIMIT = 10_000
#: Rows of each table.
MAX_ROWS = 200
#: Newest starts, and newest ends, that the chart counts.
CHART_LIMIT = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRow:
    """One worker process as it announced itself."""

    id: str
    host: str
    pid: int
    started_ms: int
    beat_ms: int
    options: dict[str, Any]
    handlers: dict[str, Any]
    slots_used: int
    draining: bool
    is_live: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRow:
    """One session of activities."""

    session_id: str
    owner: str
    lease_until_ms: int
    last_activity_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskGroup:
    """The queued activities of one name and tag; none counted beyond QUEUE_LIMIT over all groups."""

    name: str
    tag: str
    ready: int
    leased: int
    delayed: int
    oldest_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageGroup:
    """The entries of one kind in the orchestrator queue; see TaskGroup. Leased: a worker takes the instance's turn."""

    kind: str
    ready: int
    leased: int
    delayed: int
    oldest_ms: int | None


def workers(db: Database) -> list[WorkerRow]:
    """Return the workers, those that announced themselves last first."""
    found = db.fetch(
        f"""
        SELECT id, host, pid, started_ms, beat_ms, options, handlers, slots_used, draining,
            beat_ms > {db.now} - {LIVE_MS}
        FROM duroxide_worker ORDER BY beat_ms DESC, id LIMIT {MAX_ROWS}"""
    )
    return [
        WorkerRow(
            id=row[0],
            host=row[1],
            pid=row[2],
            started_ms=row[3],
            beat_ms=row[4],
            options=announced(row[5]),
            handlers=announced(row[6]),
            slots_used=row[7],
            draining=bool(row[8]),
            is_live=bool(row[9]),
        )
        for row in found
    ]


def sessions(db: Database) -> list[SessionRow]:
    """Return the sessions used last."""
    found = db.fetch(
        "SELECT session_id, owner, lease_until_ms, last_activity_ms FROM duroxide_session "
        f"ORDER BY last_activity_ms DESC, session_id LIMIT {MAX_ROWS}"
    )
    return [SessionRow(session_id=a, owner=b, lease_until_ms=c, last_activity_ms=d) for a, b, c, d in found]


def task_groups(db: Database) -> list[TaskGroup]:
    """Return the activity queue by activity and tag, the oldest waiting first."""
    found = db.fetch(
        f"""
        SELECT name, tag, SUM(CASE WHEN lease_until_ms <= {db.now} AND visible_at_ms <= {db.now} THEN 1 ELSE 0 END),
            SUM(CASE WHEN lease_until_ms > {db.now} THEN 1 ELSE 0 END),
            SUM(CASE WHEN lease_until_ms <= {db.now} AND visible_at_ms > {db.now} THEN 1 ELSE 0 END),
            MIN(CASE WHEN lease_until_ms <= {db.now} AND visible_at_ms <= {db.now} THEN visible_at_ms END) AS oldest
        FROM (SELECT name, tag, lease_until_ms, visible_at_ms FROM duroxide_activity_task LIMIT {QUEUE_LIMIT}) AS t
        GROUP BY name, tag ORDER BY COALESCE(MIN(visible_at_ms), 0), name, tag LIMIT {MAX_ROWS}"""
    )
    return [
        TaskGroup(name=a, tag=b, ready=int(c), leased=int(d), delayed=int(e), oldest_ms=f) for a, b, c, d, e, f in found
    ]


def message_groups(db: Database) -> list[MessageGroup]:
    """Return the orchestrator queue by kind, earliest first."""
    found = db.fetch(
        f"""
        SELECT kind, SUM(CASE WHEN visible_at_ms <= {db.now} AND NOT leased THEN 1 ELSE 0 END),
            SUM(CASE WHEN visible_at_ms <= {db.now} AND leased THEN 1 ELSE 0 END),
            SUM(CASE WHEN visible_at_ms > {db.now} THEN 1 ELSE 0 END),
            MIN(CASE WHEN visible_at_ms <= {db.now} AND NOT leased THEN visible_at_ms END)
        FROM (
            SELECT kind, visible_at_ms, CASE WHEN visible_at_ms > {db.now} THEN FALSE ELSE COALESCE(
                (SELECT i.lease_until_ms > {db.now} FROM duroxide_instance i WHERE i.id = m.instance_id), FALSE
                ) END AS leased
            FROM (
                SELECT instance_id, kind, visible_at_ms FROM duroxide_message
                ORDER BY visible_at_ms, id LIMIT {QUEUE_LIMIT}) AS m) AS q
        GROUP BY kind ORDER BY kind"""
    )
    return [MessageGroup(kind=a, ready=int(b), leased=int(c), delayed=int(d), oldest_ms=e) for a, b, c, d, e in found]


def counts_by_version(db: Database) -> list[tuple[str, str, int]]:
    """Return (orchestration, version, open instances), exactly; only the open instances are read."""
    found = db.fetch(
        """
        SELECT name, COALESCE(version, ''), COUNT(*) FROM duroxide_instance WHERE status = 'Running'
        GROUP BY name, version ORDER BY name, version"""
    )
    return [(name, version, int(count)) for name, version, count in found]


def by_hour(db: Database, since_ms: int) -> list[tuple[int, int, int, int]]:
    """Return (hour since the epoch, started, completed, failed) since a time.

    The newest CHART_LIMIT starts and ends are counted.
    """
    found = db.fetch(
        f"""
        SELECT hour, SUM(started), SUM(completed), SUM(failed) FROM (
            SELECT created_ms / 3600000 AS hour, 1 AS started, 0 AS completed, 0 AS failed FROM (
                SELECT created_ms FROM duroxide_instance WHERE id >= %s ORDER BY id DESC LIMIT {CHART_LIMIT}) AS begun
            WHERE created_ms >= %s
            UNION ALL
            SELECT completed_ms / 3600000, 0, CASE WHEN status = 'Completed' THEN 1 ELSE 0 END,
                CASE WHEN status = 'Failed' THEN 1 ELSE 0 END FROM (
                SELECT completed_ms, status FROM duroxide_instance WHERE completed_ms >= %s
                ORDER BY completed_ms DESC LIMIT {CHART_LIMIT}) AS ended) AS events
        GROUP BY hour ORDER BY hour""",
        [first_key_since(db, since_ms - CLOCK_MARGIN_MS), since_ms, since_ms],
    )
    return [(int(hour), int(started), int(completed), int(failed)) for hour, started, completed, failed in found]
