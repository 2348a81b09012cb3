"""The list of instances: filters, presets, search, rows."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, QueryDict
from django.utils import timezone
from django.utils.formats import number_format
from django.utils.translation import gettext as _

from duroxide_django.admin.pages import address, masked_keys, may
from duroxide_django.admin.paginator import NEWER, OLDER, KeysetPage, keyset_page
from duroxide_django.admin.verbs import VERBS
from duroxide_django.conf import settings
from duroxide_django.presentation import payloads, pending, states
from duroxide_django.presentation.progress import Progress, progress
from duroxide_django.presentation.states import State
from duroxide_django.presentation.texts import DAY_MS, HOUR_MS, about, moment
from duroxide_django.registry import default_registry
from duroxide_django.storage import overview, search
from duroxide_django.storage.database import Database

_FILTERS = ("state", "preset", "name", "version", "started", "from", "to", "q")
_SPANS = {"hour": HOUR_MS, "day": DAY_MS, "week": 7 * DAY_MS, "month": 30 * DAY_MS}


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedInstance:
    """One row of the list."""

    row: overview.InstanceRow
    state: State
    phrase: str
    custom_status: str
    progress: Progress | None
    started: Any
    ago: str
    url: str
    parent_url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One choice of a filter; ``count`` is text, empty if not counted."""

    label: str
    query_string: str
    selected: bool
    count: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """One filter with its choices."""

    title: str
    choices: list[Choice]


def list_context(request: HttpRequest, db: Database) -> dict[str, Any]:
    """Return what the list's template shows."""
    now_ms = db.now_ms()
    filters = read_filters(request.GET, now_ms)
    if filters.finds_nothing:
        messages.warning(request, _("The values of this attribute are masked: they can’t be searched for."))
    page = keyset_page(
        request.GET,
        lambda size, older, newer: overview.instances(db, filters, size=size, older_than=older, newer_than=newer),
        lambda older: overview.looked_to(db, filters, older_than=older),
    )
    return {
        "page": page,
        "rows": listed(db, page, now_ms),
        "query": filters.query,
        "filters": filter_choices(request.GET, filters, overview.state_counts(db)),
        "is_filtered": any(name in request.GET for name in _FILTERS),
        "days": [
            {"name": name, "label": label, "value": request.GET.get(name, "")}
            for name, label in (("from", _("From")), ("to", _("To")))
        ],
        "beside_days": [
            (name, value) for name, value in request.GET.items() if name not in ("from", "to", OLDER, NEWER)
        ],
        "batch_verbs": [
            (verb.key, verb.label) for verb in VERBS.values() if verb.in_batch and may(request, verb.permission)
        ],
        "criteria": [(name, value) for name, value in request.GET.items() if name not in (OLDER, NEWER)],
        "hidden": [(name, value) for name, value in request.GET.items() if name not in ("q", OLDER, NEWER)],
        "preset_window": number_format(overview.PRESET_WINDOW) if filters.preset else "",
    }


def read_filters(parameters: QueryDict, now_ms: int) -> overview.Filters:
    """Return the filters that an address asks for; what it doesn't know is left out."""
    state, preset = parameters.get("state", ""), parameters.get("preset", "")
    span = _SPANS.get(parameters.get("started", ""))
    since, until = _midnight(parameters.get("from", "")), _midnight(parameters.get("to", ""), days=1)
    query = _storable(parameters.get("q", "").strip())
    attribute = search.parse(query)
    return overview.Filters(
        state=state if state in overview.STATES else "",
        preset=preset if preset in overview.PRESETS else "",
        name=_storable(parameters.get("name", "")),
        version=_storable(parameters.get("version", "")),
        since_ms=since if span is None else max(now_ms - span, since or 0),
        until_ms=until,
        query=query,
        # Whether something is found would confirm the value.
        finds_nothing=attribute is not None and payloads.is_masked(attribute[0], masked_keys()),
    )


def _midnight(text: str, *, days: int = 0) -> int | None:
    """Return when a day of an address (2026-11-30) begins where people read it, so many days later; or None."""
    try:
        day = dt.date.fromisoformat(text) + dt.timedelta(days=days)
        return int(timezone.make_aware(dt.datetime.combine(day, dt.time())).timestamp() * 1000)
    except (ValueError, OverflowError):
        return None


