"""Orchestration functions that never come to their next yield: found, reported, replaced, and ended as poison."""

from __future__ import annotations

import json
import os
import signal
import time

import pytest

from duroxide_django.testing import assert_healthy
from tests.postgres import free_port

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def impatient(environment):
    """Turns may take a second; three attempts are the limit. Leases are given back, not waited for."""
    environment["CHAOS_TURN_TIMEOUT_MS"] = "1000"
    environment["CHAOS_LEASE_MS"] = "15000"
    environment["CHAOS_MAX_ATTEMPTS"] = "3"


def reasons(log, text):
    return [line for line in log.read_text(errors="replace").splitlines() if text in line]


class TestUnderASupervisor:
    def test_ends_as_poison_and_hurts_nobody(self, store, provider, start_worker, log, folder, wait_until, entries):
        """Its process is replaced each time; neighbours of its batch and running activities go on elsewhere."""
        store.start_orchestration("hangs-1", "Hanging")
        store.start_orchestration("hangs-2", "Hanging", True)
        store.start_orchestration("held", "Run", ["Held", str(folder)])
        for number in range(20):
            store.start_orchestration(f"good-{number}", "Sequence")
        supervisor = start_worker("--processes", "2")
        for number in range(20):
            assert store.wait_for_orchestration(f"good-{number}", 60_000).output == 8
        for name in ("hangs-1", "hangs-2"):
            result = store.wait_for_orchestration(name, 120_000)
            assert result.status == "Failed"
            assert result.error.startswith(f"poison: orchestration {name} exceeded 4 attempts (max 3): the turn of")
            assert "in hanging" in result.error
        (folder / "go").touch()
        held = store.wait_for_orchestration("held", 60_000)
        assert (held.status, held.error) == ("Completed", None)
        assert_healthy(provider.alias)
        # Three attempts each, each said once, with the place.
        said = reasons(log, "The worker hangs: the turn of 'hangs-1'")
        assert len(said) == 3, said
        assert all("workflows.py" in line and "in hanging" in line for line in said)
        # hangs-2 was found once more if its turn followed a completion in the same process, without a claim.
        assert 3 <= len(reasons(log, "The worker hangs: the turn of 'hangs-2'")) <= 4
        supervisor.terminate()
        assert supervisor.wait(60) == 0

    def test_shows_why_on_the_instance(self, store, environment, start_worker, wait_until):
        """Until its attempts are used up the instance is blocked, and the doctor says where it hangs."""
        environment["CHAOS_MAX_ATTEMPTS"] = "50"
        store.start_orchestration("hangs", "Hanging")
        start_worker("--processes", "2")
        why = wait_until(lambda: store.get_blocked("hangs"), timeout_s=60)
        assert why["reason"] == "hanging_turn"
        assert "'hangs' has not ended after 1 s; it hangs at" in why["message"]
        assert any("in hanging" in frame for frame in why["stack"])
        findings = [finding.rule for finding in store.examine_health() if finding.instance_id == "hangs"]
        assert "blocked_hanging_turn" in findings

    def test_a_frozen_child_is_killed_and_replaced(self, store, environment, start_worker, log, wait_until):
        """It can't end itself: the supervisor hears nothing of it and takes over."""
        environment["CHAOS_MAX_ATTEMPTS"] = "1"
        environment["CHAOS_LEASE_MS"] = "3000"
        store.start_orchestration("frozen", "Frozen")
        start_worker("--processes", "2")
        result = store.wait_for_orchestration("frozen", 120_000)
        assert (result.status, result.error) == ("Failed", "poison: orchestration frozen exceeded 2 attempts (max 1)")
        store.start_orchestration("good", "Sequence")
        assert store.wait_for_orchestration("good", 60_000).output == 8
        wait_until(lambda: reasons(log, "was silent for 6 s; killing it"), timeout_s=60)
        wait_until(lambda: reasons(log, "ended with -9; restarting"), timeout_s=60)


