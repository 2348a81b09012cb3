"""Running one activity function and turning what it did into a completion."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from asgiref.sync import sync_to_async
from django.db import (
    InterfaceError,
    OperationalError,
    close_old_connections,
    connections,
    reset_queries,
)
from structlog.contextvars import bound_contextvars

from duroxide_django.activities import ActivityContext
from duroxide_django.conf import settings
from duroxide_django.engine import messages
from duroxide_django.engine.codecs import dumps, loads
from duroxide_django.engine.failures import Failure, from_exception, poison, timeout
from duroxide_django.engine.registry import ActivityDefinition
from duroxide_django.exceptions import DuroxideError
from duroxide_django.logs import runtime_log
from duroxide_django.runtime.config import Config
from duroxide_django.runtime.turn_connections import TransactionLeftOpen
from duroxide_django.storage import activities
from duroxide_django.storage.activities import Finished, Task
from duroxide_django.storage.database import Database
from duroxide_django.storage.faults import is_transient, is_well
from duroxide_django.tracing import span


class DatabaseAway(DuroxideError):
    """A database failed while an activity ran, or refused its statement for the moment."""


class RanOut(DuroxideError):
    """A time limit ran out before an atomic activity's function returned; its transaction is rolled back."""


class LeaseLost(DuroxideError):
    """The activity's lease was lost before its transaction could commit."""


def completed(task: Task, value: Any, max_bytes: int) -> Finished:
    """Return the completion of a task that returned ``value``; a value that JSON can't carry makes it fail."""
    try:
        text = dumps(value, what=f"result of activity {task.name!r}", max_bytes=max_bytes)
    except DuroxideError as exc:
        return failed(task, exc)
    return Finished(task=task, kind=messages.ACTIVITY_COMPLETED, payload=text)


def failed(task: Task, error: BaseException) -> Finished:
    """Return the completion of a task that raised ``error``."""
    runtime_log.info(
        "Activity failed",
        error_type=type(error).__name__,
        **({"error": str(error)} if settings.LOG_PAYLOADS else {}),
        instance_id=task.instance_id,
        execution_id=task.execution_id,
        activity_name=task.name,
        activity_id=task.event_id,
        attempt=task.attempt,
    )
    return _failure(task, from_exception(error, "ActivityFailed"))


def timed_out(task: Task, why: str) -> Finished:
    """Return the completion of a task whose time limit ran out; ``why`` says which."""
    runtime_log.info(
        "Activity timed out",
        error=why,
        instance_id=task.instance_id,
        execution_id=task.execution_id,
        activity_name=task.name,
        activity_id=task.event_id,
        attempt=task.attempt,
    )
    return _failure(task, timeout(why))


def in_time(context: ActivityContext, finished: Finished) -> Finished:
    """Return ``finished``, or the completion of a time-out if a time limit ran out before the function ended."""
    why = None if context.is_cancelled() else context.end()
    return finished if why is None else timed_out(finished.task, why)


def poisoned(task: Task, max_attempts: int) -> Finished:
    """Return the completion of a task that was fetched too often."""
    return _failure(
        task,
        poison(f"activity {task.name}#{task.event_id} exceeded {task.attempts} attempts (max {max_attempts})"),
    )


def _failure(task: Task, failure: Failure) -> Finished:
    return Finished(task=task, kind=messages.ACTIVITY_FAILED, payload=failure.to_json())


def run(
    task: Task, definition: ActivityDefinition, context: ActivityContext, db: Database, config: Config
) -> Finished | None:
    """Run a plain activity in this thread.

    Returns:
        its completion; None if it is committed already (an atomic activity).

    Raises:
        LeaseLost: an atomic activity's lease was lost; its transaction was rolled back.
        DatabaseAway: a database failed, not the activity; it is to run again.
    """
    # Transactions of the caller: drain() in a TestCase. Everything else this thread opens is the activity's.
    callers = _open_transactions()
    _tidy_connections(callers)
    try:
        finished = _attempt(task, definition, context, db, config)
    finally:
        left_open = _close_transactions(_open_transactions() - callers)
        _tidy_connections(callers)
    if left_open:
        return failed(
            task, TransactionLeftOpen(f"Activity {task.name!r} left a transaction open on {', '.join(left_open)}.")
        )
    return finished


