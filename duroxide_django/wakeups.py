"""Waking workers, by callback and by PostgreSQL's NOTIFY, and clients that wait, by NOTIFY. Hints only."""

from __future__ import annotations

import math
import threading
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from django.db import DatabaseError, transaction

from duroxide_django.conf import settings
from duroxide_django.logs import describe, runtime_log
from duroxide_django.storage.database import Database

#: Workers LISTEN on it.
CHANNEL = "duroxide_wake"
#: Workers LISTEN on WATCHED for what clients wait for, clients on CHANGED for what has changed of that. A payload names
#: instances by their topics.
WATCHED, CHANGED = "duroxide_watched", "duroxide_changed"
#: A worker tells of an instance's changes this long after it was told that somebody waits, in seconds.
WATCH_S = 30.0
#: Topics in one payload, which PostgreSQL limits to 8,000 bytes.
_TOPICS = 500
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
        _notify(db, CHANNEL, hint)
    except DatabaseError as exc:
        # Only a hint: workers poll beneath it.
        runtime_log.warning("NOTIFY failed; workers will find the message by polling", error=describe(exc))


def _notify(db: Database, channel: str, payload: str) -> None:
    # A hint needn't reach the disk: without this the commit would wait for it.
    db.fetch("SELECT set_config('synchronous_commit', 'off', true), pg_notify(%s, %s)", [channel, payload])


# Waits of clients (see change_listener)


def topic(instance_id: str) -> str:
    """Return the short name of an instance in hints; others may share it."""
    return f"{zlib.crc32(instance_id.encode()):08x}"


def tell_watched(db: Database, instance_ids: Sequence[str]) -> None:
    """Tell workers that this process waits for changes of these instances."""
    for payload in _payloads(instance_ids):
        _notify(db, WATCHED, payload)


def _payloads(instance_ids: Sequence[str]) -> list[str]:
    topics = sorted({topic(name) for name in instance_ids})
    return [" ".join(topics[start : start + _TOPICS]) for start in range(0, len(topics), _TOPICS)]


class Watched:
    """The topics that clients wait for, as a worker was told. Written by its listener, read by its loop.

    Attributes:
        any: whether there may be some.
    """

    def __init__(self) -> None:
        self.any = False
        self._lock = threading.Lock()
        self._until: dict[str, float] = {}
        self._forget_at = float("inf")

    def note(self, payload: str) -> None:
        """Take down the topics of a hint on WATCHED."""
        now = time.monotonic()
        with self._lock:
            self._forget(now)
            self._until.update(dict.fromkeys(payload.split(), now + WATCH_S))
            self._forget_at = min(self._forget_at, now + WATCH_S)
            self.any = True

    def tell(self, db: Database, instance_ids: Iterable[str]) -> None:
        """Tell those who wait for one of these instances that it has changed, once the transaction has committed."""
        with self._lock:
            self._forget(time.monotonic())
            changed = [name for name in instance_ids if topic(name) in self._until]
        if changed:
            transaction.on_commit(lambda: _tell_changed(db, changed), using=db.alias)

    def _forget(self, now: float) -> None:
        """Drop the topics that nobody has repeated, now and then."""
        if now < self._forget_at:
            return
        self._until = {name: until for name, until in self._until.items() if until > now}
        self._forget_at = now + WATCH_S if self._until else float("inf")
        self.any = bool(self._until)


def _tell_changed(db: Database, instance_ids: Sequence[str]) -> None:
    try:
        for payload in _payloads(instance_ids):
            _notify(db, CHANGED, payload)
    except DatabaseError as exc:
        # Only a hint: who waits compares beneath it.
        runtime_log.warning("NOTIFY failed; clients will find the change by polling", error=describe(exc))
