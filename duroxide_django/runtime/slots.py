"""Slots: where activities run. Threads for ``def``, one event loop for ``async def``, or the caller's own thread."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from queue import Empty, SimpleQueue
from typing import Any

from asgiref.sync import async_to_sync
from django.db import DatabaseError, connections, transaction

from duroxide_django.activities import ActivityContext
from duroxide_django.attempt_clock import AttemptClock
from duroxide_django.engine import messages
from duroxide_django.engine.failures import Failure
from duroxide_django.engine.registry import ActivityDefinition, Registry
from duroxide_django.logs import log_exception, runtime_log
from duroxide_django.runtime import execute
from duroxide_django.runtime.config import Config
from duroxide_django.runtime.event_loop import EventLoop
from duroxide_django.runtime.trust import Trust
from duroxide_django.storage import activities
from duroxide_django.storage.activities import Finished, Task
from duroxide_django.storage.clock import clean_context
from duroxide_django.storage.database import Database

#: Short activities may wait in this process for a slot, about this long in milliseconds, before others get them.
BACKLOG_MS = 100
#: At most so many wait for each slot.
BACKLOG_PER_SLOT = 64

#: Deliveries from which on an activity is suspected of killing its process, and begun apart from others.
SUSPECT_DELIVERIES = 3
#: Suspects wait so long, in seconds, for other activities of this process to end, and are apart for so long.
_QUIET_WITHIN_S, _APART_S = 5.0, 2.0
#: One that is tried alone is alone for twice as long after each further process that was lost with it, up to this, in
#: seconds: in the end for longer than it takes to kill, and then its deliveries count.
_LONGEST_APART_S = 600.0

#: A limit that runs out within this time, in seconds, may do so before the loop wakes by itself.
_SOON_S = 10.0

#: (instance key, execution, schedule event): an activity's address.
Address = tuple[int, int, int]


@dataclass(slots=True)
class Running:
    """A task that this process holds."""

    task: Task
    context: ActivityContext
    clock: AttemptClock | None = None
    started: float | None = None
    taken: float = field(default_factory=time.perf_counter)
    future: asyncio.Future[object] | None = None


class Limited:
    """Running activities with a time limit that this process keeps, and those whose deadline isn't in their row yet."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[int, Running] = {}
        self._unwritten: dict[int, Running] = {}
        self._due_s: float | None = None

    def add(self, running: Running) -> bool:
        """Keep the limits of one that has begun; returns whether it is the next to run out, and soon."""
        clock = running.clock
        due_s = None if clock is None else clock.due_s()
        if due_s is None:
            return False
        with self._lock:
            self._running[id(running)] = running
            if running.context.deadline_ms is not None:
                self._unwritten[id(running)] = running
            first = self._due_s is None or due_s < self._due_s
            if first:
                self._due_s = due_s
        return first and due_s - time.monotonic() < _SOON_S

    def discard(self, running: Running) -> None:
        """Forget one that has ended."""
        if running.clock is not None:
            with self._lock:
                self._running.pop(id(running), None)
                self._unwritten.pop(id(running), None)

    def next_s(self) -> float | None:
        """Return when a limit may run out next, as of ``time.monotonic()``; None: there is none."""
        return self._due_s

    def due(self) -> list[Running]:
        """Return those whose limit may have run out."""
        now_s = time.monotonic()
        if self._due_s is None or now_s < self._due_s:
            return []
        with self._lock:
            moments = [
                (running, due_s)
                for running in self._running.values()
                if not running.context.is_cancelled()
                and running.clock is not None
                and (due_s := running.clock.due_s()) is not None
            ]
            self._due_s = min((due_s for _, due_s in moments if due_s > now_s), default=None)
        return [running for running, due_s in moments if due_s <= now_s]

    def take_unwritten(self) -> list[tuple[Task, int]]:
        """Return and forget (task, milliseconds left) of those whose deadline isn't in their row yet."""
        with self._lock:
            unwritten, self._unwritten = list(self._unwritten.values()), {}
        now_s = time.monotonic()
        found = []
        for running in unwritten:
            clock = running.clock
            if clock is not None and (deadline_s := clock.deadline_s()) is not None:
                found.append((running.task, round((deadline_s - now_s) * 1000)))
        return found


