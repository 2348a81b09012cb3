"""Single blows, each at a known moment: frozen, dying activities and turns, a server that is away."""

from __future__ import annotations

import contextlib
import signal
import sqlite3

import pytest

from duroxide_django.testing import assert_healthy

pytestmark = pytest.mark.slow


def freeze(worker, url):
    """Stop a worker; on SQLite not in the middle of a write, which would lock all others out. Tell whether it is."""
    worker.send_signal(signal.SIGSTOP)
    if not url.startswith("sqlite"):
        return True
    with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"), timeout=0.2)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            worker.send_signal(signal.SIGCONT)
            return False
        connection.execute("ROLLBACK")
    return True


class TestFrozen:
    """SIGSTOP for longer than the lease, then SIGCONT: what the process held belongs to another by then."""

    @pytest.mark.parametrize("name", ["Held", "HeldAtomic"])
    def test_must_not_commit(self, store, url, provider, start_worker, folder, wait_until, entries, name):
        """The result of the one that took over counts; the frozen one's transaction is rolled back."""
        if name == "HeldAtomic" and url.startswith("sqlite"):
            pytest.skip("a transaction frozen on SQLite holds the only write lock: nobody can take over")
        frozen = start_worker()
        store.start_orchestration("one", "Run", [name, str(folder)])
        wait_until((folder / f"began-{frozen.pid}").exists, timeout_s=60)
        wait_until(lambda: freeze(frozen, url), timeout_s=60)
        other = start_worker()
        wait_until((folder / f"began-{other.pid}").exists, timeout_s=60)
        frozen.send_signal(signal.SIGCONT)
        (folder / "go").touch()
        assert store.wait_for_orchestration("one", 60_000).output == other.pid
        wait_until((folder / f"ended-{frozen.pid}").exists, timeout_s=60)
        frozen.terminate()
        frozen.wait(60)
        assert entries() == (1 if name == "HeldAtomic" else 2)
        assert [event.kind for event in store.read_execution_history("one", 1)].count("ActivityCompleted") == 1
        assert_healthy(provider.alias)


class TestDeadly:
    """Code that takes its process along is stopped after MAX_ATTEMPTS, without hurting its neighbours."""

    @pytest.mark.parametrize(
        ("name", "value"), [("Run", ["Suicide", None]), ("Deadly", None)], ids=["activity", "turn"]
    )
    def test_ends_as_poison(self, store, provider, environment, start_worker, wait_until, name, value):
        environment["CHAOS_MAX_ATTEMPTS"] = "4"
        environment["CHAOS_LEASE_MS"] = "500"
        store.start_orchestration("deadly", name, value)
        kinds = ["Racer", "FanOut", "Sequence"]
        for number in range(9):
            store.start_orchestration(f"good-{number}", kinds[number % 3])
        workers = [start_worker()]

        def ended():
            if workers[-1].poll() is not None:
                workers.append(start_worker())
            return store.get_status("deadly").status == "Failed"

        wait_until(ended, timeout_s=120, poll_s=0.1)
        assert "poison" in store.get_status("deadly").error
        assert len(workers) >= 4
        for number in range(9):
            result = store.wait_for_orchestration(f"good-{number}", 60_000)
            assert (result.status, result.error) == ("Completed", None)
        assert_healthy(provider.alias)


class TestSigterm:
    def test_gives_leases_back_at_once(self, store, start_worker, folder, wait_until, environment):
        """What a stopping worker could not finish is taken over without waiting for the end of the lease."""
        environment["CHAOS_LEASE_MS"] = "60000"
        first = start_worker()
        store.start_orchestration("one", "Run", ["Held", str(folder)])
        wait_until((folder / f"began-{first.pid}").exists, timeout_s=60)
        first.terminate()
        assert first.wait(60) == 0
        second = start_worker()
        wait_until((folder / f"began-{second.pid}").exists, timeout_s=60)
        (folder / "go").touch()
        assert store.wait_for_orchestration("one", 60_000).output == second.pid
