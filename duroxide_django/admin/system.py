"""The pages about the whole system: overview, registry, workers, queues, sessions."""

from __future__ import annotations

import inspect
from typing import Any

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path
from django.utils import timezone
from django.utils.formats import number_format
from django.utils.functional import Promise
from django.utils.http import urlencode
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from duroxide_django.admin.pages import APP, PagesAdmin, address, database, demand
from duroxide_django.models import ActivityTask, Session, Worker
from duroxide_django.presentation import chart, fleet
from duroxide_django.presentation.texts import duration, local_time, moment
from duroxide_django.registry import default_registry
from duroxide_django.storage import health, overview, system_pages, tiles
from duroxide_django.storage.database import Database

#: Findings shown on the overview; the list's preset and ``manage.py duroxide doctor`` show all.
MAX_FINDINGS = 10


class SystemPage(PagesAdmin):
    """A model that is shown by one page of its own."""

    template = ""
    title: str | Promise = ""

    def get_urls(self) -> list[URLPattern]:
        """Return the page."""
        name = self.model._meta.model_name
        return [path("", self.admin_site.admin_view(self.changelist_view), name=f"{APP}_{name}_changelist")]

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """Show the page."""
        name = self.model._meta.model_name
        demand(request, f"view_{name}")
        context = {"live": True, **self.context(database())}
        return self.page(request, self.template, str(self.title), here=f"{name}_changelist", **context)

    def context(self, db: Database) -> dict[str, Any]:
        """Return what the template shows."""
        raise NotImplementedError


@admin.register(Worker)
class WorkerAdmin(SystemPage):
    """Who works."""

    template = "workers"
    title = gettext_lazy("Workers")

    def context(self, db: Database) -> dict[str, Any]:
        """See SystemPage."""
        now_ms = db.now_ms()
        return {"workers": [shown_worker(worker, now_ms) for worker in system_pages.workers(db)]}


def shown_worker(worker: system_pages.WorkerRow, now_ms: int) -> dict[str, Any]:
    """Return a worker for a template."""
    slots = worker.options.get("worker_concurrency")
    served = fleet.served_by(worker)
    return {
        "row": worker,
        "started": moment(worker.started_ms),
        "uptime": duration(worker.beat_ms - worker.started_ms),
        "beat": _("%(time)s ago") % {"time": duration(now_ms - worker.beat_ms)},
        "slots": slots if isinstance(slots, int) else "?",
        "tags": fleet.tags_text(worker.options.get("tag_filter")),
        "options": sorted(worker.options.items()),
        "activities": sorted(served.activities),
        "orchestrations": sorted(served.orchestrations.items()),
        "state": "gone" if not worker.is_live else ("draining" if worker.draining else "live"),
    }


@admin.register(Session)
class SessionAdmin(SystemPage):
    """Which worker holds which session."""

    template = "sessions"
    title = gettext_lazy("Sessions")

    def context(self, db: Database) -> dict[str, Any]:
        """See SystemPage."""
        now_ms = db.now_ms()
        return {
            "sessions": [
                {
                    "row": session,
                    "is_held": session.lease_until_ms > now_ms,
                    "until": moment(session.lease_until_ms),
                    "activity": moment(session.last_activity_ms),
                    "idle": duration(now_ms - session.last_activity_ms),
                }
                for session in system_pages.sessions(db)
            ]
        }


@admin.register(ActivityTask)
class QueueAdmin(SystemPage):
    """Both queues: activities by name and tag, messages by kind."""

    template = "queues"
    title = gettext_lazy("Queues")

    def context(self, db: Database) -> dict[str, Any]:
        """See SystemPage."""
        return queue_context(db, db.now_ms(), system_pages.workers(db))


def queue_context(db: Database, now_ms: int, workers: list[system_pages.WorkerRow]) -> dict[str, Any]:
    """Return the queues for a template."""
    return {
        "task_groups": [
            {
                "row": group,
                "age": duration(now_ms - group.oldest_ms) if group.oldest_ms is not None else "",
                "workers": len(serving := fleet.serving_activity(workers, group.name, group.tag)),
                "is_full": not fleet.have_free_slots(serving),
            }
            for group in system_pages.task_groups(db)
        ],
        "message_groups": [
            {"row": group, "age": duration(now_ms - group.oldest_ms) if group.oldest_ms is not None else ""}
            for group in system_pages.message_groups(db)
        ],
        "count_limit": system_pages.QUEUE_LIMIT,
    }


def tile_context(db: Database) -> list[dict[str, Any]]:
    """Return the numbers at the top of the overview."""
    midnight = timezone.localtime(local_time(db.now_ms())).replace(hour=0, minute=0, second=0, microsecond=0)
    counted = tiles.tiles(db, midnight_ms=int(midnight.timestamp() * 1000))
    page = address("instance_changelist")
    return [
        {
            "key": key,
            "label": label,
            "count": number_format(count, force_grouping=True),
            "is_more": count >= overview.COUNT_LIMIT,
            "url": f"{page}?{query}",
        }
        for key, label, count, query in (
            ("running", _("Running"), counted.running, "state=running"),
            ("waiting", _("Waiting"), counted.waiting, "state=open"),
            ("blocked" if counted.attention else "quiet", _("Needs attention"), counted.attention, "preset=attention"),
            ("failed" if counted.failed_today else "quiet", _("Failed today"), counted.failed_today, "state=failed"),
        )
    ]


