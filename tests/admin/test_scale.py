"""The admin of a large store: no page's work grows with the number of instances.

The figures of 1,000,000 instances are the benchmarks' (``python -m benchmarks --only admin``); here the same store is
made small enough for a test, and what is checked is what the database had to read.
"""

from __future__ import annotations

from functools import partial

import pytest

from benchmarks.admin.fill import fill
from benchmarks.admin.pages import pages, time_page
from duroxide_django.storage import instance_pages, overview, system_pages
from duroxide_django.storage.database import Database
from duroxide_django.storage.overview import Filters
from tests.conftest import empty_tables
from tests.storage.plans import rows_read, steps_taken, whole_tables

#: No page may ask for more.
MOST_QUERIES = 17
INSTANCES = 10_000


def test_no_page_takes_more_queries_in_a_larger_store(browser, backend):
    counts = []
    for instances in (3_000, 6_000):
        empty_tables(backend)
        filled = fill(Database(backend), instances=instances, events=300)
        counts.append(
            {name: time_page(browser, Database(backend), name, address, 1).queries for name, address in pages(filled)}
        )
    small, large = counts
    assert {name: count for name, count in large.items() if count != small[name]} == {}
    assert max(large.values()) <= MOST_QUERIES


@pytest.fixture
def store(backend):
    """What is in the database, with 10,000 instances."""
    return fill(Database(backend), instances=INSTANCES, events=2_000)


LISTS = {
    "all": {},
    "open": {"state": "open"},
    "completed": {"state": "completed"},
    "failed": {"state": "failed"},
    "cancelled": {"state": "cancelled"},
    "blocked": {"state": "blocked"},
    "of an orchestration": {"name": "Onboarding"},
    "open, of an old version": {"state": "open", "name": "Checkout", "version": "1.0.0"},
    "by prefix": {"query": "order-00001"},
    "by an id that does not exist": {"query": "nothing"},
}


def test_a_page_of_the_list_reads_little_more_than_it_shows(store, backend):
    db = Database(backend)
    measure, most = (rows_read, 2_500) if backend == "postgres" else (steps_taken, 60_000)
    cost = {
        name: measure(backend, partial(overview.instances, db, Filters(**filters), size=51))
        for name, filters in LISTS.items()
    }
    assert {name: read for name, read in cost.items() if read > most} == {}


def test_a_list_of_recent_starts_does_not_look_through_the_older_ones(store, backend):
    db = Database(backend)
    hour_ago = db.now_ms() - 3_600_000
    failed = Filters(since_ms=hour_ago, state="failed")
    listed = overview.instances(db, Filters(since_ms=hour_ago), size=INSTANCES)
    everything = overview.instances(db, Filters(), size=INSTANCES)
    assert listed == [row for row in everything if row.created_ms >= hour_ago]
    assert 0 < len(listed) < INSTANCES / 5
    if backend == "postgres":
        assert rows_read(backend, lambda: overview.instances(db, failed, size=51)) < 1_500


def test_open_instances_of_a_version_come_in_pages_in_both_directions(store, backend):
    db = Database(backend)
    chosen = Filters(state="open", name="Checkout", version="1.0.0")
    everything = overview.instances(db, chosen, size=INSTANCES)
    assert everything == [
        row
        for row in overview.instances(db, Filters(state="open"), size=INSTANCES)
        if (row.name, row.version) == ("Checkout", "1.0.0")
    ]
    first = overview.instances(db, chosen, size=10)
    second = overview.instances(db, chosen, size=10, older_than=first[-1].key)
    assert first + second == everything[:20]
    assert overview.instances(db, chosen, size=10, newer_than=second[0].key) == first


def test_presets_find_the_oldest_instances_too(store, backend):
    db = Database(backend)
    of_preset = {
        preset: {row.key for row in overview.instances(db, Filters(preset=preset), size=INSTANCES)}
        for preset in overview.PRESETS
    }
    blocked = overview.instances(db, Filters(state="blocked"), size=INSTANCES)
    assert blocked
    assert {row.key for row in blocked} <= of_preset["attention"]
    day_ago = db.now_ms() - overview.LONG_MS
    open_ones = overview.instances(db, Filters(state="open"), size=INSTANCES)
    assert of_preset["long"] == {row.key for row in open_ones if row.created_ms < day_ago}
    assert any(key < INSTANCES / 2 for key in of_preset["retrying"])


def test_a_preset_goes_on_where_it_stopped_looking(store, browser, backend, monkeypatch):
    monkeypatch.setattr(overview, "PRESET_WINDOW", 100)
    address = dict(pages(store))["list, preset person"]
    seen, looks = set(), 0
    while address:
        page = browser.get(address).context["page"]
        seen |= {row.key for row in page.rows}
        address = address.partition("?")[0] + page.older if page.older else ""
        looks += 1
    monkeypatch.undo()
    db = Database(backend)
    assert seen == {row.key for row in overview.instances(db, Filters(preset="person"), size=INSTANCES)}
    assert looks > len(seen) / 100


def test_counts_by_version_are_exact(store, backend):
    db = Database(backend)
    counts = {(name, version): count for name, version, count in system_pages.counts_by_version(db)}
    assert sum(counts.values()) == len(overview.instances(db, Filters(state="open"), size=INSTANCES))
    if backend == "sqlite":
        assert whole_tables(backend, lambda: system_pages.counts_by_version(db)) == []


def test_the_chart_counts_what_ended_whenever_it_was_started(client, work, backend):
    db = Database(backend)
    client.start_orchestration("old", "Completes", 1)
    work()
    hour = db.now_ms() // 3_600_000
    db.execute("UPDATE duroxide_instance SET created_ms = created_ms - 864000000")
    ((at, started, completed, failed),) = system_pages.by_hour(db, (hour - 1) * 3_600_000)
    assert hour - 1 <= at <= hour
    assert (started, completed, failed) == (0, 1, 0)


def test_the_page_of_an_instance_reads_what_it_shows(store, backend):
    db = Database(backend)

    def page():
        for key in (store.long, store.wide):
            instance_pages.family(db, key)
            instance_pages.steps(db, key, 1)
            instance_pages.history(db, key, 1, size=100, before=1_000)
            instance_pages.tasks(db, key)
            instance_pages.messages(db, key)

    if backend == "postgres":
        assert rows_read(backend, page) < 2_000
    else:
        assert steps_taken(backend, page) < 100_000
