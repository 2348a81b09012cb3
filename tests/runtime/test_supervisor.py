"""The parent of several workers: it restarts what dies, more and more slowly, and takes all along when it ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time

import pytest

from duroxide_django.runtime.supervisor import reap

PROGRAM = """
import logging, sys
logging.basicConfig(format="%(created)f %(message)s", stream=sys.stdout, level=logging.INFO)
from duroxide_django.runtime.health import Probes
from duroxide_django.runtime.supervisor import Supervisor
supervisor = Supervisor([sys.executable, "-c", sys.argv[1]], 1, silent_s=float(sys.argv[2]), stop_s=1,
    first_report_s=float(sys.argv[3]))
sys.exit(supervisor.run(Probes(supervisor.health, port=None, host="127.0.0.1", file=None)))
"""


@pytest.fixture
def supervise(tmp_path):
    """Run a supervisor of one child with this Python code: ``supervise(code)`` gives the process and its lines."""
    made = []

    def start(code, *, silent_s=30, first_report_s=30):
        output = tmp_path / "output"
        with output.open("wb") as stream:
            process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, code, str(silent_s), str(first_report_s)],
                stdout=stream,
                stderr=stream,
                env={**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings"},
            )
        made.append(process)
        return process, lambda: output.read_text().splitlines()

    yield start
    for process in made:
        process.terminate()
        process.wait(30)


class TestBackOff:
    def test_grows_while_children_die_soon(self, supervise, wait_until):
        """A deploy that can't start doesn't spin: 1, 2, 4 … seconds."""
        _, lines = supervise("raise SystemExit(3)")
        wait_until(lambda: len(lines()) >= 3, timeout_s=60)
        found = [re.fullmatch(r"([\d.]+) Worker process 0 ended with 3; restarting.*", line) for line in lines()[:3]]
        assert all(found), lines()
        first, second, third = (float(match[1]) for match in found)
        assert second - first >= 1.0
        assert third - second >= 2.0

    def test_does_not_keep_it_from_ending(self, supervise, wait_until):
        """SIGTERM during a pause ends at once, with exit code 0."""
        process, lines = supervise("raise SystemExit(3)")
        # The pause after the third death is 4 s.
        wait_until(lambda: len(lines()) >= 3, timeout_s=60)
        process.send_signal(signal.SIGTERM)
        asked = time.monotonic()
        assert process.wait(30) == 0
        assert time.monotonic() - asked < 3.5


class TestStopping:
    def test_does_not_wait_for_ever(self, supervise, wait_until, tmp_path):
        """A child that doesn't end by SIGTERM is killed when its time is up; the exit code tells."""
        mark = tmp_path / "deaf"
        process, lines = supervise(
            "import signal, time, pathlib; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
            f"pathlib.Path({str(mark)!r}).touch(); time.sleep(600)"
        )
        wait_until(mark.exists, timeout_s=60)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 1
        assert "A worker process has not ended 1 s after SIGTERM; killing it" in lines()[0]


class TestSilence:
    #: Reports once, and never again.
    REPORTS = (
        "import json, os, time; fd = int(os.environ['DUROXIDE_HEALTH_FD']);"
        "os.write(fd, (json.dumps(dict(worker='w', live=True, ready=True, counters={})) + chr(10)).encode());"
        "time.sleep(600)"
    )

    def test_of_a_child_that_had_reported_ends_it(self, supervise, wait_until):
        """It hangs so badly that it can't even say so: killed, and replaced."""
        _, lines = supervise(self.REPORTS, silent_s=1)
        wait_until(lambda: len(lines()) >= 2, timeout_s=60)
        assert "Worker process 0 was silent for 1 s; killing it" in lines()[0]
        assert "Worker process 0 ended with -9; restarting" in "".join(lines())

    def test_of_a_child_that_stood_still_with_its_supervisor_is_forgiven(self, supervise, wait_until, tmp_path):
        """A container that was paused: the child could not report, and goes on."""
        mark = tmp_path / "child"
        code = (
            "import json, os, pathlib, time; fd = int(os.environ['DUROXIDE_HEALTH_FD']);"
            "line = json.dumps(dict(worker='w', live=True, ready=True, counters={})) + chr(10);\n"
            "while True:\n"
            "    os.write(fd, line.encode()); time.sleep(0.1)\n"
            f"    pathlib.Path({str(mark)!r}).write_text(str(os.getpid()))"
        )
        process, lines = supervise(code, silent_s=3)
        wait_until(lambda: mark.exists() and mark.read_text(), timeout_s=60)
        both = [process.pid, int(mark.read_text())]
        for pid in reversed(both):
            os.kill(pid, signal.SIGSTOP)
            time.sleep(0.5)  # The supervisor reads all that was reported, so that the next report is a late one.
        time.sleep(4)
        for pid in both:
            os.kill(pid, signal.SIGCONT)
            time.sleep(0.5)
        mark.unlink()
        wait_until(lambda: mark.exists() and mark.read_text(), timeout_s=60)
        assert int(mark.read_text()) == both[1]
        assert lines() == []

    def test_of_a_child_that_never_reports_ends_it(self, supervise, wait_until):
        """It hangs while the project is imported: killed once, and replaced."""
        _, lines = supervise("import time; time.sleep(600)", silent_s=0.5, first_report_s=1)
        wait_until(lambda: len(lines()) >= 2, timeout_s=60)
        assert "Worker process 0 did not report within 1 s of its start; killing it" in lines()[0]
        assert "Worker process 0 ended with -9; restarting" in lines()[1]

    def test_of_a_child_that_still_starts_is_patience(self, supervise):
        """Importing a large project takes its time."""
        process, lines = supervise("import time; time.sleep(600)", silent_s=0.5)
        time.sleep(2.5)
        assert process.poll() is None
        assert lines() == []


class TestOrphans:
    def test_that_ended_are_reaped_and_own_children_left_alone(self):
        """As PID 1 the supervisor is the parent of what its children leave behind."""
        command = [sys.executable, "-c", ""]
        own, orphan = subprocess.Popen(command), subprocess.Popen(command)
        for process in (own, orphan):
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        reap({own.pid})
        assert own.wait(0) == 0
        reap(())
        with pytest.raises(ChildProcessError):
            os.waitpid(orphan.pid, 0)
        orphan.wait()
