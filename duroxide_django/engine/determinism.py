"""How code and history can disagree, explained so that a deploy can mend it (spec 4.4)."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from duroxide_django.engine import events
from duroxide_django.engine.actions import describe_event
from duroxide_django.exceptions import NondeterminismError


@dataclass(frozen=True, slots=True)
class Position:
    """Where a generator is suspended."""

    filename: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.filename}:{self.line} in {self.function}"


def generator_position(generator: Generator[Any, Any, Any]) -> Position | None:
    """Return where ``generator`` (or the one it delegates to) is suspended; None once it has finished."""
    inner: Any = generator
    while isinstance(getattr(inner, "gi_yieldfrom", None), Generator):
        inner = inner.gi_yieldfrom
    frame = inner.gi_frame
    if frame is None:
        return None
    return Position(inner.gi_code.co_filename, frame.f_lineno, inner.gi_code.co_qualname)


def mismatch(what: str, event: events.Event | None, got: str, position: Position | None) -> NondeterminismError:
    """Return the error that says what history records, what the code did, and where."""
    expected = "nothing more" if event is None else describe_event(event)
    at = "" if event is None else f" at event {event.event_id}"
    where = "" if position is None else f" ({position})"
    return NondeterminismError(
        f"{what}{at}: history has {expected}, the code did: {got}{where}",
        event_id=None if event is None else event.event_id,
        expected=expected,
        got=got,
        source=None if position is None else str(position),
    )
