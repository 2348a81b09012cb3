"""Computing turns: from a claimed row and its messages to a Commit, or to a reason why not."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import Any

from django.db import DatabaseError, InterfaceError

from duroxide_django.conf import settings
from duroxide_django.engine import events, messages
from duroxide_django.engine.failures import CONFIGURATION, POISON, Failure, cancelled, poison
from duroxide_django.engine.kv import Entry
from duroxide_django.engine.mailbox import Mailbox
from duroxide_django.engine.messages import Message
from duroxide_django.engine.outcome import TurnEnvironment, TurnResult
from duroxide_django.engine.registry import Registry
from duroxide_django.engine.replay import LiveExecution
from duroxide_django.engine.turn import Start, Turn, end_without_code
from duroxide_django.exceptions import (
    CorruptHistory,
    CorruptRow,
    DuroxideError,
    NewerEngine,
    NondeterminismError,
    PayloadUnreadable,
)
from duroxide_django.logs import log_exception, orchestration_log, runtime_log
from duroxide_django.runtime.cache import Cached
from duroxide_django.runtime.config import Config
from duroxide_django.runtime.turn_connections import TransactionLeftOpen, TurnConnections
from duroxide_django.storage import client_reads
from duroxide_django.storage.activities import Finished
from duroxide_django.storage.commits import Commit
from duroxide_django.storage.database import Database
from duroxide_django.storage.faults import is_transient
from duroxide_django.storage.health import CORRUPT_ROW, DATABASE_FAILED, REFUSED
from duroxide_django.storage.payloads import clear_blocked, read_blocked
from duroxide_django.storage.turns import Claimed, Parked, StoredEvent, decode, decode_history
from duroxide_django.tracing import span

#: An instance that can't go on is tried again after 1, 2, 4 … 60 seconds.
MAX_PARK_MS = 60_000


@dataclass(slots=True, kw_only=True)
class Work:
    """One instance with what its turn needs.

    Attributes:
        batch: its messages, in order.
        finished: activities of this process whose completions belong to the turn.
        cached: its live execution, if that still fits.
        history, kv_base: read from the database when there is no live execution.
        mailbox: the queue messages that wait, for the same case.
        unreadable: why its row, or one of its messages, KV or queues, can't be read, or None.
        parent_instance: the parent's id, when the turn begins the first execution of a child.
    """

    claimed: Claimed
    batch: list[Message] = field(default_factory=list)
    finished: list[Finished] = field(default_factory=list)
    cached: Cached | None = None
    history: list[StoredEvent] = field(default_factory=list)
    kv_base: dict[str, Entry] = field(default_factory=dict)
    mailbox: Mailbox | None = None
    unreadable: DuroxideError | None = None
    parent_instance: str | None = None

    def beginning(self) -> Message | None:
        """Return the message that begins a new execution, if the batch has one that does."""
        for message in self.batch:
            if message.kind == messages.START and self.claimed.last_event_id == 0:
                return message
            if message.kind == messages.CONTINUE_AS_NEW:
                return message
        return None

    @property
    def message_ids(self) -> list[int]:
        """The rows of the batch."""
        return [message.id for message in self.batch if message.id is not None]


@dataclass(slots=True)
class Computed:
    """A turn to commit, with the live execution to keep afterwards (None: ended without code)."""

    commit: Commit
    execution: LiveExecution | None


class TurnComputer:
    """Runs turns; pure computing but for KV cross-reads."""

    def __init__(
        self,
        registry: Registry,
        config: Config,
        db: Database,
        asking_database: Callable[[], AbstractContextManager[None]],
    ) -> None:
        """
        Args:
            asking_database: encloses what may wait for the database.
        """
        self.registry = registry
        self.config = config
        self.db = db
        self.asking_database = asking_database
        self._connections = TurnConnections()
        self._execution: LiveExecution | None = None

    def compute(self, work: Work, now_ms: int) -> Computed | Parked:
        """Return the turn of ``work``.

        Args:
            now_ms: epoch milliseconds of the turn.
        """
        try:
            return self._compute(work, now_ms)
        except Exception as exc:
            log_exception("A turn failed inside the engine", exc, **_ids(work.claimed))
            blocked = {"reason": "engine_error", "message": f"{type(exc).__name__}: {exc}"}
            return self._parked(work, blocked, keep_attempt=True)

    def _compute(self, work: Work, now_ms: int) -> Computed | Parked:
        claimed = work.claimed
        if work.unreadable is not None:
            return self._unreadable(work, work.unreadable, now_ms)
        if claimed.token is not None and claimed.attempts > self.config.max_attempts:
            failure = poison(
                f"orchestration {claimed.instance_id} exceeded {claimed.attempts} attempts "
                f"(max {self.config.max_attempts}){_hanging(claimed.blocked)}"
            )
            return self._without_code(work, failure, now_ms)
        try:
            with span(f"turn of {claimed.name}", instance_id=claimed.instance_id, execution_id=claimed.execution_id):
                return self._run_watched(work, now_ms)
        except TransactionLeftOpen as exc:
            return self._blocked(work, {"reason": "open_transaction", "message": str(exc)}, now_ms)
        except NondeterminismError as exc:
            return self._unreplayable(work, exc, now_ms)
        except PayloadUnreadable as exc:
            return self._unreadable(work, exc, now_ms)
        except NewerEngine as exc:
            return self._blocked(work, {"reason": "newer_engine", "message": str(exc)}, now_ms)
        except CorruptHistory as exc:
            return self._blocked(work, {"reason": "corrupt_history", "message": str(exc)}, now_ms)
        except (DatabaseError, InterfaceError) as exc:
            # A read from another instance: what passes is no fault of this one.
            reason = DATABASE_FAILED if is_transient(exc) else REFUSED
            blocked = {"reason": reason, "message": f"{type(exc).__name__}: {exc}"}
            return self._parked(work, blocked, keep_attempt=reason == REFUSED)

    def _run_watched(self, work: Work, now_ms: int) -> Computed | Parked:
        """Run the turn; raises TransactionLeftOpen if it leaves a transaction open."""
        self._execution = None
        self._connections.begin()
        try:
            return self._run(work, now_ms)
        finally:
            if left_open := self._connections.end():
                raise self._left_open(work, left_open)

    def close(self, execution: LiveExecution) -> None:
        """Close an execution; what its ``finally`` blocks leave open on the thread's connections is undone."""
        self._connections.begin()
        try:
            execution.close()
        finally:
            if left_open := self._connections.end():
                self._connections.restore()
                runtime_log.warning(
                    f"Closing an execution left a transaction open on {', '.join(left_open)}; it was rolled back. A "
                    "`finally` of its function began it",
                    instance_id=execution.instance_id,
                    orchestration_name=execution.name,
                )

    def _left_open(self, work: Work, aliases: list[str]) -> TransactionLeftOpen:
        position = None
        if self._execution is not None:
            position = self._execution.position()
            # Closing it leaves its `with` blocks, most of which roll back.
            self._execution.close()
        self._connections.restore()
        where = "" if position is None else f" ({position})"
        return TransactionLeftOpen(
            f"{work.claimed.name} left a transaction open on {', '.join(aliases)} at its yield{where}; it was rolled "
            "back. Close the transaction before the yield, or let an activity do the work."
        )

    def _run(self, work: Work, now_ms: int) -> Computed | Parked:
        claimed = work.claimed
        beginning = work.beginning()
        if beginning is None and claimed.last_event_id == 0:
            return self._parked(work, {"reason": "no_start", "message": "the start message is missing"})
        renewed = beginning is not None and beginning.kind == messages.CONTINUE_AS_NEW
        version = beginning.name if beginning is not None else claimed.version
        execution_id = claimed.execution_id + 1 if renewed else claimed.execution_id
        if beginning is None and work.cached is not None:
            execution = self._execution = work.cached.execution
        else:
            found = self.registry.resolve(claimed.name, version)
            if found is None:
                why = self.registry.describe_missing(claimed.name, version)
                return self._blocked(work, {"reason": "missing_code", "message": why}, now_ms)
            execution = self._execution = LiveExecution(
                instance_id=claimed.instance_id,
                execution_id=execution_id,
                name=claimed.name,
                version=found[0],
                function=found[1],
                kv_base=work.kv_base,
                mailbox=work.mailbox,
                options=self.config.engine,
            )
            if beginning is None:
                execution.replay(decode_history(work.history))
                execution.size_estimate += sum(len(data) for *_, data in work.history)
                if execution.ended:
                    # It was parked, and an event came between the end of that and of its messages' hiding.
                    return self._parked(work, {"reason": "no_start", "message": "continue-as-new is not visible yet"})
        start = None if beginning is None else self._start(work, beginning, renewed)
        arrivals = [message for message in work.batch if message is not beginning]
        arrivals += [item.message() for item in work.finished]
        result = Turn(execution, self._environment(execution, now_ms)).run(arrivals, start)
        for ignored in result.ignored:
            runtime_log.info(ignored, **_ids(claimed))
        return Computed(self._commit(work, execution_id, execution.version, result, start), execution)

    def _start(self, work: Work, beginning: Message, renewed: bool) -> Start:
        return Start(
            input=beginning.payload,
            parent_instance=work.parent_instance,
            parent_id=work.claimed.parent_event_id,
            initial_custom_status=work.claimed.initial_custom_status() if renewed else None,
        )

    def _commit(self, work: Work, execution_id: int, version: str, result: TurnResult, start: Start | None) -> Commit:
        return Commit(
            claimed=work.claimed,
            execution_id=execution_id,
            version=version,
            result=result,
            message_ids=work.message_ids,
            finished=work.finished,
            input=None if start is None else start.input,
        )

    def _environment(self, execution: LiveExecution, now_ms: int) -> TurnEnvironment:
        # The function runs in context variables of its own; log processors and the virtual clock need the caller's.
        caller = copy_context()

        def trace(level: str, message: str) -> None:
            caller.run(
                getattr(orchestration_log, level),
                message,
                instance_id=execution.instance_id,
                execution_id=execution.execution_id,
                orchestration_name=execution.name,
                orchestration_version=execution.version,
            )

        def read_kv(instance_id: str, key: str) -> str | None:
            with self.asking_database(), self._connections.own_statements():
                return caller.run(client_reads.kv_value, self.db, instance_id, key)

        return TurnEnvironment(
            now_ms=now_ms,
            new_guid=lambda: str(uuid.uuid4()),
            random=random.random,
            read_kv=read_kv,
            trace=trace,
        )

    def _unreplayable(self, work: Work, error: NondeterminismError, now_ms: int) -> Computed | Parked:
        if self.config.fails_on_nondeterminism:
            failure = Failure(category=CONFIGURATION, kind="Nondeterminism", message=str(error), retryable=False)
            return self._without_code(work, failure, now_ms)
        blocked = {
            "reason": "nondeterminism",
            "message": str(error),
            "event_id": error.event_id,
            "expected": error.expected,
            "got": error.got,
            "source": error.source,
        }
        return self._blocked(work, blocked, now_ms)

    def _unreadable(self, work: Work, error: DuroxideError, now_ms: int) -> Computed | Parked:
        reason = CORRUPT_ROW if isinstance(error, CorruptRow) else "payload_unreadable"
        return self._blocked(work, {"reason": reason, "message": str(error)}, now_ms)

    def _blocked(self, work: Work, blocked: dict[str, Any], now_ms: int) -> Computed | Parked:
        forced = next((message for message in work.batch if message.kind == messages.CANCEL and message.force), None)
        if forced is not None:
            return self._without_code(work, cancelled(forced.payload), now_ms, cancel_reason=forced.payload)
        return self._parked(work, blocked)

    def _parked(self, work: Work, blocked: dict[str, Any], *, keep_attempt: bool = False) -> Parked:
        tries = tries_before(work.claimed.blocked, blocked["reason"]) + 1
        # Without a lease it is tried again with one, and then recorded.
        known = tries > 1 or work.claimed.token is None
        runtime_log.log(
            20 if known else 30,
            f"Instance can't go on: {_without_payloads(blocked)}",
            reason=blocked["reason"],
            tries=tries,
            **_ids(work.claimed),
        )
        return Parked(
            claimed=work.claimed,
            delay_ms=park_ms(tries),
            blocked={**blocked, "tries": tries},
            keep_attempt=keep_attempt,
        )

    def _without_code(self, work: Work, failure: Failure, now_ms: int, *, cancel_reason: str | None = None) -> Computed:
        claimed = work.claimed
        why = failure.message if failure.category == POISON or settings.LOG_PAYLOADS else failure.kind
        runtime_log.error(f"Instance ended without its code: {why}", **_ids(claimed))
        history = list(_readable(work.history))
        beginning = work.beginning()
        begun: list[events.Event] = []
        if beginning is not None:
            begun.append(
                events.OrchestrationStarted(
                    event_id=1,
                    timestamp_ms=now_ms,
                    name=claimed.name,
                    version=beginning.name or claimed.version or "unknown",
                    input=beginning.payload,
                    parent_instance=work.parent_instance,
                    parent_id=claimed.parent_event_id,
                )
            )
            history = list(begun)
        elif claimed.last_event_id and (not history or history[-1].event_id < claimed.last_event_id):
            # Unreadable events stay as they are; what follows gets ids above theirs.
            history.append(events.KeyValuesCleared(event_id=claimed.last_event_id, timestamp_ms=now_ms))
        result = end_without_code(history, failure, now_ms, cancel_reason=cancel_reason)
        result.events[:0] = begun
        renewed = beginning is not None and beginning.kind == messages.CONTINUE_AS_NEW
        commit = Commit(
            claimed=claimed,
            execution_id=claimed.execution_id + 1 if renewed else claimed.execution_id,
            version=(beginning.name if beginning is not None else None) or claimed.version or "unknown",
            result=result,
            message_ids=work.message_ids,
            finished=work.finished,
            input=None if beginning is None else beginning.payload,
        )
        return Computed(commit, None)


