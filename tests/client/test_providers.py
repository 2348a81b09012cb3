"""Providers: stores made at run time, shared or apart, and what can't be one."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from django.db import connections

from duroxide_django import (
    Client,
    ConfigurationError,
    InvalidArgument,
    PostgresEntraOptions,
    PostgresProvider,
    Runtime,
    SqliteProvider,
)
from duroxide_django.provider import ENTRA_SSLMODE as DEFAULT_SSLMODE

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def forget(database_access):
    """Remove the aliases that a test's providers registered."""
    before = set(connections.databases)
    yield
    for alias in set(connections.databases) - before:
        connections[alias].close()
        del connections[alias]
        del connections.databases[alias]


def _wait_for_go(ctx, input):
    ctx.set_kv_value("waits", "yes")
    return (yield ctx.wait_for_event("go"))


class TestSqlite:
    @pytest.mark.parametrize("spelling", ["{}", "sqlite:{}", "sqlite://{}", "sqlite://{}?mode=rwc"])
    def test_opens_a_path_or_a_url(self, tmp_path, spelling):
        """The file, its folders and its tables are created as needed."""
        file = tmp_path / "new" / "folder" / "workflows.db"
        client = Client(SqliteProvider.open(spelling.format(file)))
        client.start_orchestration("any-1", "Any")
        assert file.exists()
        assert client.list_all_instances() == ["any-1"]

    def test_opened_twice_is_one_store(self, tmp_path):
        """Two providers of one file see the same instances."""
        first, second = (SqliteProvider.open(tmp_path / "one.db") for _ in range(2))
        Client(first).start_orchestration("any-1", "Any")
        assert Client(second).list_all_instances() == ["any-1"]
        assert first == second

    def test_in_memory_is_empty_each_time(self):
        """Every memory store is its own."""
        first, second = SqliteProvider.in_memory(), SqliteProvider.in_memory()
        Client(first).start_orchestration("any-1", "Any")
        assert Client(second).list_all_instances() == []

    def test_in_memory_is_shared_by_all_threads(self):
        """A runtime's threads work on the same memory."""
        provider = SqliteProvider.in_memory()
        client, runtime = Client(provider), Runtime(provider)
        runtime.register_orchestration("Echo", lambda ctx, input: input)
        with runtime:
            client.start_orchestration("echo-1", "Echo", 1)
            assert client.wait_for_orchestration("echo-1").output == 1

    def test_in_memory_outlives_its_runtimes(self):
        """A runtime that stops takes nothing along; the next one goes on."""
        provider = SqliteProvider.in_memory()
        client, first, second = Client(provider), Runtime(provider), Runtime(provider)
        for runtime in (first, second):
            runtime.register_orchestration("Waiting", _wait_for_go)
        with first:
            client.start_orchestration("waiting-1", "Waiting")
            client.wait_for_kv_value("waiting-1", "waits")
        client.raise_event("waiting-1", "go", "on")
        with second:
            assert client.wait_for_orchestration("waiting-1").output == "on"

    def test_in_a_place_that_can_not_be_is_refused(self, tmp_path):
        """A folder that can't be made: an error that names the place."""
        (tmp_path / "file").touch()
        with pytest.raises(ConfigurationError, match=r"workflows\.db"):
            SqliteProvider.open(tmp_path / "file" / "workflows.db")

    def test_path_may_hold_a_question_mark(self, tmp_path):
        """Only a URL has a query."""
        SqliteProvider.open(tmp_path / "what?.db")
        assert (tmp_path / "what?.db").exists()


def test_provider_and_alias_together_are_refused():
    """Which one would it be?"""
    provider = SqliteProvider.in_memory()
    for make in (Client, Runtime):
        with pytest.raises(InvalidArgument, match="not both"):
            make(provider, using="default")
    assert Client(provider, using=provider.alias).list_all_instances() == []


