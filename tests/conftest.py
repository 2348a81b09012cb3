"""The harness: both databases in one run, clean tables for each test, runtimes that are always shut down."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import threading
import time
import uuid
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.postgres import PostgresServer

if TYPE_CHECKING:
    from duroxide_django import Client, Runtime, RuntimeOptions

#: The databases that every test of behaviour runs on; each is an alias of tests/settings.py.
BACKENDS = ["sqlite", "postgres"]

#: The providers that every program of the user guide runs on.
PROVIDERS = ["sqlite-file", "sqlite-memory", "postgres"]

#: The folders of tests that work on alias ``default``: only they are run a second time, on PostgreSQL.
DEFAULT_DATABASE_FOLDERS = {"example", "testing"}

#: Tables that migrations fill once for all tests.
FILLED_BY_MIGRATIONS = {"django_migrations", "django_content_type", "auth_permission"}

#: Threads that outlive a test would write into the next one's tables. They get this long to end.
THREADS_END_WITHIN_S = 10


# The run's folder and PostgreSQL server: made once, shared by all xdist workers, gone however the run ends.


def pytest_configure(config: pytest.Config) -> None:
    if not is_xdist_worker(config):
        from django.conf import settings

        # A run that is terminated cleans up as one that is interrupted.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        settings.TEST_DIRECTORY.mkdir()
        os.environ["DUROXIDE_TEST_DIR"] = str(settings.TEST_DIRECTORY)
        os.environ["DUROXIDE_TEST_OWNER"] = str(os.getpid())


def pytest_unconfigure(config: pytest.Config) -> None:
    if not is_xdist_worker(config):
        server().destroy()
        shutil.rmtree(os.environ["DUROXIDE_TEST_DIR"], ignore_errors=True)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--few-on-sqlite",
        action="store_true",
        help="leave three quarters of the tests on SQLite out, always the same: for a second interpreter",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if uses_default(item):
            folder = item.path.relative_to(config.rootpath / "tests").parts[0]
            if folder not in DEFAULT_DATABASE_FOLDERS:
                raise pytest.UsageError(f"{item.nodeid} works on alias `default`; its folder is not run a second time.")
            item.add_marker("default_database")
    if config.getoption("--few-on-sqlite"):
        left_out = [item for item in items if not is_chosen(item)]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if is_chosen(item)]


def is_chosen(item: pytest.Item) -> bool:
    """Tell whether ``--few-on-sqlite`` keeps a test."""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    # The name without its parameters: all cases of a test then run on the same databases.
    quarter = zlib.crc32(item.nodeid.partition("[")[0].encode()) % 4
    for name, choices in (("backend", BACKENDS), ("provider", PROVIDERS)):
        value = parameters.get(name)
        if value in choices and value != "postgres":
            return choices.index(value) == quarter
    return True


def uses_default(item: pytest.Item) -> bool:
    """Tell whether a test works on alias ``default``, as the tests of an ordinary project do."""
    from django.test import TransactionTestCase

    test_class = getattr(item, "cls", None) or object
    return issubclass(test_class, TransactionTestCase) or "db" in getattr(item, "fixturenames", ())


def is_xdist_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


def server() -> PostgresServer:
    return PostgresServer(Path(os.environ["DUROXIDE_TEST_DIR"]) / "postgres")


def start_server() -> str:
    """Return the URL of a PostgreSQL: DATABASE_URL, or a server started for this run. No server, no pass."""
    if url := os.environ.get("DATABASE_URL"):
        return url
    running = server().start()
    running.destroy_when_gone(int(os.environ["DUROXIDE_TEST_OWNER"]))
    return running.url()


@pytest.fixture
def private_postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL of this test's own, not yet started, as durable as a real one: the test may kill it."""
    private = PostgresServer.in_temporary_directory(durable=True)
    yield private
    private.destroy()


# Django's test databases, one of each alias that the selected tests need.