class Slots:
    """Tasks of this process from the lease to the completion. Subclasses decide where functions run."""

    def __init__(self, registry: Registry, config: Config, db: Database, wake: Callable[[], None]) -> None:
        """
        Args:
            wake: called from any thread when a completion is there to take.
        """
        self.registry = registry
        self.config = config
        self.db = db
        self.wake = wake
        self.held: dict[Address, Running] = {}
        self.committed = 0
        self._session_ended = False
        self._finished: deque[Finished] = deque()
        self._interrupted: list[tuple[Task, str]] = []
        self._lock = threading.Lock()
        self._average_ms = 1_000.0
        self.limited = Limited()
        self.trust = Trust(config.slots)

    def capacity(self) -> int:
        """Return how many more tasks this process may take: free slots, and a backlog if activities are short."""
        if not self.config.runs_activities:
            return 0
        slots = self.config.slots
        free = slots - self._busy_for_long()
        backlog = min(free * BACKLOG_PER_SLOT, int(free * BACKLOG_MS / max(self._average_ms, 0.1)))
        return max(0, max(slots, backlog) - len(self.held))

    def _busy_for_long(self) -> int:
        """Return how many slots an activity holds that is no short one."""
        since = time.perf_counter() - 2 * BACKLOG_MS / 1000
        with self._lock:
            return sum(1 for running in self.held.values() if running.started is not None and running.started < since)

    def accepts(self, name: str, tag: str | None, session_id: str | None) -> bool:
        """Return whether a new activity may be taken at once, without a fetch."""
        return session_id is None and self.serves(name, tag)

    def serves(self, name: str, tag: str | None) -> bool:
        """Return whether this process runs such activities at all."""
        return name in self.registry.activities and self.config.tag_filter.accepts(tag)

    def submit(self, task: Task) -> None:
        """Take a leased task."""
        clock = AttemptClock(task.limits) if task.limits.runs_out else None
        context = ActivityContext(task, alias=self.db.alias, worker_id=self.config.worker_id, clock=clock)
        running = Running(task, context, clock)
        with self._lock:
            overtaken = self.held.get(_address(task))
            self.held[_address(task)] = running
        if overtaken is not None:
            overtaken.context.cancel()
        if task.attempts > self.config.max_attempts:
            self.finish(running, execute.poisoned(task, self.config.max_attempts))
            return
        self._start(running, self.registry.activities[task.name])

    def finish(self, running: Running, finished: Finished | None) -> None:
        """Take note that a task has ended; None: nothing is left to commit."""
        if finished is not None:
            finished = execute.in_time(running.context, finished)
        with self._lock:
            self._let_go(running)
            if running.started is not None:
                took_ms = (time.perf_counter() - running.started) * 1000
                self._average_ms += (took_ms - self._average_ms) * 0.1
            if finished is not None and not running.context.is_cancelled():
                self._finished.append(finished)
            elif finished is None:
                self.committed += 1
        self.wake()

    def _let_go(self, running: Running) -> None:
        self.limited.discard(running)
        # After a lost lease the same activity may have been taken again: that is another entry.
        if self.held.get(_address(running.task)) is running:
            del self.held[_address(running.task)]
            self._session_ended = self._session_ended or running.task.session_id is not None

    def take_finished(self) -> list[Finished]:
        """Return and forget the completions that are ready to be committed."""
        with self._lock:
            finished = list(self._finished)
            self._finished.clear()
        return finished

    def finished(self) -> list[Finished]:
        """Return the completions that the loop has not taken yet."""
        with self._lock:
            return list(self._finished)

    def take_committed(self) -> int:
        """Return how many tasks committed their completion themselves since the last call."""
        with self._lock:
            count, self.committed = self.committed, 0
        return count

    def take_session_ended(self) -> bool:
        """Return whether an activity of a session has ended here since the last call."""
        with self._lock:
            ended, self._session_ended = self._session_ended, False
        return ended

    def take_interrupted(self) -> list[tuple[Task, str]]:
        """Return and forget the tasks that the database's failure ended, with its error."""
        with self._lock:
            interrupted, self._interrupted = self._interrupted, []
        return interrupted

    def cancel(self, address: Address) -> None:
        """Tell an activity that its result is no longer wanted."""
        running = self.held.get(address)
        if running is not None and not running.context.is_cancelled():
            running.context.cancel()
            self._interrupt_coroutine(running)

    def _interrupt_coroutine(self, running: Running) -> None:
        # Once only: a second time would end its clean-up.
        if running.future is not None:
            running.future.get_loop().call_soon_threadsafe(running.future.cancel)

    def _begin_to_run(self, running: Running) -> None:
        """Let an activity's time begin, just before its function."""
        running.started = time.perf_counter()
        if running.clock is not None:
            running.context.begin()
            if self.limited.add(running):
                self.wake()

    def expire(self) -> None:
        """Fail activities whose time limit has run out, and tell their functions; their slots stay taken until these
        return.
        """
        for running in self.limited.due():
            clock = running.clock
            why = None if clock is None else clock.give_up()
            if why is None:
                continue
            finished = execute.timed_out(running.task, why)
            with self._lock:
                wanted = self.held.get(_address(running.task)) is running and not running.context.is_cancelled()
                if wanted:
                    running.context.cancel()
                    self._finished.append(finished)
            if wanted:
                self._interrupt_coroutine(running)

    def cancel_unless(self, wanted: Collection[int], tasks: Sequence[Task]) -> None:
        """Cancel those of ``tasks`` whose keys are not among ``wanted``: somebody deleted or took them."""
        for task in tasks:
            if task.id not in wanted:
                self.cancel(_address(task))

    def tasks(self) -> list[Task]:
        """Return the tasks held now."""
        with self._lock:
            return [running.task for running in self.held.values()]

    def is_idle(self) -> bool:
        """Return whether nothing runs here, and nothing that ended waits for the loop."""
        with self._lock:
            return not (self.held or self._finished or self._interrupted)

    def progress(self) -> list[tuple[Task, str]]:
        """Return and forget what running activities said of their progress."""
        with self._lock:
            running = list(self.held.values())
        return [(item.task, text) for item in running if (text := item.context.take_progress()) is not None]

    def sessions(self) -> Counter[str]:
        """Return the sessions with activities in flight, with their number."""
        return Counter(task.session_id for task in self.tasks() if task.session_id is not None)

    def unstarted(self, *, longer_than_ms: int = 0) -> list[Task]:
        """Remove and return the tasks that have waited for a slot for longer than so many milliseconds."""
        return []

    def has_backlog(self) -> bool:
        """Return whether tasks wait for a slot."""
        return False

    def is_suspect(self, task: Task) -> bool:
        """Return whether a task is to be begun apart from others: its process may die of it."""
        return False

    def isolates(self) -> bool:
        """Return whether suspects wait for quiet or have just begun: this process takes nothing new until then."""
        return False

    def isolates_until(self) -> float | None:
        """Return when the trial ends, or the wait for quiet, as of ``time.monotonic()``; None: there is none."""
        return None

    def can_begin_suspects(self) -> bool:
        """Return whether suspects wait, and nothing else of this kind would go down with them."""
        return False

    def try_suspects(self, *, quiet: bool) -> None:
        """Begin the suspects if nothing else would go down with them, or they have waited for long; end their trial.

        Writes to the database, in the calling thread and outside a transaction.

        Args:
            quiet: whether nothing of this process waits for its commit.
        """

    def stop(self) -> None:
        """Let the threads end once they are idle."""

    def _start(self, running: Running, definition: ActivityDefinition) -> None:
        raise NotImplementedError

    def _run(self, running: Running, definition: ActivityDefinition) -> None:
        """Run a plain activity in this thread."""
        if running.context.is_cancelled():
            self.finish(running, execute.failed(running.task, RuntimeError("cancelled before it began")))
            return
        self._begin_to_run(running)
        try:
            finished = execute.run(running.task, definition, running.context, self.db, self.config)
        except execute.LeaseLost as exc:
            runtime_log.warning(str(exc), instance_id=running.task.instance_id, activity_name=running.task.name)
            with self._lock:
                self._let_go(running)
            return
        except execute.DatabaseAway as exc:
            self._interrupt(running, exc)
            return
        except BaseException as exc:
            log_exception(
                "Running an activity failed outside its function; its lease will run out",
                exc,
                instance_id=running.task.instance_id,
                activity_name=running.task.name,
            )
            with self._lock:
                self._let_go(running)
            if not isinstance(exc, Exception):
                raise
            return
        self.finish(running, finished)

    def _interrupt(self, running: Running, error: Exception) -> None:
        """Take note that the database's failure ended a task, which is to run again."""
        with self._lock:
            self._let_go(running)
            if not running.context.is_cancelled():
                self._interrupted.append((running.task, str(error)))
        self.wake()


