"""Identifiers that try to be SQL, JSON, patterns or pages are identifiers like others."""

from __future__ import annotations

import json

import pytest
from django.core.management import call_command

from duroxide_django import InstanceFilter, InstanceNotFound, InvalidArgument, LimitExceeded
from duroxide_django.storage import overview
from duroxide_django.storage.database import Database
from duroxide_django.testing import assert_healthy

HOSTILE = {
    "quote": "o'brien' OR '1'='1",
    "statement": "'; DROP TABLE duroxide_instance; --",
    "double quote": 'a"b"; DELETE FROM duroxide_history; --',
    "percent": "100%",
    "placeholder": "%s %(name)s %b %%",
    "underscore": "a_c",
    "backslash": "a\\b\\'c\\",
    "braces": "{0} {now} $1 :name ?",
    "json": '["$[0]", {"a": null}]',
    "dollar": "$$ $body$ x $body$",
    "line breaks": "a\r\nb\tc",
    "control": "\x01\x7f\x1f",
    "unicode": "Ünï–códé 🎉 \u202e\u200b",
    "combining": "é e\u0301",
    "last character": "\U0010ffff",
    "markup": "<script>alert(1)</script>&amp;",
    "path": "../../etc/passwd?x=1#y",
}


@pytest.fixture(params=HOSTILE.values(), ids=list(HOSTILE))
def hostile(request):
    return request.param


@pytest.fixture
def flows(program):
    """Register orchestrations that use what they are given as names of everything."""

    @program.activity("Echo")
    def echo(ctx, value):
        return value

    @program.orchestration("Flow")
    def flow(ctx, text):
        ctx.set_kv_value(text, text)
        ctx.set_custom_status(text)
        event = yield ctx.wait_for_event(text)
        message = yield ctx.dequeue_event(text)
        echo = yield ctx.schedule_activity("Echo", text).with_tag(text[:60])
        session = yield ctx.schedule_activity_on_session("Echo", text, text)
        child = yield ctx.schedule_sub_orchestration_with_id("Child", f"child {text}", text)
        value = yield ctx.get_kv_value_from_instance(f"kv {text}", text)
        return [event, message, echo, session, child, value]

    @program.orchestration("Child")
    def child(ctx, text):
        return text
        yield

    @program.orchestration("Other")
    def other(ctx, text):
        ctx.set_kv_value(text, text)
        yield ctx.wait_for_event("Never")

    return program


def test_whole_lives_work_with_them(flows, client, backend, hostile, capsys):
    """Names of events, queues, keys, tags, sessions, children; and nobody else is touched."""
    flows.registry.add_orchestration(hostile, lambda ctx, text: text, "1.0.0")
    client.start_orchestration("bystander", "Other", "x")
    client.start_orchestration(f"kv {hostile}", "Other", hostile)
    client.start_orchestration(hostile, "Flow", hostile)
    client.start_orchestration(f"named {hostile}", hostile, hostile)
    flows.drain()
    assert client.get_kv_value(hostile, hostile) == hostile
    client.raise_event(hostile, hostile, hostile)
    client.enqueue_event(hostile, hostile, hostile)
    flows.drain()
    result = client.get_status(hostile)
    assert (result.status, result.error) == ("Completed", None)
    assert result.output == [hostile] * 6
    assert result.custom_status == hostile
    assert client.get_status(f"named {hostile}").output == hostile
    assert client.list_instances_by_status("Running", name=hostile) == []
    assert client.find_instances(name=hostile) == [f"named {hostile}"]
    assert client.get_instance_tree(hostile).all_ids == [hostile, f"child {hostile}"]
    call_command("duroxide", "show", hostile, "--using", backend, "--json")
    assert json.loads(capsys.readouterr().out)["instance"]["instance_id"] == hostile
    client.pause_instance("bystander", reason=hostile, actor=hostile)
    assert client.list_audit_records("bystander")[0].reason == hostile
    client.resume_instance("bystander")
    client.cancel_instance(f"kv {hostile}", hostile)
    flows.drain()
    assert client.get_status(f"kv {hostile}").error == f"canceled: {hostile}"
    assert_healthy(backend)
    deleted = client.delete_instance_bulk(InstanceFilter(instance_ids=[hostile]))
    assert deleted.instances_deleted == 2
    client.prune_instances(2**52, name=hostile)
    assert sorted(client.list_all_instances()) == sorted(["bystander", f"kv {hostile}"])
    assert client.get_status("bystander").status == "Running"