async def run_async(
    task: Task, definition: ActivityDefinition, context: ActivityContext, db: Database, config: Config
) -> Finished:
    """Run an ``async def`` activity in this event loop; see run()."""
    try:
        with surroundings(task, context):
            value = await definition.function(context, loads(task.input))
            return completed(task, value, config.engine.max_payload_bytes)
    except KeyboardInterrupt:
        raise
    except Exception as exc:
        # Django's connections belong to the thread of its async calls.
        if _may_pass(exc) and await sync_to_async(_is_passing)(task, exc, db, config.max_attempts):
            raise DatabaseAway(f"{type(exc).__name__}: {exc}") from exc
        return failed(task, exc)
    except BaseException as exc:
        return failed(task, exc)


def _attempt(
    task: Task, definition: ActivityDefinition, context: ActivityContext, db: Database, config: Config
) -> Finished | None:
    max_bytes, max_attempts = config.engine.max_payload_bytes, config.max_attempts
    try:
        if definition.atomic:
            return _run_atomic(task, definition, context, db, max_bytes)
        with surroundings(task, context):
            return completed(task, definition.function(context, loads(task.input)), max_bytes)
    except (LeaseLost, DatabaseAway, KeyboardInterrupt):
        raise
    except Exception as exc:
        if _may_pass(exc) and _is_passing(task, exc, db, max_attempts):
            raise DatabaseAway(f"{type(exc).__name__}: {exc}") from exc
        return failed(task, exc)
    except BaseException as exc:
        return failed(task, exc)


def _may_pass(error: Exception) -> bool:
    """Return whether an error is to be looked at closer by _is_passing()."""
    return is_transient(error) or isinstance(error, (OperationalError, InterfaceError))


def _is_passing(task: Task, error: Exception, db: Database, max_attempts: int) -> bool:
    """Return whether an error came from a database's circumstances and the activity is to run again.

    While the workflows' database is away, always. While it is well, a fault that has met ``max_attempts`` deliveries in
    a row is the activity's result: its own statement may be what breaks the connection or takes too long, and as
    poison the error could not be caught.
    """
    if is_transient(error) and task.interruptions + 1 < max_attempts:
        return True
    return not is_well(db.connection)


def _run_atomic(
    task: Task, definition: ActivityDefinition, context: ActivityContext, db: Database, max_bytes: int
) -> Finished | None:
    try:
        with surroundings(task, context), db.atomic():
            finished = completed(task, definition.function(context, loads(task.input)), max_bytes)
            if finished.kind == messages.ACTIVITY_FAILED:
                raise _Unserialisable(finished)
            if (why := context.end()) is not None:
                raise RanOut(why)
            if not activities.complete(db, [finished]):
                raise LeaseLost(
                    f"Activity {task.name!r} #{task.event_id} of {task.instance_id!r} lost its lease; rolled back."
                )
    except _Unserialisable as exc:
        return exc.finished
    except RanOut as exc:
        return _failure(task, timeout(str(exc)))
    return None


@contextmanager
def surroundings(task: Task, context: ActivityContext) -> Iterator[None]:
    """Run one delivery of an activity in its span, with its ids bound to everything that it logs by structlog."""
    with (
        bound_contextvars(**context.log_fields()),
        span(
            f"activity {task.name}",
            instance_id=task.instance_id,
            execution_id=task.execution_id,
            orchestration_name=task.orchestration_name,
            activity_id=task.event_id,
            attempt=task.attempt,
            delivery=task.deliveries,
            session_id=task.session_id,
            tag=task.tag,
        ),
    ):
        yield


class _Unserialisable(Exception):
    def __init__(self, finished: Finished) -> None:
        super().__init__()
        self.finished = finished


def _open_transactions() -> set[str]:
    """Return the aliases on which this thread is in a transaction, or has left autocommit off."""
    return {
        connection.alias
        for connection in connections.all(initialized_only=True)
        if connection.in_atomic_block
        or (connection.connection is not None and connection.get_autocommit() != connection.settings_dict["AUTOCOMMIT"])
    }


def _close_transactions(aliases: set[str]) -> list[str]:
    """Roll back and drop connections whose transaction an activity began and never ended; returns their aliases."""
    for alias in aliases:
        raw = connections[alias].connection
        del connections[alias]
        if raw is not None:
            raw.close()
    return sorted(aliases)


def _tidy_connections(callers: set[str]) -> None:
    if not callers:
        close_old_connections()
        reset_queries()
