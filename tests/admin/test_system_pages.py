"""The pages about the whole system."""

from __future__ import annotations

import json

import pytest
from django.db import connections
from django.urls import reverse

from duroxide_django.options import TagFilter
from tests.admin.workflows import registry


def page(name):
    return reverse(f"admin:duroxide_django_{name}")


@pytest.fixture
def worker(backend, runtime_factory, wait_until):
    """A live worker that serves the tests' workflows, untagged or tagged gpu."""
    from duroxide_django.provider import Provider
    from duroxide_django.storage import system_pages
    from duroxide_django.storage.database import Database

    runtime = runtime_factory(Provider(backend), worker_tag_filter=TagFilter.default_and(["gpu"]))
    runtime.registry.activities.update(registry.activities)
    runtime.registry.orchestrations.update(registry.orchestrations)
    runtime.start()
    wait_until(lambda: system_pages.workers(Database(backend)))
    return runtime


def test_the_overview_counts_states_and_names_what_needs_attention(browser, client, work):
    client.start_orchestration("nobody", "NoSuchCode")
    client.start_orchestration("done", "Completes", 1)
    client.start_orchestration("failed", "Fails")
    work()
    response = browser.get(page("instance_overview"))
    tiles = {str(tile["label"]): tile["count"] for tile in response.context["tiles"]}
    assert tiles == {"Running": "0", "Waiting": "1", "Needs attention": "1", "Failed today": "1"}
    assert [finding["subject"] for finding in response.context["findings"]] == ["nobody"]
    assert sum(column.height > 0 for hour in response.context["chart"].hours for column in hour.columns) == 3
    assert "No worker is live" in response.content.decode()


@pytest.fixture
def announce(backend):
    """Announce a worker with the code of the example project's shop, of which the registry page tells."""
    from duroxide_django.registry import default_registry
    from duroxide_django.storage import workers
    from duroxide_django.storage.database import Database

    def beat(name="w", *, slots_used=0, draining=False, **options):
        announced = {"worker_concurrency": 8, "runs_orchestrations": True, "tag_filter": "default_only", **options}
        handlers = {
            "activities": [*default_registry.activities, "Charge"],
            "orchestrations": {
                name: [version.text for version in versions]
                for name, versions in default_registry.orchestrations.items()
            },
        }
        workers.beat(
            Database(backend),
            worker_id=name,
            host="here",
            pid=1,
            options=json.dumps(announced),
            handlers=json.dumps(handlers),
            slots_used=slots_used,
            draining=draining,
        )

    return beat


@pytest.mark.parametrize(
    ("options", "serves_orchestrations", "serves_activities"),
    [
        ({}, True, True),
        ({"runs_orchestrations": False}, False, True),
        ({"tag_filter": "none"}, True, False),
        ({"worker_concurrency": 0}, True, False),
        ({"draining": True}, False, False),
    ],
    ids=["all", "no orchestrations", "no activities", "no slots", "draining"],
)
def test_workers_count_only_for_what_they_take(browser, announce, options, serves_orchestrations, serves_activities):
    """What a worker has registered but doesn't take is served by nobody: in the registry and on its own row."""
    announce(**options)
    registry_page = browser.get(page("instance_registry")).context
    assert {bool(row["workers"]) for row in registry_page["orchestrations"]} == {serves_orchestrations}
    assert {bool(row["workers"]) for row in registry_page["activities"]} == {serves_activities}
    (shown,) = browser.get(page("worker_changelist")).context["workers"]
    assert (bool(shown["orchestrations"]), bool(shown["activities"])) == (serves_orchestrations, serves_activities)


@pytest.mark.parametrize(("slots_used", "cure"), [(8, "are busy"), (0, "have free slots")])
def test_workers_are_called_busy_only_if_their_slots_are_taken(
    browser, client, work, backend, announce, slots_used, cure
):
    client.start_orchestration("asks", "Approval", 1)
    work_until_enqueued(backend)
    announce(slots_used=slots_used)
    with connections[backend].cursor() as cursor:
        cursor.execute("UPDATE duroxide_activity_task SET visible_at_ms = visible_at_ms - 600000")
    cures = [found["cure"] for found in browser.get(page("instance_overview")).context["findings"]]
    assert [cure in found for found in cures] == [True]


