"""Providers: database aliases made at run time, with their tables (the seed's ``SqliteProvider`` and friends)."""

from __future__ import annotations

import atexit
import hashlib
import importlib
import itertools
import json
import os
import re
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from duroxide_django.engine.limits import check_text, check_whole
from duroxide_django.exceptions import ConfigurationError, InvalidArgument
from duroxide_django.quoting import quoted
from duroxide_django.standalone import ensure_django

VERIFY = "verify-full"
#: What Entra connections may be told; anything less sends the token in the clear.
ENTRA_SSLMODES = ("require", "verify-ca", VERIFY)

_counter = itertools.count(1)
_lock = threading.Lock()

SQLITE_OPTIONS: dict[str, Any] = {
    "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
    "timeout": 30,
    "transaction_mode": "IMMEDIATE",
}


@dataclass(frozen=True, slots=True)
class Provider:
    """A place where workflows live.

    Attributes:
        alias: the Django database alias.
    """

    alias: str


class SqliteProvider(Provider):
    """Workflows in a SQLite database."""

    __slots__ = ()

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> SqliteProvider:
        """Open a file, creating it, its folders and its tables as needed.

        Args:
            path: a path, or a ``sqlite:`` URL.

        Raises:
            InvalidArgument: ``path`` is the URL of another database.
            ConfigurationError: the file can't be opened or created.
        """
        name = str(os.fspath(path))
        if "://" in name and not name.startswith(("sqlite:", "file:")):
            raise InvalidArgument("SqliteProvider opens a path or a sqlite: URL; for PostgreSQL use PostgresProvider.")
        if name.startswith("sqlite:"):
            name = name.removeprefix("sqlite:").removeprefix("//").split("?")[0]
        if not name or name == ":memory:":
            return cls.in_memory()
        file = Path(name).absolute()
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise ConfigurationError(f"The folder of {file} can't be created: {exc}") from exc
        return cls(_register("sqlite", str(file), {"ENGINE": _SQLITE, "NAME": str(file), "OPTIONS": SQLITE_OPTIONS}))

    @classmethod
    def in_memory(cls) -> SqliteProvider:
        """Return a new empty store that lives as long as this process."""
        name = f"file:/duroxide-{os.getpid()}-{next(_counter)}?vfs=memdb"
        options = {"timeout": 30, "transaction_mode": "IMMEDIATE"}
        provider = cls(_register("memory", name, {"ENGINE": _SQLITE, "NAME": name, "OPTIONS": options}))
        _keep_open(name)
        return provider


@dataclass(frozen=True, slots=True)
class PostgresEntraOptions:
    """Options of Azure Entra authentication.

    Attributes:
        audience: the token's scope.
        max_connections: taken for programs written for the duroxide SDK; nothing is pooled here: each thread that
            uses the database has a connection of its own.
        acquire_timeout_ms: milliseconds to wait for a new connection, rounded up to seconds.
        refresh_interval_ms: milliseconds after which new connections get a new token, even if the last one is still
            good; None: shortly before it expires.
        sslmode: ``verify-full`` (the server's certificate and host name are checked), ``verify-ca`` or ``require``
            (neither is); None: ``verify-full`` if a root certificate is known, otherwise ``require``.
        sslrootcert: file of the root certificate, or ``system`` (libpq 16 or newer); None: PGSSLROOTCERT, or libpq's
            ``~/.postgresql/root.crt``.
    """

    audience: str = "https://ossrdbms-aad.database.windows.net/.default"
    max_connections: int | None = None
    acquire_timeout_ms: int | None = None
    refresh_interval_ms: int | None = None
    sslmode: str | None = None
    sslrootcert: str | None = None

    def __post_init__(self) -> None:
        check_text(self.audience, "audience")
        if self.sslmode not in (None, *ENTRA_SSLMODES):
            raise InvalidArgument(f"sslmode must be one of {', '.join(ENTRA_SSLMODES)}, got {quoted(self.sslmode)}.")
        if self.sslrootcert is not None:
            check_text(self.sslrootcert, "sslrootcert")
        for name in ("max_connections", "acquire_timeout_ms", "refresh_interval_ms"):
            if getattr(self, name) is not None:
                check_whole(getattr(self, name), name, least=1)


