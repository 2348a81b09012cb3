"""Who sees what, and who may do what."""

from __future__ import annotations

import pytest
from django.contrib.admin import site
from django.test import Client as Browser
from django.urls import reverse

from duroxide_django.admin.verbs import VERBS
from duroxide_django.models import ActivityTask, Instance, Session, Worker
from duroxide_django.registry import default_registry
from tests.admin.workflows import registry

ALL_VERBS = {
    "cancel": "cancel_instance",
    "raise_event": "raise_event",
    "enqueue": "enqueue_message",
    "retry": "retry_instance",
    "pause": "pause_instance",
    "resume": "resume_instance",
    "rewind": "rewind_instance",
    "fork": "fork_instance",
    "retry_activity": "retry_activity",
    "complete_activity": "complete_activity",
    "fail_activity": "fail_activity",
    "prune": "prune_instance",
    "delete": "delete_instance",
}
#: Verbs that are no buttons: their links stand beside an activity or a timer.
OF_EVENTS = {"retry_activity", "complete_activity", "fail_activity"}
#: Instances to which a verb applies, where it is not "loop".
SUBJECTS = {"retry": "failed", "resume": "paused"}
PAYLOADS = {"input": [1], "output": [1], "event": [1, 1], "history_json": [1], "key_value": []}
SYSTEM_PAGES = {
    "instance_changelist": "view_instance",
    "instance_overview": "view_instance",
    "instance_registry": "view_instance",
    "instance_add": "start_instance",
    "activitytask_changelist": "view_activitytask",
    "worker_changelist": "view_worker",
    "session_changelist": "view_session",
}


@pytest.fixture
def pages(client, work, page_of):
    """Every address of the admin, with an instance that has something of everything."""
    client.start_orchestration("failed", "Fails", {"card": "4711"})
    client.start_orchestration("asks", "Approval", {"card": "4711"})
    client.start_orchestration("loop", "Looping", 0)
    client.enqueue_event("loop", "inbox", 1)
    work()
    client.enqueue_event("asks", "queue", {"card": "4711"})
    client.start_orchestration("paused", "Approval", 1)
    work()
    client.pause_instance("paused", reason="wait")
    about = [
        page_of("loop"),
        page_of("loop", "code"),
        page_of("loop", "history"),
        *(page_of("loop", verb) for verb in ALL_VERBS),
    ]
    about += [page_of("loop", name, *arguments) for name, arguments in PAYLOADS.items()]
    about.append(reverse("admin:duroxide_django_instance_by_id", args=["loop"]))
    batch = reverse("admin:duroxide_django_instance_batch")
    about += [f"{batch}?action={verb.key}&all=1" for verb in VERBS.values() if verb.in_batch]
    return [*about, *(reverse(f"admin:duroxide_django_{name}") for name in SYSTEM_PAGES)]


def test_every_page_refuses_a_user_without_permissions(browser_of, pages):
    browser = browser_of()
    for page in pages:
        assert browser.get(page).status_code == 403, page
        assert browser.post(page).status_code == 403, page


def test_every_address_of_the_app_refuses_a_user_without_permissions(browser_of, pages, page_of):
    """Whatever page is added: none is forgotten in the list above."""
    key = int(page_of("loop").split("/")[-3])
    values = {"key": key, "execution_id": 1, "event_id": 1, "instance_id": "loop"}
    browser = browser_of()
    patterns = [
        pattern for kind in (Instance, ActivityTask, Worker, Session) for pattern in site.get_model_admin(kind).urls
    ]
    assert len(patterns) > 30
    for pattern in patterns:
        wanted = pattern.pattern.converters
        page = reverse(f"admin:{pattern.name}", kwargs={name: values[name] for name in wanted})
        assert browser.get(page).status_code == 403, page
        assert browser.post(page).status_code == 403, page


def test_every_page_asks_a_stranger_to_log_in(pages):
    for page in pages:
        assert Browser().get(page)["Location"].startswith("/admin/login/"), page


def test_a_user_who_may_only_look_sees_no_verb_and_no_payload(browser_of, pages, page_of):
    browser = browser_of("view_instance")
    for name in ("asks", "failed", "loop"):
        response = browser.get(page_of(name))
        text = response.content.decode()
        assert response.context["verbs"] == []
        assert "4711" not in text
        assert "declined" not in text
        assert "Traceback" not in text
        assert not [verb for verb in ALL_VERBS if page_of(name, verb) in text]
    listed = browser.get(reverse("admin:duroxide_django_instance_changelist")).content.decode()
    assert reverse("admin:duroxide_django_instance_add") not in listed
    for name, arguments in PAYLOADS.items():
        assert browser.get(page_of("loop", name, *arguments)).status_code == 403, name


@pytest.mark.parametrize("verb", ALL_VERBS)
def test_a_verb_needs_its_own_permission_and_gives_no_other(browser_of, pages, page_of, verb):
    browser = browser_of("view_instance", ALL_VERBS[verb])
    subject = SUBJECTS.get(verb, "loop")
    shown = browser.get(page_of(subject))
    buttons = [] if verb in OF_EVENTS else [page_of(subject, verb)]
    assert [item["url"] for item in shown.context["verbs"]] == buttons
    for other in ALL_VERBS:
        assert browser.get(page_of(subject, other)).status_code == (200 if other == verb else 403)


