"""Logs: files and formats, levels and RUST_LOG, the fields on a line, and that payloads never leak (spec 15)."""

from __future__ import annotations

import io
import json
import logging
import sys

import pytest
import structlog
from structlog.testing import capture_logs

from duroxide_django import ClientError, init_tracing
from duroxide_django.logs import FieldsFormatter, configure
from tests.runtime.program import Program

LOGGERS = ["duroxide", "duroxide.orchestration", "duroxide.activity", "duroxide.runtime"]


@pytest.fixture(autouse=True)
def clean_loggers(monkeypatch):
    """Give each test loggers that nobody has set up, and put back what was."""
    monkeypatch.delenv("RUST_LOG", raising=False)
    found = {name: logging.getLogger(name) for name in LOGGERS}
    before = {name: (logger.level, logger.handlers[:], logger.propagate) for name, logger in found.items()}
    for name in LOGGERS:
        logging.getLogger(name).handlers[:] = []
        logging.getLogger(name).setLevel(logging.NOTSET)
        logging.getLogger(name).propagate = True
    yield
    for name, (level, handlers, propagate) in before.items():
        logging.getLogger(name).propagate = propagate
        for handler in logging.getLogger(name).handlers:
            handler.close()
        logging.getLogger(name).handlers[:] = handlers
        logging.getLogger(name).setLevel(level)


@pytest.fixture
def set_root_handlers(monkeypatch):
    """Replace the root logger's handlers, of which pytest has some, by those that a script or a project has."""
    return lambda *handlers: monkeypatch.setattr(logging.getLogger(), "handlers", list(handlers))


@pytest.fixture(autouse=True)
def workflows(program):
    @program.activity("Work")
    def work(ctx, input):
        for level in ("debug", "info", "warn", "error"):
            getattr(ctx, f"trace_{level}")(f"activity {level}")
        return input

    @program.orchestration("Talking", "1.2.3")
    def talking(ctx, input):
        for level in ("debug", "info", "warn", "error"):
            getattr(ctx, f"trace_{level}")(f"orchestration {level}")
        return (yield ctx.schedule_activity("Work", input))


@pytest.fixture
def talk(client, program):
    """Run one instance; return the lines of a log file."""

    def talk(file):
        client.start_orchestration("talking-1", "Talking")
        program.drain()
        return file.read_text().splitlines()

    return talk


