"""The setting RETENTION: what goes, what stays, and that workers do it one at a time, aside."""

from __future__ import annotations

import json
import time

import pytest
from django.core.checks import run_checks
from django.core.management import CommandError, call_command
from django.db import connections, transaction

from duroxide_django import ConfigurationError
from duroxide_django.storage import pruning
from duroxide_django.storage.database import Database
from duroxide_django.testing import virtual_clock


@pytest.fixture
def keep(settings):
    """Set RETENTION, looked at all the time."""

    def keep(policy):
        settings.DUROXIDE = {**settings.DUROXIDE, "RETENTION": policy, "RETENTION_INTERVAL_MS": 50}

    return keep


@pytest.fixture
def flows(program):
    @program.orchestration("Good")
    def good(ctx, value):
        return value

    @program.orchestration("Bad")
    def bad(ctx, value):
        if value == "good":
            return value
        raise ValueError(value)

    @program.orchestration("Waits")
    def waits(ctx, value):
        yield ctx.wait_for_event("Go")

    @program.orchestration("Parent")
    def parent(ctx, value):
        return (yield ctx.schedule_sub_orchestration_with_id("Good", f"{ctx.instance_id}-child"))

    return program


def run_all(client, flows):
    """One of each, all ended now, but for one that waits."""
    for name in ("Good", "Bad", "Waits", "Parent"):
        client.start_orchestration(name.lower(), name)
    client.start_orchestration("bad-good", "Bad", "good")
    flows.drain(jump=False)


EVERYTHING = {"good", "bad", "bad-good", "waits", "parent", "parent-child"}


class TestPolicy:
    @pytest.mark.parametrize(
        ("policy", "days", "gone"),
        [
            ({}, 1_000, set()),
            ({"*": {"days": 30}}, 29, set()),
            ({"*": {"days": 30}}, 31, EVERYTHING - {"waits"}),
            ({"Good": {"hours": 12}}, 1, {"good"}),
            ({"Good": None, "*": {"minutes": 5}}, 1, EVERYTHING - {"waits", "good"}),
            ({"Bad": {"completed": {"days": 1}, "failed": {"days": 90}}}, 2, {"bad-good"}),
            ({"Bad": {"completed": {"days": 1}, "failed": {"days": 90}}}, 91, {"bad-good", "bad"}),
            ({"Bad": {"completed": {"days": 1}}, "*": {"failed": {"days": 1}}}, 91, {"bad-good"}),
            ({"Parent": {"days": 1.5}}, 2, {"parent", "parent-child"}),
        ],
    )
    def test_goes_by_orchestration_status_and_age(self, client, flows, keep, policy, days, gone):
        """A child goes with its root, by the root's rule."""
        keep(policy)
        with virtual_clock() as clock:
            run_all(client, flows)
            clock.advance(days=days)
            dry = client.apply_retention(dry_run=True)
            assert set(client.list_all_instances()) == EVERYTHING
            assert client.apply_retention() == dry
        assert EVERYTHING - set(client.list_all_instances()) == gone
        assert dry.instances_deleted == len(gone)

    def test_is_counted_by_orchestration(self, client, flows, keep, backend, capsys):
        keep({"*": {"days": 1}})
        with virtual_clock() as clock:
            run_all(client, flows)
            clock.advance(days=2)
            call_command("pruneinstances", "--policy", "--dry-run", "--json")
            counted = json.loads(capsys.readouterr().out)
            assert counted["families"] == 4
            assert {name: counts["instances_deleted"] for name, counts in counted["orchestrations"].items()} == {
                "Bad": 2,
                "Good": 1,
                "Parent": 2,
            }
            call_command("pruneinstances", "--policy")
        lines = [line.split() for line in capsys.readouterr().out.splitlines()]
        assert lines[0] == ["Deleted:"]
        assert [line[:3] for line in lines[2:]] == [["Bad", "2", "2"], ["Good", "1", "1"], ["Parent", "1", "2"],
                                                    ["total", "4", "5"]]  # fmt: skip
        assert client.list_all_instances() == ["waits"]

    @pytest.mark.parametrize(
        ("policy", "problem"),
        [
            ([], "must be a dict"),
            ({"": {"days": 1}}, "keys are names"),
            ({"Good": 30}, "must be like"),
            ({"Good": {}}, "must be like"),
            ({"Good": {"weeks": 1}}, "must have 'days'"),
            ({"Good": {"days": -1}}, "at least 0"),
            ({"Good": {"days": True}}, "at least 0"),
            ({"Good": {"days": float("nan")}}, "at least 0"),
            ({"Good": {"completed": {"days": 1}, "days": 1}}, "must have 'days'"),
            ({"Good": {"failed": 7}}, "must have 'days'"),
        ],
    )
    def test_that_is_wrong_is_an_error_of_the_check(self, client, keep, policy, problem):
        keep(policy)
        (message,) = [message.msg for message in run_checks() if message.id == "duroxide_django.E001"]
        assert "RETENTION" in message
        assert problem in message
        with pytest.raises(ConfigurationError):
            client.apply_retention()

    def test_that_is_missing_or_overruled_is_refused_by_the_command(self, keep):
        with pytest.raises(CommandError, match="is empty"):
            call_command("pruneinstances", "--policy")
        keep({"*": {"days": 1}})
        with pytest.raises(CommandError, match="don't go with it"):
            call_command("pruneinstances", "--policy", "--name", "Good")


