"""Sessions over processes: the owner dies, and another worker goes on with what it owned (spec 10.1)."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.slow

#: Leases that a test can wait for.
SHORT = {"WORKER_SESSION_LEASE_MS": "1500", "WORKER_ACTIVITY_LEASE_MS": "1500"}


def test_of_a_killed_owner_move_to_another_worker(client, start, folder, wait_until):
    """kill -9: once the leases have run out the held activity runs again, with all that follow, at one other worker."""
    workers = {worker.pid: worker for worker in (start(**SHORT), start(**SHORT))}
    client.start_orchestration("in-1", "InSession", str(folder))
    owner = wait_until(lambda: folder.pid_of("in-1"), timeout_s=60)
    workers[owner].kill()
    heir = wait_until(lambda: folder.pid_of("in-1", 2), timeout_s=60)
    folder.release()
    (other,) = workers.keys() - {owner}
    assert heir == other
    assert client.wait_for_orchestration("in-1").output == [[owner, owner], [other] * 3]


def test_of_a_living_owner_stay_however_long_an_activity_takes(client, start, folder, wait_until, backend):
    """The leases are renewed, also short ones: the other worker waits in vain."""
    for _ in range(2):
        start(**SHORT)
    client.start_orchestration("in-1", "InSession", str(folder))
    owner = wait_until(lambda: folder.pid_of("in-1"), timeout_s=60)
    first = _lease(backend)
    wait_until(lambda: _lease(backend) > first + 3_000, timeout_s=60)
    folder.release()
    assert client.wait_for_orchestration("in-1").output == [[owner, owner], [owner] * 3]
    assert folder.pid_of("in-1", 2) is None


def test_of_a_named_node_wait_for_its_next_process(client, start, folder, wait_until):
    """The owner is the node: its restarted worker goes on without waiting for the session's lease to run out."""
    variables = {"WORKER_ACTIVITY_LEASE_MS": "1500", "WORKER_SESSION_LEASE_MS": "120000"}
    first = start("--node-id", "node-1", **variables)
    client.start_orchestration("in-1", "InSession", str(folder))
    wait_until(lambda: folder.pid_of("in-1"), timeout_s=60)
    stranger = start("--node-id", "node-2", **variables)
    first.kill()
    again = start("--node-id", "node-1", **variables)
    assert wait_until(lambda: folder.pid_of("in-1", 2), timeout_s=60) == again.pid != stranger.pid
    folder.release()
    assert client.wait_for_orchestration("in-1").output == [[first.pid] * 2, [again.pid] * 3]


def _lease(alias):
    from duroxide_django.models import Session

    return Session.objects.using(alias).get().lease_until_ms
