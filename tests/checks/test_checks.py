"""System checks: each id, with a problem in its message and a cure in its hint."""

from __future__ import annotations

import pytest
from django.core.checks import Error, Warning  # noqa: A004 - what Django calls them
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.db import connections

from duroxide_django import Client, Runtime, UnsupportedDatabase, checks
from duroxide_django.conf import settings as duroxide_settings
from duroxide_django.exceptions import ConfigurationError
from tests.migrations.empty import add_alias, drop_alias


@pytest.fixture
def configure(settings):
    """Replace the project's DUROXIDE dict."""

    def configure(**values):
        settings.DUROXIDE = values

    return configure


def ids(found):
    return [message.id for message in found]


class TestSettings:
    def test_the_tests_own_settings_are_fine(self, backend):
        """A sound project passes every check."""
        assert checks.check_settings() == []
        assert checks.check_alias() == []
        assert checks.check_database(databases=[backend]) == []

    def test_no_settings_at_all_are_fine(self, settings):
        """Every setting has a default."""
        del settings.DUROXIDE
        assert checks.check_settings() == []
        assert duroxide_settings.WORKER_CONCURRENCY == 8

    def test_e001_an_unknown_setting(self, configure):
        """A misspelt name is an error, with the known ones in the hint."""
        configure(WORKER_CONCURENCY=4)
        (found,) = checks.check_settings()
        assert isinstance(found, Error)
        assert (found.id, found.msg) == ("duroxide_django.E001", "DUROXIDE['WORKER_CONCURENCY'] is unknown.")
        assert "WORKER_CONCURRENCY" in found.hint

    @pytest.mark.parametrize(
        ("name", "value", "problem"),
        [
            ("DATABASE", "", "must be a non-empty text"),
            ("MODULES", "workflows", "must be a list of texts"),
            ("WORKER_CONCURRENCY", -1, "must be a whole number of at least 0"),
            ("WORKER_CONCURRENCY", True, "must be a whole number of at least 0"),
            ("POLL_INTERVAL_MS", 0, "must be a whole number above 0"),
            ("POLL_INTERVAL_MS", "100", "must be a whole number above 0"),
            ("WORKER_TAG_FILTER", "everything", "is no tag filter"),
            ("WORKER_TAG_FILTER", {"tags": []}, "is no tag filter"),
            ("WORKER_NODE_ID", 5, "must be a non-empty text"),
            ("REPLAY_EVERY_TURN", "yes", "must be True or False"),
            ("ON_NONDETERMINISM", "ignore", "must be 'park' or 'fail'"),
        ],
    )
    def test_e001_a_wrong_value(self, configure, name, value, problem):
        """The check says what is wrong, and reading the setting raises the same."""
        configure(**{name: value})
        (found,) = checks.check_settings()
        assert found.id == "duroxide_django.E001"
        assert found.msg.startswith(f"DUROXIDE[{name!r}] {problem}")
        with pytest.raises(ConfigurationError, match=problem):
            getattr(duroxide_settings, name)

    def test_e001_every_setting_refuses_nonsense(self, configure):
        """Each known setting has a rule."""
        for name in duroxide_settings.names():
            configure(**{name: object()})
            assert ids(checks.check_settings()) == ["duroxide_django.E001"], name

    def test_e001_the_dict_is_no_dict(self, settings):
        """DUROXIDE itself must be a dict; the other checks don't stumble over it."""
        settings.DUROXIDE = ["DATABASE"]
        assert ids(checks.check_settings()) == ["duroxide_django.E001"]
        assert checks.check_alias() == []

    def test_w002_sessions_that_end_before_their_leases(self, configure):
        """A session must be kept longer than an activity's lease."""
        configure(SESSION_IDLE_MS=10_000, ACTIVITY_LEASE_MS=30_000)
        (found,) = checks.check_settings()
        assert isinstance(found, Warning)
        assert found.id == "duroxide_django.W002"
        assert "raise SESSION_IDLE_MS" in found.hint

    @pytest.mark.parametrize(("timeout_ms", "fine"), [(9_999, True), (10_000, False), (20_000, False)])
    def test_w010_turns_that_may_outlast_their_leases(self, configure, timeout_ms, fine):
        """A hanging turn must be noticed by its own worker before another one takes it over."""
        configure(TURN_LEASE_MS=10_000, TURN_TIMEOUT_MS=timeout_ms)
        found = checks.check_settings()
        assert ids(found) == ([] if fine else ["duroxide_django.W010"])
        assert all("raise TURN_LEASE_MS" in message.hint for message in found)


class TestTransactions:
    def test_w009_models_in_another_database(self, backend):
        """The shop's models are in `default`, the workflows elsewhere: atomic() on one doesn't cover the other."""
        (found,) = checks.check_transactions()
        assert isinstance(found, Warning)
        assert found.id == "duroxide_django.W009"
        assert f"live in the alias {backend!r}, but models are written to 'default'" in found.msg
        assert "on_commit" in found.hint

    def test_one_database_is_fine(self, configure):
        """The usual case."""
        configure()
        assert checks.check_transactions() == []


