"""Migrations: from nothing to the current tables, back to nothing, and never behind the models."""

from __future__ import annotations

import io

import pytest
from django.core.management import call_command
from django.db import connections
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.recorder import MigrationRecorder

from duroxide_django import Client, ConfigurationError, Provider, Runtime
from duroxide_django.models import Instance

APP = "duroxide_django"


def tables(alias):
    connection = connections[alias]
    with connection.cursor() as cursor:
        return {name for name in connection.introspection.table_names(cursor) if name.startswith("duroxide_")}


def migrate(alias, *target):
    call_command("migrate", APP, *target, database=alias, verbosity=0, interactive=False)


def expected_tables():
    from django.apps import apps

    return {model._meta.db_table for model in apps.get_app_config(APP).get_models()}


def test_models_have_no_changes_without_a_migration(database_access, django_db_setup):
    """makemigrations --check finds nothing to do."""
    call_command("makemigrations", "--check", "--dry-run", verbosity=0, stdout=io.StringIO())


def test_every_migration_can_be_undone(database_access, django_db_setup):
    """No operation of any migration is a one-way street."""
    graph = MigrationExecutor(connections["sqlite"]).loader.graph
    for node in graph.nodes:
        if node[0] == APP:
            assert all(operation.reversible for operation in graph.nodes[node].operations), node


class TestFromZero:
    def test_makes_all_tables(self, empty_alias):
        """An empty database has every table afterwards."""
        assert tables(empty_alias) == set()
        migrate(empty_alias)
        assert tables(empty_alias) == expected_tables()

    def test_makes_tables_that_work(self, empty_alias):
        """A workflow runs on them at once."""
        migrate(empty_alias)
        client, runtime = Client(using=empty_alias), Runtime(Provider(empty_alias))
        runtime.register_activity("Add", lambda ctx, pair: sum(pair))

        @runtime.register_orchestration("Sum")
        def add_up(ctx, pair):
            return (yield ctx.schedule_activity("Add", pair))

        with runtime:
            client.start_orchestration("sum-1", "Sum", [1, 2])
            assert client.wait_for_orchestration("sum-1", 20_000).output == 3

    def test_may_be_run_again(self, empty_alias):
        """A second migrate finds nothing to do."""
        migrate(empty_alias)
        migrate(empty_alias)
        assert tables(empty_alias) == expected_tables()

    def test_needs_no_other_app_there(self, empty_alias):
        """The workflows' database may hold nothing else: no users, no content types."""
        migrate(empty_alias)
        connection = connections[empty_alias]
        with connection.cursor() as cursor:
            others = {name for name in connection.introspection.table_names(cursor) if "duroxide" not in name}
        assert others <= {"django_migrations", "sqlite_sequence"}


class TestBackToZero:
    def test_removes_all_tables(self, empty_alias):
        """``migrate duroxide_django zero`` leaves nothing behind."""
        migrate(empty_alias)
        migrate(empty_alias, "zero")
        assert tables(empty_alias) == set()

    def test_can_be_followed_by_the_way_up(self, empty_alias):
        """Down and up again gives empty, working tables."""
        migrate(empty_alias)
        Client(using=empty_alias).start_orchestration("gone-1", "Any")
        migrate(empty_alias, "zero")
        migrate(empty_alias)
        assert Client(using=empty_alias).list_all_instances() == []


class TestConstraints:
    def test_an_instance_id_is_unique(self, empty_alias):
        """The database itself refuses a second row with the same id."""
        from django.db import IntegrityError

        migrate(empty_alias)
        values = {"instance_id": "one", "name": "Any", "created_ms": 1, "updated_ms": 1}
        Instance.objects.using(empty_alias).create(**values)
        with pytest.raises(IntegrityError):
            Instance.objects.using(empty_alias).create(**values)

    def test_a_history_event_is_written_once(self, empty_alias):
        """Nobody can write a second event under the same number."""
        from django.db import IntegrityError

        migrate(empty_alias)
        insert = (
            "INSERT INTO duroxide_history (instance_id, execution_id, event_id, kind, timestamp_ms, data) "
            "VALUES (1, 1, 1, 'OrchestrationStarted', 0, '{}')"
        )
        with connections[empty_alias].cursor() as cursor:
            cursor.execute(insert)
            with pytest.raises(IntegrityError):
                cursor.execute(insert)


class TestAMigrationThatIsMissing:
    """A deploy that forgot ``migrate``: everything says so at once, with the command to run."""

    @pytest.fixture
    def outdated(self, empty_alias):
        migrate(empty_alias)
        migrate(empty_alias, "0001")
        return empty_alias

    def test_keeps_a_worker_from_starting(self, outdated):
        runtime = Runtime(Provider(outdated))
        with pytest.raises(ConfigurationError, match=rf"0002_audit.*migrate --database {outdated}"):
            runtime.start()
        assert not runtime.is_alive
        migrate(outdated)
        with Runtime(Provider(outdated)) as started:
            assert started.is_alive

    def test_keeps_no_worker_from_starting_where_none_is_recorded(self, empty_alias):
        """Tables may be made without migrations, as pytest's --nomigrations does."""
        migrate(empty_alias)
        MigrationRecorder(connections[empty_alias]).flush()
        with Runtime(Provider(empty_alias)) as runtime:
            assert runtime.is_alive

    def test_of_a_column_is_explained_to_clients(self, empty_alias):
        migrate(empty_alias)
        with connections[empty_alias].cursor() as cursor:
            cursor.execute("ALTER TABLE duroxide_instance RENAME COLUMN custom_status TO custom_status_of_old")
        with pytest.raises(ConfigurationError, match=rf"A column .* is missing.*migrate --database {empty_alias}"):
            Client(using=empty_alias).get_status("order-7")
