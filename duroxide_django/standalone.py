"""Using the package in a plain script: a minimal Django set-up when there is none."""

from __future__ import annotations

import os


def ensure_django() -> None:
    """Set Django up if nobody has: with the project's settings if there are any, else with minimal ones."""
    import django
    from django.apps import apps
    from django.conf import settings

    if apps.ready:
        return
    if not settings.configured and not os.environ.get("DJANGO_SETTINGS_MODULE"):
        settings.configure(
            INSTALLED_APPS=["duroxide_django"],
            DATABASES={},
            USE_TZ=True,
            SECRET_KEY="not used: this set-up serves no requests",  # noqa: S106
        )
    if not apps.loading:
        django.setup()
