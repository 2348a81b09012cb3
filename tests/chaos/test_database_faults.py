"""One fault of the database at a time, with a real worker process: what it says, what it does, what is left."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
import time
from pathlib import Path

import pytest
from django.db import OperationalError, connections

from duroxide_django.testing import assert_healthy
from tests.chaos.faults import ROLE_FAULTS
from tests.postgres import free_port

pytestmark = pytest.mark.slow


@pytest.fixture
def lines(log):
    """The lines of the workers' log that contain a text."""
    return lambda text="": [line for line in log.read_text(errors="replace").splitlines() if text in line]


def start_big(store):
    for number in range(100):
        store.start_orchestration(f"big-{number}", "Run", ["Echo", "x" * 200_000])


@pytest.mark.parametrize("url", ["private"], indirect=True)
class TestPostgres:
    """All in one go: each part begins with a worker that is well and leaves one."""

    @pytest.fixture
    def role(self, sql):
        """Give new sessions of the role a setting; it is taken back with the test."""
        given = []

        def give(name, value):
            given.append(name)
            sql(f"ALTER ROLE postgres SET {name} = '{value}'")

        yield give
        for name in given:
            sql(f"ALTER ROLE postgres RESET {name}")

    def test_an_outage_is_said_once(self, store, provider, private_postgres, start_worker, log, lines, wait_until):
        """Down for six seconds, dozens of tries: one line that it began, one that it is over, one about hints."""
        start_worker("--log-level", "info")
        store.start_orchestration("before", "Sequence")
        store.start_orchestration("sleeper", "Sleeper")
        assert store.wait_for_orchestration("before", 60_000).output == 8
        said_before = len(lines())
        private_postgres.stop("fast")
        time.sleep(6)
        private_postgres.start()
        connections[provider.alias].close()
        assert store.wait_for_orchestration("sleeper", 60_000).output == 3
        wait_until(lambda: lines("The database answers again"), timeout_s=60)
        assert len(lines("The database failed; waiting for it")) == 1
        assert len(lines("The database answers again")) == 1
        assert len(lines("Listening for wake-ups failed")) == 1
        # Each of the three has one continuation line with its fields, and the server's words have a few.
        assert len(lines()) - said_before <= 15, log.read_text()

    def test_idle_in_transaction_does_not_fail_an_activity(self, store, provider, role, sql, start_worker):
        """The server ends an atomic activity's session: its rows are rolled back and it runs again."""
        role("idle_in_transaction_session_timeout", "300ms")
        start_worker()
        store.start_orchestration("one", "Run", ["Dawdle", 1.0])
        result = store.wait_for_orchestration("one", 60_000)
        assert (result.status, result.output) == ("Completed", 2)
        assert sql("SELECT COUNT(*) FROM chaos_entry") == [(1,)]
        assert_healthy(provider.alias)

    def test_deadlocks_and_serialization_failures_are_tried_again(self, store, provider, role, sql, start_worker):
        """They really happen, and each tally is right."""
        role("deadlock_timeout", "50ms")
        for name in ("left", "right", "serial"):
            sql("INSERT INTO chaos_tally (name, value) VALUES (%s, 0)", name)
        for number in range(4):
            store.start_orchestration(f"counter-{number}", "Counter")
        start_worker("--concurrency", "6")
        for number in range(4):
            result = store.wait_for_orchestration(f"counter-{number}", 120_000)
            assert (result.status, result.output) == ("Completed", 3)
        assert dict(sql("SELECT name, value FROM chaos_tally")) == {"left": 8, "right": 8, "serial": 4}
        (deadlocks,) = sql("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")[0]
        assert deadlocks > 0

    def test_a_statement_that_always_times_out_is_the_activitys_failure(self, store, environment, role, start_worker):
        """Tried again as circumstances may change; the last time its error is its result, and can be caught."""
        environment["CHAOS_MAX_ATTEMPTS"] = "2"
        role("statement_timeout", "300ms")
        start_worker()
        store.start_orchestration("slow", "Run", ["Query", "SELECT pg_sleep(30)"])
        store.start_orchestration("good", "Sequence")
        assert store.wait_for_orchestration("good", 60_000).output == 8
        result = store.wait_for_orchestration("slow", 60_000)
        assert result.status == "Failed"
        assert result.error.startswith("OperationalError: canceling statement due to statement timeout")

    def test_a_held_row_lock_is_waited_for(self, store, url, start_worker, probe, folder, wait_until):
        """Nobody dies of it: the worker is live all the time, and the instance goes on afterwards."""
        import psycopg

        port = free_port()
        worker = start_worker("--health-port", str(port))
        store.start_orchestration("one", "Run", ["Held", str(folder)])
        wait_until((folder / f"began-{worker.pid}").exists, timeout_s=60)
        with psycopg.connect(url) as holder:
            holder.execute("SELECT 1 FROM duroxide_instance WHERE instance_id = 'one' FOR UPDATE")
            (folder / "go").touch()
            until = time.monotonic() + 3
            while time.monotonic() < until:
                assert probe(port, "live")[0] == 200
                time.sleep(0.1)
            assert store.get_status("one").status == "Running"
        assert store.wait_for_orchestration("one", 60_000).output == worker.pid


