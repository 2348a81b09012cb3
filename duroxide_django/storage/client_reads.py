"""What clients read: committed state only, one query each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from duroxide_django.storage.database import Database
from duroxide_django.storage.payloads import unseal, unseal_optional


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusRow:
    """An instance's state; output is JSON text, error the failure's JSON."""

    status: str
    output: str | None
    error: str | None
    custom_status: str | None
    custom_status_version: int
    is_cancelled: bool


def status(db: Database, instance_id: str) -> StatusRow | None:
    """Return an instance's state, or None."""
    found = db.fetch(
        """
        SELECT i.status, e.output, e.error, i.custom_status, i.custom_status_version, i.is_cancelled
        FROM duroxide_instance i LEFT JOIN duroxide_execution e
            ON e.instance_id = i.id AND e.execution_id = i.current_execution_id
            AND i.status IN ('Completed', 'Failed')
        WHERE i.instance_id = %s""",
        [instance_id],
    )
    if not found:
        return None
    state, output, error, custom_status, version, is_cancelled = found[0]
    return StatusRow(
        status=state,
        output=unseal_optional(output),
        error=unseal_optional(error),
        custom_status=unseal_optional(custom_status),
        custom_status_version=version,
        is_cancelled=bool(is_cancelled),
    )


@dataclass(frozen=True, slots=True)
class State:
    """Something that changes with each committed turn.

    Attributes:
        shown: what clients wait for, but for KV entries.
        mark: see Claimed.
    """

    shown: tuple[int, str, int]
    mark: int


def states(db: Database, instance_ids: Sequence[str]) -> dict[str, State]:
    """Return the states of instances by id; unknown ones are left out."""
    if not instance_ids:
        return {}
    among, parameter = db.any_of("instance_id", instance_ids)
    found = db.fetch(
        f"SELECT instance_id, id, status, custom_status_version, mark FROM duroxide_instance WHERE {among}", [parameter]
    )
    return {name: State((key, state, version), mark) for name, key, state, version, mark in found}


def custom_status_version(db: Database, instance_id: str) -> tuple[int, bool, int] | None:
    """Return (custom status version, whether the instance has ended, key of this life's row), or None."""
    found = db.fetch(
        "SELECT custom_status_version, status, id FROM duroxide_instance WHERE instance_id = %s", [instance_id]
    )
    return (found[0][0], found[0][1] in ("Completed", "Failed"), found[0][2]) if found else None


def kv_value(db: Database, instance_id: str, key: str) -> str | None:
    """Return a KV entry's live value, or None."""
    found = db.fetch(
        """
        SELECT k.value FROM duroxide_instance i JOIN duroxide_kv k ON k.instance_id = i.id AND k.key = %s
        WHERE i.instance_id = %s""",
        [key, instance_id],
    )
    return unseal_optional(found[0][0]) if found else None


def kv_values(db: Database, instance_id: str) -> dict[str, str]:
    """Return all live KV entries of an instance."""
    found = db.fetch(
        """
        SELECT k.key, k.value FROM duroxide_instance i JOIN duroxide_kv k ON k.instance_id = i.id
        WHERE i.instance_id = %s AND k.value IS NOT NULL ORDER BY k.key""",
        [instance_id],
    )
    return {key: unseal(value) for key, value in found}


def start_of(db: Database, instance_id: str) -> tuple[str, str | None, str] | None:
    """Return (orchestration name, first input as JSON text, status) of an instance, or None."""
    found = db.fetch(
        """
        SELECT i.name, COALESCE(e.input, (SELECT m.payload FROM duroxide_message m
            WHERE m.instance_id = i.id AND m.kind = 'StartOrchestration' ORDER BY m.id LIMIT 1)), i.status
        FROM duroxide_instance i LEFT JOIN duroxide_execution e ON e.instance_id = i.id AND e.execution_id = 1
        WHERE i.instance_id = %s""",
        [instance_id],
    )
    if not found:
        return None
    name, stored, state = found[0]
    return name, unseal_optional(stored), state
