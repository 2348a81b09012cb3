"""This project, by the program written for duroxide: only the import differs."""

from dataclasses import dataclass, field
from typing import ClassVar

from benchmarks.engines import base, duroxide


@dataclass(slots=True)
class Adapter(duroxide.Adapter):
    """See base.Adapter."""

    _filled: object = field(default=None, init=False)

    module = "duroxide_django"
    package = "duroxide_django"
    ended_sql = "SELECT count(*) FROM duroxide_instance WHERE status = 'Completed' AND name = '{workflow}'"
    waiting_sql = "SELECT count(*) FROM duroxide_instance WHERE status = 'Running'"
    missing: ClassVar[dict[str, str]] = {}
    tuning = ""
    waiting_instances = base.Adapter.waiting_instances

    def start_many(self, instances, workflow, argument):
        many = getattr(self.client, "start_many", None)
        if many is None:
            return False
        many([(instance, workflow, argument) for instance in instances])
        return True

    def fill_for_admin(self, instances, events):
        from benchmarks.admin.site import set_up

        set_up(self.store)
        from benchmarks.admin.fill import fill
        from duroxide_django.storage.database import Database

        self._filled = fill(Database("default"), instances=instances, events=events)

    def time_admin(self, runs):
        from benchmarks.admin.pages import time_all

        return time_all(self._filled, runs)
