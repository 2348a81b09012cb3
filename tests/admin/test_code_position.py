"""Where an instance stands in its code."""

from __future__ import annotations

import pytest

from duroxide_django.registry import default_registry
from tests.admin.workflows import SCRIPT, registry


@pytest.fixture
def code(monkeypatch):
    """Let this web process have the code of the tests' workflows."""
    for name, versions in registry.orchestrations.items():
        monkeypatch.setitem(default_registry.orchestrations, name, versions)


def test_it_shows_the_open_yield_and_what_it_waits_for(browser, client, work, page_of, code):
    client.start_orchestration(SCRIPT, "Approval", SCRIPT)
    work()
    response = browser.get(page_of(SCRIPT, "code"))
    (item,) = response.context["yields"]
    assert item.waits_for[0].startswith("event “approved” (#")
    ((_, text, _),) = [line for line in item.frames[0].lines if line[2]]
    assert text.strip().startswith("first = yield ctx.race(ctx.wait_for_event")
    assert SCRIPT not in response.content.decode()


def test_it_changes_nothing(browser, client, work, page_of, code):
    client.start_orchestration("asks", "Approval", 1)
    work()
    before = client.read_execution_history("asks", 1), client.get_kv_all_values("asks")
    browser.get(page_of("asks", "code"))
    assert (client.read_execution_history("asks", 1), client.get_kv_all_values("asks")) == before


def test_it_says_why_it_can_not_tell(browser, client, work, page_of, monkeypatch):
    client.start_orchestration("asks", "Approval", 1)
    client.start_orchestration("done", "Completes", 1)
    work()
    assert "no orchestration 'Approval'" in browser.get(page_of("asks", "code")).context["problem"]
    assert "has ended" in browser.get(page_of("done", "code")).context["problem"]
    monkeypatch.setitem(default_registry.orchestrations, "Approval", registry.orchestrations["Retries"])
    assert "does not fit the history" in browser.get(page_of("asks", "code")).context["problem"]
