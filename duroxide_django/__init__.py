"""Durable workflows for Django: orchestrations that survive crashes, deploys and a month's wait.

Everything a user needs is importable from here. Names are loaded on first use, so that importing the package (or its
engine) needs neither Django nor settings.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_MODULES = {
    "duroxide_django.activities": ("ActivityContext", "activity"),
    "duroxide_django.client": ("Client",),
    "duroxide_django.engine.context": ("OrchestrationContext",),
    "duroxide_django.engine.limits": (
        "MAX_CUSTOM_STATUS_BYTES",
        "MAX_KV_KEYS",
        "MAX_KV_VALUE_BYTES",
        "MAX_TAG_NAME_BYTES",
        "MAX_WORKER_TAGS",
    ),
    "duroxide_django.engine.retry": ("RetryPolicy",),
    "duroxide_django.exceptions": (
        "ActivityFailed",
        "ClientError",
        "ConfigurationError",
        "DatabaseFileReplaced",
        "CorruptHistory",
        "NewerEngine",
        "CorruptRow",
        "DuroxideError",
        "EngineError",
        "InstanceAlreadyExists",
        "InstanceNotFound",
        "InstanceStillRunning",
        "InvalidArgument",
        "InvalidTask",
        "LimitExceeded",
        "NonRetryable",
        "NondeterminismError",
        "OrchestrationCancelled",
        "OrchestrationFailed",
        "PayloadError",
        "PayloadTooLarge",
        "PayloadUnreadable",
        "RuntimeStateError",
        "SubOrchestrationFailed",
        "TaskFailed",
        "TaskTimeout",
        "UnsupportedDatabase",
        "WaitInTransaction",
        "WaitTimeout",
    ),
    "duroxide_django.logs": ("init_tracing",),
    "duroxide_django.options": ("RuntimeOptions", "TagFilter"),
    "duroxide_django.orchestrations": ("orchestration",),
    "duroxide_django.provider": ("PostgresEntraOptions", "PostgresProvider", "Provider", "SqliteProvider"),
    "duroxide_django.results": (
        "DeleteInstanceResult",
        "Event",
        "ExecutionInfo",
        "InstanceFilter",
        "InstanceInfo",
        "InstanceTree",
        "OrchestrationResult",
        "OrchestrationStatus",
        "PruneOptions",
        "PruneResult",
        "QueueDepths",
        "SystemMetrics",
        "SystemStats",
        "parse_result",
    ),
    "duroxide_django.runtime.metrics": ("MetricsSnapshot",),
    "duroxide_django.runtime.runtime": ("Runtime",),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

#: Older spellings of the same classes (spec 16.15).
_ALIASES = {
    f"Py{name}": name
    for name in (
        "DeleteInstanceResult",
        "Event",
        "ExecutionInfo",
        "InstanceFilter",
        "InstanceInfo",
        "InstanceTree",
        "MetricsSnapshot",
        "OrchestrationResult",
        "OrchestrationStatus",
        "PruneOptions",
        "PruneResult",
        "QueueDepths",
        "RuntimeOptions",
        "SystemMetrics",
        "SystemStats",
    )
}

__all__ = sorted([*_HOMES, *_ALIASES, "__version__"])  # noqa: PLE0605 - one list keeps names and homes together


def __getattr__(name: str) -> Any:
    target = _ALIASES.get(name, name)
    home = _HOMES.get(target)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if home not in _NEEDS_NO_DJANGO:
        from duroxide_django.standalone import ensure_django

        ensure_django()
    value = getattr(importlib.import_module(home), target)
    globals()[name] = value
    return value


#: Modules that can be imported before Django is set up.
_NEEDS_NO_DJANGO = frozenset(
    {
        "duroxide_django.activities",
        "duroxide_django.orchestrations",
        "duroxide_django.options",
        "duroxide_django.provider",
        "duroxide_django.results",
        "duroxide_django.logs",
        "duroxide_django.exceptions",
        "duroxide_django.engine.context",
        "duroxide_django.engine.limits",
        "duroxide_django.engine.retry",
    }
)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if TYPE_CHECKING:
    from duroxide_django.activities import ActivityContext as ActivityContext
    from duroxide_django.activities import activity as activity
    from duroxide_django.client import Client as Client
    from duroxide_django.engine.context import OrchestrationContext as OrchestrationContext
    from duroxide_django.engine.limits import MAX_CUSTOM_STATUS_BYTES as MAX_CUSTOM_STATUS_BYTES
    from duroxide_django.engine.limits import MAX_KV_KEYS as MAX_KV_KEYS
    from duroxide_django.engine.limits import MAX_KV_VALUE_BYTES as MAX_KV_VALUE_BYTES
    from duroxide_django.engine.limits import MAX_TAG_NAME_BYTES as MAX_TAG_NAME_BYTES
    from duroxide_django.engine.limits import MAX_WORKER_TAGS as MAX_WORKER_TAGS
    from duroxide_django.engine.retry import RetryPolicy as RetryPolicy
    from duroxide_django.exceptions import ActivityFailed as ActivityFailed
    from duroxide_django.exceptions import ClientError as ClientError
    from duroxide_django.exceptions import ConfigurationError as ConfigurationError
    from duroxide_django.exceptions import CorruptHistory as CorruptHistory
    from duroxide_django.exceptions import CorruptRow as CorruptRow
    from duroxide_django.exceptions import DatabaseFileReplaced as DatabaseFileReplaced
    from duroxide_django.exceptions import DuroxideError as DuroxideError
    from duroxide_django.exceptions import EngineError as EngineError
    from duroxide_django.exceptions import InstanceAlreadyExists as InstanceAlreadyExists
    from duroxide_django.exceptions import InstanceNotFound as InstanceNotFound
    from duroxide_django.exceptions import InstanceStillRunning as InstanceStillRunning
    from duroxide_django.exceptions import InvalidArgument as InvalidArgument
    from duroxide_django.exceptions import InvalidTask as InvalidTask
    from duroxide_django.exceptions import LimitExceeded as LimitExceeded
    from duroxide_django.exceptions import NewerEngine as NewerEngine
    from duroxide_django.exceptions import NondeterminismError as NondeterminismError
    from duroxide_django.exceptions import NonRetryable as NonRetryable
    from duroxide_django.exceptions import OrchestrationCancelled as OrchestrationCancelled
    from duroxide_django.exceptions import OrchestrationFailed as OrchestrationFailed
    from duroxide_django.exceptions import PayloadError as PayloadError
    from duroxide_django.exceptions import PayloadTooLarge as PayloadTooLarge
    from duroxide_django.exceptions import PayloadUnreadable as PayloadUnreadable
    from duroxide_django.exceptions import RuntimeStateError as RuntimeStateError
    from duroxide_django.exceptions import SubOrchestrationFailed as SubOrchestrationFailed
    from duroxide_django.exceptions import TaskFailed as TaskFailed
    from duroxide_django.exceptions import TaskTimeout as TaskTimeout
    from duroxide_django.exceptions import UnsupportedDatabase as UnsupportedDatabase
    from duroxide_django.exceptions import WaitInTransaction as WaitInTransaction
    from duroxide_django.exceptions import WaitTimeout as WaitTimeout
    from duroxide_django.logs import init_tracing as init_tracing
    from duroxide_django.options import RuntimeOptions as RuntimeOptions
    from duroxide_django.options import TagFilter as TagFilter
    from duroxide_django.orchestrations import orchestration as orchestration
    from duroxide_django.provider import PostgresEntraOptions as PostgresEntraOptions
    from duroxide_django.provider import PostgresProvider as PostgresProvider
    from duroxide_django.provider import Provider as Provider
    from duroxide_django.provider import SqliteProvider as SqliteProvider
    from duroxide_django.results import DeleteInstanceResult as DeleteInstanceResult
    from duroxide_django.results import Event as Event
    from duroxide_django.results import ExecutionInfo as ExecutionInfo
    from duroxide_django.results import InstanceFilter as InstanceFilter
    from duroxide_django.results import InstanceInfo as InstanceInfo
    from duroxide_django.results import InstanceTree as InstanceTree
    from duroxide_django.results import OrchestrationResult as OrchestrationResult
    from duroxide_django.results import OrchestrationStatus as OrchestrationStatus
    from duroxide_django.results import PruneOptions as PruneOptions
    from duroxide_django.results import PruneResult as PruneResult
    from duroxide_django.results import QueueDepths as QueueDepths
    from duroxide_django.results import SystemMetrics as SystemMetrics
    from duroxide_django.results import SystemStats as SystemStats
    from duroxide_django.results import parse_result as parse_result
    from duroxide_django.runtime.metrics import MetricsSnapshot as MetricsSnapshot
    from duroxide_django.runtime.runtime import Runtime as Runtime
