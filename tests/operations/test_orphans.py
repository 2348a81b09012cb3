"""Messages whose instance is gone: what was sent while it was being deleted."""

from __future__ import annotations

import threading

import pytest
from django.db import connections, transaction

from duroxide_django import Client
from duroxide_django.models import Instance, Message
from duroxide_django.storage.database import Database
from duroxide_django.storage.inbox import remove_orphans
from duroxide_django.testing import assert_healthy, virtual_clock


@pytest.fixture(autouse=True)
def waiting(client, program):
    """Two instances that wait for an event."""

    @program.orchestration("Wait")
    def wait(ctx, _):
        return (yield ctx.wait_for_event("go"))

    for name in ("one", "two"):
        client.start_orchestration(name, "Wait")
    program.drain()


def left(alias):
    return Message.objects.using(alias).count()


class TestOrphans:
    def test_are_removed_when_they_are_old(self, client, backend):
        """Those of living instances stay, however long they wait."""
        db = Database(backend)
        with virtual_clock() as clock:
            client.raise_event("one", "go", 1)
            client.raise_event("two", "go", 2)
            Instance.objects.using(backend).get(instance_id="one").delete()
            assert left(backend) == 2
            assert remove_orphans(db, older_than_ms=60_000) == 0
            clock.advance(seconds=61)
            assert remove_orphans(db, older_than_ms=60_000) == 1
        assert left(backend) == 1

    @pytest.mark.parametrize("backend", ["postgres"], indirect=True)
    def test_come_from_an_event_that_is_committed_after_the_deletion(self, client, program, backend):
        """On SQLite one of the two has to wait for the other."""

        def delete():
            Client(using=backend).delete_instance("one", force=True)
            connections.close_all()

        with transaction.atomic(using=backend):
            client.raise_event("one", "go", 1)
            thread = threading.Thread(target=delete)
            thread.start()
            thread.join(20)
        program.drain()
        assert left(backend) == 1
        assert remove_orphans(Database(backend), older_than_ms=0) == 1
        client.raise_event("two", "go", 2)
        program.drain()
        assert client.get_status("two").output == 2
        assert_healthy(backend)
