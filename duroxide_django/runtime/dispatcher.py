"""The loop's body: one iteration is one transaction that serves many instances (design section 6).

``iterate`` first computes the turns of activities that finished in this process, then, in one transaction, commits
every computed turn, takes in the other completions and claims what is due; last it computes the claimed turns, which
the next iteration commits. A crash at any point loses nothing: leases run out and attempts count.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial

from django.db import OperationalError

from duroxide_django import wakeups
from duroxide_django.engine.outcome import ContinuedAsNew
from duroxide_django.engine.registry import Registry
from duroxide_django.logs import describe, runtime_log
from duroxide_django.runtime import accounting
from duroxide_django.runtime.cache import Cache, Cached
from duroxide_django.runtime.claiming import Claimer, Look
from duroxide_django.runtime.committing import CAREFUL_S, Batch, BatchRefused, Committer
from duroxide_django.runtime.config import Config
from duroxide_django.runtime.fetching import Fetcher
from duroxide_django.runtime.metrics import Metrics
from duroxide_django.runtime.postponed import Locked, Postponed
from duroxide_django.runtime.slots import Slots
from duroxide_django.runtime.turns import Computed, TurnComputer, Work, failed_alone
from duroxide_django.storage import commits, turns
from duroxide_django.storage.activities import Finished, Task
from duroxide_django.storage.clock import virtual_now_ms
from duroxide_django.storage.commits import Commit, Committed
from duroxide_django.storage.database import Database, new_token
from duroxide_django.storage.faults import is_locked
from duroxide_django.storage.large import take
from duroxide_django.storage.turns import Claimed, Parked

#: After the database failed, everything is leased for so long, in seconds: where nothing can be written, a look that
#: only reads would seem to say that all is well.
DISTRUST_S = 10.0

#: Turns are computed for this share of a lease, then what is done is committed: nobody else must take it over.
_BATCH_SHARE = 1 / 3

#: Turns are computed until they have this many times as many characters to write as a batch may read bytes. What a
#: turn reads it writes once or twice.
_WRITTEN_SHARE = 4

#: So long after a turn was overtaken the queue is looked at again, milliseconds.
OVERTAKEN_MS = 50


class Dispatcher:
    """State between iterations. One thread uses it at a time."""

    def __init__(
        self,
        registry: Registry,
        config: Config,
        db: Database,
        slots: Slots,
        metrics: Metrics,
    ) -> None:
        self.config = config
        self.db = db
        self.slots = slots
        self.metrics = metrics
        self.registry = registry
        self.cache = Cache(config.cache_executions, config.cache_bytes)
        self.claimer = Claimer(registry, config, db, self.cache, metrics)
        self.fetcher = Fetcher(registry, config, db, slots, metrics)
        self.committer = Committer(config, db, metrics, self.claimer)
        self.computer = TurnComputer(registry, config, db, self.asking_database)
        self.pending: list[Computed] = []
        self.parked: list[Parked] = []
        self.discarded: list[tuple[Claimed, list[int]]] = []
        self.held_back: list[Finished] = []
        self.interrupted: list[tuple[Task, str]] = []
        self.postponed = Postponed()
        self.suspect: Work | None = None
        # What the watchdog looks at, from its own thread.
        self.turn: tuple[Work, float] | None = None
        self.works: list[Work] = []
        self.foreign: list[Finished] = []
        self.asked_at: float | None = None
        # Where the watchdog saw a turn.
        self.place_of: Callable[[Work], str | None] = lambda _work: None
        self.moved_at = time.monotonic()
        self.claims = True
        self.fetches = True
        # Whether messages may be due that this worker sent itself: nobody else was told of them.
        self._own_messages = False
        # Whether activities were enqueued that this worker is about to fetch: nobody else was told of them.
        self._left_to_fetch = False
        # Held from a commit to the counting of what it did.
        self.counting = threading.Lock()
        # Set from any thread, in the middle of an iteration too: nothing more is taken.
        self.draining = False
        self.next_deadline_ms: int | None = None
        self._room = 0
        # Whether it was a look at the queue that failed, not a commit.
        self._look_failed = False
        self.announce: Callable[[str], None] = lambda _what: None
        #: What clients wait for.
        self.watched = wakeups.Watched()
        # Told what each look at a queue gave.
        self.found: Callable[[str, int, bool], None] = lambda _what, _count, _plenty: None
        self.next_timer_ms: int | None = None
        # When to look again by itself after a turn was overtaken; a look forgets `next_timer_ms`, not this.
        self._again_ms: int | None = None
        self._database_ms: int | None = None
        self._database_at = 0.0

    def now_ms(self) -> int:
        """Return the time by the database's clock in epoch milliseconds, without asking it each time."""
        virtual = virtual_now_ms()
        if virtual is not None:
            return virtual
        if self._database_ms is None:
            self._set_clock(self.db.now_ms())
        return int((self._database_ms or 0) + (time.monotonic() - self._database_at) * 1000)

    def _set_clock(self, now_ms: int) -> None:
        self._database_ms, self._database_at = now_ms, time.monotonic()

    @contextmanager
    def asking_database(self) -> Iterator[None]:
        """Mark a block that may wait for the database: that is not hanging, and no part of a turn's time."""
        asked_at = self.asked_at = time.monotonic()
        try:
            yield
        finally:
            self.moved_at = time.monotonic()
            if self.turn is not None:
                work, began = self.turn
                self.turn = work, began + self.moved_at - asked_at
            self.asked_at = None

    def uncommitted(self) -> list[Finished]:
        """Return the completions of this process that no commit has begun to write; from any thread."""
        works, suspect, turn = [*self.works], self.suspect, self.turn
        if suspect is not None:
            works.append(suspect)
        if turn is not None:
            works.append(turn[0])
        found = [*self.slots.finished(), *self.foreign, *self.held_back, *self.postponed.finished()]
        found += [item for work in works for item in work.finished]
        return found + [item for computed in self.pending for item in computed.commit.finished]

    # One iteration

    def iterate(self, *, claiming: bool = True) -> bool:
        """Do one transaction's worth of work; returns whether there may be more to do at once.

        Args:
            claiming: False while shutting down: nothing new is taken.
        """
        try:
            return self._iterate(claiming=claiming)
        finally:
            self._close_retired()

    def _close_retired(self) -> None:
        """Close executions that are of no more use, now that no transaction of the loop's is open."""
        for execution in self.cache.take_retired():
            self.computer.close(execution)

    def _iterate(self, *, claiming: bool) -> bool:
        self._try_suspects()
        self._measure_room(claiming=claiming and not self.slots.isolates() and self.suspect is None)
        foreign = self._sort_finished()
        self.interrupted += self.slots.take_interrupted()
        again = self.postponed.take()
        # What is given back can be claimed, and a lock may have gone with what a client sent.
        self.claims = self.claims or bool(again)
        claiming = claiming and not self.slots.isolates()
        claims = claiming and self.claims and self.config.runs_orchestrations and self.suspect is None
        capacity = self._room if self.fetches else 0
        givings_back = self.parked or self.discarded or self.interrupted or again
        if not (self.pending or givings_back or foreign or claims or capacity):
            return False
        taken = Batch(
            turns=self.pending,
            parked=self.parked,
            discarded=self.discarded,
            interrupted=self.interrupted,
            foreign=foreign,
            again=again,
        )
        self.pending, self.parked, self.discarded, self.interrupted = [], [], [], []
        with self.counting:
            try:
                with self.asking_database():
                    self._commit_at_once(taken)
                    committed, works, tasks = self._transact_somehow(taken, capacity, claiming=claiming)
            except BaseException as exc:
                for item in taken.turns:
                    item.commit.claimed.token = taken.tokens[item.commit.claimed.key]
                self._forget(taken.turns, foreign, exc if self._failed_alone(taken, exc) else None)
                self.parked += taken.parked
                self.discarded += taken.discarded
                self.interrupted += taken.interrupted
                if again:
                    self.postponed.add(again)
                raise
            if self.committer.locked:
                self.postponed.add(self.committer.locked)
                self.committer.locked = Locked()
            self._after_commit(taken.turns, committed)
        for task in tasks:
            self.slots.submit(task)
        claiming = claiming and not self.slots.isolates()
        self._measure_room(claiming=claiming and self.suspect is None)
        if self._left_to_fetch and self._room <= 0:
            self._left_to_fetch = False
            self.announce(wakeups.ACTIVITIES)
        self._compute_all(works)
        left = self.pending or self.parked or self.discarded or self.held_back or self.suspect
        tries = self.slots.can_begin_suspects() and self._all_is_committed()
        offered = self.fetches and self._room > 0
        return bool(
            left or tries or works or tasks or offered or (claiming and self.claims and self.config.runs_orchestrations)
        )

    def _try_suspects(self) -> None:
        """Begin what may end this process, once nothing is left that its death would spoil.

        That a suspect is tried alone is written before: only this delivery counts towards poison.
        """
        suspect = self.suspect
        if suspect is None and not self.slots.isolates():
            return
        with self.asking_database():
            self.slots.try_suspects(quiet=suspect is None and self._all_is_committed())
            if suspect is None or not self._all_is_committed() or self.slots.finished():
                return
            may_kill = not suspect.claimed.counted
            held = bool(turns.recount(self.db, [suspect.claimed], 1)) if may_kill else True
            self.suspect, suspect.claimed.counted = None, held
        if not held:
            # Somebody has it, or its row, now.
            self.parked.append(Parked(claimed=suspect.claimed, delay_ms=0, blocked=None))
            return
        self._compute(suspect)
        if may_kill:
            self.claimer.trust.survived()

    def _all_is_committed(self) -> bool:
        """Return whether the dispatcher has nothing that waits for its commit."""
        waits = self.pending or self.parked or self.discarded or self.interrupted or self.held_back or self.foreign
        return not waits

    def _commit_at_once(self, taken: Batch) -> None:
        """Commit the turns by a single statement if nothing else is to be in their transaction.

        A look without a lease then follows without one; a lease would need a second transaction.
        """
        if not (taken.turns and self.claimer.reads_fresh() and self.committer.is_hasty(taken.turns)):
            return
        if taken.foreign or taken.givings_back or not all(commits.self_contained(item.commit) for item in taken.turns):
            return
        try:
            committed = self.committer.in_one_go(taken.turns)
        except (commits.Overtaken, BatchRefused):
            # The long way finds out which turn it was.
            self.committer.be_careful()
            return
        except OperationalError as exc:
            if not is_locked(exc):
                raise
            self.committer.note_lock()
            return
        computed, taken.turns = taken.turns, []
        self._keep_executions(computed, committed)
        self._note_offers(committed)
        self._after_commit(computed, committed)

    def _transact_somehow(
        self, taken: Batch, capacity: int, *, claiming: bool
    ) -> tuple[Committed, list[Work], list[Task]]:
        """Do the iteration's transaction the fastest way that works; see ``_transact``."""
        committer = self.committer
        commit = committer.in_one_go if committer.is_hasty(taken.turns) else committer.step_by_step
        write: Callable[[Batch], Committed] = partial(committer.write, commit=commit)
        if self.claimer.goes_row_by_row() or committer.goes_around_locks():
            write = committer.write_row_by_row
        while True:
            try:
                return self._transact(taken, capacity, write, claiming=claiming)
            except commits.Overtaken:
                committer.be_careful()
                write = partial(committer.write, commit=committer.step_by_step)
            except BatchRefused as refused:
                runtime_log.warning(
                    "The database refused a batch; writing it row by row", error=describe(refused.error)
                )
                write = committer.write_row_by_row
            except OperationalError as exc:
                if not (self.db.bounds_waits and is_locked(exc)) or write == committer.write_row_by_row:
                    raise
                committer.note_lock()
                write = committer.write_row_by_row

    def _transact(
        self, taken: Batch, capacity: int, write: Callable[[Batch], Committed], *, claiming: bool
    ) -> tuple[Committed, list[Work], list[Task]]:
        """Do the iteration's transaction; returns (what was committed, claimed instances, fetched activities).

        Args:
            write: writes what is to be written.
        """
        works: list[Work] = []
        tasks: list[Task] = []
        # Leases alone needn't reach the disk; but a transaction that is not ours (drain) is left as it is.
        relaxed = not (taken.turns or taken.foreign or self.db.connection.in_atomic_block)
        # A claim is one statement, and what it leased is read in peace: it needs no transaction around it.
        bare = relaxed and capacity <= 0 and not taken.givings_back
        with nullcontext() if bare else self.db.atomic():
            if not bare:
                self.db.bound_waits()
            committed = write(taken)
            # Before the claim: it may find the same instances again.
            self._keep_executions(taken.turns, committed)
            self._note_offers(committed)
            runs = claiming and not self.draining and self.config.runs_orchestrations and self.suspect is None
            self._own_messages = self._own_messages or committed.wakes or bool(taken.foreign)
            if runs and (self.claims or self._own_messages):
                works = self._claim(relaxed=relaxed)
            if capacity > 0 and not self.draining:
                tasks = self._fetch(capacity, relaxed=relaxed)
        return committed, works, tasks

    def _sort_finished(self) -> list[Finished]:
        """Compute the turns of local completions; return the completions that have to go by message."""
        finished, self.held_back = self._not_too_much([*self.held_back, *self.slots.take_finished()])
        # Others may have waited for its session, or for a place for theirs.
        self.fetches = self.slots.take_session_ended() or self.fetches
        if committed := self.slots.take_committed():
            self.claims = self._own_messages = True
            self.metrics.add("activity_success", committed)
            if not self.config.runs_orchestrations:
                self.announce(wakeups.TURNS)
        if not (finished or self.foreign):
            return []
        busy = {computed.commit.claimed.key for computed in self.pending}
        local: dict[int, list[Finished]] = defaultdict(list)
        for item in finished:
            cached = self.cache.get(item.task.instance)
            if (
                item.task.instance in busy
                or cached is None
                or cached.execution.execution_id != item.task.execution_id
                or self.claimer.slow_turns.expects(cached.claimed)
            ):
                self.foreign.append(item)
            else:
                local[item.task.instance].append(item)
        works = []
        for key, items in local.items():
            cached = self.cache.get(key)
            assert cached is not None
            works.append(Work(claimed=cached.claimed, finished=items, cached=cached))
        self._compute_all(works)
        foreign, self.foreign = self.foreign, []
        return foreign

    def _not_too_much(self, finished: list[Finished]) -> tuple[list[Finished], list[Finished]]:
        """Return (completions that one transaction takes, the rest)."""
        if sum(len(item.payload) for item in finished) <= self.claimer.size.bytes:
            return finished, []
        places, _ = take(
            [(0, len(item.payload)) for item in finished], each=sys.maxsize, together=self.claimer.size.bytes
        )
        return finished[: len(places)], finished[len(places) :]

    def _claim(self, *, relaxed: bool) -> list[Work]:
        self.claims = False
        look = Look()
        try:
            self.claimer.take(look, patient=not self._own_messages, relaxed=relaxed)
        except BaseException:
            self._look_failed = True
            raise
        finally:
            self.parked += look.parked
            self.discarded += look.discarded
        self.claims = self._own_messages = look.more
        self.suspect = look.suspect
        self.found(wakeups.TURNS, look.instances, look.instances >= self.config.batch // 2)
        if self._again_ms is not None and self._again_ms <= self.now_ms():
            self._again_ms = None
        self.next_timer_ms = min(filter(None, (look.next_ms, self._again_ms)), default=None)
        if look.instances:
            self._set_clock(look.now_ms)
        return look.works

    def _fetch(self, capacity: int, *, relaxed: bool) -> list[Task]:
        self.fetches = False
        try:
            # A savepoint only where another session's lock may have to be passed over.
            with self.db.atomic() if self.committer.goes_around_locks() else nullcontext():
                found = self.fetcher.fetch(capacity, relaxed=relaxed)
        except OperationalError as exc:
            if not (self.committer.goes_around_locks() and is_locked(exc)):
                raise
            return []
        # There may be more, for when slots are free again.
        self.fetches = self.fetcher.left_some
        self._left_to_fetch = self._left_to_fetch and self.fetches
        self.found(wakeups.ACTIVITIES, len(found), bool(found))
        return found

    # Computing

    def _compute_all(self, works: list[Work]) -> None:
        self.works = works[::-1]
        written = 0
        lease_ms = min(self.config.turn_lease_ms, self.config.activity_lease_ms)
        enough_at = time.monotonic() + lease_ms / 1000 * _BATCH_SHARE
        while self.works:
            before = len(self.pending)
            self._compute(self.works.pop())
            written += sum(item.commit.size for item in self.pending[before:])
            if time.monotonic() >= enough_at or written > _WRITTEN_SHARE * self.config.batch_bytes:
                self._give_rest_back()

    def _give_rest_back(self) -> None:
        """Let others, or a later look, have what is left of a batch that takes too long, or has too much to write."""
        rest, self.works = self.works, []
        for work in rest:
            # By message: nobody renews the leases of activities that have ended.
            self.foreign += work.finished
            if work.claimed.token is not None:
                self.parked.append(Parked(claimed=work.claimed, delay_ms=0, blocked=None))
        if rest:
            self.claims = self._own_messages = True

    def _compute(self, work: Work) -> None:
        now_ms = self.now_ms()
        began = time.monotonic()
        self.turn = work, began
        try:
            computed = self.computer.compute(work, now_ms)
        finally:
            # Without the time that it waited for the database.
            began = self._turn_began(began)
            self.turn, self.moved_at = None, time.monotonic()
        self.claimer.note_turn(work.claimed.name, self.moved_at - began)
        self.claimer.slow_turns.note(work.claimed, self.moved_at - began, self.place_of(work))
        key = work.claimed.key
        if isinstance(computed, Parked):
            self.cache.drop(key)
            if work.finished:
                self.held_back += work.finished
            if work.claimed.token is not None:
                self.parked.append(computed)
            elif work.batch:
                # Only who holds the lease may say why it can't go on.
                self.claimer.lease_for(CAREFUL_S)
                self.claims = True
            return
        self._take_eagerly(computed.commit)
        self.pending.append(computed)

    def _turn_began(self, began: float) -> float:
        return began if self.turn is None else self.turn[1]

    def _take_eagerly(self, commit: Commit) -> None:
        """Lease new activities to this process at once, as far as it has room for them."""
        for activity in commit.result.activities:
            if self._room <= 0:
                return
            if self.slots.accepts(activity.name, activity.tag, activity.session_id):
                if not self.fetcher.allows_eager():
                    # Others may wait for the slots: it joins them, and this transaction fetches the oldest.
                    self.fetches = True
                    return
                commit.eager[activity.event_id] = new_token()
                self._room -= 1

    def _measure_room(self, *, claiming: bool) -> None:
        """Count how many more activities this process may take, besides those that computed turns have taken."""
        promised = sum(len(item.commit.eager) for item in self.pending)
        self._room = max(0, self.slots.capacity() - promised) if claiming else 0

    # After the commit

    def _note_offers(self, committed: Committed) -> None:
        """Have activities fetched that were enqueued; what this worker leaves of them, others are told of."""
        if committed.offered:
            self.fetches = self._left_to_fetch = True

    def _after_commit(self, computed: list[Computed], committed: Committed) -> None:
        if computed:
            self.claimer.size.succeeded()
        if committed.wakes:
            self.claims = self._own_messages = True
        within = [
            new.limits.schedule_to_start_timeout_ms
            for item in computed
            for new in item.commit.result.activities
            if new.limits.schedule_to_start_timeout_ms is not None
        ]
        if within:
            self.next_deadline_ms = min(self.now_ms() + min(within), self.next_deadline_ms or sys.maxsize)
        for finished in committed.accepted:
            accounting.count_activity(self.metrics, finished)
        self._tell_others(computed, committed)
        if self.watched.any:
            self._tell_clients(computed, committed)
        for fire_at_ms in committed.timers_ms:
            if self.next_timer_ms is None or fire_at_ms < self.next_timer_ms:
                self.next_timer_ms = fire_at_ms
        if any(item.commit.claimed.key not in committed.done for item in computed):
            # Who has the row now may tell nobody of what is left.
            self._again_ms = self.now_ms() + OVERTAKEN_MS
            self.next_timer_ms = min(self._again_ms, self.next_timer_ms or self._again_ms)
        for item in computed:
            if item.commit.claimed.key in committed.done:
                accounting.count_turn(self.metrics, item.commit)
                self._hand_over(item.commit, committed)

    def _tell_others(self, computed: list[Computed], committed: Committed) -> None:
        """Wake other workers if this commit left work that this one can't take."""
        sessions = any(item.task.session_id is not None for item in committed.accepted)
        if sessions:
            # In serial mode its session had to wait for this commit.
            self.fetches = True
        handed_on = bool(committed.accepted) and not self.config.runs_orchestrations
        offered = [new for item in computed for new in item.commit.result.activities] if committed.offered else []
        elsewhere = not all(self.slots.serves(new.name, new.tag) for new in offered)
        if handed_on:
            self.announce(wakeups.TURNS)
        if elsewhere or (sessions and self.config.serial_sessions):
            self.announce(wakeups.ACTIVITIES)

    def _tell_clients(self, computed: list[Computed], committed: Committed) -> None:
        """Wake clients that wait for an end, a custom status or a KV entry of one of these instances."""
        changed = []
        for item in computed:
            claimed, result = item.commit.claimed, item.commit.result
            if claimed.key in committed.done and (result.outcome is not None or result.status_changed or result.kv):
                changed.append(claimed.instance_id)
        self.watched.tell(self.db, changed)

    def _keep_executions(self, computed: list[Computed], committed: Committed) -> None:
        """Cache the live executions of committed turns; close those that ended or were overtaken."""
        for item in computed:
            # Before any is put back: what one of the batch displaces must not be another of the batch.
            kept = self.cache.take(item.commit.claimed.key)
            if kept is not None and kept.execution is not item.execution:
                self.cache.retire(kept.execution)
        for item in computed:
            commit, execution = item.commit, item.execution
            claimed = commit.claimed
            if claimed.key not in committed.done:
                # Another worker's turn, or a deletion, was faster; or somebody holds the row's lock.
                self.claims = True
                if claimed.token is None and not commit.finished:
                    # A claim with leases passes it over, a look without would come back at once.
                    self.claimer.lease_for(CAREFUL_S)
                if claimed.key not in self.committer.locked.turns:
                    runtime_log.info("A computed turn was overtaken and thrown away", instance_id=claimed.instance_id)
            elif execution is not None and commit.result.outcome is None:
                claimed.token = None
                claimed.status = "Running"
                claimed.version = commit.version
                claimed.execution_id = commit.execution_id
                claimed.last_event_id = commit.last_event_id
                claimed.mark = commit.mark
                claimed.blocked = None
                self.cache.put(claimed.key, Cached(execution, claimed))
                continue
            self.cache.drop(claimed.key)
            if execution is not None:
                if claimed.key in committed.done and isinstance(commit.result.outcome, ContinuedAsNew):
                    self.cache.put_mailbox(claimed.key, commit.mark, execution.mailbox)
                self.cache.retire(execution)

    def _hand_over(self, commit: Commit, committed: Committed) -> None:
        """Give the slots what they took eagerly, and tell them what is cancelled."""
        claimed, result = commit.claimed, commit.result
        for event_id in result.cancelled_activities:
            self.slots.cancel((claimed.key, commit.execution_id, event_id))
        for activity in result.activities:
            token = commit.eager.get(activity.event_id)
            if token is not None:
                self.slots.submit(
                    Task(
                        id=committed.tasks[claimed.key, activity.event_id],
                        token=token,
                        instance=claimed.key,
                        instance_id=claimed.instance_id,
                        execution_id=commit.execution_id,
                        event_id=activity.event_id,
                        name=activity.name,
                        input=activity.input,
                        tag=activity.tag,
                        session_id=activity.session_id,
                        orchestration_name=claimed.name,
                        orchestration_version=commit.version,
                        attempt=activity.attempt,
                        max_attempts=activity.max_attempts,
                        retry_of=activity.retry_of,
                        limits=activity.limits,
                    )
                )

    def go_row_by_row(self, seconds: float) -> None:
        """Read and write everything row by row for the next ``seconds``: some row could not be."""
        self.claimer.go_row_by_row(seconds)
        self.fetcher.go_row_by_row(seconds)

    def reset(self) -> None:
        """Forget what is computed and kept, after the database failed outside an iteration."""
        self.claimer.lease_for(DISTRUST_S)
        pending, self.pending = self.pending, []
        self._forget(pending, [])
        self.drop_executions()

    def drop_executions(self) -> None:
        """Close all executions that are kept."""
        self.cache.clear()
        self._close_retired()

    def _failed_alone(self, taken: Batch, error: BaseException) -> bool:
        """Take less next time; returns whether the attempt of the batch's only turn counts."""
        if self._look_failed or not taken.turns:
            self._look_failed = False
            return False
        return self.claimer.size.failed(error, len(taken.turns))

    def _forget(self, computed: list[Computed], foreign: list[Finished], alone: BaseException | None = None) -> None:
        """After a failed transaction: nothing computed is kept, completions are tried again as messages.

        Args:
            alone: why the only turn failed, if it counts as an attempt.
        """
        for item in computed:
            self.cache.drop(item.commit.claimed.key)
            if item.execution is not None:
                self.cache.retire(item.execution)
            self.held_back += item.commit.finished
            if item.commit.claimed.token is not None:
                claimed = item.commit.claimed
                again = Parked(claimed=claimed, delay_ms=0, blocked=None)
                self.parked.append(again if alone is None else failed_alone(claimed, alone))
        self.held_back += foreign
        self.claims = True
        self.fetches = True
