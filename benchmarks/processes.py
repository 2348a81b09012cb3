"""The processes that are measured: start them, call them, read their CPU time and memory, end them."""

import json
import os
import select
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
END_PATIENCE_S = 15
#: What an engine might read from the environment and we don't mean.
FOREIGN = ("DJANGO_SETTINGS_MODULE", "DATABASE_URL", "DUROXIDE_", "DBOS_", "ABSURD_", "PG", "RUST_LOG", "PYTHON")


class CallFailedError(RuntimeError):
    """A process of an engine reported an error, or died."""


class TookTooLongError(RuntimeError):
    """A process of an engine didn't answer in time."""


class Child:
    """A process of ``benchmarks.child`` in the environment of one engine."""

    def __init__(self, python, engine, store, log, path=""):
        environment = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
        environment["PYTHONPATH"] = str(ROOT)
        environment["PATH"] = os.pathsep.join(filter(None, [path, os.environ.get("PATH", os.defpath)]))
        self.log = Path(log)
        with self.log.open("ab") as stream:
            self.process = subprocess.Popen(
                [str(python), "-m", "benchmarks.child", engine, store.backend, store.place],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                env=environment,
                cwd=self.log.parent,
            )

    @property
    def pid(self):
        return self.process.pid

    def call(self, name, *, timeout_s=120.0, **arguments):
        """Have the process do something; returns its result.

        Raises:
            CallFailedError: it raised an error or died.
            TookTooLongError: no answer in time; the process can't be used any more.
        """
        line = json.dumps({"name": name, "arguments": arguments}) + "\n"
        try:
            self.process.stdin.write(line.encode())
            self.process.stdin.flush()
        except BrokenPipeError:
            raise CallFailedError(f"{name}: the process is gone\n{self.tail()}") from None
        answer = self._answer(name, time.monotonic() + timeout_s)
        if "error" in answer:
            raise CallFailedError(f"{name}: {answer['error']}\n{self.tail()}")
        return answer["result"]

    def _answer(self, name, deadline):
        # One answer a call: nothing can be left in the buffer of readline().
        while not select.select([self.process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise TookTooLongError(f"{name} took too long")
        line = self.process.stdout.readline()
        if not line:
            raise CallFailedError(f"{name}: the process ended\n{self.tail()}")
        return json.loads(line)

    def tail(self):
        """Return the end of what the process logged."""
        return self.log.read_text(errors="replace")[-3000:]

    def cpu_s(self):
        """Return the CPU seconds that the process has used, or None where /proc doesn't tell."""
        return cpu_s(self.pid)

    def rss_mib(self):
        """Return the process's resident memory, or None where /proc doesn't tell."""
        try:
            pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        except OSError:
            return None
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def end(self, *, patiently=True):
        """End the process: by itself if it does so soon, otherwise at once."""
        if patiently:
            self.process.stdin.close()
            try:
                self.process.wait(END_PATIENCE_S)
            except subprocess.TimeoutExpired:
                patiently = False
        if not patiently:
            self.process.kill()
            self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            stream.close()


def cpu_s(pid):
    """Return the CPU seconds of one process, or None."""
    times = _times(pid)
    return None if times is None else times[0]


def tree_cpu_s(pid):
    """Return the CPU seconds of a process, its children, and those of its children that have ended; or None."""
    own = _times(pid)
    if own is None:
        return None
    return own[0] + own[1] + sum(_times(child)[0] for child in _children(pid) if _times(child))


def _children(pid):
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            fields = _stat(entry.name)
            if fields and int(fields[1]) == pid:
                found.append(int(entry.name))
    return found


def _times(pid):
    fields = _stat(pid)
    if fields is None:
        return None
    ticks = os.sysconf("SC_CLK_TCK")
    user, system, children_user, children_system = (int(value) for value in fields[11:15])
    return (user + system) / ticks, (children_user + children_system) / ticks


def _stat(pid):
    """Return the fields of /proc/PID/stat from the third on: the second, the name, may hold blanks."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
