"""Live executions beyond the cache's bounds are closed; an instance whose execution is closed is replayed."""

from __future__ import annotations

import pytest

from duroxide_django.models import Instance
from tests.runtime.program import work

NAMES = [f"waits-{number}" for number in range(15)]


@pytest.mark.parametrize("bounds", [{"cache_executions": 5}, {"cache_bytes": 10_000}], ids=["count", "bytes"])
def test_a_batch_that_exceeds_them_keeps_no_closed_execution(client, program, backend, caplog, bounds):
    """While it is committed, its instances displace each other."""

    @program.orchestration("Wait")
    def wait(ctx, count):
        seen = []
        for _ in range(count):
            seen.append((yield ctx.wait_for_event("go")))  # noqa: PERF401 - no yield in comprehensions
        return seen

    worker = program.dispatcher(**bounds)
    client.start_many([(name, "Wait", 3) for name in NAMES])
    work(worker)
    assert 0 < len(worker.cache) < len(NAMES)
    for turn in range(3):
        for name in NAMES:
            client.raise_event(name, "go", turn)
        work(worker)
        assert not Instance.objects.using(backend).exclude(blocked=None).exists()
    assert [client.get_status(name).output for name in NAMES] == [[0, 1, 2]] * len(NAMES)
    assert "inside the engine" not in caplog.text
