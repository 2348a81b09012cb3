"""What client calls return."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from duroxide_django.engine.events import Event as HistoryEvent


@dataclass(frozen=True, slots=True, kw_only=True)
class OrchestrationResult:
    """How an instance stands.

    Attributes:
        status: NotFound, Running, Completed or Failed.
        output: the decoded result of a completed instance.
        error: the error text of a failed one.
        custom_status, custom_status_version: its progress text, and how often that changed.
        is_cancelled: whether it failed by cancellation.
        error_details: the recorded failure as a mapping (class names, traceback), or None.
    """

    status: str
    output: Any = None
    error: str | None = None
    custom_status: str | None = None
    custom_status_version: int = 0
    is_cancelled: bool = False
    error_details: dict[str, Any] | None = None


class FinalVersion(int):
    """The custom status version of an ended instance, as wait_for_status_change() reports it: a number like any other.

    Handed back as last seen it tells that this caller knows the end. Only the object does so, not its value: whoever
    else waits with the same number hears of the end too.
    """

    def __new__(cls, version: int, life: int) -> Self:
        """
        Args:
            life: key of the ended life's row; an id that was taken again has another one.
        """
        made = super().__new__(cls, version)
        made._life = life
        return made

    _life: int

    def __getnewargs__(self) -> tuple[int, int]:  # type: ignore[override]
        return int(self), self._life

    def ended(self, life: int) -> bool:
        """Return whether it was that life whose end was reported."""
        return self._life == life


class OrchestrationStatus:
    """The values of ``OrchestrationResult.status``."""

    NOT_FOUND = "NotFound"
    RUNNING = "Running"
    COMPLETED = "Completed"
    FAILED = "Failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceInfo:
    """An instance; times in epoch milliseconds, output as raw text."""

    instance_id: str
    orchestration_name: str
    orchestration_version: str | None
    current_execution_id: int
    status: str
    output: str | None
    created_at: int
    updated_at: int
    parent_instance_id: str | None
    is_cancelled: bool = False
    completed_at: int | None = None
    custom_status: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionInfo:
    """One execution; times in epoch milliseconds, output as raw text."""

    execution_id: int
    status: str
    output: str | None
    started_at: int
    completed_at: int | None
    event_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceTree:
    """An instance with all its descendants."""

    root_id: str
    all_ids: list[str]

    @property
    def size(self) -> int:
        """How many instances the tree has."""
        return len(self.all_ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A history event as clients see it; data is JSON text with payloads embedded."""

    event_id: int
    kind: str
    source_event_id: int | None
    timestamp_ms: int
    data: str | None

    @classmethod
    def of(cls, event: HistoryEvent) -> Event:
        """Return what clients see of the engine's ``event``."""
        return cls(
            event_id=event.event_id,
            kind=event.kind,
            source_event_id=event.source_event_id,
            timestamp_ms=event.timestamp_ms,
            data=event.public_data(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemMetrics:
    """Counts over the whole store."""

    total_instances: int
    total_executions: int
    running_instances: int
    completed_instances: int
    failed_instances: int
    total_events: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemStats:
    """Sizes of one instance."""

    history_event_count: int
    history_size_bytes: int
    queue_pending_count: int
    kv_user_key_count: int
    kv_total_value_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueDepths:
    """Entries of the queues that no worker holds.

    Attributes:
        orchestrator_queue, worker_queue: all of them, those for later included.
        timer_queue: always 0: timers are orchestrator entries for later.
        orchestrator_ready, worker_ready: those that can be taken now.
        orchestrator_scheduled, worker_scheduled: those for later.
    """

    orchestrator_queue: int
    worker_queue: int
    timer_queue: int = 0
    orchestrator_ready: int = 0
    orchestrator_scheduled: int = 0
    worker_ready: int = 0
    worker_scheduled: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteInstanceResult:
    """What a deletion removed."""

    instances_deleted: int = 0
    executions_deleted: int = 0
    events_deleted: int = 0
    queue_messages_deleted: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneResult:
    """What pruning removed."""

    instances_processed: int = 0
    executions_deleted: int = 0
    events_deleted: int = 0


@dataclass(frozen=True, slots=True)
class InstanceFilter:
    """Which instances a bulk call takes; criteria are ANDed.

    Attributes:
        instance_ids: only these; an empty list takes none.
        completed_before: only those completed before this time, epoch milliseconds.
        limit: how many at the most.
    """

    instance_ids: list[str] | None = None
    completed_before: int | None = None
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class PruneOptions:
    """Which executions pruning takes; criteria are ANDed.

    Attributes:
        keep_last: keep so many newest executions; None, 0 and 1 keep the current one.
        completed_before: only those completed before this time, epoch milliseconds.
    """

    keep_last: int | None = None
    completed_before: int | None = None


def parse_result(value: Any) -> Any:
    """Unwrap ``{"ok": v}`` / ``{"err": e}``, alone or in a list (spec 16.14); raises TaskFailed for an ``err``."""
    from duroxide_django.exceptions import TaskFailed

    if isinstance(value, list):
        return [item["ok"] if isinstance(item, dict) and "ok" in item else item for item in value]
    if isinstance(value, dict):
        if "ok" in value:
            return value["ok"]
        if "err" in value:
            raise TaskFailed(str(value["err"]))
    return value
