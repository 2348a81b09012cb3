"""Read queries of the admin's lists and overviews: each bounded, none counts the instance table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from duroxide_django.storage import search
from duroxide_django.storage.database import Database
from duroxide_django.storage.payloads import shown, shown_blocked

#: Counts beyond this are shown as "1,000+".
COUNT_LIMIT = 1_000
#: How many open instances, and entries of each queue, a preset looks through for one page.
PRESET_WINDOW = 10_000
#: How many timers, those due next, the preset "retrying" looks through for pauses between attempts.
TIMER_WINDOW = 3_000
#: An instance of the preset "long" has been open for so long.
LONG_MS = 86_400_000
#: Up to so many instances found by the beginning of their ids are sorted, more are looked for among the newest.
FEW_MATCHES = 5_000
#: By how much the database's clock may have been set back without a list's missing an instance.
CLOCK_MARGIN_MS = 3_600_000
#: How many of its newest events tell what an instance of a list waits for.
RECENT_EVENTS = 200
#: A message or task that could have been taken for so long is overdue.
OVERDUE_MS = 60_000

OPEN = "i.status = 'Running'"
#: What people see: *Pending* until the first turn is committed.
SHOWN_STATUS = f"CASE WHEN {OPEN} AND i.last_event_id = 0 THEN 'Pending' ELSE i.status END"
_STATES = {
    "open": OPEN,
    "pending": f"{OPEN} AND i.last_event_id = 0",
    "running": f"{OPEN} AND i.last_event_id > 0",
    "blocked": f"{OPEN} AND i.blocked IS NOT NULL",
    "completed": "i.status = 'Completed'",
    "failed": "i.status = 'Failed' AND NOT i.is_cancelled",
    "cancelled": "i.status = 'Failed' AND i.is_cancelled",
}

_OPEN_STATES = ("open", "pending", "running", "blocked")

# A subquery with LIMIT is asked for each row by an index; EXISTS would let PostgreSQL read whole tables instead.
_NO_WAY_FORWARD = """
    (SELECT 1 FROM duroxide_message m WHERE m.instance_id = i.id LIMIT 1) IS NULL
    AND (SELECT 1 FROM duroxide_activity_task t WHERE t.instance_id = i.id LIMIT 1) IS NULL
    AND (SELECT 1 FROM duroxide_instance c WHERE c.parent_id = i.id AND c.status = 'Running'
        LIMIT 1) IS NULL
    AND (SELECT 1 FROM duroxide_history h WHERE h.instance_id = i.id AND h.execution_id = i.current_execution_id
        AND h.kind IN ('ExternalSubscribed', 'QueueSubscribed') LIMIT 1) IS NULL"""
_WAITS_FOR_EVENT = """
    i.blocked IS NULL
    AND (SELECT 1 FROM duroxide_history h WHERE h.instance_id = i.id AND h.execution_id = i.current_execution_id
        AND h.event_id > i.last_event_id - 10 AND h.kind = 'ExternalSubscribed' LIMIT 1) IS NOT NULL
    AND (SELECT 1 FROM duroxide_activity_task t WHERE t.instance_id = i.id LIMIT 1) IS NULL"""

#: Queries that give the row keys of a preset; {window}: the open instances that are looked through.
_SOURCES = {
    "attention": (
        "SELECT id FROM duroxide_instance WHERE blocked IS NOT NULL",
        """SELECT instance_id FROM (SELECT instance_id FROM duroxide_message
            WHERE visible_at_ms < {now} - {overdue} ORDER BY visible_at_ms, id LIMIT {most}) AS m""",
        """SELECT instance_id FROM (SELECT instance_id FROM duroxide_activity_task
            WHERE visible_at_ms < {now} - {overdue} AND lease_until_ms <= {now} LIMIT {most}) AS t""",
        f"SELECT id FROM {{window}} WHERE i.attempts > 3 OR ({_NO_WAY_FORWARD})",
    ),
    # A later attempt is a newer task; the pause before one is a timer that comes due soon.
    "retrying": (
        """SELECT instance_id AS id FROM (SELECT instance_id, attempts, interruptions, retry
            FROM duroxide_activity_task ORDER BY id DESC LIMIT {most}) AS t
            WHERE attempts > 1 OR interruptions > 0 OR retry NOT LIKE '[1,%%'""",
        """SELECT m.instance_id FROM (SELECT instance_id, execution_id, event_id FROM duroxide_message
            WHERE kind = 'TimerFired' AND visible_at_ms > {now} ORDER BY visible_at_ms, id LIMIT {timers}) AS m
            WHERE (SELECT 1 FROM duroxide_history h WHERE h.instance_id = m.instance_id
                AND h.execution_id = m.execution_id AND h.event_id = m.event_id - 1 AND h.kind = 'ActivityFailed'
                LIMIT 1) IS NOT NULL""",
    ),
}
#: Presets that look through open instances, PRESET_WINDOW for each page.
_WINDOWED = ("attention", "person")
PRESETS = ("attention", "person", "long", "retrying")
STATES = tuple(_STATES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """Which instances a list shows.

    Attributes:
        state: one of STATES, or empty.
        preset: one of PRESETS, or empty; see ``looked_to``.
        since_ms, until_ms: only those started at this time or later, before this time.
        query: an instance id, or the beginning of one; or a search attribute, ``@customer=4711``.
        finds_nothing: whether no instance is to be found, whatever else is said.
    """

    state: str = ""
    preset: str = ""
    name: str = ""
    version: str = ""
    since_ms: int | None = None
    until_ms: int | None = None
    query: str = ""
    finds_nothing: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceRow:
    """One instance; times in epoch milliseconds, ``parent`` is the parent's row key."""

    key: int
    instance_id: str
    name: str
    version: str | None
    status: str
    is_cancelled: bool
    execution_id: int
    last_event_id: int
    parent: int | None
    parent_instance_id: str | None
    custom_status: str | None
    created_ms: int
    updated_ms: int
    completed_ms: int | None
    lease_until_ms: int
    attempts: int
    blocked: str | None

    @property
    def is_open(self) -> bool:
        """Whether it has not ended."""
        return self.status in ("Pending", "Running")


