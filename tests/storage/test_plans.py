"""The statements that workers send all the time read what is due, not what waits (design 6)."""

from __future__ import annotations

from functools import partial

import pytest

from duroxide_django.runtime.batch_size import BatchSize
from duroxide_django.storage import activities, turns
from duroxide_django.storage.activities import Wanted
from duroxide_django.storage.database import Database
from duroxide_django.storage.fast import PLANNER_OPTIONS
from tests.storage import plans
from tests.storage.plans import whole_tables

#: With the options of the engine loop's connection.
rows_read = partial(plans.rows_read, options=PLANNER_OPTIONS)

TIMERS = 20_000
ANY = Wanted(
    limit=10,
    names=["Pack"],
    untagged=True,
    tags=[],
    owner="worker",
    session_lease_ms=1_000,
    sessions_in_flight=[],
    new_sessions=1,
)


@pytest.fixture
def database(backend, client):
    """A database in which 20,000 timers and as many delayed activities wait, and one instance is ready."""
    client.start_orchestration("ready", "Any")
    database = Database(backend)
    numbers = f"WITH RECURSIVE g(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM g WHERE n < {TIMERS}) SELECT n FROM g"
    later = f"{database.now} + 3600000 + n"
    database.execute(
        f"""
        INSERT INTO duroxide_instance (instance_id, name, version, status, is_cancelled, current_execution_id,
            last_event_id, turns, custom_status_version, created_ms, updated_ms, lease_until_ms, attempts)
        SELECT 'waiting-' || CAST(n AS TEXT), 'Any', '1.0.0', 'Running', false, 1, 2, 1, 0, 1, 1, 0, 0
        FROM ({numbers}) AS numbers"""
    )
    database.execute(
        f"""
        INSERT INTO duroxide_message (instance_id, kind, execution_id, event_id, payload, force, due_ms, visible_at_ms)
        SELECT first + n, 'TimerFired', 1, 2, 'null', false, {later}, {later}
        FROM ({numbers}) AS numbers, (SELECT MIN(id) AS first FROM duroxide_instance) AS known"""
    )
    database.execute(
        f"""
        INSERT INTO duroxide_activity_task (instance_id, execution_id, event_id, name, input, tag, visible_at_ms,
            lease_until_ms, attempts)
        SELECT first + n, 1, 2, 'Pack', 'null', '', {later}, 0, 0
        FROM ({numbers}) AS numbers, (SELECT MIN(id) AS first FROM duroxide_instance) AS known"""
    )
    for table in ("instance", "message", "activity_task"):
        database.execute(f"ANALYZE duroxide_{table}")
    return database


@pytest.mark.parametrize(
    "call",
    [
        lambda database: turns.claim(database, limit=50, lease_ms=1_000, known=["Any@1.0.0", "Any@"], grace_ms=1_000),
        turns.has_claimable,
        turns.next_visible_ms,
        lambda database: activities.can_fetch(database, ANY),
    ],
    ids=["claim", "has_claimable", "next_visible_ms", "can_fetch"],
)
def test_looking_for_work_reads_only_what_is_due(database, backend, call):
    if backend == "postgres":
        assert rows_read(backend, lambda: call(database)) < 100
    else:
        assert whole_tables(backend, lambda: call(database)) == []


@pytest.mark.parametrize("backend", ["postgres"], indirect=True)
def test_fetching_reads_only_what_is_due(database, backend):
    assert rows_read(backend, lambda: activities.fetch(database, ANY, lease_ms=1_000, worker="worker")) < 100


@pytest.mark.parametrize("backend", ["postgres"], indirect=True)
def test_nothing_due_is_found_as_cheaply(database, backend):
    turns.claim(database, limit=50, lease_ms=60_000, known=["Any@"])
    assert rows_read(backend, lambda: turns.claim(database, limit=50, lease_ms=1_000, known=["Any@"])) < 100
    assert rows_read(backend, lambda: turns.has_claimable(database)) < 100


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["postgres"], indirect=True)
def test_the_size_of_the_store_does_not_matter(database):
    """With 1,000,000 events and 100,000 instances that wait, a claim and what its turn reads go by their indexes."""
    connection = database.connection
    with connection.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO duroxide_instance (instance_id, name, version, status, is_cancelled, current_execution_id,
                last_event_id, turns, custom_status_version, created_ms, updated_ms, lease_until_ms, attempts)
            SELECT 'listening-' || n, 'Any', '1.0.0', 'Running', false, 1, 10, 5, 0, 1, 1, 0, 0
            FROM generate_series(1, 100000) AS g(n)"""
        )
        cursor.execute(
            """
            INSERT INTO duroxide_history (instance_id, execution_id, event_id, kind, timestamp_ms, data)
            SELECT i.id, 1, g.n, 'ExternalSubscribed', 1, '{"name":"go"}'
            FROM duroxide_instance i, generate_series(1, 10) AS g(n) WHERE i.instance_id LIKE 'listening-%'"""
        )
        cursor.execute("ANALYZE duroxide_instance")
        cursor.execute("ANALYZE duroxide_history")
        cursor.execute("SELECT count(*) FROM duroxide_history")
        assert cursor.fetchone()[0] >= 1_000_000
        cursor.execute("SELECT id FROM duroxide_instance WHERE instance_id = 'listening-50000'")
        (key,) = cursor.fetchone()
    assert (
        rows_read(database.alias, lambda: turns.claim(database, limit=50, lease_ms=1_000, known=["Any@1.0.0", "Any@"]))
        < 100
    )
    assert rows_read(database.alias, lambda: turns.read_histories(database, [(key, 1)])) < 50
    few = [(other, 1) for other in range(key, key + 5)]
    assert rows_read(database.alias, lambda: turns.read_histories(database, few)) < 100
    assert (
        rows_read(database.alias, lambda: turns.read_messages(database, [key], {}, BatchSize(200, 2**25).bounds)) < 50
    )


@pytest.mark.parametrize("backend", ["postgres"], indirect=True)
def test_mail_of_others_is_not_read(database, backend):
    database.execute(
        f"""
        INSERT INTO duroxide_queue_message (id, instance_id, queue, data, enqueued_ms)
        SELECT n, n / 2 + 1, 'box', 'null', 1
        FROM (SELECT generate_series AS n FROM generate_series(1, {TIMERS})) AS numbers"""
    )
    database.execute("ANALYZE duroxide_queue_message")
    for keys in ([77], [77, 78, 79]):
        assert rows_read(backend, lambda keys=keys: turns.read_mail(database, keys)) < 20


@pytest.mark.parametrize("backend", ["postgres"], indirect=True)
def test_fetching_from_a_long_queue_reads_what_it_takes(database, backend):
    database.execute(f"UPDATE duroxide_activity_task SET visible_at_ms = {database.now} - 1000")
    database.execute("ANALYZE duroxide_activity_task")
    assert rows_read(backend, lambda: activities.fetch(database, ANY, lease_ms=1_000, worker="worker")) < 200


@pytest.mark.parametrize("backend", ["postgres"], indirect=True)
def test_finishing_activities_reads_their_rows_only(database, backend):
    database.execute(f"UPDATE duroxide_activity_task SET visible_at_ms = {database.now} - 1000")
    tasks = activities.fetch(database, ANY, lease_ms=60_000, worker="worker")
    assert len(tasks) == ANY.limit
    assert rows_read(backend, lambda: activities.remove(database, tasks)) < 100
