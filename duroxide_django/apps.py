"""The Django app."""

from __future__ import annotations

from django.apps import AppConfig
from django.utils.module_loading import autodiscover_modules
from django.utils.translation import gettext_lazy as _


class DuroxideConfig(AppConfig):
    """Registers the checks and imports every installed app's workflow modules (setting MODULES)."""

    name = "duroxide_django"
    label = "duroxide_django"
    verbose_name = _("Durable workflows")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """See AppConfig."""
        from duroxide_django import checks  # noqa: F401 - registers itself
        from duroxide_django.conf import settings

        if settings.is_valid("MODULES"):
            autodiscover_modules(*settings.MODULES)