def overview_context(db: Database, *, reveal: bool, show_mismatch: bool) -> dict[str, Any]:
    """Return what the overview shows.

    Args:
        reveal: whether the texts of errors may be shown.
        show_mismatch: whether the payloads may be shown that a report of nondeterminism quotes.
    """
    now_ms = db.now_ms()
    workers = system_pages.workers(db)
    queues = queue_context(db, now_ms, workers)
    first_hour = now_ms // 3_600_000 - chart.HOURS + 1
    return {
        "tiles": tile_context(db),
        "presets": [
            {"label": label, "url": f"{address('instance_changelist')}?preset={key}"}
            for key, label in (
                ("attention", _("Needs attention")),
                ("person", _("Waiting for a person")),
                ("retrying", _("Retrying now")),
                ("long", _("Long running")),
            )
        ],
        "findings": findings(db, queues, now_ms, reveal=reveal, show_mismatch=show_mismatch)[:MAX_FINDINGS],
        "chart": chart.chart(system_pages.by_hour(db, first_hour * 3_600_000), first_hour),
        "failed_url": f"{address('instance_changelist')}?state=failed",
        "live_workers": [shown_worker(worker, now_ms) for worker in workers if worker.is_live],
        "live": True,
        **queues,
    }


def findings(
    db: Database, queues: dict[str, Any], now_ms: int, *, reveal: bool, show_mismatch: bool
) -> list[dict[str, Any]]:
    """Return what needs attention, by queries that stay cheap however many instances there are."""
    found = [
        {
            "subject": finding.subject,
            "why": finding.why
            if (show_mismatch if finding.rule == "blocked_nondeterminism" else reveal)
            else _("It can’t go on; the reason may contain data: only who may view payloads sees it."),
            "cure": finding.cure,
            "url": address("instance_by_id", finding.instance_id),
        }
        for finding in health.blocked(db)[:MAX_FINDINGS]
        if finding.instance_id
    ]
    for shown in queues["task_groups"]:
        group = shown["row"]
        waits = now_ms - group.oldest_ms if group.oldest_ms is not None else 0
        if group.ready and waits > overview.OVERDUE_MS:
            found.append(
                {
                    "subject": f"{group.name} ({group.tag})" if group.tag else group.name,
                    "why": ngettext(
                        "%(count)d activity waits, for %(time)s.",
                        "%(count)d activities wait, the oldest for %(time)s.",
                        group.ready,
                    )
                    % {"count": group.ready, "time": duration(waits)},
                    "cure": _cure_of_waiting(shown),
                    "url": address("activitytask_changelist"),
                }
            )
    found += [
        {
            "subject": messages.kind,
            "why": ngettext(
                "%(count)d message waits, for %(time)s.",
                "%(count)d messages wait, the oldest for %(time)s.",
                messages.ready,
            )
            % {"count": messages.ready, "time": duration(now_ms - messages.oldest_ms)},
            "cure": _("Start workers, or more of them: manage.py runworkers."),
            "url": address("activitytask_changelist"),
        }
        for messages in (shown["row"] for shown in queues["message_groups"])
        if messages.oldest_ms is not None and now_ms - messages.oldest_ms > overview.OVERDUE_MS
    ]
    return found


def _cure_of_waiting(shown: dict[str, Any]) -> str:
    if not shown["workers"]:
        return _("No live worker serves them; start one: manage.py runworkers.")
    if shown["is_full"]:
        return _("The workers that serve them are busy; start more, or give them more slots.")
    return _(
        "The workers that serve them have free slots: another worker may hold their session, or they wait for a quiet "
        "moment after several deliveries without a result; else see the workers’ logs."
    )


def registry_context(db: Database) -> dict[str, Any]:
    """Return what the registry page shows."""
    open_counts = {(name, version): count for name, version, count in system_pages.counts_by_version(db)}
    workers = system_pages.workers(db)
    orchestrations = []
    for name, versions in sorted(default_registry.orchestrations.items()):
        newest = max(versions)
        for version in sorted(versions, reverse=True):
            function = versions[version]
            count = open_counts.pop((name, version.text), 0)
            orchestrations.append(
                {
                    "name": name,
                    "version": version.text,
                    "is_newest": version == newest,
                    "doc": _first_line(function),
                    "where": _where(function),
                    "open": count,
                    "is_unused": not count and version != newest,
                    "workers": len(fleet.serving_orchestration(workers, name, version.text)),
                    "url": _open_instances(name, version.text),
                }
            )
    activities = [
        {
            "name": name,
            "doc": _first_line(definition.function),
            "where": _where(definition.function),
            "is_atomic": definition.atomic,
            "is_async": definition.is_async,
            "workers": sum(name in worker.activities for worker in fleet.serving(workers)),
        }
        for name, definition in sorted(default_registry.activities.items())
    ]
    missing = [
        {"name": name, "version": version, "open": count}
        for (name, version), count in sorted(open_counts.items())
        if version or name not in default_registry.orchestrations
    ]
    return {
        "orchestrations": orchestrations,
        "activities": activities,
        "missing": missing,
    }


def _open_instances(name: str, version: str) -> str:
    query = urlencode({"state": "open", "name": name, "version": version})
    return f"{address('instance_changelist')}?{query}"


def _first_line(function: Any) -> str:
    return (inspect.getdoc(function) or "").partition("\n")[0]


def _where(function: Any) -> str:
    return f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', '?')}"