class ThreadSlots(Slots):
    """Runs activities in threads of this process, and ``async def`` ones in one event loop."""

    def __init__(self, registry: Registry, config: Config, db: Database, wake: Callable[[], None]) -> None:
        super().__init__(registry, config, db, wake)
        self._queue: SimpleQueue[tuple[Running, ActivityDefinition] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._unfinished = 0
        self._event_loop: EventLoop[tuple[Running, ActivityDefinition]] = EventLoop(
            config.slots, lambda item: self._run_async(*item)
        )
        self._suspects: list[tuple[Running, ActivityDefinition]] = []
        self._trial: list[Running] = []
        self._trial_until = 0.0

    def is_suspect(self, task: Task) -> bool:
        """See Slots."""
        most = self.config.max_attempts
        return min(SUSPECT_DELIVERIES, max(2, most)) <= task.attempts <= most

    def isolates(self) -> bool:
        """See Slots."""
        return bool(self._suspects or self._trial)

    def isolates_until(self) -> float | None:
        """See Slots."""
        if self._trial:
            return self._trial_until
        if self._suspects:
            return time.monotonic() + self._quiet_within_s()
        return None

    def _quiet_within_s(self) -> float:
        return max(0.0, self._suspects[0][0].taken + _QUIET_WITHIN_S - time.perf_counter())

    def can_begin_suspects(self) -> bool:
        """See Slots."""
        if not self._suspects:
            return False
        with self._lock:
            return not (len(self.held) > len(self._suspects) or self._finished or self._interrupted)

    def try_suspects(self, *, quiet: bool) -> None:
        """See Slots."""
        self._end_trial()
        if not self._suspects:
            return
        quiet = quiet and self.can_begin_suspects()
        if not quiet and self._quiet_within_s() > 0:
            return
        if quiet and len(self._suspects) == 1 and not self._count(self._suspects[0][0], 1):
            # Another worker has it by now.
            with self._lock:
                self._let_go(self._suspects.pop()[0])
            return
        begun, self._suspects = self._suspects, []
        self._trial = [running for running, _ in begun] if quiet else []
        apart_s = _apart_s(begun[0][0].task) if len(begun) == 1 else _APART_S
        self._trial_until = time.monotonic() + apart_s
        for running, definition in begun:
            self._begin(running, definition)

    def _end_trial(self) -> None:
        """Let others run again once the suspects have ended, or have gone on for long and killed nothing."""
        left = [running for running in self._trial if self.held.get(_address(running.task)) is running]
        if not self._trial or (left and time.monotonic() < self._trial_until):
            return
        for running in left:
            if running.task.counted:
                # From now on it may die of what is begun beside it.
                self._count(running, -1)
        self._trial = []
        self.trust.survived()

    def _count(self, running: Running, by: int) -> bool:
        """Have a delivery count towards poison, or no longer; returns whether its lease still held."""
        held = activities.recount(self.db, [running.task], by)
        running.task = replace(running.task, counted=by > 0)
        return bool(held)

    def _start(self, running: Running, definition: ActivityDefinition) -> None:
        if self.is_suspect(running.task):
            self._suspects.append((running, definition))
            return
        self._begin(running, definition)

    def _begin(self, running: Running, definition: ActivityDefinition) -> None:
        if definition.is_async:
            self._event_loop.put((running, definition))
            return
        with self._lock:
            self._unfinished += 1
            starting = len(self._threads) < min(self.config.slots, self._unfinished)
            if starting:
                name = f"duroxide-slot-{len(self._threads)}"
                thread = threading.Thread(target=self._work, name=name, daemon=True)
                self._threads.append(thread)
        self._queue.put((running, definition))
        if starting:
            thread.start()

    def _work(self) -> None:
        try:
            self.db.watch_connections()
            while (item := self._queue.get()) is not None:
                try:
                    clean_context().run(self._run, *item)
                except BaseException:  # noqa: S112 - logged where it was raised; the slot has to go on
                    continue
                finally:
                    with self._lock:
                        self._unfinished -= 1
        finally:
            connections.close_all()

    async def _run_async(self, running: Running, definition: ActivityDefinition) -> None:
        running.future = asyncio.current_task()
        try:
            if running.context.is_cancelled():
                raise asyncio.CancelledError
            self._begin_to_run(running)
            finished = await execute.run_async(running.task, definition, running.context, self.db, self.config)
        except execute.DatabaseAway as exc:
            self._interrupt(running, exc)
            return
        except BaseException as exc:
            finished = execute.failed(running.task, exc)
        self.finish(running, finished)

    def unstarted(self, *, longer_than_ms: int = 0) -> list[Task]:
        """See Slots."""
        since = time.perf_counter() - longer_than_ms / 1000
        waiting: list[tuple[Running, ActivityDefinition]] = []
        kept: list[tuple[Running, ActivityDefinition]] = []
        if longer_than_ms == 0:
            waiting, self._suspects = self._suspects, []
        queued = -len(waiting)
        while (item := self._take_queued()) is not None:
            (waiting if item[0].taken <= since else kept).append(item)
        queued += len(waiting)
        for item in kept:
            self._queue.put(item)
        with self._lock:
            self._unfinished -= queued
        waiting += self._event_loop.take_waiting(lambda item: item[0].taken <= since)
        with self._lock:
            for running, _ in waiting:
                self._let_go(running)
        return [running.task for running, _ in waiting]

    def _take_queued(self) -> tuple[Running, ActivityDefinition] | None:
        try:
            return self._queue.get_nowait()
        except Empty:
            return None

    def has_backlog(self) -> bool:
        """See Slots."""
        return not self._queue.empty() or self._event_loop.has_waiting()

    def stop(self) -> None:
        """See Slots."""
        for _ in self._threads:
            self._queue.put(None)
        self._event_loop.stop()

    def join(self, timeout_s: float) -> bool:
        """Wait for the threads to end, ``timeout_s`` seconds at the most; returns whether all did."""
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)


