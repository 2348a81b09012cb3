"""Run the shop: web server, worker, one order from beginning to end; then go on until Ctrl-C.

``python -m example_project.demo`` needs nothing but the installed packages. ``--once`` ends after the order,
with exit code 0 if it was shipped; so does a run without a terminal.
"""

from __future__ import annotations

import argparse
import io
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from example_project.visitor import Visitor

T = TypeVar("T")

ROOT = Path(__file__).resolve().parent.parent
HOST = "127.0.0.1"
DEFAULT_PORT = 8000
USER = "demo"
SERVER_STARTS_WITHIN_S = 60
ORDER_ENDS_WITHIN_S = 120
CHILD_ENDS_WITHIN_S = 15
#: How much of a child's output an error message repeats.
LOG_TAIL_CHARS = 3000
#: How much of the workflow's history is printed: its beginning and its end.
FIRST_EVENTS, LAST_EVENTS = 9, 3


class DemoFailed(Exception):
    """The demo could not do what it should."""


class Child:
    """A process of the demo, with its output in a file."""

    def __init__(self, name: str, arguments: list[str], log: Path) -> None:
        self.name = name
        self.log = log
        with log.open("wb") as output:
            # A session of its own: Ctrl-C reaches the demo alone, which then ends its children in order.
            self.process = subprocess.Popen(  # noqa: S603 - our own commands
                [sys.executable, "-m", "django", *arguments],
                cwd=ROOT,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def check(self) -> None:
        """Raise DemoFailed, with the end of its output, if the process has ended."""
        if (code := self.process.poll()) is not None:
            raise DemoFailed(f"The {self.name} ended with exit code {code}. Its last words:\n{self.last_words()}")

    def output(self) -> str:
        """Return what the process has written so far."""
        return self.log.read_text(errors="replace")

    def last_words(self) -> str:
        """Return the end of the process's output."""
        return self.output()[-LOG_TAIL_CHARS:].strip() or "(nothing)"

    def stop(self) -> None:
        """Ask the process to end; end it, and whatever it started, if it does not."""
        self.process.terminate()
        try:
            self.process.wait(CHILD_ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            print(f"The {self.name} did not end by itself; it is killed.", file=sys.stderr)
        finally:  # Also when a second Ctrl-C cuts the waiting short.
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def main(arguments: list[str] | None = None) -> int:
    """Run the demo and return the exit code."""
    options = parse(arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # An arrow must not stop the demo on an old terminal.
    once = options.once or not sys.stdin.isatty()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        run(options.port, once=once)
    except KeyboardInterrupt:
        if once:
            print("\nThe demo was interrupted.")
            return 130
        print("\nEverything is stopped. What you ordered is kept for the next time.")
    except DemoFailed as failure:
        print(f"\nThe demo failed. {failure}", file=sys.stderr)
        return 1
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m example_project.demo", description="Run the example shop.")
    parser.add_argument("--once", action="store_true", help="end after one order; the default without a terminal")
    parser.add_argument("--port", type=int, help=f"the web server's port; default: {DEFAULT_PORT}, or a free one")
    options = parser.parse_args(arguments)
    if options.port is not None and not 0 < options.port < 1 << 16:
        parser.error(f"--port must be from 1 to 65535, got {options.port}")
    return options


def run(port: int | None, *, once: bool) -> None:
    """Prepare the database, start the processes, place one order, and keep serving unless ``once``."""
    password = os.environ.get("SHOP_DEMO_PASSWORD") or secrets.token_urlsafe(6)
    prepare(password)
    with ExitStack() as stack:
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="shop-demo-")))
        print("Starting a worker and the web server …", flush=True)
        worker = stack.enter_context(child("worker", ["runworkers"], logs / "worker.log"))
        server, base_url = stack.enter_context(web_server(port, logs / "server.log"))
        children = [server, worker]
        visitor = Visitor(base_url)
        order_path = place_order(visitor)
        final = follow_order(visitor, order_path, children)
        report(order_path)
        print_where_to_look(visitor.base_url, order_path, password)
        if once:
            print("\nThere is no terminal, or --once was given: the demo ends here. In a terminal it goes on serving.")
        if final["status"] != "shipped":
            raise DemoFailed(f"The order was expected to be shipped. The worker's last words:\n{worker.last_words()}")
        if not once:
            print(f"\nTheir output is in {logs}. Ctrl-C stops everything.", flush=True)
            serve(children)


