"""What enters from outside: starts, events, queue messages, cancels; always inside the caller's transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.db import IntegrityError, OperationalError

from duroxide_django.engine import messages
from duroxide_django.storage.chunks import chunks
from duroxide_django.storage.database import Database, new_token
from duroxide_django.storage.payloads import seal

_START_COLUMNS = (
    ("instance_id", "text"),
    ("name", "text"),
    ("version", "text"),
    ("input", "payload"),
    ("parent", "bigint"),
    ("parent_execution", "int"),
    ("parent_event", "int"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StartRow:
    """One instance to start.

    Attributes:
        input: JSON text.
        parent: key of the parent's row, for a child; with its execution and schedule event.
    """

    instance_id: str
    name: str
    version: str | None
    input: str
    parent: int | None = None
    parent_execution: int | None = None
    parent_event: int | None = None


def start(db: Database, rows: Sequence[StartRow]) -> dict[str, int]:
    """Insert instances with their start messages.

    Returns:
        the new rows' keys by instance id; an id that exists already is missing from it.
    """
    if not rows:
        return {}
    # Of two rows with one id the first wins.
    unique: dict[str, StartRow] = {}
    for row in rows:
        unique.setdefault(row.instance_id, row)
    # Sorted, so that two transactions that start the same ids don't wait for each other.
    values = [
        (
            row.instance_id,
            row.name,
            row.version,
            row.input,
            row.parent,
            row.parent_execution,
            row.parent_event,
        )
        for _, row in sorted(unique.items())
    ]
    if len(values) == 1 and db.features.has_writable_cte:
        return _start_one(db, values)
    keys: dict[int, str] = {}
    with db.atomic():
        for chunk in chunks(_START_COLUMNS, values):
            source, parameters = db.rows(_START_COLUMNS, chunk)
            keys.update(db.fetch(_insertion(db, source, _UNLESS_IN_CONFLICT), parameters))
        # Not by the same statement, which would join two sets that no index serves.
        send(
            db,
            [
                Outgoing(instance=key, kind=messages.START, name=unique[name].version, payload=unique[name].input)
                for key, name in keys.items()
            ],
        )
    return {name: key for key, name in keys.items()}


def _start_one(db: Database, values: Sequence[Sequence[Any]]) -> dict[str, int]:
    source, parameters = db.rows(_START_COLUMNS, values)
    if db.connection.get_autocommit():
        try:
            return _start_in_one(db, source, parameters, _UNLESS_THERE)
        except IntegrityError:
            pass  # Somebody else was faster by a moment.
    return _start_in_one(db, source, parameters, _UNLESS_IN_CONFLICT)


_UNLESS_IN_CONFLICT = "WHERE true ON CONFLICT (instance_id) DO NOTHING"
#: Writes less, but fails if another transaction inserts the same id now: nothing else may be lost with the statement.
_UNLESS_THERE = "WHERE NOT EXISTS (SELECT 1 FROM duroxide_instance i WHERE i.instance_id = r.instance_id)"


def _insertion(db: Database, source: str, unless: str) -> str:
    return f"""
        INSERT INTO duroxide_instance (instance_id, name, version, status, is_cancelled, current_execution_id,
            last_event_id, turns, parent_id, parent_execution_id, parent_event_id, custom_status_version, created_ms,
            updated_ms, lease_until_ms, attempts)
        SELECT r.instance_id, r.name, r.version, 'Running', false, 1, 0, 0, r.parent, r.parent_execution,
            r.parent_event, 0, {db.now}, {db.now}, 0, 0
        FROM {source} {unless} RETURNING id, instance_id"""


def _start_in_one(db: Database, source: str, parameters: list[Any], unless: str) -> dict[str, int]:
    found = db.fetch(
        f"""
        WITH given AS (SELECT * FROM {source}), new AS ({_insertion(db, "given AS r", unless)}), sent AS (
            INSERT INTO duroxide_message (instance_id, kind, name, payload, force, due_ms, visible_at_ms)
            SELECT new.id, '{messages.START}', r.version, r.input, false, {db.now}, {db.now}
            FROM given AS r JOIN new ON new.instance_id = r.instance_id)
        SELECT instance_id, id FROM new""",
        parameters,
    )
    return dict(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """One message to enqueue; visible at once unless ``visible_at_ms`` is given."""

    instance: int
    kind: str
    payload: str
    execution_id: int | None = None
    event_id: int | None = None
    name: str | None = None
    visible_at_ms: int | None = None


_MESSAGE_COLUMNS = (
    ("instance", "bigint"),
    ("kind", "text"),
    ("execution_id", "int"),
    ("event_id", "int"),
    ("name", "text"),
    ("payload", "payload"),
    ("visible_at", "bigint"),
)


def send(db: Database, outgoing: Sequence[Outgoing], *, check_instance: bool = False) -> None:
    """Enqueue messages.

    Args:
        check_instance: leave out messages whose instance row is gone.
    """
    if not outgoing:
        return
    values = [
        (
            item.instance,
            item.kind,
            item.execution_id,
            item.event_id,
            item.name,
            item.payload,
            item.visible_at_ms,
        )
        for item in outgoing
    ]
    condition = "EXISTS (SELECT 1 FROM duroxide_instance i WHERE i.id = r.instance)" if check_instance else "true"
    for chunk in chunks(_MESSAGE_COLUMNS, values):
        source, parameters = db.rows(_MESSAGE_COLUMNS, chunk)
        db.execute(
            f"""
            INSERT INTO duroxide_message
                (instance_id, kind, execution_id, event_id, name, payload, force, due_ms, visible_at_ms)
            SELECT r.instance, r.kind, r.execution_id, r.event_id, r.name, r.payload, false,
                COALESCE(r.visible_at, {db.now}), COALESCE(r.visible_at, {db.now})
            FROM {source} WHERE {condition}""",
            parameters,
        )


def deliver(
    db: Database, instance_id: str, kind: str, *, name: str | None = None, payload: str, force: bool = False
) -> bool | None:
    """Enqueue one message for an instance by its id.

    Returns:
        True: enqueued; False: the instance has ended; None: there is no such instance.
    """
    if kind != messages.CANCEL:
        return _deliver(db, instance_id, kind, name, payload, force)
    with db.atomic():
        if force:
            _make_claimable(db, instance_id)
        _overtake_if_possible(db, instance_id)
        return _deliver(db, instance_id, kind, name, payload, force)


def _deliver(db: Database, instance_id: str, kind: str, name: str | None, payload: str, force: bool) -> bool | None:
    sent = db.execute(
        f"""
        INSERT INTO duroxide_message (instance_id, kind, name, payload, force, due_ms, visible_at_ms)
        SELECT i.id, %s, %s, %s, %s, {db.now}, {db.now} FROM duroxide_instance i
        WHERE i.instance_id = %s AND i.status = 'Running'""",
        [kind, name, seal(payload), force, instance_id],
    )
    if sent:
        return True
    found = db.fetch("SELECT 1 FROM duroxide_instance WHERE instance_id = %s", [instance_id])
    return False if found else None


def _overtake_if_possible(db: Database, instance_id: str) -> None:
    """Overtake a turn that is under way, unless the caller's isolation forbids to write the row.

    Under REPEATABLE READ and SERIALIZABLE, a row that has changed since the caller's snapshot can't be updated
    (SQLSTATE 40001). Its transaction goes on; the cancel is a message like any other then.
    """
    try:
        with db.atomic():
            _overtake(db, instance_id)
    except OperationalError as exc:
        if getattr(exc.__cause__, "sqlstate", None) != "40001":
            raise


def _overtake(db: Database, instance_id: str) -> None:
    """Let no turn be committed that was computed without the cancel that follows: it would end the instance.

    One that waits to be processed has done so already; to do it again and again would keep the turn from its end.
    """
    db.execute(
        f"""
        UPDATE duroxide_instance SET mark = %s,
            attempts = CASE WHEN lease_token IS NULL THEN attempts ELSE attempts - 1 END,
            lease_until_ms = CASE WHEN lease_token IS NULL THEN lease_until_ms ELSE 0 END, lease_token = NULL
        WHERE instance_id = %s AND status = 'Running' AND NOT EXISTS (
            SELECT 1 FROM duroxide_message m
            WHERE m.instance_id = duroxide_instance.id AND m.kind = '{messages.CANCEL}')""",
        [new_token(), instance_id],
    )


def _make_claimable(db: Database, instance_id: str) -> None:
    # A parked instance holds a lease without a token and hides its messages; a forced cancel must not wait for that.
    found = db.fetch(
        "UPDATE duroxide_instance SET lease_until_ms = 0 WHERE instance_id = %s AND lease_token IS NULL RETURNING id",
        [instance_id],
    )
    for (key,) in found:
        show_messages(db, key)


def show_messages(db: Database, key: int) -> None:
    """Let the messages of an instance be claimed that were hidden until its next try."""
    db.execute(
        f"""UPDATE duroxide_message SET visible_at_ms = due_ms
        WHERE instance_id = %s AND due_ms <= {db.now} AND visible_at_ms > {db.now}""",
        [key],
    )


#: As many messages are looked at for whether their instance is gone.
_OLDEST = 10_000


def remove_orphans(db: Database, *, older_than_ms: int) -> int:
    """Delete messages of instances that are gone; returns how many.

    A message takes no lock on its instance's row, so one that is sent while the instance is being deleted stays. As
    nobody takes it, it comes to be among the oldest; only these are looked at.

    Args:
        older_than_ms: milliseconds for which they could have been taken.
    """
    orphans = db.fetch(
        f"""
        SELECT m.instance_id, m.id FROM (
            SELECT instance_id, id FROM duroxide_message WHERE visible_at_ms <= {db.now} - %s
            ORDER BY visible_at_ms, id LIMIT %s) AS m
        WHERE NOT EXISTS (SELECT 1 FROM duroxide_instance i WHERE i.id = m.instance_id)""",
        [older_than_ms, _OLDEST],
    )
    if not orphans:
        return 0
    condition, parameters = db.keyed("duroxide_message", orphans)
    return db.execute(f"DELETE FROM duroxide_message WHERE {condition}", parameters)
