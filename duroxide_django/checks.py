"""System checks. Messages say the problem, hints the cure; ids are stable and documented in docs/reference."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from django.apps import apps
from django.core import checks
from django.db import DEFAULT_DB_ALIAS, DatabaseError, NotSupportedError, connections, router

from duroxide_django.conf import settings
from duroxide_django.quoting import quoted

SUPPORTED = ("sqlite", "postgresql")
MIN_SQLITE = (3, 35)
MIN_POSTGRESQL = (14,)
#: Apps whose rows nobody writes together with a start.
_OWN = ("duroxide_django", "contenttypes", "sessions", "admin")


@checks.register("duroxide_django")
def check_settings(**_: Any) -> list[checks.CheckMessage]:
    """E001: a DUROXIDE setting is wrong. W002: leases leave no room for their renewal.

    W010: a turn may compute longer than its lease.
    """
    found: list[checks.CheckMessage] = [
        checks.Error(
            f"DUROXIDE[{name!r}] {problem}." if name else problem,
            hint=f"Known settings: {', '.join(settings.names())}." if problem == "is unknown" else None,
            id="duroxide_django.E001",
        )
        for name, problem in settings.problems()
    ]
    if found:
        return found
    if settings.SESSION_IDLE_MS <= settings.ACTIVITY_LEASE_MS:
        found.append(
            checks.Warning(
                "DUROXIDE['SESSION_IDLE_MS'] is not above ACTIVITY_LEASE_MS.",
                hint="A session would be given away while its activity still runs; raise SESSION_IDLE_MS.",
                id="duroxide_django.W002",
            )
        )
    if settings.TURN_TIMEOUT_MS >= settings.TURN_LEASE_MS:
        found.append(
            checks.Warning(
                "DUROXIDE['TURN_TIMEOUT_MS'] is not below TURN_LEASE_MS.",
                hint="A turn that hangs would be taken over by a second worker before the first one notices; "
                "lower TURN_TIMEOUT_MS or raise TURN_LEASE_MS.",
                id="duroxide_django.W010",
            )
        )
    return found


@checks.register("duroxide_django")
def check_alias(**_: Any) -> list[checks.CheckMessage]:
    """E003: the workflows' alias isn't in DATABASES. E004: its database is not supported."""
    if not settings.is_valid("DATABASE"):
        return []
    alias = settings.DATABASE
    if alias not in connections.databases:
        return [
            checks.Error(
                f"DUROXIDE['DATABASE'] names the alias {quoted(alias)}, which DATABASES doesn't have.",
                hint="Add the alias to DATABASES or correct DUROXIDE['DATABASE'].",
                id="duroxide_django.E003",
            )
        ]
    vendor = connections[alias].vendor
    if vendor == "unknown" or vendor in SUPPORTED:
        return []
    return [
        checks.Error(
            f"duroxide_django does not support the database {vendor!r} of the alias {alias!r}.",
            hint="Use SQLite or PostgreSQL for DUROXIDE['DATABASE']; other aliases may use any database.",
            id="duroxide_django.E004",
        )
    ]


@checks.register("duroxide_django")
def check_transactions(**_: Any) -> list[checks.CheckMessage]:
    """W009: models are written on other aliases than the workflows, so that no transaction covers both."""
    if not settings.is_valid("DATABASE"):
        return []
    alias = settings.DATABASE
    models = [model for model in apps.get_models() if model._meta.managed and model._meta.app_label not in _OWN]
    elsewhere = sorted({router.db_for_write(model) for model in models} - {alias})
    if not elsewhere:
        return []
    return [
        checks.Warning(
            f"Workflows live in the alias {alias!r}, but models are written to {', '.join(map(repr, elsewhere))}: "
            "a start or signal inside atomic() there is not part of that transaction.",
            hint="Keep both in one database, or start in transaction.on_commit() and silence this check; "
            "see 'Your transactions' in the documentation's guarantees.",
            id="duroxide_django.W009",
        )
    ]


#: Connections of a worker process besides those of its slots: the loop, the listener, the keeper, retention.
OWN_CONNECTIONS = 4


@checks.register("duroxide_django")
def check_pool(**_: Any) -> list[checks.CheckMessage]:
    """E011: Django's connection pool is too small for a worker."""
    alias = settings.DATABASE if settings.is_valid("DATABASE") else DEFAULT_DB_ALIAS
    pool = connections.databases.get(alias, {}).get("OPTIONS", {}).get("pool")
    if not pool or not settings.is_valid("WORKER_CONCURRENCY"):
        return []
    options = pool if isinstance(pool, dict) else {}
    # psycopg's defaults.
    size = options.get("max_size") or options.get("min_size", 4)
    needed = settings.WORKER_CONCURRENCY + OWN_CONNECTIONS
    if size >= needed:
        return []
    return [
        checks.Error(
            f"The pool of the alias {alias!r} has {size} connections; a worker needs {needed}: one for each of "
            f"WORKER_CONCURRENCY ({settings.WORKER_CONCURRENCY}) slots, and {OWN_CONNECTIONS} of its own.",
            hint=f"Set OPTIONS['pool'] to {{'max_size': {needed}}} or more, or lower WORKER_CONCURRENCY.",
            id="duroxide_django.E011",
        )
    ]


