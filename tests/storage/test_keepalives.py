"""A PostgreSQL whose host is gone without a word: the worker's connections notice after a minute."""

from __future__ import annotations

import pytest
from django.db import connections

from duroxide_django import Client
from duroxide_django.storage.database import Database

pytestmark = pytest.mark.parametrize("backend", ["postgres"], indirect=True)


@pytest.fixture
def connected(backend):
    """Return the parameters with which the loop's connection of this thread was made."""
    connection = connections[backend]
    before = connection.settings_dict
    connection.close()

    def parameters():
        Database(backend).for_loop().set_up()
        connection.ensure_connection()
        return connection.connection.info.get_parameters()

    yield parameters
    connection.close()
    connection.settings_dict = before


def test_the_loops_connection_is_kept_under_watch(connected):
    assert connected().items() >= {"keepalives_idle": "30", "tcp_user_timeout": "60000"}.items()


def test_other_threads_connect_as_the_project_says(connected, backend):
    """The alias's settings, which all threads share, are left alone."""
    connected()
    assert "keepalives_idle" not in connections.databases[backend].get("OPTIONS", {})


def test_the_projects_own_options_have_precedence(connected, backend):
    connection = connections[backend]
    options = {**connection.settings_dict["OPTIONS"], "keepalives_idle": 300}
    connection.settings_dict = {**connection.settings_dict, "OPTIONS": options}
    assert connected().items() >= {"keepalives_idle": "300", "tcp_user_timeout": "60000"}.items()


@pytest.mark.parametrize("prepared", [True, False])
def test_with_and_without_prepared_statements(connected, settings, prepared):
    settings.DUROXIDE = {**settings.DUROXIDE, "PREPARED_STATEMENTS": prepared}
    assert connected()["keepalives_interval"] == "10"


class TestServer:
    @pytest.fixture
    def setting(self, connected, backend):
        """Return how the server sees a setting of the loop's connection."""

        def setting(name):
            connected()
            with connections[backend].cursor() as cursor:
                cursor.execute(f"SHOW {name}")
                return cursor.fetchone()[0]

        return setting

    def test_ends_a_transaction_that_nobody_goes_on_with(self, setting):
        """A worker whose host is gone, or that is frozen, keeps no rows locked for longer than its leases."""
        assert setting("idle_in_transaction_session_timeout") == "30s"

    def test_leaves_the_role_its_own_limit(self, setting, backend):
        with connections[backend].cursor() as cursor:
            cursor.execute("ALTER ROLE CURRENT_USER SET idle_in_transaction_session_timeout = '7s'")
        try:
            connections[backend].close()
            assert setting("idle_in_transaction_session_timeout") == "7s"
        finally:
            with connections[backend].cursor() as cursor:
                cursor.execute("ALTER ROLE CURRENT_USER RESET idle_in_transaction_session_timeout")

    def test_waits_for_a_worker_that_is_held_up_for_a_moment(self, backend, connected):
        """Also where leases are shorter."""
        Database(backend).for_loop(idle_ms=100).set_up()
        with connections[backend].cursor() as cursor:
            cursor.execute("SHOW idle_in_transaction_session_timeout")
            assert cursor.fetchone()[0] == "5s"


def test_activities_are_watched_by_the_server_too(backend, program, start_runtime):
    """An atomic activity's writes must not stay locked if its host is gone."""
    seen = []

    @program.activity("Look", atomic=True)
    def look(ctx, _):
        with connections[backend].cursor() as cursor:
            cursor.execute("SHOW tcp_keepalives_idle")
            seen.append(cursor.fetchone()[0])
            seen.append(connections[backend].connection.info.get_parameters()["keepalives_idle"])

    @program.orchestration("Looks")
    def looks(ctx, _):
        yield ctx.schedule_activity("Look")

    start_runtime()
    client = Client(using=backend)
    client.start_orchestration("one", "Looks")
    assert client.wait_for_orchestration("one").status == "Completed"
    assert seen == ["30", "30"]
