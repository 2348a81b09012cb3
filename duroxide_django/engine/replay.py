"""LiveExecution: one execution's generator and its engine state (spec part 4).

One rule explains all ordering: after each single event the function runs before the next event is looked at. New
events go through the same ``_apply`` as recorded ones, so what a live turn does is what its replay does.
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from contextvars import Context
from typing import Any, ParamSpec, TypeVar

from duroxide_django.engine import actions, events, futures, limits, older, tasks
from duroxide_django.engine.codecs import dumps, loads
from duroxide_django.engine.context import OrchestrationContext
from duroxide_django.engine.determinism import Position, generator_position, mismatch
from duroxide_django.engine.failures import INFRASTRUCTURE, Failure, from_exception, to_exception
from duroxide_django.engine.kv import Entry, KvState
from duroxide_django.engine.limits import RESERVED_PREFIX
from duroxide_django.engine.mailbox import Mailbox
from duroxide_django.engine.messages import Mail
from duroxide_django.engine.outcome import (
    Completed,
    ContinuedAsNew,
    EngineOptions,
    Failed,
    Outcome,
    TurnEnvironment,
)
from duroxide_django.engine.positions import OpenYield, open_yields
from duroxide_django.engine.yielded import begin
from duroxide_django.exceptions import (
    CorruptHistory,
    InvalidTask,
    NondeterminismError,
    OrchestrationCancelled,
    PayloadError,
    PayloadTooLarge,
)

P = ParamSpec("P")
T = TypeVar("T")

#: A registered orchestration function.
Function = Callable[[OrchestrationContext, Any], Any]

_BREADCRUMBS: dict[str, type[events.Event]] = {
    futures.ACTIVITY: events.ActivityCancelRequested,
    futures.CHILD: events.SubOrchestrationCancelRequested,
    futures.EVENT: events.ExternalSubscribedCancelled,
    futures.QUEUE: events.QueueSubscriptionCancelled,
}
BREADCRUMB_FAMILIES = {cls: family for family, cls in _BREADCRUMBS.items()}

DROPPED = "dropped_future"


class LiveExecution:
    """The state of one execution between events.

    Attributes:
        instance_id, execution_id, name, version: which execution this is.
        history_length: event id of the last event seen.
        is_replaying: whether recorded events are being applied.
        ended: whether the function will not be resumed any more.
        outcome: how it ended, or None.
        custom_status: the text as set so far.
        engine: version of the engine that began the execution.
        kv: the KV entries as seen by the function.
        unmatched: actions emitted and not yet matched or recorded.
        dropped: leaves that lost, without a breadcrumb yet.
        cancel_reason: why the instance was cancelled, or None.
        closed: whether it was thrown away; no turn may run on it any more.
    """

    def __init__(
        self,
        *,
        instance_id: str,
        execution_id: int,
        name: str,
        version: str,
        function: Function,
        kv_base: Mapping[str, Entry] | None = None,
        mailbox: Mailbox | None = None,
        options: EngineOptions | None = None,
    ) -> None:
        self.instance_id = instance_id
        self.execution_id = execution_id
        self.name = name
        self.version = version
        self.function = function
        self.options = options or EngineOptions()
        self.mailbox = Mailbox() if mailbox is None else mailbox
        self.history_length = 0
        self.size_estimate = 2_000
        self.is_replaying = False
        self.ended = False
        self.outcome: Outcome | None = None
        self.custom_status: str | None = None
        self.cancel_reason: str | None = None
        self.cleanup_turns = 0
        self._previous: events.Event | None = None
        self.unmatched: deque[actions.Action] = deque()
        self.open: dict[int, futures.Leaf] = {}
        self.closed_ids: set[int] = set()
        self.dropped: list[futures.Leaf] = []
        self._given_up: set[int] = set()
        self.taken_mail: list[Mail] = []
        self.status_changed = False
        self.started = False
        self.closed = False
        self.environment: TurnEnvironment | None = None
        self._kv_base = dict(kv_base or {})
        self.kv = KvState(self._kv_base, self.emit, self._now_ms)
        self._buffer_events = self.options.buffer_events
        self.engine = events.ENGINE_VERSION
        self._waiting_events: dict[str, deque[futures.Leaf]] = {}
        self._buffered_events: dict[str, deque[str]] = {}
        self._waiting_queues: dict[str, deque[futures.Leaf]] = {}
        self._root: futures.BlockNode | None = None
        self._inert = False
        # Empty, as a new thread's is: what the caller or another execution has set (a tenant, a language, the decimal
        # precision) would give other results on another worker. What the function sets stays with its execution.
        self._context = Context()
        self._clinging: list[Generator[Any, Any, Any]] = []

    # Replay

    def replay(self, history: Sequence[events.Event], *, partial: bool = False) -> None:
        """Bring the execution to where ``history`` ends.

        Args:
            partial: it may end within a turn; then no turn may follow.

        Raises:
            NondeterminismError: the code does not do what history says it did.
            CorruptHistory: history is empty or doesn't begin with OrchestrationStarted.
            NewerEngine: a newer release began the execution.
        """
        if not history or not isinstance(history[0], events.OrchestrationStarted):
            raise CorruptHistory(f"The history of {self.instance_id!r} does not begin with OrchestrationStarted.")
        events.require_known_engine(history[0])
        self.run_isolated(self._replay, history, partial)

    def run_isolated(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call ``function``, which runs the user's code, in the execution's own context variables."""
        return self._context.run(function, *args, **kwargs)

    def _replay(self, history: Sequence[events.Event], partial: bool) -> None:
        self.is_replaying = True
        times = [event.last_updated_at_ms for event in history if isinstance(event, events.KeyValueSet)]
        self.kv = KvState(self._kv_base, self.emit, self._now_ms, times)
        for event in history:
            self.apply(event)
        self.is_replaying = False
        self.kv.take_changes()
        self.status_changed = False
        # Losers without breadcrumbs (timers) were settled by the turn that dropped them.
        self.dropped = [leaf for leaf in self.dropped if leaf.family in _BREADCRUMBS]
        if partial:
            return
        if self.unmatched:
            action = self.unmatched[0]
            raise mismatch("the code emitted more than history records", None, action.describe(), self.position())
        if self.ended and not isinstance(history[-1], events.TERMINAL):
            raise mismatch("the code ended but history goes on", None, repr(self.outcome)[:200], self.position())

    def apply(self, event: events.Event) -> None:
        """Apply one event, recorded or new, and run the function as far as it goes."""
        if event.event_id <= self.history_length:
            raise CorruptHistory(f"Event {event.event_id} of {self.instance_id!r} comes twice or out of order.")
        self.history_length = event.event_id
        self._count_cleanup(event)
        if self.ended and self.is_replaying and self._comes_after_end(event):
            self._check_after_end(event)
        else:
            _HANDLERS[type(event)](self, event)

    def _count_cleanup(self, event: events.Event) -> None:
        # By what history shows, so that a replay comes to the same number: a turn begins at another time, or where
        # something arrives after the function had scheduled. Queue messages may be delivered within a turn.
        previous, self._previous = self._previous, event
        if self.cancel_reason is None or previous is None:
            return
        later = event.timestamp_ms != previous.timestamp_ms
        if later or (self._arrives(event) and not isinstance(previous, (*_ARRIVALS, _CANCEL))):
            self.cleanup_turns += 1

    def _arrives(self, event: events.Event) -> bool:
        leaf = self.open.get(event.source_event_id or 0)
        answered_at_once = leaf is not None and leaf.family in (futures.SYSCALL, futures.QUEUE)
        return isinstance(event, _ARRIVALS) and not answered_at_once

    def _comes_after_end(self, event: events.Event) -> bool:
        if isinstance(event, (*events.TERMINAL, *BREADCRUMB_FAMILIES)):
            return False
        return not self.unmatched or isinstance(event, _ARRIVALS)

    def _check_after_end(self, event: events.Event) -> None:
        if isinstance(event, (events.OrchestrationCancelRequested, *_ARRIVALS)):
            return
        raise mismatch("the code ended but history goes on", event, "the function returned", self.position())

    def _on_started(self, event: events.OrchestrationStarted) -> None:
        self.started = True
        self.custom_status = event.initial_custom_status
        # As recorded: the setting may have changed since.
        self._buffer_events = not event.strict_events
        self.engine = event.engine
        context = OrchestrationContext(self)
        try:
            result = self.function(context, loads(event.input))
            if inspect.iscoroutine(result):
                result.close()
                raise InvalidTask(f"Orchestration {self.name!r} is async; write a generator: def … yield ctx.…")
        except KeyboardInterrupt:
            raise
        except BaseException as exc:
            self._fail(from_exception(exc, "OrchestrationFailed"))
            return
        if not isinstance(result, Generator):
            self._complete(result)
            return
        self._root = futures.BlockNode(self, result)
        self._root.owner = _RootOwner(self)
        self._root.start()

    def _on_schedule(self, event: events.Event) -> None:
        action = self._match(event)
        leaf = action.leaf
        assert leaf is not None
        self.bind(leaf, event)
        if self.engine < older.WORKERS_KEEP_TIME and leaf.family == futures.ACTIVITY:
            assert isinstance(event, events.ActivityScheduled)
            older.expect_timer(self, leaf, event)

    def bind(self, leaf: futures.Leaf, event: events.Event) -> None:
        """Tie ``leaf`` to its schedule ``event`` and see whether something buffered resolves it."""
        leaf.event_id = event.event_id
        self.open[event.event_id] = leaf
        if isinstance(leaf.task, tasks.ActivityTask):
            leaf.task.event_id = event.event_id
        if isinstance(event, events.SubOrchestrationScheduled):
            leaf.name = event.instance
        if leaf.dropped:
            return
        if leaf.family == futures.EVENT:
            buffered = self._buffered_events.get(leaf.name)
            if buffered:
                self._resolve(leaf, buffered.popleft())
            else:
                self._waiting_events.setdefault(leaf.name, deque()).append(leaf)
        elif leaf.family == futures.QUEUE:
            self._waiting_queues.setdefault(leaf.name, deque()).append(leaf)

    def _on_metadata(self, event: events.Event) -> None:
        self._match(event)

    def _match(self, event: events.Event) -> actions.Action:
        if not self.unmatched:
            raise mismatch("history schedules something, the code emitted nothing", event, "nothing", self.position())
        action = self.unmatched.popleft()
        if not action.matches(event):
            raise mismatch("schedule mismatch", event, action.describe(), self.position())
        return action

    def _source(self, event: events.Event, family: str) -> futures.Leaf | None:
        leaf = self.open.pop(event.source_event_id or 0, None)
        if leaf is None:
            raise mismatch("completion without an open schedule", event, "nothing open", self.position())
        if leaf.family != family and not (family == futures.ACTIVITY and leaf.family == futures.SYSCALL):
            raise mismatch("completion kind mismatch", event, f"an open {leaf.family}", self.position())
        self.closed_ids.add(event.source_event_id or 0)
        return None if leaf.dropped else leaf

    def _on_activity_completed(self, event: events.ActivityCompleted) -> None:
        if leaf := self._source(event, futures.ACTIVITY):
            leaf.resolve_text(event.result)

    def _on_child_completed(self, event: events.SubOrchestrationCompleted) -> None:
        if leaf := self._source(event, futures.CHILD):
            leaf.resolve_text(event.result)

    def _on_activity_failed(self, event: events.ActivityFailed) -> None:
        self._on_failed(event, futures.ACTIVITY, event.details)

    def _on_child_failed(self, event: events.SubOrchestrationFailed) -> None:
        self._on_failed(event, futures.CHILD, event.details)

    def _on_failed(self, event: events.Event, family: str, details: str) -> None:
        leaf = self._source(event, family)
        if leaf is None:
            return
        failure = Failure.from_json(details)
        if not failure.is_application:
            self._abort(failure)
            return
        leaf.fail(
            to_exception(failure, name=leaf.name, event_id=event.source_event_id or 0, child=family == futures.CHILD)
        )

    def _on_timer_fired(self, event: events.TimerFired) -> None:
        if leaf := self._source(event, futures.TIMER):
            leaf.resolve(None)

    def _on_external_event(self, event: events.ExternalEvent) -> None:
        waiting = self._waiting_events.get(event.name)
        while waiting:
            leaf = waiting.popleft()
            if not leaf.dropped:
                self._resolve(leaf, event.data)
                return
        if self._buffer_events:
            self._buffered_events.setdefault(event.name, deque()).append(event.data)

    def unconsumed_events(self) -> list[str]:
        """Return the names of external events that no wait has consumed, one for each event."""
        return [name for name, waiting in self._buffered_events.items() for _ in waiting]

    def _on_queue_delivered(self, event: events.QueueEventDelivered) -> None:
        leaf = self._source(event, futures.QUEUE)
        waiting = self._waiting_queues.get(event.name)
        if leaf is not None:
            if waiting and leaf in waiting:
                waiting.remove(leaf)
            leaf.resolve_text(event.data)

    def _resolve(self, leaf: futures.Leaf, text: str) -> None:
        self.open.pop(leaf.event_id or 0, None)
        self.closed_ids.add(leaf.event_id or 0)
        leaf.resolve_text(text)

    def _on_breadcrumb(self, event: events.Event) -> None:
        if getattr(event, "reason", None) != DROPPED or not self.is_replaying:
            return
        # N9: a recorded loser must have lost on replay too. Recorded twice, it says the same.
        for leaf in self.dropped:
            if leaf.event_id == event.source_event_id:
                self.dropped.remove(leaf)
                self._given_up.add(leaf.event_id or 0)
                return
        if event.source_event_id in self._given_up:
            return
        raise mismatch("cancellation mismatch", event, "the task is still wanted", self.position())

    def _on_cancel(self, event: events.OrchestrationCancelRequested) -> None:
        if self.cancel_reason is None:
            self.cancel_reason = event.reason
        if event.force:
            self.give_up()
        elif self._root is not None and not self.ended:
            self._root.throw(OrchestrationCancelled(event.reason))

    def _on_terminal(self, event: events.Event) -> None:
        if self.is_replaying and not self.ended and self.cancel_reason is None:
            aborted = (
                isinstance(event, events.OrchestrationFailed) and not Failure.from_json(event.details).is_application
            )
            if not aborted:
                raise mismatch("history ended but the code goes on", event, "the function still waits", self.position())
        self.give_up()

    # What the function does

    def begin(self, yielded: Any, depth: int = 0) -> futures.Future:
        """See yielded.begin()."""
        return begin(self, yielded, depth)

    def continue_as_new(self, task: tasks.ContinueAsNewTask) -> None:
        """End this execution; the next one begins with the task's input."""
        self._end(ContinuedAsNew(input=task.input, version=task.version))

    def emit(self, action: actions.Action) -> bool:
        """Record a metadata decision; returns False if the context is inert."""
        if self._inert or self.ended:
            return False
        self.unmatched.append(action)
        return True

    def set_custom_status(self, status: str | None) -> None:
        """Set or reset the custom status."""
        if self.emit(actions.SetStatus(status)):
            self.custom_status = status
            self.status_changed = True

    def trace(self, level: str, message: Any) -> None:
        """Hand a log line out, unless this is a replay."""
        if self.environment is not None and not (self.is_replaying or self._inert):
            self.environment.trace(level, str(message))

    def drop(self, leaf: futures.Leaf) -> None:
        """Take note that nobody wants the result of ``leaf``."""
        self.dropped.append(leaf)
        if leaf.family == futures.QUEUE:
            waiting = self._waiting_queues.get(leaf.name)
            if waiting and leaf in waiting:
                waiting.remove(leaf)

    def close_generator(self, generator: Generator[Any, Any, Any]) -> None:
        """Close ``generator`` while the context is inert."""
        inert, self._inert = self._inert, True
        try:
            generator.close()
        except KeyboardInterrupt:
            raise
        except BaseException as exc:
            if self.environment is not None and not self.is_replaying:
                self.environment.trace("warning", f"closing a generator of {self.name!r} raised {exc!r}")
        finally:
            self._inert = inert
        if getattr(generator, "gi_frame", None) is not None:
            # Python closes it once more when it is freed, and then the context must be inert, too.
            self._clinging.append(generator)

    @property
    def is_suspended(self) -> bool:
        """Whether its function waits at a ``yield``, so that closing it runs its ``finally`` blocks."""
        return self._root is not None and getattr(self._root.generator, "gi_frame", None) is not None

    def close(self) -> None:
        """Throw the execution away; its generators are closed with an inert context."""
        self.closed = True
        self.ended = True
        self._inert = True
        if self._root is not None:
            self._root.owner = None
            self.run_isolated(self._root.cancel)

    # How it ends

    def _complete(self, value: Any) -> None:
        try:
            output = dumps(
                value,
                what="orchestration output",
                max_bytes=self.options.max_payload_bytes,
                merges_keys=self.engine < events.VALUES_ARE_JSON,
            )
        except (PayloadError, PayloadTooLarge) as exc:
            self._fail(from_exception(exc, "OrchestrationFailed"))
            return
        self._end(Completed(output=output))

    def _fail(self, failure: Failure) -> None:
        self._end(Failed(failure=failure))

    def end_endless(self) -> None:
        """End an execution that goes on and on without ever waiting; its code can't catch that."""
        if self.cancel_reason is not None:
            self.give_up()
            return
        what = (
            f"more than {limits.MAX_STEPS_WITHOUT_WAITING:,} tasks of one turn resolved at once; does it loop for ever?"
        )
        self._abort(
            Failure(
                category=INFRASTRUCTURE, kind="EndlessTurn", message=f"infrastructure:turn: {what}", retryable=False
            )
        )

    def _abort(self, failure: Failure) -> None:
        self._end(Failed(failure=failure))
        self.give_up()

    def _end(self, outcome: Outcome) -> None:
        if not self.ended:
            self.ended = True
            self.outcome = outcome

    def root_done(self, root: futures.Future) -> None:
        """Take note that the function returned or raised."""
        if root.error is not None:
            if isinstance(root.error, NondeterminismError):
                raise root.error
            self._fail(from_exception(root.error, "OrchestrationFailed"))
        else:
            self._complete(root.value)

    def position(self) -> Position | None:
        """Return where the function's open ``yield`` is."""
        return None if self._root is None else generator_position(self._root.generator)

    def open_yields(self) -> list[OpenYield]:
        """Return where the function and its blocks are suspended, and what they wait for."""
        return open_yields(self._root)

    def next_queue_leaf(self, queue: str) -> futures.Leaf | None:
        """Return the oldest subscription that waits for a message of ``queue``."""
        waiting = self._waiting_queues.get(queue)
        return waiting[0] if waiting else None

    def give_up(self) -> None:
        """End without running the function again; what it waited for stays open, to be cancelled with the end."""
        self.ended = True
        if self._root is not None:
            losers = len(self.dropped)
            self._root.owner = None
            self._root.cancel()
            # These did not lose a race, and a replay must not look for the race that they lost.
            for leaf in self.dropped[losers:]:
                leaf.dropped = False
            del self.dropped[losers:]

    def known_kind(self, event_id: int) -> str | None:
        """Return the family of the schedule event ``event_id`` if it is open."""
        leaf = self.open.get(event_id)
        return None if leaf is None else leaf.family

    def _now_ms(self) -> int:
        return 0 if self.environment is None else self.environment.now_ms

    def syscall(self, name: str, text: str) -> Any:
        """Return the value that a syscall records."""
        environment = self.environment
        assert environment is not None
        what = name.removeprefix(RESERVED_PREFIX)
        if what == "utc_now_ms":
            return environment.now_ms
        if what == "new_guid":
            return environment.new_guid()
        return environment.read_kv(*loads(text))


