"""The guide's traces: one line for each, however often the code is replayed."""

from __future__ import annotations

import logging

import pytest

from duroxide_django import RuntimeOptions, TagFilter


@pytest.fixture
def lines(caplog):
    """Return a function that gives the traces logged so far, of every level."""
    for target in ("duroxide", "duroxide.orchestration", "duroxide.activity"):
        caplog.set_level(logging.DEBUG, logger=target)
    targets = ("duroxide.orchestration", "duroxide.activity")
    return lambda: [record for record in caplog.records if record.name in targets]


def traced_program(runtime):
    @runtime.register_activity("Work")
    def work(ctx, input):
        return input.upper()

    @runtime.register_orchestration("Traced")
    def traced(ctx, input):
        ctx.trace_info("[v1.0.0] starting workflow")
        ctx.trace_debug(f"input: {input}")

        result = yield ctx.schedule_activity("Work", input)

        ctx.trace_info(f"[v1.0.0] completed: {result}")
        return result


def fetch_program(runtime, requests):
    @runtime.register_activity("FetchData")
    def fetch_data(ctx, input):
        ctx.trace_info(f"fetching data for {input['id']}")
        data = requests.get(input["url"]).json()
        ctx.trace_info(f"got {len(data)} records")
        return data

    @runtime.register_orchestration("Fetch")
    def fetch(ctx, input):
        return (yield ctx.schedule_activity("FetchData", input))


class Requests:
    """Stands for the library of that name: every address has two records."""

    def get(self, url):
        return self

    def json(self):
        return [1, 2]


def said(records):
    """Return level and text of each line."""
    return [(record.levelname, record.getMessage()) for record in records]


class TestTraced:
    """Program 20: traces of an orchestration."""

    def test_writes_each_line_once(self, client, start_runtime, lines):
        """Two turns, three lines, at the levels asked for."""
        start_runtime(traced_program)
        client.start_orchestration("traced-1", "Traced", "abc")
        assert client.wait_for_orchestration("traced-1").output == "ABC"
        assert said(lines()) == [
            ("INFO", "[v1.0.0] starting workflow"),
            ("DEBUG", "input: abc"),
            ("INFO", "[v1.0.0] completed: ABC"),
        ]

    def test_writes_each_line_once_over_a_restart(self, client, start_runtime, kinds, wait_until, lines):
        """A second runtime replays the first turn silently."""
        no_workers = RuntimeOptions(worker_tag_filter=TagFilter.NONE)
        first = start_runtime(traced_program, options=no_workers)
        client.start_orchestration("traced-1", "Traced", "abc")
        wait_until(lambda: "ActivityScheduled" in kinds("traced-1"))
        first.shutdown()
        assert said(lines()) == [("INFO", "[v1.0.0] starting workflow"), ("DEBUG", "input: abc")]
        start_runtime(traced_program)
        client.wait_for_orchestration("traced-1")
        assert said(lines())[2:] == [("INFO", "[v1.0.0] completed: ABC")]

    def test_names_the_instance_on_every_line(self, client, start_runtime, lines):
        """A line tells which instance, execution, orchestration and version wrote it."""
        start_runtime(traced_program)
        client.start_orchestration("traced-1", "Traced", "abc")
        client.wait_for_orchestration("traced-1")
        assert len(lines()) == 3
        for line in lines():
            assert line.name == "duroxide.orchestration"
            assert line.instance_id == "traced-1"
            assert line.execution_id == 1
            assert line.orchestration_name == "Traced"
            assert line.orchestration_version == "1.0.0"


class TestTracesOfActivities:
    """The traces of program 19's kin, FetchData."""

    def test_carry_the_activity_with_them(self, client, start_runtime, lines):
        """Besides the instance, an activity's line tells its name, its id and its worker."""
        start_runtime(fetch_program, requests=Requests())
        client.start_orchestration("fetch-1", "Fetch", {"id": 3, "url": "https://example.com/3"})
        assert client.wait_for_orchestration("fetch-1").output == [1, 2]
        assert said(lines()) == [("INFO", "fetching data for 3"), ("INFO", "got 2 records")]
        for line in lines():
            assert line.name == "duroxide.activity"
            assert line.instance_id == "fetch-1"
            assert line.activity_name == "FetchData"
            assert line.activity_id == 2
            assert line.worker_id
