"""The block on the admin's index page."""

from __future__ import annotations

from typing import Any

from django import template

register = template.Library()


@register.inclusion_tag("admin/duroxide_django/includes/index_block.html", takes_context=True)
def duroxide_overview(context: dict[str, Any]) -> dict[str, Any]:
    """Return how the workflows stand, for a user who may see instances; nothing for others."""
    from duroxide_django.admin import pages, system

    request = context.get("request")
    if request is None or not pages.may(request, pages.VIEW):
        return {}
    return {"tiles": system.tile_context(pages.database())}
