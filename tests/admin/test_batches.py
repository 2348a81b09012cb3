"""Verbs for many instances: those chosen on a page, or all that match."""

from __future__ import annotations

import json

import pytest
from django.contrib.admin.models import ADDITION, LogEntry
from django.urls import reverse

from duroxide_django.admin import batch_rights, batches
from duroxide_django.testing import drain
from tests.admin.workflows import SCRIPT, registry

LIST = "admin:duroxide_django_instance_changelist"


@pytest.fixture
def url(backend):
    return reverse("admin:duroxide_django_instance_batch")


@pytest.fixture
def work_through(backend):
    """Run everything that is due, the app's own orchestration too."""
    from duroxide_django.engine.registry import Registry
    from duroxide_django.registry import default_registry

    both = Registry()
    both.activities.update({**default_registry.activities, **registry.activities})
    both.orchestrations.update({**default_registry.orchestrations, **registry.orchestrations})
    return lambda: drain(using=backend, registry=both, jump=False)


@pytest.fixture
def approvals(client, work):
    """Waiting instances a-0 … a-6, and one that is done."""
    client.start_many([(f"a-{number}", "Approval", 1) for number in range(7)])
    client.start_orchestration("done", "Completes", 1)
    work()
    return [f"a-{number}" for number in range(7)]


@pytest.fixture
def small_steps(monkeypatch):
    monkeypatch.setattr(batches, "STEP_SIZE", 2)
    monkeypatch.setattr(batches, "STEPS", 2)


def keys_of(browser, *names):
    rows = browser.get(reverse(LIST)).context["rows"]
    return [item.row.key for item in rows if item.row.instance_id in names]


def test_those_chosen_on_a_page_are_done_at_once(browser, url, client, work, approvals):
    chosen = {"action": "cancel", "key": keys_of(browser, "a-1", "a-3", "done"), "name": ""}
    asked = browser.get(url, chosen)
    assert [row.instance_id for row in asked.context["rows"]] == ["done", "a-3", "a-1"]
    assert not LogEntry.objects.exists()
    address = f"{url}{asked.context['action']}"
    assert b"This field is required" in browser.post(address, {"reason": ""}).content
    response = browser.post(address, {"reason": "sold out"}, follow=True)
    text = response.content.decode()
    assert "Cancel: done for 2 instances." in text
    assert "1 instance was left alone" in text
    work()
    assert [name for name in approvals if client.get_status(name).is_cancelled] == ["a-1", "a-3"]
    assert client.get_status("done").status == "Completed"
    entries = [(entry.object_repr, entry.change_message) for entry in LogEntry.objects.order_by("pk")]
    assert entries == [("a-3", "Asked to cancel. sold out"), ("a-1", "Asked to cancel. sold out")]


def test_all_that_match_are_done_by_an_orchestration_with_progress(
    browser, url, client, work, work_through, approvals, small_steps
):
    asked = browser.get(url, {"action": "pause", "all": "1", "name": "Approval"})
    assert (asked.context["count"], asked.context["is_more"]) == (7, False)
    client.start_orchestration("later", "Approval", 1)
    work()
    response = browser.post(f"{url}{asked.context['action']}", {"reason": f"audit {SCRIPT}"}, follow=True)
    instance_id = response.context["row"].instance_id
    assert instance_id.startswith("duroxide_django.batch-pause-")
    assert SCRIPT not in response.content.decode()
    assert LogEntry.objects.get().action_flag == ADDITION
    work_through()
    result = client.get_status(instance_id)
    assert result.output == {"done": 7, "skipped": 0, "refused": 0, "refusals": []}
    assert result.custom_status == "7/7: 7 done, 0 left alone, 0 refused"
    assert len(client.list_executions(instance_id)) > 1
    assert [bool(client.get_blocked(name)) for name in approvals] == [True] * 7
    assert client.get_blocked("later") is None
    assert LogEntry.objects.filter(change_message=f"Paused. audit {SCRIPT}").count() == 7
    assert {record.actor for record in client.list_audit_records()} == {"user0"}


def test_progress_is_shown_as_a_bar(browser, url, client, page_of, approvals, small_steps, backend):
    from duroxide_django.options import RuntimeOptions
    from duroxide_django.registry import default_registry

    asked = browser.get(url, {"action": "pause", "all": "1"})
    instance_id = (
        browser.post(f"{url}{asked.context['action']}", {"reason": "x"}, follow=True).context["row"].instance_id
    )
    drain(using=backend, registry=default_registry, jump=False, options=RuntimeOptions(worker_concurrency=0))
    progress = browser.get(page_of(instance_id)).context["progress"]
    assert (progress.done, progress.total) == (0, 8)


