"""Writing stored payloads anew through today's payload codec: after a key or a codec was changed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from duroxide_django.exceptions import DuroxideError
from duroxide_django.storage import payloads
from duroxide_django.storage.database import Database, Row

#: Rows that one transaction looks at.
BATCH = 500


@dataclass(frozen=True, slots=True)
class _Column:
    name: str
    is_current: Callable[[str], bool]
    again: Callable[[str], str]


def _payload_again(stored: str) -> str:
    return payloads.seal(payloads.unseal(stored)) or ""


def _event_again(stored: str) -> str:
    return payloads.seal_event(payloads.unseal_event(stored)) or ""


def _event_is_current(stored: str) -> bool:
    try:
        fields = json.loads(stored)
    except ValueError:
        return True  # Corrupt: nothing to be done here.
    if not isinstance(fields, dict):
        return True
    values = [fields[name] for name in payloads.PAYLOAD_FIELDS.intersection(fields)]
    return all(payloads.is_current(value) for value in values if isinstance(value, str))


def _blocked_again(stored: str) -> str:
    recorded = payloads.read_blocked(stored, strict=True)
    return payloads.seal_blocked(recorded)


def _last_error_is_current(stored: str) -> bool:
    # What tells of a missing key must be readable without it.
    return stored.startswith("PayloadUnreadable: ") or payloads.is_current(stored)


def _plain(name: str) -> _Column:
    return _Column(name, payloads.is_current, _payload_again)


#: Every column that holds payloads, by table, with the table's key.
COLUMNS: dict[str, tuple[tuple[str, ...], tuple[_Column, ...]]] = {
    "duroxide_instance": (
        ("id",),
        (_plain("custom_status"), _Column("blocked", payloads.blocked_is_current, _blocked_again)),
    ),
    "duroxide_execution": (("instance_id", "execution_id"), (_plain("input"), _plain("output"), _plain("error"))),
    "duroxide_history": (
        ("instance_id", "execution_id", "event_id"),
        (_Column("data", _event_is_current, _event_again),),
    ),
    "duroxide_message": (("instance_id", "id"), (_plain("payload"),)),
    "duroxide_activity_task": (
        ("instance_id", "id"),
        (_plain("input"), _Column("last_error", _last_error_is_current, _payload_again), _plain("progress")),
    ),
    "duroxide_queue_message": (("id",), (_plain("data"),)),
    "duroxide_kv": (("instance_id", "key"), (_plain("value"), _plain("base_value"))),
    "duroxide_audit": (("id",), (_plain("reason"), _plain("details"))),
}


@dataclass(slots=True, kw_only=True)
class Reencoded:
    """What happened to one batch of rows.

    Attributes:
        table: the table.
        looked_at: rows read.
        rewritten: rows written anew, or that would be.
        unreadable: rows with a value that can't be decoded or encoded; that value is left as it is.
        in_use: rows that another transaction held; left for the next run.
        why: of the first unreadable one.
        last: key of the last row.
    """

    table: str
    looked_at: int = 0
    rewritten: int = 0
    unreadable: int = 0
    in_use: int = 0
    why: str = ""
    last: tuple[object, ...] = field(default=(), repr=False)


def reencode(db: Database, *, dry_run: bool = False) -> Iterator[Reencoded]:
    """Write every payload anew that today's codec would store otherwise; each batch is a transaction of its own.

    Workers may run: a row that another transaction holds is passed over, and nothing here waits for one.

    Args:
        dry_run: only count.
    """
    payloads.codec()
    for table in COLUMNS:
        after: tuple[object, ...] = ()
        while True:
            with db.atomic():
                batch = _batch(db, table, after, dry_run=dry_run)
            if not batch.looked_at:
                break
            yield batch
            after = batch.last


def _batch(db: Database, table: str, after: tuple[object, ...], *, dry_run: bool) -> Reencoded:
    keys, columns = COLUMNS[table]
    names = ", ".join((*keys, *(column.name for column in columns)))
    key_list = ", ".join(keys)
    beyond = f"WHERE ({key_list}) > ({', '.join(['%s'] * len(keys))})" if after else ""
    found = db.fetch(f"SELECT {names} FROM {table} {beyond} ORDER BY {key_list} LIMIT {BATCH}", list(after))
    done = Reencoded(table=table, looked_at=len(found))
    if not found:
        return done
    done.last = found[-1][: len(keys)]
    stale = [row for row in found if not _row_is_current(row, keys, columns)]
    if stale and db.features.skip_locked and not dry_run:
        held = _lock(db, table, keys, stale)
        done.in_use = len(stale) - len(held)
        stale = held
    for row in stale:
        values = row[len(keys) :]
        changed, why = _changed(columns, values)
        if why:
            done.unreadable += 1
            done.why = done.why or why
        if tuple(changed) == tuple(values):
            continue
        done.rewritten += 1
        if not dry_run:
            _update(db, table, row, changed)
    return done


def _changed(columns: tuple[_Column, ...], values: Sequence[str | None]) -> tuple[list[str | None], str]:
    """Return a row's values as today's codec stores them, and why one was left as it is, or an empty text."""
    changed, why = list(values), ""
    for place, (column, value) in enumerate(zip(columns, values, strict=True)):
        if value is None or _is_current(column, value):
            continue
        try:
            changed[place] = column.again(value)
        except DuroxideError as exc:
            why = why or str(exc)
        except Exception as exc:  # noqa: BLE001 - a codec may be a project's own; its message may quote the payload
            why = why or f"The payload codec failed: {type(exc).__name__}"
    return changed, why


def _is_current(column: _Column, value: str) -> bool:
    try:
        return column.is_current(value)
    except Exception:  # noqa: BLE001 - see above; again() then says why
        return False


def _row_is_current(row: Row, keys: tuple[str, ...], columns: tuple[_Column, ...]) -> bool:
    values = row[len(keys) :]
    return all(value is None or _is_current(column, value) for column, value in zip(columns, values, strict=True))


def _lock(db: Database, table: str, keys: tuple[str, ...], stale: list[Row]) -> list[Row]:
    names = ", ".join((*keys, *(column.name for column in COLUMNS[table][1])))
    places = ", ".join(f"({', '.join(['%s'] * len(keys))})" for _ in stale)
    return db.fetch(
        f"SELECT {names} FROM {table} WHERE ({', '.join(keys)}) IN ({places}) FOR UPDATE {db.features.skip_locked}",
        [value for row in stale for value in row[: len(keys)]],
    )


def _update(db: Database, table: str, row: Row, changed: list[str | None]) -> None:
    keys, columns = COLUMNS[table]
    sets = ", ".join(f"{column.name} = %s" for column in columns)
    where = " AND ".join(f"{key} = %s" for key in keys)
    db.execute(f"UPDATE {table} SET {sets} WHERE {where}", [*changed, *row[: len(keys)]])
