"""Acting on instances: each verb with its permission, reason and log entry."""

from __future__ import annotations

import pytest
from django.contrib.admin.models import ADDITION, CHANGE, DELETION, LogEntry
from django.test import Client as Browser
from django.urls import reverse

from tests.admin.workflows import SCRIPT

ADD = "admin:duroxide_django_instance_add"


@pytest.fixture
def waiting(client, work):
    client.start_orchestration("asks", "Approval", 1)
    work()
    return "asks"


def logged():
    entry = LogEntry.objects.get()
    return entry.action_flag, entry.object_repr, entry.change_message


def test_cancel(browser, client, work, page_of, waiting):
    page = page_of(waiting, "cancel")
    assert b"cancelled" in browser.get(page).content
    assert client.get_status(waiting).status == "Running"
    response = browser.post(page, {"reason": f"no {SCRIPT}"}, follow=True)
    assert "Asked to cancel." in response.content.decode()
    assert logged() == (CHANGE, "asks", f"Asked to cancel. no {SCRIPT}")
    work()
    assert client.get_status(waiting).error == f"canceled: no {SCRIPT}"
    log = browser.get(page_of(waiting, "history")).content.decode()
    assert "Asked to cancel. no &lt;script&gt;" in log
    assert SCRIPT not in log


def test_cancel_by_force_ends_an_instance_without_code(browser, client, work, page_of):
    client.start_orchestration("nobody", "NoSuchCode")
    work()
    browser.post(page_of("nobody", "cancel"), {"reason": "gone", "force": "on"})
    work()
    assert client.get_status("nobody").is_cancelled


def test_raise_event(browser, client, work, page_of, waiting):
    page = page_of(waiting, "raise_event")
    assert b'value="approved"' in browser.get(page, {"name": "approved"}).content
    browser.post(page, {"name": "approved", "payload": '{"by": "me"}', "reason": "asked by phone"})
    assert logged() == (CHANGE, "asks", "Raised event “approved”. asked by phone")
    work()
    assert client.get_status(waiting).output == 0


def test_enqueue(browser, client, work, page_of):
    client.start_orchestration("loop", "Looping", 0)
    work()
    browser.post(page_of("loop", "enqueue"), {"name": "inbox", "payload": "", "reason": "go on"})
    work()
    assert client.get_instance_info("loop").current_execution_id == 2
    assert logged()[0] == CHANGE


def test_retry(browser, client, work, page_of):
    client.start_orchestration("failed", "Fails")
    work()
    response = browser.post(page_of("failed", "retry"), {"reason": "the bank is back"}, follow=True)
    assert "It goes on from event 2." in response.content.decode()
    assert client.get_status("failed").status == "Running"
    assert logged() == (CHANGE, "failed", "It goes on from event 2. the bank is back")
    record = client.list_audit_records("failed")[0]
    assert (record.verb, record.actor, record.reason) == ("retry", "user0", "the bank is back")


def test_pause_and_resume(browser, client, work, page_of, waiting):
    browser.post(page_of(waiting, "pause"), {"reason": "stocktaking"})
    shown = browser.get(page_of(waiting))
    assert shown.context["state"].key == "paused"
    assert shown.context["sentence"] == "Paused by user0: stocktaking."
    assert {str(verb["label"]) for verb in shown.context["verbs"]} >= {"Resume", "Cancel"}
    assert "Pause" not in {str(verb["label"]) for verb in shown.context["verbs"]}
    assert browser.get(page_of(waiting, "resume")).context["state"].key == "paused"
    browser.post(page_of(waiting, "resume"), {"reason": "counted"})
    assert client.get_blocked(waiting) is None
    assert [entry.change_message for entry in LogEntry.objects.order_by("pk")] == [
        "Paused. stocktaking",
        "Resumed. counted",
    ]