class TestFile:
    def test_gets_the_traces(self, talk, tmp_path):
        """Level info and one compact line each, if nothing else is asked for."""
        init_tracing(str(tmp_path / "trace.log"))
        lines = talk(tmp_path / "trace.log")
        assert len(lines) == 6
        assert " INFO  duroxide.orchestration: orchestration info instance_id=talking-1 " in lines[0]
        assert " ERROR duroxide.activity: activity error " in lines[-1]

    def test_is_appended_to(self, talk, tmp_path):
        """What an earlier process wrote stays."""
        file = tmp_path / "trace.log"
        file.write_text("earlier\n")
        init_tracing(str(file), "error")
        assert talk(file)[0] == "earlier"

    @pytest.mark.parametrize(("level", "count"), [("debug", 8), ("info", 6), ("WARN", 4), ("error", 2), ("off", 0)])
    def test_holds_what_its_level_lets_through(self, talk, tmp_path, level, count):
        """Levels in any case; both user targets."""
        init_tracing(str(tmp_path / "trace.log"), level)
        assert len(talk(tmp_path / "trace.log")) == count

    def test_may_be_json(self, talk, tmp_path):
        """One object a line, with the fields as members."""
        init_tracing(str(tmp_path / "trace.log"), "error", "json")
        orchestration, activity = map(json.loads, talk(tmp_path / "trace.log"))
        assert orchestration["target"] == "duroxide.orchestration"
        assert (orchestration["level"], orchestration["message"]) == ("ERROR", "orchestration error")
        assert "timestamp" in orchestration
        assert (activity["activity_name"], activity["activity_id"]) == ("Work", 2)

    def test_may_be_pretty(self, talk, tmp_path):
        """The fields on a line of their own."""
        init_tracing(str(tmp_path / "trace.log"), "error", "pretty")
        message, fields, *_ = talk(tmp_path / "trace.log")
        assert message.endswith("orchestration error")
        assert fields.startswith("    instance_id=talking-1")

    def test_keeps_every_record_of_compact_on_one_line(self, client, program, tmp_path):
        """A message with a line break can't forge a second line."""

        @program.orchestration("Forging")
        def forging(ctx, input):
            ctx.trace_error("first\nsecond")

        init_tracing(str(tmp_path / "trace.log"))
        client.start_orchestration("forging-1", "Forging")
        program.drain()
        assert len((tmp_path / "trace.log").read_text().splitlines()) == 1

    def test_can_be_set_up_once(self, tmp_path):
        """The first set-up wins, the second is an error."""
        init_tracing(str(tmp_path / "first.log"))
        with pytest.raises(ClientError, match="set up already") as caught:
            init_tracing(str(tmp_path / "second.log"))
        assert isinstance(caught.value, RuntimeError)
        assert not (tmp_path / "second.log").exists()

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("missing/folder/trace.log",), "can't be opened"),
            (("trace.log", "loud"), "log_level must be one of"),
            (("trace.log", "info", "xml"), "log_format must be json, pretty or compact, got 'xml'"),
        ],
    )
    def test_that_can_not_be_is_refused(self, tmp_path, monkeypatch, arguments, message):
        """A bad path, level or format; nothing is set up then."""
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ClientError, match=message):
            init_tracing(*arguments)
        assert logging.getLogger("duroxide").handlers == []


class TestRustLog:
    @pytest.mark.parametrize(
        ("directives", "orchestration", "activity"),
        [
            ("debug", 4, 4),
            ("error", 1, 1),
            ("duroxide::orchestration=debug", 4, 3),
            ("duroxide::activity=error", 3, 1),
            ("warn,duroxide::orchestration=info", 3, 2),
            ("duroxide::orchestration=info,warn", 3, 2),
            ("error,duroxide=debug", 4, 4),
            ("duroxide::orchestration=off,duroxide=error", 0, 1),
            ("off", 0, 0),
            ("duroxide::orchestration", 4, 3),
            ("nonsense", 3, 3),
            ("duroxide::activity=loud", 3, 3),
            (" duroxide::activity = error , ", 3, 1),
        ],
    )
    def test_overrides_the_level(self, talk, tmp_path, monkeypatch, directives, orchestration, activity):
        """One level for all, or one for each target, the special before the general; nonsense changes nothing."""
        monkeypatch.setenv("RUST_LOG", directives)
        init_tracing(str(tmp_path / "trace.log"), "info")
        lines = talk(tmp_path / "trace.log")
        assert sum("duroxide.orchestration:" in line for line in lines) == orchestration
        assert sum("duroxide.activity:" in line for line in lines) == activity

    def test_that_can_not_be_understood_is_said(self, tmp_path, monkeypatch):
        """A misspelt level is named in the log."""
        monkeypatch.setenv("RUST_LOG", "duroxide::activity=loud")
        init_tracing(str(tmp_path / "trace.log"))
        assert "RUST_LOG: not understood" in (tmp_path / "trace.log").read_text()
        assert "directive=duroxide::activity=loud" in (tmp_path / "trace.log").read_text()

    def test_alone_turns_logging_on(self, client, start_runtime, monkeypatch, capfd, set_root_handlers):
        """A runtime without any log option writes to stderr when the variable is set."""
        set_root_handlers()
        monkeypatch.setenv("RUST_LOG", "info")
        start_runtime()
        client.start_orchestration("talking-1", "Talking")
        client.wait_for_orchestration("talking-1")
        assert "orchestration info" in capfd.readouterr().err

    def test_left_out_leaves_logging_to_the_project(self, client, start_runtime, capfd):
        """No option, no variable: no handler is added to the project's logging."""
        start_runtime()
        client.start_orchestration("talking-1", "Talking")
        client.wait_for_orchestration("talking-1")
        assert logging.getLogger("duroxide").handlers == []
        assert "orchestration info" not in capfd.readouterr().err


