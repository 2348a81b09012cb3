"""Hearing of changes that clients wait for: one thread and one connection for all waits of a process on an alias.

The thread tells workers which instances are waited for (``WATCHED``), hears of their changes (``CHANGED``) and wakes
the waits, which then look. A hint may be lost, and no worker may send any: beneath it the thread compares the states of
all these instances by one query, each second, or more often once that finds what no hint told. It ends, with its
connection, soon after the last wait.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from django.db import Error as DjangoDatabaseError
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from duroxide_django import wakeups
from duroxide_django.logs import describe, runtime_log
from duroxide_django.storage import client_reads
from duroxide_django.storage.client_reads import State
from duroxide_django.storage.database import Database, forget_queries
from duroxide_django.storage.fast import keep_alive

#: Pause between two comparisons while hints arrive, and while they don't, in seconds.
COMPARE_S = 1.0
COMPARE_UNTOLD_S = 0.1
#: How soon the states are compared after a wait has begun: a worker may not know of it yet; in seconds.
_COMPARE_SOON_S = 0.05
#: How often workers are told again, in seconds: well within ``wakeups.WATCH_S``.
_REPEAT_S = 10.0
#: How long the thread stays after the last wait, in seconds: who waits in a loop comes back.
_LINGER_S = 0.1
_RETRY_S = 2.0

_lock = threading.Lock()
_listeners: dict[str, ChangeListener] = {}


def is_listening(alias: str) -> bool:
    """Return whether this process hears of changes on ``alias`` now."""
    listener = _listeners.get(alias)
    return listener is not None and listener.is_listening


def watch(alias: str, instance_id: str, wake: Callable[[], None]) -> Watch:
    """Call ``wake``, from another thread, once listening has begun and whenever the instance may have changed.

    Returns:
        the watch; end it.
    """
    with _lock:
        listener = _listeners.get(alias)
        if listener is None or not listener.is_alive():
            listener = _listeners[alias] = ChangeListener(alias)
            listener.start()
        return listener.add(instance_id, wake)


class Watch:
    """One wait's interest in an instance."""

    def __init__(self, listener: ChangeListener, instance_id: str, wake: Callable[[], None]) -> None:
        self._listener = listener
        self.instance_id = instance_id
        self.wake = wake

    @property
    def is_listening(self) -> bool:
        """Whether changes are heard of; if not, whoever waits has to look often."""
        return self._listener.is_listening

    def end(self) -> None:
        """Wake no more."""
        self._listener.remove(self)


