"""Health of running workers: HTTP on a port, and a file whose time stamp is kept fresh. No payloads are shown."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from duroxide_django.logs import runtime_log
from duroxide_django.runtime.runtime import Runtime

_FILE_S = 5.0
_REPORT_S = 0.5

#: Tells a child of a supervisor which file descriptor takes its reports.
REPORT_VARIABLE = "DUROXIDE_HEALTH_FD"


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What one worker process says of itself.

    Attributes:
        worker: its id.
        live: whether its loop turns; a database that is away doesn't make it dead.
        ready: whether it can do work: live, not stopping, and the database answers.
        counters: its metrics.
    """

    worker: str
    live: bool
    ready: bool
    counters: Mapping[str, int] = field(default_factory=dict)


#: Returns the health of every worker that is asked for.
Source = Callable[[], Sequence[Health]]


def health_of(runtime: Runtime) -> Health:
    """Return the health of a runtime in this process; asks no database."""
    return Health(
        worker=runtime.config.worker_id,
        live=runtime.is_live(),
        ready=runtime.is_ready(),
        counters=dict(runtime.metrics_snapshot() or {}),
    )


def prometheus(workers: Sequence[Health]) -> str:
    """Return the counters in Prometheus' text format 0.0.4."""
    lines = []
    for name in dict.fromkeys(name for health in workers for name in health.counters):
        lines.append(f"# HELP duroxide_{name}_total {name.replace('_', ' ')} of a worker since its start")
        lines.append(f"# TYPE duroxide_{name}_total counter")
        lines += [
            f'duroxide_{name}_total{{worker="{_escaped(health.worker)}"}} {health.counters[name]}'
            for health in workers
            if name in health.counters
        ]
    return "".join(f"{line}\n" for line in lines)


def _escaped(label: str) -> str:
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


class HealthServer:
    """Serves /live, /ready and /metrics. Several workers are live, or ready, if one of them is."""

    def __init__(self, source: Source, port: int, host: str = "127.0.0.1") -> None:
        """
        Args:
            source: the workers to speak for.
            port: 0 takes a free one; see ``port`` afterwards.
            host: the loopback address unless told otherwise.
        """
        self._server = ThreadingHTTPServer((host, port), _handler(source))
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, name="duroxide-health", daemon=True)

    def start(self) -> None:
        """Serve in the background."""
        self._thread.start()

    def stop(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _handler(source: Source) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        #: Nobody needs to know which Python this is.
        server_version, sys_version = "duroxide", ""
        #: A client that sends nothing doesn't keep a thread, in seconds.
        timeout = 10

        def do_GET(self) -> None:
            workers = source()
            if self.path == "/live":
                self._answer_flag("live", {health.worker: health.live for health in workers})
            elif self.path == "/ready":
                self._answer_flag("ready", {health.worker: health.ready for health in workers})
            elif self.path == "/metrics":
                self._answer(HTTPStatus.OK, prometheus(workers), "text/plain; version=0.0.4; charset=utf-8")
            else:
                self._answer(HTTPStatus.NOT_FOUND, "", "text/plain")

        def _answer_flag(self, name: str, workers: dict[str, bool]) -> None:
            good = any(workers.values())
            status = HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE
            self._answer(status, json.dumps({name: good, "workers": workers}), "application/json")

        def _answer(self, status: HTTPStatus, text: str, content_type: str) -> None:
            body = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            runtime_log.debug("health request", request=format % args)

    return Handler


class HealthFile:
    """Touches a file every few seconds while a worker is live, for probes that can't speak HTTP."""

    def __init__(self, path: str, source: Source) -> None:
        self._path = Path(path)
        self._source = source
        self._next = 0.0

    def beat(self) -> None:
        """Touch the file if it is time to and a worker is live."""
        now = time.monotonic()
        if now >= self._next and any(health.live for health in self._source()):
            self._path.touch()
            self._next = now + _FILE_S

    def remove(self) -> None:
        """Delete the file: the workers have stopped."""
        self._path.unlink(missing_ok=True)


class Probes:
    """The HTTP server and the file that the command line asked for."""

    def __init__(self, source: Source, *, port: int | None, host: str, file: str | None) -> None:
        self._server = None if port is None else HealthServer(source, port, host)
        self._file = None if not file else HealthFile(file, source)
        #: The port that is served, or None.
        self.port = None if self._server is None else self._server.port

    def start(self) -> None:
        """Serve in the background."""
        if self._server is not None:
            self._server.start()

    def beat(self) -> None:
        """Keep the file fresh; call it often."""
        if self._file is not None:
            self._file.beat()

    def stop(self) -> None:
        """Stop serving and delete the file."""
        if self._server is not None:
            self._server.stop()
        if self._file is not None:
            self._file.remove()


class Reporter:
    """Tells the supervisor, if there is one, how this process is: a line of JSON through a pipe."""

    def __init__(self) -> None:
        # Taken out: subprocesses of activities don't have this file descriptor.
        text = os.environ.pop(REPORT_VARIABLE, None)
        self._fd = None if text is None else int(text)
        self._next = 0.0
        if self._fd is not None:
            os.set_inheritable(self._fd, False)
            os.set_blocking(self._fd, False)

    def beat(self, runtime: Runtime) -> None:
        """Report if it is time to."""
        now = time.monotonic()
        if self._fd is None or now < self._next:
            return
        self._next = now + _REPORT_S
        line = json.dumps(asdict(health_of(runtime))) + "\n"
        # A supervisor that is frozen reads later or not at all; one that is gone is noticed by Parent.is_gone().
        with suppress(BlockingIOError, BrokenPipeError):
            os.write(self._fd, line.encode())


class Reports:
    """The supervisor's end of a child's pipe.

    Attributes:
        write_fd: what the child inherits; closed here once it runs.
        latest: what it reported last, or None.
        at: when that was, by the monotonic clock.
    """

    def __init__(self) -> None:
        self._read_fd, self.write_fd = os.pipe()
        os.set_blocking(self._read_fd, False)
        self._rest = b""
        self.latest: Health | None = None
        self.at = 0.0

    def handed_over(self) -> None:
        """Close this process's copy of the child's end."""
        os.close(self.write_fd)

    def read(self) -> None:
        """Take in what has arrived."""
        with suppress(BlockingIOError):
            while data := os.read(self._read_fd, 65_536):
                *lines, self._rest = (self._rest + data).split(b"\n")
                if lines:
                    self.latest = Health(**json.loads(lines[-1]))
                    self.at = time.monotonic()

    def close(self) -> None:
        """Let go of the pipe: the child has ended."""
        os.close(self._read_fd)
