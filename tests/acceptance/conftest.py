"""What the acceptance tests share: a client, started runtimes, and the history as it can be read."""

from __future__ import annotations

import pytest

from duroxide_django import Client


@pytest.fixture
def client(provider):
    """Return a client on the store under test."""
    return Client(provider)


@pytest.fixture
def start_runtime(provider, runtime_factory):
    """Return a function that starts a runtime with a program on the store under test.

    Each call is another worker as far as the store can tell, with a registry of its own. What still runs at
    the end of the test is stopped.
    """

    def start(program, *, options=None, **arguments):
        runtime = runtime_factory(provider, options)
        program(runtime, **arguments)
        runtime.start()
        return runtime

    return start


@pytest.fixture
def history(client):
    """Return a function that reads an execution's recorded events."""

    def read(instance_id, execution_id=1):
        return client.read_execution_history(instance_id, execution_id)

    return read


@pytest.fixture
def kinds(history):
    """Return a function that lists the kinds of an execution's recorded events, in order."""

    def read(instance_id, execution_id=1):
        return [event.kind for event in history(instance_id, execution_id)]

    return read
