"""Search attributes: KV entries whose key begins with ``@``, found by an index of their own."""

from __future__ import annotations

import json
from typing import Any

PREFIX = "@"
#: Characters of a value that the index knows.
_INDEXED = 200


def parse(query: str) -> tuple[str, str] | None:
    """Return (key, value) of a search like ``@customer=4711``, or None if it is none."""
    key, equals, value = query.partition("=")
    return (key.strip(), value.strip()) if equals and query.startswith(PREFIX) else None


def condition(key: str, value: str) -> tuple[str, list[Any]]:
    """Return (condition that an instance has this attribute, its parameters); a value may also be stored as JSON."""
    values = [value, json.dumps(value, ensure_ascii=False), json.dumps(value)]
    placeholders = ", ".join(["%s"] * len(values))
    return (
        f"""i.id IN (
            SELECT k.instance_id FROM duroxide_kv k WHERE SUBSTR(k.key, 1, 1) = '{PREFIX}' AND k.key = %s
                AND SUBSTR(k.value, 1, {_INDEXED}) IN ({placeholders}) AND k.value IN ({placeholders}))""",
        [key, *(text[:_INDEXED] for text in values), *values],
    )
