"""kill -9 at every moment between a claim and what follows its commit; also of the supervisor."""

from __future__ import annotations

import signal

import pytest

from duroxide_django.testing import assert_healthy
from tests.chaos.crash_points import POINTS
from tests.chaos.work.workflows import EXPECTED

pytestmark = pytest.mark.slow

NAMES = ["Sequence", "Family", "Renewer", "Counter", "Retrier"]


class TestKilled:
    def test_at_any_moment_loses_and_doubles_nothing(
        self, store, provider, environment, start_worker, tmp_path, sql, wait_until
    ):
        """Every worker dies at its own moment in the middle of the same work; the last one finishes all."""
        for name in ("left", "right", "serial"):
            sql("INSERT INTO chaos_tally (name, value) VALUES (%s, 0)", name)
        for number in range(2):
            for name in NAMES:
                store.start_orchestration(f"{name}-{number}", name)
        for number, point in enumerate(POINTS):
            environment |= {"CHAOS_DIE": point, "CHAOS_DIED": str(tmp_path / f"died-{number}")}
            worker = start_worker("--concurrency", "2")
            assert worker.wait(120) == -signal.SIGKILL, point
            assert (tmp_path / f"died-{number}").exists(), point
            # So that the next one has something to die of.
            store.start_orchestration(f"Sequence-{number + 2}", "Sequence")
        del environment["CHAOS_DIE"]
        start_worker()
        ids = [f"{name}-{number}" for number in range(2) for name in NAMES]
        ids += [f"Sequence-{number + 2}" for number in range(len(POINTS))]
        for instance_id in ids:
            result = store.wait_for_orchestration(instance_id, 60_000)
            assert (result.status, result.output) == ("Completed", EXPECTED[instance_id.partition("-")[0]][0])
        twice = "SELECT instance_id, step FROM chaos_entry WHERE atomic GROUP BY 1, 2 HAVING COUNT(*) > 1"
        assert sql(twice) == []
        atomic = sum(len(EXPECTED[instance_id.partition("-")[0]][1]) for instance_id in ids)
        children = 2 * 3
        assert sql("SELECT COUNT(*) FROM chaos_entry WHERE atomic") == [(atomic + children,)]
        assert dict(sql("SELECT name, value FROM chaos_tally")) == {"left": 4, "right": 4, "serial": 2}
        assert_healthy(provider.alias)

    def test_the_supervisor_leaves_no_one_to_double_its_children(self, store, start_worker, folder, wait_until, sql):
        """Its children finish what they run, end, and clean up after themselves."""
        supervisor = start_worker("--processes", "2")
        store.start_orchestration("held", "Run", ["Held", str(folder)])
        wait_until(lambda: list(folder.glob("began-*")), timeout_s=60)
        supervisor.kill()
        (folder / "go").touch()
        assert store.wait_for_orchestration("held", 60_000).status == "Completed"
        wait_until(lambda: sql("SELECT COUNT(*) FROM duroxide_worker") == [(0,)], timeout_s=60)
        assert len(list(folder.glob("began-*"))) == 1