class TestAlias:
    def test_e003_an_alias_that_does_not_exist(self, configure):
        """The alias must be in DATABASES."""
        configure(DATABASE="elsewhere")
        (found,) = checks.check_alias()
        assert found.id == "duroxide_django.E003"
        assert "'elsewhere'" in found.msg
        assert checks.check_database(databases=["elsewhere"]) == []

    @pytest.mark.parametrize("vendor", ["mysql", "oracle", "microsoft"])
    def test_e004_a_database_that_is_not_supported(self, backend, monkeypatch, vendor):
        """MySQL, Oracle and others are refused by the check, by clients and by runtimes."""
        monkeypatch.setattr(connections[backend], "vendor", vendor)
        (found,) = checks.check_alias()
        assert isinstance(found, Error)
        assert found.id == "duroxide_django.E004"
        assert repr(vendor) in found.msg
        assert "SQLite or PostgreSQL" in found.hint
        assert checks.check_database(databases=[backend]) == []
        for make in (Client, Runtime):
            with pytest.raises(UnsupportedDatabase, match=f"{vendor}.*use SQLite or PostgreSQL"):
                make(using=backend)

    def test_e004_another_alias_may_be_anything(self, backend, monkeypatch):
        """Only the workflows' own alias matters."""
        monkeypatch.setattr(connections["default"], "vendor", "mysql")
        assert checks.check_alias() == []


class TestDatabase:
    def test_only_runs_for_the_databases_asked_for(self, empty_alias, configure):
        """``check`` without ``--database`` touches no database."""
        configure(DATABASE=empty_alias)
        assert checks.check_database(databases=None) == []
        assert checks.check_database(databases=["default"]) == []

    @pytest.mark.parametrize(("version", "fine"), [((3, 34, 9), False), ((3, 50), True), ((12, 20), True)])
    def test_e005_an_old_sqlite(self, empty_alias, configure, monkeypatch, version, fine):
        """SQLite 3.35 is the oldest that will do; PostgreSQL 14."""
        configure(DATABASE=empty_alias)
        connection = connections[empty_alias]
        if connection.vendor == "postgresql":
            version, fine = {(3, 34, 9): ((13, 20), False)}.get(version, ((18, 0), True))
        monkeypatch.setattr(connection, "get_database_version", lambda: version)
        found = [message for message in checks.check_database(databases=[empty_alias]) if "E005" in message.id]
        assert (found == []) is fine
        for message in found:
            assert ".".join(map(str, version)) in message.msg
            assert f"needs {connection.display_name}" in message.hint

    def test_w006_sqlite_without_write_ahead_log(self, configure, database_access, django_db_setup, tmp_path):
        """The rollback journal makes readers and the worker block each other."""
        plain = {**connections["sqlite"].settings_dict, "NAME": str(tmp_path / "plain.sqlite3"), "OPTIONS": {}}
        alias = add_alias("plain", plain)
        try:
            configure(DATABASE=alias)
            found = checks.check_database(databases=[alias])
            assert "duroxide_django.W006" in ids(found)
            (message,) = (message for message in found if message.id == "duroxide_django.W006")
            assert "'delete'" in message.msg
            assert "journal_mode=WAL" in message.hint
        finally:
            drop_alias(alias)

    def test_w007_a_missing_migration(self, empty_alias, configure):
        """Tables that aren't there yet: the hint is the command to run."""
        configure(DATABASE=empty_alias)
        (found,) = checks.check_database(databases=[empty_alias])
        assert found.id == "duroxide_django.W007"
        assert f"migrate --database {empty_alias}" in found.hint
        call_command("migrate", "duroxide_django", database=empty_alias, verbosity=0)
        assert checks.check_database(databases=[empty_alias]) == []

    @pytest.mark.parametrize("engine", ["sqlite3", "postgresql"])
    def test_e008_a_database_that_can_not_be_read(self, configure, database_access, django_db_setup, tmp_path, engine):
        """A file that is no database, or a server that isn't there, is reported, not thrown as a traceback."""
        (tmp_path / "broken").write_text("this is no database, however long one looks at it " * 100)
        like = connections["sqlite"].settings_dict
        place = (
            {"NAME": str(tmp_path / "broken")}
            if engine == "sqlite3"
            else {"NAME": "missing", "HOST": "127.0.0.1", "PORT": "1"}
        )
        alias = add_alias("broken", {**like, "ENGINE": f"django.db.backends.{engine}", "OPTIONS": {}, **place})
        try:
            configure(DATABASE=alias)
            assert ids(checks.check_database(databases=[alias])) == ["duroxide_django.E008"]
        finally:
            drop_alias(alias)


def test_they_are_run_by_the_check_command(configure):
    """``manage.py check`` fails with the error's id and hint."""
    configure(WORKER_CONCURRENCY="many")
    with pytest.raises(SystemCheckError, match=r"duroxide_django\.E001"):
        call_command("check")
