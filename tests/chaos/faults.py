"""What is done to the database of a chaos run while workers use it; each fault ends by itself and is counted."""

from __future__ import annotations

import contextlib
import random
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.pgbouncer import PgBouncer
from tests.postgres import PostgresServer

#: Settings of the workers' role while a fault lasts.
ROLE_FAULTS = {
    "statement time-out of 20 ms": {"statement_timeout": "20ms"},
    "idle-in-transaction time-out of 10 ms": {"idle_in_transaction_session_timeout": "10ms"},
    "lock time-out of 5 ms": {"lock_timeout": "5ms"},
    "every transaction serializable": {"default_transaction_isolation": "serializable"},
    # What clients find that a failover has left connected to the old primary, or to a standby.
    "read-only database": {"default_transaction_read_only": "on"},
    # By itself the delay needs five more transactions that are open at that moment.
    "commits 50 ms slower": {"commit_delay": "50000", "commit_siblings": "0"},
}


class Faults:
    """Faults of one database, dealt out in turn so that each happens."""

    def __init__(self, dice: random.Random, stop: threading.Event, lasting_s: float, away_s: float) -> None:
        """
        Args:
            lasting_s: how long a fault lasts, seconds.
            away_s: for how long connections are refused, seconds.
        """
        self.done: Counter[str] = Counter()
        self._dice = dice
        self._stop = stop
        self._lasting_s = lasting_s
        self._away_s = away_s
        self._next = 0

    def all(self) -> list[Callable[[], None]]:
        """Return every fault there is."""
        raise NotImplementedError

    def strike(self) -> None:
        """Do the next one and undo it."""
        faults = self.all()
        faults[self._next % len(faults)]()
        self._next += 1

    @property
    def rounds(self) -> int:
        """How often every fault has been done."""
        return self._next // len(self.all())

    def _last(self) -> None:
        self._stop.wait(self._lasting_s)


class PostgresFaults(Faults):
    """Faults of a PostgreSQL server."""

    def __init__(self, server: PostgresServer, pooler: PgBouncer | None, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._server = server
        self._pooler = pooler

    def all(self) -> list[Callable[[], None]]:
        """See Faults."""
        roles = [lambda name=name: self.role(name) for name in ROLE_FAULTS]
        restarts = [lambda mode=mode: self.restart(mode) for mode in ("fast", "immediate")]
        locks = [self.lock_rows, self.lock_tables, self.exhaust]
        poolers = [] if self._pooler is None else [self.restart_pooler]
        return [
            self.terminate, restarts[0], *poolers, roles[0], *locks, roles[1], restarts[1], *roles[2:], self.refuse,
        ]  # fmt: skip

    @contextmanager
    def _connected(self) -> Iterator[Any]:
        import psycopg

        # Its own settings: what the role suffers must not reach who undoes it.
        options = (
            "-c statement_timeout=0 -c idle_in_transaction_session_timeout=0 -c lock_timeout=0 "
            "-c default_transaction_read_only=off"
        )
        with psycopg.connect(self._server.url(), options=options, autocommit=True) as connection:
            yield connection

    def terminate(self) -> None:
        """End all backends."""
        with self._connected() as connection:
            self._terminate(connection)
        self.done["backends terminated"] += 1

    def _terminate(self, connection: Any) -> None:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )

    def role(self, fault: str) -> None:
        """Give all sessions settings for a while."""
        with self._connected() as connection:
            for name, value in ROLE_FAULTS[fault].items():
                connection.execute(f"ALTER ROLE postgres SET {name} = '{value}'")
            self._terminate(connection)
        self._last()
        with self._connected() as connection:
            for name in ROLE_FAULTS[fault]:
                connection.execute(f"ALTER ROLE postgres RESET {name}")
            self._terminate(connection)
        self.done[fault] += 1

    def lock_rows(self) -> None:
        """Hold locks on instances and tasks."""
        with self._connected() as connection, connection.transaction():
            for table in ("duroxide_instance", "duroxide_activity_task"):
                connection.execute(f"SELECT 1 FROM {table} ORDER BY id LIMIT 20 FOR UPDATE")
            self._last()
        self.done["rows locked by others"] += 1

    def lock_tables(self) -> None:
        """Lock tables as a migration does that rewrites them."""
        with self._connected() as connection, connection.transaction():
            connection.execute("LOCK TABLE duroxide_instance, duroxide_activity_task IN ACCESS EXCLUSIVE MODE")
            self._last()
        self.done["tables locked by a migration"] += 1

    def exhaust(self) -> None:
        """Take all connections that the server has left, after ending those of the workers."""
        import psycopg

        with contextlib.ExitStack() as taken, self._connected() as connection:
            self._terminate(connection)
            with contextlib.suppress(psycopg.OperationalError):
                while not self._stop.is_set():
                    taken.enter_context(contextlib.closing(psycopg.connect(self._server.url())))
            self._last()
        self.done["connections exhausted"] += 1

    def restart(self, mode: str) -> None:
        """Stop the server and start it again."""
        self._server.stop(mode)
        self._stop.wait(self._dice.uniform(0, 2))
        self._server.start()
        self.done[f"restarted ({mode})"] += 1

    def restart_pooler(self) -> None:
        """Kill the pooler and start another one on its port."""
        assert self._pooler is not None
        self._pooler.restart(self._dice.uniform(0, 2))
        self.done["pooler restarted"] += 1

    def refuse(self) -> None:
        """Refuse connections for a while."""
        self._server.stop("fast")
        self._stop.wait(self._away_s)
        self._server.start()
        self.done[f"connections refused for {self._away_s:.0f} s"] += 1


class SqliteFaults(Faults):
    """Faults of a SQLite file."""

    def __init__(self, path: str, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._path = path

    def all(self) -> list[Callable[[], None]]:
        """See Faults."""
        return [self.hold_the_lock, self.write_often]

    def hold_the_lock(self) -> None:
        """Keep the only write lock for longer than others wait for it."""
        with contextlib.closing(sqlite3.connect(self._path, timeout=30, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            self._last()
            connection.execute("ROLLBACK")
        self.done["write lock held"] += 1

    def write_often(self) -> None:
        """Write in many small transactions from three more connections."""
        over = threading.Event()
        threads = [threading.Thread(target=self._write, args=(over,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        self._last()
        over.set()
        for thread in threads:
            thread.join()
        self.done["three more writers"] += 1

    def _write(self, over: threading.Event) -> None:
        with contextlib.closing(sqlite3.connect(self._path, timeout=30, isolation_level=None)) as connection:
            while not over.is_set():
                connection.execute("INSERT INTO chaos_tally (name, value) VALUES ('other', 1)")
