"""Forking: a copy of an instance's current execution goes on from an event, and the original stays as it is."""

from __future__ import annotations

import json

from duroxide_django.engine import events
from duroxide_django.exceptions import InstanceAlreadyExists
from duroxide_django.storage import rewind
from duroxide_django.storage.database import Database
from duroxide_django.storage.payloads import seal_event
from duroxide_django.storage.rewind_plan import Plan, Rewound, Target

_EXECUTION = "execution_id, version, status, input, output, error, started_ms, completed_ms, event_count"
_HISTORY = "execution_id, event_id, kind, source_event_id, timestamp_ms, data"
_KEY_VALUE = "key, value, updated_ms, execution_id, base_value, base_updated_ms"


def fork(db: Database, plan: Plan, new_instance_id: str) -> Rewound:
    """Copy an instance, and take the copy back as planned; see rewind.carry_out().

    Raises:
        InstanceAlreadyExists: there is an instance with the new id.
    """
    key = _copy(db, plan.target, new_instance_id)
    if plan.kept:
        _forget_parent(db, plan, key)
    return rewind.carry_out(db, plan.of_copy(key, new_instance_id))


def _copy(db: Database, source: Target, new_instance_id: str) -> int:
    found = db.fetch(
        f"""
        INSERT INTO duroxide_instance (instance_id, name, version, status, is_cancelled, current_execution_id,
            last_event_id, turns, custom_status, custom_status_version, created_ms, updated_ms, lease_until_ms,
            attempts, engine)
        SELECT %s, name, version, 'Running', false, current_execution_id, last_event_id, 0, custom_status,
            custom_status_version, {db.now}, {db.now}, 0, 0, engine
        FROM duroxide_instance WHERE id = %s ON CONFLICT (instance_id) DO NOTHING RETURNING id""",
        [new_instance_id, source.key],
    )
    if not found:
        raise InstanceAlreadyExists(
            f"Instance {new_instance_id!r} exists already; fork under another id.", instance_id=new_instance_id
        )
    key: int = found[0][0]
    for table, columns, among in (
        ("duroxide_execution", _EXECUTION, "="),
        ("duroxide_history", _HISTORY, "="),
        ("duroxide_kv", _KEY_VALUE, "<="),
    ):
        db.execute(
            f"INSERT INTO {table} (instance_id, {columns}) SELECT %s, {columns} FROM {table} "
            f"WHERE instance_id = %s AND execution_id {among} %s",
            [key, source.key, source.execution_id],
        )
    return key


def _forget_parent(db: Database, plan: Plan, key: int) -> None:
    """Let the copy of a child be a root: no parent waits for it."""
    first = plan.kept[0]
    if not isinstance(first, events.OrchestrationStarted) or first.parent_instance is None:
        return
    data = json.loads(first.stored_data())
    for name in ("parent_instance", "parent_id"):
        data.pop(name, None)
    db.execute(
        "UPDATE duroxide_history SET data = %s WHERE instance_id = %s AND execution_id = %s AND event_id = %s",
        [seal_event(json.dumps(data, ensure_ascii=False)), key, plan.target.execution_id, first.event_id],
    )
