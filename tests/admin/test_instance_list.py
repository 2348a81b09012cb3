"""The list of instances."""

from __future__ import annotations

import pytest
from django.db import connections
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from duroxide_django.admin.paginator import PAGE_SIZE


@pytest.fixture
def url(backend):
    return reverse("admin:duroxide_django_instance_changelist")


def ids(response):
    return [row.key for row in response.context["page"].rows]


def names(response):
    return [item.row.instance_id for item in response.context["rows"]]


def test_it_shows_each_instance_with_its_state_and_what_it_waits_for(browser, url, client, work):
    client.start_orchestration("done", "Completes", "a")
    client.start_orchestration("failed", "Fails")
    client.start_orchestration("asks", "Approval", "a")
    client.start_orchestration("retrying", "Retries")
    client.start_orchestration("nobody", "NoSuchCode")
    client.start_orchestration("unwanted", "Approval", "a")
    work()
    client.cancel_instance("unwanted", "not needed")
    work()
    client.start_orchestration("new", "Completes", "a")
    shown = {item.row.instance_id: item for item in browser.get(url).context["rows"]}
    assert {name: item.state.key for name, item in shown.items()} == {
        "done": "completed",
        "failed": "failed",
        "asks": "waiting",
        "retrying": "waiting",
        "nobody": "blocked",
        "unwanted": "cancelled",
        "new": "pending",
    }
    assert " for event “approved” or the timer at " in shown["asks"].phrase
    assert shown["retrying"].phrase.startswith("trying again at ")
    assert shown["new"].phrase.startswith("waiting for a worker")
    assert shown["nobody"].phrase == "can’t go on"


def test_it_pages_by_keys_in_both_directions_without_losing_a_row(browser, url, client):
    client.start_many([(f"i-{number:03}", "Completes", None) for number in range(2 * PAGE_SIZE + 5)])
    first = browser.get(url)
    assert not first.context["page"].newer
    second = browser.get(url + first.context["page"].older)
    third = browser.get(url + second.context["page"].older)
    assert not third.context["page"].older
    keys = [*ids(first), *ids(second), *ids(third)]
    assert len(set(keys)) == 2 * PAGE_SIZE + 5
    assert keys == sorted(keys, reverse=True)
    assert ids(browser.get(url + third.context["page"].newer)) == ids(second)
    assert ids(browser.get(url + second.context["page"].newer)) == ids(first)


def test_the_number_of_queries_does_not_grow_with_the_rows(browser, url, client, work, backend):
    def count():
        with CaptureQueriesContext(connections[backend]) as queries:
            browser.get(url)
        workflows = [query["sql"] for query in queries if "duroxide_" in query["sql"]]
        assert not [sql for sql in workflows if "SELECT COUNT(*) FROM duroxide_instance" in sql]
        return len(workflows)

    client.start_orchestration("first", "Approval", "a")
    work()
    few = count()
    client.start_many([(f"i-{number}", "Approval", "a") for number in range(30)])
    work()
    assert count() == few <= 8


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"q": "order-1"}, ["order-12", "order-1"]),
        ({"q": "order-12"}, ["order-12"]),
        ({"q": "order_1"}, []),
        ({"q": "%"}, ["%odd"]),
        ({"q": "nothing"}, []),
        ({"q": "@customer=c-1"}, ["%odd"]),
        ({"q": "@customer = c-1"}, ["%odd"]),
        ({"q": "@customer=c-"}, []),
        ({"q": "@city=Köln"}, ["%odd"]),
        ({"q": "@city=Köln", "state": "completed"}, []),
        ({"q": "card=c-1"}, []),
        ({"q": "order\x00-1"}, ["order-12", "order-1"]),
        ({"name": "Approval"}, ["%odd"]),
        ({"state": "open"}, ["%odd"]),
        ({"state": "completed"}, ["order-12", "order-1"]),
        ({"state": "unknown"}, ["%odd", "order-12", "order-1"]),
        ({"version": "9.9.9"}, []),
        ({"started": "hour"}, ["%odd", "order-12", "order-1"]),
        ({"from": "2020-01-01", "to": "2999-12-31"}, ["%odd", "order-12", "order-1"]),
        ({"from": "2999-01-01"}, []),
        ({"to": "2020-01-01"}, []),
        ({"from": "nonsense", "to": "9999-12-31"}, ["%odd", "order-12", "order-1"]),
        ({"started": "hour", "to": "2020-01-01"}, []),
        ({"preset": "person"}, ["%odd"]),
        ({"preset": "attention"}, []),
        ({"preset": "long"}, []),
        ({"preset": "retrying"}, []),
        ({"older": "x"}, ["%odd", "order-12", "order-1"]),
        ({"newer": "9" * 40}, ["%odd", "order-12", "order-1"]),
    ],
)
def test_filters_presets_and_search(browser, url, client, work, query, found):
    client.start_orchestration("order-1", "Completes", 1)
    client.start_orchestration("order-12", "Completes", 1)
    client.start_orchestration("%odd", "Approval", 1)
    work()
    response = browser.get(url, query)
    assert response.status_code == 200
    assert names(response) == found


def test_a_search_attribute_is_found_by_its_index(backend, client, work):
    from duroxide_django.storage import overview
    from duroxide_django.storage.database import Database
    from duroxide_django.storage.search import condition

    client.start_many([(f"i-{number}", "Approval", number) for number in range(200)])
    work()
    db = Database(backend)
    for table in ("instance", "kv"):
        # Knowing how many rows there are, the planner doesn't take any index that comes along.
        db.execute(f"ANALYZE duroxide_{table}")
    sql, parameters = condition("@customer", "c-1")
    explain = "EXPLAIN QUERY PLAN" if db.connection.vendor == "sqlite" else "EXPLAIN"
    with db.atomic():
        if db.connection.vendor == "postgresql":
            db.execute("SET LOCAL enable_seqscan = off")
        plan = str(db.fetch(f"{explain} SELECT i.id FROM duroxide_instance i WHERE {sql}", parameters))
    assert "duroxide_kv_search" in plan
    (row,) = overview.instances(db, overview.Filters(query="@customer=c-1"), size=10)
    assert row.instance_id == "i-1"


def test_retrying_and_blocked_instances_are_found_by_presets(browser, url, client, work):
    client.start_orchestration("retrying", "Retries")
    client.start_orchestration("nobody", "NoSuchCode")
    work()
    assert names(browser.get(url, {"preset": "retrying"})) == ["retrying"]
    assert names(browser.get(url, {"preset": "attention"})) == ["nobody"]


def test_a_page_beyond_the_last_row_leads_back(browser, url, client):
    client.start_orchestration("only", "Completes", 1)
    response = browser.get(url, {"older": "1" if names(browser.get(url)) == [] else "0"})
    assert names(response) == []
    assert response.context["page"].newer == "?"


def test_states_are_counted(browser, url, client, work):
    client.start_orchestration("done", "Completes", 1)
    client.start_orchestration("asks", "Approval", 1)
    work()
    (states,) = [item for item in browser.get(url).context["filters"] if item.title == "state"]
    counts = {choice.query_string: choice.count for choice in states.choices}
    assert counts["?state=completed"] == "1"
    assert counts["?state=running"] == "1"
    assert counts["?state=failed"] == "0"