class _RootOwner(futures.Node):
    __slots__ = ("execution",)

    def __init__(self, execution: LiveExecution) -> None:
        super().__init__()
        self.execution = execution

    def child_done(self, child: futures.Future) -> None:
        self.execution.root_done(child)

    def cancel(self) -> None:
        pass


_CANCEL = events.OrchestrationCancelRequested
_ARRIVALS = (events.ActivityCompleted, events.ActivityFailed, events.TimerFired, events.ExternalEvent,
             events.SubOrchestrationCompleted, events.SubOrchestrationFailed, events.QueueEventDelivered)  # fmt: skip

_HANDLERS: dict[type[events.Event], Callable[[LiveExecution, Any], None]] = {
    events.OrchestrationStarted: LiveExecution._on_started,
    events.OrchestrationCompleted: LiveExecution._on_terminal,
    events.OrchestrationFailed: LiveExecution._on_terminal,
    events.OrchestrationContinuedAsNew: LiveExecution._on_terminal,
    events.OrchestrationCancelRequested: LiveExecution._on_cancel,
    events.ActivityScheduled: LiveExecution._on_schedule,
    events.TimerCreated: LiveExecution._on_schedule,
    events.ExternalSubscribed: LiveExecution._on_schedule,
    events.QueueSubscribed: LiveExecution._on_schedule,
    events.SubOrchestrationScheduled: LiveExecution._on_schedule,
    events.OrchestrationChained: LiveExecution._on_metadata,
    events.CustomStatusUpdated: LiveExecution._on_metadata,
    events.KeyValueSet: LiveExecution._on_metadata,
    events.KeyValueCleared: LiveExecution._on_metadata,
    events.KeyValuesCleared: LiveExecution._on_metadata,
    events.ActivityCompleted: LiveExecution._on_activity_completed,
    events.ActivityFailed: LiveExecution._on_activity_failed,
    events.TimerFired: LiveExecution._on_timer_fired,
    events.ExternalEvent: LiveExecution._on_external_event,
    events.QueueEventDelivered: LiveExecution._on_queue_delivered,
    events.SubOrchestrationCompleted: LiveExecution._on_child_completed,
    events.SubOrchestrationFailed: LiveExecution._on_child_failed,
    events.ActivityCancelRequested: LiveExecution._on_breadcrumb,
    events.SubOrchestrationCancelRequested: LiveExecution._on_breadcrumb,
    events.ExternalSubscribedCancelled: LiveExecution._on_breadcrumb,
    events.QueueSubscriptionCancelled: LiveExecution._on_breadcrumb,
}
