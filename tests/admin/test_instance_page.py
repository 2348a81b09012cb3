"""The page of one instance."""

from __future__ import annotations

import json

import pytest
from django.db import connections
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from duroxide_django.engine.versions import Version
from duroxide_django.storage import instance_pages
from duroxide_django.testing import replay
from tests.admin.workflows import SCRIPT, registry


def test_it_says_what_the_instance_waits_for(browser, client, work, page_of):
    client.start_orchestration("asks", "Approval", {"order": 7})
    work()
    response = browser.get(page_of("asks"))
    assert response.context["sentence"].startswith("Waiting for event “approved” (for ")
    assert " or the timer at " in response.context["sentence"]
    assert response.context["state"].key == "waiting"
    kinds = [(row.kind, row.outcome) for row in response.context["timeline"].rows]
    assert kinds == [("status", "point"), ("activity", "done"), ("event", "pending"), ("timer", "pending")]
    assert "No live worker runs Approval 1.0.0" in response.content.decode()


def test_a_retry_is_one_row_and_names_its_next_try(browser, client, work, page_of):
    client.start_orchestration("retrying", "Retries")
    work()
    response = browser.get(page_of("retrying"))
    assert response.context["sentence"].startswith("Waiting for attempt 2 of 5 of activity Charge, next try in ")
    assert f"last error: ValueError: declined {SCRIPT}" in response.context["sentence"]
    (row,) = response.context["timeline"].rows
    assert (row.label, row.attempts, row.max_attempts, row.outcome) == ("Charge", 1, 5, "failed")


def test_it_advises_against_a_policy_that_never_gives_up(browser, client, work, page_of):
    for most in (5, 1_000_000):
        client.start_orchestration(f"retrying-{most}", "Retries", most)
    work()
    assert not [line for line in browser.get(page_of("retrying-5")).context["advice"] if "retry limit" in line]
    (line,) = [line for line in browser.get(page_of("retrying-1000000")).context["advice"] if "retry limit" in line]
    assert line.startswith("Activity Charge has no retry limit to speak of (1000000 attempts)")


def test_what_lost_a_race_is_not_drawn_as_pending(browser, client, work, page_of):
    def outcomes():
        rows = browser.get(page_of("asks")).context["timeline"].rows
        return {row.label: row.outcome for row in rows if row.bars}

    client.start_orchestration("asks", "Patient", 1)
    work()
    assert outcomes() == {"approved": "pending", "Timer 1 h": "pending"}
    client.raise_event("asks", "approved")
    work()
    assert outcomes() == {"approved": "done", "Timer 1 h": "dropped", "goods": "pending"}
    client.cancel_instance("asks", "enough")
    work()
    assert outcomes() == {"approved": "done", "Timer 1 h": "dropped", "goods": "cancelled"}


def test_a_child_that_can_not_go_on_is_named_as_the_reason(browser, client, work, page_of):
    client.start_orchestration("parent", "Family")
    work()
    client.pause_instance("parent-child", reason="wait")
    response = browser.get(page_of("parent"))
    assert response.context["sentence"] == "Waiting for child parent-child, which is paused."
    assert [(member.instance_id, member.state.key) for member in response.context["family"]] == [
        ("parent", "waiting"),
        ("parent-child", "paused"),
    ]


def test_an_event_that_came_too_early_leaves_the_wait_open_if_events_are_not_kept(
    browser, client, work, page_of, settings
):
    settings.DUROXIDE = {**settings.DUROXIDE, "BUFFER_EVENTS": False}
    client.start_orchestration("asks", "Approval", 1)
    client.raise_event("asks", "approved", "too early")
    work()
    assert client.get_status("asks").status == "Running"
    assert browser.get(page_of("asks")).context["sentence"].startswith("Waiting for event “approved” (for ")
    (row,) = browser.get(reverse("admin:duroxide_django_instance_changelist")).context["rows"]
    assert "for event “approved” or the timer at" in row.phrase


def test_a_failed_one_shows_error_and_traceback(browser, client, work, page_of):
    client.start_orchestration("failed", "Fails")
    work()
    response = browser.get(page_of("failed"))
    assert response.context["failure"]["message"] == f"ValueError: declined {SCRIPT}"
    assert "Traceback (most recent call last)" in response.context["failure"]["traceback"]
    assert response.context["sentence"].startswith("Failed after")


def test_a_blocked_one_says_why_and_what_to_do(browser, client, work, page_of):
    client.start_orchestration("nobody", "NoSuchCode")
    work()
    response = browser.get(page_of("nobody"))
    assert response.context["sentence"].startswith("Can’t go on: no orchestration 'NoSuchCode' is registered")
    assert any("Deploy a worker that has this orchestration" in line for line in response.context["advice"])