class TestRuntimeOptions:
    def test_format_and_service_are_on_every_line(self, client, start_runtime, capfd):
        """log_level, log_format, service_name and service_version."""
        start_runtime(log_level="warn", log_format="json", service_name="shop", service_version="7")
        client.start_orchestration("talking-1", "Talking")
        client.wait_for_orchestration("talking-1")
        lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
        assert len(lines) == 4
        assert all((line["service_name"], line["service_version"]) == ("shop", "7") for line in lines)

    @pytest.mark.parametrize("style", [None, "compact"])
    def test_write_each_line_once_beside_the_project_s_handlers(
        self, client, start_runtime, capfd, set_root_handlers, style
    ):
        """A project whose root logger writes to stderr too: no line comes twice."""
        set_root_handlers(logging.StreamHandler(sys.stderr))
        start_runtime(log_level="info", log_format=style)
        client.start_orchestration("talking-1", "Talking")
        client.wait_for_orchestration("talking-1")
        assert capfd.readouterr().err.count("orchestration info") == 1

    def test_yield_to_a_file_set_up_before(self, client, start_runtime, tmp_path, capfd):
        """init_tracing was first: the runtime's own set-up gives way, with its level."""
        init_tracing(str(tmp_path / "trace.log"), "info")
        start_runtime(log_level="error", log_format="json")
        client.start_orchestration("talking-1", "Talking")
        client.wait_for_orchestration("talking-1")
        assert "orchestration info" in (tmp_path / "trace.log").read_text()
        assert "orchestration info" not in capfd.readouterr().err


class TestFields:
    def test_of_an_orchestration_s_line(self, talk, tmp_path):
        """Which instance, execution and code spoke."""
        init_tracing(str(tmp_path / "trace.log"), "error", "json")
        line = json.loads(talk(tmp_path / "trace.log")[0])
        assert {name: line[name] for name in line if name not in ("timestamp", "level", "target", "message")} == {
            "instance_id": "talking-1",
            "execution_id": 1,
            "orchestration_name": "Talking",
            "orchestration_version": "1.2.3",
        }

    def test_of_an_activity_s_line(self, talk, tmp_path):
        """The same, with the activity and the worker."""
        init_tracing(str(tmp_path / "trace.log"), "error", "json")
        line = json.loads(talk(tmp_path / "trace.log")[1])
        assert line.pop("worker_id")
        assert {name: line[name] for name in line if name not in ("timestamp", "level", "target", "message")} == {
            "instance_id": "talking-1",
            "execution_id": 1,
            "orchestration_name": "Talking",
            "orchestration_version": "1.2.3",
            "activity_name": "Work",
            "activity_id": 2,
            "attempt": 1,
        }


