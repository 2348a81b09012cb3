"""The client's async twins: ``a`` + name, as Django does. Database work runs in Django's thread for it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, cast

from asgiref.sync import sync_to_async

from duroxide_django.engine.context import Named
from duroxide_django.exceptions import WaitTimeout
from duroxide_django.operations_client import AuditEntry
from duroxide_django.results import (
    DeleteInstanceResult,
    Event,
    ExecutionInfo,
    InstanceFilter,
    InstanceInfo,
    InstanceTree,
    OrchestrationResult,
    PruneOptions,
    PruneResult,
    QueueDepths,
    SystemMetrics,
    SystemStats,
)
from duroxide_django.retention_client import PruneInstancesResult
from duroxide_django.storage.findings import Finding
from duroxide_django.storage.health import OVERDUE_MS
from duroxide_django.storage.pending import Pending
from duroxide_django.storage.rewind_plan import Rewound

if TYPE_CHECKING:
    from duroxide_django.client import Client


class AsyncTwins:
    """Mixed into Client."""

    @property
    def _sync(self) -> Client:
        return cast("Client", self)

    async def astart_orchestration(
        self, instance_id: str, name: Named, input: Any = None, *, on_conflict: str = "fail"
    ) -> str:
        """See start_orchestration()."""
        return await sync_to_async(self._sync.start_orchestration)(instance_id, name, input, on_conflict=on_conflict)

    async def astart_orchestration_versioned(
        self, instance_id: str, name: Named, input: Any, version: str, *, on_conflict: str = "fail"
    ) -> str:
        """See start_orchestration_versioned()."""
        return await sync_to_async(self._sync.start_orchestration_versioned)(
            instance_id, name, input, version, on_conflict=on_conflict
        )

    async def astart_many(self, starts: Iterable[tuple[str, Named, Any]]) -> list[str]:
        """See start_many()."""
        return await sync_to_async(self._sync.start_many)(starts)

    async def araise_event(self, instance_id: str, name: str, data: Any = None) -> bool:
        """See raise_event()."""
        return await sync_to_async(self._sync.raise_event)(instance_id, name, data)

    async def aenqueue_event(self, instance_id: str, queue: str, data: Any = None) -> bool:
        """See enqueue_event()."""
        return await sync_to_async(self._sync.enqueue_event)(instance_id, queue, data)

    async def acancel_instance(self, instance_id: str, reason: str | None = None, *, force: bool = False) -> bool:
        """See cancel_instance()."""
        return await sync_to_async(self._sync.cancel_instance)(instance_id, reason, force=force)

    async def aget_status(self, instance_id: str) -> OrchestrationResult:
        """See get_status()."""
        return await sync_to_async(self._sync.get_status)(instance_id)

    async def aget_kv_value(self, instance_id: str, key: str) -> str | None:
        """See get_kv_value()."""
        return await sync_to_async(self._sync.get_kv_value)(instance_id, key)

    async def aget_kv_value_typed(self, instance_id: str, key: str) -> Any:
        """See get_kv_value_typed()."""
        return await sync_to_async(self._sync.get_kv_value_typed)(instance_id, key)

    async def aget_kv_all_values(self, instance_id: str) -> dict[str, str]:
        """See get_kv_all_values()."""
        return await sync_to_async(self._sync.get_kv_all_values)(instance_id)

    async def alist_all_instances(self, *, limit: int | None = None, before: str | None = None) -> list[str]:
        """See list_all_instances()."""
        return await sync_to_async(self._sync.list_all_instances)(limit=limit, before=before)

    async def alist_instances_by_status(
        self, status: str, *, limit: int | None = None, before: str | None = None, name: str | None = None
    ) -> list[str]:
        """See list_instances_by_status()."""
        return await sync_to_async(self._sync.list_instances_by_status)(status, limit=limit, before=before, name=name)

    async def aget_instance_info(self, instance_id: str) -> InstanceInfo:
        """See get_instance_info()."""
        return await sync_to_async(self._sync.get_instance_info)(instance_id)

    async def aget_instance_infos(self, instance_ids: Sequence[str]) -> list[InstanceInfo]:
        """See get_instance_infos()."""
        return await sync_to_async(self._sync.get_instance_infos)(instance_ids)

    async def aget_execution_info(self, instance_id: str, execution_id: int) -> ExecutionInfo:
        """See get_execution_info()."""
        return await sync_to_async(self._sync.get_execution_info)(instance_id, execution_id)

    async def alist_executions(self, instance_id: str) -> list[int]:
        """See list_executions()."""
        return await sync_to_async(self._sync.list_executions)(instance_id)

    async def aread_execution_history(self, instance_id: str, execution_id: int) -> list[Event]:
        """See read_execution_history()."""
        return await sync_to_async(self._sync.read_execution_history)(instance_id, execution_id)

    async def aget_instance_tree(self, instance_id: str) -> InstanceTree:
        """See get_instance_tree()."""
        return await sync_to_async(self._sync.get_instance_tree)(instance_id)

    async def aget_system_metrics(self) -> SystemMetrics:
        """See get_system_metrics()."""
        return await sync_to_async(self._sync.get_system_metrics)()

    async def aget_orchestration_stats(self, instance_id: str) -> SystemStats | None:
        """See get_orchestration_stats()."""
        return await sync_to_async(self._sync.get_orchestration_stats)(instance_id)

    async def aget_queue_depths(self) -> QueueDepths:
        """See get_queue_depths()."""
        return await sync_to_async(self._sync.get_queue_depths)()

    async def adelete_instance(self, instance_id: str, force: bool = False) -> DeleteInstanceResult:
        """See delete_instance()."""
        return await sync_to_async(self._sync.delete_instance)(instance_id, force)

    async def adelete_instance_bulk(self, filter: InstanceFilter | None = None) -> DeleteInstanceResult:
        """See delete_instance_bulk()."""
        return await sync_to_async(self._sync.delete_instance_bulk)(filter)

    async def aprune_executions(self, instance_id: str, options: PruneOptions | None = None) -> PruneResult:
        """See prune_executions()."""
        return await sync_to_async(self._sync.prune_executions)(instance_id, options)

    async def aprune_executions_bulk(
        self, filter: InstanceFilter | None = None, options: PruneOptions | None = None
    ) -> PruneResult:
        """See prune_executions_bulk()."""
        return await sync_to_async(self._sync.prune_executions_bulk)(filter, options)

    # Operating

    async def afind_instances(
        self,
        *,
        status: str | None = None,
        name: str | None = None,
        limit: int | None = None,
        before: str | None = None,
    ) -> list[str]:
        """See find_instances()."""
        return await sync_to_async(self._sync.find_instances)(status=status, name=name, limit=limit, before=before)

    async def aget_blocked(self, instance_id: str) -> dict[str, Any] | None:
        """See get_blocked()."""
        return await sync_to_async(self._sync.get_blocked)(instance_id)

    async def aexamine_health(self, *, overdue_ms: int = OVERDUE_MS) -> list[Finding]:
        """See examine_health()."""
        return await sync_to_async(self._sync.examine_health)(overdue_ms=overdue_ms)

    async def alist_pending(self, instance_id: str) -> list[Pending]:
        """See list_pending()."""
        return await sync_to_async(self._sync.list_pending)(instance_id)

    async def acount_live_versions(self) -> dict[tuple[str, str | None], int]:
        """See count_live_versions()."""
        return await sync_to_async(self._sync.count_live_versions)()

    async def apause_instance(self, instance_id: str, *, reason: str = "", actor: str = "") -> None:
        """See pause_instance()."""
        await sync_to_async(self._sync.pause_instance)(instance_id, reason=reason, actor=actor)

    async def aresume_instance(self, instance_id: str, *, reason: str = "", actor: str = "") -> None:
        """See resume_instance()."""
        await sync_to_async(self._sync.resume_instance)(instance_id, reason=reason, actor=actor)

    async def acomplete_activity(
        self, instance_id: str, event_id: int, result: Any = None, *, reason: str = "", actor: str = ""
    ) -> str:
        """See complete_activity()."""
        return await sync_to_async(self._sync.complete_activity)(
            instance_id, event_id, result, reason=reason, actor=actor
        )

    async def afail_activity(
        self, instance_id: str, event_id: int, error: str, *, retryable: bool = True, reason: str = "", actor: str = ""
    ) -> str:
        """See fail_activity()."""
        return await sync_to_async(self._sync.fail_activity)(
            instance_id, event_id, error, retryable=retryable, reason=reason, actor=actor
        )

    async def aretry_activity_now(self, instance_id: str, event_id: int, *, reason: str = "", actor: str = "") -> str:
        """See retry_activity_now()."""
        return await sync_to_async(self._sync.retry_activity_now)(instance_id, event_id, reason=reason, actor=actor)

    async def aretry_instance(self, instance_id: str, *, reason: str = "", actor: str = "") -> Rewound:
        """See retry_instance()."""
        return await sync_to_async(self._sync.retry_instance)(instance_id, reason=reason, actor=actor)

    async def arewind_instance(
        self,
        instance_id: str,
        event_id: int,
        *,
        rerun_activities: bool = False,
        redeliver: bool = True,
        reason: str = "",
        actor: str = "",
    ) -> Rewound:
        """See rewind_instance()."""
        return await sync_to_async(self._sync.rewind_instance)(
            instance_id,
            event_id,
            rerun_activities=rerun_activities,
            redeliver=redeliver,
            reason=reason,
            actor=actor,
        )

    async def apreview_rewind(
        self, instance_id: str, event_id: int, *, rerun_activities: bool = False, redeliver: bool = True
    ) -> Rewound:
        """See preview_rewind()."""
        return await sync_to_async(self._sync.preview_rewind)(
            instance_id, event_id, rerun_activities=rerun_activities, redeliver=redeliver
        )

    async def afork_instance(
        self,
        instance_id: str,
        new_instance_id: str,
        *,
        event_id: int | None = None,
        rerun_activities: bool = False,
        redeliver: bool = True,
        reason: str = "",
        actor: str = "",
    ) -> Rewound:
        """See fork_instance()."""
        return await sync_to_async(self._sync.fork_instance)(
            instance_id,
            new_instance_id,
            event_id=event_id,
            rerun_activities=rerun_activities,
            redeliver=redeliver,
            reason=reason,
            actor=actor,
        )

    async def apreview_fork(
        self,
        instance_id: str,
        *,
        event_id: int | None = None,
        rerun_activities: bool = False,
        redeliver: bool = True,
    ) -> Rewound:
        """See preview_fork()."""
        return await sync_to_async(self._sync.preview_fork)(
            instance_id, event_id=event_id, rerun_activities=rerun_activities, redeliver=redeliver
        )

    async def alist_audit_records(self, instance_id: str | None = None, *, limit: int = 100) -> list[AuditEntry]:
        """See list_audit_records()."""
        return await sync_to_async(self._sync.list_audit_records)(instance_id, limit=limit)

    async def aprune_instances(
        self,
        completed_before: int,
        *,
        name: str | None = None,
        status: str | None = None,
        limit: int | None = None,
        batch_size: int = 100,
        dry_run: bool = False,
    ) -> PruneInstancesResult:
        """See prune_instances()."""
        return await sync_to_async(self._sync.prune_instances)(
            completed_before, name=name, status=status, limit=limit, batch_size=batch_size, dry_run=dry_run
        )

    async def aapply_retention(
        self, *, limit: int | None = None, batch_size: int = 100, dry_run: bool = False
    ) -> PruneInstancesResult:
        """See apply_retention()."""
        return await sync_to_async(self._sync.apply_retention)(limit=limit, batch_size=batch_size, dry_run=dry_run)

    astart_orchestration_typed = astart_orchestration
    astart_orchestration_versioned_typed = astart_orchestration_versioned
    araise_event_typed = araise_event
    aenqueue_event_typed = aenqueue_event

    # Waits look in Django's thread and pause in the event loop, so that others are served meanwhile.

    async def await_for_orchestration(self, instance_id: str, timeout_ms: int = 30_000) -> OrchestrationResult:
        """See wait_for_orchestration()."""
        return await self._sync._until_ended(instance_id, timeout_ms).arun(self._sync.db)

    async def await_for_orchestration_typed(
        self, instance_id: str, timeout_ms: int = 30_000, result_type: Any = None
    ) -> Any:
        """See wait_for_orchestration_typed()."""
        result = await self.await_for_orchestration(instance_id, timeout_ms)
        return self._sync._output(result, instance_id, result_type)

    async def await_for_status_change(
        self, instance_id: str, last_seen_version: int = 0, poll_interval_ms: int = 200, timeout_ms: int = 30_000
    ) -> OrchestrationResult | None:
        """See wait_for_status_change()."""
        wait = self._sync._until_status_change(instance_id, last_seen_version, poll_interval_ms, timeout_ms)
        try:
            return await wait.arun(self._sync.db)
        except WaitTimeout:
            return None

    async def await_for_kv_value(self, instance_id: str, key: str, timeout_ms: int = 30_000) -> str:
        """See wait_for_kv_value()."""
        return await self._sync._until_kv_value(instance_id, key, timeout_ms).arun(self._sync.db)

    async def await_for_kv_value_typed(self, instance_id: str, key: str, timeout_ms: int = 30_000) -> Any:
        """See wait_for_kv_value_typed()."""
        return json.loads(await self.await_for_kv_value(instance_id, key, timeout_ms))