@pytest.mark.parametrize("verb", [verb for verb in VERBS.values() if verb.in_batch], ids=lambda verb: verb.key)
def test_a_verb_for_many_needs_the_same_permission(browser_of, pages, verb):
    browser = browser_of("view_instance", verb.permission)
    batch = reverse("admin:duroxide_django_instance_batch")
    listed = browser.get(reverse("admin:duroxide_django_instance_changelist"))
    assert [key for key, _ in listed.context["batch_verbs"]] == [verb.key]
    for other in (other for other in VERBS.values() if other.in_batch):
        response = browser.get(batch, {"action": other.key, "all": "1"})
        assert response.status_code == (200 if other is verb else 403), other.key


def test_links_beside_activities_and_events_need_permissions_too(browser_of, client, work, page_of):
    client.start_orchestration("retrying", "Retries")
    work()
    plain = browser_of("view_instance").get(page_of("retrying")).content.decode()
    able = browser_of("view_instance", "retry_activity", "rewind_instance").get(page_of("retrying")).content.decode()
    for verb in ("retry_activity", "rewind"):
        assert page_of("retrying", verb) not in plain
        assert page_of("retrying", verb) in able
    assert page_of("retrying", "fork") not in able


def test_a_verb_alone_is_not_enough_to_see_an_instance(browser_of, pages, page_of):
    browser = browser_of("cancel_instance", "start_instance", "view_payloads")
    assert browser.get(page_of("loop", "cancel")).status_code == 403
    assert browser.get(page_of("loop", "input", 1)).status_code == 403
    assert browser.get(reverse("admin:duroxide_django_instance_add")).status_code == 403


def test_payloads_are_shown_to_who_may_see_them(browser_of, pages, page_of):
    browser = browser_of("view_instance", "view_payloads")
    assert "4711" in browser.get(page_of("asks")).content.decode()
    assert "declined" in browser.get(page_of("failed")).content.decode()


@pytest.mark.parametrize("name", SYSTEM_PAGES)
def test_pages_are_linked_and_open_by_their_permissions(browser_of, pages, name):
    browser = browser_of("view_instance", *{SYSTEM_PAGES[name]} - {"view_instance"})
    page = reverse(f"admin:duroxide_django_{name}")
    assert browser.get(page).status_code == 200
    links = {link["url"] for link in browser.get(page).context["pages"]}
    allowed = {
        reverse(f"admin:duroxide_django_{other}")
        for other, permission in SYSTEM_PAGES.items()
        if permission in ("view_instance", SYSTEM_PAGES[name]) and other != "instance_add"
    }
    assert links == allowed


def test_the_index_leads_to_the_overview(browser_of, backend):
    page = reverse("admin:app_list", args=["duroxide_django"])
    overview = reverse("admin:duroxide_django_instance_overview")
    assert overview in browser_of("view_instance").get(page).content.decode()
    assert overview not in browser_of("view_worker").get(page).content.decode()


def test_why_an_instance_is_blocked_is_hidden_where_it_may_contain_data(browser_of, client, work, page_of, backend):
    from duroxide_django.storage.database import Database

    client.start_orchestration("asks", "Approval", 1)
    work()
    Database(backend).execute(
        "UPDATE duroxide_instance SET blocked = %s",
        ['{"reason": "refused_by_database", "message": "DataError: 4711", "tries": 2}'],
    )
    pages = [page_of("asks"), reverse("admin:duroxide_django_instance_overview")]
    look, see = browser_of("view_instance"), browser_of("view_instance", "view_payloads")
    assert ["4711" in look.get(page).content.decode() for page in pages] == [False, False]
    assert ["4711" in see.get(page).content.decode() for page in pages] == [True, True]


@pytest.mark.parametrize("masked", [[], ["token"]], ids=["nothing masked", "masked keys"])
def test_a_mismatch_of_code_and_history_shows_its_payloads_to_nobody_else(
    browser_of, client, work, page_of, monkeypatch, settings, masked
):
    settings.DUROXIDE = {**settings.DUROXIDE, "MASKED_KEYS": masked}
    client.start_orchestration("changed", "Secretive", {"token": "4711"})
    work()
    monkeypatch.setitem(registry.orchestrations, "Secretive", registry.orchestrations["Fails"])
    monkeypatch.setitem(default_registry.orchestrations, "Secretive", registry.orchestrations["Fails"])
    client.raise_event("changed", "go")
    work()
    assert client.get_blocked("changed")["reason"] == "nondeterminism"
    pages = [page_of("changed"), page_of("changed", "code"), reverse("admin:duroxide_django_instance_overview")]
    look, see = browser_of("view_instance"), browser_of("view_instance", "view_payloads")
    for page in pages:
        assert "4711" not in look.get(page).content.decode()
        assert ("4711" in see.get(page).content.decode()) == (not masked), page
