"""Dying at a known moment: CHAOS_DIE names it, CHAOS_DIED the file that says it has happened. Imported by workers."""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from duroxide_django.runtime import dispatcher, execute
from duroxide_django.storage import activities, commits


def die() -> None:
    """Take this process along, at the first call."""
    mark = Path(os.environ["CHAOS_DIED"])
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
        signal.pause()


def _before(place: Any, name: str) -> None:
    original: Callable[..., Any] = getattr(place, name)

    @functools.wraps(original)
    def dying(*arguments: Any, **named: Any) -> Any:
        die()
        return original(*arguments, **named)

    setattr(place, name, dying)


def _after(place: Any, name: str) -> None:
    original: Callable[..., Any] = getattr(place, name)

    @functools.wraps(original)
    def dying(*arguments: Any, **named: Any) -> Any:
        result = original(*arguments, **named)
        die()
        return result

    setattr(place, name, dying)


#: Moment: how to arrange it. Patched where it is called: nothing in the product knows of this.
POINTS: dict[str, Callable[[], None]] = {
    "after the claim's commit, before the turn": lambda: _before(dispatcher.Dispatcher, "_compute"),
    "in the commit, after the turn's rows were written": lambda: _after(commits, "_write_rest"),
    "after the commit, before anything knows of it": lambda: _before(dispatcher.Dispatcher, "_after_commit"),
    "in the commit of a completion, after it was enqueued": lambda: _after(activities, "complete"),
    "after an activity's own commit": lambda: _after(execute, "_run_atomic"),
    "when an activity has just ended": lambda: _after(execute, "_attempt"),
}


def arrange() -> None:
    """Let this process die where it was asked to."""
    point = os.environ.get("CHAOS_DIE")
    if point:
        POINTS[point]()
