"""The admin's log: who did what, and why."""

from __future__ import annotations

from typing import Any

from django.contrib.admin.models import LogEntry

from duroxide_django.models import Instance


def record(user: Any, key: int, instance_id: str, flag: int, text: str) -> None:
    """Write one entry about the instance with this row key, which may be gone.

    Args:
        user: primary key of who did it.
        flag: ADDITION, CHANGE or DELETION.
    """
    LogEntry.objects.log_actions(
        user_id=user,
        queryset=[Instance(pk=key, instance_id=instance_id)],
        action_flag=flag,
        change_message=text,
        single_object=True,
    )