class InlineSlots(Slots):
    """Runs activities in the calling thread when ``work`` is called (the testing kit's drain)."""

    def __init__(self, registry: Registry, config: Config, db: Database, wake: Callable[[], None]) -> None:
        super().__init__(registry, config, db, wake)
        self._waiting: deque[tuple[Running, ActivityDefinition]] = deque()

    def _start(self, running: Running, definition: ActivityDefinition) -> None:
        self._waiting.append((running, definition))

    def work(self) -> bool:
        """Run one waiting activity; returns whether there was one."""
        if not self._waiting:
            return False
        running, definition = self._waiting.popleft()
        run = self._run_coroutine if definition.is_async else self._run
        clean_context().run(self._in_savepoint, run, running, definition)
        return True

    def _run_coroutine(self, running: Running, definition: ActivityDefinition) -> None:
        # Django's ORM then works in this thread, on the caller's connection and in its transaction.
        self._begin_to_run(running)
        try:
            finished = async_to_sync(self._run_until_due)(running, definition)
        except KeyboardInterrupt:
            raise
        except execute.DatabaseAway as exc:
            self._interrupt(running, exc)
            return
        except BaseException as exc:
            finished = execute.failed(running.task, exc)
        self.finish(running, finished)

    def unstarted(self, *, longer_than_ms: int = 0) -> list[Task]:
        """See Slots."""
        waiting = [running for running, _ in self._waiting]
        self._waiting.clear()
        with self._lock:
            for running in waiting:
                self._let_go(running)
        return [running.task for running in waiting]

    async def _run_until_due(self, running: Running, definition: ActivityDefinition) -> Finished:
        """Run an ``async def`` activity here; one whose time runs out is cancelled."""
        coroutine = execute.run_async(running.task, definition, running.context, self.db, self.config)
        clock = running.clock
        if clock is None:
            return await coroutine
        watcher = asyncio.ensure_future(_cancel_when_over(clock, asyncio.current_task()))
        try:
            return await coroutine
        finally:
            watcher.cancel()

    def _in_savepoint(
        self,
        run: Callable[[Running, ActivityDefinition], None],
        running: Running,
        definition: ActivityDefinition,
    ) -> None:
        """Run in a savepoint if the caller has a transaction: a database error must not break it."""
        if not self.db.connection.in_atomic_block:
            run(running, definition)
            return
        try:
            with self.db.atomic():
                run(running, definition)
                interrupted = bool(self._interrupted) and self._interrupted[-1][0] is running.task
                if interrupted or (self._finished and _failed_in_database(self._finished[-1], running.task)):
                    transaction.set_rollback(True, using=self.db.alias)
        except DatabaseError as exc:
            runtime_log.warning("An activity left its transaction broken; rolled back", error=type(exc).__name__)


async def _cancel_when_over(clock: AttemptClock, task: asyncio.Task[Any] | None) -> None:
    while task is not None and (due_s := clock.due_s()) is not None:
        await asyncio.sleep(max(0.001, due_s - time.monotonic()))
        if clock.ran_out():
            task.cancel()
            return


def _failed_in_database(finished: Finished, task: Task) -> bool:
    if finished.task is not task or finished.kind != messages.ACTIVITY_FAILED:
        return False
    return "DatabaseError" in Failure.from_json(finished.payload).error_types


def _apart_s(task: Task) -> float:
    """Return for how many seconds a suspect is tried alone."""
    return min(_APART_S * 2.0 ** min(max(0, task.losses - SUSPECT_DELIVERIES + 1), 30), _LONGEST_APART_S)


def _address(task: Task) -> Address:
    return task.instance, task.execution_id, task.event_id
