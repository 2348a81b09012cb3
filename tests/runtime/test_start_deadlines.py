"""Schedule-to-start: what a worker began in time doesn't fail as never begun when it has to be begun once more."""

from __future__ import annotations

import pytest

from duroxide_django import RuntimeOptions
from duroxide_django.models import ActivityTask
from duroxide_django.storage import activities
from duroxide_django.storage.database import Database

HOUR_MS = 3_600_000


@pytest.fixture(autouse=True)
def workflows(program, gate):
    @program.activity("Held")
    def held(ctx, _):
        gate.wait()
        return "done"

    @program.orchestration("Flow")
    def flow(ctx, _):
        return (yield ctx.schedule_activity("Held", schedule_to_start_timeout_ms=HOUR_MS))


@pytest.fixture
def tasks(backend):
    return ActivityTask.objects.using(backend)


@pytest.fixture
def expire(backend, tasks):
    """Let the deadline pass, if it still counts; returns how many activities failed for it."""

    def expire():
        tasks.exclude(start_by_ms=None).update(start_by_ms=1)
        return activities.expire_unstarted(Database(backend))

    return expire


@pytest.fixture
def waiting(client, program):
    """An activity that no worker has begun."""
    client.start_orchestration("one", "Flow")
    program.drain(options=RuntimeOptions(worker_concurrency=0), jump=False)


class TestAnActivityThatWasBegun:
    def test_and_given_back_by_a_stopping_worker_goes_on(self, client, program, start_runtime, gate, expire):
        """The next worker may come after the deadline."""
        runtime = start_runtime()
        client.start_orchestration("one", "Flow")
        gate.wait_entered()
        runtime.shutdown(0)
        assert expire() == 0
        gate.open()
        program.drain()
        assert client.get_status("one").output == "done"

    def test_and_hurried_after_its_worker_died_goes_on(self, client, program, gate, waiting, tasks, expire):
        """The hurry makes its attempts begin anew, not its time to start."""
        tasks.update(attempts=1, lease_token=1, lease_until_ms=1)
        client.retry_activity_now("one", 2)
        assert expire() == 0
        gate.open()
        program.drain()
        assert client.get_status("one").output == "done"


class TestAnActivityThatWasNeverBegun:
    def test_fails(self, client, program, waiting, expire):
        assert expire() == 1
        program.drain()
        assert "no worker started activity 'Held' in time" in client.get_status("one").error

    def test_fails_though_it_was_hurried(self, client, waiting, expire):
        client.retry_activity_now("one", 2)
        assert expire() == 1
