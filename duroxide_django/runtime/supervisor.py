"""Several worker processes under one parent: restarted with back-off, replaced when they hang, stopped together."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from duroxide_django.logs import runtime_log
from duroxide_django.runtime.health import REPORT_VARIABLE, Health, Probes, Reports

#: A child that lived so long, in seconds, is restarted at once; a shorter life doubles the pause.
_HEALTHY_S = 10.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0
_TICK_S = 0.2
#: A child has at least so long, in seconds, to import the project and report for the first time.
FIRST_REPORT_S = 60.0
#: A look at the children that is so late, in seconds, means that all processes stood still.
_OVERSLEPT_S = 2.0

#: Tells a child who its supervisor is, so that it ends when that is gone.
PARENT_VARIABLE = "DUROXIDE_SUPERVISOR"


@dataclass(slots=True)
class _Child:
    number: int
    process: subprocess.Popen[bytes] | None = None
    reports: Reports | None = None
    started: float = 0.0
    pause_s: float = _FIRST_PAUSE_S
    restart_at: float = field(default=0.0)
    killed: bool = False


class Supervisor:
    """Keeps ``count`` children running the given command."""

    def __init__(
        self,
        command: Sequence[str],
        count: int,
        *,
        silent_s: float,
        stop_s: float,
        first_report_s: float = FIRST_REPORT_S,
    ) -> None:
        """
        Args:
            silent_s: a child that doesn't report for so many seconds is killed and replaced: it is frozen, or holds
                the interpreter and can't even end itself. It has as long for its first report, or FIRST_REPORT_S.
            first_report_s: see there.
            stop_s: a child that has not ended so many seconds after SIGTERM is killed.
        """
        self._command = list(command)
        self._children = [_Child(number) for number in range(count)]
        self._silent_s = silent_s
        self._first_report_s = max(silent_s, first_report_s)
        self._stop_s = stop_s
        # The first process of a container becomes the parent of what children leave behind.
        self._adopts = os.getpid() == 1
        self._stop = threading.Event()
        self._signals = 0
        self._looked_at = self._awake_since = time.monotonic()

    def health(self) -> list[Health]:
        """Return what the children that run say of themselves; one that is silent for too long is neither."""
        found = []
        for child in self._children:
            reports = child.reports
            if reports is not None and reports.latest is not None:
                # While it drains it has other things to do than to report.
                fresh = self._stop.is_set() or not self._is_silent(reports, time.monotonic())
                latest = reports.latest
                found.append(
                    Health(
                        worker=latest.worker,
                        live=latest.live and fresh,
                        ready=latest.ready and fresh and not self._stop.is_set(),
                        counters=latest.counters,
                    )
                )
        return found

    def run(self, probes: Probes) -> int:
        """Run until a signal arrives; returns the exit code."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        probes.start()
        while not self._stop.is_set():
            now = time.monotonic()
            if now - self._looked_at > _TICK_S + _OVERSLEPT_S:
                # A child that was stopped at the same time could not report.
                self._awake_since = now
            self._looked_at = now
            for child in self._children:
                self._look_after(child)
            if self._adopts:
                reap({child.process.pid for child in self._children if child.process is not None})
            probes.beat()
            self._stop.wait(_TICK_S)
        code = self._end(probes)
        probes.stop()
        return code

    def _on_signal(self, number: int, _frame: object) -> None:
        self._signals += 1
        self._stop.set()
        if self._signals > 1:
            self._send(signal.SIGKILL)

    def _is_silent(self, reports: Reports, now: float) -> bool:
        allowed_s = self._first_report_s if reports.latest is None else self._silent_s
        return now - max(reports.at, self._awake_since) >= allowed_s

    def _look_after(self, child: _Child) -> None:
        now = time.monotonic()
        if child.process is None or child.reports is None:
            if now >= child.restart_at:
                self._start(child, now)
            return
        child.reports.read()
        code = child.process.poll()
        if code is None:
            if self._is_silent(child.reports, now):
                self._kill(child, child.reports.latest)
            return
        healthy = now - child.started >= _HEALTHY_S
        child.pause_s = _FIRST_PAUSE_S if healthy else min(child.pause_s * 2, _LONGEST_PAUSE_S)
        child.restart_at = now if healthy else now + child.pause_s
        reports, child.process, child.reports = child.reports, None, None
        reports.close()
        runtime_log.error(
            f"Worker process {child.number} ended with {code}; restarting",
            pause_s=0 if healthy else child.pause_s,
        )

    def _kill(self, child: _Child, latest: Health | None) -> None:
        if child.process is None or child.killed:
            return
        if latest is None:
            runtime_log.error(
                f"Worker process {child.number} did not report within {self._first_report_s:.0f} s of its start; "
                "killing it"
            )
        else:
            runtime_log.error(
                f"Worker process {child.number} was silent for {self._silent_s:.0f} s; killing it",
                worker_id=latest.worker,
            )
        child.killed = True
        child.process.kill()

    def _start(self, child: _Child, now: float) -> None:
        reports = Reports()
        variables = {PARENT_VARIABLE: str(os.getpid()), REPORT_VARIABLE: str(reports.write_fd)}
        # A session of its own: Ctrl-C in a terminal reaches the supervisor alone, which drains its children.
        child.process = subprocess.Popen(  # noqa: S603 - our own command line
            self._command, start_new_session=True, env={**os.environ, **variables}, pass_fds=[reports.write_fd]
        )
        reports.handed_over()
        reports.at = now
        child.reports = reports
        child.killed = False
        child.started = now

    def _send(self, number: int) -> None:
        for child in self._children:
            if child.process is not None and child.process.poll() is None:
                child.process.send_signal(number)

    def _end(self, probes: Probes) -> int:
        self._send(signal.SIGTERM)
        deadline = time.monotonic() + self._stop_s
        processes = [child.process for child in self._children if child.process is not None]
        while any(process.poll() is None for process in processes):
            probes.beat()
            if time.monotonic() >= deadline:
                runtime_log.error(f"A worker process has not ended {self._stop_s:.0f} s after SIGTERM; killing it")
                self._send(signal.SIGKILL)
                deadline = math.inf
            time.sleep(_TICK_S / 4)
        # One that had not yet taken over its signals ends by ours: it had claimed nothing.
        return 0 if all(process.returncode in (0, -signal.SIGTERM) for process in processes) else 1


def reap(own: Collection[int]) -> None:
    """Remove processes that ended and have no other parent left from the system's table, but for those of ``own``."""
    with suppress(ChildProcessError):
        while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) and ended.si_pid not in own:
            os.waitpid(ended.si_pid, 0)


class Parent:
    """The supervisor that started this process, if one did."""

    def __init__(self) -> None:
        # Taken out: subprocesses of activities have another parent.
        pid = os.environ.pop(PARENT_VARIABLE, None)
        self._pid = None if pid is None else int(pid)

    def is_gone(self) -> bool:
        """Return whether there was a supervisor that has ended."""
        return self._pid is not None and os.getppid() != self._pid


def child_command(arguments: Sequence[str]) -> list[str]:
    """Return the command line that runs ``manage.py runworkers`` with these arguments as this process was run."""
    script = Path(sys.argv[0])
    if script.name == "__main__.py" or not script.is_file():
        return [sys.executable, "-m", "django", "runworkers", *arguments]
    return [sys.executable, str(script), "runworkers", *arguments]
