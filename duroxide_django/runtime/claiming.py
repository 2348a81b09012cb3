"""Finding the instances whose turns are due, with a lease or without, and reading what their turns need."""

from __future__ import annotations

import random
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field
from functools import partial

from django.db import DatabaseError

from duroxide_django.engine import messages
from duroxide_django.engine.mailbox import Mailbox
from duroxide_django.engine.registry import Registry
from duroxide_django.exceptions import ConfigurationError
from duroxide_django.logs import describe, runtime_log
from duroxide_django.runtime.batch_size import BatchSize
from duroxide_django.runtime.cache import Cache, Cached
from duroxide_django.runtime.config import Config
from duroxide_django.runtime.metrics import Metrics
from duroxide_django.runtime.slow_turns import SlowTurns
from duroxide_django.runtime.trust import Trust
from duroxide_django.runtime.turns import MAX_PARK_MS, Work, failed_alone
from duroxide_django.storage import clock_steps, turns
from duroxide_django.storage.clock import virtual_now_ms
from duroxide_django.storage.database import Database
from duroxide_django.storage.faults import is_transient
from duroxide_django.storage.health import CORRUPT_ROW
from duroxide_django.storage.large import state_sizes, take
from duroxide_django.storage.shapes import plain
from duroxide_django.storage.turns import Claimed, Parked

#: Attempts from which on an instance is suspected of killing its process, and computed apart from others.
SUSPECT_ATTEMPTS = 3
#: While a suspect is tried, the other suspects wait so long, in milliseconds.
SUSPECT_DELAY_MS = 250

#: While there are other workers, the leading one reads messages without leasing their instances for so long after
#: they became visible; the others lease what has waited longer than PATIENCE_MS. Milliseconds.
FRESH_MS, PATIENCE_MS = 20, 60
#: So many turns of an orchestration, none of which took longer than so many seconds, make it a quick one; an instance
#: with so many events is not, unless its execution is live.
QUICK_TURNS, QUICK_S, QUICK_EVENTS = 20, 0.01, 200


@dataclass(slots=True)
class Look:
    """What a look at the queue gave.

    Attributes:
        works: turns to compute.
        suspect: an instance to compute apart from others: it may end the process, or keep it for long.
        parked: what is to be given back.
        discarded: instances with messages that have no effect any more.
        instances: how many were found.
        more: whether another look may give more at once.
        now_ms: the database's time, if an instance was found; epoch milliseconds.
        next_ms: when the next one will be there, epoch milliseconds, or None.
    """

    works: list[Work] = field(default_factory=list)
    suspect: Work | None = None
    parked: list[Parked] = field(default_factory=list)
    discarded: list[tuple[Claimed, list[int]]] = field(default_factory=list)
    instances: int = 0
    more: bool = False
    now_ms: int = 0
    next_ms: int | None = None


