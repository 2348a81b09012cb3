"""Payloads on their way to and from the tables: the only place that knows the payload codec.

Columns of the kinds ``payload`` and ``event`` (see ``Database.rows``) are sealed on their way in. A sealed text is
``MARK``, the codec's name, a colon and what the codec made of it. A text without the mark is stored as it is, so rows
from before a codec was configured stay readable. In the data of history events only the payload fields are sealed:
names and numbers stay readable for queries. No JSON text begins with the mark; of other texts, those that do are
marked as plain.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from duroxide_django.conf import settings
from duroxide_django.exceptions import ConfigurationError, DuroxideError, PayloadUnreadable
from duroxide_django.payload_codec import PLAIN, PayloadCodec, make

#: DEL: JSON leaves it unescaped, and no JSON text begins with it. ``Features.preview`` knows it too.
MARK = "\x7f"

#: Fields of history events that hold payloads. Every other text field is a name, or a text of the engine's.
PAYLOAD_FIELDS = frozenset(
    {"input", "result", "output", "data", "details", "reason", "status", "initial_custom_status", "value"}
)

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_made: tuple[Any, PayloadCodec | None] = (None, None)


def codec() -> PayloadCodec | None:
    """Return the configured codec, or None; raises ConfigurationError."""
    global _made  # noqa: PLW0603 - one codec for each value of the setting
    configured = settings.given().get("PAYLOAD_CODEC")
    made = _made
    if made[0] is not configured:
        try:
            made = _made = (configured, make(configured))
        except ConfigurationError as exc:
            raise ConfigurationError(f"DUROXIDE['PAYLOAD_CODEC'] {exc}") from exc
    return made[1]


def seal(text: str | None) -> str | None:
    """Return a payload as it is stored."""
    if text is None:
        return None
    return _seal(text, codec())


def _seal(text: str, through: PayloadCodec | None) -> str:
    stored = None if through is None else through.encode(text)
    if stored is not None and through is not None:
        return f"{MARK}{through.name}:{stored}"
    return f"{MARK}{PLAIN}:{text}" if text.startswith(MARK) else text


def unseal(stored: str) -> str:
    """Return the payload of a stored text; raises PayloadUnreadable."""
    return _unseal(stored) if stored.startswith(MARK) else stored


def unseal_optional(stored: str | None) -> str | None:
    """Return the payload of a stored text, or None; raises PayloadUnreadable."""
    return None if stored is None else unseal(stored)


def _unseal(stored: str) -> str:
    name, colon, body = stored[len(MARK) :].partition(":")
    if name == PLAIN and colon:
        return body
    configured = codec()
    if configured is None or configured.name != name:
        here = "none is configured" if configured is None else f"{configured.name!r} is configured"
        raise PayloadUnreadable(
            f"A payload was written by the payload codec {name[:20]!r}, and {here} here; "
            "set DUROXIDE['PAYLOAD_CODEC'] to that codec with its keys."
        )
    try:
        return configured.decode(body)
    except DuroxideError:
        raise
    except Exception as exc:
        raise PayloadUnreadable(f"The payload codec {name!r} failed to decode: {type(exc).__name__}") from exc


def is_current(stored: str) -> bool:
    """Return whether a stored text is what ``seal`` would make of its payload today, but for chance."""
    through = codec()
    marked = stored.startswith(MARK)
    if through is None:
        return not marked or stored.startswith(f"{MARK}{PLAIN}:")
    prefix = f"{MARK}{through.name}:"
    if stored.startswith(prefix):
        return through.is_current(stored[len(prefix) :])
    return (not marked or stored.startswith(f"{MARK}{PLAIN}:")) and through.encode("") is None


def shown(stored: str | None) -> str | None:
    """Return a payload for people; of one that can't be read, why."""
    if stored is None or not stored.startswith(MARK):
        return stored
    try:
        return unseal(stored)
    except DuroxideError as exc:
        return f"[{type(exc).__name__}: {exc}]"


def preview(stored: str | None, chars: int, limit: int, *, event: bool = False) -> tuple[str | None, int]:
    """Return (beginning of a payload for people, its length) of a text that was read with ``Features.preview``.

    Args:
        chars: the stored text's length.
        limit: how many characters to return at the most.
        event: whether it is the data of a history event.
    """
    if stored is None or MARK not in stored:
        return stored, chars
    if chars > len(stored):
        return f"[{chars} characters, encoded]", chars
    text = shown_event(stored) if event else shown(stored) or ""
    return text[:limit], len(text)


# Data of history events


