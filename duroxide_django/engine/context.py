"""OrchestrationContext: what an orchestration function gets as ``ctx`` (spec 18.1)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, Unpack

from duroxide_django.engine import tasks
from duroxide_django.engine.codecs import as_text, check_size, dumps
from duroxide_django.engine.events import VALUES_ARE_JSON
from duroxide_django.engine.limits import (
    MAX_CUSTOM_STATUS_BYTES,
    MAX_INSTANCE_ID_CHARS,
    RESERVED_PREFIX,
    check_bytes,
    check_delay_ms,
    check_storable,
    check_text,
)
from duroxide_django.engine.retry import RetryPolicy
from duroxide_django.engine.tasks import AllTask
from duroxide_django.engine.time_limits import Limits, TimeLimits
from duroxide_django.engine.versions import Version
from duroxide_django.exceptions import InvalidArgument

if TYPE_CHECKING:
    from duroxide_django.engine.replay import LiveExecution

#: A function registered as activity or orchestration, or its name.
Named = str | Callable[..., Any]


class OrchestrationContext:
    """The orchestration's only door to the world.

    Methods that return a task do nothing until the task is yielded. Methods that don't (custom status, KV, traces)
    act at once and are recorded with the turn.

    Attributes:
        instance_id: the instance's id.
        execution_id: number of the execution, from 1.
        orchestration_name: registered name.
        orchestration_version: version this execution is pinned to.
    """

    def __init__(self, execution: LiveExecution) -> None:
        self._execution = execution
        self._max_bytes = execution.options.max_payload_bytes
        self.instance_id = execution.instance_id
        self.execution_id = execution.execution_id
        self.orchestration_name = execution.name
        self.orchestration_version = execution.version

    @property
    def is_replaying(self) -> bool:
        """Whether the code at this point runs again over recorded history."""
        return self._execution.is_replaying

    # Activities

    def schedule_activity(
        self,
        name: Named,
        input: Any = None,
        session_id: str | None = None,
        *,
        tag: str | None = None,
        timeout_ms: int | None = None,
        heartbeat_timeout_ms: int | None = None,
        schedule_to_start_timeout_ms: int | None = None,
    ) -> tasks.ActivityTask:
        """Return a task that runs an activity and gives its result; raises ActivityFailed at the yield.

        If a time limit runs out, it raises TaskTimeout; it is not run again.

        Args:
            name: the activity's name, or its decorated function.
            input: any JSON-able value.
            session_id: run on the worker that owns this session.
            tag: run on workers that serve this tag.
            timeout_ms: milliseconds it may take from the moment a worker begins it.
            heartbeat_timeout_ms: milliseconds it may take until its first heartbeat, and between two of them.
            schedule_to_start_timeout_ms: milliseconds it may wait for a worker that begins it.

        Raises:
            InvalidArgument: a name, tag or time limit is not a valid one.
        """
        task = self._activity(
            name,
            self._dump(input, "activity input"),
            session_id,
            timeout_ms=timeout_ms,
            heartbeat_timeout_ms=heartbeat_timeout_ms,
            schedule_to_start_timeout_ms=schedule_to_start_timeout_ms,
        )
        return task if tag is None else task.with_tag(tag)

    def schedule_activity_on_session(
        self, name: Named, input: Any, session_id: str, **limits: Unpack[Limits]
    ) -> tasks.ActivityTask:
        """Return a task like schedule_activity's, pinned to the session; it takes the same time limits."""
        return self.schedule_activity(name, input, check_text(session_id, "session_id"), **limits)

    def schedule_activity_with_retry(
        self, name: Named, input: Any = None, policy: Mapping[str, Any] | RetryPolicy | None = None
    ) -> tasks.RetryTask:
        """Return a task that retries the activity as ``policy`` says.

        Args:
            name: the activity's name, or its decorated function.
            input: any JSON-able value.
            policy: mapping of the attributes of RetryPolicy; None: three attempts, exponential delays.

        Raises:
            InvalidArgument: an unknown key or a value out of range.
        """
        return tasks.RetryTask(self.schedule_activity(name, input), RetryPolicy.parse(policy))

    def schedule_activity_with_retry_on_session(
        self, name: Named, input: Any, policy: Mapping[str, Any] | RetryPolicy | None, session_id: str
    ) -> tasks.RetryTask:
        """Return a task like schedule_activity_with_retry's, every attempt pinned to the session."""
        return tasks.RetryTask(self.schedule_activity_on_session(name, input, session_id), RetryPolicy.parse(policy))

    def schedule_activity_typed(
        self,
        name: Named,
        input: Any = None,
        result_type: Any = None,
        session_id: str | None = None,
        **limits: Unpack[Limits],
    ) -> tasks.ActivityTask:
        """Return a task like schedule_activity's that gives the result as ``result_type``.

        Args:
            input: any JSON-able value. Without a ``result_type``, and only then, a str is taken as JSON text that is
                ready to send: ``"12345"`` reaches the activity as a number, ``"null"`` as None.
            result_type: what to build out of the result; see docs/reference/values.md. None: what JSON gives.
        """
        task = self._activity(name, self._dump_typed(input, result_type), session_id, **limits)
        task.result_type = result_type
        return task

    def schedule_activity_on_session_typed(
        self,
        name: Named,
        input: Any = None,
        session_id: str | None = None,
        result_type: Any = None,
        **limits: Unpack[Limits],
    ) -> tasks.ActivityTask:
        """See schedule_activity_typed()."""
        return self.schedule_activity_typed(name, input, result_type, check_text(session_id, "session_id"), **limits)

    def schedule_activity_with_retry_typed(
        self,
        name: Named,
        input: Any = None,
        retry: Mapping[str, Any] | RetryPolicy | None = None,
        result_type: Any = None,
    ) -> tasks.RetryTask:
        """See schedule_activity_typed() and schedule_activity_with_retry()."""
        return tasks.RetryTask(self.schedule_activity_typed(name, input, result_type), RetryPolicy.parse(retry))

    def schedule_activity_with_retry_on_session_typed(
        self,
        name: Named,
        input: Any = None,
        retry: Mapping[str, Any] | RetryPolicy | None = None,
        session_id: str | None = None,
        result_type: Any = None,
    ) -> tasks.RetryTask:
        """See schedule_activity_typed() and schedule_activity_with_retry_on_session()."""
        activity = self.schedule_activity_on_session_typed(name, input, session_id, result_type)
        return tasks.RetryTask(activity, RetryPolicy.parse(retry))

    # Timers, events, queues

    def schedule_timer(self, delay_ms: int) -> tasks.TimerTask:
        """Return a task that gives None after ``delay_ms`` milliseconds, whatever is restarted meanwhile.

        Raises:
            InvalidArgument: the delay is negative or no whole number.
        """
        return tasks.TimerTask(delay_ms)

    def wait_for_event(self, name: str) -> tasks.EventTask:
        """Return a task that gives the data of the next external event called ``name``."""
        return tasks.EventTask(check_text(name, "event name"))

    def wait_for_event_typed(self, name: str, result_type: Any = None) -> tasks.EventTask:
        """Return a task like wait_for_event's that gives the data as ``result_type``."""
        return tasks.EventTask(check_text(name, "event name"), result_type)

    def dequeue_event(self, queue: str) -> tasks.DequeueTask:
        """Return a task that gives the next message of ``queue`` (FIFO)."""
        return tasks.DequeueTask(check_text(queue, "queue name"))

    def dequeue_event_typed(self, queue: str, result_type: Any = None) -> tasks.DequeueTask:
        """Return a task like dequeue_event's that gives the message as ``result_type``."""
        return tasks.DequeueTask(check_text(queue, "queue name"), result_type)

    # Other orchestrations

    def schedule_sub_orchestration(self, name: Named, input: Any = None) -> tasks.ChildTask:
        """Return a task that runs a child with an id of its own and gives its output; raises SubOrchestrationFailed."""
        return self._child(name, self._dump(input, "sub-orchestration input"))

    def schedule_sub_orchestration_with_id(self, name: Named, instance_id: str, input: Any = None) -> tasks.ChildTask:
        """Return a task like schedule_sub_orchestration's for a child with the given id."""
        return self._child(name, self._dump(input, "sub-orchestration input"), instance_id)

    def schedule_sub_orchestration_versioned(
        self, name: Named, version: str | None = None, input: Any = None
    ) -> tasks.ChildTask:
        """Return a task like schedule_sub_orchestration's for exactly ``version``; None: the latest."""
        return self._child(name, self._dump(input, "sub-orchestration input"), None, version)

    def schedule_sub_orchestration_versioned_with_id(
        self, name: Named, version: str | None, instance_id: str, input: Any = None
    ) -> tasks.ChildTask:
        """Return a task for a child with the given version and id."""
        return self._child(name, self._dump(input, "sub-orchestration input"), instance_id, version)

    def schedule_sub_orchestration_typed(
        self, name: Named, input: Any = None, result_type: Any = None
    ) -> tasks.ChildTask:
        """Return a task like schedule_sub_orchestration's that gives the output as ``result_type``.

        Without a ``result_type`` a str input is taken as JSON text; see schedule_activity_typed().
        """
        task = self._child(name, self._dump_typed(input, result_type))
        task.result_type = result_type
        return task

    def schedule_sub_orchestration_with_id_typed(
        self, name: Named, instance_id: str, input: Any = None, result_type: Any = None
    ) -> tasks.ChildTask:
        """See schedule_sub_orchestration_typed()."""
        task = self._child(name, self._dump_typed(input, result_type), instance_id)
        task.result_type = result_type
        return task

    def start_orchestration(self, name: Named, instance_id: str, input: Any = None) -> tasks.DetachedTask:
        """Return a task that starts an orchestration without linkage and gives None at once."""
        return self._detached(name, instance_id, self._dump(input, "orchestration input"))

    def start_orchestration_versioned(
        self, name: Named, version: str | None, instance_id: str, input: Any = None
    ) -> tasks.DetachedTask:
        """Return a task like start_orchestration's for exactly ``version``."""
        return self._detached(name, instance_id, self._dump(input, "orchestration input"), version)

    def start_orchestration_typed(self, name: Named, instance_id: str, input: Any = None) -> tasks.DetachedTask:
        """Return a task like start_orchestration's; a str input is taken as JSON text: ``"12345"`` is a number."""
        return self._detached(name, instance_id, self._dump_typed(input))

    def start_orchestration_versioned_typed(
        self, name: Named, version: str | None, instance_id: str, input: Any = None
    ) -> tasks.DetachedTask:
        """See start_orchestration_typed()."""
        return self._detached(name, instance_id, self._dump_typed(input), version)

    def continue_as_new(self, input: Any = None) -> tasks.ContinueAsNewTask:
        """Return a task that ends this execution and begins the next one with fresh history; it never resumes."""
        return tasks.ContinueAsNewTask(self._dump(input, "continue_as_new input"))

    def continue_as_new_versioned(self, input: Any = None, version: str | None = None) -> tasks.ContinueAsNewTask:
        """Return a task like continue_as_new's that goes on with ``version``; None: the latest."""
        return tasks.ContinueAsNewTask(self._dump(input, "continue_as_new input"), _version(version))

    def continue_as_new_typed(self, input: Any = None) -> tasks.ContinueAsNewTask:
        """Return a task like continue_as_new's; a str input is taken as JSON text: ``"12345"`` is a number."""
        return tasks.ContinueAsNewTask(self._dump_typed(input))

    # Composition

    def all(self, tasks: Iterable[Any], *, fail_fast: bool = False) -> AllTask:
        """Return a task that waits for every member: a list of ``{"ok": value}`` / ``{"err": text}``.

        Args:
            tasks: tasks, nested all/race, or generators (a block's ``return`` is its value).
            fail_fast: give bare values instead, raise the first failure and cancel the rest.
        """
        return AllTask(tasks, fail_fast=fail_fast)

    def all_typed(self, tasks: Iterable[Any]) -> AllTask:
        """Return a task like all's that gives bare values; failed entries stay ``{"err": text}``."""
        return AllTask(tasks, unwrap=True)

    def race(self, *tasks_: Any) -> tasks.RaceTask:
        """Return a task that gives ``{"index": i, "value": v}`` of the first member to finish; losers are cancelled.

        A winner that failed raises what yielding it alone would raise.
        """
        members = tasks_[0] if len(tasks_) == 1 and isinstance(tasks_[0], (list, tuple)) else tasks_
        return tasks.RaceTask(members)

    race_typed = race

    # Recorded values

    def utc_now(self) -> tasks.SyscallTask:
        """Return a task that gives the time in epoch milliseconds, recorded."""
        return tasks.SyscallTask(f"{RESERVED_PREFIX}utc_now_ms")

    def new_guid(self) -> tasks.SyscallTask:
        """Return a task that gives a random UUID as text, recorded."""
        return tasks.SyscallTask(f"{RESERVED_PREFIX}new_guid")

    def get_kv_value_from_instance(self, instance_id: str, key: str) -> tasks.SyscallTask:
        """Return a task that gives another instance's committed KV value, or None; recorded."""
        check_text(instance_id, "instance_id", max_chars=MAX_INSTANCE_ID_CHARS)
        check_text(key, "key", empty=True)
        return tasks.SyscallTask(f"{RESERVED_PREFIX}get_kv_value", dumps([instance_id, key]))

    # Custom status

    def set_custom_status(self, status: Any) -> None:
        """Publish the instance's progress.

        Args:
            status: a text, or any JSON-able value: it is published as JSON text.

        Raises:
            LimitExceeded: it is longer than MAX_CUSTOM_STATUS_BYTES.
            PayloadError: it is no text, and JSON can't carry it.
        """
        text = check_storable(self._as_text(status, "custom status"), "custom status")
        self._execution.set_custom_status(check_bytes(text, "custom status", MAX_CUSTOM_STATUS_BYTES))

    def reset_custom_status(self) -> None:
        """Clear the custom status."""
        self._execution.set_custom_status(None)

    def get_custom_status(self) -> str | None:
        """Return the custom status as set so far, or carried in by continue-as-new."""
        return self._execution.custom_status

    # KV

    def set_kv_value(self, key: str, value: Any) -> None:
        """Set a KV entry.

        Args:
            key: its name; ``str(key)`` is taken.
            value: a text, or any JSON-able value: it is stored as JSON text, which get_kv_value_typed() decodes.

        Raises:
            LimitExceeded: the value is longer than MAX_KV_VALUE_BYTES, or MAX_KV_KEYS keys exist already.
            PayloadError: the value is no text, and JSON can't carry it.
        """
        self._execution.kv.set(str(key), self._as_text(value, f"the value of KV key {str(key)!r}"))

    def get_kv_value(self, key: str) -> str | None:
        """Return the entry's value, or None."""
        return self._execution.kv.get(str(key))

    def get_kv_all_values(self) -> dict[str, str]:
        """Return a copy of all entries."""
        return self._execution.kv.values()

    def get_kv_all_keys(self) -> list[str]:
        """Return the keys, sorted."""
        return sorted(self._execution.kv.values())

    def get_kv_length(self) -> int:
        """Return the number of entries."""
        return len(self._execution.kv)

    def clear_kv_value(self, key: str) -> None:
        """Remove an entry; an absent one is fine."""
        self._execution.kv.clear(str(key))

    def clear_all_kv_values(self) -> None:
        """Remove every entry."""
        self._execution.kv.clear_all()

    def prune_kv_values_updated_before(self, cutoff_ms: int) -> int:
        """Remove the entries set before ``cutoff_ms`` (epoch milliseconds); returns how many.

        The recorded time of each entry counts, on replay too (spec 11.3, W23).
        """
        return self._execution.kv.prune(check_delay_ms(cutoff_ms, "cutoff_ms"))

    # Traces

    def trace_info(self, message: Any) -> None:
        """Log at level info, once: replays are silent."""
        self._execution.trace("info", message)

    def trace_warn(self, message: Any) -> None:
        """Log at level warning; see trace_info()."""
        self._execution.trace("warning", message)

    def trace_error(self, message: Any) -> None:
        """Log at level error; see trace_info()."""
        self._execution.trace("error", message)

    def trace_debug(self, message: Any) -> None:
        """Log at level debug; see trace_info()."""
        self._execution.trace("debug", message)

    def __reduce__(self) -> NoReturn:
        raise TypeError("An OrchestrationContext can't be pickled; pass plain values to activities.")

    def _activity(self, name: Named, text: str, session_id: str | None, **limits: Unpack[Limits]) -> tasks.ActivityTask:
        name = resolve_name(name, "activity")
        if name.startswith(RESERVED_PREFIX):
            raise InvalidArgument(f"Activity names beginning with {RESERVED_PREFIX!r} are reserved.")
        if session_id is not None:
            check_text(session_id, "session_id")
        return tasks.ActivityTask(name, text, session_id=session_id, limits=TimeLimits.checked(**limits))

    def _child(
        self, name: Named, text: str, instance_id: str | None = None, version: str | None = None
    ) -> tasks.ChildTask:
        name = resolve_name(name, "orchestration")
        if instance_id is not None:
            check_text(instance_id, "instance_id", max_chars=MAX_INSTANCE_ID_CHARS)
            # An explicit id of the automatic form is treated as automatic (spec 7).
            instance_id = None if instance_id.startswith("sub::") else instance_id
        if instance_id is None and len(self.instance_id) > MAX_INSTANCE_ID_CHARS - 40:
            raise InvalidArgument("The instance id is too long to derive a child's id from it; give the child an id.")
        return tasks.ChildTask(name, text, instance_id=instance_id, version=_version(version))

    def _detached(self, name: Named, instance_id: str, text: str, version: str | None = None) -> tasks.DetachedTask:
        check_text(instance_id, "instance_id", max_chars=MAX_INSTANCE_ID_CHARS)
        name = resolve_name(name, "orchestration")
        return tasks.DetachedTask(name, text, instance_id=instance_id, version=_version(version))

    def _dump(self, value: Any, what: str) -> str:
        return dumps(value, what=what, max_bytes=self._max_bytes, merges_keys=not self._has_json_values)

    @property
    def _has_json_values(self) -> bool:
        return self._execution.engine >= VALUES_ARE_JSON

    def _as_text(self, value: Any, what: str) -> str:
        return as_text(value, what) if self._has_json_values else str(value)

    def _dump_typed(self, value: Any, result_type: Any = None) -> str:
        # The reference's rule: a str is text that is serialised already. Who names types means what is passed.
        if isinstance(value, str) and (result_type is None or not self._has_json_values):
            return check_size(check_storable(value, "input"), "input", self._max_bytes)
        return self._dump(value, "input")


def resolve_name(named: Named, what: str) -> str:
    """Return the registered name that ``named`` stands for: a text, or a decorated function.

    Raises:
        InvalidArgument: it is neither.
    """
    name = getattr(named, f"duroxide_{what}_name", named)
    if callable(name):
        raise InvalidArgument(f"{getattr(named, '__name__', named)!r} is not registered as an {what}; decorate it.")
    return check_text(name, f"{what} name")


def _version(version: str | None) -> str | None:
    return None if version is None else Version.parse(version).text
