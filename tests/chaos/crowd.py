"""A crowd of waiting instances: ``python -m tests.chaos.crowd sqlite|postgres [--waiting 100000]``.

One worker gets them to where they wait. Then others must go on as if they were not there, the doctor must look at all
of them, and those that are woken must end. Exit code 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.chaos.__main__ import database, migrate
from tests.chaos.workers import Workers, worker_environment

_BATCH = 1_000
_GOOD = 20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("database", choices=["sqlite", "postgres"])
    parser.add_argument("--waiting", type=int, default=100_000)
    parser.add_argument("--woken", type=int, default=1_000)
    parser.add_argument(
        "--patience", type=float, default=5, help="Seconds that an instance of two steps may take next to the crowd."
    )
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="duroxide-crowd-") as name,
        database(options.database, name) as (url, _server),
    ):
        environment = worker_environment(url, lease_ms=30_000)
        os.environ.update(environment)
        migrate(environment)
        problems = crowd(options, environment, Path(name) / "worker.log")
    sys.stdout.writelines(f"WRONG: {problem}\n" for problem in problems)
    sys.stdout.write("FAILED\n" if problems else "All is well.\n")
    return 1 if problems else 0


def crowd(options: argparse.Namespace, environment: dict[str, str], log: Path) -> list[str]:
    """Return what went wrong."""
    import django

    django.setup()
    from django.db import connection

    from duroxide_django import Client
    from duroxide_django.testing import assert_healthy

    def count(sql: str) -> int:
        with connection.cursor() as cursor:
            cursor.execute(sql)
            return int(cursor.fetchone()[0])

    def say(text: str) -> None:
        sys.stdout.write(f"{options.database}: {text}\n")
        sys.stdout.flush()

    client, problems = Client(), []
    began = time.monotonic()
    for first in range(0, options.waiting, _BATCH):
        last = min(first + _BATCH, options.waiting)
        client.start_many([(f"waits-{number}", "Patient", None) for number in range(first, last)])
    say(f"{options.waiting} started in {time.monotonic() - began:.1f} s")
    workers = Workers(environment, log, count=1)
    try:
        began = time.monotonic()
        while count("SELECT COUNT(*) FROM duroxide_message") and time.monotonic() - began < 1_200:
            time.sleep(0.5)
        say(f"all wait after {time.monotonic() - began:.1f} s, the start of the worker included")
        problems += others(client, say, options.patience)
        began = time.monotonic()
        for number in range(options.woken):
            client.raise_event(f"waits-{number}", "go", number)
        problems += [
            f"waits-{number} did not get its event"
            for number in range(options.woken)
            if client.wait_for_orchestration(f"waits-{number}", 60_000).output != number
        ]
        say(f"{options.woken} woken and ended in {time.monotonic() - began:.1f} s")
        began = time.monotonic()
        try:
            assert_healthy("default")
        except AssertionError as exc:
            problems.append(str(exc))
        say(f"the invariant was checked in {time.monotonic() - began:.1f} s")
        left = count("SELECT COUNT(*) FROM duroxide_instance WHERE status = 'Running'")
        say(f"instances that still wait: {left}")
        if left != options.waiting - options.woken:
            problems.append(f"{left} wait, not {options.waiting - options.woken}")
    finally:
        workers.stop()
    return problems


def others(client: Any, say: Callable[[str], None], patience_s: float) -> list[str]:
    """Run instances next to the crowd; return what is wrong with them."""
    took, problems = [], []
    for number in range(_GOOD):
        began = time.monotonic()
        client.start_orchestration(f"good-{number}", "Retrier")
        result = client.wait_for_orchestration(f"good-{number}", 60_000)
        took.append(time.monotonic() - began)
        if result.output != 2:
            problems.append(f"good-{number} is {result.status}, {result.error}")
    took.sort()
    say(f"{_GOOD} others, one after another: median {took[_GOOD // 2]:.2f} s, slowest {took[-1]:.2f} s")
    if took[-1] > patience_s:
        problems.append(f"an instance next to the crowd took {took[-1]:.1f} s")
    return problems


if __name__ == "__main__":
    sys.exit(main())
