"""What all pages of the admin share: access, the workflows' database, the frame."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.translation import gettext_lazy as _

from duroxide_django.conf import settings
from duroxide_django.presentation.payloads import normalized
from duroxide_django.storage.database import Database

APP = "duroxide_django"
VIEW = "view_instance"
VIEW_PAYLOADS = "view_payloads"

#: Pages linked from each other: (address, label, permission).
_PAGES = (
    ("instance_overview", _("Overview"), VIEW),
    ("instance_changelist", _("Instances"), VIEW),
    ("activitytask_changelist", _("Queues"), "view_activitytask"),
    ("worker_changelist", _("Workers"), "view_worker"),
    ("session_changelist", _("Sessions"), "view_session"),
    ("instance_registry", _("Registry"), VIEW),
)


def database() -> Database:
    """Return the workflows' database."""
    return Database(settings.DATABASE)


def masked_keys() -> Collection[str]:
    """Return the object keys whose values are never shown (setting MASKED_KEYS), as they are compared."""
    return normalized(settings.MASKED_KEYS)


def may(request: HttpRequest, codename: str) -> bool:
    """Tell whether the user has one of the app's permissions."""
    return bool(request.user.has_perm(f"{APP}.{codename}"))


def may_see_mismatch(request: HttpRequest) -> bool:
    """Tell whether the user may see how code and history differ: it quotes payloads, in which no key can be masked."""
    return may(request, VIEW_PAYLOADS) and not masked_keys()


def demand(request: HttpRequest, *codenames: str) -> None:
    """Raise PermissionDenied unless the user has all these permissions."""
    for codename in codenames:
        if not may(request, codename):
            raise PermissionDenied


def address(name: str, *args: Any) -> str:
    """Return the address of one of the app's admin pages."""
    return reverse(f"admin:{APP}_{name}", args=args)


class PagesAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Base of the app's admins: nothing is edited by a model form."""

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """Return the rows of the workflows' database."""
        return super().get_queryset(request).using(settings.DATABASE)

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Refuse: the engine writes these rows."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Refuse: the engine writes these rows."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Refuse: the engine writes these rows."""
        return False

    def page(self, request: HttpRequest, template: str, title: str, *, here: str = "", **context: Any) -> HttpResponse:
        """Return a page in the admin's frame.

        Args:
            here: the address name of the page among the app's pages.
        """
        frame = {
            **self.admin_site.each_context(request),
            "title": title,
            "opts": self.model._meta,
            "pages": [
                {"url": address(name), "label": label, "is_current": name == here}
                for name, label, permission in _PAGES
                if may(request, permission)
            ],
            "may_view_payloads": may(request, VIEW_PAYLOADS),
        }
        request.current_app = self.admin_site.name
        return TemplateResponse(request, f"admin/{APP}/{template}.html", {**frame, **context})
