"""Audit records: what operators did, in the same transaction as the deed."""

from __future__ import annotations

import json
from typing import Any

from duroxide_django.exceptions import PayloadUnreadable
from duroxide_django.storage.database import Database
from duroxide_django.storage.payloads import seal, shown, unseal


def record(db: Database, verb: str, instance_id: str, *, actor: str, reason: str, details: dict[str, Any]) -> None:
    """Write one record; call it inside the deed's transaction."""
    db.execute(
        f"""
        INSERT INTO duroxide_audit (at_ms, verb, instance_id, actor, reason, details)
        VALUES ({db.now}, %s, %s, %s, %s, %s)""",
        [verb, instance_id, actor, seal(reason), seal(json.dumps(details, ensure_ascii=False))],
    )


def read(db: Database, *, instance_id: str | None, limit: int) -> list[dict[str, Any]]:
    """Return records, newest first; of one instance, or of all if it is None."""
    condition, parameters = ("WHERE instance_id = %s", [instance_id]) if instance_id is not None else ("", [])
    found = db.fetch(
        f"SELECT at_ms, verb, instance_id, actor, reason, details FROM duroxide_audit {condition} "
        "ORDER BY id DESC LIMIT %s",
        [*parameters, limit],
    )
    names = ("at_ms", "verb", "instance_id", "actor", "reason", "details")
    return [
        {**dict(zip(names, row, strict=True)), "reason": shown(row[4]), "details": _details(row[5])} for row in found
    ]


def latest_details(db: Database, verb: str, instance_id: str) -> dict[str, Any] | None:
    """Return the details of the newest record of a verb on one instance, or None; raises PayloadUnreadable."""
    found = db.fetch(
        "SELECT details FROM duroxide_audit WHERE instance_id = %s AND verb = %s ORDER BY id DESC LIMIT 1",
        [instance_id, verb],
    )
    return None if not found else dict(json.loads(unseal(found[0][0])))


def _details(stored: str) -> dict[str, Any]:
    try:
        details: dict[str, Any] = json.loads(unseal(stored))
    except PayloadUnreadable as exc:
        return {"unreadable": str(exc)}
    return details