class PostgresProvider(Provider):
    """Workflows in a PostgreSQL database."""

    __slots__ = ()

    @classmethod
    def connect(cls, url: str) -> PostgresProvider:
        """Connect to ``postgresql://user:password@host:port/database``, creating the tables as needed.

        Raises:
            InvalidArgument: the URL is not of that form.
            ConfigurationError: the database can't be reached, or there is no driver for it.
        """
        return cls._connect(url, None)

    @classmethod
    def connect_with_schema(cls, url: str, schema: str) -> PostgresProvider:
        """Connect like ``connect``; the tables live in ``schema``, which is created as needed."""
        return cls._connect(url, _checked_schema(schema))

    @classmethod
    def connect_with_entra(
        cls, host: str, port: int, database: str, user: str, options: PostgresEntraOptions | None = None
    ) -> PostgresProvider:
        """Connect over TLS with a token that ``azure-identity`` gives, in place of a password.

        New connections get a new token before the last one expires.

        Args:
            host, port, database, user: where, and as whom.
            options: see PostgresEntraOptions.

        Raises:
            InvalidArgument: an argument is wrong.
            ConfigurationError: azure-identity is not installed, it gives no token, or the database can't be reached.
        """
        return cls._connect_with_entra(host, port, database, user, None, options)

    @classmethod
    def connect_with_schema_and_entra(
        cls,
        host: str,
        port: int,
        database: str,
        user: str,
        schema: str,
        options: PostgresEntraOptions | None = None,
    ) -> PostgresProvider:
        """See connect_with_entra() and connect_with_schema()."""
        return cls._connect_with_entra(host, port, database, user, _checked_schema(schema), options)

    @classmethod
    def _connect_with_entra(
        cls,
        host: str,
        port: int,
        database: str,
        user: str,
        schema: str | None,
        options: PostgresEntraOptions | None,
    ) -> PostgresProvider:
        chosen = options or PostgresEntraOptions()
        for name, text in (("host", host), ("database", database), ("user", user)):
            check_text(text, name)
        check_whole(port, "port", least=1)
        connect = _entra_tls(chosen)
        if chosen.acquire_timeout_ms is not None:
            connect["connect_timeout"] = -(-chosen.acquire_timeout_ms // 1000)
        config = {
            "ENGINE": _ENTRA,
            "NAME": database,
            "USER": user,
            "PASSWORD": "",
            "HOST": host,
            "PORT": str(port),
            "OPTIONS": connect,
        }
        from duroxide_django.entra import TokenSource

        source = TokenSource(chosen.audience, chosen.refresh_interval_ms)
        return cls(_register_postgres(config, schema, {"token_source": source}))

    @classmethod
    def _connect(cls, url: str, schema: str | None) -> PostgresProvider:
        return cls(_register_postgres(parse_postgres_url(url), schema))


_SQLITE = "django.db.backends.sqlite3"
_POSTGRES = "django.db.backends.postgresql"
_ENTRA = "duroxide_django.entra"
#: A token is as good as a password: never send it in the clear.
ENTRA_SSLMODE = "require"
_LIBPQ_ROOT = Path("~/.postgresql/root.crt")
_anchors: dict[str, Any] = {}


def _entra_tls(options: PostgresEntraOptions) -> dict[str, Any]:
    known = options.sslrootcert or os.environ.get("PGSSLROOTCERT") or _LIBPQ_ROOT.expanduser().is_file()
    mode = options.sslmode or (VERIFY if known else ENTRA_SSLMODE)
    return {"sslmode": mode, **({"sslrootcert": options.sslrootcert} if options.sslrootcert else {})}


def parse_postgres_url(url: str) -> dict[str, Any]:
    """Return the Django database settings of a PostgreSQL URL; raises InvalidArgument."""
    malformed = InvalidArgument(
        "A PostgreSQL URL looks like postgresql://user:password@host:5432/database; "
        "write other characters of user and password than letters and digits as %XX."
    )
    try:
        parts = urlsplit(str(url))
        port = parts.port
    except ValueError:
        # Not chained: that message may quote the password.
        raise malformed from None
    if parts.scheme not in ("postgres", "postgresql") or not parts.path.strip("/"):
        raise malformed
    query = dict(parse_qsl(parts.query))
    return {
        "ENGINE": _POSTGRES,
        "NAME": unquote(parts.path.strip("/")),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": query.pop("host", None) or unquote(parts.hostname or ""),
        "PORT": str(port or ""),
        "OPTIONS": query,
    }


def alias_of(provider: Provider | None, using: str | None) -> str:
    """Return the database alias that a provider, an alias, or neither (the setting DATABASE) stands for.

    Raises:
        InvalidArgument: ``provider`` is no provider, or both are given and differ.
    """
    given: object = provider
    if given is None:
        from duroxide_django.conf import settings

        return using or str(settings.DATABASE)
    if not isinstance(given, Provider):
        raise InvalidArgument(
            f"A provider is made by SqliteProvider or PostgresProvider, got {quoted(given)}; for an alias write using=…"
        )
    if using not in (None, given.alias):
        raise InvalidArgument(f"Give a provider or an alias, not both: got {quoted(given)} and using={quoted(using)}.")
    return given.alias


def _checked_schema(schema: str) -> str:
    given: object = schema
    if not isinstance(given, str) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,62}", given):
        raise InvalidArgument(f"A schema's name must be a plain identifier, got {quoted(schema)}.")
    return schema


