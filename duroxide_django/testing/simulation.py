"""run_orchestration(): one orchestration as a pure function, its activities replaced; no database, no worker."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from duroxide_django.engine import events, futures, messages
from duroxide_django.engine.codecs import dumps, loads
from duroxide_django.engine.context import resolve_name
from duroxide_django.engine.failures import TIMED_OUT, Failure, from_exception, timeout
from duroxide_django.engine.limits import RESERVED_PREFIX
from duroxide_django.engine.messages import Message
from duroxide_django.engine.outcome import NewActivity, TurnEnvironment, TurnResult
from duroxide_django.engine.replay import LiveExecution
from duroxide_django.engine.turn import Start, Turn
from duroxide_django.engine.versions import DEFAULT_VERSION
from duroxide_django.exceptions import DuroxideError, InvalidArgument, TaskTimeout
from duroxide_django.registry import default_registry
from duroxide_django.results import Event, OrchestrationStatus

#: Where the simulated clock starts unless told otherwise: 2025-01-01 00:00 UTC, in epoch milliseconds.
START_MS = 1_735_689_600_000
CONTINUED_AS_NEW = "ContinuedAsNew"

Pairs = Iterable[tuple[str, Any]] | Mapping[str, Any]


class _Never:
    def __repr__(self) -> str:
        return "NEVER"


#: A stub for an activity or a child that doesn't come to an end, but for a time limit of the activity.
NEVER: Final = _Never()


class MissingStub(DuroxideError, AssertionError):
    """The orchestration scheduled something for which the test has no stub."""


class Call(NamedTuple):
    """What was scheduled: the name of the activity or orchestration, and its input."""

    name: str
    input: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class OrchestrationRun:
    """What an orchestration did.

    Attributes:
        status: Completed, Failed, ContinuedAsNew, or Running if it still waits for something.
        output: what it returned; the next execution's input if it continued as new.
        error: the error text if it failed.
        waits_for: what it still waits for, in words: ``event 'approved'``.
        activities: what it scheduled, in order; each attempt of a retry is one.
        children: sub-orchestrations that it scheduled, in order.
        started: orchestrations that it started without waiting for them, in order.
        timers: delays of the timers that it created, in milliseconds, in order.
        custom_statuses: every custom status that it set, in order; None where it was reset.
        kv: its KV entries at the end.
        traces: (level, text) of every line that it traced.
        elapsed_ms: simulated milliseconds from its start to its end.
        history: the events, as ``Client.read_execution_history`` gives them.
    """

    status: str
    output: Any = None
    error: str | None = None
    waits_for: list[str] = field(default_factory=list)
    activities: list[Call] = field(default_factory=list)
    children: list[Call] = field(default_factory=list)
    started: list[Call] = field(default_factory=list)
    timers: list[int] = field(default_factory=list)
    custom_statuses: list[str | None] = field(default_factory=list)
    kv: dict[str, str] = field(default_factory=dict)
    traces: list[tuple[str, str]] = field(default_factory=list)
    elapsed_ms: int = 0
    history: list[Event] = field(default_factory=list)


def run_orchestration(
    function: Callable[..., Any] | str,
    input: Any = None,
    *,
    activities: Mapping[Any, Any] | None = None,
    children: Mapping[Any, Any] | None = None,
    events: Pairs = (),
    messages: Pairs = (),
    cancel: str | None = None,
    kv: Mapping[str, str] | None = None,
    kv_of: Mapping[str, Mapping[str, str]] | None = None,
    instance_id: str = "test-1",
    start_ms: int = START_MS,
    max_turns: int = 10_000,
) -> OrchestrationRun:
    """Run one execution of an orchestration with everything around it simulated.

    A *stub* stands for an activity or a child: a callable that gets the input, an exception (class or instance) to
    fail with, ``NEVER``, or the result itself. When all stubs have answered, the next awaited one of ``events`` is
    raised; then ``cancel`` takes effect; then the clock jumps to the next timer, or to where an activity without an
    answer runs into its first time limit. At the end the history is replayed,
    so that an orchestration that isn't deterministic fails its test.

    Args:
        function: the orchestration function, decorated or not, or the name of a registered one.
        activities: stub by activity name or decorated function.
        children: stub by orchestration name or decorated function.
        events: (name, data) of external events, in order; or a mapping.
        messages: (queue, data) of queue messages that wait from the beginning, in order; or a mapping.
        cancel: cancels the instance for this reason as soon as it has nothing to do but wait.
        kv: KV entries that an execution before has left.
        kv_of: KV entries of other instances, by instance id.
        instance_id: ``ctx.instance_id``.
        start_ms: where the clock starts, epoch milliseconds.
        max_turns: turns after which the run is given up.

    Raises:
        MissingStub: something was scheduled for which there is no stub.
        NondeterminismError: the function does not do the same when its history is replayed.
        InvalidArgument: no such orchestration, an input that JSON can't carry, or more than ``max_turns`` turns.
        AssertionError: raised by a stub; it is the test's own, and no failure of the activity.
    """
    simulation = _Simulation(
        function,
        activities={resolve_name(name, "activity"): stub for name, stub in (activities or {}).items()},
        children={resolve_name(name, "orchestration"): stub for name, stub in (children or {}).items()},
        external=_pairs(events),
        queued=_pairs(messages),
        cancel=cancel,
        kv=kv or {},
        kv_of=kv_of or {},
        instance_id=instance_id,
        start_ms=start_ms,
    )
    return simulation.run(dumps(input, what="input"), max_turns)


def resolve_function(function: Callable[..., Any] | str) -> tuple[str, str, Callable[..., Any]]:
    """Return (name, version, function) of an orchestration given by function or registered name.

    A function that isn't registered has the version that one registered without a version has.
    """
    if callable(function):
        name = str(getattr(function, "duroxide_orchestration_name", getattr(function, "__name__", "orchestration")))
        versions = default_registry.orchestrations.get(name, {})
        version = next((known.text for known, code in versions.items() if code is function), DEFAULT_VERSION)
        return name, version, function
    found = default_registry.resolve(function, None)
    if found is None:
        raise InvalidArgument(f"Can't run it: {default_registry.describe_missing(function, None)}; give its function.")
    return function, *found


def waits_of(execution: LiveExecution) -> list[str]:
    """Return in words what an execution waits for, in the order in which it began to."""
    leaves = [leaf for _, leaf in sorted(execution.open.items())]
    # After a history that ends within a turn.
    leaves += [action.leaf for action in execution.unmatched if action.leaf is not None]
    return [
        leaf.family if leaf.family == futures.TIMER else f"{leaf.family} {leaf.name!r}"
        for leaf in leaves
        if not leaf.dropped
    ]


class _Simulation:
    def __init__(
        self,
        function: Callable[..., Any] | str,
        *,
        activities: dict[str, Any],
        children: dict[str, Any],
        external: list[tuple[str, Any]],
        queued: list[tuple[str, Any]],
        cancel: str | None,
        kv: Mapping[str, str],
        kv_of: Mapping[str, Mapping[str, str]],
        instance_id: str,
        start_ms: int,
    ) -> None:
        self.name, self.version, self.function = resolve_function(function)
        self.activities, self.children = activities, children
        self.external, self.queued, self.cancel = external, queued, cancel
        self.kv_of = kv_of
        self.instance_id = instance_id
        self.start_ms = self.now_ms = start_ms
        self.kv_base = {key: (value, start_ms) for key, value in kv.items()}
        self.kv = dict(kv)
        self.execution = self._fresh()
        self.history: list[events.Event] = []
        self.outcome: Any = None
        self.traces: list[tuple[str, str]] = []
        self.timers: dict[int, int] = {}
        #: Activities without an answer that have a time limit: when it runs out, and how they fail.
        self.limited: dict[int, tuple[int, Failure]] = {}
        #: What waits for its stub: (schedule event, Call, stub, whether it is a child).
        self.scheduled: list[tuple[int, Call, Any, bool]] = []
        self._guids = itertools.count(1)
        self._rows = itertools.count(1)

    def run(self, input: str, max_turns: int) -> OrchestrationRun:
        mail = [self._message(messages.QUEUE_MESSAGE, name=queue, payload=data) for queue, data in self.queued]
        self._turn(mail, Start(input=input))
        for _ in range(max_turns):
            if self.outcome is not None or not (batch := self._next_batch()):
                break
            self._turn(batch)
        else:
            raise InvalidArgument(f"{self.name!r} did not come to an end within {max_turns} turns; does it loop?")
        found = self._found()
        self.execution.close()
        self._replay()
        return found

    def _fresh(self) -> LiveExecution:
        return LiveExecution(
            instance_id=self.instance_id,
            execution_id=1,
            name=self.name,
            version=self.version,
            function=self.function,
            kv_base=self.kv_base,
        )

    def _replay(self) -> None:
        execution = self._fresh()
        try:
            execution.replay(self.history)
        finally:
            execution.close()

    # Turns

    def _turn(self, batch: list[Message], start: Start | None = None) -> None:
        result = Turn(self.execution, self._environment()).run(batch, start)
        self.history += result.events
        self.outcome = result.outcome
        if self.outcome is None:
            self._take_work(result)
        for key, entry in result.kv.items():
            self.kv.pop(key, None)
            if entry is not None:
                self.kv[key] = entry[0]

    def _take_work(self, result: TurnResult) -> None:
        for source in result.cancelled_timers:
            self.timers.pop(source, None)
        self.timers.update(result.timers)
        unwanted = {event.source_event_id for event in result.events}
        self.scheduled = [entry for entry in self.scheduled if entry[0] not in unwanted]
        self.limited = {source: limit for source, limit in self.limited.items() if source not in unwanted}
        for activity in result.activities:
            call = Call(activity.name, loads(activity.input))
            stub = self._stub(self.activities, call, "activity")
            self.scheduled.append((activity.event_id, call, stub, False))
            if stub is NEVER:
                self._limit(activity)
        for child in result.children:
            call = Call(child.name, loads(child.input))
            self.scheduled.append((child.event_id or 0, call, self._stub(self.children, call, "orchestration"), True))

    def _limit(self, activity: NewActivity) -> None:
        """Keep the first time limit of an activity that never answers."""
        limits = activity.limits
        texts = (
            (limits.schedule_to_start_timeout_ms, f"timeout: no worker started activity {activity.name!r} in time"),
            (limits.timeout_ms, TIMED_OUT),
            (limits.heartbeat_timeout_ms, f"timeout: activity sent no heartbeat for {limits.heartbeat_timeout_ms} ms"),
        )
        after = min(((limit_ms, text) for limit_ms, text in texts if limit_ms is not None), default=None)
        if after is not None:
            self.limited[activity.event_id] = self.now_ms + after[0], timeout(after[1])

    def _stub(self, stubs: dict[str, Any], call: Call, what: str) -> Any:
        if call.name in stubs:
            return stubs[call.name]
        argument = "activities" if what == "activity" else "children"
        raise MissingStub(
            f"{self.name!r} scheduled the {what} {call.name!r} with input {call.input!r}, which has no stub; "
            f"add {argument}={{{call.name!r}: …}}."
        )

    def _environment(self) -> TurnEnvironment:
        return TurnEnvironment(
            now_ms=self.now_ms,
            new_guid=lambda: f"00000000-0000-4000-8000-{next(self._guids):012d}",
            random=lambda: 0.5,  # No jitter.
            read_kv=lambda instance_id, key: self.kv_of.get(instance_id, {}).get(key),
            trace=lambda level, text: self.traces.append((level, text)),
        )

    # What comes next

    def _next_batch(self) -> list[Message]:
        return self._answers() or self._awaited_event() or self._cancellation() or self._due_timers()

    def _answers(self) -> list[Message]:
        answered = [entry for entry in self.scheduled if entry[2] is not NEVER]
        self.scheduled = [entry for entry in self.scheduled if entry[2] is NEVER]
        return [self._answer(*entry) for entry in answered]

    def _answer(self, source: int, call: Call, stub: Any, is_child: bool) -> Message:
        try:
            value = _result_of(stub, call.input)
        except AssertionError:
            raise
        except Exception as exc:  # noqa: BLE001 - a stub raises what an activity may raise: anything
            failure = from_exception(exc, "OrchestrationFailed" if is_child else "ActivityFailed")
            if isinstance(exc, TaskTimeout) and not is_child:
                failure = timeout(str(exc))
            kind, text = messages.SUB_FAILED if is_child else messages.ACTIVITY_FAILED, failure.to_json()
        else:
            kind = messages.SUB_COMPLETED if is_child else messages.ACTIVITY_COMPLETED
            text = dumps(value, what=f"result of the stub of {call.name!r}")
        return Message(kind=kind, execution_id=1, event_id=source, payload=text)

    def _awaited_event(self) -> list[Message]:
        awaited = {leaf.name for leaf in self.execution.open.values() if leaf.family == futures.EVENT}
        for index, (name, data) in enumerate(self.external):
            if name in awaited:
                del self.external[index]
                return [self._message(messages.EXTERNAL_RAISED, name=name, payload=data)]
        return []

    def _cancellation(self) -> list[Message]:
        if self.cancel is None:
            return []
        reason, self.cancel = self.cancel, None
        return [Message(kind=messages.CANCEL, id=next(self._rows), payload=reason)]

    def _due_timers(self) -> list[Message]:
        moments = [*self.timers.items(), *((source, at_ms) for source, (at_ms, _) in self.limited.items())]
        if not moments:
            return []
        source, fire_at_ms = min(moments, key=lambda moment: (moment[1], moment[0]))
        self.now_ms = max(self.now_ms, fire_at_ms)
        if source in self.limited:
            _, failure = self.limited.pop(source)
            self.scheduled = [entry for entry in self.scheduled if entry[0] != source]
            kind = messages.ACTIVITY_FAILED
            return [Message(kind=kind, execution_id=1, event_id=source, payload=failure.to_json())]
        del self.timers[source]
        return [Message(kind=messages.TIMER_FIRED, execution_id=1, event_id=source, payload=str(fire_at_ms))]

    def _message(self, kind: str, *, name: str, payload: Any) -> Message:
        return Message(kind=kind, id=next(self._rows), name=name, payload=dumps(payload, what=f"data of {name!r}"))

    # What was found

    def _found(self) -> OrchestrationRun:
        status, output, error = ended(self.history)
        return OrchestrationRun(
            status=status,
            output=output,
            error=error,
            waits_for=waits_of(self.execution) if self.outcome is None else [],
            activities=self._calls(events.ActivityScheduled),
            children=self._calls(events.SubOrchestrationScheduled),
            started=self._calls(events.OrchestrationChained),
            timers=[event.fire_at_ms - event.timestamp_ms for event in self._kept(events.TimerCreated)],
            custom_statuses=[event.status for event in self._kept(events.CustomStatusUpdated)],
            kv=self.kv,
            traces=self.traces,
            elapsed_ms=self.now_ms - self.start_ms,
            history=[Event.of(event) for event in self.history],
        )

    def _calls(self, kind: type[events.Event]) -> list[Call]:
        # What ctx.utc_now() and its like record is no activity of the user's.
        kept = [event for event in self._kept(kind) if not event.name.startswith(RESERVED_PREFIX)]
        return [Call(event.name, loads(event.input)) for event in kept]

    def _kept(self, kind: type[events.Event]) -> list[Any]:
        return [event for event in self.history if isinstance(event, kind)]


def ended(history: list[events.Event]) -> tuple[str, Any, str | None]:
    """Return (status, output, error) of the execution that ``history`` records."""
    last = history[-1]
    if isinstance(last, events.OrchestrationCompleted):
        return OrchestrationStatus.COMPLETED, loads(last.output), None
    if isinstance(last, events.OrchestrationContinuedAsNew):
        return CONTINUED_AS_NEW, loads(last.input), None
    if isinstance(last, events.OrchestrationFailed):
        ((_, body),) = loads(last.details).items()
        return OrchestrationStatus.FAILED, None, str(body["message"])
    return OrchestrationStatus.RUNNING, None, None


def _result_of(stub: Any, input: Any) -> Any:
    if isinstance(stub, BaseException) or (isinstance(stub, type) and issubclass(stub, BaseException)):
        raise stub
    return stub(input) if callable(stub) else stub


def _pairs(given: Pairs) -> list[tuple[str, Any]]:
    return list(given.items() if isinstance(given, Mapping) else given)