_INSTANCE_COLUMNS = f"""
    i.id, i.instance_id, i.name, i.version, {SHOWN_STATUS}, i.is_cancelled, i.current_execution_id, i.last_event_id,
    i.parent_id, p.instance_id, i.custom_status, i.created_ms, i.updated_ms, i.completed_ms, i.lease_until_ms,
    i.attempts, i.blocked"""


def _instance(row: Sequence[Any]) -> InstanceRow:
    values = dict(zip(InstanceRow.__dataclass_fields__, row, strict=True))
    values |= {
        "is_cancelled": bool(values["is_cancelled"]),
        "custom_status": shown(values["custom_status"]),
        "blocked": shown_blocked(values["blocked"]),
    }
    return InstanceRow(**values)


def instances(
    db: Database, filters: Filters, *, size: int, older_than: int | None = None, newer_than: int | None = None
) -> list[InstanceRow]:
    """Return up to ``size`` instances, newest first.

    Args:
        older_than, newer_than: go on from this row key, towards older or newer ones (keyset paging).
    """
    position, bound, order = _position(older_than, newer_than)
    source, conditions, parameters = _source(db, filters, position, bound, order)
    found = db.fetch(
        f"""
        SELECT {_INSTANCE_COLUMNS} FROM {source} LEFT JOIN duroxide_instance p ON p.id = i.parent_id
        WHERE {" AND ".join(conditions) or "1 = 1"} ORDER BY i.id {order} LIMIT {int(size)}""",
        parameters,
    )
    rows = [_instance(row) for row in found]
    return rows if order == "DESC" else rows[::-1]


def _source(
    db: Database, filters: Filters, position: list[str], bound: list[Any], order: str
) -> tuple[str, list[str], list[Any]]:
    """Return (row source, conditions, parameters) of the instances that a list shows."""
    conditions, parameters = _conditions(db, filters)
    conditions, parameters = [*conditions, *position], [*parameters, *bound]
    if filters.preset == "person":
        return _window(conditions, order), [_WAITS_FOR_EVENT], parameters
    if filters.preset in _SOURCES:
        # In a query of its own: PostgreSQL expects many keys, and would read all instances in order to find them.
        query = _keys(db, filters.preset, conditions, order)
        found = db.fetch(query, parameters if filters.preset in _WINDOWED else [])
        condition, keys = db.any_of("i.id", [key for (key,) in found])
        conditions, parameters = [*conditions, condition], [*parameters, keys]
    return "duroxide_instance i", conditions, parameters


