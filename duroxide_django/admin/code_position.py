"""Where an instance stands in its code: its history is replayed in memory, nothing is written."""

from __future__ import annotations

import linecache
from dataclasses import dataclass

from django.utils.translation import gettext as _

from duroxide_django.engine.positions import OpenYield
from duroxide_django.engine.replay import LiveExecution
from duroxide_django.exceptions import DuroxideError, NondeterminismError
from duroxide_django.presentation import now
from duroxide_django.registry import default_registry
from duroxide_django.runtime.config import engine_options
from duroxide_django.storage import turns
from duroxide_django.storage.database import Database
from duroxide_django.storage.overview import InstanceRow

#: Longer histories are not replayed for a page.
MAX_EVENTS = 20_000
#: Lines of code shown around a yield.
AROUND = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownFrame:
    """One frame; ``lines`` are (number, text, whether the frame stands there)."""

    where: str
    function: str
    lines: list[tuple[int, str, bool]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownYield:
    """One open yield."""

    title: str
    waits_for: list[str]
    frames: list[ShownFrame]


def code_position(db: Database, row: InstanceRow, *, show_mismatch: bool) -> tuple[list[ShownYield], str]:
    """Return the open yields of an instance, or why they can't be told.

    Args:
        show_mismatch: whether a reason that quotes payloads may be shown.
    """
    if not row.is_open or not row.last_event_id:
        return [], _("It is not suspended anywhere: it has not begun, or has ended.")
    if row.last_event_id > MAX_EVENTS:
        return [], _("Its history is too long to be replayed for a page.")
    found = default_registry.resolve(row.name, row.version)
    if found is None:
        return [], default_registry.describe_missing(row.name, row.version or "")
    execution = LiveExecution(
        instance_id=row.instance_id,
        execution_id=row.execution_id,
        name=row.name,
        version=found[0],
        function=found[1],
        kv_base=turns.read_kv_bases(db, [(row.key, row.execution_id)]).get(row.key, {}),
        options=engine_options(),
    )
    try:
        stored = turns.read_histories(db, [(row.key, row.execution_id)]).get(row.key, [])
        execution.replay([turns.decode(event) for event in stored])
        return [_shown(item) for item in execution.open_yields()], ""
    except NondeterminismError as exc:
        if not show_mismatch:
            return [], now.without_data(exc.event_id, exc.source)
        return [], _("The code of this web process does not fit the history: %(why)s") % {"why": exc}
    except DuroxideError as exc:
        return [], str(exc) if show_mismatch else _("Its history can’t be replayed: %(kind)s.") % {
            "kind": type(exc).__name__
        }
    finally:
        execution.close()


def _shown(item: OpenYield) -> ShownYield:
    frames = [
        ShownFrame(
            where=f"{frame.filename}:{frame.line}", function=frame.function, lines=_lines(frame.filename, frame.line)
        )
        for frame in item.frames
    ]
    innermost = item.frames[-1] if item.frames else None
    title = _("block %(name)s") if item.is_block else "%(name)s"
    return ShownYield(
        title=title % {"name": innermost.function if innermost else "?"},
        waits_for=[_waits_for(*waited) for waited in item.waits_for],
        frames=frames,
    )


def _waits_for(family: str, name: str, event_id: int | None) -> str:
    labels = {
        "activity": _("activity %(name)s"),
        "timer": _("timer"),
        "event": _("event “%(name)s”"),
        "queue": _("a message in queue “%(name)s”"),
        "sub-orchestration": _("child %(name)s"),
    }
    text = labels.get(family, "%(name)s") % {"name": name}
    return text if event_id is None else f"{text} (#{event_id})"


def _lines(filename: str, line: int) -> list[tuple[int, str, bool]]:
    linecache.checkcache(filename)
    numbers = range(max(line - AROUND, 1), line + AROUND + 1)
    texts = [(number, linecache.getline(filename, number).rstrip("\n"), number == line) for number in numbers]
    return [item for item in texts if item[1] or item[2]]
