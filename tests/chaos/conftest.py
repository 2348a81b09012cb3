"""Real worker processes on a real database of the test's own."""

from __future__ import annotations

import contextlib
import http.client
import subprocess
import sys
import urllib.error
import urllib.request
import uuid

import pytest
from django.db import connections

from duroxide_django import Client, PostgresProvider, SqliteProvider
from tests.chaos.workers import ROOT, worker_environment
from tests.conftest import forget, start_server

LEASE_MS = 1_000


@pytest.fixture(params=["sqlite", "postgres"])
def url(request, database_access, tmp_path):
    """The URL of an empty database of this test's own; ``private``: on a server of its own, which it may kill."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/chaos.sqlite3"
    if request.param == "private":
        return request.getfixturevalue("private_postgres").start().url()
    return request.getfixturevalue("postgres_database")


@pytest.fixture
def postgres_database():
    """The URL of a new database on the run's PostgreSQL."""
    import psycopg

    server, _, name = start_server().rpartition("/")
    own = f"chaos_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(f"{server}/{name}", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {own}")
    yield f"{server}/{own}"
    with psycopg.connect(f"{server}/{name}", autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {own} WITH (FORCE)")


@pytest.fixture
def environment(url):
    """What worker processes are started with; a test may change it."""
    environment = worker_environment(url, lease_ms=LEASE_MS)
    command = [sys.executable, "manage.py", "migrate", "--run-syncdb", "--verbosity", "0", "--skip-checks"]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    return environment


@pytest.fixture
def provider(url, environment):
    """The same database as seen from this process."""
    if url.startswith("sqlite"):
        made = SqliteProvider.open(url.removeprefix("sqlite:///"))
    else:
        made = PostgresProvider.connect(url)
    yield made
    if url.startswith("sqlite"):
        forget(made.alias)
    else:
        connections[made.alias].close()
        del connections[made.alias]
        del connections.databases[made.alias]


@pytest.fixture
def store(provider):
    """A client."""
    return Client(provider)


@pytest.fixture
def sql(provider):
    """Send a statement behind the engine's back; returns the rows of a query."""

    def run(statement, *parameters):
        with connections[provider.alias].cursor() as cursor:
            cursor.execute(statement, parameters)
            return cursor.fetchall() if cursor.description else []

    return run


@pytest.fixture
def entries(sql):
    """Count the rows that activities wrote."""
    return lambda: sql("SELECT COUNT(*) FROM chaos_entry")[0][0]


@pytest.fixture
def log(tmp_path):
    """The file that takes the workers' output."""
    return tmp_path / "workers.log"


@pytest.fixture
def start_worker(environment, log):
    """Start ``manage.py runworkers`` processes; they are killed with the test."""
    made = []
    output = log.open("ab")

    def start(*arguments):
        command = [sys.executable, "manage.py", "runworkers", *arguments]
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
        made.append(process)
        return process

    yield start
    for process in made:
        # A supervisor takes its children along when it is told to; they also go when it is gone.
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    output.close()


@pytest.fixture
def folder(tmp_path):
    """Where held activities leave their marks."""
    made = tmp_path / "marks"
    made.mkdir()
    return made


@pytest.fixture
def probe():
    """Ask a worker's health endpoint: ``probe(port, "live")`` gives (status, text); 0: it doesn't answer."""

    def ask(port, path):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=20) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as exc:
            # A worker may end in the middle of its answer.
            with contextlib.suppress(OSError, http.client.HTTPException):
                return exc.code, exc.read().decode()
            return exc.code, ""
        except (OSError, http.client.HTTPException) as exc:
            return 0, str(exc)

    return ask