def _position(older_than: int | None, newer_than: int | None) -> tuple[list[str], list[Any], str]:
    if older_than is not None:
        return ["i.id < %s"], [older_than], "DESC"
    if newer_than is not None:
        return ["i.id > %s"], [newer_than], "ASC"
    return [], [], "DESC"


def _keys(db: Database, preset: str, conditions: Sequence[str], order: str) -> str:
    """Return the query that gives the row keys of a preset."""
    query = " UNION ".join(_SOURCES[preset])
    for mark, value in (
        ("{window}", _window(conditions, order)),
        ("{now}", db.now),
        ("{overdue}", str(OVERDUE_MS)),
        ("{most}", str(PRESET_WINDOW)),
        ("{timers}", str(TIMER_WINDOW)),
    ):
        query = query.replace(mark, value)
    return query


def _window(conditions: Sequence[str], order: str) -> str:
    window = f"SELECT * FROM duroxide_instance i WHERE {' AND '.join(conditions)} ORDER BY i.id {order}"
    return f"({window} LIMIT {PRESET_WINDOW}) AS i"


def count(db: Database, filters: Filters, *, limit: int, older_than: int | None = None) -> int:
    """Return how many instances there are of those that ``instances`` lists, none counted beyond ``limit``."""
    position, bound, order = _position(older_than, None)
    source, conditions, parameters = _source(db, filters, position, bound, order)
    found = db.fetch(
        f"SELECT COUNT(*) FROM (SELECT 1 FROM {source} WHERE {' AND '.join(conditions) or '1 = 1'} LIMIT {int(limit)}) "
        "AS counted",
        parameters,
    )
    return int(found[0][0])


def newest_key(db: Database) -> int:
    """Return the row key of the newest instance, 0 without instances."""
    return int(db.fetch("SELECT COALESCE(MAX(id), 0) FROM duroxide_instance")[0][0])


def of_keys(db: Database, keys: Sequence[int]) -> list[InstanceRow]:
    """Return the instances with these row keys, newest first."""
    condition, parameter = db.any_of("i.id", keys)
    found = db.fetch(
        f"SELECT {_INSTANCE_COLUMNS} FROM duroxide_instance i "
        f"LEFT JOIN duroxide_instance p ON p.id = i.parent_id WHERE {condition} ORDER BY i.id DESC",
        [parameter],
    )
    return [_instance(row) for row in found]


def _conditions(db: Database, filters: Filters) -> tuple[list[str], list[Any]]:
    conditions: list[str] = []
    parameters: list[Any] = []
    if filters.finds_nothing:
        conditions.append("1 = 0")
    if filters.state:
        conditions.append(_STATES[filters.state])
    if filters.preset:
        conditions.append(OPEN)
    if filters.preset == "long":
        before_ms = db.now_ms() - LONG_MS
        conditions += ["i.id < %s", "i.created_ms < %s"]
        parameters += [first_key_since(db, before_ms + CLOCK_MARGIN_MS), before_ms]
    if filters.name:
        # The open ones of an orchestration are looked for among all that are open: by its name, all that it ever had
        # would be. The term has no index, or PostgreSQL would expect to find enough of them among the newest.
        conditions.append("i.name || '' = %s" if filters.state in _OPEN_STATES or filters.preset else "i.name = %s")
        parameters.append(filters.name)
    if filters.version:
        conditions.append("i.version = %s")
        parameters.append(filters.version)
    if filters.since_ms is not None:
        conditions += ["i.id >= %s", "i.created_ms >= %s"]
        parameters += [first_key_since(db, filters.since_ms - CLOCK_MARGIN_MS), filters.since_ms]
    if filters.until_ms is not None:
        conditions += ["i.id < %s", "i.created_ms < %s"]
        parameters += [first_key_since(db, filters.until_ms + CLOCK_MARGIN_MS), filters.until_ms]
    if filters.query:
        attribute = search.parse(filters.query)
        if attribute is not None:
            condition, values = search.condition(*attribute)
        else:
            condition, values = _search(db, filters.query)
        conditions.append(condition)
        parameters += values
    return conditions, parameters


