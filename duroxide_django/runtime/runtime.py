"""Runtime: registered functions and a running loop, in this process (spec 15)."""

from __future__ import annotations

import pkgutil
import threading
from collections.abc import Callable
from typing import Any, Self

from django.conf import settings as django_settings
from django.db import InterfaceError, OperationalError, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.migrations.recorder import MigrationRecorder

from duroxide_django import logs, migrations
from duroxide_django.engine.limits import check_text, check_whole
from duroxide_django.engine.registry import Registry
from duroxide_django.engine.versions import DEFAULT_VERSION, Version
from duroxide_django.exceptions import ConfigurationError, RuntimeStateError
from duroxide_django.logs import runtime_log
from duroxide_django.options import RuntimeOptions
from duroxide_django.provider import Provider, alias_of
from duroxide_django.registry import default_registry
from duroxide_django.runtime.config import Config, resolve
from duroxide_django.runtime.loop import Loop
from duroxide_django.runtime.metrics import MetricsSnapshot
from duroxide_django.standalone import ensure_django
from duroxide_django.storage import activities, turns
from duroxide_django.storage.database import Database

#: How long start() waits for the first look at the database, in seconds.
_START_S = 30.0
#: How long shutdown() waits for the loop beyond its time-out, in seconds.
_GRACE_S = 5.0
#: A snapshot of the counters waits for a commit that is under way, so long at the most, in seconds.
_COUNTED_WITHIN_S = 0.1
#: shutdown() waits for an iteration that is under way, so long at the most, in seconds.
_STOPPED_WITHIN_S = 1.0


