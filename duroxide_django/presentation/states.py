"""The state that people see, which is finer than an instance's status."""

from __future__ import annotations

import json
from dataclasses import dataclass

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from duroxide_django.storage.overview import InstanceRow


@dataclass(frozen=True, slots=True)
class State:
    """How an instance stands, for a badge.

    Attributes:
        key: for style sheets and addresses.
        label: its name.
    """

    key: str
    label: str | Promise


PENDING = State("pending", _("Pending"))
RUNNING = State("running", _("Running"))
WAITING = State("waiting", _("Waiting"))
BLOCKED = State("blocked", _("Blocked"))
PAUSED = State("paused", _("Paused"))
COMPLETED = State("completed", _("Completed"))
FAILED = State("failed", _("Failed"))
CANCELLED = State("cancelled", _("Cancelled"))
CONTINUED = State("continued", _("Continued as new"))

_BY_STATUS = {
    "Pending": PENDING,
    "Running": RUNNING,
    "Completed": COMPLETED,
    "Failed": FAILED,
    "ContinuedAsNew": CONTINUED,
}


def of_status(status: str, *, is_cancelled: bool = False) -> State:
    """Return the state that a stored status stands for."""
    if status == "Failed" and is_cancelled:
        return CANCELLED
    return _BY_STATUS.get(status, State("running", status))


def of_instance(row: InstanceRow, *, works: bool) -> State:
    """Return the state of an instance.

    Args:
        works: whether an activity of it is running, or it has a message that a worker can take now.
    """
    if row.is_open and row.blocked:
        return PAUSED if is_paused(row.blocked) else BLOCKED
    if row.status == "Running" and not works:
        return WAITING
    return of_status(row.status, is_cancelled=row.is_cancelled)


def of_relative(status: str, *, is_cancelled: bool, blocked: str | None, works: bool) -> State:
    """Return the state of a member of the family; see of_instance()."""
    if blocked and status in ("Pending", "Running"):
        return PAUSED if is_paused(blocked) else BLOCKED
    if status == "Running" and not works:
        return WAITING
    return of_status(status, is_cancelled=is_cancelled)


def is_paused(blocked: str | None) -> bool:
    """Tell whether the stored reason, why an instance can't go on, is that somebody paused it."""
    try:
        why = json.loads(blocked or "null")
    except ValueError:
        return False
    return isinstance(why, dict) and why.get("reason") == "paused"
