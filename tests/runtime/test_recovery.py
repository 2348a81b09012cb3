"""When the database goes away: workers wait for it, and go on from the last committed turn (design 1)."""

from __future__ import annotations

import time

import pytest
from django.db import OperationalError, connections

from duroxide_django import Client, PostgresProvider, Runtime
from duroxide_django.runtime.dispatcher import Dispatcher
from duroxide_django.runtime.listener import DataVersion


def steps_of(runtime):
    runtime.register_activity("Add", lambda ctx, pair: sum(pair))

    @runtime.register_orchestration("Steps")
    def steps(ctx, count):
        total = 0
        for _ in range(count):
            total = yield ctx.schedule_activity("Add", [total, 1])
        yield ctx.wait_for_event("go")
        return (yield ctx.schedule_activity("Add", [total, 1]))


@pytest.mark.parametrize("backend", ["postgres"], indirect=True)
class TestLostConnections:
    def cut(self, alias):
        """End every other connection to the database, as a fail-over does."""
        with connections[alias].cursor() as cursor:
            cursor.execute(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )

    def test_are_replaced(self, client, backend, program, start_runtime):
        """Cut while idle: the same runtime serves the next instance."""
        steps_of(runtime := program.runtime())
        runtime.start()
        try:
            client.start_orchestration("steps-1", "Steps", 3)
            client.raise_event("steps-1", "go")
            assert client.wait_for_orchestration("steps-1").output == 4
            self.cut(backend)
            client.start_orchestration("steps-2", "Steps", 3)
            client.raise_event("steps-2", "go")
            assert client.wait_for_orchestration("steps-2", 20_000).output == 4
        finally:
            runtime.shutdown()

    def test_under_load_lose_nothing(self, client, backend, program, settings):
        """Cut again and again while many instances run: all of them end with the right result."""
        # A commit whose answer was lost leaves leases behind, which have to run out.
        settings.DUROXIDE = {**settings.DUROXIDE, "TURN_LEASE_MS": 1_500, "ACTIVITY_LEASE_MS": 1_500}
        steps_of(runtime := program.runtime())
        with runtime:
            for number in range(20):
                client.start_orchestration(f"steps-{number}", "Steps", 10)
                client.raise_event(f"steps-{number}", "go")
                if number % 5 == 4:
                    self.cut(backend)
            for number in range(20):
                assert client.wait_for_orchestration(f"steps-{number}", 60_000).output == 11
            assert runtime.metrics_snapshot().provider_errors >= 1


@pytest.mark.slow
class TestCrashedServer:
    def test_is_waited_for(self, private_postgres, database_access, wait_until):
        """The server crashes and comes back: live instances go on, nothing committed is lost."""
        private_postgres.start()
        provider = PostgresProvider.connect(private_postgres.url())
        client, runtime = Client(provider), Runtime(provider)
        steps_of(runtime)
        runtime.start()
        try:
            for number in range(5):
                client.start_orchestration(f"steps-{number}", "Steps", 3)
            wait_until(lambda: client.get_queue_depths().worker_queue == 0 and _all_wait(client, 5))
            private_postgres.stop("immediate")
            private_postgres.start()
            connections[provider.alias].close()
            for number in range(5):
                client.raise_event(f"steps-{number}", "go")
            for number in range(5):
                assert client.wait_for_orchestration(f"steps-{number}", 60_000).output == 4
        finally:
            runtime.shutdown()
            connections[provider.alias].close()
            del connections[provider.alias]
            del connections.databases[provider.alias]


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
class TestALockedFile:
    def test_ends_no_idle_worker(self, client, program, monkeypatch, wait_until):
        """Without WAL a writer keeps readers out, also the one that asks whether there is something new."""
        failures = [OperationalError("database is locked")] * 3
        changed = DataVersion.changed

        def locked(version):
            if failures:
                raise failures.pop()
            return changed(version)

        monkeypatch.setattr(DataVersion, "changed", locked)
        steps_of(runtime := program.runtime())
        with runtime:
            wait_until(lambda: not failures)
            client.start_orchestration("steps-1", "Steps", 3)
            client.raise_event("steps-1", "go")
            assert client.wait_for_orchestration("steps-1", 20_000).output == 4


def _all_wait(client, count):
    return all(
        client.read_execution_history(f"steps-{number}", 1)[-1:]
        and client.read_execution_history(f"steps-{number}", 1)[-1].kind == "ExternalSubscribed"
        for number in range(count)
    )


class TestStopping:
    def test_with_nothing_to_save_does_not_wait_for_the_database(self, client, start_runtime, monkeypatch, wait_until):
        """Containers are killed ten seconds after SIGTERM."""
        monkeypatch.setattr("duroxide_django.runtime.loop._AWAY_S", 0.0)
        runtime = start_runtime()

        def away(dispatcher, *, claiming):
            raise OperationalError("could not connect to server: Connection refused")

        monkeypatch.setattr(Dispatcher, "iterate", away)
        client.start_orchestration("steps-1", "Steps", 3)
        wait_until(lambda: runtime.metrics_snapshot().provider_errors >= 3)
        began = time.monotonic()
        runtime.shutdown(20_000)
        assert time.monotonic() - began < 10
        assert not runtime.is_live()
