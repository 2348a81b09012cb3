"""What the live workers serve."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.utils.translation import gettext as _

from duroxide_django.storage.health import LiveWorker, live_worker
from duroxide_django.storage.system_pages import WorkerRow


def served_by(worker: WorkerRow) -> LiveWorker:
    """Return what a worker serves: not all that it has registered, if it was started for some kind of work only."""
    return live_worker(
        worker.id, worker.options, worker.handlers, slots_used=worker.slots_used, draining=worker.draining
    )


def serving(workers: Sequence[WorkerRow]) -> list[LiveWorker]:
    """Return what the live workers serve."""
    return [served_by(worker) for worker in workers if worker.is_live]


def serving_activity(workers: Sequence[WorkerRow], name: str, tag: str) -> list[LiveWorker]:
    """Return the live workers that take activities of this name and tag (empty: untagged)."""
    return [worker for worker in serving(workers) if worker.serves_activity(name, tag)]


def serving_orchestration(workers: Sequence[WorkerRow], name: str, version: str | None) -> list[LiveWorker]:
    """Return the live workers that run this orchestration; ``version`` None: any version."""
    return [worker for worker in serving(workers) if worker.serves_orchestration(name, version)]


def have_free_slots(workers: Sequence[LiveWorker]) -> bool:
    """Tell whether any of these workers could run another activity."""
    return any(worker.slots_used < worker.slots for worker in workers)


def tags_text(filter_json: Any) -> str:
    """Return a worker's announced tag filter in words."""
    if isinstance(filter_json, dict):
        tags = ", ".join(filter_json.get("default_and") or filter_json.get("tags") or ())
        return _("untagged and %(tags)s") % {"tags": tags} if "default_and" in filter_json else tags
    known = {"any": _("any"), "none": _("none"), "default_only": _("untagged only")}
    return known.get(str(filter_json), known["default_only"])