class TestWorkers:
    def test_delete_in_the_background(self, client, flows, keep, start_runtime, wait_until, caplog):
        caplog.set_level("INFO", "duroxide.runtime")
        keep({"Good": {"days": 0}, "Parent": {"days": 1}})
        for number in range(60):
            client.start_orchestration(f"many-{number}", "Good")
        run_all(client, flows)
        start_runtime()
        wait_until(lambda: set(client.list_all_instances()) == EVERYTHING - {"good"}, timeout_s=30)
        wait_until(lambda: any("Retention deleted" in record.getMessage() for record in caplog.records))

    def test_go_on_with_their_work_meanwhile(self, client, flows, keep, start_runtime, wait_until, backend):
        """2,000 families are to go, in small batches; a new instance doesn't wait for that."""
        with transaction.atomic(using=backend):
            for number in range(2_000):
                client.start_orchestration(f"old-{number}", "Good", number)
        flows.drain(jump=False)
        keep({"Good": {"days": 0}})
        start_runtime()
        wait_until(lambda: len(client.list_all_instances()) < 2_000, timeout_s=30)
        began = time.monotonic()
        client.start_orchestration("new", "Parent", 7)
        assert client.wait_for_orchestration("new", 30_000).status == "Completed"
        assert time.monotonic() - began < 15
        assert len(client.list_all_instances()) > 100, "it should not be through yet"

    def test_only_the_first_of_several_does_it(self, client, flows, keep, start_runtime, wait_until, backend):
        db = Database(backend)
        start_runtime()
        start_runtime()
        ids = []

        def both():
            with connections[backend].cursor() as cursor:
                cursor.execute("SELECT id FROM duroxide_worker ORDER BY id")
                ids[:] = [key for (key,) in cursor.fetchall()]
            return len(ids) == 2

        wait_until(both)
        assert [pruning.is_first_worker(db, key, live_ms=30_000) for key in ids] == [True, False]

    def test_a_batch_is_left_to_whoever_is_at_it(self, client, backend):
        """Two that both think to be first don't delete at the same time."""
        if backend == "sqlite":
            pytest.skip("SQLite has one writer")
        db = Database(backend)
        other = connections.create_connection(backend)
        try:
            other.set_autocommit(False)
            with other.cursor() as cursor:
                cursor.execute(f"SELECT {db.features.try_retention_lock}")
                assert cursor.fetchone() == (True,)
            with db.atomic():
                assert not pruning.may_prune(db)
            other.rollback()
            with db.atomic():
                assert pruning.may_prune(db)
        finally:
            other.close()

    def test_end_in_the_middle_of_it(self, client, flows, keep, start_runtime, wait_until):
        for number in range(300):
            client.start_orchestration(f"old-{number}", "Good", number)
        flows.drain(jump=False)
        keep({"Good": {"days": 0}})
        runtime = start_runtime()
        wait_until(lambda: len(client.list_all_instances()) < 300, timeout_s=30)
        began = time.monotonic()
        runtime.shutdown()
        assert time.monotonic() - began < 15


class TestWhereToLook:
    def test_keys_are_bounded_by_the_time_of_creation(self, client, flows, backend):
        db = Database(backend)
        assert pruning.last_created_before(db, 2**52) == 0
        with virtual_clock() as clock:
            for number in range(10):
                client.start_orchestration(f"one-{number}", "Good")
                clock.advance(hours=1)
            now = clock.now_ms
        client.delete_instance("one-3", force=True)
        with connections[backend].cursor() as cursor:
            cursor.execute("SELECT id FROM duroxide_instance ORDER BY id")
            keys = [key for (key,) in cursor.fetchall()]
        assert pruning.last_created_before(db, now + 1) == keys[-1]
        assert pruning.last_created_before(db, now - 100 * 3_600_000) == keys[0] - 1
        for hours in range(1, 10):
            bound = pruning.last_created_before(db, now - hours * 3_600_000 - 1)
            assert sum(key <= bound for key in keys) == sum(
                1 for number in range(10) if number != 3 and 10 - number > hours
            )