def test_a_relative_that_waits_is_not_called_running(browser, client, work, page_of):
    """The family tells of each member what the list tells of it."""
    client.start_orchestration("parent", "Family")
    work()
    for own in ("parent", "parent-child"):
        family = browser.get(page_of(own)).context["family"]
        assert {member.instance_id: member.state.key for member in family} == {
            "parent": "waiting",
            "parent-child": "waiting",
        }
    client.raise_event("parent-child", "approved")
    family = browser.get(page_of("parent")).context["family"]
    assert [member.state.key for member in family] == ["waiting", "running"]


def test_the_custom_status_of_an_ended_instance_is_called_its_last(browser, client, work, page_of):
    client.start_orchestration("asks", "Approval", 1)
    work()
    assert "Last custom status" not in browser.get(page_of("asks")).content.decode()
    client.cancel_instance("asks")
    work()
    assert "Last custom status" in browser.get(page_of("asks")).content.decode()
    listed = browser.get(reverse("admin:duroxide_django_instance_changelist"))
    assert "asks " not in listed.content.decode()


def test_a_message_that_workers_do_not_see_yet_is_named(browser, client, work, backend, page_of):
    client.start_orchestration("loop", "Looping", 0)
    work()
    client.enqueue_event("loop", "inbox", 1)
    with connections[backend].cursor() as cursor:
        cursor.execute("UPDATE duroxide_message SET visible_at_ms = visible_at_ms + 600000, event_id = NULL")
        cursor.execute("DELETE FROM duroxide_history WHERE kind = 'QueueSubscribed'")
    sentence = browser.get(page_of("loop")).context["sentence"]
    assert "Waits for the message QueueMessage “inbox”" in sentence


def test_a_long_table_says_that_it_is_cut(browser, client, work, page_of):
    client.start_orchestration("loop", "Looping", 0)
    work()
    for number in range(49):
        client.enqueue_event("loop", "elsewhere", number)
    work()
    assert "Only the first 50 are shown." not in browser.get(page_of("loop")).content.decode()
    client.enqueue_event("loop", "elsewhere", 49)
    work()
    assert "Only the first 50 are shown." in browser.get(page_of("loop")).content.decode()


def test_family_executions_and_queues_are_shown(browser, client, work, page_of):
    client.start_orchestration("parent", "Family")
    client.start_orchestration("loop", "Looping", 0)
    work()
    for number in range(3):
        client.enqueue_event("loop", "inbox", {"number": number})
    work()
    client.enqueue_event("loop", "elsewhere", {"forgotten": True})
    family = browser.get(page_of("parent-child")).context["family"]
    assert [(member.instance_id, member.indent, member.is_self) for member in family] == [
        ("parent", 0, False),
        ("parent-child", 1, True),
    ]
    response = browser.get(page_of("loop"))
    assert [item["id"] for item in response.context["executions"]] == [4, 3, 2, 1]
    assert [message["queue"] for message in response.context["mail"]] == ["elsewhere"]
    assert response.context["sentence"].startswith("Waiting for a message in queue “inbox”")
    old = browser.get(page_of("loop"), {"execution": "2"})
    assert old.context["history"]["execution_id"] == 2
    assert "OrchestrationContinuedAsNew" in old.content.decode()


def test_everything_that_users_wrote_is_escaped(browser, client, work, page_of):
    client.start_orchestration(SCRIPT, "Approval", SCRIPT)
    client.start_orchestration("failed", "Fails")
    client.start_orchestration("queue", "Looping", 0)
    client.start_orchestration(f"name{SCRIPT}", SCRIPT, SCRIPT)
    client.start_orchestration(f"parent{SCRIPT}", "Family")
    work()
    client.enqueue_event("queue", SCRIPT, SCRIPT)
    client.raise_event(SCRIPT, SCRIPT, SCRIPT)
    work()
    pages = [page_of(name) for name in (SCRIPT, "failed", "queue", f"name{SCRIPT}", f"parent{SCRIPT}")]
    pages += [page_of(SCRIPT, verb) for verb in ("cancel", "raise_event", "enqueue", "delete")]
    pages += [reverse(f"admin:duroxide_django_{name}") for name in SYSTEM_PAGES]
    pages.append(reverse("admin:duroxide_django_instance_changelist") + f"?q={SCRIPT}&name={SCRIPT}&x={SCRIPT}")
    for page in pages:
        response = browser.get(page)
        assert response.status_code == 200
        assert SCRIPT not in response.content.decode(), page


SYSTEM_PAGES = [
    "instance_changelist",
    "instance_overview",
    "instance_registry",
    "instance_add",
    "activitytask_changelist",
    "worker_changelist",
    "session_changelist",
]


