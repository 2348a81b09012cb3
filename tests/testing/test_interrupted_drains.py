"""What a drain() that ended before it was done leaves for the next one."""

from __future__ import annotations

import pytest

from duroxide_django.models import ActivityTask, Instance
from duroxide_django.storage import activities
from duroxide_django.testing import DrainLimit, virtual_clock
from tests.runtime.program import program

__all__ = ["program"]


@pytest.fixture
def workflows(program):
    @program.activity("Add")
    def add(ctx, number):
        return number + 1

    @program.activity("AddAsync")
    async def add_async(ctx, number):
        return number + 1

    @program.orchestration("Steps")
    def steps(ctx, number):
        for _ in range(5):
            number = yield ctx.schedule_activity("Add", number)
            found = yield ctx.all([ctx.schedule_activity("AddAsync", number), ctx.schedule_activity("Add", number)])
            number = found[0]["ok"]
        return number

    return program


class TestAfterTheLimit:
    @pytest.mark.parametrize("jump", [True, False])
    @pytest.mark.parametrize("steps", [1, 2, 3, 5, 8])
    def test_the_next_drain_goes_on(self, client, workflows, backend, steps, jump):
        """Whatever was held when it was reached: nothing stays leased, and no attempt is counted."""
        names = [f"steps-{number}" for number in range(3)]
        client.start_many([(name, "Steps", 0) for name in names])
        with pytest.raises(DrainLimit):
            workflows.drain(max_steps=steps, jump=jump)
        assert not ActivityTask.objects.using(backend).exclude(lease_token=None).exists()
        assert not ActivityTask.objects.using(backend).exclude(attempts=0).exists()
        assert not Instance.objects.using(backend).exclude(lease_token=None).exists()
        workflows.drain(jump=jump)
        assert [client.get_status(name).output for name in names] == [10] * 3


class TestLeasesThatARealWorkerLeft:
    def test_are_jumped_over(self, client, workflows, backend):
        """A test process was killed in the middle of an activity, or of a turn."""
        client.start_orchestration("steps-1", "Steps", 0)
        with pytest.raises(DrainLimit):
            workflows.drain(max_steps=2)
        with virtual_clock() as clock:
            leased = {"lease_token": 7, "lease_until_ms": clock.now_ms + 30_000}
            assert ActivityTask.objects.using(backend).update(**leased)
            workflows.drain(jump=False)
            assert client.get_status("steps-1").status == "Running"
            workflows.drain()
            assert client.get_status("steps-1").output == 10
            client.start_orchestration("steps-2", "Steps", 0)
            leased["lease_until_ms"] = clock.now_ms + 30_000
            Instance.objects.using(backend).filter(instance_id="steps-2").update(**leased)
            workflows.drain()
            assert client.get_status("steps-2").output == 10


def test_an_activity_that_nobody_began_is_not_lost_by_a_fault(client, program, backend, monkeypatch):
    """Its row goes in the transaction that enqueues its failure."""

    @program.orchestration("Impatient")
    def impatient(ctx, _):
        yield ctx.schedule_activity("Nobody", schedule_to_start_timeout_ms=1_000)

    client.start_orchestration("one", "Impatient")
    send = activities.send

    def fails(db, outgoing, **options):
        if not outgoing:
            return
        monkeypatch.setattr(activities, "send", send)
        raise OSError("between the two statements")

    monkeypatch.setattr(activities, "send", fails)
    with pytest.raises(OSError, match="between"):
        program.drain()
    program.drain()
    assert "no worker started activity 'Nobody'" in client.get_status("one").error
