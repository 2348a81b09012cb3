"""The short version of ``make chaos``: real workers, killed, frozen and stopped; the server restarted."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.chaos.workers import ROOT


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_nothing_is_lost_and_nothing_doubled(kind, tmp_path):
    """Every instance ends with its result or waits for a known reason; what was written is there exactly once."""
    log = tmp_path / "workers.log"
    arguments = ["--instances", "50", "--every", "0.7", "--timeout", "240", "--log", str(log)]
    arguments += ["--lasting", "2", "--away", "4", "--pause", "1"]
    run([sys.executable, "-m", "tests.chaos", kind, *arguments], log)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_a_crowd_of_waiting_instances_holds_nobody_up(kind, tmp_path):
    """The short version of what ``make chaos`` does with 100,000."""
    # Other tests may have all processors: patient, but an instance that is held up takes a minute.
    arguments = ["--waiting", "3000", "--woken", "50", "--patience", "30"]
    run([sys.executable, "-m", "tests.chaos.crowd", kind, *arguments])


def run(command, log=None):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("DUROXIDE", "DATABASE"))}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        try:
            printed, _ = process.communicate(timeout=300)
        finally:
            process.terminate()
    sys.stdout.write(printed)
    said = log.read_text(errors="replace")[-10_000:] if log else ""
    assert process.returncode == 0, printed + said
