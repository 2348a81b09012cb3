"""A simulated world around one instance: it runs turns, keeps what they commit, and replays after each of them.

``Life`` plays the part of storage and runtime without a database. After every turn it replays the recorded history,
as read back from its stored form, and demands the state of the execution that was kept: every test is a replay test.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from typing import Any

from duroxide_django.engine import events, futures, messages
from duroxide_django.engine.failures import from_exception, poison
from duroxide_django.engine.mailbox import Mailbox
from duroxide_django.engine.messages import Mail, Message
from duroxide_django.engine.outcome import Completed, ContinuedAsNew, EngineOptions, Failed, TurnEnvironment, TurnResult
from duroxide_django.engine.replay import LiveExecution
from duroxide_django.engine.turn import Start, Turn

#: Where the virtual clock stands at first, epoch milliseconds.
T0 = 1_700_000_000_000


class Life:
    """One instance, driven turn by turn.

    Attributes:
        live: the execution kept from turn to turn.
        history: recorded events of the current execution.
        now_ms: the virtual time of the next turn.
        activities, timers, children: what is in flight, by schedule event.
        detached: what was started without linkage.
        mail: rows of the mailbox table.
        kv: the committed KV entries, as other instances and clients see them.
        kv_base: those at the start of the execution.
        custom_status: as committed.
        traces: (level, message) of every line logged.
        results: what each turn gave.
        keeps: whether the execution is kept between turns; if not, each turn starts with a replay.
    """

    def __init__(
        self,
        function,
        input: Any = None,
        *,
        instance_id="order-1",
        version="1.0.0",
        kv=None,
        options=None,
        keeps=True,
        checks=True,
        randoms=(0.5,),
    ):
        self.function = function
        self.instance_id = instance_id
        self.version = version
        self.options = options or EngineOptions()
        self.keeps = keeps
        self.checks = checks
        self.now_ms = T0
        self.kv = dict(kv or {})
        self.kv_of_others: dict[tuple[str, str], str] = {}
        self.custom_status: str | None = None
        self.mail: dict[int, Mail] = {}
        self.traces: list[tuple[str, str]] = []
        self.results: list[TurnResult] = []
        self.detached: list[str] = []
        self.cancelled_children: list[tuple[str, str]] = []
        self._row_ids = itertools.count(1)
        self._guids = itertools.count(1)
        self._randoms = itertools.cycle(randoms)
        self._first_input = json.dumps(input)
        self.execution_id = 0

    # Turns

    def start(self, *batch: Message, parent: tuple[str, int] | None = None) -> TurnResult:
        """Run the first turn."""
        return self._begin(Start(input=self._first_input, **_parent(parent)), batch)

    def renew(self, *batch: Message) -> TurnResult:
        """Run the first turn after continue-as-new."""
        outcome = self.result.outcome
        assert isinstance(outcome, ContinuedAsNew)
        return self._begin(Start(input=outcome.input, initial_custom_status=self.custom_status), batch)

    def turn(self, *batch: Message, after_ms: int = 10) -> TurnResult:
        """Let ``after_ms`` pass and run a turn over ``batch``."""
        assert self.result.outcome is None, "the execution has ended"
        self.now_ms += after_ms
        if not self.keeps:
            self.live = self.replayed()
        return self._run(batch, None)

    def _begin(self, start: Start, batch) -> TurnResult:
        self.execution_id += 1
        self.history: list[events.Event] = []
        self.activities: dict[int, Any] = {}
        self.timers: dict[int, int] = {}
        self.children: dict[int, str] = {}
        self.kv_base = dict(self.kv)
        self.live = self.fresh()
        return self._run(batch, start)

    def _run(self, batch, start: Start | None) -> TurnResult:
        result = Turn(self.live, self.environment()).run(batch, start)
        self._commit(result)
        if self.checks:
            self.check()
        return result

    def _commit(self, result: TurnResult) -> None:
        """Keep what a turn wants committed, as storage does."""
        self.results.append(result)
        self.history += result.events
        closed = {event.source_event_id for event in result.events}
        for table in (self.activities, self.timers, self.children):
            for event_id in closed & set(table):
                del table[event_id]
        self.activities.update((activity.event_id, activity) for activity in result.activities)
        self.timers.update(result.timers)
        self.children.update((child.event_id, child.instance_id) for child in result.children)
        for event_id in result.cancelled_activities:
            self.activities.pop(event_id, None)
        for event_id in result.cancelled_timers:
            self.timers.pop(event_id, None)
        self.cancelled_children += result.cancelled_children
        self.detached += [new.instance_id for new in result.detached]
        for row in result.consumed_mail:
            del self.mail[row]
        self.mail.update((mail.id, mail) for mail in result.stored_mail)
        for key, entry in result.kv.items():
            self.kv.pop(key, None)
            if entry is not None:
                self.kv[key] = entry
        if result.status_changed:
            self.custom_status = result.custom_status
        if result.outcome is not None:
            self.activities, self.timers = {}, {}

    def environment(self) -> TurnEnvironment:
        return TurnEnvironment(
            now_ms=self.now_ms,
            new_guid=lambda: f"guid-{next(self._guids)}",
            random=lambda: next(self._randoms),
            read_kv=lambda instance_id, key: self.kv_of_others.get((instance_id, key)),
            trace=lambda level, message: self.traces.append((level, message)),
        )

    # Replays

    def fresh(self, function=None, options: EngineOptions | None = None) -> LiveExecution:
        """Return an execution that has seen nothing yet."""
        return LiveExecution(
            instance_id=self.instance_id,
            execution_id=self.execution_id,
            name="Workflow",
            version=self.version,
            function=function or self.function,
            kv_base=self.kv_base,
            mailbox=Mailbox(self.mail[row] for row in sorted(self.mail)),
            options=options or self.options,
        )

    def replayed(self, function=None, *, history=None, options: EngineOptions | None = None) -> LiveExecution:
        """Return what a replay of the stored history comes to."""
        execution = self.fresh(function, options)
        execution.replay([stored_and_read(event) for event in (self.history if history is None else history)])
        return execution

    def check(self) -> None:
        """See that a replay comes to the state of the execution that was kept."""
        # What was decided at the start holds, whatever the settings are now.
        changed = dataclasses.replace(self.options, buffer_events=not self.options.buffer_events)
        replayed = self.replayed(options=changed)
        outcome = self.result.outcome
        if outcome is None:
            assert state_of(replayed) == state_of(self.live)
        elif not isinstance(outcome, Failed):
            assert replayed.outcome == outcome
        elif outcome.failure.is_application and not outcome.failure.is_cancelled:
            assert replayed.outcome.failure.message == outcome.failure.message
        replayed.close()

    # What is recorded

    @property
    def result(self) -> TurnResult:
        """What the last turn gave."""
        return self.results[-1]

    @property
    def kinds(self) -> list[str]:
        """The kinds of the recorded events."""
        return kinds(self.history)

    @property
    def new_kinds(self) -> list[str]:
        """The kinds of the events of the last turn."""
        return kinds(self.result.events)

    def events(self, kind: type[events.Event]) -> list[Any]:
        """Return the recorded events of one kind."""
        return [event for event in self.history if isinstance(event, kind)]

    @property
    def output(self) -> Any:
        """What the function returned."""
        outcome = self.result.outcome
        assert isinstance(outcome, Completed), outcome
        return json.loads(outcome.output)

    @property
    def failure(self):
        """Why the execution failed."""
        outcome = self.result.outcome
        assert isinstance(outcome, Failed), outcome
        return outcome.failure

    def scheduled(self, name: str) -> int:
        """Return the event id of the one activity or child in flight that is called ``name``."""
        found = [event_id for event_id, activity in self.activities.items() if activity.name == name]
        found += [event_id for event_id in self.children if self.history[event_id - 1].name == name]
        assert len(found) == 1, found
        return found[0]

    # Messages

    def completed(self, source: int | str, value: Any = None) -> Message:
        """Return the completion of an activity, given by event id or name."""
        return self._completion(messages.ACTIVITY_COMPLETED, source, json.dumps(value))

    def failed(self, source: int | str, error: BaseException | str = "out of stock") -> Message:
        """Return the failure of an activity."""
        error = RuntimeError(error) if isinstance(error, str) else error
        return self._completion(messages.ACTIVITY_FAILED, source, from_exception(error, "ActivityFailed").to_json())

    def poisoned(self, source: int | str) -> Message:
        """Return the failure of an activity that was fetched too often."""
        return self._completion(messages.ACTIVITY_FAILED, source, poison("activity exceeded 11 attempts").to_json())

    def child_completed(self, source: int | str, value: Any = None) -> Message:
        """Return the completion of a child."""
        return self._completion(messages.SUB_COMPLETED, source, json.dumps(value))

    def child_failed(self, source: int | str, error: BaseException | str = "out of stock") -> Message:
        """Return the failure of a child."""
        error = RuntimeError(error) if isinstance(error, str) else error
        text = from_exception(error, "OrchestrationFailed").to_json()
        return self._completion(messages.SUB_FAILED, source, text)

    def fired(self, source: int | None = None) -> Message:
        """Return the firing of a timer, of the only one in flight unless given; the clock moves to its time."""
        source = only(self.timers) if source is None else source
        fire_at_ms = self.history[source - 1].fire_at_ms
        self.now_ms = max(self.now_ms, fire_at_ms)
        return self._completion(messages.TIMER_FIRED, source, str(fire_at_ms))

    def _completion(self, kind: str, source: int | str, payload: str) -> Message:
        event_id = self.scheduled(source) if isinstance(source, str) else source
        return Message(kind=kind, execution_id=self.execution_id, event_id=event_id, payload=payload)

    def raised(self, name: str, data: Any = None) -> Message:
        """Return an external event."""
        return Message(kind=messages.EXTERNAL_RAISED, id=next(self._row_ids), name=name, payload=json.dumps(data))

    def queued(self, queue: str, data: Any = None) -> Message:
        """Return a queue message."""
        return Message(kind=messages.QUEUE_MESSAGE, id=next(self._row_ids), name=queue, payload=json.dumps(data))

    def cancel(self, reason: str = "changed my mind", *, force: bool = False) -> Message:
        """Return a cancel request."""
        return Message(kind=messages.CANCEL, id=next(self._row_ids), payload=reason, force=force)


def begun(function, *arguments, **options) -> Life:
    """Return a life whose first turn has run."""
    life = Life(function, *arguments, **options)
    life.start()
    return life


def kinds(recorded) -> list[str]:
    """Return the kinds of events."""
    return [event.kind for event in recorded]


def only(collection) -> Any:
    """Return the one member of a collection."""
    (member,) = collection
    return member


def stored_and_read(event: events.Event) -> events.Event:
    """Return ``event`` as it comes back from its row; it must be the same."""
    read = events.from_stored(
        kind=event.kind,
        event_id=event.event_id,
        timestamp_ms=event.timestamp_ms,
        source_event_id=event.source_event_id,
        data=event.stored_data(),
    )
    assert read == event
    return read


def state_of(execution: LiveExecution) -> dict[str, Any]:
    """Return everything that decides how an execution goes on, in comparable form."""
    return {
        "history_length": execution.history_length,
        "ended": execution.ended,
        "custom_status": execution.custom_status,
        "kv": execution.kv._entries,
        "open": {event_id: (leaf.family, leaf.name, leaf.dropped) for event_id, leaf in execution.open.items()},
        "closed": execution.closed_ids,
        "dropped": [leaf.event_id for leaf in execution.dropped if leaf.event_id in execution.open],
        "cancelled": (execution.cancel_reason, execution.cleanup_turns),
        "mail": {queue: list(waiting) for queue, waiting in execution.mailbox._queues.items()},
        "events": {name: list(data) for name, data in execution._buffered_events.items() if data},
        "function": _shape(execution._root),
    }


def _shape(future: futures.Future | None) -> Any:
    """Return what a future waits for, down to its leaves."""
    if future is None:
        return None
    if future.done:
        return "done", future.value, repr(future.error)
    if isinstance(future, futures.Leaf):
        return future.family, future.name, future.event_id, future.dropped
    if isinstance(future, futures.BlockNode):
        frame = future.generator.gi_frame
        return "block", frame and frame.f_lineno, _shape(future.waiting)
    return type(future).__name__, [_shape(member) for member in future.members]


def _parent(parent: tuple[str, int] | None) -> dict[str, Any]:
    return {} if parent is None else {"parent_instance": parent[0], "parent_id": parent[1]}