def test_rewind_tells_before_what_will_run_again(browser, client, work, page_of, waiting):
    client.raise_event(waiting, "approved")
    work()
    assert client.get_status(waiting).status == "Completed"
    completed = next(event for event in client.read_execution_history(waiting, 1) if event.kind == "ActivityCompleted")
    kept = completed.event_id - 1
    page = page_of(waiting, "rewind")
    preview = browser.get(page, {"event": kept, "rerun": "on"}).context["preview"]
    assert preview[0].startswith(f"Events 1 to {kept} stay, ")
    assert preview[1:3] == [f"These activities run again: Charge#{kept}.", "This is delivered again: approved."]
    dropping = browser.get(page, {"event": kept, "drop": "on"})
    assert not [line for line in dropping.context["preview"] if "approved" in line or "run again" in line]
    assert dropping.context["preview"][1] == f"This is delivered again: Charge#{completed.source_event_id}."
    assert dropping.context["form"].initial["drop"] == "on"
    assert client.get_status(waiting).status == "Completed"
    assert "choose one from 0" in browser.get(page, {"event": 99}).content.decode()
    response = browser.post(page, {"event": kept, "rerun": "False", "drop": "on", "reason": "too early"}, follow=True)
    assert "it goes on from event" in response.content.decode()
    assert logged()[2].endswith("too early")
    work()
    assert client.get_status(waiting).status == "Running"


def test_fork(browser, client, work, page_of, waiting):
    page = page_of(waiting, "fork")
    assert browser.get(page).context["preview"][-1] == "This instance stays as it is."
    data = {"event": 1, "instance_id": "again", "reason": "try"}
    response = browser.post(page, data, follow=True)
    assert response.context["row"].instance_id == "again"
    assert logged()[1:] == ("asks", "Forked “again” from event 0. try")
    assert "exists already" in browser.post(page, data).content.decode()


@pytest.fixture
def unserved(client, work, backend):
    """An instance with an activity that no worker runs; returns the schedule event."""
    from duroxide_django.options import RuntimeOptions
    from duroxide_django.testing import drain
    from tests.admin.workflows import registry

    client.start_orchestration("done", "Completes", 1)
    drain(using=backend, registry=registry, jump=False, options=RuntimeOptions(worker_concurrency=0))
    (item,) = client.list_pending("done")
    return item.event_id


def test_complete_an_activity_by_hand(browser, client, work, page_of, unserved):
    (task,) = browser.get(page_of("done")).context["tasks"]
    assert [url for _, url in task["links"]] == [
        f"{page_of('done', verb)}?event={unserved}" for verb in ("retry_activity", "complete_activity", "fail_activity")
    ]
    browser.post(page_of("done", "complete_activity"), {"event": unserved, "payload": "[7]", "reason": "by phone"})
    work()
    assert client.get_status("done").output == [7]
    assert logged()[2] == f"Completed Charge (event {unserved}) by hand. by phone"


def test_let_an_activity_fail_by_hand(browser, client, work, page_of, unserved):
    browser.post(page_of("done", "fail_activity"), {"event": unserved, "error": f"moved {SCRIPT}", "reason": "x"})
    work()
    assert client.get_status("done").error == f"moved {SCRIPT}"
    assert SCRIPT not in browser.get(page_of("done")).content.decode()


def test_let_a_pause_before_a_retry_end_now(browser, client, work, page_of):
    client.start_orchestration("retrying", "Retries")
    work()
    (message,) = browser.get(page_of("retrying")).context["inbox"]
    ((_, url),) = message["links"]
    event = url.partition("=")[2]
    browser.post(url, {"event": event, "reason": "the bank is back"})
    work()
    assert "attempt 3 of 5" in browser.get(page_of("retrying")).context["sentence"]
    response = browser.post(url, {"event": event, "reason": "again"})
    assert "nothing with event" in response.content.decode()


