"""Client: the control plane. It talks to the database only, inside the caller's transaction (spec 14)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from django.db import connections

from duroxide_django import wakeups
from duroxide_django.admin_client import AdminClient
from duroxide_django.async_client import AsyncTwins
from duroxide_django.conf import settings
from duroxide_django.engine import messages
from duroxide_django.engine.codecs import decode_as, dumps, loads
from duroxide_django.engine.context import Named, resolve_name
from duroxide_django.engine.failures import Failure
from duroxide_django.engine.limits import check_delay_ms, check_instance_id, check_text, check_whole
from duroxide_django.engine.versions import Version
from duroxide_django.exceptions import (
    InstanceAlreadyExists,
    InstanceNotFound,
    InstanceStillRunning,
    InvalidArgument,
    OrchestrationFailed,
    WaitTimeout,
)
from duroxide_django.logs import runtime_log
from duroxide_django.operations_client import OperationsClient
from duroxide_django.provider import Provider, alias_of
from duroxide_django.registry import default_registry
from duroxide_django.results import FinalVersion, OrchestrationResult, OrchestrationStatus
from duroxide_django.standalone import ensure_django
from duroxide_django.storage import client_reads, inbox, retention
from duroxide_django.storage.database import Database
from duroxide_django.waiting import Wait

FAIL = "fail"
IGNORE = "ignore"
RESTART_TERMINAL = "restart_terminal"

#: Longest reason of a cancel, in characters.
MAX_REASON_CHARS = 10_000
#: Aliases of whose transactions this process has warned.
_warned_of: set[str] = set()
#: Unknown names that this process has compared with those it knows, and how many it remembers.
_looked_up: set[tuple[str, str | None]] = set()
_REMEMBERED_NAMES = 1_000


class Client(AsyncTwins, OperationsClient, AdminClient):
    """Starts, signals and reads instances; usable in any process and any thread."""

    def __init__(self, provider: Provider | None = None, *, using: str | None = None) -> None:
        """
        Args:
            provider: where the workflows live; None: the alias ``using``, or the setting DATABASE.
            using: a Django database alias.
        """
        ensure_django()
        super().__init__(Database(alias_of(provider, using)))
        # For what views and waits do all the time; everything else is planned by Django's way.
        self._hot = self.db.prepared()
        # A provider's functions are registered with a Runtime, of which a client knows nothing.
        self._uses_default_registry = provider is None

    # Starting

    def start_orchestration(self, instance_id: str, name: Named, input: Any = None, *, on_conflict: str = FAIL) -> str:
        """Start an instance with the latest version; joins the caller's transaction.

        Args:
            instance_id: chosen by the caller, unique.
            name: the orchestration's name, or its decorated function.
            input: any JSON-able value.
            on_conflict: what to do if the id exists: ``fail``; ``ignore`` (same name and input demanded);
                ``restart_terminal`` (delete the ended instance and begin a new life).

        Returns:
            the instance id.

        Raises:
            InstanceAlreadyExists: see on_conflict.
            InvalidArgument: a bad id, name or input; nothing was written.
        """
        return self._start(instance_id, name, input, None, on_conflict)

    def start_orchestration_versioned(
        self, instance_id: str, name: Named, input: Any, version: str, *, on_conflict: str = FAIL
    ) -> str:
        """Start an instance at exactly ``version``; see start_orchestration()."""
        return self._start(instance_id, name, input, Version.parse(version).text, on_conflict)

    start_orchestration_typed = start_orchestration
    start_orchestration_versioned_typed = start_orchestration_versioned

    def _start(self, instance_id: str, name: Named, input: Any, version: str | None, on_conflict: str) -> str:
        if on_conflict not in (FAIL, IGNORE, RESTART_TERMINAL):
            raise InvalidArgument(f"on_conflict must be fail, ignore or restart_terminal, got {on_conflict!r}.")
        row = self._start_row(instance_id, name, input, version)
        if not inbox.start(self._hot, [row]):
            self._resolve_conflict(row, on_conflict)
        self._wake_after_commit()
        return instance_id

    def _resolve_conflict(self, row: inbox.StartRow, on_conflict: str) -> None:
        existing = client_reads.start_of(self.db, row.instance_id)
        name, text, status = existing or (row.name, row.input, "Running")
        if on_conflict == IGNORE:
            # The input is unknown once the first execution was pruned.
            if name == row.name and (text is None or _canonical(text) == _canonical(row.input)):
                return
            raise InstanceAlreadyExists(
                f"Instance {row.instance_id!r} exists already with another name or input ({name!r}); "
                "on_conflict='ignore' demands the same.",
                instance_id=row.instance_id,
            )
        if on_conflict == RESTART_TERMINAL:
            with self.db.atomic():
                family = retention.lock_tree(self.db, row.instance_id)
                if family and family[0].parent is not None:
                    raise InstanceAlreadyExists(
                        f"Instance {row.instance_id!r} exists as a sub-orchestration and belongs to its parent's "
                        "record; choose another id, or delete its root instance.",
                        instance_id=row.instance_id,
                    )
                running = next((member.instance_id for member in family if member.running), None)
                if running not in (None, row.instance_id):
                    raise InstanceStillRunning(
                        f"Instance {running!r} below {row.instance_id!r} is still running; it can't be restarted yet.",
                        instance_id=row.instance_id,
                    )
                if running is None:
                    retention.delete_rows(self.db, [member.key for member in family])
                    if inbox.start(self.db, [row]):
                        return
        raise InstanceAlreadyExists(
            f"Instance {row.instance_id!r} exists already ({name!r}, {status}); choose another id or on_conflict.",
            instance_id=row.instance_id,
        )

    def start_many(self, starts: Iterable[tuple[str, Named, Any]]) -> list[str]:
        """Start many instances with the latest versions by few statements; joins the caller's transaction.

        Args:
            starts: (instance id, orchestration, input) for each.

        Returns:
            the instance ids.

        Raises:
            InstanceAlreadyExists: an id exists, or comes twice; then none is started.
            InvalidArgument: a bad id, name or input; nothing was written.
        """
        rows = [self._start_row(*_start_parts(entry), None) for entry in starts]
        ids = [row.instance_id for row in rows]
        with self.db.atomic():
            begun = inbox.start(self._hot, rows)
            if len(begun) < len(ids):
                taken = next(name for name in ids if name not in begun or ids.count(name) > 1)
                raise InstanceAlreadyExists(
                    f"Instance {taken!r} exists already or comes twice; none of {len(ids)} was started.",
                    instance_id=taken,
                )
        self._wake_after_commit()
        return ids

    def _start_row(self, instance_id: str, name: Named, input: Any, version: str | None) -> inbox.StartRow:
        row = inbox.StartRow(
            instance_id=check_instance_id(instance_id),
            name=resolve_name(name, "orchestration"),
            version=version,
            input=self._dump(input, "orchestration input"),
        )
        if self._uses_default_registry:
            _warn_of_slips(row)
        return row

    def _wake_after_commit(self) -> None:
        wakeups.announce(self._hot)
        if not self.db.connection.in_atomic_block:
            _warn_of_another_transaction(self.db.alias)

    # Signals

    def raise_event(self, instance_id: str, name: str, data: Any = None) -> bool:
        """Raise an external event; joins the caller's transaction.

        Returns:
            True: it will be processed; False: the instance has ended.

        Raises:
            InstanceNotFound: no such instance.
        """
        payload = self._dump(data, "event data")
        return self._deliver(instance_id, messages.EXTERNAL_RAISED, check_text(name, "event name"), payload)

    def enqueue_event(self, instance_id: str, queue: str, data: Any = None) -> bool:
        """Put a message into a queue of the instance (FIFO, survives continue-as-new); see raise_event()."""
        payload = self._dump(data, "queue message")
        return self._deliver(instance_id, messages.QUEUE_MESSAGE, check_text(queue, "queue name"), payload)

    raise_event_typed = raise_event
    enqueue_event_typed = enqueue_event

    def cancel_instance(self, instance_id: str, reason: str | None = None, *, force: bool = False) -> bool:
        """Cancel an instance with its children; joins the caller's transaction.

        Args:
            reason: shown as ``canceled: <reason>``.
            force: end it at once, without its clean-up, even if its code is missing.

        Returns:
            True: it will be cancelled; False: it has ended.

        Raises:
            InstanceNotFound: no such instance.
        """
        text = check_text(reason or "", "reason", max_chars=MAX_REASON_CHARS, empty=True)
        return self._deliver(instance_id, messages.CANCEL, None, text, force=force)

    def _deliver(self, instance_id: str, kind: str, name: str | None, payload: str, *, force: bool = False) -> bool:
        check_instance_id(instance_id)
        delivered = inbox.deliver(self._hot, instance_id, kind, name=name, payload=payload, force=force)
        if delivered is None:
            raise InstanceNotFound(f"Instance {instance_id!r} not found.", instance_id=instance_id)
        if delivered:
            self._wake_after_commit()
        else:
            runtime_log.info(f"{kind} not delivered: the instance has ended", instance_id=instance_id)
        return delivered

    # Reading

    def get_status(self, instance_id: str) -> OrchestrationResult:
        """Return how the instance stands; an unknown id gives the status NotFound."""
        row = client_reads.status(self._hot, check_instance_id(instance_id))
        if row is None:
            return OrchestrationResult(status=OrchestrationStatus.NOT_FOUND)
        failure = Failure.from_json(row.error) if row.status == "Failed" and row.error else None
        return OrchestrationResult(
            status=row.status,
            output=loads(row.output) if row.status == "Completed" else None,
            error=None if failure is None else failure.message,
            custom_status=row.custom_status,
            custom_status_version=row.custom_status_version,
            is_cancelled=row.is_cancelled,
            error_details=None if failure is None else json.loads(row.error or "{}"),
        )

    def get_kv_value(self, instance_id: str, key: str) -> str | None:
        """Return a KV value as of the last committed turn; None if the key or the instance is unknown."""
        return client_reads.kv_value(self._hot, check_instance_id(instance_id), check_text(key, "key", empty=True))

    def get_kv_value_typed(self, instance_id: str, key: str) -> Any:
        """Return the JSON-decoded KV value, or None; raises ValueError if it is no JSON."""
        text = self.get_kv_value(instance_id, key)
        return None if text is None else json.loads(text)

    def get_kv_all_values(self, instance_id: str) -> dict[str, str]:
        """Return all KV entries of an instance."""
        return client_reads.kv_values(self.db, check_instance_id(instance_id))

    # Waiting

    def wait_for_orchestration(self, instance_id: str, timeout_ms: int = 30_000) -> OrchestrationResult:
        """Wait until the instance has ended, across continue-as-new.

        Args:
            timeout_ms: milliseconds to wait at the most.

        Raises:
            WaitTimeout: it has not ended in time, or is unknown.
            WaitInTransaction: called inside atomic() on the same alias.
        """
        return self._until_ended(instance_id, timeout_ms).run(self.db)

    def wait_for_orchestration_typed(self, instance_id: str, timeout_ms: int = 30_000, result_type: Any = None) -> Any:
        """Wait like wait_for_orchestration(); returns the output itself, as ``result_type`` if given.

        Raises:
            OrchestrationFailed: the instance failed.
        """
        return self._output(self.wait_for_orchestration(instance_id, timeout_ms), instance_id, result_type)

    def wait_for_status_change(
        self, instance_id: str, last_seen_version: int = 0, poll_interval_ms: int = 200, timeout_ms: int = 30_000
    ) -> OrchestrationResult | None:
        """Wait until the custom status version exceeds ``last_seen_version`` or the instance has ended.

        Args:
            last_seen_version: the version seen last, 0 at first.
            poll_interval_ms: longest pause between two looks where the database can't tell of changes, milliseconds.
            timeout_ms: milliseconds to wait at the most.

        Returns:
            the state, or None on time-out. The end of an instance is reported even without a change, whenever and by
            whomever it is asked for; only to ``last_seen_version`` taken from that very report the answer is None,
            at once, so that polling loops end.
        """
        wait = self._until_status_change(instance_id, last_seen_version, poll_interval_ms, timeout_ms)
        try:
            return wait.run(self.db)
        except WaitTimeout:
            return None

    def wait_for_kv_value(self, instance_id: str, key: str, timeout_ms: int = 30_000) -> str:
        """Wait until the KV key exists; returns its value.

        Raises:
            WaitTimeout: it does not exist in time.
        """
        return self._until_kv_value(instance_id, key, timeout_ms).run(self.db)

    def wait_for_kv_value_typed(self, instance_id: str, key: str, timeout_ms: int = 30_000) -> Any:
        """Wait like wait_for_kv_value(); returns the JSON-decoded value."""
        return json.loads(self.wait_for_kv_value(instance_id, key, timeout_ms))

    # What the waits look at; the async twins share it

    def _until_ended(self, instance_id: str, timeout_ms: int) -> Wait[OrchestrationResult]:
        def ended() -> OrchestrationResult | None:
            result = self.get_status(instance_id)
            return result if result.status in ("Completed", "Failed") else None

        return Wait(ended, timeout_ms, f"Instance {instance_id!r} has not ended", instance_id)

    def _until_status_change(
        self, instance_id: str, last_seen_version: int, poll_interval_ms: int, timeout_ms: int
    ) -> Wait[OrchestrationResult]:
        def changed() -> OrchestrationResult | None:
            state = client_reads.custom_status_version(self._hot, instance_id)
            if state is None or not (state[0] > last_seen_version or state[1]):
                return None
            version, ended, life = state
            knows_the_end = isinstance(last_seen_version, FinalVersion) and last_seen_version.ended(life)
            if knows_the_end and version <= last_seen_version:
                raise WaitTimeout(instance_id=instance_id)
            result = self.get_status(instance_id)
            if not ended:
                return result
            return replace(result, custom_status_version=FinalVersion(result.custom_status_version, life))

        check_instance_id(instance_id)
        check_whole(last_seen_version, "last_seen_version")
        check_delay_ms(poll_interval_ms, "poll_interval_ms")
        what = f"The custom status of {instance_id!r} has not changed"
        return Wait(changed, timeout_ms, what, instance_id, poll_ms=poll_interval_ms)

    def _until_kv_value(self, instance_id: str, key: str, timeout_ms: int) -> Wait[str]:
        what = f"KV key {key!r} of instance {instance_id!r} is not set"
        return Wait(lambda: self.get_kv_value(instance_id, key), timeout_ms, what, instance_id)

    def _output(self, result: OrchestrationResult, instance_id: str, result_type: Any) -> Any:
        if result.status == "Failed":
            ((_, recorded),) = (result.error_details or {"": {}}).items()
            raise OrchestrationFailed(
                result.error,
                instance_id=instance_id,
                error_types=tuple(recorded.get("types", ())),
                traceback_text=recorded.get("traceback"),
                is_cancelled=result.is_cancelled,
            )
        return result.output if result_type is None else decode_as(result.output, result_type)

    def _dump(self, value: Any, what: str) -> str:
        return dumps(value, what=what, max_bytes=settings.MAX_PAYLOAD_BYTES)


def _canonical(text: str) -> str:
    """Return JSON text with its keys in order: unlike values, texts tell true from 1."""
    return json.dumps(loads(text), sort_keys=True)


def _start_parts(entry: object) -> tuple[str, Named, Any]:
    if not isinstance(entry, (tuple, list)) or len(entry) != 3:
        raise InvalidArgument(f"start_many takes (instance id, orchestration, input) for each, got {entry!r:.80}.")
    instance_id, name, value = entry
    return instance_id, name, value


def _warn_of_slips(row: inbox.StartRow) -> None:
    """Log a warning if this process has no such workflow, but one of almost that name, or only other versions.

    It is no error: a worker of another release may have it.
    """
    key = (row.name, row.version)
    if not default_registry.orchestrations or key in _looked_up or default_registry.resolve(*key) is not None:
        return
    if len(_looked_up) < _REMEMBERED_NAMES:
        _looked_up.add(key)
    if default_registry.alike(row.name) is not None:
        runtime_log.warning(
            f"Started, but {default_registry.describe_missing(*key)}: it waits for a worker that has it",
            instance_id=row.instance_id,
            orchestration_name=row.name,
        )


def _warn_of_another_transaction(alias: str) -> None:
    """Log a warning, once, if the caller is in a transaction of another alias: the write isn't part of it."""
    others = {other.alias for other in connections.all(initialized_only=True) if other.in_atomic_block} - _warned_of
    if not others:
        return
    _warned_of.update(others)
    runtime_log.warning(
        f"A workflow was started or signalled inside a transaction on {', '.join(sorted(others))!r}, but workflows "
        f"live on {alias!r}: it is committed already, whatever becomes of that transaction. "
        "Use transaction.on_commit(), or one database for both"
    )
