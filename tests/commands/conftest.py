from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def environment(subprocess_env):
    """The environment of worker processes on this test's backend; warnings are errors there too."""
    return {**subprocess_env, "DJANGO_SETTINGS_MODULE": "tests.commands.settings", "PYTHONWARNINGS": "error"}


@pytest.fixture
def command():
    """Return the command line of ``manage.py runworkers``."""
    return lambda *arguments: [sys.executable, "manage.py", "runworkers", *arguments]


@pytest.fixture
def run(environment, command):
    """Run ``manage.py runworkers`` to its end: ``run("--drain", SETTING="…")``."""

    def run(*arguments, **variables):
        return subprocess.run(
            command(*arguments),
            cwd=ROOT,
            env={**environment, **variables},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


class WorkerProcess:
    """A running ``manage.py runworkers``."""

    def __init__(self, popen):
        self.popen = popen
        self.pid = popen.pid

    def wait_serving(self):
        """Wait until it says that it serves."""
        line = self.popen.stdout.readline()
        assert "serves" in line, f"{line} {self.popen.stderr.read() if not line else ''}"

    def signal(self, number):
        self.popen.send_signal(number)

    def kill(self):
        """Kill it without a chance to say goodbye."""
        self.popen.kill()
        self.popen.wait(60)

    def end(self):
        """Wait for its end; return (exit code, what it printed, what it complained about)."""
        out, err = self.popen.communicate(timeout=120)
        return self.popen.returncode, out, err


@pytest.fixture
def start(environment, command):
    """Start ``manage.py runworkers`` and wait until it serves; whatever still runs is killed after the test."""
    started = []

    def start(*arguments, serving=True, **variables):
        popen = subprocess.Popen(
            command(*arguments),
            cwd=ROOT,
            env={**environment, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        worker = WorkerProcess(popen)
        started.append(worker)
        if serving:
            worker.wait_serving()
        return worker

    yield start
    for worker in started:
        if worker.popen.poll() is None or _group_lives(worker.pid):
            os.killpg(worker.pid, signal.SIGKILL)
        worker.popen.communicate(timeout=60)


def _group_lives(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def folder(tmp_path):
    """The folder through which held activities and the test talk."""
    return Folder(tmp_path)


class Folder:
    def __init__(self, path):
        self.path = path

    def __str__(self):
        return str(self.path)

    def pid_of(self, instance_id, delivery=1):
        """Return the process that runs this delivery, or None if none has begun."""
        file = self.path / f"{instance_id}.{delivery}"
        return int(file.read_text()) if file.exists() else None

    def release(self):
        (self.path / "release").touch()

    def cancelled(self, instance_id):
        return (self.path / f"{instance_id}.cancelled").exists()
