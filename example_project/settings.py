"""Settings of the example project.

Everything that differs between machines comes from the environment. Without any, the shop runs on a SQLite
file beside this module; ``DATABASE_URL=postgresql://user:password@host/name`` moves it to PostgreSQL.
"""

from decimal import Decimal
from pathlib import Path

import environ  # type: ignore[import-untyped]
from django.core.exceptions import ImproperlyConfigured

BASE_DIR = Path(__file__).resolve().parent

env = environ.Env()

DEBUG = env.bool("DEBUG", default=True)
# Known to everybody who reads this file: fit for localhost only, so nothing but DEBUG accepts it.
SECRET_KEY = env.str("SECRET_KEY", default="only-for-localhost" if DEBUG else environ.Env.NOTSET)
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=["localhost", "127.0.0.1", "[::1]", "testserver"])

INSTALLED_APPS = [
    # Before the admin: its index page then shows how the workflows stand.
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
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "example_project.urls"
WSGI_APPLICATION = "example_project.wsgi.application"
ASGI_APPLICATION = "example_project.asgi.application"

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

# Web server and worker write to the same SQLite file: with WAL readers never wait for a writer, and a
# transaction that takes the write lock at its beginning can wait for it, where one that upgrades half-way
# would fail at once.
SQLITE_OPTIONS = {
    "transaction_mode": "IMMEDIATE",
    "timeout": 20,
    "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL",
}

DATABASES = {"default": env.db_url("DATABASE_URL", default=f"sqlite:///{BASE_DIR / 'shop.sqlite3'}")}
if "ENGINE" not in DATABASES["default"]:
    raise ImproperlyConfigured("DATABASE_URL must look like postgresql://user:password@host/name or sqlite:////path.")
if DATABASES["default"]["ENGINE"] == "django.db.backends.sqlite3":
    DATABASES["default"]["OPTIONS"] = {**SQLITE_OPTIONS, **DATABASES["default"].get("OPTIONS", {})}
else:
    DATABASES["default"].setdefault("CONN_MAX_AGE", 60)
    DATABASES["default"].setdefault("CONN_HEALTH_CHECKS", True)

DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
STATIC_URL = "static/"
LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = True

# Every key has a default; this one only shows where they go.
DUROXIDE = {"DATABASE": "default"}

# Orders from this sum on wait for somebody at the desk to say yes, but not for ever.
SHOP_APPROVAL_LIMIT = Decimal(env.str("SHOP_APPROVAL_LIMIT", default="200"))
SHOP_APPROVAL_MINUTES = env.float("SHOP_APPROVAL_MINUTES", default=30)
# How slow the world is: the payment company's answer, the courier's arrival.
SHOP_GATEWAY_SECONDS = env.float("SHOP_GATEWAY_SECONDS", default=0.8)
SHOP_PICKUP_SECONDS = env.float("SHOP_PICKUP_SECONDS", default=3)
# The hour of the day, in UTC, at which the sales report of the day before is written.
SHOP_REPORT_HOUR = env.int("SHOP_REPORT_HOUR", default=2)