class Claimer:
    """Takes instances for one dispatcher.

    Attributes:
        size: how much the next look takes.
        fresh_ms: messages that have been visible for less need no lease, milliseconds; None: all do.
        fresh_since_ms: messages that became visible before need one in any case, epoch milliseconds.
        patience_ms: for so long messages are left to the worker that leads, milliseconds.
    """

    def __init__(self, registry: Registry, config: Config, db: Database, cache: Cache, metrics: Metrics) -> None:
        self.slow_turns = SlowTurns(metrics)
        self.trust = Trust(config.batch)
        self._registry = registry
        self._config = config
        self._db = db
        self._cache = cache
        self._metrics = metrics
        self.size = BatchSize(config.batch, config.batch_bytes)
        self.fresh_ms: int | None = None
        self.fresh_since_ms = 0
        self.patience_ms = 0
        # The database's time, and the monotonic clock's when it had answered.
        self._clock: tuple[int, float] | None = None
        self._leases_until = self._row_by_row_until = float("-inf")
        # Quick turns in succession, by orchestration.
        self._quick_turns: defaultdict[str, int] = defaultdict(int)

    def reads_fresh(self) -> bool:
        """Return whether a look tries to do without leases."""
        return self.fresh_ms is not None and time.monotonic() >= self._leases_until and not self.size.is_halved

    def goes_row_by_row(self) -> bool:
        """Return whether everything is read and written row by row: some row could not be."""
        return time.monotonic() < self._row_by_row_until

    def go_row_by_row(self, seconds: float) -> None:
        """Read and write everything row by row for the next ``seconds``."""
        self._row_by_row_until = time.monotonic() + seconds
        self.lease_for(seconds)

    def lease_for(self, seconds: float) -> None:
        """Do nothing without leases for so long."""
        self._leases_until = max(self._leases_until, time.monotonic() + seconds)

    def note_turn(self, name: str, took_s: float) -> None:
        """Take note of how many seconds a turn of an orchestration took to compute."""
        self._quick_turns[name] = self._quick_turns[name] + 1 if took_s <= QUICK_S else 0

    def take(self, look: Look, *, patient: bool, relaxed: bool) -> None:
        """Look at the queue.

        Args:
            look: gets what there is; what was leased before an error is in ``parked``.
            patient: leave what is young to the worker that leads, unless this is it.
            relaxed: see ``turns.claim``.
        """
        asked_at = time.monotonic()
        fresh = self._read_fresh()
        if fresh is not None and not self.check_clock(fresh.now_ms, asked_at):
            look.instances, look.now_ms, look.next_ms = len(fresh.claimed), fresh.now_ms, fresh.next_ms
            self._sort(look, fresh.claimed, fresh.batches, fresh.unreadable)
            return
        if self.goes_row_by_row():
            self._take_row_by_row(look)
            return
        asked_at = time.monotonic()
        claimed, look.now_ms, look.next_ms = self._claim(
            patience_ms=self.patience_ms if patient else 0, relaxed=relaxed
        )
        look.instances = len(claimed)
        if not claimed:
            return
        try:
            self.check_clock(look.now_ms, asked_at)
            self._read(look, claimed)
        except BaseException as exc:
            # The claim may be committed already.
            look.parked = [Parked(claimed=item, delay_ms=0, blocked=None) for item in claimed]
            if self.size.failed(exc, len(claimed)):
                look.parked = [failed_alone(item, exc) for item in claimed]
            look.discarded = []
            raise

    def check_clock(self, now_ms: int, asked_at: float) -> bool:
        """Show what the database's clock hides if it went back; returns whether it did.

        Args:
            now_ms: its time, epoch milliseconds; 0: not known.
            asked_at: when it was asked, on the monotonic clock: it may have answered late.
        """
        before, self._clock = self._clock, (now_ms, time.monotonic()) if now_ms else self._clock
        went_back = bool(now_ms) and before is not None and _is_behind(before, now_ms, asked_at)
        if went_back:
            runtime_log.warning("The database's clock went back; showing what that hides")
            self.show_hidden()
        return went_back

    def show_hidden(self) -> None:
        """Let be claimed what became due before the database's clock went back."""
        clock_steps.show_hidden(self._db, lease_ms=max(self._config.turn_lease_ms, self._config.activity_lease_ms))

    def _claim(
        self, *, patience_ms: int = 0, relaxed: bool = False, only: int | None = None
    ) -> tuple[list[Claimed], int, int | None]:
        return turns.claim(
            self._db,
            limit=self.size.instances,
            lease_ms=self._config.turn_lease_ms,
            known=self._registry.known_code(),
            grace_ms=self._config.unknown_code_grace_ms,
            patience_ms=patience_ms,
            relaxed=relaxed,
            only=only,
        )

    def _read(self, look: Look, claimed: list[Claimed]) -> None:
        unreadable: turns.Unreadable = {}
        since_ms: dict[int, int] = {}
        bounds, keys = self.size.bounds, [item.key for item in claimed]
        batches, left = turns.read_messages(self._db, keys, unreadable, bounds, since_ms)
        # Each claimed instance has a message among those that the claim looked at: fewer were all there are.
        look.more = left or sum(map(len, batches.values())) + len(unreadable) >= self.size.instances
        # The longest waiting first: the last of a batch that takes too long are given back.
        claimed.sort(key=lambda item: since_ms.get(item.key, 0))
        self._sort(look, claimed, batches, unreadable)

    def _take_row_by_row(self, look: Look) -> None:
        """Look at the queue instance by instance, each in a savepoint; set aside those that can't be taken."""
        read = 0
        for key in turns.candidates(self._db, limit=self.size.instances):
            if read > self.size.bytes:
                look.more = True
                break
            alone = Look()
            try:
                with self._db.atomic():
                    claimed, look.now_ms, look.next_ms = self._claim(only=key)
                    self._read(alone, claimed)
            except Exception as exc:
                if isinstance(exc, ConfigurationError) or is_transient(exc):
                    raise
                self._set_aside(key, exc)
                continue
            look.instances += len(claimed)
            read += sum(len(message.payload) for work in alone.works for message in work.batch)
            read += sum(len(data) for work in alone.works for *_, data in work.history)
            look.works += alone.works
            look.parked += alone.parked
            look.discarded += alone.discarded
            if look.suspect is not None and alone.suspect is not None:
                look.parked.append(Parked(claimed=alone.suspect.claimed, delay_ms=SUSPECT_DELAY_MS, blocked=None))
            look.suspect = look.suspect or alone.suspect
            look.more = look.more or alone.more

    def _set_aside(self, key: int, error: Exception) -> None:
        """Hide the messages of an instance that can't be taken, and say so on it if that can be written."""
        self._metrics.add("provider_errors")
        runtime_log.error(f"An instance can't be claimed and is set aside: {describe(error)}", instance=key)
        blocked: dict[str, object] = {"reason": CORRUPT_ROW, "message": plain(f"{type(error).__name__}: {error}")}
        for write in (
            partial(turns.put_off, self._db, key, delay_ms=MAX_PARK_MS),
            partial(turns.record_blocked, self._db, key, blocked),
        ):
            try:
                with self._db.atomic():
                    write()
            except DatabaseError as exc:
                if is_transient(exc):
                    raise
                runtime_log.error(f"It could not be set aside: {describe(exc)}", instance=key)

    def _read_fresh(self) -> turns.Fresh | None:
        """Read what needs no lease, unless something else is due too."""
        if self.fresh_ms is None or not self.reads_fresh():
            return None
        return turns.read_fresh(
            self._db,
            limit=self._config.batch,
            max_bytes=self._config.batch_bytes,
            known=self._registry.known_code(),
            grace_ms=self._config.unknown_code_grace_ms,
            since_ms=self.fresh_since_ms,
            within_ms=self.fresh_ms,
            is_quick=self._is_quick,
        )

    def _is_quick(self, claimed: Claimed) -> bool:
        """Return whether its next turn will take a moment only, as far as one can tell."""
        if self._quick_turns[claimed.name] < QUICK_TURNS or self.slow_turns.expects(claimed):
            return False
        return claimed.last_event_id <= QUICK_EVENTS or self._cache.get(claimed.key) is not None

    def _sort(
        self,
        look: Look,
        claimed: list[Claimed],
        batches: dict[int, list[messages.Message]],
        unreadable: turns.Unreadable,
    ) -> None:
        self._metrics.add("orch_dispatcher_items_fetched", sum(map(len, batches.values())))
        works = []
        for item in claimed:
            batch = batches.get(item.key, [])
            if not batch or item.status in ("Completed", "Failed"):
                look.discarded.append((item, [message.id or 0 for message in batch]))
                continue
            works.append(Work(claimed=item, batch=batch, unreadable=item.corrupt or unreadable.get(item.key)))
        suspects, slow = [], []
        for work in works:
            if self._is_suspect(work):
                suspects.append(work)
            elif self.slow_turns.expects(work.claimed):
                slow.append(work)
            else:
                look.works.append(work)
        if suspects or slow:
            self._set_apart(look, suspects, slow)
        self._postpone_large(look)
        self._read_state(look.works)

    def _postpone_large(self, look: Look) -> None:
        """Leave turns for the next look whose replays would read too much together."""
        cold = [work for work in look.works if self._is_cold(work)]
        if len(cold) < 2:
            return
        # One that continues as new reads nothing of the history that it leaves.
        executions = [(work.claimed.key, work.claimed.execution_id + bool(work.beginning())) for work in cold]
        sizes = state_sizes(self._db, executions)
        places, left = take([(0, sizes[work.claimed.key]) for work in cold], each=sys.maxsize, together=self.size.bytes)
        if not left:
            return
        kept = {cold[place].claimed.key for place in places}
        rest = [work for work in cold if work.claimed.key not in kept]
        gone = {work.claimed.key for work in rest}
        look.works = [work for work in look.works if work.claimed.key not in gone]
        look.parked += [Parked(claimed=work.claimed, delay_ms=0, blocked=None) for work in rest if work.claimed.token]
        look.more = True

    def _is_cold(self, work: Work) -> bool:
        """Return whether what its turn needs is to be read from the database, beside its messages."""
        beginning = work.beginning()
        if beginning is None:
            return self._live(work) is None
        kept = work.claimed.attempts <= 1 and self._cache.has_mailbox(work.claimed.key, work.claimed.mark)
        return beginning.kind == messages.CONTINUE_AS_NEW and not kept

    def _live(self, work: Work) -> Cached | None:
        """Return the live execution that an instance's turn goes on with, or None."""
        cached = self._cache.get(work.claimed.key)
        return cached if cached is not None and work.claimed.attempts <= 1 and cached.fits(work.claimed) else None

    def _is_suspect(self, work: Work) -> bool:
        """Return whether computing this instance may end or stop the process."""
        return work.claimed.attempts >= min(SUSPECT_ATTEMPTS, max(2, self._config.max_attempts)) or _hangs(work)

    def _set_apart(self, look: Look, suspects: list[Work], slow: list[Work]) -> None:
        """Take suspects to try, or else the slow one that has waited longest; the others have to wait."""
        # By chance among equals: where none can be tried but the first one, each is to be that one some time.
        suspects.sort(key=lambda work: (_hangs(work), work.claimed.attempts, random.random()))  # noqa: S311 - no secret
        size = 1 if any(map(_hangs, suspects)) else self.trust.size()
        if suspects:
            turns.recount(self._db, [work.claimed for work in suspects], -1)
            for work in suspects:
                work.claimed.counted = False
        tried = [suspects.pop() for _ in range(min(size, len(suspects)))]
        if len(tried) > 1:
            # This process lives on when it looks again.
            self.trust.survived()
            look.works += tried
        else:
            look.suspect = tried[0] if tried else slow[0]
            self._read_state([look.suspect])
        for delay_ms, works in ((SUSPECT_DELAY_MS, suspects), (0, slow)):
            for work in works:
                if work is not look.suspect:
                    look.parked.append(Parked(claimed=work.claimed, delay_ms=delay_ms, blocked=None))
                    # Slow ones can be claimed again as soon as this one is through.
                    look.more = look.more or not delay_ms

    def _read_state(self, works: list[Work]) -> None:
        """Read what turns without a live execution need."""
        cold: list[Work] = []
        renewed: list[Work] = []
        for work in works:
            beginning = work.beginning()
            if beginning is not None:
                if beginning.kind == messages.CONTINUE_AS_NEW:
                    renewed.append(work)
                continue
            work.cached = self._live(work)
            if work.cached is None:
                self._cache.drop(work.claimed.key)
                cold.append(work)
        executions = [(work.claimed.key, work.claimed.execution_id) for work in cold]
        if executions:
            histories = turns.read_histories(self._db, executions)
            for work in cold:
                work.history = histories.get(work.claimed.key, [])
        begun = [(work.claimed.key, work.claimed.execution_id + 1) for work in renewed]
        if executions or begun:
            unreadable: turns.Unreadable = {}
            bases = turns.read_kv_bases(self._db, executions + begun, unreadable)
            for work in renewed:
                if work.claimed.attempts <= 1:
                    work.mailbox = self._cache.take_mailbox(work.claimed.key, work.claimed.mark)
            without = [work for work in (*cold, *renewed) if work.mailbox is None]
            mail = turns.read_mail(self._db, [work.claimed.key for work in without], unreadable)
            for work in (*cold, *renewed):
                work.unreadable = work.unreadable or unreadable.get(work.claimed.key)
                work.kv_base = bases.get(work.claimed.key, {})
            for work in without:
                work.mailbox = Mailbox(mail.get(work.claimed.key, []))
        children = [work for work in works if work.claimed.parent is not None and work.beginning() is not None]
        if children:
            parents = turns.parent_ids(self._db, sorted({work.claimed.parent or 0 for work in children}))
            for work in children:
                work.parent_instance = parents.get(work.claimed.parent or 0)


def _is_behind(before: tuple[int, float], now_ms: int, asked_at: float) -> bool:
    expected_ms = before[0] + (asked_at - before[1]) * 1000
    return virtual_now_ms() is None and now_ms < expected_ms - clock_steps.TOLERANCE_MS


def _hangs(work: Work) -> bool:
    return '"hanging_turn"' in (work.claimed.blocked or "")