@pytest.mark.parametrize(
    ("verb", "data"),
    [
        ("cancel", {"reason": ""}),
        ("pause", {"reason": ""}),
        ("rewind", {"event": "99", "reason": "x"}),
        ("rewind", {"event": "", "reason": "x"}),
        ("rewind", {"event": "9" * 30, "reason": "x"}),
        ("fork", {"event": "1", "instance_id": "", "reason": "x"}),
        ("fork", {"event": "1", "instance_id": "i" * 5_000, "reason": "x"}),
        ("complete_activity", {"event": "99", "payload": "1", "reason": "x"}),
        ("fail_activity", {"event": "99", "error": "x", "reason": "x"}),
        ("retry_activity", {"event": "99", "reason": "x"}),
        ("raise_event", {"name": "", "payload": "1", "reason": "x"}),
        ("raise_event", {"name": "approved", "payload": "{no json", "reason": "x"}),
        ("raise_event", {"name": "approved", "payload": "NaN", "reason": "x"}),
        ("raise_event", {"name": "n" * 10_000, "payload": "1", "reason": "x"}),
        ("enqueue", {"name": "inbox", "payload": '"\\u0000"', "reason": "x"}),
    ],
)
def test_bad_answers_are_shown_again_and_do_nothing(browser, client, page_of, waiting, verb, data):
    response = browser.post(page_of(waiting, verb), data)
    assert response.status_code == 200
    assert "errornote" in response.content.decode()
    assert not LogEntry.objects.exists()


def test_prune(browser, client, work, page_of):
    client.start_orchestration("loop", "Looping", 0)
    for number in range(3):
        client.enqueue_event("loop", "inbox", number)
    work()
    browser.post(page_of("loop", "prune"), {"keep_last": "2", "reason": "space"})
    assert client.list_executions("loop") == [3, 4]
    assert logged()[2].startswith("Pruned 2 executions with ")


def test_delete(browser, client, work, page_of, waiting):
    page = page_of(waiting, "delete")
    response = browser.post(page, {"reason": "mistake"})
    assert "still running" in response.content.decode()
    response = browser.post(page, {"reason": "mistake", "force": "on"})
    assert response["Location"] == reverse("admin:duroxide_django_instance_changelist")
    assert client.get_status(waiting).status == "NotFound"
    assert logged()[:2] == (DELETION, "asks")


def test_a_child_is_not_deleted_alone(browser, client, work, page_of):
    client.start_orchestration("parent", "Family")
    work()
    response = browser.post(page_of("parent-child", "delete"), {"reason": "x", "force": "on"}, follow=True)
    assert "not possible" in response.content.decode()
    assert client.get_status("parent-child").status == "Running"


def test_verbs_for_running_ones_are_refused_after_the_end(browser, client, work, page_of):
    client.start_orchestration("done", "Completes", 1)
    work()
    response = browser.post(page_of("done", "cancel"), {"reason": "x"}, follow=True)
    assert "not possible" in response.content.decode()
    assert not LogEntry.objects.exists()


def test_start(browser, client, work):
    data = {"name": "Approval", "version": "1.0.0", "instance_id": f"new {SCRIPT}", "input": "[1]", "reason": "try"}
    response = browser.post(reverse(ADD), data, follow=True)
    assert response.context["row"].instance_id == f"new {SCRIPT}"
    assert SCRIPT not in response.content.decode()
    assert logged() == (ADDITION, f"new {SCRIPT}", "Started Approval 1.0.0. try")
    response = browser.post(reverse(ADD), data)
    assert "exists already" in response.content.decode()
    assert LogEntry.objects.count() == 1


@pytest.mark.parametrize("change", [{"version": "x"}, {"instance_id": "i" * 5000}, {"name": ""}, {"input": "{"}])
def test_a_bad_start_is_explained(browser, client, change):
    data = {"name": "Approval", "version": "", "instance_id": "new", "input": "1", "reason": "try"} | change
    response = browser.post(reverse(ADD), data)
    assert response.status_code == 200
    assert not client.list_all_instances()


def test_a_verb_needs_a_csrf_token(browser, client, page_of, waiting):
    strict = Browser(enforce_csrf_checks=True)
    strict.cookies = browser.cookies
    assert strict.post(page_of(waiting, "cancel"), {"reason": "x"}).status_code == 403
    assert strict.post(reverse(ADD), {"reason": "x"}).status_code == 403


def test_a_log_entry_that_fails_takes_the_verb_back(browser, client, page_of, waiting, monkeypatch):
    def refuse(*args, **kwargs):
        raise RuntimeError("log is full")

    monkeypatch.setattr(type(LogEntry.objects), "log_actions", refuse)
    with pytest.raises(RuntimeError):
        browser.post(page_of(waiting, "delete"), {"reason": "x", "force": "on"})
    assert client.get_status(waiting).status == "Running"
