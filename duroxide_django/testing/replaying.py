"""replay(): whether code still does what a recorded history says it did."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from duroxide_django.engine.events import OrchestrationStarted, from_public
from duroxide_django.engine.limits import check_whole
from duroxide_django.engine.replay import LiveExecution
from duroxide_django.exceptions import InvalidArgument
from duroxide_django.results import Event
from duroxide_django.testing.simulation import ended, resolve_function, waits_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """Where an orchestration stands after its history.

    Attributes:
        status: Completed, Failed, ContinuedAsNew, or Running.
        output: the recorded output; the next execution's input if it continued as new.
        error: the recorded error text.
        waits_for: what it waits for if it is running, in words: ``event 'approved'``.
    """

    status: str
    output: Any = None
    error: str | None = None
    waits_for: list[str] = field(default_factory=list)


def replay(
    history: Iterable[Event | Mapping[str, Any]],
    function: Callable[..., Any] | str,
    *,
    kv: Mapping[str, str] | None = None,
    instance_id: str = "replayed",
    execution_id: int = 1,
    partial: bool = False,
) -> Replayed:
    """Replay one execution's recorded history on an orchestration; reads and writes nothing.

    Args:
        history: from ``Client.read_execution_history`` or ``OrchestrationRun.history``, or the decoded output of
            ``manage.py duroxide history ID --json``.
        function: the orchestration function, decorated or not, or the name of a registered one.
        kv: KV entries that an execution before had left, if this is not the first one.
        instance_id, execution_id: ``ctx.instance_id`` and ``ctx.execution_id``; give the original ones if the code
            uses them.
        partial: the history was cut and may end within a turn. Then code that does more than its last turn recorded is
            not noticed.

    Raises:
        NondeterminismError: the function doesn't do what the history says it did.
        CorruptHistory: it is no history, or has no beginning.
        InvalidArgument: no such orchestration, or something in ``history`` is no event.
    """
    name, version, code = resolve_function(function)
    recorded = [from_public(**_fields(event)) for event in history]
    if recorded and isinstance(recorded[0], OrchestrationStarted):
        version = recorded[0].version
    execution = LiveExecution(
        instance_id=instance_id,
        execution_id=check_whole(execution_id, "execution_id", least=1),
        name=name,
        version=version,
        function=code,
        kv_base={key: (value, 0) for key, value in (kv or {}).items()},
    )
    try:
        execution.replay(recorded, partial=partial)
        status, output, error = ended(recorded)
        waits_for = waits_of(execution) if status == "Running" else []
        return Replayed(status=status, output=output, error=error, waits_for=waits_for)
    finally:
        execution.close()


_FIELDS = ("event_id", "kind", "source_event_id", "timestamp_ms", "data")


def _fields(event: Event | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(event, Event):
        return {name: getattr(event, name) for name in _FIELDS}
    try:
        return {name: event[name] for name in _FIELDS}
    except (TypeError, KeyError) as exc:
        raise InvalidArgument(
            f"A history is made of events with the fields {', '.join(_FIELDS)}; got {event!r:.200}."
        ) from exc
