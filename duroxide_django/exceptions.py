"""Every error this package raises, in one tree.

::

    DuroxideError(Exception)
    ├── TaskFailed                        thrown into an orchestration at its ``yield``
    │   ├── ActivityFailed
    │   ├── SubOrchestrationFailed
    │   └── TaskTimeout                   also a TimeoutError
    ├── OrchestrationCancelled            thrown into a cancelled orchestration
    ├── NonRetryable                      raised by an activity: do not retry me
    ├── NondeterminismError               the code no longer fits the recorded history
    ├── EngineError                       a defect of this package
    ├── CorruptHistory                    the recorded history can't be read
    ├── CorruptRow                        a row of the queues or of an instance can't be read
    ├── PayloadUnreadable                 a stored payload can't be decoded: a key or its codec is missing
    ├── InvalidTask                       also a TypeError: what was yielded is no task
    ├── InvalidArgument                   also a ValueError: refused before anything was written
    │   ├── PayloadError                  also a TypeError: JSON can't carry the value
    │   ├── PayloadTooLarge
    │   └── LimitExceeded
    ├── ConfigurationError                also a RuntimeError: settings, providers or options are wrong
    │   └── UnsupportedDatabase
    └── ClientError                       also a RuntimeError: what a client call raises
        ├── InstanceNotFound
        ├── InstanceAlreadyExists
        ├── InstanceStillRunning
        ├── OrchestrationFailed
        ├── WaitTimeout                   also a TimeoutError
        ├── WaitInTransaction
        └── RuntimeStateError             start() twice, registering while running

A class docstring is the default message. This module imports nothing, so every floor may use it.
"""

from __future__ import annotations

from typing import Any, TypeVar

Error = TypeVar("Error", bound="DuroxideError")


class DuroxideError(Exception):
    """Base of all errors of this package; do not raise it directly."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").split("\n", 1)[0])

    def __reduce__(self) -> tuple[Any, ...]:
        # By the finished text and attributes: __init__ may take others, or add to the text.
        return _restored, (type(self), self.args, self.__dict__.copy())


def _restored(cls: type[Error], args: tuple[Any, ...], attributes: dict[str, Any]) -> Error:
    """Return the copied or unpickled error."""
    # What is also an OSError (a TimeoutError) is laid out as one: other constructors refuse it.
    layout = OSError if OSError in cls.__mro__ else Exception
    error: Error = layout.__new__(cls, *args)
    error.args = args
    error.__dict__.update(attributes)
    return error


class TaskFailed(DuroxideError):
    """A scheduled task failed.

    Attributes:
        name: the activity, or the child's instance id.
        event_id: its schedule event in the history.
        error_types: names of the original exception's class and its bases, most derived first.
        traceback_text: the original traceback as text, or None.
        retryable: False if another attempt makes no sense (NonRetryable).
    """

    def __init__(
        self,
        message: str | None = None,
        *,
        name: str | None = None,
        event_id: int | None = None,
        error_types: tuple[str, ...] = (),
        traceback_text: str | None = None,
        retryable: bool = True,
    ) -> None:
        super().__init__(message)
        self.name = name
        self.event_id = event_id
        self.error_types = error_types
        self.traceback_text = traceback_text
        self.retryable = retryable


class ActivityFailed(TaskFailed):
    """An activity raised; ``str()`` is ``<Class>: <message>`` of the original exception."""


class SubOrchestrationFailed(TaskFailed):
    """A sub-orchestration failed or was cancelled.

    Attributes:
        cancelled: whether the child ended by cancellation.
    """

    cancelled: bool = False


class TaskTimeout(TaskFailed, TimeoutError):
    """timeout: activity timed out"""


class OrchestrationCancelled(DuroxideError):
    """The instance was cancelled; clean up and return."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(f"canceled: {reason}")
        self.reason = reason


class NonRetryable(DuroxideError):
    """The activity failed in a way that another attempt can't mend."""


class NondeterminismError(DuroxideError):
    """nondeterministic: the orchestration's code does not fit its recorded history.

    Attributes:
        event_id: the history event that did not fit, or None.
        expected: what the history records.
        got: what the code did instead.
        source: ``file:line`` of the open ``yield``, or None.
    """

    def __init__(
        self,
        message: str,
        *,
        event_id: int | None = None,
        expected: str = "",
        got: str = "",
        source: str | None = None,
    ) -> None:
        super().__init__(f"nondeterministic: {message}")
        self.event_id = event_id
        self.expected = expected
        self.got = got
        self.source = source


class EngineError(DuroxideError):
    """The engine was used wrongly; please report it."""


class CorruptHistory(DuroxideError):
    """The recorded history can't be decoded."""


class NewerEngine(CorruptHistory):
    """The execution was begun by a newer release, whose engine this one does not know."""


class CorruptRow(DuroxideError):
    """A row of the workflows' tables has values of wrong types, or texts of a wrong form."""


class PayloadUnreadable(DuroxideError):
    """A stored payload can't be decoded here: its codec, or the key that it needs, is not configured."""


class InvalidTask(DuroxideError, TypeError):
    """An orchestration may yield only tasks made by its ctx."""


class InvalidArgument(DuroxideError, ValueError):
    """An argument is wrong; nothing was written."""


class PayloadError(InvalidArgument, TypeError):
    """A value can't be carried as JSON."""


class PayloadTooLarge(InvalidArgument):
    """A payload is larger than the configured limit."""


class LimitExceeded(InvalidArgument):
    """A documented limit would be exceeded."""


class ConfigurationError(DuroxideError, RuntimeError):
    """The configuration is wrong."""


class DatabaseFileReplaced(DuroxideError):
    """The SQLite file was deleted or replaced while a worker used it; the worker ends."""


class UnsupportedDatabase(ConfigurationError):
    """duroxide_django needs SQLite or PostgreSQL."""


class ClientError(DuroxideError, RuntimeError):
    """A client call could not be carried out."""

    def __init__(self, message: str | None = None, *, instance_id: str | None = None) -> None:
        super().__init__(message)
        self.instance_id = instance_id


class InstanceNotFound(ClientError):
    """No instance has this id."""


class InstanceAlreadyExists(ClientError):
    """An instance with this id exists already."""


class InstanceStillRunning(ClientError):
    """The instance, or one below it, is still running."""


class OrchestrationFailed(ClientError):
    """The orchestration ended in failure.

    Attributes:
        error_types: names of the original exception's class and its bases, most derived first.
        traceback_text: the original traceback as text, or None.
        is_cancelled: whether it ended by cancellation.
    """

    def __init__(
        self,
        message: str | None = None,
        *,
        instance_id: str | None = None,
        error_types: tuple[str, ...] = (),
        traceback_text: str | None = None,
        is_cancelled: bool = False,
    ) -> None:
        super().__init__(message, instance_id=instance_id)
        self.error_types = error_types
        self.traceback_text = traceback_text
        self.is_cancelled = is_cancelled


class WaitTimeout(ClientError, TimeoutError):
    """Operation timed out"""


class WaitInTransaction(ClientError):
    """A wait inside atomic() could never see the change it waits for."""


class RuntimeStateError(ClientError):
    """The runtime is not in a state that allows this call."""
