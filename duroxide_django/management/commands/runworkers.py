"""``manage.py runworkers``: run orchestrations and activities until told to stop."""

from __future__ import annotations

import logging
import signal
import threading
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import InterfaceError, OperationalError, connections

from duroxide_django.conf import settings
from duroxide_django.exceptions import DuroxideError
from duroxide_django.options import RuntimeOptions, TagFilter
from duroxide_django.runtime.health import Probes, Reporter, Source, health_of
from duroxide_django.runtime.runtime import Runtime
from duroxide_django.runtime.supervisor import Parent, Supervisor, child_command

_TICK_S = 0.1
#: A child that is silent for so many seconds beyond the turn time-out can't end itself any more.
_SILENT_S = 5.0
#: A child that has not ended so many seconds after its activities' time was up never will.
_STOP_S = 15.0


class Command(BaseCommand):
    """Exit codes: 0 stopped cleanly, 1 a worker could not start or died."""

    help = (
        "Run durable workflows: computes orchestrations and runs activities. SIGTERM or Ctrl-C drains: running "
        "activities end, what is left is given back; a second signal ends at once."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """See BaseCommand."""
        parser.add_argument("--processes", type=int, default=1, help="Worker processes to run and restart (default 1).")
        parser.add_argument("--using", help="Database alias (default: DUROXIDE['DATABASE']).")
        parser.add_argument("--concurrency", type=int, help="Slots for activities in each process.")
        parser.add_argument("--tag", action="append", dest="tags", help="Serve this tag too; may be repeated.")
        parser.add_argument("--only-tags", action="store_true", help="Serve no untagged activities.")
        parser.add_argument("--no-activities", action="store_true", help="Run orchestrations only.")
        parser.add_argument("--no-orchestrations", action="store_true", help="Run activities only.")
        parser.add_argument("--node-id", help="Stable identity for sessions, for example a pod's name.")
        parser.add_argument("--log-level", help="debug, info, warning or error.")
        parser.add_argument("--log-format", choices=["json", "pretty", "compact"])
        parser.add_argument("--health-port", type=int, help="Serve /live, /ready and /metrics on this port.")
        parser.add_argument("--health-host", default="127.0.0.1", help="Address for it (default: loopback only).")
        parser.add_argument("--health-file", help="Touch this file every few seconds while the worker is live.")
        parser.add_argument("--drain", action="store_true", help="End as soon as nothing is left that is due now.")

    def handle(self, *args: Any, **options: Any) -> None:
        """See BaseCommand."""
        if options["processes"] < 1:
            raise CommandError("--processes must be at least 1.")
        if options["processes"] > 1:
            if options["drain"]:
                raise CommandError("--drain works with one process.")
            self._supervise(options)
            return
        try:
            parent, reporter = Parent(), Reporter()
            runtime = Runtime(options=_runtime_options(options), using=options["using"])
            self._serve(runtime, parent, reporter, options)
        except DuroxideError as exc:
            raise CommandError(str(exc)) from exc

    def _serve(self, runtime: Runtime, parent: Parent, reporter: Reporter, options: dict[str, Any]) -> None:
        stop = threading.Event()
        signals = 0

        def on_signal(_number: int, _frame: object) -> None:
            nonlocal signals
            signals += 1
            stop.set()
            if signals > 1:
                signal.raise_signal(signal.SIGKILL)

        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, on_signal)
        probes = self._probes(lambda: [health_of(runtime)], options)
        probes.start()
        # Also for a first turn that hangs before start() has returned.
        reporter.beat(runtime)
        runtime.start()
        self.stdout.write(f"duroxide worker {runtime.config.worker_id} serves {runtime.db.alias!r}. Ctrl-C drains.")
        self.stdout.flush()
        while runtime.is_alive and not runtime.hangs and not stop.wait(_TICK_S):
            probes.beat()
            reporter.beat(runtime)
            if parent.is_gone():
                self.stderr.write("The supervisor is gone; draining.")
                break
            if options["drain"] and _is_idle(runtime):
                break
        hangs, died = runtime.hangs, not runtime.is_alive
        if not hangs:
            # A hanging loop can't be stopped, and what it held is given back already.
            runtime.shutdown(settings.SHUTDOWN_TIMEOUT_MS)
        probes.stop()
        if hangs:
            raise CommandError(f"The worker hangs, so it ends: {hangs}. Whoever supervises it starts another one.")
        if died:
            raise CommandError("The engine loop died; see the log.")
        self.stdout.write("duroxide worker stopped.")

    def _supervise(self, options: dict[str, Any]) -> None:
        silent_s = settings.TURN_TIMEOUT_MS / 1000 + _SILENT_S
        stop_s = settings.SHUTDOWN_TIMEOUT_MS / 1000 + _STOP_S
        command, count = child_command(_child_arguments(options)), options["processes"]
        supervisor = Supervisor(command, count, silent_s=silent_s, stop_s=stop_s)
        code = supervisor.run(self._probes(supervisor.health, options))
        if code:
            raise CommandError("A worker process ended badly.", returncode=code)

    def _probes(self, source: Source, options: dict[str, Any]) -> Probes:
        host, port = options["health_host"], options["health_port"]
        try:
            probes = Probes(source, port=port, host=host, file=options["health_file"])
        except OSError as exc:
            raise CommandError(f"The health port {host}:{port} can't be served: {exc}") from exc
        if probes.port is not None:
            self.stdout.write(f"Health is served on http://{host}:{probes.port}/live, /ready and /metrics.")
            self.stdout.flush()
        return probes


def _is_idle(runtime: Runtime) -> bool:
    try:
        return runtime.is_idle()
    except (OperationalError, InterfaceError):
        # The loop says so; what is left to do is unknown until the database is back.
        connections[runtime.db.alias].close()
        return False


def _runtime_options(options: dict[str, Any]) -> RuntimeOptions:
    tags = options["tags"]
    if options["only_tags"] and not tags:
        raise CommandError("--only-tags needs at least one --tag.")
    tag_filter = None
    if options["no_activities"]:
        tag_filter = TagFilter.NONE
    elif tags:
        tag_filter = TagFilter.tags(tags) if options["only_tags"] else TagFilter.default_and(tags)
    return RuntimeOptions(
        orchestration_concurrency=0 if options["no_orchestrations"] else None,
        worker_concurrency=options["concurrency"],
        worker_tag_filter=tag_filter,
        worker_node_id=options["node_id"],
        log_level=options["log_level"] or _default_log_level(),
        log_format=options["log_format"],
    )


def _default_log_level() -> str | None:
    # Without any set-up Python prints bare messages, without time, level and ids.
    configured = logging.getLogger().handlers or logging.getLogger("duroxide").handlers
    return None if configured else "info"


def _child_arguments(options: dict[str, Any]) -> list[str]:
    arguments = []
    for name in ("using", "concurrency", "node_id", "log_level", "log_format", "settings", "pythonpath"):
        if options.get(name) is not None:
            arguments += [f"--{name.replace('_', '-')}", str(options[name])]
    for tag in options["tags"] or ():
        arguments += ["--tag", tag]
    for name in ("only_tags", "no_activities", "no_orchestrations"):
        if options[name]:
            arguments.append(f"--{name.replace('_', '-')}")
    return arguments
