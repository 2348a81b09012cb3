"""The guide's programs as plain scripts without Django settings, and in processes that are killed."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from duroxide_django import Client, PostgresProvider, RuntimeOptions, SqliteProvider
from tests.acceptance.test_seed_events import approval_program

SCRIPTS = Path(__file__).parent / "scripts"
ROOT = Path(__file__).parents[2]


@pytest.fixture
def environment():
    """Return an environment that knows of no Django settings."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in {"DJANGO_SETTINGS_MODULE", "DATABASE_URL"} and not name.startswith("DUROXIDE")
    }
    return {**inherited, "PYTHONPATH": str(ROOT)}


@pytest.fixture
def run_script(environment, tmp_path):
    """Return a function that runs a script to its end, warnings being errors, and gives what it printed."""

    def run(name, *arguments):
        finished = subprocess.run(
            [sys.executable, "-X", "dev", "-W", "error", str(SCRIPTS / name), *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert finished.returncode == 0, finished.stderr
        assert "Traceback" not in finished.stderr, finished.stderr
        assert "Warning" not in finished.stderr, finished.stderr
        return finished.stdout.splitlines()

    return run


@pytest.mark.slow
class TestPlainScripts:
    """``python script.py``: no settings, no manage.py, no migrate."""

    def test_minimal_example_greets(self, run_script):
        """Program 1 prints its greeting and the process ends by itself."""
        assert run_script("hello.py") == ["Hello, World!"]

    def test_batch_process_accumulates(self, run_script):
        """Program 13 prints the list kept in the process."""
        assert run_script("batch.py") == ["['a', 'b', 'c']"]

    def test_chat_bot_talks_over_two_processes(self, run_script, tmp_path):
        """Program 18 on a file: one process hears the greeting, the next one the goodbye."""
        file = str(tmp_path / "new folder" / "chat.sqlite3")
        assert run_script("chat.py", file, "first") == ["Echo: Hello!"]
        assert run_script("chat.py", file, "last") == ["Done after 2 msgs"]


@pytest.fixture(params=["sqlite-file", "postgres"])
def location(request, database_access, tmp_path):
    """Return the arguments that lead script approval.py to a store that outlives its process."""
    if request.param == "sqlite-file":
        return ["sqlite", str(tmp_path / "workflows.sqlite3")]
    return ["postgres", request.getfixturevalue("postgres_url"), f"test_{uuid.uuid4().hex[:12]}"]


@pytest.fixture
def provider(location):
    """Return the same store as seen from this process."""
    kind, *where = location
    return SqliteProvider.open(*where) if kind == "sqlite" else PostgresProvider.connect_with_schema(*where)


@pytest.fixture
def worker(location, environment, tmp_path):
    """Return a running process of script approval.py."""
    command = [sys.executable, str(SCRIPTS / "approval.py"), *location]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=pipe, text=True) as process:
        yield process
        process.kill()


@pytest.mark.slow
class TestKilledProcess:
    """Program 7 under a process that gets no chance to say goodbye."""

    def test_another_process_finishes_what_was_waiting(self, provider, worker, kinds, start_runtime, wait_until):
        """Killed while the instance waits: the next runtime goes on from the last committed turn."""
        client = Client(provider)
        client.start_orchestration("instance-1", "ApprovalWorkflow", {"amount": 7})
        assert worker.stdout.readline() == "requested\n"
        wait_until(lambda: "ExternalSubscribed" in kinds("instance-1"), timeout_s=20)
        worker.kill()
        worker.wait()

        client.raise_event("instance-1", "approval", {"approved": True})
        done = []
        start_runtime(approval_program, done=done)
        assert client.wait_for_orchestration("instance-1").output == "approved"
        assert done == [("Execute", {"amount": 7})]

    def test_another_process_repeats_the_activity_that_was_running(
        self, provider, worker, kinds, start_runtime, wait_until
    ):
        """Killed inside an activity: it runs again once its lease has run out, and its result counts once."""
        client = Client(provider)
        client.start_orchestration("instance-1", "ApprovalWorkflow", {"amount": 7})
        client.raise_event("instance-1", "approval", {"approved": True})
        assert worker.stdout.readline() == "requested\n"
        assert worker.stdout.readline() == "executing\n"
        worker.kill()
        worker.wait()

        done = []
        options = RuntimeOptions(worker_lock_timeout_ms=2000)
        start_runtime(approval_program, options=options, done=done)
        assert client.wait_for_orchestration("instance-1", 20000).output == "approved"
        assert done == [("Execute", {"amount": 7})]
        assert kinds("instance-1").count("ActivityScheduled") == 2
        assert kinds("instance-1").count("ActivityCompleted") == 2
