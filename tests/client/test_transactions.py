"""What start, raise, enqueue and cancel have in common: they are part of the caller's transaction, and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from django.db import transaction

from duroxide_django.testing import assert_healthy
from tests.runtime.program import failing_transaction

VERBS = ["start", "raise", "enqueue", "cancel"]


@pytest.fixture(params=VERBS)
def verb(request):
    return request.param


@pytest.fixture
def send(client, program, verb):
    """Do what the verb says."""

    @program.orchestration("Waiting")
    def waiting(ctx, input):
        winner = yield ctx.race(ctx.wait_for_event("go"), ctx.dequeue_event("in"))
        return winner["value"]

    client.start_orchestration("waits", "Waiting")
    program.drain(jump=False)

    def send():
        if verb == "start":
            client.start_orchestration("new", "Waiting")
        elif verb == "raise":
            client.raise_event("waits", "go", 7)
        elif verb == "enqueue":
            client.enqueue_event("waits", "in", 7)
        else:
            client.cancel_instance("waits", "enough")

    return send


@pytest.fixture
def arrived(client, program, verb, backend):
    """Run what is due, and tell whether the verb had an effect; the invariant holds in any case."""

    def arrived():
        program.drain(jump=False)
        assert_healthy(backend)
        if verb == "start":
            return client.get_status("new").status == "Running"
        status = client.get_status("waits")
        if verb == "cancel":
            return status.error == "canceled: enough"
        return status.output == 7

    return arrived


class TestOnTheSameAlias:
    def test_a_commit_sends(self, send, arrived, backend):
        with transaction.atomic(using=backend):
            send()
        assert arrived()

    def test_a_rollback_leaves_no_trace(self, send, arrived, backend):
        with failing_transaction(backend):
            send()
        assert not arrived()

    def test_a_savepoint_rolls_back_alone(self, send, arrived, backend):
        with transaction.atomic(using=backend), failing_transaction(backend):
            send()
        assert not arrived()

    def test_a_nested_block_commits_with_the_outermost_one(self, send, arrived, backend):
        with transaction.atomic(using=backend):
            with transaction.atomic(using=backend), transaction.atomic(using=backend):
                send()
            with failing_transaction(backend):
                pass
        assert arrived()

    def test_a_nested_block_is_undone_by_the_outermost_one(self, send, arrived, backend):
        with failing_transaction(backend), transaction.atomic(using=backend):
            send()
        assert not arrived()


class TestOnAnotherAlias:
    """What holds is documented in guarantees.md: the call is a transaction of its own."""

    def test_it_is_sent_at_once_whatever_becomes_of_the_other(self, send, arrived):
        with failing_transaction("default"):
            send()
        assert arrived()

    def test_sent_on_commit_it_is_not_sent_by_a_rollback(self, send, arrived):
        with failing_transaction("default"):
            transaction.on_commit(send, using="default")
        assert not arrived()

    def test_sent_on_commit_it_is_sent_by_a_commit(self, send, arrived):
        with transaction.atomic(using="default"):
            transaction.on_commit(send, using="default")
        assert arrived()


CRASH = """
import os, signal
import django
django.setup()
from django.db import transaction
from duroxide_django import Client
client = Client()
with transaction.atomic(using=client.db.alias):
    client.start_orchestration("new", "Waiting")
    client.raise_event("waits", "go", 7)
    client.enqueue_event("waits", "in", 7)
    client.cancel_instance("waits", "enough")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("verb", ["start"], indirect=True)
def test_a_crash_before_the_commit_leaves_no_trace(send, arrived, client, subprocess_env):
    """kill -9 inside atomic(), after all four verbs: nothing was sent, and nothing stays locked."""
    process = subprocess.run([sys.executable, "-c", CRASH], env={**os.environ, **subprocess_env}, check=False)
    assert process.returncode == -signal.SIGKILL
    assert not arrived()
    assert client.get_status("new").status == "NotFound"
    assert client.get_status("waits").status == "Running"
    send()
    assert arrived()
