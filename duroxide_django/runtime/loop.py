"""The engine loop thread: iterations, periodic work, waiting, and stopping when drained."""

from __future__ import annotations

import json
import os
import random
import socket
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from django.db import connections

from duroxide_django import wakeups
from duroxide_django.conf import settings
from duroxide_django.engine.registry import Registry
from duroxide_django.exceptions import ConfigurationError, DatabaseFileReplaced
from duroxide_django.logs import describe, log_exception, runtime_log
from duroxide_django.runtime.claiming import FRESH_MS, PATIENCE_MS
from duroxide_django.runtime.config import Config
from duroxide_django.runtime.dispatcher import Dispatcher
from duroxide_django.runtime.hints import Hints
from duroxide_django.runtime.housekeeping import Housekeeping
from duroxide_django.runtime.leases import Keeper, Leases
from duroxide_django.runtime.listener import DataVersion, Listener
from duroxide_django.runtime.metrics import Metrics
from duroxide_django.runtime.postponed import Locked
from duroxide_django.runtime.slots import BACKLOG_MS, ThreadSlots
from duroxide_django.runtime.watchdog import Watchdog
from duroxide_django.storage import activities, inbox, turns, workers
from duroxide_django.storage.activities import Task
from duroxide_django.storage.database import Database, forget_queries
from duroxide_django.storage.faults import DatabaseFile, is_locked, is_transient
from duroxide_django.storage.shapes import plain_json

BEAT_MS = 5_000
STALE_WORKER_MS = 300_000
SESSION_CLEANUP_MS = 300_000
#: Messages that nobody could take for so long are looked at for whether their instance is still there.
ORPHAN_MS = 60_000
#: How often a worker looks for schedule-to-start deadlines that others set.
DEADLINES_MS = 30_000
#: When an activity is looked at again that nobody began in time and whose row was locked, milliseconds.
LOCKED_DEADLINE_MS = 250
#: After a row that can't be read or written, everything is read and written row by row for this time, in seconds.
ROW_BY_ROW_S = 60.0
#: How often SQLite is asked whether another process wrote: soon after work, and when idle; seconds.
_QUICK_S, _LAZY_S = 0.002, 0.025
#: How many polls an idle loop may skip, when hints tell it that there is work.
_IDLE_FACTOR = 4
_MAX_BACKOFF_S = 5.0
#: A stop that has nothing to save doesn't wait for a database that has been away for so long, in seconds.
_AWAY_S = 2.0
#: How soon a pause notices that the loop is to stop, in seconds.
_PAUSE_STEP_S = 0.2
#: How long a stopping loop waits for the batch that retention is at, in seconds.
_HOUSEKEEPING_S = 2.0
#: An iteration's statements that take longer, in seconds, mean a database that can't do work now.
_SLOW_DATABASE_S = 5.0