def test_what_makes_no_sense_is_left_alone_and_refusals_are_told(
    browser, url, client, work_through, approvals, small_steps
):
    asked = browser.get(url, {"action": "delete", "all": "1"})
    response = browser.post(f"{url}{asked.context['action']}", {"reason": "clean up"}, follow=True)
    instance_id = response.context["row"].instance_id
    work_through()
    output = client.get_status(instance_id).output
    assert (output["done"], output["refused"]) == (1, 7)
    assert "still running" in output["refusals"][0]
    assert client.get_status("done").status == "NotFound"
    assert client.get_status("a-0").status == "Running"


def test_a_batch_that_was_not_asked_for_in_the_admin_does_nothing(
    browser, browser_of, url, client, work_through, approvals, page_of
):
    asked = browser.get(url, {"action": "pause", "all": "1"})
    honest = browser.post(f"{url}{asked.context['action']}", {"reason": "x"}, follow=True).context["row"].instance_id
    work_through()
    signed = json.loads(client.read_execution_history(honest, 1)[0].data)["input"]
    for name in approvals:
        client.resume_instance(name)
    starter = browser_of("view_instance", "start_instance")
    start = reverse("admin:duroxide_django_instance_add")
    for number, job in enumerate((signed, {**signed, "signature": ""}, {**signed, "verb": "delete"})):
        data = {"name": batches.BATCH, "version": "", "instance_id": f"forged-{number}", "input": json.dumps(job)}
        assert starter.post(start, {**data, "reason": "x"}).status_code == 302
    client.fork_instance(honest, "forged-3", event_id=1)
    work_through()
    for number in range(4):
        assert "was not asked for in the admin" in client.get_status(f"forged-{number}").error, number
    assert [client.get_blocked(name) for name in approvals] == [None] * 7


@pytest.fixture
def asked(browser_of, url):
    """Ask for a verb to all approvals, as a user who may: ``asked("pause")`` returns the batch's instance id."""

    def ask(verb, *permissions, **values):
        browser = browser_of("view_instance", *permissions)
        page = browser.get(url, {"action": verb, "all": "1", "name": "Approval"})
        answer = browser.post(f"{url}{page.context['action']}", {"reason": "x", **values}, follow=True)
        return str(answer.context["row"].instance_id)

    return ask


def input_of(client, instance_id):
    return json.loads(client.read_execution_history(instance_id, 1)[0].data)["input"]


def after_the_first_step(monkeypatch, do):
    real, calls = batches.perform, []

    def perform(*args, **kwargs):
        result = real(*args, **kwargs)
        calls.append(result)
        if len(calls) == 1:
            do()
        return result

    monkeypatch.setattr(batches, "perform", perform)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda user: user.user_permissions.remove(user.user_permissions.get(codename="cancel_instance")), "cancel"),
        (lambda user: user.user_permissions.remove(user.user_permissions.get(codename="view_instance")), "view"),
        (lambda user: type(user).objects.update(is_active=False), "not active"),
        (lambda user: type(user).objects.update(is_staff=False), "not staff"),
        (lambda user: user.delete(), "deleted"),
    ],
    ids=["permission", "view", "inactive", "no staff", "deleted"],
)
def test_a_batch_stops_when_its_owner_may_no_longer_do_it(
    asked, client, work_through, approvals, small_steps, monkeypatch, change, why
):
    from django.contrib.auth.models import User

    instance_id = asked("cancel", "cancel_instance")
    after_the_first_step(monkeypatch, lambda: change(User.objects.get()))
    work_through()
    found = client.get_status(instance_id)
    assert found.status == "Failed"
    assert "stopped: no longer allowed" in found.error
    assert why in found.error
    assert found.custom_status == "2/7: 2 done, 0 left alone, 0 refused"
    assert [name for name in approvals if client.get_status(name).is_cancelled] == ["a-5", "a-6"]


def test_a_batch_goes_on_after_its_owner_got_the_right_by_a_group(
    asked, client, work_through, approvals, small_steps, monkeypatch
):
    from django.contrib.auth.models import Group, Permission, User

    def move():
        user, group = User.objects.get(), Group.objects.create(name="operators")
        group.permissions.set(Permission.objects.filter(codename__in=["view_instance", "pause_instance"]))
        user.groups.add(group)
        user.user_permissions.clear()

    instance_id = asked("pause", "pause_instance")
    after_the_first_step(monkeypatch, move)
    work_through()
    assert client.get_status(instance_id).output["done"] == len(approvals)


@pytest.mark.parametrize("rewind", ["step", "before", "all"])
def test_a_batch_that_was_rewound_does_nothing_again(asked, client, work_through, approvals, small_steps, rewind):
    instance_id = asked("pause", "pause_instance")
    work_through()
    for name in approvals:
        client.resume_instance(name)
    events = client.read_execution_history(instance_id, client.list_executions(instance_id)[-1])
    last = [number for number, event in enumerate(events, 1) if event.kind == "ActivityScheduled"][-1]
    event = {"step": last, "before": last - 1, "all": 0}[rewind]
    client.rewind_instance(instance_id, event, rerun_activities=True)
    work_through()
    found = client.get_status(instance_id)
    assert [client.get_blocked(name) for name in approvals] == [None] * len(approvals)
    assert found.status == "Failed"
    assert "was not asked for in the admin" in found.error