@pytest.fixture(scope="session")
def django_db_setup(
    request: pytest.FixtureRequest,
    django_test_environment: None,
    django_db_blocker: Any,
    django_db_modify_db_settings: None,
) -> Iterator[None]:
    """Create and migrate the test databases; PostgreSQL is started only if a selected test needs it."""
    from django.conf import settings
    from django.db import connections
    from django.test.utils import setup_databases, teardown_databases

    aliases = ["default", "sqlite"]
    if settings.DEFAULT_IS_POSTGRES or any(map(needs_postgres, request.session.items)):
        connect_aliases_to(start_server())
        aliases.append("postgres")
    with django_db_blocker.unblock():
        created = setup_databases(verbosity=0, interactive=False, aliases=aliases, serialized_aliases=[])
    yield
    with django_db_blocker.unblock():
        connections.close_all()
        if "DATABASE_URL" in os.environ:  # Everything else goes with the run's folder.
            teardown_databases(created, verbosity=0)


def needs_postgres(item: pytest.Item) -> bool:
    """Tell whether a test runs on PostgreSQL, by its parameters, fixtures, marker or class."""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    marker = item.get_closest_marker("django_db")
    databases = marker.kwargs.get("databases") if marker else getattr(item.cls, "databases", None)
    return (
        "postgres" in [value for value in parameters.values() if isinstance(value, str)]
        or "postgres_url" in getattr(item, "fixturenames", ())
        or databases == "__all__"
        or "postgres" in (databases or ())
    )


def connect_aliases_to(url: str) -> None:
    """Point the PostgreSQL aliases to the server at ``url``; their database keeps its name."""
    from django.conf import settings
    from environ import Env

    found = Env.db_url_config(url)
    for database in settings.DATABASES.values():
        if database["ENGINE"] == found["ENGINE"]:
            database.update({key: found[key] for key in ("USER", "PASSWORD", "HOST", "PORT")})


@pytest.fixture(scope="session")
def postgres_url(django_db_setup: None) -> str:
    """The URL of this process's PostgreSQL test database."""
    from django.db import connections

    return url_of(connections["postgres"].settings_dict)


# What tests ask for.


@pytest.fixture
def database_access(django_db_blocker: Any) -> Iterator[None]:
    """Let this test and its threads use databases, and see that no thread survives it."""
    before = set(threading.enumerate())
    with django_db_blocker.unblock():
        yield
        survivors = wait_for_threads(before)
    assert not survivors, f"threads that outlive the test: {survivors}"


def wait_for_threads(allowed: set[threading.Thread]) -> list[threading.Thread]:
    """Return the threads that still run, of those started since ``allowed`` was taken."""
    deadline = time.monotonic() + THREADS_END_WITHIN_S
    while survivors := [thread for thread in threading.enumerate() if thread not in allowed]:
        if time.monotonic() > deadline:
            return survivors
        survivors[0].join(0.05)
    return []


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, database_access: None, django_db_setup: None, settings: Any) -> str:
    """The database alias that this test runs on, with empty tables; it is also the configured alias.

    What the test writes is really committed, so that threads and processes see it.
    """
    alias: str = request.param
    empty_tables(alias)
    empty_tables("default")  # users, sessions and log entries of the admin
    settings.DUROXIDE = {**settings.DUROXIDE, "DATABASE": alias}
    return alias


def empty_tables(alias: str) -> None:
    """Delete all rows of a test database but those that migrations made."""
    from django.db import connections, transaction

    connection = connections[alias]
    quote = connection.ops.quote_name
    tables = set(connection.introspection.django_table_names(only_existing=True)) - FILLED_BY_MIGRATIONS
    # A look at each table costs less than a DELETE of nothing, and far less than TRUNCATE.
    probes = [f"SELECT '{table}' WHERE EXISTS (SELECT 1 FROM {quote(table)})" for table in sorted(tables)]
    with connection.cursor() as cursor:
        cursor.execute(" UNION ALL ".join(probes))
        filled = [table for (table,) in cursor.fetchall()]
    if filled:
        with transaction.atomic(using=alias), connection.cursor() as cursor:
            for table in filled:
                cursor.execute(f"DELETE FROM {quote(table)}")


