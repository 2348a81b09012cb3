"""Progress: a custom status that begins with ``350/400`` or ``87 %`` is shown with a bar."""

from __future__ import annotations

import re
from dataclasses import dataclass

_PARTS = re.compile(r"\s*(\d{1,12})\s*(?:/|of)\s*(\d{1,12})\b")
_PERCENT = re.compile(r"\s*(\d{1,3})\s*%")


@dataclass(frozen=True, slots=True)
class Progress:
    """How much is done of how much."""

    done: int
    total: int


def progress(custom_status: str | None) -> Progress | None:
    """Return the progress that a custom status tells, or None."""
    text = custom_status or ""
    if found := _PARTS.match(text):
        done, total = int(found[1]), int(found[2])
    elif found := _PERCENT.match(text):
        done, total = int(found[1]), 100
    else:
        return None
    return Progress(min(done, total), total) if total else None
