"""OpenTelemetry spans around turns and activities, if its API is installed."""

from __future__ import annotations

import subprocess
import sys

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

EXPORTER = InMemorySpanExporter()


@pytest.fixture(scope="session")
def tracing():
    """The SDK as a project sets it up; it can be set up once in a process."""
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(EXPORTER))
    trace.set_tracer_provider(provider)


@pytest.fixture
def spans(tracing):
    """Return the spans that ended in this test, by name."""
    EXPORTER.clear()

    def spans(name):
        return [span for span in EXPORTER.get_finished_spans() if span.name == name]

    yield spans
    EXPORTER.clear()


@pytest.fixture(autouse=True)
def workflows(program):
    def inner():
        with trace.get_tracer("shop").start_as_current_span("inner"):
            pass

    @program.activity("Plain")
    def plain(ctx, input):
        inner()

    @program.activity("Async")
    async def asynchronous(ctx, input):
        inner()

    @program.activity("Atomic", atomic=True)
    def atomic(ctx, input):
        inner()

    @program.activity("Break")
    def break_(ctx, input):
        raise ValueError("no good")

    @program.orchestration("Calling", "1.2.3")
    def calling(ctx, name):
        yield ctx.schedule_activity(name, None)

    @program.orchestration("Retrying")
    def retrying(ctx, name):
        yield ctx.schedule_activity_with_retry(name, None, {"max_attempts": 2, "initial_delay_ms": 1})


class TestActivity:
    @pytest.mark.parametrize("name", ["Plain", "Async", "Atomic"])
    def test_is_a_span_with_its_ids(self, client, start_runtime, spans, name):
        """Of each kind of activity, named after it; the user's own spans are below it."""
        runtime = start_runtime()
        client.start_orchestration("calling-1", "Calling", name)
        client.wait_for_orchestration("calling-1")
        runtime.shutdown()
        (span,) = spans(f"activity {name}")
        assert dict(span.attributes) == {
            "duroxide.instance_id": "calling-1",
            "duroxide.execution_id": 1,
            "duroxide.orchestration_name": "Calling",
            "duroxide.activity_id": 2,
            "duroxide.attempt": 1,
            "duroxide.delivery": 1,
        }
        (inner,) = spans("inner")
        assert inner.parent.span_id == span.context.span_id
        assert inner.context.trace_id == span.context.trace_id

    @pytest.mark.parametrize("name", ["Plain", "Async"])
    def test_is_a_span_under_drain_too(self, client, program, spans, name):
        """Tests see what production sees."""
        client.start_orchestration("calling-1", "Calling", name)
        program.drain()
        assert len(spans(f"activity {name}")) == len(spans("inner")) == 1

    def test_that_fails_says_so(self, client, program, spans):
        """Each attempt is a span with the status error, and the exception's class but not its text."""
        client.start_orchestration("retrying-1", "Retrying", "Break")
        program.drain()
        attempts = spans("activity Break")
        assert [span.attributes["duroxide.attempt"] for span in attempts] == [1, 2]
        for span in attempts:
            assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "ValueError")
            assert span.events == ()

    def test_that_fails_tells_all_if_payloads_may_be_logged(self, client, program, spans, settings):
        """LOG_PAYLOADS: the exception with its text."""
        settings.DUROXIDE = {**settings.DUROXIDE, "LOG_PAYLOADS": True}
        client.start_orchestration("calling-1", "Calling", "Break")
        program.drain()
        (span,) = spans("activity Break")
        (event,) = span.events
        assert event.attributes["exception.type"] == "ValueError"
        assert event.attributes["exception.message"] == "no good"


class TestTurn:
    def test_is_a_span(self, client, program, spans):
        """One for each turn of an instance."""
        client.start_orchestration("calling-1", "Calling", "Plain")
        program.drain()
        turns = spans("turn of Calling")
        assert len(turns) == 2
        assert {span.attributes["duroxide.instance_id"] for span in turns} == {"calling-1"}

    def test_holds_no_payload(self, client, program, spans):
        """Inputs and results stay in the database."""
        client.start_orchestration("calling-1", "Calling", "Plain")
        program.drain()
        for span in EXPORTER.get_finished_spans():
            assert not any("Plain" in str(value) for value in span.attributes.values())


def test_without_the_api_nothing_is_missing():
    """The import is optional."""
    code = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from duroxide_django.tracing import span\n"
        "with span('anything', instance_id='a'): print('ran')"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.stdout.strip() == "ran", ran.stderr