@pytest.fixture
def client(backend: str) -> Client:
    """A client of the workflows on this test's backend."""
    from duroxide_django import Client

    return Client(using=backend)


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> sqlite3.Connection:
    """A database with all tables, to be copied: migrating takes twenty times as long."""
    from django.db import connections

    from duroxide_django import SqliteProvider

    file = tmp_path_factory.mktemp("migrated") / "workflows.sqlite3"
    alias = SqliteProvider.open(file).alias
    connections[alias].close()
    del connections.databases[alias]
    migrated = sqlite3.connect(file, check_same_thread=False)
    # The journal mode is copied too, and a database in memory can't have WAL.
    migrated.execute("PRAGMA journal_mode = DELETE")
    return migrated


@pytest.fixture(params=PROVIDERS)
def provider(
    request: pytest.FixtureRequest, database_access: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Any]:
    """A fresh provider, as the user guide makes it, of each kind in turn."""
    from django.db import connections

    from duroxide_django import PostgresProvider, SqliteProvider

    if request.param != "postgres":
        migrated = request.getfixturevalue("migrated_sqlite")

        def copy_tables(alias: str, schema: str | None) -> None:
            connections[alias].ensure_connection()
            migrated.backup(connections[alias].connection)

        monkeypatch.setattr("duroxide_django.provider._migrate", copy_tables)
    if request.param == "sqlite-file":
        made = SqliteProvider.open(str(tmp_path / "workflows.sqlite3"))
    elif request.param == "sqlite-memory":
        made = SqliteProvider.in_memory()
    else:
        postgres_url = request.getfixturevalue("postgres_url")
        made = PostgresProvider.connect_with_schema(postgres_url, f"test_{uuid.uuid4().hex[:12]}")
    yield made
    forget(made.alias)


def forget(alias: str) -> None:
    """Remove a provider's alias, and its schema if it has one."""
    from django.db import connections

    connection = connections[alias]
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT current_schema()")
            (schema,) = cursor.fetchone()
            cursor.execute(f"DROP SCHEMA {connection.ops.quote_name(schema)} CASCADE")
    connection.close()
    del connections[alias]
    del connections.databases[alias]


@pytest.fixture
def runtime_factory(database_access: None) -> Iterator[Callable[..., Runtime]]:
    """Make runtimes, ``runtime_factory(provider, worker_concurrency=2)``; all are shut down at its end."""
    from duroxide_django import Runtime, RuntimeOptions

    made: list[Runtime] = []

    def make(provider: Any = None, options: RuntimeOptions | None = None, **settings: Any) -> Runtime:
        runtime = Runtime(provider, options or RuntimeOptions(**settings))
        made.append(runtime)
        return runtime

    yield make
    for runtime in reversed(made):
        runtime.shutdown()


@pytest.fixture
def wait_until() -> Callable[..., Any]:
    """Wait for a condition: ``wait_until(lambda: …, timeout_s=60)`` returns its first truthy value."""
    return wait_for


def wait_for(condition: Callable[[], Any], timeout_s: float = 30, poll_s: float = 0.01) -> Any:
    """Return the first truthy value of ``condition``; fail after ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"{timeout_s} s went by and the condition did not become true")
        time.sleep(poll_s)
    return value


@pytest.fixture
def subprocess_env(backend: str) -> dict[str, str]:
    """The environment in which ``manage.py`` commands and scripts work on this test's databases."""
    return {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings", **database_variables(backend)}


def database_variables(alias: str) -> dict[str, str]:
    """Return the variables by which tests/settings.py finds the databases that this process tests on."""
    from django.db import connections

    variables = {
        "DUROXIDE_TEST_BACKEND": alias,
        "DUROXIDE_TEST_DEFAULT_FILE": str(connections["default"].settings_dict["NAME"]),
        "DUROXIDE_TEST_SQLITE_FILE": str(connections["sqlite"].settings_dict["NAME"]),
    }
    if alias == "postgres":
        variables["DATABASE_URL"] = url_of(connections["postgres"].settings_dict)
    return variables


def url_of(database: dict[str, Any]) -> str:
    """Return the DATABASE_URL that stands for Django's settings of a PostgreSQL database."""
    from urllib.parse import quote

    user = quote(database["USER"], safe="")
    password = f":{quote(database['PASSWORD'], safe='')}" if database["PASSWORD"] else ""
    return f"postgresql://{user}{password}@{database['HOST']}:{database['PORT']}/{database['NAME']}"