class Runtime:
    """Runs orchestrations and activities in background threads of this process.

    Without a provider it serves the project's alias with the functions registered by ``@activity`` and
    ``@orchestration``; with one it has a registry of its own.
    """

    def __init__(
        self,
        provider: Provider | None = None,
        options: RuntimeOptions | None = None,
        *,
        using: str | None = None,
        registry: Registry | None = None,
    ) -> None:
        """
        Args:
            provider: where the workflows live; None: the alias ``using``, or the setting DATABASE.
            options: see RuntimeOptions; what it leaves out comes from the settings.
            using: a Django database alias.
            registry: the functions to serve; None: its own with a provider, else the project's.

        Raises:
            ConfigurationError: a setting or option is wrong.
            UnsupportedDatabase: the alias is neither SQLite nor PostgreSQL.
        """
        ensure_django()
        self.options = options or RuntimeOptions()
        self.config: Config = resolve(options)
        self.db = Database(alias_of(provider, using))
        own = provider is not None
        self.registry = registry if registry is not None else (Registry() if own else default_registry)
        self._loop: Loop | None = None
        self._lock = threading.Lock()
        self._stopped = False

    def register_activity(self, name: str, fn: Callable[..., Any] | None = None, *, atomic: bool = False) -> Any:
        """Register an activity, as decorator or directly; returns the function.

        Raises:
            InvalidArgument: a bad, reserved or taken name, or no function.
            RuntimeStateError: the runtime runs already.
        """
        check_text(name, "activity name")
        if fn is None:
            return lambda decorated: self.register_activity(name, decorated, atomic=atomic)
        self._refuse_while_running(f"activity {name!r}")
        self.registry.add_activity(name, fn, atomic=atomic)
        return fn

    def register_orchestration(self, name: str, fn: Callable[..., Any] | None = None) -> Any:
        """Register an orchestration as version 1.0.0, as decorator or directly; returns the function."""
        return self.register_orchestration_versioned(name, DEFAULT_VERSION, fn)

    def register_orchestration_versioned(self, name: str, version: str, fn: Callable[..., Any] | None = None) -> Any:
        """Register one version of an orchestration, as decorator or directly; returns the function.

        Raises:
            InvalidArgument: a bad name or version, a version registered already, an async function.
            RuntimeStateError: the runtime runs already.
        """
        check_text(name, "orchestration name")
        Version.parse(version)
        if fn is None:
            return lambda decorated: self.register_orchestration_versioned(name, version, decorated)
        self._refuse_while_running(f"orchestration {name!r}")
        self.registry.add_orchestration(name, fn, version)
        return fn

    register_activity_typed = register_activity
    register_orchestration_typed = register_orchestration
    register_orchestration_versioned_typed = register_orchestration_versioned

    def _refuse_while_running(self, what: str) -> None:
        if self._loop is not None:
            raise RuntimeStateError(f"Can't register {what} while the runtime runs; register before start().")

    def start(self) -> None:
        """Start in the background and return.

        Raises:
            RuntimeStateError: it runs already, or was shut down.
            ConfigurationError: the tables are missing.
        """
        with self._lock:
            if self._loop is not None or self._stopped:
                raise RuntimeStateError("The runtime was started before; make a new one.")
            self._check_tables()
            options = self.options
            constants = {
                name: value
                for name, value in (
                    ("service_name", options.service_name),
                    ("service_version", options.service_version),
                )
                if value
            }
            logs.configure(level=options.log_level, style=options.log_format, constants=constants)
            self._loop = Loop(self.registry, self.config, self.db)
            self._loop.start()
        self._loop.ready.wait(_START_S)

    def _check_tables(self) -> None:
        connection = connections[self.db.alias]
        try:
            with connection.cursor() as cursor:
                tables = connection.introspection.table_names(cursor)
            unapplied = _unapplied_migrations(connection)
        except (OperationalError, InterfaceError) as exc:
            # A database that is away comes back; the loop waits for it.
            runtime_log.warning("The database is away; the worker waits for it", error=str(exc))
            connection.close()
            return
        if "duroxide_instance" not in tables:
            raise ConfigurationError(
                f"The tables of duroxide_django are missing in the alias {self.db.alias!r}; "
                f"run: manage.py migrate --database {self.db.alias}"
            )
        if unapplied:
            raise ConfigurationError(
                f"The tables of duroxide_django in the alias {self.db.alias!r} lack the migrations "
                f"{', '.join(unapplied)}; run: manage.py migrate --database {self.db.alias}"
            )

    def shutdown(self, timeout_ms: int | None = None) -> None:
        """Stop: take nothing new, let running activities end, commit, and return as soon as that is done.

        Activities that still run after the time-out are given back; another worker runs them again.

        Args:
            timeout_ms: milliseconds to wait for running activities; None: 1000; 0: don't wait.

        Raises:
            InvalidArgument: ``timeout_ms`` is no whole number, or negative.
        """
        wait_ms = 1_000 if timeout_ms is None else check_whole(timeout_ms, "timeout_ms")
        with self._lock:
            loop = self._loop
            if loop is not None:
                loop.stop(wait_ms)
                # An iteration that is under way may have begun to take something.
                if threading.current_thread() is not loop and loop.dispatcher.counting.acquire(
                    timeout=_STOPPED_WITHIN_S
                ):
                    loop.dispatcher.counting.release()
            self._stopped = True
        if loop is None or not loop.is_alive():
            return
        if threading.current_thread() is not loop:
            loop.join(wait_ms / 1000 + _GRACE_S)

    def metrics_snapshot(self) -> MetricsSnapshot | None:
        """Return the counters since start; None before start and after shutdown.

        What a client has seen is counted, unless the database takes longer than a moment to answer the worker.
        """
        loop = self._loop
        if loop is None or not loop.is_alive() or self._stopped:
            return None
        counting = loop.dispatcher.counting
        if counting.acquire(timeout=_COUNTED_WITHIN_S):
            counting.release()
        return loop.metrics.snapshot()

    @property
    def is_alive(self) -> bool:
        """Whether the loop runs."""
        return self._loop is not None and self._loop.is_alive()

    def is_idle(self) -> bool:
        """Return whether this runtime has nothing to do that is due now; asks the database."""
        loop = self._loop
        if loop is None or not loop.ready.is_set():
            return False
        # What the loop has taken is in no queue: it must have been at rest for the whole time of the queries.
        turns_seen = loop.turns
        if not (loop.rests and loop.slots.is_idle()):
            return False
        wanted = loop.dispatcher.fetcher.wanted(1)
        if self.config.runs_orchestrations and turns.has_claimable(self.db):
            return False
        if self.config.runs_activities and activities.can_fetch(self.db, wanted):
            return False
        return loop.turns == turns_seen and loop.slots.is_idle()

    @property
    def hangs(self) -> str | None:
        """What keeps the loop from turning, for people, once that has lasted too long; None while it turns."""
        return None if self._loop is None else self._loop.watchdog.found

    def is_live(self) -> bool:
        """Return whether the loop runs and turns, or waits for the database, which doesn't make it dead."""
        loop = self._loop
        return loop is not None and loop.is_alive() and not loop.watchdog.loop_hangs()

    def is_ready(self) -> bool:
        """Return whether the worker can do work: live, not stopping, and the last iteration reached the database."""
        loop = self._loop
        if loop is None or self._stopped or not self.is_live() or not loop.ready.is_set():
            return False
        return not loop.failures and not loop.waits_for_database()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()


def _unapplied_migrations(connection: BaseDatabaseWrapper) -> list[str]:
    """Return the names of this package's migrations that the database lacks, without loading those of other apps.

    None counts as missing where none is recorded: tests may create tables without migrations.
    """
    if "duroxide_django" in django_settings.MIGRATION_MODULES:
        return []
    applied = {name for app, name in MigrationRecorder(connection).applied_migrations() if app == "duroxide_django"}
    # As Django's loader does: a name that begins with an underscore is a helper.
    ours = [module.name for module in pkgutil.iter_modules(migrations.__path__) if module.name[0] not in "_~"]
    return sorted(set(ours) - applied) if applied else []
