from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from functools import partial
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ENDS_WITHIN_S = 180

pytestmark = pytest.mark.slow


@pytest.fixture
def environment(tmp_path):
    """The environment of a demo with a database of its own, in a hurry."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("DUROXIDE", "DJANGO"))}
    fast = {"SHOP_GATEWAY_SECONDS": "0.1", "SHOP_PICKUP_SECONDS": "0.5", "SHOP_DEMO_PASSWORD": "tea"}
    return {**ours, **fast, "DATABASE_URL": f"sqlite:///{tmp_path / 'shop.sqlite3'}"}


def run_demo(environment, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "example_project.demo", *arguments],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=ENDS_WITHIN_S,
        check=False,
    )


def assert_shipped(ran):
    assert ran.returncode == 0, ran.stderr + ran.stdout
    for text in (
        "Charging your card",
        "Shipped",
        "Completed",
        "OrchestrationCompleted",
        "/admin/",
        "password tea",
    ):
        assert text in ran.stdout
    assert ran.stderr == ""


def test_demo_runs_one_order_through_on_sqlite_and_ends(environment):
    assert_shipped(run_demo(environment, "--once"))


def test_demo_can_be_run_again_on_the_same_database(environment):
    assert_shipped(run_demo(environment))
    assert_shipped(run_demo(environment))


def test_demo_takes_another_port_when_somebody_has_the_default_one(environment):
    with socket.socket() as somebody:
        somebody.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):  # It is taken already: just as well.
            somebody.bind(("127.0.0.1", 8000))
            somebody.listen()
        ran = run_demo(environment, "--once")

    assert_shipped(ran)
    assert "127.0.0.1:8000" not in ran.stdout


def test_demo_runs_one_order_through_on_postgresql(environment, postgres_url):
    import psycopg

    name = f"shop_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        try:
            url = re.sub(r"/[^/]*$", f"/{name}", postgres_url)
            assert_shipped(run_demo({**environment, "DATABASE_URL": url}, "--once"))
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_demo_that_can_not_serve_says_why(environment):
    ran = run_demo({**environment, "ALLOWED_HOSTS": "elsewhere.example"}, "--once")

    assert ran.returncode == 1
    assert "The demo failed." in ran.stderr
    assert "400 Bad Request" in ran.stderr


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("postgresql://nobody@127.0.0.1:1/none", "Connection refused"),
        ("shop.sqlite3", "DATABASE_URL must look like postgresql://"),
        # Installed or not, its driver finds no server; the database is not supported either way.
        ("mysql://nobody@127.0.0.1:1/none", ""),
    ],
)
def test_demo_without_its_database_says_why(environment, url, complaint):
    ran = run_demo({**environment, "DATABASE_URL": url}, "--once")

    assert ran.returncode == 1
    assert "The demo failed. The database could not be prepared:" in ran.stderr
    assert complaint in ran.stderr
    assert "Traceback" not in ran.stderr


def test_demo_serves_in_a_terminal_until_ctrl_c(environment):
    terminal, its_side = os.openpty()
    demo = subprocess.Popen(
        [sys.executable, "-m", "example_project.demo"],
        cwd=ROOT,
        env=environment,
        stdin=its_side,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # A test run in the background of a shell ignores Ctrl-C, and its children would, too.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - no thread of ours
    )
    with demo, contextlib.ExitStack() as at_the_end:
        at_the_end.callback(demo.kill)
        assert demo.stdout is not None
        while "Ctrl-C stops everything" not in (line := demo.stdout.readline()):
            assert line, "the demo ended early"
        children = children_of(demo.pid)
        assert len(children) == 2

        demo.send_signal(signal.SIGINT)
        rest = demo.stdout.read()
        demo.wait(60)
    os.close(terminal)
    os.close(its_side)

    assert (demo.returncode, rest.strip()) == (0, "Everything is stopped. What you ordered is kept for the next time.")
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]


@pytest.mark.parametrize("port", ["0", "99999", "http"])
def test_demo_refuses_a_port_that_can_not_be(environment, port):
    ran = run_demo(environment, "--once", "--port", port)

    assert ran.returncode == 2
    assert "--port" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_demo_takes_its_children_with_it_when_it_is_terminated(environment):
    demo = subprocess.Popen(
        [sys.executable, "-m", "example_project.demo", "--once"],
        cwd=ROOT,
        # Slow enough to be caught in the middle.
        env={**environment, "SHOP_PICKUP_SECONDS": "600", "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    with demo:
        assert demo.stdout is not None
        while "An order is placed" not in (line := demo.stdout.readline()):
            assert line, "the demo ended early"
        children = children_of(demo.pid)
        assert len(children) == 2

        demo.send_signal(signal.SIGTERM)
        demo.wait(60)

    assert demo.returncode == 130
    deadline = time.monotonic() + 5
    while any(Path(f"/proc/{pid}").exists() for pid in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]


def children_of(pid: int) -> list[int]:
    if not Path("/proc/self").exists():
        pytest.skip("needs /proc")
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]
