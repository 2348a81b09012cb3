"""Instances that can't go on, or are too much, next to good ones; healed by a deploy where that is the cure."""

from __future__ import annotations

import os
import signal

import pytest
from django.db import transaction

from duroxide_django.exceptions import PayloadTooLarge
from duroxide_django.testing import assert_healthy

pytestmark = pytest.mark.slow


class TestBadInstances:
    def test_do_not_hurt_good_ones(self, store, provider, environment, start_worker, sql, wait_until):
        """Each bad one is parked with its reason; a later deploy and a mended row heal them; nothing else suffers."""
        # What an old deploy has left behind.
        old = start_worker()
        for name, orchestration in [("changed", "Changing"), ("corrupt", "Listener"), ("unknown", "Listener")]:
            store.start_orchestration(name, orchestration)
        store.start_orchestration("nowhere", "NoSuchOrchestration")
        wait_until(lambda: _waits(store, "changed", "corrupt", "unknown"), timeout_s=60)
        old.terminate()
        assert old.wait(60) == 0
        key = "(SELECT id FROM duroxide_instance WHERE instance_id = %s)"
        second = f"instance_id = {key} AND event_id = 2"
        ((kind, data),) = sql(f"SELECT kind, data FROM duroxide_history WHERE {second}", "corrupt")
        sql(f"UPDATE duroxide_history SET data = '{{' WHERE {second}", "corrupt")
        sql(f"UPDATE duroxide_history SET kind = 'Dream' WHERE {second}", "unknown")

        # The next deploy, whose code doesn't fit.
        environment["CHAOS_CODE"] = "new"
        new = start_worker()
        for name in ("changed", "corrupt", "unknown"):
            store.raise_event(name, "go")
        store.start_many([(f"good-{number}", "Sequence", None) for number in range(20)])
        store.start_orchestration("big", "Big", 1_900_000)
        with pytest.raises(PayloadTooLarge):
            store.start_orchestration("too-big", "Big", "x" * 2_200_000)
        store.enqueue_event("big", "in", "y" * 1_900_000)
        for number in range(20):
            assert store.wait_for_orchestration(f"good-{number}", 60_000).output == 8
        assert store.wait_for_orchestration("big", 60_000).output == 3_800_000
        wait_until(lambda: all(store.get_blocked(name) for name in ("changed", "corrupt", "unknown", "nowhere")), 60)
        assert [store.get_blocked(name)["reason"] for name in ("changed", "corrupt", "unknown", "nowhere")] == [
            "nondeterminism",
            "corrupt_history",
            "corrupt_history",
            "missing_code",
        ]
        found = {finding.instance_id for finding in store.examine_health() if finding.rule.startswith("blocked_")}
        assert found == {"changed", "corrupt", "unknown", "nowhere"}
        new.terminate()
        assert new.wait(60) == 0

        # The mended deploy, and mended rows.
        environment["CHAOS_CODE"] = "old"
        sql(f"UPDATE duroxide_history SET data = %s WHERE {second}", data, "corrupt")
        sql(f"UPDATE duroxide_history SET kind = %s WHERE {second}", kind, "unknown")
        start_worker()
        assert store.wait_for_orchestration("changed", 90_000).output == 2
        for name in ("corrupt", "unknown"):
            for number in range(3):
                store.enqueue_event(name, "in", number)
            assert store.wait_for_orchestration(name, 90_000).output == [0, 1, 2]
        store.cancel_instance("nowhere", "nobody has it", force=True)
        assert store.wait_for_orchestration("nowhere", 60_000).error == "canceled: nobody has it"
        assert_healthy(provider.alias)

    def test_ten_thousand_messages_for_one_instance(self, store, provider, start_worker):
        """They are taken in order; the neighbours don't wait for them."""
        store.start_orchestration("reader", "Reader", 10_000)
        with transaction.atomic(using=provider.alias):
            for number in range(10_000):
                store.enqueue_event("reader", "in", number)
        start_worker()
        store.start_many([(f"good-{number}", "Sequence", None) for number in range(10)])
        for number in range(10):
            assert store.wait_for_orchestration(f"good-{number}", 60_000).output == 8
        assert store.wait_for_orchestration("reader", 120_000).output == 10_000
        assert_healthy(provider.alias)


class TestWorkerRows:
    def test_beat_and_are_cleaned_up(self, start_worker, sql, wait_until):
        """A living worker's row is fresh; that of a killed one goes when it is old."""
        dead, living = start_worker(), start_worker()
        beats = "SELECT beat_ms FROM duroxide_worker WHERE pid = %s"
        first = wait_until(lambda: sql(beats, living.pid), timeout_s=60)
        wait_until(lambda: sql(beats, dead.pid), timeout_s=60)
        os.kill(dead.pid, signal.SIGKILL)
        dead.wait()
        wait_until(lambda: sql(beats, living.pid) > first, timeout_s=60)
        assert len(sql("SELECT pid FROM duroxide_worker")) == 2
        sql("UPDATE duroxide_worker SET beat_ms = beat_ms - 301000 WHERE pid = %s", dead.pid)
        # A worker cleans up when it begins, and every five minutes.
        start_worker()
        wait_until(lambda: not sql(beats, dead.pid), timeout_s=60)
        assert sql(beats, living.pid)


def _waits(store, *names):
    return all(
        (history := store.read_execution_history(name, 1)) and history[-1].kind == "ExternalSubscribed"
        for name in names
    )
