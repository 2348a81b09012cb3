"""Activities: the decorator, and the context that an activity function gets (spec 18.2)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, overload

from duroxide_django.attempt_clock import AttemptClock
from duroxide_django.engine.codecs import dumps
from duroxide_django.logs import activity_log
from duroxide_django.registry import default_registry

if TYPE_CHECKING:
    from duroxide_django.client import Client

F = TypeVar("F", bound=Callable[..., Any])


@overload
def activity(name: F) -> F: ...
@overload
def activity(name: str | None = None, *, atomic: bool = False) -> Callable[[F], F]: ...
def activity(name: Any = None, *, atomic: bool = False) -> Any:
    """Register a function as an activity: ``@activity``, ``@activity("Charge")``, ``@activity(atomic=True)``.

    Args:
        name: how orchestrations call it; the function's own name if left out.
        atomic: run it in a transaction on the workflows' database, together with its completion: its writes there
            happen exactly once.

    Raises:
        InvalidArgument: a bad, reserved or taken name, or no function.
    """
    if callable(name) and not isinstance(name, str):
        return activity(None)(name)

    def register(function: F) -> F:
        chosen = function.__name__ if name is None else name
        default_registry.add_activity(chosen, function, atomic=atomic)
        function.duroxide_activity_name = chosen  # type: ignore[attr-defined]
        return function

    return register


_lock = threading.Lock()


class ActivityContext:
    """What an activity knows about itself.

    Attributes:
        instance_id, execution_id: which execution scheduled it.
        orchestration_name, orchestration_version: the code that did.
        activity_name: its registered name.
        activity_id: its schedule event; unique in the execution.
        attempt: place in a retry loop, from 1.
        max_attempts: attempts of that loop, or None.
        delivery: how often this attempt was handed to a worker, from 1; above 1 after a crash or a fault of a database.
        deadline_ms: when this attempt times out, epoch milliseconds by this host's clock, or None.
        idempotency_key: the same text over all attempts and deliveries; give it to the outside world.
        session_id: the session, or None.
        worker_id: who runs it.
    """

    def __init__(self, task: Any, *, alias: str, worker_id: str, clock: AttemptClock | None = None) -> None:
        self.instance_id: str = task.instance_id
        self.execution_id: int = task.execution_id
        self.orchestration_name: str = task.orchestration_name
        self.orchestration_version: str = task.orchestration_version
        self.activity_name: str = task.name
        self.activity_id: int = task.event_id
        self.attempt: int = task.attempt
        self.max_attempts: int | None = task.max_attempts
        self.delivery: int = task.deliveries
        self.deadline_ms: int | None = None
        first = task.retry_of or task.event_id
        # The row key tells the lives of one instance id apart.
        self.idempotency_key = f"{task.instance_id}:{task.instance}:{task.execution_id}:{first}"
        self.session_id: str | None = task.session_id
        self.worker_id = worker_id
        self._tag: str | None = task.tag
        self._alias = alias
        self._clock = clock
        self._cancelled = False
        self._waits: threading.Event | None = None
        self._progress: str | None = None

    def tag(self) -> str | None:
        """Return the tag it was routed by, or None."""
        return self._tag

    def is_cancelled(self) -> bool:
        """Return whether its result is no longer wanted.

        It lost a race, a time limit ran out, its instance ended, or its lease was lost.
        """
        return self._cancelled

    def wait_cancelled(self, timeout_ms: int) -> bool:
        """Wait up to ``timeout_ms`` milliseconds; returns True as soon as the activity is cancelled."""
        # Few activities wait, and an event costs as much as all else that a short one needs.
        with _lock:
            if self._waits is None and not self._cancelled:
                self._waits = threading.Event()
        return self._cancelled or (self._waits is not None and self._waits.wait(timeout_ms / 1000))

    def heartbeat(self, details: Any = None) -> bool:
        """Say that the activity goes on; operators see the details. Costs no query: the runtime writes them in turn.

        A ``heartbeat_timeout_ms`` begins again.

        Args:
            details: any JSON-able value.

        Returns:
            False if the activity is cancelled and should end.
        """
        self._progress = dumps(details, what="heartbeat details")
        if self._clock is not None:
            self._clock.beat()
        return not self.is_cancelled()

    def begin(self) -> None:
        """Let the time limits begin; called by the runtime just before the function."""
        if self._clock is not None:
            self.deadline_ms = self._clock.start()

    def end(self) -> str | None:
        """Stop the time; returns in words which limit had run out. Called by the runtime after the function."""
        return None if self._clock is None else self._clock.stop()

    def take_progress(self) -> str | None:
        """Return and forget the details not yet written; called by the runtime."""
        progress, self._progress = self._progress, None
        return progress

    def get_client(self) -> Client:
        """Return a client on the same database."""
        from duroxide_django.client import Client

        return Client(using=self._alias)

    def trace_info(self, message: Any) -> None:
        """Log at level info, with the activity's and instance's ids."""
        self._trace("info", message)

    def trace_warn(self, message: Any) -> None:
        """Log at level warning; see trace_info()."""
        self._trace("warning", message)

    def trace_error(self, message: Any) -> None:
        """Log at level error; see trace_info()."""
        self._trace("error", message)

    def trace_debug(self, message: Any) -> None:
        """Log at level debug; see trace_info()."""
        self._trace("debug", message)

    def cancel(self) -> None:
        """Make ``is_cancelled()`` true; called by the runtime."""
        with _lock:
            self._cancelled = True
            if self._waits is not None:
                self._waits.set()

    def log_fields(self) -> dict[str, Any]:
        """Return what every line logged by the activity carries; called by the runtime."""
        return {
            "instance_id": self.instance_id,
            "execution_id": self.execution_id,
            "orchestration_name": self.orchestration_name,
            "orchestration_version": self.orchestration_version,
            "activity_name": self.activity_name,
            "activity_id": self.activity_id,
            "attempt": self.attempt,
            "worker_id": self.worker_id,
        }

    def _trace(self, level: str, message: Any) -> None:
        getattr(activity_log, level)(str(message), **self.log_fields())
