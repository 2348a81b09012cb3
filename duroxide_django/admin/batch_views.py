"""The page that asks whether to do a verb to many instances, and does it."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.contrib.admin.models import ADDITION
from django.db import transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, QueryDict
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from duroxide_django.admin import batches
from duroxide_django.admin.instance_list import read_filters
from duroxide_django.admin.log import record
from duroxide_django.admin.pages import address, demand
from duroxide_django.admin.paginator import PAGE_SIZE
from duroxide_django.admin.verbs import VERBS, Verb
from duroxide_django.client import Client
from duroxide_django.conf import settings
from duroxide_django.storage import overview
from duroxide_django.storage.database import Database

#: Parameters of the address that don't say which instances a list shows.
_OURS = ("action", "key", "all", "below")


def chosen_verb(request: HttpRequest) -> Verb | None:
    """Return the verb that the address names, or None; raises PermissionDenied."""
    verb = VERBS.get(request.GET.get("action", ""))
    if verb is None or not verb.in_batch:
        return None
    demand(request, verb.permission)
    return verb


def chosen_keys(request: HttpRequest) -> list[int]:
    """Return the row keys of the instances chosen on a page of the list."""
    keys = [int(text) for text in request.GET.getlist("key") if text.isascii() and text.isdigit() and len(text) < 19]
    return keys[:PAGE_SIZE]


def back(parameters: QueryDict) -> str:
    """Return the address of the list that the user came from."""
    copied = parameters.copy()
    for name in _OURS:
        copied.pop(name, None)
    page = address("instance_changelist")
    return f"{page}?{copied.urlencode()}" if copied else page


def batch_context(request: HttpRequest, db: Database, verb: Verb, form: Any) -> dict[str, Any]:
    """Return what the page shows."""
    whole = bool(request.GET.get("all"))
    rows = [] if whole else overview.of_keys(db, chosen_keys(request))
    count = overview.count(db, read_filters(request.GET, db.now_ms()), limit=batches.COUNT_LIMIT + 1) if whole else 0
    parameters = request.GET.copy()
    if whole and "below" not in parameters:
        parameters["below"] = str(overview.newest_key(db) + 1)
    return {
        "verb": verb,
        "form": form,
        "rows": rows,
        "is_whole": whole,
        "count": min(count, batches.COUNT_LIMIT) if whole else len(rows),
        "is_more": whole and count > batches.COUNT_LIMIT,
        "criteria": [(name, value) for name, value in request.GET.items() if name not in _OURS],
        "action": f"?{parameters.urlencode()}",
        "back": back(request.GET),
    }


def perform(request: HttpRequest, db: Database, verb: Verb, form: Any) -> HttpResponse:
    """Do it, at once or by an orchestration; returns where to go."""
    values = form.cleaned_data
    if request.GET.get("all"):
        return _start(request, db, verb, values)
    with transaction.atomic(using=settings.DATABASE):
        result = batches.perform(
            Client(),
            verb,
            overview.of_keys(db, chosen_keys(request)),
            values,
            user=request.user.pk,
            actor=request.user.get_username(),
        )
    text = ngettext("%(verb)s: done for %(count)d instance.", "%(verb)s: done for %(count)d instances.", result["done"])
    messages.success(request, text % {"verb": verb.label, "count": result["done"]})
    if result["skipped"]:
        text = ngettext(
            "%(count)d instance was left alone: it makes no sense for it.",
            "%(count)d instances were left alone: it makes no sense for them.",
            result["skipped"],
        )
        messages.warning(request, text % {"count": result["skipped"]})
    for refusal in result["refusals"][: batches.MAX_REFUSALS]:
        messages.error(request, refusal)
    return HttpResponseRedirect(back(request.GET))


def _start(request: HttpRequest, db: Database, verb: Verb, values: dict[str, Any]) -> HttpResponse:
    filters = read_filters(request.GET, db.now_ms())
    asked = request.GET.get("below", "")
    below = int(asked) if asked.isascii() and asked.isdigit() and len(asked) < 19 else overview.newest_key(db) + 1
    count = overview.count(db, filters, limit=batches.COUNT_LIMIT + 1, older_than=below)
    with transaction.atomic(using=settings.DATABASE):
        instance_id = batches.start(
            Client(),
            batches.new_job(
                verb,
                values,
                filters,
                below=below,
                total=count if count <= batches.COUNT_LIMIT else None,
                user=request.user,  # type: ignore[arg-type]
            ),
        )
        key = overview.key_of(db, instance_id)
        assert key is not None
        record(request.user.pk, key, instance_id, ADDITION, f"{verb.label}: {values['reason']}")
    messages.success(request, _("Begun. This page tells how far it is; you may leave it."))
    return HttpResponseRedirect(address("instance_by_id", instance_id))