@checks.register("duroxide_django", checks.Tags.database)
def check_database(*, databases: Sequence[str] | None = None, **_: Any) -> list[checks.CheckMessage]:
    """E005: the database is too old. W006: SQLite without WAL. W007: a migration is missing.

    E008: the database can't be read.
    """
    alias = settings.DATABASE if settings.is_valid("DATABASE") else DEFAULT_DB_ALIAS
    if alias not in (databases or []) or alias not in connections.databases:
        return []
    connection = connections[alias]
    if connection.vendor not in SUPPORTED:
        return []
    try:
        # Django refuses to talk to a version that it finds too old itself.
        return _check_version(connection, alias) or [
            *_check_sqlite(connection, alias),
            *_check_tables(connection, alias),
        ]
    except NotSupportedError as exc:
        return [checks.Error(str(exc), hint="Upgrade the database.", id="duroxide_django.E005")]
    except DatabaseError as exc:
        return [
            checks.Error(
                f"The database of the alias {alias!r} can't be read: {exc}",
                hint="Check DATABASES and that the server runs.",
                id="duroxide_django.E008",
            )
        ]


def _check_version(connection: Any, alias: str) -> list[checks.CheckMessage]:
    least = MIN_SQLITE if connection.vendor == "sqlite" else MIN_POSTGRESQL
    found = connection.get_database_version()
    if tuple(found) >= least:
        return []
    wanted = ".".join(map(str, least))
    return [
        checks.Error(
            f"The database of the alias {alias!r} is version {'.'.join(map(str, found))}.",
            hint=f"duroxide_django needs {connection.display_name} {wanted} or newer.",
            id="duroxide_django.E005",
        )
    ]


def _check_sqlite(connection: Any, alias: str) -> list[checks.CheckMessage]:
    if connection.vendor != "sqlite" or connection.is_in_memory_db():
        return []
    with connection.cursor() as cursor:
        mode = cursor.execute("PRAGMA journal_mode").fetchone()[0]
    if mode == "wal":
        return []
    return [
        checks.Warning(
            f"The SQLite database of the alias {alias!r} uses journal_mode {mode!r}.",
            hint=(
                "Readers and the worker block each other; set OPTIONS = {'transaction_mode': 'IMMEDIATE', "
                "'init_command': 'PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;'} for this alias."
            ),
            id="duroxide_django.W006",
        )
    ]


def _check_tables(connection: Any, alias: str) -> list[checks.CheckMessage]:
    from django.db.migrations.executor import MigrationExecutor

    executor = MigrationExecutor(connection)
    targets = [node for node in executor.loader.graph.leaf_nodes() if node[0] == "duroxide_django"]
    missing = executor.migration_plan(targets)
    # ``migrate`` runs the checks before it does what this one asks for.
    if not missing or sys.argv[1:2] == ["migrate"]:
        return []
    return [
        checks.Warning(
            f"{len(missing)} migrations of duroxide_django are not applied to the alias {alias!r}.",
            hint=f"Run: manage.py migrate --database {alias}",
            id="duroxide_django.W007",
        )
    ]