def seal_event(data: str | None) -> str | None:
    """Return the JSON object of an event as it is stored."""
    if data is None:
        return None
    through = codec()
    if through is None and MARK not in data:
        return data
    return _map_fields(data, lambda text: _seal(text, through))


def unseal_event(data: str) -> str:
    """Return the JSON object of a stored event, with its payloads; raises PayloadUnreadable."""
    return _map_fields(data, unseal) if MARK in data else data


def shown_event(data: str) -> str:
    """Return the JSON object of a stored event for people; see ``shown``."""
    return _map_fields(data, lambda text: shown(text) or "") if MARK in data else data


def _map_fields(data: str, change: Callable[[str], str]) -> str:
    try:
        fields = json.loads(data)
    except ValueError:
        return data  # Whoever reads it says that it is corrupt.
    if not isinstance(fields, dict):
        return data
    for name in PAYLOAD_FIELDS.intersection(fields):
        if isinstance(fields[name], str):
            fields[name] = change(fields[name])
    return _encode(fields)


# Rows sent as parameters

_SEALERS: dict[str, Callable[[str | None], str | None]] = {"payload": seal, "event": seal_event}


@cache
def _places(columns: tuple[tuple[str, str], ...]) -> tuple[tuple[int, Callable[[str | None], str | None]], ...]:
    return tuple((place, _SEALERS[kind]) for place, (_, kind) in enumerate(columns) if kind in _SEALERS)


@cache
def payload_places(columns: tuple[tuple[str, str], ...]) -> tuple[int, ...]:
    """Return which columns hold payloads, by number."""
    return tuple(place for place, _ in _places(columns))


def seal_rows(columns: tuple[tuple[str, str], ...], rows: Sequence[Sequence[Any]]) -> Sequence[Sequence[Any]]:
    """Return ``rows`` with their payload columns sealed."""
    places = _places(columns)
    if not places or (codec() is None and not _any_mark(places, rows)):
        return rows
    sealed = [list(row) for row in rows]
    for place, sealer in places:
        for row in sealed:
            row[place] = sealer(row[place])
    return sealed


def _any_mark(places: Sequence[tuple[int, Any]], rows: Sequence[Sequence[Any]]) -> bool:
    return any(MARK in row[place] for place, _ in places for row in rows if row[place])


# Why an instance is blocked: the reason stays readable without a key, what may quote payloads does not

_CLEAR = ("reason", "tries", "event_id", "source")
_SEALED = "sealed"


def seal_blocked(blocked: dict[str, Any]) -> str:
    """Return a record of why an instance can't go on as it is stored."""
    through = codec()
    if through is not None and through.encode("") is not None and blocked.get("reason") != "payload_unreadable":
        hidden = {name: value for name, value in blocked.items() if name not in _CLEAR}
        blocked = {name: value for name, value in blocked.items() if name in _CLEAR}
        blocked[_SEALED] = seal(_encode(hidden))
    return json.dumps(blocked, ensure_ascii=False)


def blocked_is_current(stored: str) -> bool:
    """Return whether ``seal_blocked`` would store this record in the same way; see is_current()."""
    try:
        recorded = json.loads(stored)
    except ValueError:
        return True
    if not isinstance(recorded, dict) or recorded.get("reason") == "payload_unreadable":
        return True
    hidden = recorded.get(_SEALED)
    if isinstance(hidden, str):
        return is_current(hidden)
    return codec() is None


def read_blocked(stored: str | None, *, strict: bool = False) -> dict[str, Any]:
    """Return what ``Instance.blocked`` says.

    Args:
        strict: raise PayloadUnreadable instead of saying so in the message.
    """
    recorded = clear_blocked(stored)
    hidden = recorded.pop(_SEALED, None)
    if isinstance(hidden, str):
        try:
            recorded |= json.loads(unseal(hidden))
        except (DuroxideError, ValueError, TypeError) as exc:
            if strict and isinstance(exc, DuroxideError):
                raise
            recorded["message"] = f"[{type(exc).__name__}: {exc}]"
    return recorded


def clear_blocked(stored: str | None) -> dict[str, Any]:
    """Return what ``Instance.blocked`` says without its sealed part; of a text of another form, as its message."""
    try:
        recorded = json.loads(stored or "{}")
    except (ValueError, TypeError):
        return {"message": str(stored)}
    return recorded if isinstance(recorded, dict) else {"message": str(stored)}


def shown_blocked(stored: str | None) -> str | None:
    """Return ``Instance.blocked`` for people, as JSON text without sealed parts."""
    if stored is None or MARK not in stored:
        return stored
    return json.dumps(read_blocked(stored), ensure_ascii=False)
