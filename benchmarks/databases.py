"""The databases that are measured: an empty one for each measurement, and what PostgreSQL counted."""

import os
import shutil
import sqlite3
import tempfile
import time
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from benchmarks.engines import base
from benchmarks.processes import tree_cpu_s

#: Backends report their counts when they end, and that is a little after their client has gone.
REPORT_PATIENCE_S = 3


@dataclass(frozen=True, slots=True)
class Counts:
    """What a server had counted at a moment. Transaction ids are given to transactions that write."""

    at: float
    cpu_s: float | None
    writes: int
    wal_bytes: int


class Sqlite:
    """SQLite files in a folder."""

    backend = base.SQLITE
    version = sqlite3.sqlite_version

    def __init__(self, folder):
        self.folder = Path(folder)

    @contextmanager
    def store(self, name):
        """Yield the store of a new, empty database."""
        folder = self.folder / name
        folder.mkdir()
        try:
            yield base.Store(self.backend, str(folder / "bench.sqlite3"))
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def observer(self, store):
        """Yield a function that returns the number that a statement counts."""
        with closing(sqlite3.connect(f"file:{store.place}?mode=ro", uri=True, timeout=30)) as connection:
            yield lambda sql: connection.execute(sql).fetchone()[0]

    def counts(self):
        """Return None: SQLite counts nothing, and its CPU time is its users'."""

    def transactions(self, store):
        """See counts()."""

    def syncs(self):
        """See counts()."""

    def tables(self, store):
        """See counts()."""


class Postgres:
    """Databases of a PostgreSQL server: the one of ``url``, or one that is started, with durability on."""

    backend = base.POSTGRES

    def __init__(self, url=None):
        import psycopg

        self._server = None
        if url is None:
            from tests.postgres import PostgresServer

            self._server = PostgresServer.in_temporary_directory(durable=True)
            self._server.destroy_when_gone(os.getpid())
            url = self._server.start().url()
        self.url = url
        try:
            self._connection = psycopg.connect(url, autocommit=True)
            self.version = self._value("SHOW server_version")
            self._pid = self._server.pid if self._server else self._local_pid()
        except BaseException:
            self.close()
            raise

    def close(self):
        """Stop the server, if it was started here."""
        if hasattr(self, "_connection"):
            self._connection.close()
        if self._server is not None:
            self._server.destroy()

    @contextmanager
    def store(self, name):
        """Yield the store of a new, empty database."""
        database = f"bench_{name}".replace("-", "_").replace("+", "_")
        self._connection.execute(f'DROP DATABASE IF EXISTS "{database}" WITH (FORCE)')
        self._connection.execute(f'CREATE DATABASE "{database}"')
        parts = urlsplit(self.url)
        try:
            yield base.Store(self.backend, urlunsplit(parts._replace(path=f"/{database}")))
        finally:
            self._connection.execute(f'DROP DATABASE "{database}" WITH (FORCE)')

    @contextmanager
    def observer(self, store):
        """Yield a function that returns the number that a statement counts."""
        import psycopg

        with psycopg.connect(store.place, autocommit=True) as connection:
            yield lambda sql: connection.execute(sql).fetchone()[0]

    def counts(self):
        """Return what the server has counted so far, for all its databases."""
        row = self._connection.execute(
            "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint, pg_current_wal_insert_lsn() - '0/0'"
        ).fetchone()
        cpu = None if self._pid is None else tree_cpu_s(self._pid)
        return Counts(at=time.monotonic(), cpu_s=cpu, writes=row[0], wal_bytes=int(row[1]))

    def transactions(self, store):
        """Return how many transactions ended in the database, reading ones included, once its users have reported."""
        name = urlsplit(store.place).path.strip("/")
        return self._value("SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = %s", name)

    def syncs(self):
        """Return how often the server has waited for its log to reach the disk; see transactions()."""
        version = self._value("SELECT current_setting('server_version_num')::int")
        if version < 140_000:
            return None
        if version < 180_000:
            return self._value("SELECT wal_sync FROM pg_stat_wal")
        return self._value("SELECT sum(fsyncs)::bigint FROM pg_stat_io WHERE object = 'wal'")

    def tables(self, store):
        """Return (name, bytes with indexes, dead rows) of each table of the database."""
        import psycopg

        with psycopg.connect(store.place) as connection:
            return connection.execute(
                "SELECT relname, pg_total_relation_size(relid), n_dead_tup FROM pg_stat_user_tables ORDER BY relname"
            ).fetchall()

    def wait_for_silence(self, store):
        """Wait until nobody is connected to the database: then all have reported what they did."""
        name = urlsplit(store.place).path.strip("/")
        ends = time.monotonic() + REPORT_PATIENCE_S
        while time.monotonic() < ends:
            if not self._value("SELECT count(*) FROM pg_stat_activity WHERE datname = %s", name):
                return
            time.sleep(0.02)

    def settings(self):
        """Return the settings that decide what a commit costs."""
        names = ("fsync", "synchronous_commit", "full_page_writes", "shared_buffers", "max_connections")
        return {name: self._value(f"SHOW {name}") for name in names}

    def _local_pid(self):
        """Return the server's process id if it runs on this machine and lets us know."""
        import psycopg

        if (urlsplit(self.url).hostname or "") not in ("", "localhost", "127.0.0.1", "::1"):
            return None
        try:
            pid = int(self._value("SELECT split_part(pg_read_file('postmaster.pid'), E'\\n', 1)"))
        except psycopg.Error:
            return None
        command = Path(f"/proc/{pid}/comm")
        return pid if command.exists() and command.read_text().startswith("postgres") else None

    def _value(self, sql, *parameters):
        return self._connection.execute(sql, parameters).fetchone()[0]


@contextmanager
def open_backends(names, *, postgres_url, folder):
    """Yield the backends of these names, by name; all is stopped and removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="duroxide-bench-", dir=folder) as directory:
        opened = {}
        try:
            if base.SQLITE in names:
                opened[base.SQLITE] = Sqlite(directory)
            if base.POSTGRES in names:
                opened[base.POSTGRES] = Postgres(postgres_url)
            yield {name: opened[name] for name in names}, Path(directory)
        finally:
            if base.POSTGRES in opened:
                opened[base.POSTGRES].close()
