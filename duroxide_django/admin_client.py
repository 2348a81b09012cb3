"""The client's administrative calls: inspecting, deleting, pruning, counting (spec 14.2 to 14.4)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

from duroxide_django.engine.limits import check_instance_id, check_text, check_whole
from duroxide_django.exceptions import ClientError, InstanceNotFound, InstanceStillRunning, InvalidArgument
from duroxide_django.results import (
    DeleteInstanceResult,
    Event,
    ExecutionInfo,
    InstanceFilter,
    InstanceInfo,
    InstanceTree,
    PruneOptions,
    PruneResult,
    QueueDepths,
    SystemMetrics,
    SystemStats,
)
from duroxide_django.storage import inspection, retention
from duroxide_django.storage.database import Database
from duroxide_django.storage.turns import decode

T = TypeVar("T")


class AdminClient:
    """Base of Client; needs no orchestration code.

    Attributes:
        db: the workflows' database.
    """

    def __init__(self, db: Database) -> None:
        self.db = db

    # Inspecting

    def list_all_instances(self, *, limit: int | None = None, before: str | None = None) -> list[str]:
        """Return instance ids, newest first.

        Args:
            limit: how many at the most; None: all.
            before: go on after this id (keyset paging).

        Raises:
            InstanceNotFound: ``before`` names no instance.
        """
        return self._list(limit=limit, before=before)

    def list_instances_by_status(
        self, status: str, *, limit: int | None = None, before: str | None = None, name: str | None = None
    ) -> list[str]:
        """Return the ids of instances whose current execution has ``status``; an unknown status gives none.

        Args:
            name: only this orchestration.
        """
        return self._list(status=check_text(status, "status"), limit=limit, before=before, name=name)

    def _list(
        self, *, limit: int | None, before: str | None, status: str | None = None, name: str | None = None
    ) -> list[str]:
        if limit is not None:
            check_whole(limit, "limit")
        if name is not None:
            check_text(name, "name")
        if before is not None and not inspection.exists(self.db, check_instance_id(before)):
            raise _not_found(before)
        return inspection.list_instances(self.db, status=status, limit=limit, before=before, name=name)

    def get_instance_info(self, instance_id: str) -> InstanceInfo:
        """Return an instance's row; raises InstanceNotFound."""
        found = self.get_instance_infos([instance_id])
        if not found:
            raise _not_found(instance_id)
        return found[0]

    def get_instance_infos(self, instance_ids: Sequence[str]) -> list[InstanceInfo]:
        """Return the rows of instances by one query, in the order of the ids; unknown ones are left out."""
        rows = inspection.instances(self.db, [check_instance_id(instance_id) for instance_id in instance_ids])
        return [InstanceInfo(**row) for row in rows]

    def get_execution_info(self, instance_id: str, execution_id: int) -> ExecutionInfo:
        """Return one execution; raises InstanceNotFound if there is no such instance or execution."""
        row = inspection.execution(self.db, check_instance_id(instance_id), check_whole(execution_id, "execution_id"))
        if row is None:
            raise InstanceNotFound(
                f"Execution {execution_id} of instance {instance_id!r} not found.", instance_id=instance_id
            )
        return ExecutionInfo(**row)

    def list_executions(self, instance_id: str) -> list[int]:
        """Return the execution ids, ascending; an unknown instance gives none."""
        return inspection.executions(self.db, check_instance_id(instance_id))

    def read_execution_history(self, instance_id: str, execution_id: int) -> list[Event]:
        """Return the history of one execution; an unknown one gives none."""
        stored = inspection.history(self.db, check_instance_id(instance_id), check_whole(execution_id, "execution_id"))
        return [Event.of(decode(event)) for event in stored]

    def get_instance_tree(self, instance_id: str) -> InstanceTree:
        """Return the instance with all its descendants; raises InstanceNotFound."""
        ids = inspection.tree(self.db, check_instance_id(instance_id))
        if not ids:
            raise _not_found(instance_id)
        return InstanceTree(root_id=instance_id, all_ids=ids)

    def get_system_metrics(self) -> SystemMetrics:
        """Return counts over the whole store."""
        return SystemMetrics(**inspection.system_metrics(self.db))

    def get_orchestration_stats(self, instance_id: str) -> SystemStats | None:
        """Return sizes of the instance's current execution, queues and KV; None if it is unknown."""
        row = inspection.stats(self.db, check_instance_id(instance_id))
        return None if row is None else SystemStats(**row)

    def get_queue_depths(self) -> QueueDepths:
        """Return how many entries wait in the queues."""
        return QueueDepths(**inspection.queue_depths(self.db))

    # Deleting and pruning

    def delete_instance(self, instance_id: str, force: bool = False) -> DeleteInstanceResult:
        """Delete a root instance with all its descendants, in the caller's transaction or one of its own.

        Args:
            force: delete it even if it, or one below it, is running.

        Raises:
            InstanceNotFound: no such instance.
            ClientError: it is a child; delete its root.
            InvalidArgument: ``force`` is no bool.
            InstanceStillRunning: it runs and ``force`` is not given.
        """
        given: object = force
        if not isinstance(given, bool):
            raise InvalidArgument(f"force must be True or False, got {force!r}.")
        with self.db.atomic():
            found = retention.lock_tree(self.db, check_instance_id(instance_id))
            if not found:
                raise _not_found(instance_id)
            if found[0].parent is not None:
                raise ClientError(
                    f"Instance {instance_id!r} is a sub-orchestration; delete its root instance instead.",
                    instance_id=instance_id,
                )
            running = next((row.instance_id for row in found if row.running), None)
            if running is not None and not force:
                raise InstanceStillRunning(
                    f"Instance {running!r} is still running; cancel it first or use force.",
                    instance_id=instance_id,
                )
            return DeleteInstanceResult(**retention.delete_rows(self.db, [row.key for row in found]))

    def delete_instance_bulk(self, filter: InstanceFilter | None = None) -> DeleteInstanceResult:
        """Delete ended root instances with their descendants; running ones are skipped.

        Args:
            filter: which ones; None: all, 1000 at the most.
        """
        chosen = _checked_filter(filter)
        totals: dict[str, int] = {}
        for instance_id in retention.deletable_roots(
            self.db,
            instance_ids=chosen.instance_ids,
            completed_before_ms=chosen.completed_before,
            limit=chosen.limit if chosen.limit is not None else retention.BULK_LIMIT,
        ):
            try:
                deleted = self.delete_instance(instance_id)
            except (InstanceStillRunning, InstanceNotFound):
                continue
            for name in DeleteInstanceResult.__dataclass_fields__:
                totals[name] = totals.get(name, 0) + getattr(deleted, name)
        return DeleteInstanceResult(**totals)

    def prune_executions(self, instance_id: str, options: PruneOptions | None = None) -> PruneResult:
        """Delete old executions of an instance with their history; never the current one nor a running one.

        Raises:
            InstanceNotFound: no such instance.
        """
        chosen = _checked_options(options)
        if not inspection.tree(self.db, check_instance_id(instance_id)):
            raise _not_found(instance_id)
        with self.db.atomic():
            executions, events = retention.prune(
                self.db,
                [instance_id],
                keep_last=chosen.keep_last,
                completed_before_ms=chosen.completed_before,
            )
        return PruneResult(instances_processed=1, executions_deleted=executions, events_deleted=events)

    def prune_executions_bulk(
        self, filter: InstanceFilter | None = None, options: PruneOptions | None = None
    ) -> PruneResult:
        """Prune many instances; see prune_executions()."""
        chosen, what = _checked_filter(filter), _checked_options(options)
        ids = retention.prunable(
            self.db,
            instance_ids=chosen.instance_ids,
            completed_before_ms=chosen.completed_before,
            limit=chosen.limit if chosen.limit is not None else retention.BULK_LIMIT,
        )
        with self.db.atomic():
            executions, events = retention.prune(
                self.db, ids, keep_last=what.keep_last, completed_before_ms=what.completed_before
            )
        return PruneResult(instances_processed=len(ids), executions_deleted=executions, events_deleted=events)


