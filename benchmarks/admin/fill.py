"""Fills a database with instances as a busy shop would leave them, by a few bulk statements.

Row keys are 1 … n in the order of the starts, which are spread evenly over the last 60 days. Half of the open
instances are among the newest tenth, the others are strewn over the rest: a list must not find them by luck.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from duroxide_django.engine.failures import Failure, cancelled

#: What the registry has.
WORKFLOWS = [
    ("Checkout", "1.0.0"),
    ("Checkout", "1.1.0"),
    ("Checkout", "2.0.0"),
    ("Shipment", "1.0.0"),
    ("Shipment", "1.1.0"),
    ("Onboarding", "1.0.0"),
    ("Audit", "1.0.0"),
]
SPAN_MS = 60 * 86_400_000
#: The instance with the long history, and one with many children: the last two.
LONG, WIDE = "long-history", "many-children"
CHILDREN = 1_000

_DECLINED = Failure(message="ValueError: declined", error_types=("ValueError",), traceback="Traceback\n" * 20).to_json()
_NO_CARRIER = Failure(kind="ActivityFailed", message="ConnectionError: no carrier").to_json()
_CANCELLED = cancelled("not needed").to_json()

#: Events by situation: (event id, kind, source event id, milliseconds after the start, data).
_BEGIN = [
    (1, "OrchestrationStarted", None, 20, '{"name":"{name}","version":"{version}","input":"{order}","engine":1}'),
    (2, "ActivityScheduled", None, 20, '{"name":"Charge","input":"{order}"}'),
]
_CHARGED = [*_BEGIN, (3, "ActivityCompleted", 2, 900, '{"result":"{\\"receipt\\":\\"r-{n}\\"}"}')]
_RETRY = '{"name":"Ship","input":"{order}","attempt":1,"max_attempts":5}'
_TIMER = '{"fire_at_ms":{due}}'
EVENTS = {
    "event": [
        *_CHARGED,
        (4, "CustomStatusUpdated", None, 910, '{"status":"\\"waits for approval\\""}'),
        (5, "ExternalSubscribed", None, 910, '{"name":"approved"}'),
        (6, "TimerCreated", None, 910, _TIMER),
    ],
    "timer": [*_CHARGED, (4, "TimerCreated", None, 910, _TIMER)],
    "queue": [*_CHARGED, (4, "QueueSubscribed", None, 910, '{"name":"inbox"}')],
    "task": [*_CHARGED, (4, "ActivityScheduled", None, 910, '{"name":"Ship","input":"{order}"}')],
    "retry": [
        *_CHARGED,
        (4, "ActivityScheduled", None, 910, _RETRY),
        (5, "ActivityFailed", 4, 1500, json.dumps({"details": _NO_CARRIER})),
        (6, "TimerCreated", None, 1500, _TIMER),
    ],
    "child": [
        *_CHARGED,
        (4, "SubOrchestrationScheduled", None, 910, '{"name":"Shipment","instance":"child-{n}","input":"1"}'),
    ],
    "blocked": _CHARGED,
    "completed": [*_CHARGED, (4, "OrchestrationCompleted", None, 910, '{"output":"{order}"}')],
    "failed": [
        *_BEGIN,
        (3, "ActivityFailed", 2, 900, json.dumps({"details": _DECLINED})),
        (4, "OrchestrationFailed", None, 910, json.dumps({"details": _DECLINED})),
    ],
    "cancelled": [
        *_CHARGED,
        (4, "OrchestrationCancelRequested", None, 910, '{"reason":"not needed"}'),
        (5, "OrchestrationFailed", None, 910, json.dumps({"details": _CANCELLED})),
    ],
}
_LAST_EVENT = {situation: events[-1][0] for situation, events in EVENTS.items()}
_STATUS = {"completed": "Completed", "failed": "Failed", "cancelled": "Failed"}


@dataclass(frozen=True, slots=True)
class Filled:
    """What to ask for.

    Attributes:
        instances: how many there are.
        long, wide, ended: row keys of the instance with the long history, of the one with many children, and of an
            ended one.
        example: an instance id.
    """

    instances: int
    long: int
    wide: int
    ended: int
    example: str


def fill(db, *, instances, events):
    """Fill the empty tables; returns what was made.

    Args:
        db: a ``duroxide_django.storage.database.Database``.
        instances: how many.
        events: length of the longest history.
    """
    now_ms = db.now_ms()
    with db.atomic():
        _plan(db, instances - min(CHILDREN, instances // 10) - 2, now_ms)
        _instances(db)
        _executions(db, now_ms)
        _histories(db, now_ms)
        _queues(db, now_ms)
        _others(db, now_ms)
        long, wide = _special(db, events, min(CHILDREN, instances // 10), now_ms)
        db.execute("DROP TABLE bench_plan")
    if db.features.has_notify:
        for table in ("instance", "message", "activity_task", "queue_message"):
            key = "id"
            if table != "queue_message":
                db.fetch(
                    f"SELECT setval(pg_get_serial_sequence('duroxide_{table}', '{key}'), "
                    f"(SELECT MAX({key}) FROM duroxide_{table}))"
                )
        # What autovacuum would have done by and by.
        db.execute("VACUUM ANALYZE")
    else:
        db.execute("ANALYZE")
    ended = db.fetch(
        "SELECT id, instance_id FROM duroxide_instance WHERE status = 'Completed' ORDER BY id DESC LIMIT 1"
    )
    return Filled(instances=instances, long=long, wide=wide, ended=ended[0][0], example=ended[0][1])


def _numbers(db, last):
    if db.features.has_notify:
        return f"SELECT n FROM generate_series(1, CAST({last} AS bigint)) AS g(n)"
    return f"WITH RECURSIVE g(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM g WHERE n < {last}) SELECT n FROM g"


def _plan(db, count, now_ms):
    """Decide for each instance what it is, in a temporary table."""
    waiting = """CASE WHEN k < 70 THEN 'event' WHEN k < 85 THEN 'timer' WHEN k < 90 THEN 'queue' WHEN k < 95 THEN 'task'
        WHEN k < 97 THEN 'retry' WHEN k < 99 THEN 'child' WHEN n %% 3 = 0 THEN 'blocked' ELSE 'event' END"""
    db.execute(
        f"""
        CREATE TEMPORARY TABLE bench_plan AS
        SELECT n, 'order-' || SUBSTR(CAST(10000000 + n AS TEXT), 2) AS instance_id, created_ms,
            CASE WHEN n > {count - max(3, count // 50_000)} THEN 'pending' WHEN h < open THEN {waiting}
                WHEN h >= 995 THEN 'cancelled' WHEN h >= 980 THEN 'failed' ELSE 'completed' END AS situation,
            CASE WHEN n <= 20 THEN 'Audit' WHEN k < 60 THEN 'Checkout' WHEN k < 90 THEN 'Shipment'
                ELSE 'Onboarding' END AS name,
            CASE WHEN n <= 20 OR k >= 90 OR n < {count} * 0.6 THEN '1.0.0' WHEN k >= 60 OR n < {count} * 0.95
                THEN '1.1.0' ELSE '2.0.0' END AS version
        FROM (SELECT n, (n * 7919) %% 1000 AS h, (n * 104729 / 7) %% 100 AS k,
            CASE WHEN n > {count} * 0.9 THEN 500 ELSE 55 END AS open,
            {now_ms} - {SPAN_MS} + CAST(n AS bigint) * {SPAN_MS - 60_000} / {count} AS created_ms
            FROM ({_numbers(db, count)}) AS numbers) AS drawn"""
    )


def _by_situation(values, otherwise):
    cases = " ".join(f"WHEN '{situation}' THEN {value!r}" for situation, value in values.items())
    return f"CASE situation {cases} ELSE {otherwise!r} END"


def _instances(db):
    db.execute(
        f"""
        INSERT INTO duroxide_instance (id, instance_id, name, version, status, is_cancelled, current_execution_id,
            last_event_id, turns, parent_id, parent_execution_id, parent_event_id, custom_status, custom_status_version,
            created_ms, updated_ms, completed_ms, lease_until_ms, attempts, blocked)
        SELECT n, instance_id, name, version, {_by_situation(_STATUS, "Running")}, situation = 'cancelled', 1,
            {_by_situation(_LAST_EVENT, 0)}, CASE situation WHEN 'pending' THEN 0 ELSE 2 END,
            CASE WHEN n > 100 AND n %% 50 = 0 AND situation = 'completed' THEN n - 7 END,
            CASE WHEN n > 100 AND n %% 50 = 0 AND situation = 'completed' THEN 1 END,
            CASE WHEN n > 100 AND n %% 50 = 0 AND situation = 'completed' THEN 4 END,
            CASE situation WHEN 'event' THEN 'waits for approval' END,
            CASE situation WHEN 'event' THEN 1 ELSE 0 END,
            created_ms, created_ms + 910, CASE WHEN situation IN ('completed', 'failed', 'cancelled')
                THEN created_ms + 910 + n %% 97 * 1000 END, 0, 0,
            CASE situation WHEN 'blocked' THEN '{json.dumps(_BLOCKED)}' END
        FROM bench_plan ORDER BY n"""
    )


_BLOCKED = {"reason": "missing_code", "message": "no orchestration Checkout 0.9.0", "tries": 12}


def _executions(db, now_ms):
    db.execute(
        f"""
        INSERT INTO duroxide_execution (instance_id, execution_id, version, status, input, output, error, started_ms,
            completed_ms, event_count)
        SELECT n, 1, version, {_by_situation(_STATUS, "Running")}, '{{"order":' || CAST(n AS TEXT) || '}}',
            CASE situation WHEN 'completed' THEN '{{"receipt":"r-' || CAST(n AS TEXT) || '"}}' END,
            CASE situation WHEN 'failed' THEN %s
                WHEN 'cancelled' THEN %s END,
            created_ms + 20, CASE WHEN situation IN ('completed', 'failed', 'cancelled') THEN created_ms + 910 END,
            {_by_situation(_LAST_EVENT, 0)}
        FROM bench_plan WHERE situation <> 'pending' ORDER BY n""",
        [_DECLINED, _CANCELLED],
    )


def _histories(db, now_ms):
    """Write the histories of all that is open or failed, and of every fifth completed instance."""
    db.execute(
        "CREATE TEMPORARY TABLE bench_event (situation text, event_id int, kind text, source int, after_ms int, "
        "data text)"
    )
    for situation, events in EVENTS.items():
        for event in events:
            db.execute("INSERT INTO bench_event VALUES (%s, %s, %s, %s, %s, %s)", [situation, *event])
    data = "e.data"
    for mark, value in (
        ("{name}", "p.name"),
        ("{version}", "p.version"),
        ("{order}", "'{\\\"order\\\":' || CAST(p.n AS TEXT) || '}'"),
        ("{n}", "CAST(p.n AS TEXT)"),
        ("{due}", f"CAST({_due(now_ms)} AS TEXT)"),
    ):
        data = f"REPLACE({data}, '{mark}', {value})"
    db.execute(
        f"""
        INSERT INTO duroxide_history (instance_id, execution_id, event_id, kind, source_event_id, timestamp_ms, data)
        SELECT p.n, 1, e.event_id, e.kind, e.source, p.created_ms + e.after_ms, {data}
        FROM bench_plan p JOIN bench_event e ON e.situation = p.situation
        WHERE p.situation <> 'completed' OR p.n %% 5 = 0 ORDER BY p.n, e.event_id"""
    )
    db.execute("DROP TABLE bench_event")


def _due(now_ms):
    """Return the expression for when an instance's timer is due: within the next ten days."""
    return f"({now_ms} + 3600000 + p.n %% 9000 * 100000)"


def _queues(db, now_ms):
    db.execute(
        f"""
        INSERT INTO duroxide_message (instance_id, kind, execution_id, event_id, name, payload, force, due_ms,
            visible_at_ms)
        SELECT p.n, 'TimerFired', 1, CASE p.situation WHEN 'timer' THEN 4 ELSE 6 END, NULL, 'null', false,
            {_due(now_ms)}, {_due(now_ms)}
        FROM bench_plan p WHERE p.situation IN ('event', 'timer', 'retry')
        UNION ALL
        SELECT p.n, 'StartOrchestration', NULL, NULL, p.version, '1', false, p.created_ms, p.created_ms
        FROM bench_plan p WHERE p.situation = 'pending'
        UNION ALL
        SELECT p.n, 'ExternalRaised', NULL, NULL, 'approved', '1', false, {now_ms} - 1000, {now_ms} + 60000
        FROM bench_plan p WHERE p.situation = 'blocked'"""
    )
    # A third runs, a third is ready, a third comes later.
    db.execute(
        f"""
        INSERT INTO duroxide_activity_task (instance_id, execution_id, event_id, name, input, tag, visible_at_ms,
            lease_until_ms, attempts, worker, lease_token)
        SELECT p.n, 1, 4, 'Ship', '1', CASE WHEN p.n %% 10 = 0 THEN 'carrier' ELSE '' END,
            CASE p.n %% 3 WHEN 2 THEN {now_ms} + 600000 ELSE {now_ms} - 20000 END,
            CASE p.n %% 3 WHEN 0 THEN {now_ms} + 3000000 ELSE 0 END, CASE p.n %% 3 WHEN 0 THEN 1 ELSE 0 END,
            CASE p.n %% 3 WHEN 0 THEN 'worker-1' END, CASE p.n %% 3 WHEN 0 THEN p.n END
        FROM bench_plan p WHERE p.situation = 'task' ORDER BY p.n"""
    )
    db.execute(
        f"""
        INSERT INTO duroxide_queue_message (id, instance_id, queue, data, enqueued_ms)
        SELECT 100000000 + p.n, p.n, 'outbox', '"later"', {now_ms} - 5000
        FROM bench_plan p WHERE p.situation = 'queue' AND p.n %% 4 = 0"""
    )


def _others(db, now_ms):
    """Write KV entries, children, workers and sessions."""
    db.execute(
        """
        INSERT INTO duroxide_kv (instance_id, key, value, updated_ms, execution_id)
        SELECT n, 'progress', '50', created_ms, 1 FROM bench_plan WHERE n %% 20 = 0"""
    )
    handlers = {"activities": ["Charge", "Mail", "Ship"], "orchestrations": {name: [] for name, _ in WORKFLOWS}}
    for name, version in WORKFLOWS:
        handlers["orchestrations"][name].append(version)
    for number in range(6):
        beat_ms = now_ms + 86_400_000 if number else now_ms - 600_000
        db.execute(
            "INSERT INTO duroxide_worker (id, host, pid, started_ms, beat_ms, options, handlers, slots_used, draining) "
            "VALUES (%s, 'host', %s, %s, %s, %s, %s, 4, false)",
            [f"worker-{number}", number, now_ms - 86_400_000, beat_ms, '{"tag_filter":"any"}', json.dumps(handlers)],
        )
    db.execute(
        f"""
        INSERT INTO duroxide_session (session_id, owner, lease_until_ms, last_activity_ms)
        SELECT 's-' || CAST(n AS TEXT), 'worker-1', {now_ms} + 60000, {now_ms} - n FROM bench_plan WHERE n <= 500"""
    )


def _special(db, events, children, now_ms):
    """Write the children that parents wait for, one instance with a long history, and one with many children."""
    ((last,),) = db.fetch("SELECT MAX(n) FROM bench_plan")
    long, wide = last + 1, last + 2
    columns = """(id, instance_id, name, version, status, is_cancelled, current_execution_id, last_event_id, turns,
        parent_id, parent_execution_id, parent_event_id, custom_status_version, created_ms, updated_ms, lease_until_ms,
        attempts)"""
    for key, name, count in ((long, LONG, events), (wide, WIDE, 1 + children)):
        db.execute(
            f"""INSERT INTO duroxide_instance {columns} VALUES (%s, %s, 'Checkout', '2.0.0', 'Running', false, 1, %s, 9,
            NULL, NULL, NULL, 0, %s, %s, 0, 0)""",
            [key, name, count, now_ms - 3_000_000, now_ms],
        )
        db.execute(
            """
            INSERT INTO duroxide_execution (instance_id, execution_id, version, status, input, started_ms, event_count)
            VALUES (%s, 1, '2.0.0', 'Running', '1', %s, 0)""",
            [key, now_ms - 3_000_000],
        )
    db.execute(
        f"""INSERT INTO duroxide_instance {columns}
        SELECT {wide} + n, 'item-' || CAST(n AS TEXT), 'Shipment', '1.1.0', 'Running', false, 1, 2, 1, {wide}, 1, 1 + n,
            0, {now_ms} - 2000000, {now_ms} - 2000000, 0, 0 FROM ({_numbers(db, children)}) AS numbers"""
    )
    # The children of single parents: the completed instances before them, opened again.
    db.execute(
        f"""INSERT INTO duroxide_instance {columns}
        SELECT {wide + children} + p.number, 'child-' || CAST(p.n AS TEXT), 'Shipment', '1.1.0', 'Running', false, 1, 2,
            1, p.n, 1, 4, 0, {now_ms} - 1000000, {now_ms} - 1000000, 0, 0
        FROM (SELECT n, ROW_NUMBER() OVER (ORDER BY n) AS number FROM bench_plan WHERE situation = 'child') AS p"""
    )
    history = (
        "INSERT INTO duroxide_history (instance_id, execution_id, event_id, kind, source_event_id, timestamp_ms, data)"
    )
    started = '{"name":"Shipment","version":"1.1.0","input":"1","engine":1}'
    db.execute(
        f"""{history} SELECT i.id, 1, 1, 'OrchestrationStarted', NULL, i.created_ms, '{started}'
        FROM duroxide_instance i WHERE i.id >= {long}"""
    )
    db.execute(
        f"""{history} SELECT i.id, 1, 2, 'ExternalSubscribed', NULL, i.created_ms, '{{"name":"packed"}}'
        FROM duroxide_instance i WHERE i.id > {wide} OR i.id = {long}"""
    )
    db.execute(
        f"""{history} SELECT {wide}, 1, 1 + n, 'SubOrchestrationScheduled', NULL, {now_ms} - 2000000,
            '{{"name":"Shipment","instance":"item-' || CAST(n AS TEXT) || '","input":"1"}}'
        FROM ({_numbers(db, children)}) AS numbers"""
    )
    db.execute(
        f"""{history} SELECT {long}, 1, n, CASE n %% 2 WHEN 1 THEN 'ActivityScheduled' ELSE 'ActivityCompleted' END,
            CASE n %% 2 WHEN 0 THEN n - 1 END, {now_ms} - 3000000 + n * 200,
            CASE n %% 2 WHEN 1 THEN '{{"name":"Charge","input":"{{\\"item\\":' || CAST(n AS TEXT) || '}}"}}'
                ELSE '{{"result":"{{\\"receipt\\":\\"r-' || CAST(n AS TEXT) || '\\"}}"}}' END
        FROM ({_numbers(db, events)}) AS numbers WHERE n > 2"""
    )
    return long, wide
