"""Instances in the admin: the list, the page of one, and what may be done to it."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.models import ADDITION, CHANGE, DELETION
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern, path
from django.utils.translation import gettext as _

from duroxide_django.admin import batch_views, payload_views, system
from duroxide_django.admin.code_position import code_position
from duroxide_django.admin.instance_list import list_context
from duroxide_django.admin.instance_page import instance_context, read_instance, whole
from duroxide_django.admin.log import record
from duroxide_django.admin.pages import (
    APP,
    VIEW,
    VIEW_PAYLOADS,
    PagesAdmin,
    address,
    database,
    demand,
    may,
    may_see_mismatch,
)
from duroxide_django.admin.verb_forms import StartForm
from duroxide_django.admin.verbs import DELETE, VERBS, Verb, applicable, start
from duroxide_django.client import Client
from duroxide_django.conf import settings
from duroxide_django.exceptions import DuroxideError
from duroxide_django.models import Instance
from duroxide_django.presentation import pending, states
from duroxide_django.registry import default_registry
from duroxide_django.storage import overview
from duroxide_django.storage.database import Database
from duroxide_django.storage.overview import InstanceRow


@admin.register(Instance)
class InstanceAdmin(PagesAdmin):
    """Instances are read by queries of our own and changed only by the client's verbs."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Return whether the user may start instances."""
        return may(request, "start_instance")

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether the user may delete instances."""
        return may(request, DELETE.permission)

    def get_urls(self) -> list[URLPattern]:
        """Return the app's pages that belong to instances."""

        def page(route: str, view: Any, name: str) -> Any:
            return path(route, self.admin_site.admin_view(view), name=f"{APP}_instance_{name}")

        return [
            page("", self.changelist_view, "changelist"),
            page("add/", self.start_view, "add"),
            page("overview/", self.overview_view, "overview"),
            page("batch/", self.batch_view, "batch"),
            page("<int:key>/code/", self.code_view, "code"),
            page("registry/", self.registry_view, "registry"),
            page("by-id/<path:instance_id>/", self.by_id_view, "by_id"),
            page("<int:key>/change/", self.instance_view, "change"),
            page("<int:key>/history/", self.log_view, "history"),
            page("<int:key>/key-value/", payload_views.key_value_payload, "key_value"),
            page("<int:key>/executions/<int:execution_id>/history.json", payload_views.history_json, "history_json"),
            page(
                "<int:key>/executions/<int:execution_id>/events/<int:event_id>/", payload_views.event_payload, "event"
            ),
            *(
                path(
                    f"<int:key>/executions/<int:execution_id>/{which}/",
                    self.admin_site.admin_view(payload_views.execution_payload),
                    {"which": which},
                    name=f"{APP}_instance_{which}",
                )
                for which in ("input", "output", "error")
            ),
            *(
                path(
                    f"<int:key>/{verb.key}/",
                    self.admin_site.admin_view(self.verb_view),
                    {"verb": verb},
                    name=f"{APP}_instance_{verb.url_name}",
                )
                for verb in VERBS.values()
            ),
        ]

    # Reading

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """Show the list."""
        demand(request, VIEW)
        context = list_context(request, database())
        context["may_start"] = self.has_add_permission(request)
        context["live"] = context["page"].is_first
        return self.page(request, "instance_list", _("Instances"), here="instance_changelist", **context)

    def by_id_view(self, request: HttpRequest, instance_id: str) -> HttpResponse:
        """Lead from an instance id to the instance's page."""
        demand(request, VIEW)
        key = overview.key_of(database(), instance_id.replace("\x00", ""))
        if key is None:
            raise Http404(_("There is no instance with this id."))
        return HttpResponseRedirect(address("instance_change", key))

    def instance_view(self, request: HttpRequest, key: int) -> HttpResponse:
        """Show one instance; nothing can be edited."""
        demand(request, VIEW)
        db = database()
        row = read_instance(db, key)
        verbs = [
            {"label": verb.label, "url": verb.url(key), "is_destructive": verb.is_destructive}
            for verb in applicable(row)
            if may(request, verb.permission) and not verb.needs_event
        ]
        context = instance_context(request, db, row)
        return self.page(request, "instance", row.instance_id, verbs=verbs, **context)

    def log_view(self, request: HttpRequest, key: int) -> HttpResponse:
        """Show who did what to the instance in the admin."""
        demand(request, VIEW)
        row = read_instance(database(), key)
        return self.history_view(request, str(row.key))

    def code_view(self, request: HttpRequest, key: int) -> HttpResponse:
        """Show where the instance stands in its code."""
        demand(request, VIEW)
        db = database()
        row = read_instance(db, key)
        found, problem = code_position(db, row, show_mismatch=may_see_mismatch(request))
        return self.page(request, "code", _("Code position"), row=row, yields=found, problem=problem)

    def overview_view(self, request: HttpRequest) -> HttpResponse:
        """Show how the whole system stands."""
        demand(request, VIEW)
        reveal, mismatch = may(request, VIEW_PAYLOADS), may_see_mismatch(request)
        context = system.overview_context(database(), reveal=reveal, show_mismatch=mismatch)
        return self.page(request, "overview", _("Overview"), here="instance_overview", **context)

    def registry_view(self, request: HttpRequest) -> HttpResponse:
        """Show the orchestrations and activities of this project's code."""
        demand(request, VIEW)
        context = system.registry_context(database())
        return self.page(request, "registry", _("Registry"), here="instance_registry", **context)

    # Acting

    def verb_view(self, request: HttpRequest, key: int, verb: Verb) -> HttpResponse:
        """Ask whether to do a verb, and do it when answered by POST."""
        demand(request, VIEW, verb.permission)
        db = database()
        row = read_instance(db, key)
        if verb not in applicable(row):
            messages.warning(request, _("“%(verb)s” is not possible for this instance.") % {"verb": verb.label})
            return HttpResponseRedirect(address("instance_change", key))
        given = {name: value for name, value in request.GET.items() if name in verb.form.base_fields}
        if verb.preview and "event" not in given:
            given["event"] = str(row.last_event_id - 1)
        form = verb.form(request.POST) if request.method == "POST" else verb.form(initial=given)
        if form.is_valid():
            done = self._do(request, verb, row, form)
            if done is not None:
                return done
        event = whole(str(request.POST.get("event", "") if request.method == "POST" else given.get("event", "")))
        manner = _manner(form)
        return self.page(
            request,
            "verb",
            str(verb.label),
            row=row,
            state=states.of_instance(row, works=_works(db, row)),
            verb=verb,
            form=form,
            event=event,
            has_preview=verb.preview is not None,
            manner=manner,
            preview=self._preview(verb, row, event, {name: is_on for name, _, is_on in manner}),
            back=address("instance_change", key),
        )

    @staticmethod
    def _preview(verb: Verb, row: InstanceRow, event: int | None, values: dict[str, bool]) -> list[str]:
        if verb.preview is None:
            return []
        try:
            return verb.preview(Client(), row, event or 0, values)
        except DuroxideError as exc:
            return [str(exc)]

    def _do(self, request: HttpRequest, verb: Verb, row: InstanceRow, form: Any) -> HttpResponse | None:
        """Do a verb and record it; returns where to go, or None if the form now tells what is wrong."""
        values = form.cleaned_data
        try:
            with transaction.atomic(using=settings.DATABASE):
                done = verb.run(Client(), row, values, request.user.get_username())
                if done is not None:
                    flag = DELETION if verb is DELETE else CHANGE
                    record(request.user.pk, row.key, row.instance_id, flag, f"{done} {values['reason']}")
        except DuroxideError as exc:
            form.add_error(None, str(exc))
            return None
        if done is None:
            messages.warning(request, _("Nothing was done: the instance has ended meanwhile."))
        else:
            messages.success(request, f"{row.instance_id}: {done}")
        if verb is DELETE:
            return HttpResponseRedirect(address("instance_changelist"))
        return HttpResponseRedirect(address("instance_by_id", verb.leads_to(row, values)))

    def batch_view(self, request: HttpRequest) -> HttpResponse:
        """Ask whether to do a verb to many instances, and do it when answered by POST."""
        demand(request, VIEW)
        verb = batch_views.chosen_verb(request)
        if verb is None or not (request.GET.get("all") or batch_views.chosen_keys(request)):
            messages.warning(request, _("Choose an action, and the instances to do it to."))
            return HttpResponseRedirect(batch_views.back(request.GET))
        db = database()
        form = verb.form(request.POST) if request.method == "POST" else verb.form()
        if form.is_valid():
            return batch_views.perform(request, db, verb, form)
        return self.page(request, "batch", str(verb.label), **batch_views.batch_context(request, db, verb, form))

    def start_view(self, request: HttpRequest) -> HttpResponse:
        """Start an instance."""
        demand(request, VIEW)
        if not self.has_add_permission(request):
            raise PermissionDenied
        form = StartForm(request.POST) if request.method == "POST" else StartForm(initial=request.GET.dict())
        if form.is_valid() and (key := self._start(request, form)) is not None:
            return HttpResponseRedirect(address("instance_change", key))
        return self.page(
            request,
            "verb",
            _("Start an instance"),
            form=form,
            orchestrations=sorted(default_registry.orchestrations),
            back=address("instance_changelist"),
        )

    def _start(self, request: HttpRequest, form: StartForm) -> int | None:
        values = form.cleaned_data
        try:
            with transaction.atomic(using=settings.DATABASE):
                done = start(Client(), values)
                key = overview.key_of(database(), values["instance_id"])
                assert key is not None
                record(request.user.pk, key, values["instance_id"], ADDITION, f"{done} {values['reason']}")
        except DuroxideError as exc:
            form.add_error(None, str(exc))
            return None
        messages.success(request, f"{values['instance_id']}: {done}")
        return key


def _works(db: Database, row: InstanceRow) -> bool:
    found = overview.situations(db, [row.key] if row.is_open else [])
    return pending.works(found.get(row.key, overview.Situation()))


def _manner(form: Any) -> list[tuple[str, str, bool]]:
    """Return name, label and value of each box that is chosen beside the preview."""
    return [
        (name, str(form.fields[name].label), form.fields[name].to_python(form[name].value()))
        for name in ("rerun", "drop")
        if name in form.fields
    ]