class ChangeListener(threading.Thread):
    """Serves the watches of one alias.

    Attributes:
        is_listening: whether it is connected and listens.
    """

    def __init__(self, alias: str) -> None:
        super().__init__(name="duroxide-changes", daemon=True)
        self.is_listening = False
        self._db = Database(alias)
        self._watches: defaultdict[str, set[Watch]] = defaultdict(set)
        self._fresh: set[str] = set()
        self._unused_since = time.monotonic()
        self._states: dict[str, State | None] = {}
        self._told: set[str] = set()
        self._hints_arrive = True
        self._bell, self._ringer = socket.socketpair()
        self._bell.setblocking(False)
        self._ringer.setblocking(False)

    def add(self, instance_id: str, wake: Callable[[], None]) -> Watch:
        """See watch(); call it with the module's lock."""
        made = Watch(self, instance_id, wake)
        self._watches[instance_id].add(made)
        self._fresh.add(instance_id)
        self._ring()
        return made

    def remove(self, watch: Watch) -> None:
        """Undo add()."""
        with _lock:
            watches = self._watches[watch.instance_id]
            watches.discard(watch)
            if not watches:
                del self._watches[watch.instance_id]
            if not self._watches:
                self._unused_since = time.monotonic()
                self._ring()

    def _ring(self) -> None:
        """Let the thread look again at who waits."""
        # A full buffer rings too, and a thread that has ended needs no ring.
        with contextlib.suppress(OSError):
            self._ringer.send(b"\0")

    def run(self) -> None:
        """See Thread."""
        import psycopg

        # Kept: by the time this thread ends, the alias of a provider may be gone.
        wrapper = connections[self._db.alias]
        failing = False
        try:
            while not self._ends():
                try:
                    self._serve(wrapper)
                except (psycopg.Error, DjangoDatabaseError) as exc:
                    if self.is_listening or not failing:
                        # Once for each outage.
                        runtime_log.warning("Listening for changes failed; waits poll", error=describe(exc))
                    self.is_listening, failing = False, True
                    wrapper.close()
                    self._wake(self._watched())
                    time.sleep(_RETRY_S)
        finally:
            self.is_listening = False
            wrapper.close()
            self._bell.close()
            self._ringer.close()

    def _ends(self) -> bool:
        """Return whether nobody has waited for a moment; later waits then start another thread."""
        with _lock:
            if self._watches or time.monotonic() < self._unused_since + _LINGER_S:
                return False
            if _listeners.get(self._db.alias) is self:
                del _listeners[self._db.alias]
            return True

    def _watched(self) -> list[str]:
        with _lock:
            return list(self._watches)

    def _serve(self, wrapper: BaseDatabaseWrapper) -> None:
        keep_alive(wrapper)
        wrapper.ensure_connection()
        connection: Any = wrapper.connection
        # Behind a pooler it would listen in a session of others.
        listens = self._db.owns_session()
        if listens:
            self._db.execute(f"LISTEN {wakeups.CHANGED}")
        else:
            self._hints_arrive = False
        self._states.clear()
        self._listen(connection)
        # A connection of a pool goes to others, who read no hints.
        if listens:
            self._db.execute(f"UNLISTEN {wakeups.CHANGED}")

    def _listen(self, connection: Any) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._bell, selectors.EVENT_READ)
            selector.register(connection.fileno(), selectors.EVENT_READ)
            tell_at = compare_at = time.monotonic()
            while not self._ends():
                forget_queries()
                now = time.monotonic()
                with _lock:
                    watched, fresh, self._fresh = list(self._watches), sorted(self._fresh), set()
                if now >= tell_at:
                    fresh, tell_at = watched, now + _REPEAT_S
                wakeups.tell_watched(self._db, fresh)
                if now >= compare_at:
                    self._compare(watched)
                    compare_at = now + (COMPARE_S if self._hints_arrive else COMPARE_UNTOLD_S)
                elif fresh:
                    self._compare(fresh)
                if fresh:
                    compare_at = min(compare_at, now + _COMPARE_SOON_S)
                self.is_listening = True
                self._hear(connection.notifies(timeout=0))
                until = min(tell_at, compare_at) if watched else self._unused_since + _LINGER_S
                selector.select(max(0.0, until - time.monotonic()))
                with contextlib.suppress(BlockingIOError):
                    self._bell.recv(4096)
                self._hear(connection.notifies(timeout=0))

    def _hear(self, hints: Any) -> None:
        topics = {topic for hint in hints for topic in hint.payload.split()}
        if not topics:
            return
        told = [name for name in self._watched() if wakeups.topic(name) in topics]
        self._told.update(told)
        self._hints_arrive = self._hints_arrive or bool(told)
        self._wake(told)

    def _compare(self, instance_ids: list[str]) -> None:
        """Wake the waits for instances that have changed since the last look at them, and those that are new here."""
        states = client_reads.states(self._db, instance_ids)
        changed = []
        for name in instance_ids:
            before, now = self._states.get(name), states.get(name)
            if name in self._states and before == now:
                continue
            if before is not None and now is not None and before.shown != now.shown and name not in self._told:
                self._hints_arrive = False
            changed.append(name)
            self._states[name] = now
        self._told.difference_update(instance_ids)
        # What nobody waits for any more is forgotten.
        watched = set(self._watched())
        for name in self._states.keys() - watched:
            del self._states[name]
        self._wake(changed)

    def _wake(self, instance_ids: list[str]) -> None:
        with _lock:
            watches = [watch for name in instance_ids for watch in self._watches.get(name, ())]
        for watch in watches:
            watch.wake()