def _storable(text: str) -> str:
    # PostgreSQL refuses a NUL, which no id contains.
    return text.replace("\x00", "")


def listed(db: Database, page: KeysetPage, now_ms: int) -> list[ListedInstance]:
    """Return the page's rows with what their instances do."""
    found = overview.situations(db, [row.key for row in page.rows if row.is_open])
    shown = []
    for row in page.rows:
        situation = found.get(row.key, overview.Situation())
        shown.append(
            ListedInstance(
                row=row,
                state=states.of_instance(row, works=pending.works(situation)),
                phrase=pending.list_phrase(row, situation, now_ms, buffers=settings.BUFFER_EVENTS),
                progress=progress(row.custom_status) if row.is_open else None,
                custom_status=payloads.mask_text(row.custom_status or "", masked_keys()) if row.is_open else "",
                started=moment(row.created_ms),
                ago=_("%(time)s ago") % {"time": about(now_ms - row.created_ms)},
                url=address("instance_change", row.key),
                parent_url=address("instance_change", row.parent) if row.parent and row.parent_instance_id else "",
            )
        )
    return shown


def filter_choices(parameters: QueryDict, filters: overview.Filters, counts: dict[str, int]) -> list[Filter]:
    """Return the filters beside the list."""
    labels = {
        "open": (_("Open"), None),
        **{state.key: (str(state.label), counts.get(state.key)) for state in _COUNTED},
        "running": (_("Running or waiting"), counts.get("running")),
    }
    presets = {
        "attention": _("Needs attention"),
        "person": _("Waiting for a person"),
        "long": _("Long running"),
        "retrying": _("Retrying now"),
    }
    spans = {"hour": _("Past hour"), "day": _("Past 24 hours"), "week": _("Past 7 days"), "month": _("Past 30 days")}
    found = [
        _filter(
            parameters, _("preset"), "preset", filters.preset, {key: (text, None) for key, text in presets.items()}
        ),
        _filter(parameters, _("state"), "state", filters.state, labels),
        _filter(
            parameters,
            _("orchestration"),
            "name",
            filters.name,
            {name: (name, None) for name in sorted({*default_registry.orchestrations, *filter(None, [filters.name])})},
        ),
        _filter(
            parameters,
            _("start"),
            "started",
            parameters.get("started", ""),
            {key: (text, None) for key, text in spans.items()},
        ),
    ]
    versions = default_registry.orchestrations.get(filters.name, {})
    if len(versions) > 1 or filters.version:
        known = [version.text for version in sorted(versions)]
        found.insert(
            3,
            _filter(
                parameters,
                _("version"),
                "version",
                filters.version,
                {text: (text, None) for text in dict.fromkeys([*known, *filter(None, [filters.version])])},
            ),
        )
    return found


_COUNTED = (
    states.PENDING, states.RUNNING, states.BLOCKED, states.COMPLETED, states.FAILED, states.CANCELLED,
)  # fmt: skip


def _filter(
    parameters: QueryDict, title: str, name: str, selected: str, labels: dict[str, tuple[str, int | None]]
) -> Filter:
    choices = [Choice(label=_("All"), query_string=_with(parameters, name, ""), selected=not selected)]
    for value, (label, count) in labels.items():
        choices.append(
            Choice(
                label=label,
                query_string=_with(parameters, name, value),
                selected=value == selected,
                count="" if count is None else _count(count),
            )
        )
    return Filter(title=title, choices=choices)


def _count(count: int) -> str:
    text = str(number_format(count, force_grouping=True))
    return f"{text}+" if count >= overview.COUNT_LIMIT else text


def _with(parameters: QueryDict, name: str, value: str) -> str:
    copied = parameters.copy()
    # A version belongs to its orchestration; paging begins anew.
    for dropped in (name, OLDER, NEWER, *(["version"] if name == "name" else [])):
        copied.pop(dropped, None)
    if value:
        copied[name] = value
    return f"?{copied.urlencode()}"