def test_long_payloads_are_cut_by_the_database_and_shown_in_full_on_demand(browser, client, work, page_of):
    text = "x" * (3 * instance_pages.PREVIEW_CHARS)
    client.start_orchestration("long", "Approval", text)
    work()
    response = browser.get(page_of("long"))
    assert response.context["input"]["data"].is_cut
    assert len(response.content) < 100_000
    full = browser.get(page_of("long", "input", 1))
    assert full["Content-Type"] == "text/plain; charset=utf-8"
    assert text in full.content.decode()
    event = browser.get(page_of("long", "event", 1, 1))
    assert text in event.content.decode()


def test_the_history_is_paged_and_downloaded_as_json(browser, client, work, page_of):
    client.start_orchestration("asks", "Approval", {"order": 7})
    work()
    (history,) = [browser.get(page_of("asks")).context["history"]]
    assert history["events"][0].kind == "OrchestrationStarted"
    response = browser.get(page_of("asks", "history_json", 1))
    events = json.loads(b"".join(response.streaming_content))
    assert [event["event_id"] for event in events] == list(range(1, history["total"] + 1))
    assert json.loads(events[0]["data"])["input"] == {"order": 7}
    replayed = replay(events, registry.orchestrations["Approval"][Version.parse("1.0.0")])
    assert replayed.status == "Running"
    assert [(event["event_id"], event["data"]) for event in events] == [
        (event.event_id, event.data) for event in client.read_execution_history("asks", 1)
    ]


def test_the_values_of_masked_keys_are_never_shown(browser, client, work, page_of, settings):
    settings.DUROXIDE = {**settings.DUROXIDE, "MASKED_KEYS": ["token"]}
    client.start_orchestration("asks", "Approval", {"token": "hush"})
    work()
    download = b"".join(browser.get(page_of("asks", "history_json", 1)).streaming_content)
    key_value = browser.get(page_of("asks", "key_value") + "?key=card").content
    assert b"4242" in key_value
    pages = [browser.get(page_of("asks")).content, browser.get(page_of("asks", "input", 1)).content]
    assert not [page for page in [*pages, download, key_value] if b"hush" in page]


def test_masked_keys_are_hidden_in_statuses_and_searches(browser, client, work, page_of, settings):
    settings.DUROXIDE = {**settings.DUROXIDE, "MASKED_KEYS": ["card"]}
    client.start_orchestration("tells", "Telling", {"card": "4711-0815"})
    work()
    listing = reverse("admin:duroxide_django_instance_changelist")
    pages = [browser.get(page) for page in (page_of("tells"), listing)]
    assert not [page for page in pages if b"4711-0815" in page.content]
    for key in ("@card", "@CARD", "@ card"):
        for value in ("4711-0815", "nobody"):
            found = browser.get(listing, {"q": f"{key}={value}"})
            assert found.context["rows"] == [], key
    assert "can’t be searched for" in browser.get(listing, {"q": "@card=4711-0815"}).content.decode()
    batch = browser.get(
        reverse("admin:duroxide_django_instance_batch"), {"action": "pause", "all": "1", "q": "@card=4711-0815"}
    )
    assert batch.context["count"] == 0


def test_the_number_of_queries_does_not_depend_on_the_length_of_the_history(browser, client, work, page_of, backend):
    def count(instance_id):
        page = page_of(instance_id)
        with CaptureQueriesContext(connections[backend]) as queries:
            browser.get(page)
        return len([query for query in queries if "duroxide_" in query["sql"]])

    client.start_orchestration("short", "Approval", 1)
    client.start_orchestration("long", "Approval", 1)
    work()
    for number in range(150):
        client.raise_event("long", "noise", number)
    work()
    assert count("long") == count("short") <= 18
    long = browser.get(page_of("long"))
    assert len(long.context["history"]["events"]) == 100
    assert long.context["history"]["last"] == long.context["history"]["total"] > 150
    earlier = browser.get(page_of("long"), {"before": long.context["history"]["earlier"]})
    assert earlier.context["history"]["first"] == 1


@pytest.mark.parametrize("key", ["999999999", "9" * 30])
def test_an_unknown_instance_is_not_found(browser, key):
    assert browser.get(f"/admin/duroxide_django/instance/{key}/change/").status_code == 404


def test_an_id_leads_to_its_page(browser, client, page_of):
    client.start_orchestration("a/b c?d", "Completes", 1)
    response = browser.get(reverse("admin:duroxide_django_instance_by_id", args=["a/b c?d"]))
    assert response["Location"] == page_of("a/b c?d")
    assert browser.get(reverse("admin:duroxide_django_instance_by_id", args=["x"])).status_code == 404