class TestAlone:
    def test_is_not_live_and_ends(self, store, sql, environment, start_worker, log, probe, wait_until):
        """A single process says so to its probe and ends with exit code 1: who runs it starts another."""
        port = free_port()
        # It looks once a second then, so that a slow machine has the time to probe it before it ends.
        environment["CHAOS_TURN_TIMEOUT_MS"] = "4000"
        store.start_orchestration("hangs", "Hanging")
        worker = start_worker("--health-port", str(port))
        wait_until(lambda: probe(port, "live")[0] == 200, timeout_s=60)
        seen = set()

        def ended():
            seen.add(probe(port, "live")[0])
            return worker.poll() is not None

        wait_until(ended, timeout_s=60, poll_s=0.005)
        assert worker.returncode == 1
        # Not live any more, or gone between two looks.
        assert seen & {0, 503}
        assert len(reasons(log, "The worker hangs, so it ends: the turn of 'hangs'")) == 1
        # It left nothing behind: no worker row, no lease.
        assert sql("SELECT COUNT(*) FROM duroxide_worker") == [(0,)]
        assert sql("SELECT COUNT(*) FROM duroxide_instance WHERE lease_token IS NOT NULL") == [(0,)]
        environment["CHAOS_TURN_TIMEOUT_MS"] = "1000"
        store.start_orchestration("good", "Sequence")
        workers = [start_worker()]

        def good_ended():
            if workers[-1].poll() is not None:
                workers.append(start_worker())
            return store.get_status("good").status == "Completed"

        wait_until(good_ended, timeout_s=60, poll_s=0.05)


class TestHealthOfSeveral:
    def test_is_served_by_the_supervisor(self, store, start_worker, tmp_path, probe, wait_until):
        """One port and one file for all: live while one child is; counters of each; gone at the end."""
        port, file = free_port(), tmp_path / "alive"
        assert probe(port, "live")[0] == 0
        supervisor = start_worker("--processes", "2", "--health-port", str(port), "--health-file", str(file))
        wait_until(lambda: list(_ready(probe, port).values()) == [True, True], timeout_s=60)
        assert probe(port, "live")[0] == 200
        wait_until(file.exists, timeout_s=60)
        store.start_orchestration("secret-id", "Run", ["Note", "secret-step"])
        store.wait_for_orchestration("secret-id", 60_000)

        def completions():
            text = probe(port, "metrics")[1]
            lines = [line for line in text.splitlines() if line.startswith("duroxide_orch_completions_total")]
            return len(lines) == 2 and sum(int(line.rsplit(" ", 1)[1]) for line in lines) == 1 and text

        assert "secret" not in wait_until(completions, timeout_s=60)
        assert probe(port, "elsewhere")[0] == 404
        supervisor.terminate()
        assert supervisor.wait(60) == 0
        assert probe(port, "live")[0] == 0
        assert not file.exists()

    def test_outlives_the_death_of_one(self, store, start_worker, sql, probe, wait_until):
        """A killed child is replaced; meanwhile the other one keeps the whole live and ready."""
        port = free_port()
        start_worker("--processes", "2", "--health-port", str(port))
        pids = wait_until(lambda: _two(sql), timeout_s=60)
        wait_until(lambda: list(_ready(probe, port).values()) == [True, True], timeout_s=60)
        os.kill(pids.pop(), signal.SIGKILL)
        seen = set()

        def replaced():
            seen.add((probe(port, "live")[0], probe(port, "ready")[0]))
            return len(_ready(probe, port)) == 2 and len(_pids(sql)) == 3

        wait_until(replaced, timeout_s=60)
        assert seen == {(200, 200)}

    def test_is_not_live_when_all_are_frozen(self, store, start_worker, sql, probe, wait_until):
        """No child turns: not live, until the supervisor has replaced them."""
        port = free_port()
        start_worker("--processes", "2", "--health-port", str(port))
        pids = wait_until(lambda: _two(sql), timeout_s=60)
        wait_until(lambda: probe(port, "live")[0] == 200, timeout_s=60)
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: probe(port, "live")[0] == 503, timeout_s=60)
        wait_until(lambda: probe(port, "live")[0] == 200, timeout_s=60)


class TestADatabaseThatIsAway:
    @pytest.mark.parametrize("url", ["private"], indirect=True)
    def test_makes_nobody_dead(self, store, private_postgres, start_worker, probe, wait_until):
        """Live, not ready; ready again when it is back."""
        port = free_port()
        start_worker("--health-port", str(port))
        wait_until(lambda: probe(port, "ready")[0] == 200, timeout_s=60)
        private_postgres.stop("fast")
        wait_until(lambda: probe(port, "ready")[0] == 503, timeout_s=60)
        until = time.monotonic() + 4
        while time.monotonic() < until:
            assert probe(port, "live")[0] == 200
            assert probe(port, "ready")[0] == 503
            time.sleep(0.1)
        private_postgres.start()
        wait_until(lambda: probe(port, "ready")[0] == 200, timeout_s=60)


def _pids(sql):
    return {pid for (pid,) in sql("SELECT pid FROM duroxide_worker")}


def _ready(probe, port):
    status, text = probe(port, "ready")
    return json.loads(text)["workers"] if status in (200, 503) else {}


def _two(sql):
    pids = _pids(sql)
    return pids if len(pids) == 2 else None
