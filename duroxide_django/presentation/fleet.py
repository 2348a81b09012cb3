"""What the live workers serve."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.utils.translation import gettext as _

from duroxide_django.options import TagFilter
from duroxide_django.storage.system_pages import WorkerRow


def serves_tag(filter_json: Any, tag: str) -> bool:
    """Tell whether a worker's announced tag filter takes activities with ``tag`` (empty: untagged)."""
    try:
        return TagFilter.parse(filter_json).accepts(tag)
    except ValueError:
        return False


def serving_activity(workers: Sequence[WorkerRow], name: str, tag: str) -> list[WorkerRow]:
    """Return the live workers that run activities of this name and tag."""
    return [
        worker
        for worker in workers
        if worker.is_live
        and name in worker.handlers.get("activities", ())
        and serves_tag(worker.options.get("tag_filter"), tag)
    ]


def serving_orchestration(workers: Sequence[WorkerRow], name: str, version: str | None) -> list[WorkerRow]:
    """Return the live workers that run this orchestration; ``version`` None: any version."""
    found = []
    for worker in workers:
        versions = worker.handlers.get("orchestrations", {}).get(name, ())
        if worker.is_live and versions and (version is None or version in versions):
            found.append(worker)
    return found


def tags_text(filter_json: Any) -> str:
    """Return a worker's announced tag filter in words."""
    if isinstance(filter_json, dict):
        tags = ", ".join(filter_json.get("default_and") or filter_json.get("tags") or ())
        return _("untagged and %(tags)s") % {"tags": tags} if "default_and" in filter_json else tags
    known = {"any": _("any"), "none": _("none"), "default_only": _("untagged only")}
    return known.get(str(filter_json), known["default_only"])
