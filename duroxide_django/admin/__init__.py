"""The admin: the control room of the workflows. Importing it registers its pages."""

from duroxide_django.admin import batches
from duroxide_django.admin.instances import InstanceAdmin
from duroxide_django.admin.system import QueueAdmin, SessionAdmin, WorkerAdmin

__all__ = ["InstanceAdmin", "QueueAdmin", "SessionAdmin", "WorkerAdmin", "batches"]
