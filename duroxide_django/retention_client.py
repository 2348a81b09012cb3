"""The client's calls for keeping the database small: deleting families of ended instances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from duroxide_django import retention_policy
from duroxide_django.conf import settings
from duroxide_django.engine.limits import check_text, check_whole
from duroxide_django.exceptions import InvalidArgument
from duroxide_django.storage import pruning
from duroxide_django.storage.database import Database
from duroxide_django.storage.pruning import COUNTERS, Selection


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneInstancesResult:
    """What pruning removed, or would remove: families, and what they consisted of.

    Attributes:
        orchestrations: the same by the orchestration of the families' roots.
    """

    families: int = 0
    instances_deleted: int = 0
    executions_deleted: int = 0
    events_deleted: int = 0
    queue_messages_deleted: int = 0
    orchestrations: dict[str, PruneInstancesResult] = field(default_factory=dict)


class RetentionClient:
    """Mixed into Client.

    Attributes:
        db: the workflows' database.
    """

    db: Database

    def prune_instances(
        self,
        completed_before: int,
        *,
        name: str | None = None,
        status: str | None = None,
        limit: int | None = None,
        batch_size: int = 100,
        dry_run: bool = False,
    ) -> PruneInstancesResult:
        """Delete families of instances that have ended, root and descendants, before a time.

        Each batch is a transaction of its own, unless the caller has one open.

        Args:
            completed_before: epoch milliseconds; every member must have ended before.
            name: only roots of this orchestration.
            status: only roots that are ``Completed``, or ``Failed``; None: both.
            limit: how many families at the most; None: all.
            batch_size: families in one transaction.
            dry_run: delete nothing, only count.
        """
        if status not in (None, "Completed", "Failed"):
            raise InvalidArgument(f"status must be Completed or Failed, got {status!r}; others are never pruned.")
        before = check_whole(completed_before, "completed_before")
        only = None if name is None else check_text(name, "name")
        selections = [
            Selection(completed_before_ms=before, name=only, status=one)
            for one in (("Completed", "Failed") if status is None else (status,))
        ]
        return self._prune(selections, limit=limit, batch_size=batch_size, dry_run=dry_run)

    def apply_retention(
        self, *, limit: int | None = None, batch_size: int = 100, dry_run: bool = False
    ) -> PruneInstancesResult:
        """Delete once what the setting RETENTION no longer keeps, as workers do in the background.

        Args:
            limit, batch_size, dry_run: see prune_instances().

        Raises:
            ConfigurationError: the setting is wrong.
        """
        return self._prune(selections(self.db.now_ms()), limit=limit, batch_size=batch_size, dry_run=dry_run)

    def _prune(
        self, chosen: Sequence[Selection], *, limit: int | None, batch_size: int, dry_run: bool
    ) -> PruneInstancesResult:
        size = check_whole(batch_size, "batch_size", least=1)
        left = None if limit is None else check_whole(limit, "limit")
        totals: dict[str, dict[str, int]] = {}
        for selection in chosen:
            for roots in pruning.batches(self.db, selection, size=size):
                done = sum(total["families"] for total in totals.values())
                if left is not None and done >= left:
                    break
                room = len(roots) if left is None else left - done
                with self.db.atomic():
                    counted = pruning.prune(self.db, roots, selection, room=room, dry_run=dry_run)
                for name, counts in counted.items():
                    total = totals.setdefault(name, dict.fromkeys(COUNTERS, 0))
                    for counter in COUNTERS:
                        total[counter] += counts[counter]
        whole = dict.fromkeys(COUNTERS, 0)
        for total in totals.values():
            for counter in COUNTERS:
                whole[counter] += total[counter]
        return _result(whole, {name: _result(totals[name], {}) for name in sorted(totals)})


def _result(counts: dict[str, int], orchestrations: dict[str, PruneInstancesResult]) -> PruneInstancesResult:
    return PruneInstancesResult(
        families=counts["families"],
        instances_deleted=counts["instances_deleted"],
        executions_deleted=counts["executions_deleted"],
        events_deleted=counts["events_deleted"],
        queue_messages_deleted=counts["queue_messages_deleted"],
        orchestrations=orchestrations,
    )


def selections(now_ms: int) -> list[Selection]:
    """Return what the setting RETENTION selects now; raises ConfigurationError.

    Args:
        now_ms: epoch milliseconds.
    """
    return [
        Selection(
            completed_before_ms=max(0, now_ms - rule.age_ms),
            status=rule.status,
            name=rule.name,
            excluding=rule.excluding,
        )
        for rule in retention_policy.parse(settings.RETENTION)
    ]
