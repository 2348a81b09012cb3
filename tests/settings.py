"""Django settings of the tests: the same tables in two SQLite files and one PostgreSQL.

A process that a test starts (a worker, a command) uses these settings too and finds the databases of its test
by the environment variables that fixture ``subprocess_env`` sets.
"""

import tempfile
import uuid
from pathlib import Path

import environ
from django.core.exceptions import ImproperlyConfigured

env = environ.Env()

SECRET_KEY = "tests"
USE_TZ = True
ROOT_URLCONF = "example_project.urls"
ALLOWED_HOSTS = ["*"]
STATIC_URL = "static/"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]

INSTALLED_APPS = [
    "duroxide_django",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "example_project.shop",
]

MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

#: Where this run keeps its files. pytest creates the folder and removes it; its subprocesses share it.
TEST_DIRECTORY = Path(env("DUROXIDE_TEST_DIR", default=f"{tempfile.gettempdir()}/duroxide-tests-{uuid.uuid4().hex}"))

SQLITE_OPTIONS = {
    "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
    "timeout": 20,
    # A transaction that reads first and then writes would fail at once instead of waiting for its turn.
    "transaction_mode": "IMMEDIATE",
}


def sqlite_database(alias: str) -> dict[str, object]:
    """Return the settings of a SQLite file in this run's folder."""
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": env(f"DUROXIDE_TEST_{alias.upper()}_FILE", default=str(TEST_DIRECTORY / f"{alias}.sqlite3")),
        "OPTIONS": SQLITE_OPTIONS,
        # Without a name, Django would keep the test database in memory, where threads can't meet.
        "TEST": {"NAME": str(TEST_DIRECTORY / f"test-{alias}.sqlite3")},
    }


def postgres_database() -> dict[str, object]:
    """Return DATABASE_URL's PostgreSQL; without it, pytest starts a server and completes these settings."""
    database = env.db_url_config(env("DATABASE_URL", default="postgresql://postgres@127.0.0.1/duroxide"))
    if database["ENGINE"] != "django.db.backends.postgresql":  # The tests "on PostgreSQL" would pass on it.
        raise ImproperlyConfigured(
            f"The tests need a PostgreSQL; DATABASE_URL names {database['ENGINE']}. Without it one is started for them."
        )
    return {**database, "TEST": {"NAME": f"test_{database['NAME']}"}}


# A plain TestCase knows only `default`: those tests are run a second time with this variable set.
DEFAULT_IS_POSTGRES = env("DUROXIDE_TEST_DEFAULT", default="sqlite") == "postgres"

DATABASES = {
    "default": postgres_database() if DEFAULT_IS_POSTGRES else sqlite_database("default"),
    "sqlite": sqlite_database("sqlite"),
    "postgres": postgres_database(),
}

# The tests' workflows live in each database in turn, the shop's models in one: see TestTransactions of the checks.
SILENCED_SYSTEM_CHECKS = ["duroxide_django.W009"]

DUROXIDE = {"DATABASE": env("DUROXIDE_TEST_BACKEND", default="default")}
