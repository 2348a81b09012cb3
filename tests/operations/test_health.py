"""The invariant and the rules of *needs attention*: each is seen when it is broken, and never otherwise."""

from __future__ import annotations

import contextlib
import json

import pytest
from django.db import connections

from duroxide_django import OrchestrationCancelled, RuntimeOptions
from duroxide_django.storage import health, invariant, workers
from duroxide_django.storage.database import Database
from duroxide_django.testing import assert_healthy, virtual_clock


@pytest.fixture
def database(backend):
    return Database(backend)


@pytest.fixture
def sql(backend):
    """Change rows behind the engine's back."""

    def run(statement, *parameters):
        with connections[backend].cursor() as cursor:
            cursor.execute(statement, parameters)

    return run


@pytest.fixture
def announce(database):
    """Announce a live worker: ``announce(activities=["A"], orchestrations={"O": ["1.0.0"]})``."""

    def beat(name="w1", *, activities=(), orchestrations=None, tag_filter="default_only", slots=8):
        workers.beat(
            database,
            worker_id=name,
            host="here",
            pid=1,
            options=json.dumps(
                {
                    "owner": name,
                    "runs_orchestrations": True,
                    "worker_concurrency": slots,
                    "tag_filter": tag_filter,
                }
            ),
            handlers=json.dumps({"activities": list(activities), "orchestrations": orchestrations or {}}),
            slots_used=0,
            draining=False,
        )

    return beat


@pytest.fixture
def rules(database):
    """The rules that find something now."""
    return lambda **options: sorted({finding.rule for finding in health.examine(database, **options)})


@pytest.fixture
def waiting(program, client):
    """One instance for each thing that an instance may wait for."""

    @program.orchestration("OnEvent")
    def on_event(ctx, value):
        yield ctx.wait_for_event("Go")
        yield ctx.wait_for_event("Go")

    @program.orchestration("OnQueue")
    def on_queue(ctx, value):
        yield ctx.dequeue_event("in")

    @program.orchestration("OnTimer")
    def on_timer(ctx, value):
        yield ctx.schedule_timer(3_600_000)

    @program.orchestration("OnActivity")
    def on_activity(ctx, value):
        yield ctx.schedule_activity("Work").with_tag("nobody")

    @program.orchestration("OnChild")
    def on_child(ctx, value):
        yield ctx.schedule_sub_orchestration_with_id("OnEvent", "child-of-on-child", None)

    @program.activity("Work")
    def work(ctx, value):
        pytest.fail("nobody serves this tag")

    for name in ("OnEvent", "OnQueue", "OnTimer", "OnActivity", "OnChild"):
        client.start_orchestration(name, name)
    program.drain(jump=False, options=RuntimeOptions(worker_concurrency=0))
    return program


class TestInvariant:
    def test_holds_for_everything_that_an_instance_may_wait_for(self, waiting, database):
        assert invariant.stuck(database) == []
        assert invariant.lost_work(database) == []
        assert_healthy(database)

    @pytest.mark.parametrize("buffers", [True, False])
    def test_holds_when_an_event_came_before_its_wait(self, program, client, database, settings, buffers):
        """Without buffering it is lost, and the wait stays open."""
        settings.DUROXIDE = {**settings.DUROXIDE, "BUFFER_EVENTS": buffers}

        @program.orchestration("Flow")
        def flow(ctx, _):
            yield ctx.wait_for_event("First")
            yield ctx.wait_for_event("Second")
            yield ctx.wait_for_event("Third")

        client.start_orchestration("one", "Flow", '"strict_events":true')
        program.drain()
        for name in ("Second", "First"):
            client.raise_event("one", name)
            program.drain()
        assert invariant.stuck(database) == []
        assert [pending.name for pending in client.list_pending("one")] == ["Third" if buffers else "Second"]

    def test_holds_after_a_subscription_took_its_event(self, waiting, database, client):
        client.raise_event("OnEvent", "Go")
        assert_healthy(database)
        waiting.drain(jump=False, options=RuntimeOptions(worker_concurrency=0))
        assert_healthy(database)

    @pytest.mark.parametrize(
        ("instance_id", "table", "rules"),
        [
            ("OnTimer", "duroxide_message", {"stuck"}),
            ("OnActivity", "duroxide_activity_task", {"stuck", "lost_work"}),
        ],
    )
    def test_is_broken_by_a_lost_row(self, waiting, database, sql, instance_id, table, rules):
        sql(
            f"DELETE FROM {table} WHERE instance_id = (SELECT id FROM duroxide_instance WHERE instance_id = %s)",
            instance_id,
        )
        found = [*invariant.stuck(database), *invariant.lost_work(database)]
        assert {finding.instance_id for finding in found} == {instance_id}
        assert {finding.rule for finding in found} == rules
        with pytest.raises(AssertionError, match=instance_id):
            assert_healthy(database)

    def test_is_broken_by_a_lost_child(self, waiting, database, sql):
        sql("DELETE FROM duroxide_instance WHERE instance_id = 'child-of-on-child'")
        found = [*invariant.stuck(database), *invariant.lost_work(database)]
        assert {(finding.rule, finding.instance_id) for finding in found} == {
            ("stuck", "OnChild"),
            ("lost_work", "OnChild"),
        }

    def test_is_broken_by_a_message_for_an_older_execution_only(self, waiting, database, sql):
        sql("UPDATE duroxide_message SET execution_id = 0 WHERE kind = 'TimerFired'")
        assert [finding.instance_id for finding in invariant.stuck(database)] == ["OnTimer"]

    def test_looks_at_all_windows(self, waiting, database, sql, monkeypatch):
        monkeypatch.setattr(invariant, "WINDOW", 2)
        sql("DELETE FROM duroxide_message")
        sql("DELETE FROM duroxide_activity_task")
        assert {finding.instance_id for finding in invariant.stuck(database)} == {"OnTimer", "OnActivity"}