def work_until_enqueued(backend):
    """Run turns only, as a worker without slots does."""
    from duroxide_django.storage.database import Database
    from tests.runtime.program import make_dispatcher

    dispatcher = make_dispatcher(registry, Database(backend), slots=0)
    while dispatcher.iterate():
        pass


def test_an_empty_system_has_pages_too(browser):
    for name in (
        "instance_overview",
        "instance_registry",
        "instance_changelist",
        "activitytask_changelist",
        "worker_changelist",
        "session_changelist",
    ):
        assert browser.get(page(name)).status_code == 200, name


def test_queues_tell_which_activities_no_live_worker_serves(browser, client, work, backend):
    from duroxide_django.storage.database import Database

    client.start_orchestration("asks", "Approval", 1)
    work()
    Database(backend).execute(
        "INSERT INTO duroxide_activity_task (instance_id, execution_id, event_id, name, input, tag, visible_at_ms,"
        " lease_until_ms, attempts) SELECT id, 1, 99, 'Charge', 'null', 'moon', 0, 0, 0 FROM duroxide_instance"
    )
    (group,) = browser.get(page("activitytask_changelist")).context["task_groups"]
    assert (group["row"].name, group["row"].tag, group["row"].ready, group["workers"]) == ("Charge", "moon", 1, 0)
    (finding,) = browser.get(page("instance_overview")).context["findings"]
    assert finding["subject"] == "Charge (moon)"


def test_messages_are_ready_or_being_worked_on_or_for_later(browser, client, work, backend):
    from duroxide_django.storage.database import Database

    client.start_orchestration("asks", "Approval", 1)
    work()
    client.start_many([(f"new-{number}", "Approval", 1) for number in range(3)])
    Database(backend).execute(
        "UPDATE duroxide_instance SET lease_until_ms = 99999999999999 WHERE instance_id = 'new-1'"
    )
    groups = {
        group["row"].kind: group for group in browser.get(page("activitytask_changelist")).context["message_groups"]
    }
    counts = {kind: (group["row"].ready, group["row"].leased, group["row"].delayed) for kind, group in groups.items()}
    assert counts == {"StartOrchestration": (2, 1, 0), "TimerFired": (0, 0, 1)}


def test_a_live_worker_is_shown_with_what_it_serves(browser, worker):
    (shown,) = browser.get(page("worker_changelist")).context["workers"]
    assert shown["state"] == "live"
    assert shown["activities"] == ["Charge"]
    assert shown["tags"] == "untagged and gpu"
    (live,) = browser.get(page("instance_overview")).context["live_workers"]
    assert live["row"].id == shown["row"].id


def test_sessions_tell_who_holds_them(browser, backend):
    from duroxide_django.storage.database import Database

    Database(backend).execute(
        "INSERT INTO duroxide_session (session_id, owner, lease_until_ms, last_activity_ms)"
        " VALUES ('s-1', 'worker-1', 99999999999999, 1), ('s-2', 'worker-1', 0, 0)"
    )
    shown = browser.get(page("session_changelist")).context["sessions"]
    assert [(item["row"].session_id, item["is_held"]) for item in shown] == [("s-1", True), ("s-2", False)]


def test_the_registry_names_what_is_missing_and_what_is_unused(browser, client, work):
    client.start_orchestration("asks", "Approval", 1)
    work()
    context = browser.get(page("instance_registry")).context
    # The project's own code has no such orchestration: it is the tests'.
    assert context["missing"] == [{"name": "Approval", "version": "1.0.0", "open": 1}]
    assert {"name": "Checkout", "open": 0}.items() <= next(
        row for row in context["orchestrations"] if row["name"] == "Checkout"
    ).items()


def test_the_index_page_shows_how_the_workflows_stand_to_those_who_may_see_it(browser_of, client, work):
    client.start_orchestration("asks", "Approval", 1)
    work()
    shown = browser_of("view_instance").get(reverse("admin:index")).content.decode()
    assert 'class="dx-tiles"' in shown
    assert page("instance_overview") in shown
    hidden = browser_of("view_worker").get(reverse("admin:index")).content.decode()
    assert "dx-tiles" not in hidden