def _search(db: Database, query: str) -> tuple[str, list[Any]]:
    """Return (condition that an instance id begins with ``query``, its parameters).

    A few instances are named by their keys: old ids often have a beginning of their own, and PostgreSQL, which expects
    them among all others, would read the table from its newest row down to them.
    """
    condition, values = db.features.begins_with("instance_id", query)
    found = db.fetch(
        f"SELECT id FROM duroxide_instance WHERE {condition} "
        f"ORDER BY {db.features.text_order('instance_id')} LIMIT {FEW_MATCHES + 1}",
        values,
    )
    if len(found) > FEW_MATCHES:
        return db.features.begins_with(db.features.unindexed("i.instance_id"), query)
    few, parameter = db.any_of("i.id", [key for (key,) in found])
    return few, [parameter]


def looked_to(db: Database, filters: Filters, *, older_than: int | None = None) -> int | None:
    """Return the key of the oldest open instance that a preset looked at, or None if it looked at all there are.

    A page that it could not fill can be gone on with from there.
    """
    if filters.preset not in _WINDOWED:
        return None
    conditions, parameters = _conditions(db, filters)
    position, bound, order = _position(older_than, None)
    found = db.fetch(f"SELECT COUNT(*), MIN(id) FROM {_window([*conditions, *position], order)}", [*parameters, *bound])
    count, oldest = found[0]
    return int(oldest) if count >= PRESET_WINDOW else None


def first_key_since(db: Database, since_ms: int) -> int:
    """Return the row key from which on instances were started at ``since_ms`` or later.

    Keys are given out in the order of the starts, so halving finds it by the primary key, and no index on the time of
    the start is needed. It is as exact as the clock; whoever relies on it allows CLOCK_MARGIN_MS.
    """
    middle = "(SELECT created_ms FROM duroxide_instance WHERE id >= (low + high) / 2 ORDER BY id LIMIT 1)"
    found = db.fetch(
        f"""
        WITH RECURSIVE probe (low, high) AS (
            SELECT COALESCE((SELECT MIN(id) FROM duroxide_instance), 0),
                COALESCE((SELECT MAX(id) FROM duroxide_instance), 0) + 1
            UNION ALL
            SELECT CASE WHEN {middle} < %s THEN (low + high) / 2 + 1 ELSE low END,
                CASE WHEN {middle} < %s THEN high ELSE (low + high) / 2 END
            FROM probe WHERE low < high)
        SELECT MAX(low) FROM probe""",
        [since_ms, since_ms],
    )
    return int(found[0][0])


def instance(db: Database, key: int) -> InstanceRow | None:
    """Return the instance with this row key, or None."""
    found = db.fetch(
        f"SELECT {_INSTANCE_COLUMNS} FROM duroxide_instance i "
        "LEFT JOIN duroxide_instance p ON p.id = i.parent_id WHERE i.id = %s",
        [key],
    )
    return _instance(found[0]) if found else None


def key_of(db: Database, instance_id: str) -> int | None:
    """Return the row key of an instance id, or None."""
    found = db.fetch("SELECT id FROM duroxide_instance WHERE instance_id = %s", [instance_id])
    return int(found[0][0]) if found else None


def state_counts(db: Database) -> dict[str, int]:
    """Return how many instances are in each state, none counted beyond COUNT_LIMIT."""
    counted = ("pending", "running", "blocked", "completed", "failed", "cancelled")
    parts = [
        f"SELECT '{state}', COUNT(*) FROM (SELECT 1 FROM duroxide_instance i WHERE {_STATES[state]} "
        f"LIMIT {COUNT_LIMIT}) AS counted"
        for state in counted
    ]
    return {state: int(count) for state, count in db.fetch(" UNION ALL ".join(parts))}