@pytest.mark.parametrize("query", ["%", "_", "100%", "a_", "\\", "a\\b", "'", "[", "*", "a%c", "\U0010ffff"])
def test_a_search_by_prefix_takes_them_literally(flows, client, backend, query):
    names = ["100% sure", "100 sure", "a_c", "abc", "a\\b", "'quoted", "[x]", "*", "%", "_", "a%c", "\\x"]
    names.append("\U0010ffffx")
    for name in names:
        client.start_orchestration(name, "Other", "x")
    found = overview.instances(Database(backend), overview.Filters(query=query), size=100)
    assert sorted(row.instance_id for row in found) == sorted(name for name in names if name.startswith(query))


@pytest.mark.parametrize("query", ["%00", "%ED%A0%80", "%27", "%25", "%5C", "<script>", "1%27%20OR%20%271%27=%271"])
def test_the_admins_list_survives_any_address(flows, client, browser, query):
    client.start_orchestration("one", "Other", "x")
    for parameter in ("q", "state", "preset", "name", "version", "started", "older", "newer", "p", "no_such"):
        response = browser.get(f"/admin/duroxide_django/instance/?{parameter}={query}")
        assert response.status_code in (200, 302), parameter
        assert b"<script>alert" not in response.content
    response = browser.get(f"/admin/duroxide_django/instance/by-id/{query}/")
    assert response.status_code in (302, 404)


@pytest.mark.parametrize(
    "call",
    [
        lambda client, bad: client.start_orchestration(bad, "Other"),
        lambda client, bad: client.start_orchestration("one", bad),
        lambda client, bad: client.raise_event("one", bad),
        lambda client, bad: client.enqueue_event("one", bad, 1),
        lambda client, bad: client.cancel_instance(bad),
        lambda client, bad: client.get_status(bad),
        lambda client, bad: client.get_kv_value("one", bad),
        lambda client, bad: client.find_instances(name=bad),
        lambda client, bad: client.find_instances(status=bad),
        lambda client, bad: client.pause_instance("one", actor=bad),
        lambda client, bad: client.pause_instance(bad),
        lambda client, bad: client.prune_instances(0, name=bad),
        lambda client, bad: client.delete_instance(bad),
        lambda client, bad: client.get_instance_info(bad),
        lambda client, bad: client.list_audit_records(bad),
    ],
)
@pytest.mark.parametrize("bad", ["a\x00b", "a\ud800b", "x" * 513, 7, b"bytes", ["list"]], ids=repr)
def test_texts_that_no_database_stores_are_refused_at_the_call(client, call, bad):
    with pytest.raises(InvalidArgument):
        call(client, bad)


def test_inside_an_orchestration_they_are_refused_at_the_call_too(program, client):
    """Too long or unstorable: the code sees it where it makes the mistake, and nothing is written."""
    found = []

    @program.orchestration("Flow")
    def flow(ctx, _):
        for bad in ("x" * 513, "a\x00b", "a\ud800b", "", 7):
            for call in (
                lambda bad=bad: ctx.schedule_activity(bad, None),
                lambda bad=bad: ctx.schedule_activity_on_session("Any", None, bad),
                lambda bad=bad: ctx.schedule_activity("Any", None).with_tag(bad),
                lambda bad=bad: ctx.schedule_sub_orchestration(bad, None),
                lambda bad=bad: ctx.schedule_sub_orchestration_with_id("Any", bad, None),
                lambda bad=bad: ctx.start_orchestration(bad, "Any", None),
                lambda bad=bad: ctx.start_orchestration("id", bad, None),
                lambda bad=bad: ctx.schedule_sub_orchestration_versioned("Any", bad, None),
                lambda bad=bad: ctx.wait_for_event(bad),
                lambda bad=bad: ctx.dequeue_event(bad),
                # A key may be empty, and is made a text.
                *([lambda bad=bad: ctx.set_kv_value(bad, "value")] if bad and bad != 7 else []),
                lambda bad=bad: ctx.get_kv_value_from_instance(bad, "key"),
            ):
                try:
                    call()
                except (InvalidArgument, LimitExceeded):
                    continue
                found.append(repr(bad)[:20])
        return found
        yield

    client.start_orchestration("one", "Flow")
    program.drain()
    assert client.get_status("one").output == []


def test_nothing_is_ever_unpickled():
    """Payloads are JSON only: no module of the package imports what runs code when it reads data."""
    import ast
    from pathlib import Path

    import duroxide_django

    forbidden = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "yaml"}
    for file in Path(duroxide_django.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not forbidden & {name.partition(".")[0] for name in names}, file
            assert not (isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("eval", "exec")), file


def test_an_unknown_id_stays_unknown(client, hostile):
    with pytest.raises(InstanceNotFound):
        client.raise_event(hostile, "Go")
