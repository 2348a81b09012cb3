"""Django settings of a chaos run: one database, short leases, and the app with the work."""

import environ

env = environ.Env()

SECRET_KEY = "chaos"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth", "duroxide_django", "tests.chaos.work"]

DATABASES = {"default": env.db_url("CHAOS_DATABASE_URL")}
if DATABASES["default"]["ENGINE"].endswith("sqlite3"):
    DATABASES["default"]["OPTIONS"] = {
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        "timeout": env.int("CHAOS_SQLITE_TIMEOUT", 30),
        "transaction_mode": "IMMEDIATE",
    }

DUROXIDE = {
    "TURN_LEASE_MS": env.int("CHAOS_LEASE_MS", 2_000),
    "ACTIVITY_LEASE_MS": env.int("CHAOS_LEASE_MS", 2_000),
    "SESSION_LEASE_MS": env.int("CHAOS_LEASE_MS", 2_000),
    "TURN_TIMEOUT_MS": env.int("CHAOS_TURN_TIMEOUT_MS", 20_000),
    "REPLAY_EVERY_TURN": env.bool("CHAOS_REPLAY_EVERY_TURN", default=False),
    # Each try may fall to a kill of its own; poison is not what this is about.
    "MAX_ATTEMPTS": env.int("CHAOS_MAX_ATTEMPTS", 50),
    "SHUTDOWN_TIMEOUT_MS": 3_000,
    # As the documentation says for PgBouncer in session mode; in transaction mode workers notice it.
    "PREPARED_STATEMENTS": True if env("CHAOS_POOLER", default="") == "session" else None,
}
if env("CHAOS_POOLER", default="") == "transaction":
    DATABASES["default"]["DISABLE_SERVER_SIDE_CURSORS"] = True
# Leases are short so that what the dead held is taken over soon.
SILENCED_SYSTEM_CHECKS = ["duroxide_django.W010"]