class TestPayloads:
    def test_are_never_in_the_runtime_s_own_lines(
        self, client, program, start_runtime, tmp_path, monkeypatch, settings
    ):
        """Inputs, results, events, messages, states and KV values stay out, even at the most talkative level."""
        settings.DUROXIDE = {**settings.DUROXIDE, "UNKNOWN_CODE_GRACE_MS": 0}
        monkeypatch.setenv("RUST_LOG", "debug")
        init_tracing(str(tmp_path / "trace.log"), "debug")
        secret = "hunter2"

        @program.activity("Fail")
        def fail(ctx, input):
            raise ValueError("an error's text may be logged")

        @program.orchestration("Secretive")
        def secretive(ctx, input):
            ctx.set_kv_value("key", secret)
            ctx.set_custom_status(secret)
            yield ctx.schedule_activity("Work", secret)
            yield ctx.all([ctx.schedule_activity("Fail", secret), ctx.wait_for_event("go"), ctx.dequeue_event("box")])
            yield ctx.schedule_activity_with_retry("Fail", secret, {"max_attempts": 2, "initial_delay_ms": 1})

        runtime = start_runtime()
        client.start_orchestration("secretive-1", "Secretive", secret)
        client.start_orchestration("unknown-1", "Unknown", secret)
        client.raise_event("secretive-1", "go", secret)
        client.enqueue_event("secretive-1", "box", secret)
        assert client.wait_for_orchestration("secretive-1").status == "Failed"
        client.raise_event("secretive-1", "late", secret)
        runtime.shutdown()
        lines = (tmp_path / "trace.log").read_text().splitlines()
        assert any("no orchestration 'Unknown' is registered" in line for line in lines)
        assert [line for line in lines if secret in line] == []

    def test_are_not_in_the_line_about_a_mismatch(self, client, backend, tmp_path):
        """Code that doesn't fit its history: the instance keeps both inputs, the log neither."""
        init_tracing(str(tmp_path / "trace.log"), "debug")
        for secret in ("hunter1", "hunter2"):
            deployed = Program(backend)
            deployed.activity("Work")(lambda ctx, input: None)

            @deployed.orchestration("Changing")
            def changing(ctx, input, secret=secret):
                yield ctx.schedule_activity("Work", secret)
                yield ctx.wait_for_event("go")

            if secret == "hunter1":
                client.start_orchestration("changing-1", "Changing")
            else:
                client.raise_event("changing-1", "go")
            deployed.drain(jump=False)
        lines = (tmp_path / "trace.log").read_text().splitlines()
        assert any("Instance can't go on" in line for line in lines)
        assert [line for line in lines if "hunter" in line] == []


class TestAnActivitysOwnLoggers:
    """What user code logs tells where it belongs, although it knows nothing of the context."""

    @pytest.fixture(params=["plain", "atomic", "async"])
    def logs_itself(self, request, program):
        logger = structlog.get_logger("shop")

        def work(ctx, input):
            logger.info("working", input=input)
            logging.getLogger("shop").warning("plain")

        async def work_async(ctx, input):
            work(ctx, input)

        function = work_async if request.param == "async" else work
        program.activity("OwnLogs", atomic=request.param == "atomic")(function)

        @program.orchestration("Logs")
        def logs(ctx, input):
            yield ctx.schedule_activity("OwnLogs", input)

    @pytest.fixture
    def captured(self):
        with capture_logs(processors=[structlog.contextvars.merge_contextvars]) as entries:
            yield entries

    @pytest.mark.parametrize("by", ["drain", "worker"])
    def test_carry_its_ids(self, logs_itself, captured, client, program, start_runtime, by):
        client.start_orchestration("logs-1", "Logs", 7)
        if by == "drain":
            program.drain()
        else:
            start_runtime()
            client.wait_for_orchestration("logs-1")
        (entry,) = [entry for entry in captured if entry["event"] == "working"]
        assert entry["instance_id"] == "logs-1"
        assert entry["execution_id"] == 1
        assert (entry["orchestration_name"], entry["orchestration_version"]) == ("Logs", "1.0.0")
        assert (entry["activity_name"], entry["activity_id"], entry["attempt"]) == ("OwnLogs", 2, 1)
        assert entry["worker_id"]
        assert structlog.contextvars.get_contextvars() == {}

    def test_of_the_standard_library_too(self, logs_itself, client, program):
        stream = io.StringIO()
        handler = logging.StreamHandler(stream)
        handler.setFormatter(FieldsFormatter("json"))
        logging.getLogger("shop").addHandler(handler)
        try:
            client.start_orchestration("logs-1", "Logs", 7)
            program.drain()
        finally:
            logging.getLogger("shop").removeHandler(handler)
        line = json.loads(stream.getvalue())
        assert (line["message"], line["instance_id"], line["activity_name"]) == ("plain", "logs-1", "OwnLogs")


def test_configure_does_nothing_unasked():
    """Without level, style and variable the loggers stay as the project has them."""
    configure(level=None, style=None)
    assert logging.getLogger("duroxide").handlers == []