class Loop(threading.Thread):
    """One thread with its own connection that does all queue work of a runtime."""

    def __init__(self, registry: Registry, config: Config, db: Database) -> None:
        super().__init__(name="duroxide-loop", daemon=True)
        self.config = config
        # The loop's thread owns its connection; slots use Django's cursors, as users' functions share theirs.
        # What it holds locked is free again when its leases would be.
        self.db = db.for_loop(idle_ms=min(config.turn_lease_ms, config.activity_lease_ms))
        self.metrics = Metrics()
        self._wake = threading.Event()
        self.slots = ThreadSlots(registry, config, db, self._wake.set)
        self.dispatcher = Dispatcher(registry, config, self.db, self.slots, self.metrics)
        self.dispatcher.announce = self._announce
        self.registry = registry
        self.ready = threading.Event()
        self.turns = 0
        self._begins = True
        self.rests = False
        self._hints = Hints()
        self.dispatcher.found = self._found
        self._stopping: float | None = None
        self._listener: Listener | None = None
        self._housekeeping: Housekeeping | None = None
        self._next: dict[str, float] = {}
        self._poll_s = config.poll_ms / 1000
        self._poll_at = 0.0
        self._version = DataVersion(db) if db.features.has_data_version else None
        self._file = DatabaseFile(db.connection)
        self.failures = 0
        self._failed_at = 0.0
        # Periodic jobs that failed when they were done last.
        self._failing: set[str] = set()
        self.watchdog = Watchdog(self)
        self.dispatcher.place_of = self.watchdog.place_of
        self.leases = Leases(config, self.slots, lambda: [item.task for item in self.dispatcher.uncommitted()])
        self._keeper = Keeper(db.alias, self.leases, self.watchdog.loop_hangs)

    def hint(self, what: str) -> None:
        """Say, from any thread, that something was enqueued (see wakeups)."""
        self._hints.add(what, time.monotonic())
        self._wake.set()

    def _hint_from_afar(self, what: str, bundled: bool) -> None:
        self._hints.add(what, time.monotonic(), bundled=bundled)
        self._wake.set()

    def _found(self, what: str, count: int, plenty: bool) -> None:
        self._hints.found(what, count, time.monotonic(), plenty=plenty)

    def _announce(self, what: str) -> None:
        """Tell the other workers, here and elsewhere, that there is work."""
        wakeups.announce(self.db, what)

    def stop(self, timeout_ms: int) -> None:
        """Ask the loop to end: it takes nothing new and waits ``timeout_ms`` milliseconds for what runs."""
        self.dispatcher.draining = True
        if self._stopping is None:
            self._stopping = time.monotonic() + timeout_ms / 1000
        else:
            self._stopping = min(self._stopping, time.monotonic() + timeout_ms / 1000)
        self._wake.set()

    def run(self) -> None:
        """See Thread."""
        if self.db.features.begins_immediately:
            # A transaction that reads first and writes later would fail instead of waiting for the other writer.
            self.db.connection.transaction_mode = "IMMEDIATE"  # type: ignore[attr-defined]
        wakeups.subscribe(self.db.alias, self.hint)
        if self.db.features.has_notify and self.config.notify:
            self._listener = Listener(self.db, self._hint_from_afar, self._hints.pace_s, self.dispatcher.watched.note)
            self._listener.start()
        if settings.RETENTION:
            self._housekeeping = Housekeeping(Database(self.db.alias), self.config.worker_id)
            self._housekeeping.start()
        self.watchdog.start()
        self._keeper.start()
        try:
            while not self._turn():
                pass
        except Exception as exc:
            log_exception("The engine loop died", exc, worker_id=self.config.worker_id)
            raise
        finally:
            self.watchdog.stop()
            self._keeper.stop()
            wakeups.unsubscribe(self.db.alias, self.hint)
            if self._housekeeping is not None:
                self._housekeeping.stop()
                self._housekeeping.join(_HOUSEKEEPING_S)
            if self._listener is not None:
                self._listener.stop()
                # The listener waits for a notification; this one lets it see that it is to end.
                wakeups.notify(self.db, wakeups.ANYTHING)
                self._listener.join(timeout=2.0)
            self.slots.stop()
            # In this thread: the garbage collector would run their `finally` blocks in any.
            self.dispatcher.drop_executions()
            self.ready.set()
            connections.close_all()

    def _turn(self) -> bool:
        """Iterate once and wait if there is nothing to do; returns whether the loop is to end."""
        stopping = self._stopping is not None
        self.turns += 1
        self.rests = False
        try:
            self._wake.clear()
            forget_queries()
            self.db.set_up()
            if self._begins and self.config.runs_orchestrations:
                self._tend("showing what the database's clock hides", self.dispatcher.claimer.show_hidden)
            self._begins = False
            self._look()
            self.slots.expire()
            more = self.dispatcher.iterate(claiming=not stopping)
            with self.dispatcher.asking_database():
                self._periodic()
            if self.failures:
                self._recovered()
            self.ready.set()
            if stopping and self._drained(more):
                return True
            if not more:
                self.rests = True
                self._sleep()
        except (ConfigurationError, DatabaseFileReplaced):
            raise
        except Exception as exc:
            return self._recover(exc)
        return False

    def _look(self) -> None:
        """Decide whether the queues are to be looked at in the next iteration."""
        now = time.monotonic()
        dispatcher = self.dispatcher
        hinted = self._hints.take(now)
        dispatcher.claims = dispatcher.claims or wakeups.TURNS in hinted
        dispatcher.fetches = dispatcher.fetches or wakeups.ACTIVITIES in hinted
        if dispatcher.next_timer_ms is not None and dispatcher.next_timer_ms <= dispatcher.now_ms():
            dispatcher.next_timer_ms = None
            dispatcher.claims = True
        suspects_at = dispatcher.fetcher.suspects_at
        if suspects_at is not None and suspects_at <= now:
            dispatcher.fetcher.suspects_at = None
            dispatcher.fetches = True
        if now >= self._poll_at:
            self._hints.take_all(now)
            dispatcher.claims = dispatcher.fetches = True
            longest_s = self.config.poll_ms / 1000 * (_IDLE_FACTOR if self._has_hints() else 1)
            self._poll_s = min(self._poll_s * 1.5, longest_s)
            self._poll_at = now + self._poll_s * random.uniform(0.9, 1.1)  # noqa: S311 - spreads the load, no secret
        elif hinted:
            # Hints don't put the poll off: it is what finds leases that ran out.
            self._poll_s = self.config.poll_ms / 1000
            self._poll_at = min(self._poll_at, now + self._poll_s)

    def _has_hints(self) -> bool:
        return self._version is not None or (self._listener is not None and self._listener.is_alive())

    def _sleep(self) -> None:
        now = time.monotonic()
        # The backlog's clock counts only while there is one.
        names = self._next.keys() - (set() if self.slots.has_backlog() else {"backlog"})
        until = min([self._poll_at, self.leases.next_at(), *(self._next[name] for name in names)])
        until = min(until, self._hints.next_at(), self.slots.limited.next_s() or until)
        until = min(until, self.dispatcher.postponed.next_at(), self.slots.isolates_until() or until)
        until = min(until, self.dispatcher.fetcher.suspects_at or until)
        for moment in (self.dispatcher.next_timer_ms, self.dispatcher.next_deadline_ms):
            if moment is not None:
                until = min(until, now + max(0, moment - self.dispatcher.now_ms()) / 1000)
        if self._stopping is not None:
            until = min(until, self._stopping)
        if self._version is None:
            self._wake.wait(max(0.0, until - now))
            return
        step = _QUICK_S
        while (left := until - time.monotonic()) > 0:
            if self._wake.wait(min(step, left)):
                return
            if self._version.changed():
                self._hints.add(wakeups.ANYTHING, time.monotonic())
                return
            step = min(step * 1.2, _LAZY_S)

    def _recover(self, error: Exception) -> bool:
        """Wait for the database to come back, and say so once; or go on without the rows that can't be read."""
        # Before connecting again, which makes a new file where one was deleted.
        self._file.check()
        self.failures += 1
        if not is_transient(error):
            # Some row, perhaps, that nothing can be done with: the others are not to wait for it.
            log_exception("The engine loop failed; going on row by row", error, worker_id=self.config.worker_id)
            self.dispatcher.go_row_by_row(ROW_BY_ROW_S)
        self.dispatcher.moved_at = time.monotonic()
        self.ready.set()
        self.metrics.add("provider_errors")
        if self.failures == 1:
            self._failed_at = time.monotonic()
            if is_transient(error):
                runtime_log.warning("The database failed; waiting for it", error=describe(error))
        self.dispatcher.reset()
        connection = self.db.connection
        if not connection.in_atomic_block:
            connection.close()
        if self._stopping is not None and (time.monotonic() >= self._stopping or self._can_save_nothing()):
            return True
        self._pause(min(0.05 * 2 ** min(self.failures, 7), _MAX_BACKOFF_S))
        self.dispatcher.claims = self.dispatcher.fetches = True
        return False

    def _pause(self, seconds: float) -> None:
        """Wait before the next try; a stop that is asked for meanwhile ends the wait."""
        until, stopping = time.monotonic() + seconds, self._stopping
        while (left := until - time.monotonic()) > 0 and self._stopping == stopping:
            time.sleep(min(left, _PAUSE_STEP_S))

    def _can_save_nothing(self) -> bool:
        """Return whether a stop has nothing to wait for: the database stays away, and nothing runs or has ended."""
        away_s = time.monotonic() - self._failed_at
        return away_s >= _AWAY_S and self.slots.is_idle() and not self.dispatcher.uncommitted()

    def _recovered(self) -> None:
        seconds = round(time.monotonic() - self._failed_at, 1)
        runtime_log.warning("The database answers again", failures=self.failures, seconds=seconds)
        self.failures = 0

    def waits_for_database(self) -> bool:
        """Return whether a statement has been under way for longer than a database that is well takes."""
        asked = self.dispatcher.asked_at
        return asked is not None and time.monotonic() - asked >= _SLOW_DATABASE_S

    # Periodic work

    def _due(self, name: str, interval_ms: int) -> bool:
        now = time.monotonic()
        if now < self._next.get(name, 0.0):
            return False
        self._next[name] = now + interval_ms / 1000
        return True

    def _periodic(self) -> None:
        if self._due("beat", BEAT_MS):
            self._file.check()
            self._tend("announcing this worker", self._beat)
            asked_at = time.monotonic()
            if self.config.runs_orchestrations and self.dispatcher.claimer.check_clock(self.db.now_ms(), asked_at):
                self.dispatcher.claims = self.dispatcher.fetches = True
        if self.slots.has_backlog() and self._due("backlog", BACKLOG_MS):
            # Short activities behind long ones: others may have free slots.
            waiting = self.slots.unstarted(longer_than_ms=2 * BACKLOG_MS)
            if waiting:
                self._release(waiting)
                self.dispatcher.fetcher.forbid_eager()
                self._announce(wakeups.ACTIVITIES)
        self._tend("renewing leases", partial(self.leases.renew, self.db))
        held = self.slots.tasks()
        if not held:
            # Nothing to ask about: this clock starts with the next activity.
            self._next["cancel_check"] = time.monotonic() + self.config.cancel_check_ms / 1000
        elif self._due("cancel_check", self.config.cancel_check_ms):
            self.slots.cancel_unless(activities.still_wanted(self.db, held), held)
            if deadlines := self.slots.limited.take_unwritten():
                activities.record_deadlines(self.db, deadlines)
            if progress := self.slots.progress():
                self._record_progress(progress)
        if self.config.runs_orchestrations:
            self._tend("expiring activities that nobody began", self._expire)
        if self._due("cleanup", SESSION_CLEANUP_MS):
            self._tend("cleaning sessions", partial(workers.clean_sessions, self.db))
            self._tend("removing workers", partial(workers.remove_stale, self.db, older_than_ms=STALE_WORKER_MS))
            self._tend("removing orphans", partial(inbox.remove_orphans, self.db, older_than_ms=ORPHAN_MS))

    def _tend(self, what: str, job: Callable[[], Any]) -> None:
        """Do a periodic job; a row that the database refuses, or that can't be read, must not stop the loop."""
        try:
            job()
        except (ConfigurationError, DatabaseFileReplaced):
            raise
        except Exception as exc:
            if self.db.bounds_waits and is_locked(exc):
                # Its row is free again when this job is due again, or somebody else has done it.
                return
            if is_transient(exc) or self.db.connection.in_atomic_block:
                raise
            self.metrics.add("provider_errors")
            if what not in self._failing:
                self._failing.add(what)
                log_exception(f"A periodic job failed, and will be tried again: {what}", exc)
            return
        self._failing.discard(what)

    def _record_progress(self, progress: list[tuple[Task, str]]) -> None:
        try:
            activities.record_progress(self.db, progress)
        except Exception as exc:
            if is_transient(exc):
                raise
            for task, text in progress:
                what = f"recording the progress of {task.name} of {task.instance_id}"
                self._tend(what, partial(activities.record_progress, self.db, [(task, plain_json(text))]))

    def _expire(self) -> None:
        """Fail activities that nobody began in time; asks only when a deadline has come."""
        dispatcher = self.dispatcher
        if not self._due("deadlines", DEADLINES_MS) and not self._deadline_passed():
            return
        with self.db.atomic():
            if expired := activities.expire_unstarted(self.db):
                dispatcher.claims = True
            dispatcher.next_deadline_ms = activities.next_deadline_ms(self.db)
        if self._deadline_passed():
            # A transaction has locked its row.
            dispatcher.next_deadline_ms = dispatcher.now_ms() + LOCKED_DEADLINE_MS
        self.metrics.add("activity_app_errors", expired)

    def _deadline_passed(self) -> bool:
        deadline = self.dispatcher.next_deadline_ms
        return deadline is not None and deadline <= self.dispatcher.now_ms()

    def _beat(self) -> None:
        config = self.config
        workers.beat(
            self.db,
            worker_id=config.worker_id,
            host=socket.gethostname(),
            pid=os.getpid(),
            options=json.dumps(
                {
                    "owner": config.owner,
                    "runs_orchestrations": config.runs_orchestrations,
                    "worker_concurrency": config.slots,
                    "tag_filter": config.tag_filter.as_json(),
                    "activity_lease_ms": config.activity_lease_ms,
                }
            ),
            handlers=json.dumps(self._handlers()),
            slots_used=len(self.slots.tasks()),
            draining=self._stopping is not None,
        )
        self._arrange(workers.peers(self.db, config.worker_id, within_ms=3 * BEAT_MS))

    def _arrange(self, peers: list[tuple[dict[str, Any], dict[str, Any], bool]]) -> None:
        """Share the work with the other workers so that they don't all run for the same few messages.

        One that began earlier and has all the code that this one has leads. Where workers share some code only, each
        takes what is due at once, with a lease.

        Args:
            peers: their options, their handlers, and whether they began earlier.
        """
        mine = _code(self._handlers())
        followed, alone, followers = False, True, True
        for options, handlers, elder in peers:
            theirs = _code(handlers) if options.get("runs_orchestrations") else set()
            if mine & theirs:
                alone = False
                followed = followed or (elder and mine <= theirs)
                followers = followers and not elder and theirs <= mine
        claimer = self.dispatcher.claimer
        if claimer.fresh_since_ms == 0:
            claimer.fresh_since_ms = self.db.now_ms()
        self._hints.leads = not followed
        claimer.patience_ms = PATIENCE_MS if followed else 0
        claimer.fresh_ms = sys.maxsize if alone else FRESH_MS if followers else None

    def _handlers(self) -> dict[str, Any]:
        return {
            "activities": sorted(self.registry.activities),
            "orchestrations": {
                name: [version.text for version in sorted(versions)]
                for name, versions in sorted(self.registry.orchestrations.items())
            },
        }

    # Stopping

    def _drained(self, more: bool) -> bool:
        """Give back what waits for a slot; returns whether nothing of this process is left to commit."""
        self._give_back_unstarted()
        overdue = time.monotonic() >= (self._stopping or 0.0)
        if (more or self.slots.tasks() or self.dispatcher.postponed) and not overdue:
            return False
        dispatcher = self.dispatcher
        if dispatcher.suspect is not None:
            dispatcher.parked.append(turns.Parked(claimed=dispatcher.suspect.claimed, delay_ms=0, blocked=None))
            dispatcher.suspect = None
        while dispatcher.iterate(claiming=False):
            pass
        self._give_back_unstarted()
        running = self.slots.tasks()
        if running and not overdue:
            return False
        if running:
            runtime_log.warning(
                "Stopping while activities run; they are given back and will run again",
                activities=[f"{task.name}#{task.event_id} of {task.instance_id}" for task in running],
            )
            for task in running:
                self.slots.cancel((task.instance, task.execution_id, task.event_id))
            activities.release(self.db, running, begun=True)
        # What ended since the last iteration.
        while dispatcher.iterate(claiming=False):
            pass
        workers.remove(self.db, self.config.worker_id)
        if self.config.owner == self.config.worker_id:
            workers.release_sessions(self.db, owner=self.config.owner)
        self._announce(wakeups.ANYTHING)
        return True

    def _give_back_unstarted(self) -> None:
        waiting = self.slots.unstarted()
        if waiting:
            self._release(waiting)

    def _release(self, tasks: list[Task]) -> None:
        """Give activities back that have not begun; those whose rows are locked, later."""
        if locked := activities.release(self.db, tasks):
            self.dispatcher.postponed.add(Locked(released=locked))


def _code(handlers: dict[str, Any]) -> set[tuple[str, str]]:
    return {(name, version) for name, versions in handlers.get("orchestrations", {}).items() for version in versions}