def test_the_slow_commits_of_a_chaos_run_are_slow(private_postgres):
    """Also those of a session that commits alone."""
    import psycopg

    with psycopg.connect(private_postgres.start().url(), autocommit=True) as connection:
        connection.execute("CREATE TABLE drops (x int)")
        for name, value in ROLE_FAULTS["commits 50 ms slower"].items():
            connection.execute(f"SET {name} = '{value}'")
        began = time.monotonic()
        for number in range(4):
            connection.execute("INSERT INTO drops VALUES (%s)", [number])
        assert time.monotonic() - began >= 0.2


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
class TestSqlite:
    @pytest.fixture
    def path(self, url):
        return url.removeprefix("sqlite:///")

    def test_a_held_write_lock_is_waited_for(self, store, environment, path, start_worker, lines, wait_until):
        """ "database is locked" again and again: said once, nothing fails."""
        environment["CHAOS_SQLITE_TIMEOUT"] = "1"
        store.start_orchestration("sleeper", "Sleeper")
        start_worker()
        wait_until(lambda: store.read_execution_history("sleeper", 1), timeout_s=60)
        with contextlib.closing(sqlite3.connect(path, timeout=30, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            wait_until(lambda: lines("database is locked"), timeout_s=60)
            time.sleep(4)
            other.execute("ROLLBACK")
        assert store.wait_for_orchestration("sleeper", 60_000).output == 3
        wait_until(lambda: lines("The database answers again"), timeout_s=60)
        assert len(lines("The database failed; waiting for it")) == 1

    @pytest.mark.parametrize("fate", ["deleted", "replaced"])
    def test_a_file_that_is_no_longer_there_ends_the_worker(self, store, path, start_worker, lines, fate):
        """It would go on committing into nowhere: it ends and says what happened and what to do."""
        store.start_orchestration("sleeper", "Waiter")
        worker = start_worker()
        deadline = time.monotonic() + 60
        while not store.read_execution_history("sleeper", 1) and time.monotonic() < deadline:
            time.sleep(0.05)
        other = Path(path + "-other")
        with contextlib.closing(sqlite3.connect(path)) as old, contextlib.closing(sqlite3.connect(other)) as new:
            old.backup(new)
        for suffix in ("-wal", "-shm"):
            Path(path + suffix).unlink()
        if fate == "replaced":
            other.rename(path)
        else:
            Path(path).unlink()
        assert worker.wait(60) == 1
        assert lines(f"The SQLite file {path} was {fate} while this worker had it open")


class TestFullDisk:
    @pytest.fixture
    def url(self, database_access, tmp_path):
        """A SQLite file on a disk of eight megabytes."""
        place = tmp_path / "small"
        place.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)]
        if os.geteuid() != 0 or shutil.which("mount") is None or subprocess.run(mount, check=False).returncode:
            pytest.skip("mounting a small disk needs root")
        yield f"sqlite:///{place}/chaos.sqlite3"
        subprocess.run(["umount", "-l", str(place)], check=True)

    def test_is_waited_for_without_corruption(self, store, provider, url, start_worker, lines, wait_until):
        """Full: a clear error for who starts, one line from the worker; with space again all goes on."""
        path = Path(url.removeprefix("sqlite:///"))
        ballast = path.with_name("ballast")
        store.start_orchestration("waits", "Listener")
        store.start_orchestration("sleeper", "Sleeper")
        start_worker()
        wait_until(lambda: store.read_execution_history("waits", 1), timeout_s=60)
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
        with pytest.raises(OperationalError, match=r"full|disk I/O"):
            start_big(store)
        wait_until(lambda: lines("The database failed; waiting for it"), timeout_s=60)
        time.sleep(2)
        ballast.unlink()
        assert store.wait_for_orchestration("sleeper", 60_000).output == 3
        store.raise_event("waits", "go")
        for number in range(3):
            store.enqueue_event("waits", "in", number)
        assert store.wait_for_orchestration("waits", 60_000).output == [0, 1, 2]
        wait_until(lambda: lines("The database answers again"), timeout_s=60)
        assert len(lines("The database failed; waiting for it")) <= 3
        with contextlib.closing(sqlite3.connect(path)) as fresh:
            assert fresh.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert_healthy(provider.alias)