def failed_alone(claimed: Claimed, error: BaseException) -> Parked:
    """Return how an instance is given back that the database failed at, with nothing else beside it.

    The attempt counts. The pauses keep a database that comes and goes from using all of them up.
    """
    tries = tries_before(claimed.blocked, DATABASE_FAILED) + 1
    message = f"{type(error).__name__}: {error}"
    runtime_log.warning("The database fails at a single turn; it counts as an attempt", tries=tries, **_ids(claimed))
    blocked: dict[str, object] = {"reason": DATABASE_FAILED, "message": message, "tries": tries}
    return Parked(claimed=claimed, delay_ms=park_ms(tries), blocked=blocked, keep_attempt=True)


def _readable(history: Sequence[StoredEvent]) -> list[events.Event]:
    readable = []
    for stored in history:
        try:
            readable.append(decode(stored))
        except (CorruptHistory, PayloadUnreadable):
            continue
    return readable


def _hanging(blocked: str | None) -> str:
    """Return where a turn was found hanging, for the end of a sentence."""
    recorded = read_blocked(blocked)
    return f": {recorded.get('message')}" if recorded.get("reason") == "hanging_turn" else ""


def park_ms(tries: int) -> int:
    """Return for how many milliseconds an instance waits after its ``tries``-th try in a row."""
    return min(1_000 << min(tries - 1, 6), MAX_PARK_MS)


def tries_before(blocked: str | None, reason: object) -> int:
    """Return how many tries for the same reason an instance has recorded."""
    if not blocked:
        return 0
    recorded = clear_blocked(blocked)
    tries = recorded.get("tries") if recorded.get("reason") == reason else 0
    return max(0, tries) if isinstance(tries, int) else 0


def _without_payloads(blocked: dict[str, Any]) -> str:
    """Return why an instance is parked for the log; what was expected and got stays in the database."""
    if blocked["reason"] == "engine_error" and not settings.LOG_PAYLOADS:
        return "the turn failed inside the engine"
    if blocked["reason"] != "nondeterminism" or settings.LOG_PAYLOADS:
        return str(blocked["message"])
    where = f" ({blocked['source']})" if blocked["source"] else ""
    return f"its code does not fit its history at event {blocked['event_id']}{where}"


def _ids(claimed: Claimed) -> dict[str, Any]:
    return {
        "instance_id": claimed.instance_id,
        "execution_id": claimed.execution_id,
        "orchestration_name": claimed.name,
        "orchestration_version": claimed.version,
    }