class TestBlocked:
    def test_missing_code_says_what_to_do(self, program, client, database):
        client.start_orchestration("one", "Nowhere")
        program.drain(jump=False)
        (finding,) = health.blocked(database)
        assert (finding.rule, finding.severity) == ("blocked_missing_code", "problem")
        assert "'Nowhere'" in finding.why
        assert "Start workers" in finding.cure

    def test_nondeterminism_names_the_line(self, program, client, database, monkeypatch):
        code = {"first": "A"}

        @program.orchestration("Flow")
        def flow(ctx, value):
            yield ctx.wait_for_event(code["first"])

        client.start_orchestration("one", "Flow")
        program.drain(jump=False)
        code["first"] = "B"
        client.raise_event("one", "A")
        program.drain(jump=False)
        (finding,) = health.blocked(database)
        assert finding.rule == "blocked_nondeterminism"
        assert "test_health.py" in finding.why

    def test_corrupt_history(self, program, client, database, sql):
        @program.orchestration("Flow")
        def flow(ctx, value):
            yield ctx.wait_for_event("A")

        client.start_orchestration("one", "Flow")
        program.drain(jump=False)
        sql("UPDATE duroxide_history SET kind = 'Dream' WHERE kind = 'ExternalSubscribed'")
        client.raise_event("one", "A")
        program.drain(jump=False)
        assert [finding.rule for finding in health.blocked(database)] == ["blocked_corrupt_history"]


class TestWorkers:
    def test_nothing_is_found_when_everything_is_served(self, waiting, rules, announce):
        versions = {name: ["1.0.0"] for name in ("OnEvent", "OnQueue", "OnTimer", "OnActivity", "OnChild")}
        announce(activities=["Work"], orchestrations=versions, tag_filter={"tags": ["nobody"]})
        assert rules() == []

    def test_without_workers_everything_is_unserved(self, waiting, rules):
        assert rules() == ["unserved_activity", "unserved_orchestration"]

    def test_a_tag_that_nobody_serves(self, waiting, database, announce):
        announce(activities=["Work"])
        (finding,) = [found for found in health.examine(database) if found.rule == "unserved_tag"]
        assert "'nobody'" in finding.why
        assert "--tag nobody" in finding.cure

    def test_a_version_that_nobody_has(self, waiting, database, announce):
        announce(activities=["Work"], orchestrations={"OnTimer": ["2.0.0"]})
        subjects = {found.subject for found in health.examine(database) if found.rule == "unserved_orchestration"}
        assert "OnTimer 1.0.0" in subjects

    def test_a_worker_without_slots_serves_no_activity(self, waiting, rules, announce):
        announce(activities=["Work"], tag_filter="any", slots=0)
        assert "unserved_activity" in rules()

    def test_a_worker_that_no_longer_beats(self, database, announce, rules, sql):
        announce()
        sql("UPDATE duroxide_worker SET beat_ms = beat_ms - 60000")
        assert rules() == ["dead_worker"]

    def test_a_session_of_a_dead_worker(self, waiting, database, sql):
        sql("UPDATE duroxide_activity_task SET session_id = 's1'")
        sql(
            "INSERT INTO duroxide_session (session_id, owner, lease_until_ms, last_activity_ms) "
            "VALUES ('s1', 'gone', %s, 0)",
            database.now_ms() + 20_000,
        )
        (finding,) = [found for found in health.examine(database) if found.rule == "unserved_session"]
        assert "'gone'" in finding.why


