"""Reading no more of a queue or of histories than a worker is to hold in memory at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from duroxide_django.storage.database import Database

#: A text of more bytes is not read along with its row, but by itself, once it is known to be wanted.
INLINE_BYTES = 4_096


def inline(db: Database, column: str, *, most: int = INLINE_BYTES) -> str:
    """Return the expression for a text, or NULL if it has more than ``most`` bytes."""
    return f"CASE WHEN {db.features.byte_length(column)} <= {int(most)} THEN {column} END"


def take(sizes: Sequence[tuple[int, int]], *, each: int, together: int) -> tuple[list[int], bool]:
    """Return (which of some entries to take, whether others were left).

    Of each owner those that come first are taken, and the very first in any case.

    Args:
        sizes: (owner, bytes) of the entries, in order.
        each: bytes for one owner; its first entry may have more.
        together: bytes for all.
    """
    taken: list[int] = []
    of_owner: dict[int, int] = {}
    full: set[int] = set()
    total = 0
    for place, (owner, size) in enumerate(sizes):
        if owner in full:
            continue
        own = of_owner.get(owner)
        if (own is not None and own + size > each) or (taken and total + size > together):
            full.add(owner)
            continue
        of_owner[owner] = size + (own or 0)
        total += size
        taken.append(place)
    return taken, bool(full)


def read_texts(db: Database, table: str, column: str, keys: Sequence[tuple[int, int]]) -> dict[int, Any]:
    """Return the texts of rows, given as (instance key, id), by id."""
    if not keys:
        return {}
    condition, parameters = db.keyed(table, keys)
    return dict(db.fetch(f"SELECT id, {column} FROM {table} WHERE {condition}", parameters))


def state_sizes(db: Database, executions: Sequence[tuple[int, int]]) -> dict[int, int]:
    """Return by instance key how many bytes their replay would read: histories, KV entries, queue messages.

    Args:
        executions: (instance key, execution id) of each.
    """
    source, parameters = db.rows((("instance", "bigint"), ("execution_id", "int")), executions)
    size = db.features.byte_length
    instances, keys = db.any_of("instance_id", [key for key, _ in executions])
    found = db.fetch(
        f"""
        SELECT h.instance_id, SUM({size("h.data")}) FROM {source}
        JOIN duroxide_history h ON h.instance_id = r.instance AND h.execution_id = r.execution_id
        GROUP BY h.instance_id
        UNION ALL
        SELECT instance_id, SUM(COALESCE({size("value")}, 0) + COALESCE({size("base_value")}, 0))
        FROM duroxide_kv WHERE {instances} GROUP BY instance_id
        UNION ALL
        SELECT instance_id, SUM({size("data")}) FROM duroxide_queue_message WHERE {instances} GROUP BY instance_id""",
        [*parameters, keys, keys],
    )
    sizes: dict[int, int] = defaultdict(int)
    for instance, of_table in found:
        sizes[instance] += int(of_table or 0)
    return sizes