def test_a_batch_does_not_take_another_bound_by_hand(asked, client, work_through, approvals, small_steps, backend):
    from duroxide_django.options import RuntimeOptions
    from duroxide_django.registry import default_registry

    def turn():
        drain(using=backend, registry=default_registry, jump=False, options=RuntimeOptions(worker_concurrency=0))

    instance_id = asked("pause", "pause_instance")
    turn()
    (step,) = client.list_pending(instance_id)
    job = input_of(client, instance_id)
    client.complete_activity(instance_id, step.event_id, {**job, "below": job["below"] + 1_000})
    work_through()
    assert "was not asked for in the admin" in client.get_status(instance_id).error
    assert [client.get_blocked(name) for name in approvals] == [None] * len(approvals)


def test_a_new_life_of_a_batch_does_nothing(asked, client, work_through, approvals):
    instance_id = asked("pause", "pause_instance")
    work_through()
    job = input_of(client, instance_id)
    for name in approvals:
        client.resume_instance(name)
    client.start_orchestration(instance_id, batches.BATCH, job, on_conflict="restart_terminal")
    work_through()
    assert "was not asked for in the admin" in client.get_status(instance_id).error
    assert [client.get_blocked(name) for name in approvals] == [None] * len(approvals)


def test_a_batch_that_stood_still_for_too_long_does_nothing(asked, client, work_through, approvals, monkeypatch):
    monkeypatch.setattr(batch_rights, "MAX_PAUSE_S", -1)
    instance_id = asked("pause", "pause_instance")
    work_through()
    assert "was not asked for in the admin" in client.get_status(instance_id).error


@pytest.mark.parametrize("verb", ["retry", "rewind", "fork", "complete-activity", "fail-activity"])
def test_a_batch_has_no_verb_that_would_repeat_it(
    asked, browser, client, work_through, approvals, page_of, monkeypatch, verb
):
    instance_id = asked("pause", "pause_instance")
    if verb == "retry":
        monkeypatch.setattr(batches, "perform", lambda *args, **kwargs: 1 / 0)
        monkeypatch.setattr(batches, "RETRIES", {"max_attempts": 1})
    if not verb.endswith("activity"):
        work_through()
    page = page_of(instance_id)
    answer = browser.get(page.replace("/change/", f"/{verb}/"), {"event": 2}, follow=True)
    assert answer.redirect_chain == [(page, 302)]
    assert "is not possible for this instance" in answer.content.decode()


def test_a_step_that_fails_is_taken_back_and_tried_again(
    browser, url, client, work_through, approvals, small_steps, monkeypatch
):
    real, calls = batches.perform, []

    def perform(*args, **kwargs):
        result = real(*args, **kwargs)
        calls.append(result)
        if len(calls) == 1:
            raise OSError("the disk was full")
        return result

    monkeypatch.setattr(batches, "perform", perform)
    asked = browser.get(url, {"action": "raise-event", "all": "1", "name": "Approval"})
    data = {"name": "noise", "payload": "1", "reason": "x"}
    instance_id = browser.post(f"{url}{asked.context['action']}", data, follow=True).context["row"].instance_id
    work_through()
    (timer,) = client.list_pending(instance_id)
    client.retry_activity_now(instance_id, timer.event_id)
    work_through()
    assert client.get_status(instance_id).output["done"] == len(approvals)
    raised = [
        sum(event.kind == "ExternalEvent" for event in client.read_execution_history(name, 1)) for name in approvals
    ]
    assert raised == [1] * len(approvals)


@pytest.mark.parametrize(
    "query",
    [
        {"action": "", "all": "1"},
        {"action": "cancel"},
        {"action": "cancel", "key": "x"},
        {"action": "rewind", "all": "1"},
        {"action": "unknown", "key": "1"},
    ],
)
def test_nothing_chosen_leads_back_to_the_same_list(browser, url, approvals, query):
    response = browser.get(url, {**query, "name": "Approval"}, follow=True)
    assert response.redirect_chain == [(f"{reverse(LIST)}?name=Approval", 302)]
    assert "Choose an action" in response.content.decode()


def test_it_needs_a_csrf_token(browser, url, approvals):
    from django.test import Client as Browser

    strict = Browser(enforce_csrf_checks=True)
    strict.cookies = browser.cookies
    assert strict.post(f"{url}?action=cancel&all=1", {"reason": "x"}).status_code == 403