class TestLate:
    def test_overdue_timers_and_messages(self, waiting, client, rules):
        client.raise_event("OnEvent", "Go")
        with virtual_clock() as clock:
            assert not {"overdue_timer", "overdue_message"} & set(rules())
            clock.advance(hours=2)
            assert {"overdue_timer", "overdue_message"} <= set(rules())

    def test_overdue_messages_that_a_worker_has_claimed(self, waiting, client, rules, sql):
        """A worker that claims and gives back, again and again, takes nothing: how old messages are tells."""
        client.raise_event("OnEvent", "Go")
        with virtual_clock() as clock:
            clock.advance(minutes=2)
            sql("UPDATE duroxide_instance SET lease_token = 1, lease_until_ms = %s", clock.now_ms + 30_000)
            assert "overdue_message" in rules()

    def test_ready_tasks_that_nobody_has_room_for(self, waiting, announce, database):
        with virtual_clock() as clock:
            clock.advance(minutes=2)
            announce(activities=["Work"], tag_filter="any")
            found = [finding for finding in health.examine(database) if finding.rule == "overdue_activity"]
            assert [finding.severity for finding in found] == ["warning"]
            assert "0 of 8 slots in use" in found[0].why
            assert "Slots are free" in found[0].cure

    def test_expiring_attempts(self, waiting, rules, sql, database):
        sql("UPDATE duroxide_activity_task SET attempts = 9, last_error = 'killed'")
        sql("UPDATE duroxide_instance SET attempts = 8 WHERE instance_id = 'OnTimer'")
        found = [finding for finding in health.examine(database) if finding.rule == "expiring_attempts"]
        assert {finding.instance_id for finding in found} == {"OnTimer", "OnActivity"}
        assert any("killed" in finding.why for finding in found)

    @pytest.mark.parametrize("backend", ["postgres"], indirect=True)
    def test_transactions_that_keep_rows_locked(self, waiting, database, holder):
        """Of whomever: workers pass the rows over, and nothing waits for them."""

        def found(overdue_ms):
            return [item for item in health.examine(database, overdue_ms=overdue_ms) if item.rule == "long_transaction"]

        holder.execute("SELECT 1 FROM duroxide_instance FOR UPDATE")
        (finding,) = found(0)
        assert str(holder.info.backend_pid) in finding.why
        assert "duroxide_instance" in finding.why
        assert found(60_000) == []
        holder.rollback()
        assert found(0) == []

    def test_cancels_that_do_not_end(self, program, client, database):
        """Swallowed by a broad except: found after a minute, and ended by force; a clean-up with a timer is none."""

        @program.orchestration("Swallows")
        def swallows(ctx, value):
            while True:
                with contextlib.suppress(Exception):
                    yield ctx.wait_for_event("never")

        @program.orchestration("CleansUp")
        def cleans_up(ctx, value):
            try:
                yield ctx.wait_for_event("never")
            except OrchestrationCancelled:
                yield ctx.race(ctx.wait_for_event("confirmed"), ctx.schedule_timer(3_600_000))

        def lingering():
            return [finding for finding in health.examine(database) if finding.rule == "lingering_cancel"]

        with virtual_clock() as clock:
            for name in ("Swallows", "CleansUp"):
                client.start_orchestration(name, name)
                program.drain(jump=False)
                client.cancel_instance(name, "enough")
            program.drain(jump=False)
            assert lingering() == []
            clock.advance(minutes=2)
            (finding,) = lingering()
            assert (finding.instance_id, finding.severity) == ("Swallows", "warning")
            client.cancel_instance("Swallows", "at once", force=True)
            program.drain(jump=False)
            assert lingering() == []
            assert client.get_status("Swallows").error == "canceled: enough"
