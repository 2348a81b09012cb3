"""PostgreSQL's JIT compiler: not for the loop's statements, whose plans cost 1e10 with what its connection disables."""

from __future__ import annotations

import threading

import pytest
from django.db import connections

from duroxide_django.storage.database import Database

pytestmark = pytest.mark.parametrize("backend", ["postgres"], indirect=True)


@pytest.fixture
def jit(backend):
    """Return what a thread's connection says of JIT after ``use`` was called on it, on a server that has it on."""

    def read(use):
        found = []

        def ask():
            try:
                with connections[backend].cursor() as cursor:
                    cursor.execute("SET jit = on")
                use(Database(backend))
                with connections[backend].cursor() as cursor:
                    cursor.execute("SHOW jit")
                    found.extend(cursor.fetchone())
            finally:
                connections.close_all()

        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()
        return found

    return read


def test_is_off_for_the_loop(jit):
    assert jit(lambda db: db.for_loop().set_up()) == ["off"]


@pytest.mark.parametrize("prepare", [Database.prepared, lambda db: db])
def test_is_left_alone_on_the_projects_connections(jit, prepare):
    """The project's own reports may be worth compiling."""
    assert jit(lambda db: prepare(db).now_ms()) == ["on"]


def test_has_nothing_to_do_while_the_loop_works(client, program, start_runtime, backend):
    """The options that the loop's thread really works with; JIT or not, nobody else's are changed."""
    found = []

    @program.orchestration("Ask")
    def ask(ctx, input):
        # Turns are computed in the loop's thread. Only a test may ask a database there.
        with connections[backend].cursor() as cursor:
            cursor.execute("SELECT current_setting('jit'), current_setting('enable_seqscan')")
            found.append(cursor.fetchone())
        return (yield ctx.schedule_activity("Look"))

    @program.activity("Look")
    def look(ctx, input):
        with connections[backend].cursor() as cursor:
            cursor.execute("SELECT current_setting('enable_seqscan')")
            return cursor.fetchone()[0]

    start_runtime()
    client.start_orchestration("ask-1", "Ask")
    assert client.wait_for_orchestration("ask-1").output == "on"
    assert found[0] == ("off", "off")
