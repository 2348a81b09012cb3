"""A Django project with the admin, on the database that is measured."""

from urllib.parse import unquote, urlsplit

from benchmarks.engines import base


def set_up(store):
    """Configure Django for ``store``, create the tables that are missing, and register some workflows."""
    import django
    from django.conf import settings
    from django.core.management import call_command

    settings.configure(
        SECRET_KEY="benchmarks",
        USE_TZ=True,
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF="benchmarks.admin.urls",
        STATIC_URL="static/",
        DATABASES={"default": database(store)},
        INSTALLED_APPS=[
            "django.contrib.admin",
            "django.contrib.auth",
            "django.contrib.contenttypes",
            "django.contrib.sessions",
            "django.contrib.messages",
            "django.contrib.staticfiles",
            "duroxide_django",
        ],
        MIDDLEWARE=[
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.middleware.common.CommonMiddleware",
            "django.middleware.csrf.CsrfViewMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
            "django.contrib.messages.middleware.MessageMiddleware",
        ],
        TEMPLATES=[
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
        ],
    )
    django.setup()
    call_command("migrate", verbosity=0)
    register()


def database(store):
    """Return Django's settings of a store."""
    if store.backend == base.SQLITE:
        from duroxide_django.provider import SQLITE_OPTIONS

        return {"ENGINE": "django.db.backends.sqlite3", "NAME": store.place, "OPTIONS": SQLITE_OPTIONS}
    parts = urlsplit(store.place)
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": parts.path.strip("/"),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": parts.hostname or "",
        "PORT": parts.port or "",
        "CONN_MAX_AGE": None,
    }


def register():
    """Put the workflows that the instances are of into the project's registry."""
    from benchmarks.admin.fill import WORKFLOWS
    from duroxide_django.registry import default_registry

    def workflow(ctx, value):
        """Stand for a workflow of this name."""
        yield ctx.schedule_activity("Charge", value)

    def activity(ctx, value):
        """Stand for an activity of this name."""
        return value

    for name, version in WORKFLOWS:
        default_registry.add_orchestration(name, workflow, version=version)
    for name in ("Charge", "Ship", "Mail"):
        default_registry.add_activity(name, activity)
