"""What users hand over does not appear in log lines, nor in spans, unless LOG_PAYLOADS is set."""

from __future__ import annotations

import logging

import pytest
from django.db import connections

from duroxide_django.engine.registry import Registry

SECRET = "plainsecret"


@pytest.fixture
def logged(caplog):
    """Return the text of everything that was logged, fields and tracebacks included."""
    caplog.set_level(logging.NOTSET)
    for name in ("duroxide", "duroxide.orchestration", "duroxide.activity", "duroxide.runtime"):
        caplog.set_level(logging.DEBUG, name)
    formatter = logging.Formatter()

    def text():
        records = [record for record in caplog.records if record.name.startswith("duroxide")]
        assert records, "nothing was logged"
        return "\n".join(f"{formatter.format(record)} {vars(record)}" for record in records)

    return text


def redeploy(program, function):
    program.registry = Registry()
    program.activity("Work")(lambda ctx, value: value)
    program.orchestration("Flow")(function)


def fails(program, client, backend):
    """A failing activity with retries, and an instance that fails from it."""

    @program.activity("Work")
    def work(ctx, value):
        raise ValueError(f"{SECRET} in {value}")

    @program.orchestration("Flow")
    def flow(ctx, value):
        yield ctx.schedule_activity_with_retry("Work", SECRET, {"max_attempts": 2, "backoff": "none"})

    client.start_orchestration("one", "Flow", SECRET)
    program.drain()
    assert SECRET in client.get_status("one").error


def does_not_fit(program, client, backend):
    """History and code differ in their payloads."""

    def before(ctx, value):
        yield ctx.schedule_activity("Work", f"{SECRET} before")
        yield ctx.wait_for_event("Go")

    def after(ctx, value):
        yield ctx.schedule_activity("Work", f"{SECRET} after")
        yield ctx.wait_for_event("Go")

    redeploy(program, before)
    client.start_orchestration("one", "Flow")
    program.drain()
    redeploy(program, after)
    client.raise_event("one", "Go")
    program.drain(jump=False)
    assert SECRET in str(client.get_blocked("one"))


def is_cancelled_by_force(program, client, backend):
    """A blocked instance is ended with a reason."""
    does_not_fit(program, client, backend)
    client.cancel_instance("one", f"{SECRET} reason", force=True)
    program.drain(jump=False)
    assert SECRET in client.get_status("one").error


def has_a_corrupt_message(program, client, backend):
    """A failure record that is none fails inside the engine."""

    def flow(ctx, value):
        yield ctx.schedule_activity("Missing", SECRET)

    program.orchestration("Flow")(flow)
    client.start_orchestration("one", "Flow")
    program.drain()
    client.fail_activity("one", 2, "boom")
    with connections[backend].cursor() as cursor:
        cursor.execute("UPDATE duroxide_message SET payload = %s", [f"[{SECRET}"])
    program.drain(jump=False)
    assert client.get_blocked("one")["reason"] in ("corrupt_history", "engine_error")


@pytest.mark.parametrize("happens", [fails, does_not_fit, is_cancelled_by_force, has_a_corrupt_message])
def test_no_payload_is_logged(program, client, backend, logged, happens):
    happens(program, client, backend)
    assert SECRET not in logged()


@pytest.mark.parametrize("happens", [fails, does_not_fit, is_cancelled_by_force])
def test_payloads_are_logged_if_so_configured(program, client, backend, logged, settings, happens):
    settings.DUROXIDE = {**settings.DUROXIDE, "LOG_PAYLOADS": True}
    happens(program, client, backend)
    assert SECRET in logged()


def test_with_nondeterminism_that_fails_the_instance(program, client, backend, logged, settings):
    settings.DUROXIDE = {**settings.DUROXIDE, "ON_NONDETERMINISM": "fail"}

    def before(ctx, value):
        yield ctx.schedule_activity("Work", f"{SECRET} before")
        yield ctx.wait_for_event("Go")

    redeploy(program, before)
    client.start_orchestration("one", "Flow")
    program.drain()
    redeploy(program, lambda ctx, value: (yield ctx.schedule_activity("Work", f"{SECRET} after")))
    client.raise_event("one", "Go")
    program.drain()
    assert SECRET in client.get_status("one").error
    assert SECRET not in logged()


def test_a_line_still_says_which_error_it_was(program, client, backend, logged):
    fails(program, client, backend)
    assert "activity 'Work' failed (ValueError), attempt 1 of 2" in logged()


@pytest.mark.parametrize("shown", [False, True])
def test_of_database_errors_only_class_and_code_are_logged(backend, settings, shown):
    """PostgreSQL quotes the offending value in the first line, and the row below it."""
    from django.db import DatabaseError

    from duroxide_django.logs import describe

    settings.DUROXIDE = {**settings.DUROXIDE, "LOG_PAYLOADS": shown}
    statement = "SELECT CAST(%s AS bigint)" if backend == "postgres" else "SELECT abs(%s, 1)"
    with pytest.raises(DatabaseError) as refused, connections[backend].cursor() as cursor:
        cursor.execute(statement, [SECRET])
    if backend == "postgres":
        assert describe(refused.value).startswith("DataError: invalid" if shown else "DataError (22P02)")
    assert (SECRET in describe(refused.value)) == (shown and backend == "postgres")


@pytest.mark.parametrize("shown", [False, True])
def test_spans_name_the_class_of_an_exception_only(program, client, backend, settings, monkeypatch, shown):
    trace = pytest.importorskip("opentelemetry.sdk.trace")
    export = pytest.importorskip("opentelemetry.sdk.trace.export")
    in_memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
    from duroxide_django import tracing

    settings.DUROXIDE = {**settings.DUROXIDE, "LOG_PAYLOADS": shown}
    provider, exporter = trace.TracerProvider(), in_memory.InMemorySpanExporter()
    provider.add_span_processor(export.SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing, "_tracer", provider.get_tracer("tests"))
    fails(program, client, backend)
    spans = [span for span in exporter.get_finished_spans() if span.name == "activity Work"]
    assert len(spans) == 2
    assert "ValueError" in spans[0].status.description
    assert all((SECRET in span.to_json()) == shown for span in spans)
