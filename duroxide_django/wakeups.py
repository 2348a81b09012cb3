"""Waking workers: inside this process by callback, across processes by PostgreSQL's NOTIFY. Hints only."""

from __future__ import annotations

import math
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from django.db import DatabaseError, transaction

from duroxide_django.conf import settings
from duroxide_django.logs import describe, runtime_log
from duroxide_django.storage.database import Database

#: Workers LISTEN on it.
CHANNEL = "duroxide_wake"
#: From so many a second on, hints are bundled: a process then gives one each ``QUIET_S`` seconds at the most. Such a
#: hint says so, and who gets it looks once more after ``LOOK_AGAIN_S``, which is longer: what was committed meanwhile
#: without a hint is found then.
BUSY_PER_S = 300
QUIET_S = 0.01
LOOK_AGAIN_S = 0.012

#: What a hint is about: instances with messages, activities, or both.
TURNS, ACTIVITIES, ANYTHING = "turns", "activities", ""

#: Ends the payload of a hint that stands for others, too.
_BUNDLED = "+"

_lock = threading.Lock()
_listeners: dict[str, set[Callable[[str], None]]] = defaultdict(set)


class Rate:
    """How often something happens, of late."""

    _HALVED_IN_S = 0.03

    def __init__(self) -> None:
        self._count = 0.0
        self._at = float("-inf")

    def add(self, now: float, count: int = 1) -> None:
        """Count something that happened ``count`` times at ``now``, seconds by the monotonic clock."""
        self._count = self._left(now) + count
        self._at = now

    def per_s(self, now: float) -> float:
        """Return how often it happens, times a second."""
        return self._left(now) * math.log(2) / self._HALVED_IN_S

    def _left(self, now: float) -> float:
        return self._count * math.pow(0.5, min((now - self._at) / self._HALVED_IN_S, 100.0))


@dataclass(slots=True)
class _Given:
    """The hints of this process about one thing."""

    rate: Rate = field(default_factory=Rate)
    bundled_at: float = float("-inf")


_given: defaultdict[tuple[str, str], _Given] = defaultdict(_Given)


def subscribe(alias: str, wake: Callable[[str], None]) -> None:
    """Call ``wake`` with TURNS, ACTIVITIES or ANYTHING, from any thread, when this process enqueued it on ``alias``."""
    with _lock:
        _listeners[alias].add(wake)


def unsubscribe(alias: str, wake: Callable[[str], None]) -> None:
    """Undo ``subscribe``."""
    with _lock:
        _listeners[alias].discard(wake)


def announce(db: Database, what: str = TURNS) -> None:
    """Wake workers once the caller's transaction has committed.

    Args:
        what: TURNS, ACTIVITIES or ANYTHING.
    """
    transaction.on_commit(lambda: _announce_now(db, what), using=db.alias)


def _announce_now(db: Database, what: str) -> None:
    with _lock:
        listeners = list(_listeners[db.alias])
    for wake in listeners:
        wake(what)
    if db.features.has_notify and settings.NOTIFY:
        hint = _bundled(db.alias, what, time.monotonic())
        if hint is not None:
            notify(db, hint)


def _bundled(alias: str, what: str, now: float) -> str | None:
    """Return the hint to give, or None: the last one stands for this one."""
    with _lock:
        given = _given[alias, what]
        given.rate.add(now)
        if given.rate.per_s(now) < BUSY_PER_S:
            return what
        if now - given.bundled_at < QUIET_S:
            return None
        given.bundled_at = now
    return what + _BUNDLED


def parse(hint: str) -> tuple[str, bool]:
    """Return (what a hint is about, whether it stands for others that follow)."""
    return hint.removesuffix(_BUNDLED), hint.endswith(_BUNDLED)


def notify(db: Database, hint: str) -> None:
    """Send the hint to other processes, in a statement of its own (in the writing transaction it would queue up)."""
    try:
        # A hint needn't reach the disk: without this the commit would wait for it.
        db.fetch("SELECT set_config('synchronous_commit', 'off', true), pg_notify(%s, %s)", [CHANNEL, hint])
    except DatabaseError as exc:
        # Only a hint: workers poll beneath it.
        runtime_log.warning("NOTIFY failed; workers will find the message by polling", error=describe(exc))