# What open instances wait for


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What tells, for one open instance of a list, what it does or waits for.

    Attributes:
        tasks: how many activities are queued or running; task: the first one's name; task_leased: a worker has one.
        ready: messages that a worker can take now; timer_ms: when its next timer is due.
        retries: whether a timer is the pause before the next attempt of an activity.
        children: how many children are open; child: the first one's id.
        waits: (event id, kind, source event id, time, name) of its newest subscriptions and arrivals, in order.
    """

    tasks: int = 0
    task: str = ""
    task_leased: bool = False
    task_tag: str = ""
    task_ms: int = 0
    ready: int = 0
    timer_ms: int | None = None
    retries: bool = False
    children: int = 0
    child: str = ""
    waits: tuple[tuple[int, str, int | None, int, str | None], ...] = ()


#: Subscriptions, and the events that end them.
WAIT_KINDS = (
    "ExternalSubscribed",
    "ExternalEvent",
    "ExternalSubscribedCancelled",
    "QueueSubscribed",
    "QueueEventDelivered",
    "QueueSubscriptionCancelled",
)


def situations(db: Database, keys: Sequence[int]) -> dict[int, Situation]:
    """Return what the instances with these row keys do, by key."""
    if not keys:
        return {}
    found: dict[int, dict[str, Any]] = {key: {} for key in keys}
    for key, count, name, leased_until, tag, visible, now in _first_tasks(db, keys):
        found[key] |= {
            "tasks": count, "task": name, "task_leased": leased_until > now, "task_tag": tag, "task_ms": visible,
        }  # fmt: skip
    for key, ready, timer_ms, retries in _messages(db, keys):
        found[key] |= {"ready": int(ready), "timer_ms": timer_ms, "retries": bool(retries)}
    for key, count, child in _open_children(db, keys):
        found[key] |= {"children": count, "child": child}
    for key, *event in _recent_waits(db, keys):
        found[key]["waits"] = (*found[key].get("waits", ()), tuple(event))
    return {key: Situation(**values) for key, values in found.items()}


def _first_tasks(db: Database, keys: Sequence[int]) -> list[tuple[Any, ...]]:
    condition, parameter = db.any_of("instance_id", keys)
    return db.fetch(
        f"""
        SELECT f.instance_id, f.count, t.name, f.leased_until, t.tag, t.visible_at_ms, {db.now}
        FROM (
            SELECT instance_id, COUNT(*) AS count, MIN(id) AS first, MAX(lease_until_ms) AS leased_until
            FROM duroxide_activity_task WHERE {condition} GROUP BY instance_id) AS f
        JOIN duroxide_activity_task t ON t.instance_id = f.instance_id AND t.id = f.first""",
        [parameter],
    )


def _messages(db: Database, keys: Sequence[int]) -> list[tuple[Any, ...]]:
    condition, parameter = db.any_of("instance_id", keys)
    return db.fetch(
        f"""
        SELECT instance_id, SUM(CASE WHEN visible_at_ms <= {db.now} THEN 1 ELSE 0 END),
            MIN(CASE WHEN kind = 'TimerFired' AND due_ms > {db.now} THEN due_ms END),
            MAX(CASE WHEN kind = 'TimerFired' AND EXISTS (
                SELECT 1 FROM duroxide_history h WHERE h.instance_id = m.instance_id
                    AND h.execution_id = m.execution_id AND h.event_id = m.event_id - 1 AND h.kind = 'ActivityFailed')
                THEN 1 ELSE 0 END)
        FROM duroxide_message m WHERE {condition} GROUP BY instance_id""",
        [parameter],
    )


def _open_children(db: Database, keys: Sequence[int]) -> list[tuple[Any, ...]]:
    condition, parameter = db.any_of("parent_id", keys)
    return db.fetch(
        f"""
        SELECT parent_id, COUNT(*), MIN(instance_id) FROM duroxide_instance
        WHERE parent_id IS NOT NULL AND {condition} AND status = 'Running' GROUP BY parent_id""",
        [parameter],
    )


def _recent_waits(db: Database, keys: Sequence[int]) -> list[tuple[Any, ...]]:
    condition, parameter = db.any_of("i.id", keys)
    kinds, kind_parameter = db.any_of("h.kind", WAIT_KINDS)
    return db.fetch(
        f"""
        SELECT i.id, h.event_id, h.kind, h.source_event_id, h.timestamp_ms, {db.features.json_field("h.data", "name")}
        FROM duroxide_instance i JOIN duroxide_history h ON h.instance_id = i.id
            AND h.execution_id = i.current_execution_id AND h.event_id > i.last_event_id - {RECENT_EVENTS}
        WHERE {condition} AND {kinds} ORDER BY i.id, h.event_id""",
        [parameter, kind_parameter],
    )