def _register_postgres(config: dict[str, Any], schema: str | None, secrets: dict[str, Any] | None = None) -> str:
    """Make an alias; ``secrets`` are options that, like the password, don't make it another database."""
    _check_driver()
    place = [config[key] for key in ("ENGINE", "HOST", "PORT", "NAME", "USER")]
    identity = json.dumps([*place, sorted(config["OPTIONS"].items()), schema])
    options = {**config["OPTIONS"], **(secrets or {})}
    if schema is not None:
        # In quotes: without them PostgreSQL looks for the name in lower case.
        options["options"] = f'{options.get("options", "")} -c search_path="{schema}"'.strip()
    return _register("postgres", identity, {**config, "OPTIONS": options}, schema)


def _check_driver() -> None:
    from django.core.exceptions import ImproperlyConfigured

    try:
        importlib.import_module(f"{_POSTGRES}.base")
    except ImproperlyConfigured as exc:
        raise ConfigurationError("PostgreSQL needs psycopg: pip install 'duroxide_django[postgres]'.") from exc


def _register(kind: str, identity: str, config: dict[str, Any], schema: str | None = None) -> str:
    """Make an alias for a database, once for each identity, and bring its tables up to date."""
    ensure_django()
    from django.db import Error, connections
    from django.db.utils import ConnectionHandler

    alias = f"duroxide_{kind}_{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
    with _lock:
        before = dict(connections.databases.get(alias, {}))
        # The handler completes one alias's settings with Django's defaults.
        complete = ConnectionHandler({"default": {}, alias: config}).settings[alias]
        # In place: every thread's next connection then takes a new password.
        connections.databases.setdefault(alias, {}).update(complete)
        try:
            if before and before != complete and not connections[alias].in_atomic_block:
                connections[alias].close()
            _migrate(alias, schema)
        except Error as exc:
            del connections[alias]
            if before:
                connections.databases[alias].update(before)
            else:
                del connections.databases[alias]
            raise ConfigurationError(f"The database {_describe(config)} can't be used: {exc}") from exc
    return alias


def _describe(config: dict[str, Any]) -> str:
    host = config.get("HOST")
    return f"{host}:{config.get('PORT')}/{config['NAME']}" if host else str(config["NAME"])


def _migrate(alias: str, schema: str | None) -> None:
    from django.core.management import call_command
    from django.db import connections
    from django.db.migrations.executor import MigrationExecutor

    connection = connections[alias]
    if schema is not None:
        with connection.cursor() as cursor:
            cursor.execute(f"CREATE SCHEMA IF NOT EXISTS {connection.ops.quote_name(schema)}")
    executor = MigrationExecutor(connection)
    targets = [node for node in executor.loader.graph.leaf_nodes() if node[0] == "duroxide_django"]
    if executor.migration_plan(targets):
        call_command("migrate", "duroxide_django", database=alias, verbosity=0, interactive=False)


def _keep_open(name: str) -> None:
    """Hold one connection to a memory database: it vanishes with its last connection."""
    import sqlite3

    _anchors[name] = anchor = sqlite3.connect(name, uri=True, check_same_thread=False)
    atexit.register(anchor.close)
