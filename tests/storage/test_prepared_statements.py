"""PREPARED_STATEMENTS: what clients send most is planned once for each connection, on PostgreSQL."""

from __future__ import annotations

import pytest
from django.db import connections, transaction
from django.test.utils import CaptureQueriesContext


@pytest.fixture
def prepared(backend):
    """Return the texts that this thread's connection has prepared."""
    connection = connections[backend]
    if connection.vendor != "postgresql":
        pytest.skip("SQLite's driver keeps its statements by itself")
    connection.close()

    def texts():
        with connection.cursor() as cursor:
            cursor.execute("SELECT statement FROM pg_prepared_statements")
            return [text for (text,) in cursor.fetchall()]

    return texts


class TestStarts:
    def test_are_prepared(self, client, prepared):
        """The third call finds a plan."""
        for number in range(4):
            client.start_orchestration(f"echo-{number}", "Echo")
        assert [text for text in prepared() if "INSERT INTO duroxide_instance" in text]

    def test_are_not_behind_a_pooler(self, client, prepared, settings):
        """The setting switches it off at once."""
        settings.DUROXIDE = {**settings.DUROXIDE, "PREPARED_STATEMENTS": False}
        for number in range(4):
            client.start_orchestration(f"echo-{number}", "Echo")
        assert prepared() == []

    def test_leave_the_other_statements_of_the_connection_alone(self, client, prepared, backend):
        """What the project itself sends is sent as Django sends it."""
        for number in range(4):
            client.start_orchestration(f"echo-{number}", "Echo")
            with connections[backend].cursor() as cursor:
                cursor.execute("SELECT 'its own'")
        assert not [text for text in prepared() if "its own" in text]

    def test_are_seen_by_djangos_query_log(self, client, prepared, backend):
        """assertNumQueries and the debug toolbar count them."""
        with CaptureQueriesContext(connections[backend]) as captured, transaction.atomic(using=backend):
            client.start_orchestration("echo-1", "Echo")
        assert [query["sql"] for query in captured if "INSERT INTO duroxide_instance" in query["sql"]]
