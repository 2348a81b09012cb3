"""Worker processes that can be killed, frozen and restarted."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]

#: What is done to a worker, and how often in proportion.
WEAPONS = {"kill -9": 6, "freeze": 2, "SIGTERM": 2}

#: The first worker is a supervisor with so many children; strikes hit it or one of them.
CHILDREN = 2


class Workers:
    """``count`` processes of ``manage.py runworkers``; whatever dies is started again."""

    def __init__(self, environment: Mapping[str, str], log: Path, *, count: int, concurrency: int = 4) -> None:
        self.environment = dict(environment)
        self.done: Counter[str] = Counter()
        self._log = log.open("ab")
        self._concurrency = concurrency
        self._processes = [self.start(supervised=number == 0) for number in range(count)]

    def start(self, *, supervised: bool = False) -> subprocess.Popen[bytes]:
        """Start one more worker, which this object does not look after; ``supervised``: several under one parent."""
        command = [sys.executable, str(ROOT / "manage.py"), "runworkers", "--concurrency", str(self._concurrency)]
        if supervised:
            command += ["--processes", str(CHILDREN)]
        return subprocess.Popen(
            [*command, "--log-level", "warning"],
            cwd=ROOT,
            env=self.environment,
            stdout=self._log,
            stderr=self._log,
        )

    @property
    def pids(self) -> set[int]:
        """The processes that should be running and serve."""
        supervisor, *others = self._processes
        return {process.pid for process in others} | set(children_of(supervisor.pid))

    def strike(self, dice: random.Random, frozen_s: float, stop: threading.Event) -> None:
        """Do something to one worker."""
        (weapon,) = dice.choices(list(WEAPONS), weights=list(WEAPONS.values()))
        number = dice.randrange(len(self._processes))
        victim = self._processes[number]
        if number == 0 and (children := children_of(victim.pid)) and dice.random() < 0.5:
            self.done["kill -9 of a supervised child"] += 1
            with contextlib.suppress(ProcessLookupError):
                os.kill(dice.choice(children), signal.SIGKILL)
            return
        if victim.poll() is None:
            self.done[f"{weapon} of a supervisor" if number == 0 else weapon] += 1
            if weapon == "kill -9":
                victim.kill()
                victim.wait()
            elif weapon == "SIGTERM":
                victim.terminate()
                try:
                    victim.wait(20)
                except subprocess.TimeoutExpired:
                    self.done["did not end after SIGTERM"] += 1
                    victim.kill()
                    victim.wait()
            else:
                victim.send_signal(signal.SIGSTOP)
                stop.wait(frozen_s)
                victim.send_signal(signal.SIGCONT)

    def replace_dead(self) -> None:
        """Start workers in the place of those that have ended."""
        for number, process in enumerate(self._processes):
            if process.poll() is not None:
                if process.returncode not in (0, -signal.SIGKILL, -signal.SIGTERM):
                    self.done[f"ended by itself with {process.returncode}"] += 1
                self._processes[number] = self.start(supervised=number == 0)

    def stop(self) -> None:
        """Let all end in good order; kill who doesn't."""
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
                process.terminate()
        for process in self._processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._log.close()


def children_of(pid: int) -> list[int]:
    """Return the child processes of a process; none if it is gone."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def worker_environment(url: str, *, lease_ms: int) -> dict[str, str]:
    """Return the environment of processes that work on the database at ``url``."""
    return {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.chaos.settings",
        "CHAOS_DATABASE_URL": url,
        "CHAOS_LEASE_MS": str(lease_ms),
        "PYTHONPATH": str(ROOT),
    }
