"""The client's calls for operators: health, what an instance waits for, and repairs that leave an audit record."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from duroxide_django import wakeups
from duroxide_django.conf import settings
from duroxide_django.engine import messages
from duroxide_django.engine.codecs import dumps
from duroxide_django.engine.failures import MAX_MESSAGE_CHARS, Failure
from duroxide_django.engine.limits import check_instance_id, check_text, check_whole
from duroxide_django.exceptions import InstanceNotFound, InvalidArgument
from duroxide_django.retention_client import RetentionClient
from duroxide_django.storage import (
    audit,
    fork,
    health,
    inspection,
    operations,
    overview,
    reencode,
    retention,
    rewind,
    rewind_plan,
)
from duroxide_django.storage.database import Database
from duroxide_django.storage.findings import Finding
from duroxide_django.storage.pending import Pending, pending
from duroxide_django.storage.reencode import Reencoded
from duroxide_django.storage.rewind_plan import Manner, Rewound

#: Longest reason of an intervention, in characters.
MAX_REASON_CHARS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """One intervention of an operator.

    Attributes:
        at_ms: when, epoch milliseconds.
        verb: what was done.
        actor: who did it; empty if they did not say.
        details: what it found or changed.
    """

    at_ms: int
    verb: str
    instance_id: str
    actor: str
    reason: str
    details: dict[str, Any]


class OperationsClient(RetentionClient):
    """Mixed into Client.

    Attributes:
        db: the workflows' database.
    """

    db: Database

    # Looking

    def find_instances(
        self,
        *,
        status: str | None = None,
        name: str | None = None,
        limit: int | None = None,
        before: str | None = None,
    ) -> list[str]:
        """Return instance ids, newest first.

        Args:
            status, name: only those of this status, of this orchestration.
            limit: how many at the most; None: all.
            before: go on after this id (keyset paging).

        Raises:
            InstanceNotFound: ``before`` names no instance.
        """
        if before is not None:
            self._check_exists(before)
        return inspection.list_instances(
            self.db,
            status=None if status is None else check_text(status, "status"),
            name=None if name is None else check_text(name, "name"),
            limit=None if limit is None else check_whole(limit, "limit"),
            before=before,
        )

    def get_blocked(self, instance_id: str) -> dict[str, Any] | None:
        """Return why an instance can't go on (reason, message, …), or None; raises InstanceNotFound."""
        self._check_exists(instance_id)
        return health.blocked_reason(self.db, instance_id)

    def examine_health(self, *, overdue_ms: int = health.OVERDUE_MS) -> list[Finding]:
        """Return everything that needs a person's attention, problems first (``manage.py duroxide doctor``).

        Args:
            overdue_ms: how long work may be due before it counts as overdue, milliseconds.
        """
        return health.examine(self.db, overdue_ms=overdue_ms)

    def list_pending(self, instance_id: str) -> list[Pending]:
        """Return what an instance waits for; nothing if it has ended; raises InstanceNotFound."""
        self._check_exists(instance_id)
        return pending(self.db, instance_id)

    def count_live_versions(self) -> dict[tuple[str, str | None], int]:
        """Return how many instances have not ended, by orchestration and version (None: not decided yet)."""
        return health.live_versions(self.db)

    def _check_exists(self, instance_id: str) -> None:
        if not inspection.exists(self.db, check_instance_id(instance_id)):
            raise InstanceNotFound(f"Instance {instance_id!r} not found.", instance_id=instance_id)

    # Repairing; each call commits together with its audit record

    def pause_instance(self, instance_id: str, *, reason: str = "", actor: str = "") -> None:
        """Keep an instance from going on until it is resumed; what reaches it waits.

        Activities that run now go on. A forced cancel still ends it.

        Args:
            reason: why; shown wherever the instance is, and recorded.
            actor: who asks for it, for the audit record.

        Raises:
            InstanceNotFound: no such instance.
            InvalidArgument: it has ended.
        """
        with self._intervention("pause", instance_id, reason, actor):
            message = f"paused{f' by {actor}' if actor else ''}{f': {reason}' if reason else ''}"
            if not operations.pause(self.db, instance_id, message=message):
                raise InvalidArgument(f"Instance {instance_id!r} has ended; it can't be paused.")

    def resume_instance(self, instance_id: str, *, reason: str = "", actor: str = "") -> None:
        """Let a paused instance go on, or try a blocked one again at once; see pause_instance().

        Raises:
            InvalidArgument: it is neither paused nor blocked, or a worker is trying it now.
        """
        with self._intervention("resume", instance_id, reason, actor):
            if not operations.resume(self.db, instance_id):
                raise InvalidArgument(f"Instance {instance_id!r} is neither paused nor blocked.")

    def complete_activity(
        self, instance_id: str, event_id: int, result: Any = None, *, reason: str = "", actor: str = ""
    ) -> str:
        """Give a pending activity its result by hand; a worker that runs it loses it. Returns the activity's name.

        Args:
            event_id: its schedule event (see list_pending()).
            result: any JSON-able value.
            reason, actor: see pause_instance().

        Raises:
            InstanceNotFound: no such instance.
            InvalidArgument: no activity with this event waits or runs, or the result can't be carried.
        """
        payload = dumps(result, what="activity result", max_bytes=settings.MAX_PAYLOAD_BYTES)
        return self._answer(
            "complete_activity", instance_id, event_id, messages.ACTIVITY_COMPLETED, payload, reason, actor
        )

    def fail_activity(
        self, instance_id: str, event_id: int, error: str, *, retryable: bool = True, reason: str = "", actor: str = ""
    ) -> str:
        """Let a pending activity fail by hand; see complete_activity().

        Args:
            error: the failure's text.
            retryable: whether the orchestration's retry policy may try it again.
        """
        text = check_text(error, "error", max_chars=MAX_MESSAGE_CHARS)
        failure = Failure(kind="ActivityFailed", message=text, error_types=("OperatorDecision",), retryable=retryable)
        kind = messages.ACTIVITY_FAILED
        return self._answer("fail_activity", instance_id, event_id, kind, failure.to_json(), reason, actor)

    def _answer(
        self, verb: str, instance_id: str, event_id: int, kind: str, payload: str, reason: str, actor: str
    ) -> str:
        details: dict[str, Any] = {"event_id": check_whole(event_id, "event_id")}
        with self._intervention(verb, instance_id, reason, actor, details):
            name = operations.answer_activity(self.db, instance_id, event_id, kind=kind, payload=payload)
            if name is None:
                raise InvalidArgument(f"Instance {instance_id!r} has no pending activity with event {event_id}.")
            details["activity"] = name
        return name

    def retry_activity_now(self, instance_id: str, event_id: int, *, reason: str = "", actor: str = "") -> str:
        """Let a waiting activity be fetched at once, with all its attempts; or let a timer fire now, for example
        the one before a retry. Returns the activity's name, or ``timer``.

        Args:
            event_id: the schedule event (see list_pending()).
            reason, actor: see pause_instance().

        Raises:
            InstanceNotFound: no such instance.
            InvalidArgument: nothing with this event waits; an activity that runs now can't be hurried.
        """
        details: dict[str, Any] = {"event_id": check_whole(event_id, "event_id")}
        with self._intervention("retry_activity_now", instance_id, reason, actor, details):
            name = operations.hurry(self.db, instance_id, event_id)
            if name is None:
                raise InvalidArgument(f"Instance {instance_id!r} has nothing with event {event_id} that waits.")
            details["activity"] = name
        return name

    def retry_instance(self, instance_id: str, *, reason: str = "", actor: str = "") -> Rewound:
        """Let a failed instance go on from its last good event, with its failed children.

        What followed is removed from its history. Activities whose failure ended it run again, time limits that ended
        it begin again; what had arrived meanwhile is delivered again; work that the code scheduled after the failure (a
        clean-up) and that was done is not undone, and the code may schedule it again.

        Returns:
            what was taken back; ``repeats`` says that only changed code can lead to another end.

        Raises:
            InstanceNotFound: no such instance.
            InvalidArgument: it has not failed, or it is a child: retry its root.
        """
        details: dict[str, Any] = {}
        with self._intervention("retry", instance_id, reason, actor, details):
            plan = rewind_plan.of_retry(self.db, self._lock(instance_id))
            rewound = rewind.carry_out(self.db, plan)
            details |= asdict(rewound)
        return rewound

    def rewind_instance(
        self,
        instance_id: str,
        event_id: int,
        *,
        rerun_activities: bool = False,
        redeliver: bool = True,
        reason: str = "",
        actor: str = "",
    ) -> Rewound:
        """Take an instance, open or ended, back to an earlier event of its current execution, and let it go on there.

        What followed is removed from its history, with the children that were started then. It is cut where a turn
        ended, at that event or before it.

        Args:
            event_id: the last event to keep; 0: none, the execution begins anew.
            rerun_activities: whether activities run again whose results are removed; else their results are delivered
                again.
            redeliver: whether events and queue messages that are removed are delivered again. What the instance has
                not consumed yet waits on in any case.
            reason, actor: see pause_instance().

        Returns:
            what was taken back; preview_rewind() tells before.

        Raises:
            InstanceNotFound: no such instance.
            InvalidArgument: nothing follows that event, the instance has not begun, or it is a child that has ended.
        """
        manner = Manner(rerun=rerun_activities, redeliver=redeliver)
        details = _details(check_whole(event_id, "event_id"), manner)
        with self._intervention("rewind", instance_id, reason, actor, details):
            plan = rewind_plan.of_rewind(self.db, self._lock(instance_id), keep=event_id, manner=manner)
            rewound = rewind.carry_out(self.db, plan)
            details |= asdict(rewound)
        return rewound

    def preview_rewind(
        self, instance_id: str, event_id: int, *, rerun_activities: bool = False, redeliver: bool = True
    ) -> Rewound:
        """Return what rewind_instance() would take back, run again and delete; changes nothing."""
        manner = Manner(rerun=rerun_activities, redeliver=redeliver)
        keep = check_whole(event_id, "event_id")
        return rewind_plan.of_rewind(self.db, self._key(instance_id), keep=keep, manner=manner).summary()

    def fork_instance(
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
        """Start a new instance as a copy of another one's current execution, from an event on; that one stays as it is.

        See rewind_instance(): the copy is taken back in the same way. Activities that were open run for the copy too.
        Code that uses ``ctx.instance_id`` for ids or inputs may not fit the copied history; the copy is parked then,
        and can be rewound to 0.

        Args:
            event_id: the last event to copy; 0: none, it begins with the same input; None: everything that is good,
                and nothing of a child whose failure ended the original.

        Returns:
            what the copy took over; preview_fork() tells before.

        Raises:
            InstanceAlreadyExists: there is an instance with the new id.
            InvalidArgument: also: a child runs at that event.
        """
        check_instance_id(new_instance_id)
        manner = Manner(rerun=rerun_activities, redeliver=redeliver)
        keep = None if event_id is None else check_whole(event_id, "event_id")
        details = {"new_instance_id": new_instance_id, **_details(keep, manner)}
        with self._intervention("fork", instance_id, reason, actor, details):
            plan = rewind_plan.of_fork(self.db, self._lock(instance_id), keep=keep, manner=manner)
            forked = fork.fork(self.db, plan, new_instance_id)
            details |= asdict(forked)
            origin = {"forked_from": instance_id, "kept_events": forked.kept_events}
            audit.record(self.db, "fork", new_instance_id, actor=actor, reason=reason, details=origin)
        return forked

    def preview_fork(
        self,
        instance_id: str,
        *,
        event_id: int | None = None,
        rerun_activities: bool = False,
        redeliver: bool = True,
    ) -> Rewound:
        """Return what a copy by fork_instance() would take over and run; its ``instance_ids`` name the original."""
        manner = Manner(rerun=rerun_activities, redeliver=redeliver)
        keep = None if event_id is None else check_whole(event_id, "event_id")
        return rewind_plan.of_fork(self.db, self._key(instance_id), keep=keep, manner=manner).summary()

    def _lock(self, instance_id: str) -> int:
        """Lock an instance with its family; returns its key."""
        family = retention.lock_tree(self.db, instance_id)
        if not family:
            raise InstanceNotFound(f"Instance {instance_id!r} not found.", instance_id=instance_id)
        return family[0].key

    def _key(self, instance_id: str) -> int:
        key = overview.key_of(self.db, check_instance_id(instance_id))
        if key is None:
            raise InstanceNotFound(f"Instance {instance_id!r} not found.", instance_id=instance_id)
        return key

    def list_audit_records(self, instance_id: str | None = None, *, limit: int = 100) -> list[AuditEntry]:
        """Return what operators did, newest first; to one instance, which may be gone, or to all.

        Args:
            limit: how many at the most.
        """
        if instance_id is not None:
            check_instance_id(instance_id)
        return [
            AuditEntry(**row) for row in audit.read(self.db, instance_id=instance_id, limit=check_whole(limit, "limit"))
        ]

    # Payloads

    def reencode_payloads(self, *, dry_run: bool = False) -> Iterator[Reencoded]:
        """Write every stored payload anew that today's PAYLOAD_CODEC would store otherwise; gives what it did, batch
        by batch. For use after a key was added or a codec was switched on or off; workers may run meanwhile.

        Args:
            dry_run: only count.

        Raises:
            ConfigurationError: the setting PAYLOAD_CODEC is wrong.
        """
        return reencode.reencode(self.db, dry_run=dry_run)

    @contextmanager
    def _intervention(
        self, verb: str, instance_id: str, reason: str, actor: str, details: dict[str, Any] | None = None
    ) -> Iterator[None]:
        """Do something to an instance in one transaction with its audit record."""
        check_text(reason, "reason", max_chars=MAX_REASON_CHARS, empty=True)
        check_text(actor, "actor", empty=True)
        with self.db.atomic():
            self._check_exists(instance_id)
            yield
            audit.record(self.db, verb, instance_id, actor=actor, reason=reason, details=details or {})
        wakeups.announce(self.db, wakeups.ANYTHING)


def _details(keep: int | None, manner: Manner) -> dict[str, Any]:
    return {"event_id": keep, "rerun_activities": manner.rerun, "redeliver": manner.redeliver}