def prepare(password: str) -> None:
    """Create the tables and the sample data."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "example_project.settings")
    import django
    from django.core.exceptions import ImproperlyConfigured
    from django.core.management import CommandError, call_command
    from django.db import DatabaseError, connections

    print("Preparing the database …", flush=True)
    try:
        django.setup()
        connections.all()
    except ImproperlyConfigured as error:
        raise DemoFailed(f"The database could not be prepared: {error}") from error
    try:
        call_command("migrate", interactive=False, verbosity=0)
        call_command("seed_shop", demo_user=USER, demo_password=password, verbosity=0)
    except (DatabaseError, CommandError) as error:
        raise DemoFailed(f"The database could not be prepared: {error}") from error
    finally:
        connections.close_all()


@contextmanager
def child(name: str, arguments: list[str], log: Path) -> Iterator[Child]:
    """Run a management command in a process of its own for as long as the block runs."""
    started = Child(name, arguments, log)
    try:
        yield started
    finally:
        started.stop()


@contextmanager
def web_server(port: int | None, log: Path) -> Iterator[tuple[Child, str]]:
    """Serve the shop on ``port``; without one on the default port or, if somebody has that, on a free one."""
    candidates = [port] if port else [DEFAULT_PORT, free_port()]
    for candidate in candidates:
        address = f"{HOST}:{candidate}"
        with child("web server", ["runserver", "--noreload", address], log) as server:
            try:
                wait_until_ready(server, address)
            except DemoFailed:
                if candidate == candidates[-1]:
                    raise
                continue
            yield server, f"http://{address}"
            return


def wait_until_ready(server: Child, address: str) -> None:
    """Return when the web server says that it serves ``address``."""
    # Its own word counts: on a port that somebody else has, that somebody would answer.
    complaint = "The web server is not ready."
    wait_for(lambda: address in server.output(), [server], SERVER_STARTS_WITHIN_S, complaint)


def free_port() -> int:
    """Return a port that nobody has."""
    with closing(socket.socket()) as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def wait_for(condition: Callable[[], T | None], children: list[Child], timeout_s: float, complaint: str) -> T:
    """Return the first truthy value of ``condition``; raise DemoFailed if a child or the time ends."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        for process in children:
            process.check()
        if time.monotonic() > deadline:
            words = "\n".join(f"{process.name}: {process.last_words()}" for process in children)
            raise DemoFailed(f"{complaint} (waited {timeout_s:.0f} s)\n{words}")
        time.sleep(0.1)
    return value


def attempt(request: Callable[[], T]) -> T | None:
    """Return what ``request`` does, None if nobody answers; raise DemoFailed if the answer is an error."""
    try:
        return request()
    except urllib.error.HTTPError as error:
        raise DemoFailed(f"{error.url} answered {error.code} {error.reason}.") from error
    except OSError:
        return None


def place_order(visitor: Visitor) -> str:
    """Order two things through the shop's own form and return the path of the order's page."""
    shelf = attempt(lambda: visitor.get("/"))
    if shelf is None:
        raise DemoFailed("The web server is gone.")
    form = shelf.form("/orders/")
    for name in [name for name in form.values if name.startswith("quantity_")][:2]:
        form.values[name] = "1"
    # The card that needs a second attempt shows the most.
    form.values.update(customer="Ada Lovelace", email="ada@example.com", card="stumbles")
    page = attempt(lambda: visitor.send(form))
    if page is None:
        raise DemoFailed("The web server is gone.")
    return urllib.parse.urlsplit(page.url).path


def follow_order(visitor: Visitor, order_path: str, children: list[Child]) -> dict[str, Any]:
    """Wait until the order's workflow has ended; return its last state."""
    print("An order is placed; the worker carries it out:", flush=True)
    shown = ""

    def look() -> dict[str, Any] | None:
        nonlocal shown
        state = attempt(lambda: visitor.get_json(f"{order_path}progress.json"))
        if state is None:
            return None
        if state["custom_status"] not in ("", shown):
            shown = state["custom_status"]
            print(f"  … {shown}", flush=True)
        return state if state["finished"] else None

    return wait_for(look, children, ORDER_ENDS_WITHIN_S, "The order does not end.")


def report(order_path: str) -> None:
    """Print how the order went, and its workflow's history in short."""
    from duroxide_django import Client
    from example_project.shop import progress
    from example_project.shop.models import Order

    order = Order.objects.get(code=order_path.strip("/").rpartition("/")[2])
    client = Client()
    result = client.get_status(order.instance_id)
    print(f"\nOrder {order.code} of {order.total} €: {order.get_status_display()}")
    print(f"  workflow  {order.instance_id}: {result.status}, output {result.output}")
    steps = " → ".join(step.text for step in progress.of_order(order).steps)
    print(f"  steps     {steps}")
    history = client.read_execution_history(order.instance_id, 1)
    lines = [f"{event.event_id:>3} {event.kind:<26} {(event.data or '')[:60]}" for event in history]
    if len(lines) > FIRST_EVENTS + LAST_EVENTS:
        lines[FIRST_EVENTS:-LAST_EVENTS] = ["  …"]
    print("  history " + "\n          ".join(lines))


def print_where_to_look(base_url: str, order_path: str, password: str) -> None:
    """Print the addresses that are worth a visit."""
    print("\nWhere to look")
    print(f"  shop   {base_url}/")
    print(f"  order  {base_url}{order_path}")
    print(f"  chat   {base_url}/chat/")
    print(f"  desk   {base_url}/desk/     approvals, sales reports")
    print(f"  admin  {base_url}/admin/    user {USER}, password {password}", flush=True)


def serve(children: list[Child]) -> None:
    """Wait for Ctrl-C; raise DemoFailed if a child ends before."""
    while True:
        for process in children:
            process.check()
        time.sleep(0.5)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
