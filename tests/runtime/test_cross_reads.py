"""A turn that reads another instance's KV waits for the database; what happens to that is not the turn's fault."""

from __future__ import annotations

import time

import pytest

from duroxide_django.models import Instance
from duroxide_django.storage import fast
from duroxide_django.testing import virtual_clock
from tests.runtime.program import take_for_quick, work

pytestmark = pytest.mark.parametrize("backend", ["postgres"], indirect=True)


@pytest.fixture
def reader(program):
    @program.orchestration("Reader")
    def reader(ctx, _):
        return (yield ctx.get_kv_value_from_instance("other", "key"))


@pytest.fixture
def locked(reader, holder):
    """Nobody else can read KV entries, as during a migration."""
    holder.execute("LOCK TABLE duroxide_kv IN ACCESS EXCLUSIVE MODE")


class TestAFaultOfTheDatabase:
    @pytest.fixture
    def worker(self, program):
        """A worker that gives up waiting for a lock."""
        worker = program.dispatcher(max_attempts=2)
        worker.db.execute("SET lock_timeout = '20ms'")
        yield worker
        worker.db.execute("RESET lock_timeout")

    def test_is_not_counted(self, client, locked, holder, worker, backend):
        """The instance says why it can't go on, however often that happens, and goes on when it is over."""
        with virtual_clock() as clock:
            client.start_orchestration("one", "Reader")
            for tries in range(1, 5):
                work(worker)
                blocked = client.get_blocked("one")
                assert (blocked["reason"], blocked["tries"]) == ("database_failed", tries)
                assert Instance.objects.using(backend).get().attempts == 0
                clock.advance(seconds=61)
            holder.rollback()
            work(worker)
            assert client.get_status("one").status == "Completed"
            assert client.get_blocked("one") is None

    def test_without_a_lease_is_recorded_with_one(self, client, locked, holder, worker):
        """Only who holds an instance may write why it can't go on."""
        worker.claimer.fresh_ms = 60_000
        take_for_quick(worker, "Reader")
        with virtual_clock() as clock:
            client.start_orchestration("one", "Reader")
            work(worker)
            assert client.get_blocked("one")["reason"] == "database_failed"
            holder.rollback()
            clock.advance(seconds=61)
            work(worker)
            assert client.get_status("one").status == "Completed"


class TestWaiting:
    def test_is_not_hanging(self, client, locked, holder, start_runtime, settings, wait_until, caplog, monkeypatch):
        """However long the database takes: the process would be replaced in vain."""
        monkeypatch.setattr(fast, "_SETTINGS", f"{fast._SETTINGS}; SET lock_timeout = 0")
        settings.DUROXIDE = {**settings.DUROXIDE, "TURN_TIMEOUT_MS": 500}
        runtime = start_runtime()
        dispatcher = runtime._loop.dispatcher
        client.start_orchestration("one", "Reader")

        def waits():
            asked_at, turn = dispatcher.asked_at, dispatcher.turn
            return turn is not None and asked_at is not None and time.monotonic() - asked_at > 1.5

        wait_until(waits)
        assert runtime.is_live()
        holder.rollback()
        assert client.wait_for_orchestration("one", 20_000).status == "Completed"
        assert runtime.hangs is None
        assert "The worker hangs" not in caplog.text
