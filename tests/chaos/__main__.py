"""One chaos run: ``python -m tests.chaos sqlite|postgres [--instances 2000] …``; exit code 1 if anything is wrong.

Workers run mixed instances while one of them is killed, frozen or stopped every second and replaced, and while the
database is hurt: see faults.py. At the end everything is counted: every instance has ended with the right result or
waits for a known reason, rows of atomic activities are there exactly once, no activity's result was counted twice, and
the invariant of health holds.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.chaos.faults import Faults, PostgresFaults, SqliteFaults
from tests.chaos.workers import ROOT, worker_environment
from tests.pgbouncer import PgBouncer
from tests.postgres import PostgresServer


def main() -> int:
    options = parse()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with (
        tempfile.TemporaryDirectory(prefix="duroxide-chaos-") as name,
        database(options.database, name) as (url, server),
        pooled(server, options.pooler) as pooler,
    ):
        environment = worker_environment(url if pooler is None else pooler.url(), lease_ms=options.lease_ms)
        # A held write lock is to be noticed, not waited for.
        environment["CHAOS_SQLITE_TIMEOUT"] = str(max(1, int(options.lasting) - 1))
        environment["CHAOS_POOLER"] = options.pooler or ""
        os.environ.update(environment)
        migrate(environment)
        from tests.chaos.run import Run

        log = Path(options.log or Path(name) / "workers.log")
        stop = threading.Event()
        arguments = (random.Random(options.seed), stop, options.lasting, options.away)
        faults: Faults
        if server is None:
            faults = SqliteFaults(f"{name}/chaos.sqlite3", *arguments)
        else:
            faults = PostgresFaults(server, pooler, *arguments)
        problems = Run(options, environment, log, faults, stop).run()
        if problems and not options.log:
            sys.stdout.write(log.read_text(errors="replace")[-20_000:])
    sys.stdout.writelines(f"WRONG: {problem}\n" for problem in problems)
    sys.stdout.write("FAILED\n" if problems else "All is well.\n")
    return 1 if problems else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("database", choices=["sqlite", "postgres"])
    parser.add_argument("--pooler", choices=["session", "transaction"], help="A PgBouncer in this mode in between.")
    parser.add_argument("--instances", type=int, default=2_000)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--every", type=float, default=1.0, help="Seconds between two strikes.")
    parser.add_argument("--lease-ms", type=int, default=2_000)
    parser.add_argument("--faults", type=int, default=1, help="How often each fault of the database happens.")
    parser.add_argument("--lasting", type=float, default=3, help="Seconds that a fault of the database lasts.")
    parser.add_argument("--away", type=float, default=20, help="Seconds for which PostgreSQL refuses connections.")
    parser.add_argument("--pause", type=float, default=2, help="Seconds between two faults of the database.")
    parser.add_argument("--least", type=float, default=0, help="Strike for so many seconds at least.")
    parser.add_argument("--timeout", type=float, default=1_200, help="Seconds until the run counts as failed.")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--log", help="File for the workers' output.")
    return parser.parse_args()


@contextmanager
def database(kind: str, folder: str) -> Iterator[tuple[str, PostgresServer | None]]:
    """Give the URL of an empty database, and its server if it has one."""
    if kind == "sqlite":
        yield f"sqlite:///{folder}/chaos.sqlite3", None
        return
    server = PostgresServer.in_temporary_directory(durable=True).start()
    server.destroy_when_gone(os.getpid())
    try:
        yield server.url(), server
    finally:
        server.destroy()


@contextmanager
def pooled(server: PostgresServer | None, mode: str | None) -> Iterator[PgBouncer | None]:
    """Give a PgBouncer in front of the server, if one is asked for."""
    if server is None or mode is None:
        yield None
        return
    pooler = PgBouncer(server, mode, default_pool_size=60, server_login_retry=1, query_wait_timeout=30).start()
    try:
        yield pooler
    finally:
        pooler.stop()


def migrate(environment: dict[str, str]) -> None:
    command = [sys.executable, str(ROOT / "manage.py"), "migrate", "--run-syncdb", "--verbosity", "0", "--skip-checks"]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)


if __name__ == "__main__":
    sys.exit(main())