class TestPostgres:
    def test_connects_by_url(self, postgres_url):
        """The tables are there and a workflow can be started."""
        client = Client(PostgresProvider.connect_with_schema(postgres_url, "providers_here"))
        try:
            client.start_orchestration("any-1", "Any")
            assert client.list_all_instances() == ["any-1"]
        finally:
            with connections["postgres"].cursor() as cursor:
                cursor.execute("DROP SCHEMA providers_here CASCADE")

    def test_connects_to_a_database_without_tables(self, postgres_url):
        """connect(): the tables are made in the database's own schema; connecting again finds what is there."""
        place, _, _ = postgres_url.rpartition("/")
        with connections["postgres"].cursor() as cursor:
            cursor.execute("CREATE DATABASE providers_fresh")
        try:
            first = PostgresProvider.connect(f"{place}/providers_fresh")
            client, runtime = Client(first), Runtime(first)
            runtime.register_orchestration("Waiting", _wait_for_go)
            with runtime:
                client.start_orchestration("waiting-1", "Waiting")
                client.wait_for_kv_value("waiting-1", "waits")
            connections[first.alias].close()
            again = PostgresProvider.connect(f"{place.replace('postgresql:', 'postgres:')}/providers_fresh")
            client, runtime = Client(again), Runtime(again)
            runtime.register_orchestration("Waiting", _wait_for_go)
            client.raise_event("waiting-1", "go", "on")
            with runtime:
                assert client.wait_for_orchestration("waiting-1").output == "on"
        finally:
            connections[first.alias].close()
            with connections["postgres"].cursor() as cursor:
                cursor.execute("DROP DATABASE providers_fresh WITH (FORCE)")

    def test_schemas_are_apart(self, postgres_url):
        """Two schemas of one database are two stores."""
        schemas = ["providers_one", "providers_two"]
        try:
            first, second = (Client(PostgresProvider.connect_with_schema(postgres_url, name)) for name in schemas)
            first.start_orchestration("any-1", "Any")
            assert second.list_all_instances() == []
        finally:
            with connections["postgres"].cursor() as cursor:
                for name in schemas:
                    cursor.execute(f"DROP SCHEMA IF EXISTS {name} CASCADE")

    @pytest.mark.parametrize(
        "url", ["", "mysql://root@localhost/shop", "postgresql://user@host", "localhost:5432/shop", None, 5]
    )
    def test_needs_a_url_of_its_form(self, url):
        """What is no PostgreSQL URL is refused by a sentence that shows one."""
        with pytest.raises(InvalidArgument, match=r"looks like postgresql://user:password@host:5432/database"):
            PostgresProvider.connect(url)

    @pytest.mark.parametrize("schema", ["", "two words", "a;b", 'q"uote', "1st", "x" * 64, 5])
    def test_needs_a_plain_schema_name(self, schema):
        """A schema's name goes into SQL: identifiers only."""
        with pytest.raises(InvalidArgument, match="plain identifier"):
            PostgresProvider.connect_with_schema("postgresql://user@host/shop", schema)

    def test_that_does_not_answer_is_refused_without_the_password(self):
        """No server there: the error says where, and keeps the password to itself."""
        with pytest.raises(ConfigurationError, match=r"127\.0\.0\.1:1/shop") as caught:
            PostgresProvider.connect("postgresql://user:hunter2@127.0.0.1:1/shop")
        assert "hunter2" not in str(caught.value)

    def test_without_psycopg_names_the_extra(self):
        """The driver is an extra: the error says what to install."""
        # In a process of its own: this one has loaded the driver.
        program = (
            "import sys; sys.modules.update(psycopg=None, psycopg2=None)\n"
            "from duroxide_django import PostgresProvider\n"
            "PostgresProvider.connect('postgresql://user@127.0.0.1:1/shop')"
        )
        environment = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
        ran = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        assert ran.stderr.rstrip().endswith(
            "ConfigurationError: PostgreSQL needs psycopg: pip install 'duroxide_django[postgres]'."
        )

    def test_schema_may_have_capitals(self, postgres_url):
        """The name is taken as it is written."""
        provider = PostgresProvider.connect_with_schema(postgres_url, "Providers_Mixed")
        with connections[provider.alias].cursor() as cursor:
            cursor.execute("SELECT current_schema()")
            assert cursor.fetchone() == ("Providers_Mixed",)
            cursor.execute('DROP SCHEMA "Providers_Mixed" CASCADE')

    def test_made_again_takes_the_new_password(self, postgres_url):
        """A password that was changed: later connections use it, those that are open go on."""
        first = PostgresProvider.connect_with_schema(_with_password(postgres_url, "old"), "providers_again")
        try:
            second = PostgresProvider.connect_with_schema(_with_password(postgres_url, "new"), "providers_again")
            assert first == second
            assert _password(second) == "new"
        finally:
            with connections["postgres"].cursor() as cursor:
                cursor.execute("DROP SCHEMA providers_again CASCADE")

    def test_that_failed_can_be_tried_again(self, postgres_url):
        """A failed attempt leaves nothing behind."""
        before = set(connections.databases)
        with pytest.raises(ConfigurationError):
            PostgresProvider.connect("postgresql://user:hunter2@127.0.0.1:1/shop")
        assert set(connections.databases) == before

    def test_options_of_the_url_make_another_alias(self, postgres_url):
        """Connections with other options are not taken for the same."""
        plain = PostgresProvider.connect_with_schema(postgres_url, "providers_options")
        named = PostgresProvider.connect_with_schema(f"{postgres_url}?application_name=shop", "providers_options")
        try:
            with connections[named.alias].cursor() as cursor:
                cursor.execute("SELECT current_setting('application_name')")
                assert cursor.fetchone() == ("shop",)
            assert plain != named
        finally:
            with connections["postgres"].cursor() as cursor:
                cursor.execute("DROP SCHEMA providers_options CASCADE")