def _checked_filter(given: InstanceFilter | None) -> InstanceFilter:
    chosen = _checked_type(given, InstanceFilter)
    ids: object = chosen.instance_ids
    if ids is not None:
        if isinstance(ids, (str, bytes)) or not isinstance(ids, Iterable):
            raise InvalidArgument(f"instance_ids must be a list of ids, got {type(ids).__name__}.")
        chosen = replace(chosen, instance_ids=[check_instance_id(instance_id) for instance_id in ids])
    for name in ("completed_before", "limit"):
        if getattr(chosen, name) is not None:
            check_whole(getattr(chosen, name), name)
    return chosen


def _checked_type(given: T | None, wanted: type[T]) -> T:
    found: object = wanted() if given is None else given
    if not isinstance(found, wanted):
        raise InvalidArgument(f"Expected {wanted.__name__}(…), got {type(found).__name__}.")
    return found


def _checked_options(given: PruneOptions | None) -> PruneOptions:
    chosen = _checked_type(given, PruneOptions)
    for name in ("keep_last", "completed_before"):
        if getattr(chosen, name) is not None:
            check_whole(getattr(chosen, name), name)
    return chosen


def _not_found(instance_id: str) -> InstanceNotFound:
    return InstanceNotFound(f"Instance {instance_id!r} not found.", instance_id=instance_id)
