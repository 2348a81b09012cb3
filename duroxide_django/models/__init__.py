"""The tables. Only ``duroxide_django.storage`` writes them."""

from duroxide_django.models.audit import AuditRecord
from duroxide_django.models.history import HistoryEvent
from duroxide_django.models.instance import Execution, ExecutionStatus, Instance, InstanceStatus
from duroxide_django.models.queue import ActivityTask, Message, QueueMessage
from duroxide_django.models.state import KeyValue, Session
from duroxide_django.models.worker import Worker

__all__ = [
    "ActivityTask",
    "AuditRecord",
    "Execution",
    "ExecutionStatus",
    "HistoryEvent",
    "Instance",
    "InstanceStatus",
    "KeyValue",
    "Message",
    "QueueMessage",
    "Session",
    "Worker",
]
