"""A pooler between a worker and PostgreSQL: sessions are shared, so nothing is left behind in one."""

from __future__ import annotations

import os
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest
from django.db import connections

from duroxide_django import Client
from duroxide_django.checks import check_pool
from duroxide_django.storage import fast
from duroxide_django.storage.database import Database
from tests.pgbouncer import PgBouncer

pytestmark = pytest.mark.parametrize("backend", ["postgres"], indirect=True)


class _Server:
    def __init__(self, port):
        self.port = port


@contextmanager
def moved(alias, port):
    """Let this alias be reached at another port."""
    connection = connections[alias]
    before = connection.settings_dict
    connection.close()
    connection.settings_dict = {**before, "HOST": "127.0.0.1", "PORT": port}
    try:
        yield connection
    finally:
        connection.close()
        connection.settings_dict = before


@pytest.fixture
def pooled(postgres_url, backend):
    """This thread's connection, through a PgBouncer in transaction mode."""
    if PgBouncer.program() is None:
        assert not os.environ.get("CI"), "Install PgBouncer: apt-get install pgbouncer."
        pytest.skip("PgBouncer is not installed")
    pooler = PgBouncer(_Server(urlsplit(postgres_url).port), "transaction", default_pool_size=1).start()
    try:
        with moved(backend, pooler.port) as connection:
            yield connection
    finally:
        fast._poolers.clear()
        pooler.stop()


def _left_behind(connection):
    with connection.cursor() as cursor:
        cursor.execute("SELECT COUNT(*) FROM pg_prepared_statements")
        prepared = cursor.fetchone()[0]
        cursor.execute("SHOW enable_seqscan")
        return prepared, cursor.fetchone()[0]


def test_worker_leaves_nothing_in_its_session(pooled, backend):
    database = Database(backend).for_loop()
    database.set_up()
    for _ in range(5):
        database.fetch("SELECT 1 FROM duroxide_instance")
    assert not database.is_fast
    assert _left_behind(pooled) == (0, "on")


def test_client_leaves_nothing_in_its_session(pooled, backend):
    for number in range(5):
        Client(using=backend).start_orchestration(f"i{number}", "Any")
    assert _left_behind(pooled)[0] == 0


def test_session_mode_is_a_setting(pooled, backend, settings):
    settings.DUROXIDE = {**settings.DUROXIDE, "PREPARED_STATEMENTS": True}
    assert Database(backend).owns_session()


def test_direct_connection_is_prepared(backend):
    database = Database(backend).for_loop()
    database.set_up()
    assert database.is_fast
    connections[backend].close()


@pytest.mark.parametrize(("pool", "errors"), [(True, 1), ({"max_size": 5}, 1), ({"max_size": 12}, 0), (None, 0)])
def test_check_refuses_a_pool_that_is_too_small(backend, settings, monkeypatch, pool, errors):
    settings.DUROXIDE = {**settings.DUROXIDE, "DATABASE": backend, "WORKER_CONCURRENCY": 8}
    monkeypatch.setitem(connections.databases[backend], "OPTIONS", {"pool": pool})
    found = check_pool()
    assert len(found) == errors
    assert all("a worker needs 12" in message.msg for message in found)