def _with_password(url, password):
    user, _, place = url.removeprefix("postgresql://").partition("@")
    return f"postgresql://{user.partition(':')[0]}:{password}@{place}"


def _password(provider):
    """Return the password of this thread's next connection."""
    connections[provider.alias].close()
    connections[provider.alias].ensure_connection()
    return connections[provider.alias].connection.info.password


class FakeCredential:
    """Gives numbered tokens that live for an hour, as azure-identity's credentials do."""

    def __init__(self):
        self.asked = []
        self.lives_for_s = 3_600
        self.error = None

    def get_token(self, audience):
        if self.error is not None:
            raise self.error
        self.asked.append(audience)
        return SimpleNamespace(token=f"token-{len(self.asked)}", expires_on=time.time() + self.lives_for_s)


SECRET_URL = "postgresql://u:hunter2@127.0.0.1:1/d"


class TestPasswords:
    @pytest.mark.parametrize(
        "call",
        [
            lambda: Client(SECRET_URL),
            lambda: Client(using=SECRET_URL),
            lambda: Runtime(SECRET_URL),
            lambda: Runtime(using=SECRET_URL),
            lambda: Client("host=h user=u password=hunter2"),
            lambda: Client(SqliteProvider.in_memory(), using=SECRET_URL),
            lambda: SqliteProvider.open(SECRET_URL),
            lambda: PostgresProvider.connect("postgresql://u:hunter2[@127.0.0.1:1/d"),
            lambda: PostgresProvider.connect("postgresql://u:x#hunter2@127.0.0.1:1/d"),
            lambda: PostgresProvider.connect("postgresql://127.0.0.1:1/d?password=hunter2"),
            lambda: PostgresProvider.connect_with_schema("postgresql://u@127.0.0.1:1/d", SECRET_URL),
            lambda: PostgresEntraOptions(sslmode=SECRET_URL),
        ],
    )
    def test_in_arguments_are_not_quoted(self, call, tmp_path, monkeypatch):
        """A URL in the wrong place: the whole traceback keeps its password, and no file is made of it."""
        monkeypatch.chdir(tmp_path)
        with pytest.raises((InvalidArgument, ConfigurationError)) as caught:
            call()
        causes, cause = [], caught.value
        while cause is not None:
            causes.append(str(cause))
            cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
        assert "hunter2" not in "".join(causes)
        assert list(tmp_path.iterdir()) == []

    def test_what_holds_none_is_quoted(self):
        with pytest.raises(ConfigurationError, match="'nowhere' is not in DATABASES"):
            Client(using="nowhere")


