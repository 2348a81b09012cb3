"""Django's query log under DEBUG: nothing but a request empties it, and a worker has none."""

from __future__ import annotations

import pytest
from django.db import connections

#: More statements than one iteration of the loop sends, fewer than all of them together.
AN_ITERATIONS_STATEMENTS = 60


@pytest.fixture
def debug(settings):
    settings.DEBUG = True
    # Its statements are then sent by Django's cursors, as those of a pooled connection.
    settings.DUROXIDE = {**settings.DUROXIDE, "PREPARED_STATEMENTS": False}


def logged():
    return sum(len(connection.queries_log) for connection in connections.all(initialized_only=True))


def test_does_not_grow_in_the_loop(debug, program, start_runtime, client):
    """The loop keeps the statements of one iteration at the most, with the payloads that they carry."""
    seen = []

    @program.orchestration("Steps")
    def steps(ctx, count):
        for _ in range(count):
            yield ctx.schedule_activity("Step")
            seen.append(logged())

    program.activity("Step")(lambda ctx, _: None)
    client.start_orchestration("steps-1", "Steps", 60)
    start_runtime()
    assert client.wait_for_orchestration("steps-1", 30_000).status == "Completed"
    assert len(seen) == 60
    assert max(seen) < AN_ITERATIONS_STATEMENTS