class TestEntra:
    @pytest.fixture
    def credential(self, monkeypatch):
        """A stand-in for azure-identity; the test server speaks no TLS."""
        credential = FakeCredential()
        module = ModuleType("azure.identity")
        module.DefaultAzureCredential = lambda: credential
        monkeypatch.setitem(sys.modules, "azure", ModuleType("azure"))
        monkeypatch.setitem(sys.modules, "azure.identity", module)
        monkeypatch.setattr("duroxide_django.provider.ENTRA_SSLMODE", "prefer")
        return credential

    @pytest.fixture
    def connect(self, postgres_url):
        """Connect to the test server in a schema of its own."""
        place = connections["postgres"].settings_dict

        def connect(options=None):
            return PostgresProvider.connect_with_schema_and_entra(
                place["HOST"], int(place["PORT"]), place["NAME"], place["USER"], "providers_entra", options
            )

        yield connect
        with connections["postgres"].cursor() as cursor:
            cursor.execute("DROP SCHEMA IF EXISTS providers_entra CASCADE")

    def test_token_is_the_password(self, credential, connect):
        """The token of the default audience; a workflow runs."""
        provider = connect()
        assert _password(provider) == "token-1"
        assert credential.asked == ["https://ossrdbms-aad.database.windows.net/.default"]
        client, runtime = Client(provider), Runtime(provider)
        runtime.register_orchestration("Echo", lambda ctx, input: input)
        with runtime:
            client.start_orchestration("echo-1", "Echo", 1)
            assert client.wait_for_orchestration("echo-1").output == 1

    def test_options_count(self, credential, connect):
        """Another audience, and a time limit for connecting in whole seconds."""
        provider = connect(PostgresEntraOptions(audience="custom", acquire_timeout_ms=2_500, max_connections=5))
        assert credential.asked == ["custom"]
        assert connections[provider.alias].settings_dict["OPTIONS"]["connect_timeout"] == 3

    def test_token_is_kept_while_it_is_good(self, credential, connect):
        """Many connections, one token."""
        provider = connect()
        assert [_password(provider) for _ in range(3)] == ["token-1"] * 3

    def test_token_that_ends_soon_is_replaced(self, credential, connect):
        """New connections get a new one before the last expires."""
        credential.lives_for_s = 200
        provider = connect()
        had = len(credential.asked)
        assert _password(provider) == f"token-{had + 1}"

    def test_token_is_replaced_after_the_refresh_interval(self, credential, connect, wait_until):
        """refresh_interval_ms: earlier than it would have to be."""
        provider = connect(PostgresEntraOptions(refresh_interval_ms=20))
        had = len(credential.asked)
        wait_until(lambda: _password(provider) != f"token-{had}")

    def test_without_a_token_is_refused(self, credential, connect):
        """azure-identity fails: an error that says what it said."""
        credential.error = ValueError("no identity here")
        with pytest.raises(ConfigurationError, match=r"Azure Entra gave no token for .*: no identity here"):
            connect()

    def test_worker_waits_until_there_is_a_token_again(self, credential, connect, wait_until):
        """An identity service that is away is like a database that is away: the worker goes on afterwards."""
        provider = connect(PostgresEntraOptions(refresh_interval_ms=1))
        client, runtime = Client(provider), Runtime(provider)
        runtime.register_orchestration("Echo", lambda ctx, input: input)
        client.start_orchestration("echo-1", "Echo", 1)
        credential.error = ValueError("down")
        connections[provider.alias].close()
        with runtime:
            wait_until(lambda: runtime.metrics_snapshot().provider_errors)
            credential.error = None
            assert client.wait_for_orchestration("echo-1").output == 1

    @pytest.mark.parametrize(
        "connect",
        [
            lambda: PostgresProvider.connect_with_entra("host", 5432, "shop", "user", PostgresEntraOptions()),
            lambda: PostgresProvider.connect_with_schema_and_entra("host", 5432, "shop", "user", "workflows"),
        ],
    )
    def test_without_azure_identity_names_the_extra(self, connect, monkeypatch):
        """The error says what to install."""
        monkeypatch.setitem(sys.modules, "azure.identity", None)
        with pytest.raises(ConfigurationError, match=r"pip install 'duroxide-django\[entra\]'"):
            connect()

    def test_never_sends_a_token_in_the_clear(self, credential, connect, monkeypatch):
        """The test server, which speaks no TLS, is refused."""
        monkeypatch.setattr("duroxide_django.provider.ENTRA_SSLMODE", DEFAULT_SSLMODE)
        with pytest.raises(ConfigurationError, match="SSL"):
            connect()

    @pytest.mark.parametrize(
        ("options", "root", "expected"),
        [
            ({}, None, {"sslmode": "require"}),
            ({}, "PGSSLROOTCERT", {"sslmode": "verify-full"}),
            ({}, "home", {"sslmode": "verify-full"}),
            ({"sslrootcert": "system"}, None, {"sslmode": "verify-full", "sslrootcert": "system"}),
            ({"sslmode": "verify-ca", "sslrootcert": "r.crt"}, None, {"sslmode": "verify-ca", "sslrootcert": "r.crt"}),
            ({"sslmode": "require"}, "home", {"sslmode": "require"}),
        ],
    )
    def test_verifies_the_server_where_a_root_certificate_is_known(
        self, credential, monkeypatch, tmp_path, options, root, expected
    ):
        """What the driver is told; libpq reads the certificate."""
        psycopg = pytest.importorskip("psycopg")
        monkeypatch.setattr("duroxide_django.provider.ENTRA_SSLMODE", DEFAULT_SSLMODE)
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.delenv("PGSSLROOTCERT", raising=False)
        if root == "home":
            (tmp_path / ".postgresql").mkdir()
            (tmp_path / ".postgresql" / "root.crt").touch()
        elif root:
            monkeypatch.setenv(root, "root.crt")
        told = []

        def connect(**parameters):
            told.append({name: value for name, value in parameters.items() if name.startswith("ssl")})
            raise psycopg.OperationalError("not today")

        monkeypatch.setattr(psycopg, "connect", connect)
        with pytest.raises(ConfigurationError, match="not today"):
            PostgresProvider.connect_with_entra("host", 5432, "shop", "user", PostgresEntraOptions(**options))
        assert told[0] == expected

    @pytest.mark.parametrize("sslmode", ["disable", "allow", "prefer", "", 1])
    def test_refuses_modes_that_may_send_the_token_in_the_clear(self, sslmode):
        with pytest.raises(InvalidArgument, match="sslmode must be one of require, verify-ca, verify-full"):
            PostgresEntraOptions(sslmode=sslmode)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("", 5432, "shop", "user"), "host must not be empty"),
            (("host", "5432", "shop", "user"), "port must be a whole number"),
            (("host", 5432, None, "user"), "database must be a str"),
            (("host", 5432, "shop", ""), "user must not be empty"),
        ],
    )
    def test_malformed_argument_is_refused(self, arguments, message):
        """Before any token is asked for."""
        with pytest.raises(InvalidArgument, match=message):
            PostgresProvider.connect_with_entra(*arguments)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"audience": ""}, "audience must not be empty"),
            ({"max_connections": 0}, "max_connections must be a whole number of at least 1, got 0"),
            ({"acquire_timeout_ms": -1}, "acquire_timeout_ms must be a whole number"),
            ({"refresh_interval_ms": 0.5}, "refresh_interval_ms must be a whole number"),
        ],
    )
    def test_malformed_option_is_refused(self, options, message):
        """When the options are made."""
        with pytest.raises(InvalidArgument, match=message):
            PostgresEntraOptions(**options)
