"""Payloads for people: embedded, indented, cut, masked."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

MASK = "•••"
#: Levels of nesting that are looked through for masked keys; deeper ones are withheld.
MAX_MASK_DEPTH = 100
#: What may stand before JSON text.
_BLANK = " \t\r\n\ufeff"
#: Fields of an event that hold JSON text themselves.
_EMBEDDED = ("input", "result", "output", "data", "details")
_MESSAGE = re.compile(r'"message":("(?:[^"\\]|\\.)*)')


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """The beginning of a payload.

    Attributes:
        text: what to show; empty if there is nothing to show.
        chars: the full length of the stored text.
        is_cut: whether there is more.
        is_withheld: whether it is too long to be masked here.
    """

    text: str = ""
    chars: int = 0
    is_cut: bool = False
    is_withheld: bool = False


def preview(text: str | None, chars: int, masked: Collection[str], *, event: bool = False) -> Preview:
    """Return how to show a payload of which the first characters are known.

    Args:
        chars: its full length.
        masked: object keys whose values are never shown.
        event: whether it is the data of a history event.
    """
    if text is None or (event and text == "{}"):
        return Preview()
    if chars > len(text):
        shown = "" if masked else text
        return Preview(text=shown, chars=chars, is_cut=True, is_withheld=bool(masked))
    return Preview(text=pretty(text, masked, event=event), chars=chars)


def pretty(text: str, masked: Collection[str], *, event: bool = False) -> str:
    """Return a whole payload indented, with the values of ``masked`` keys hidden; text that is not JSON as it is.

    With masked keys, text that can't be read as it should is withheld: MASK stands in its place.
    """
    names = normalized(masked)
    try:
        value = decode(text)
        if event and isinstance(value, dict):
            value = {name: _embedded(name, item) for name, item in value.items()}
        if names:
            value = _masked(value, names, 0)
        return value if isinstance(value, str) and value == text else json.dumps(value, indent=2, ensure_ascii=False)
    except RecursionError:
        return MASK if names else text


def decode(text: str) -> Any:
    """Return the value of JSON text, or the text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _embedded(name: str, value: Any) -> Any:
    return decode(value) if name in _EMBEDDED and isinstance(value, str) else value


def normalized(names: Collection[str]) -> frozenset[str]:
    """Return names of masked keys as they are compared: without case, and without the @ of search attributes."""
    return frozenset(_normal(name) for name in names)


def _normal(name: str) -> str:
    return name.removeprefix("@").casefold()


def is_masked(name: str, masked: Collection[str]) -> bool:
    """Tell whether the value of a key is never shown."""
    return _normal(name) in normalized(masked)


def mask(value: Any, masked: Collection[str]) -> Any:
    """Return ``value`` with the values of ``masked`` object keys replaced, also inside texts that are JSON.

    What is nested more than MAX_MASK_DEPTH levels deep is replaced too.
    """
    return _masked(value, normalized(masked), 0) if masked else value


def _masked(value: Any, names: frozenset[str], depth: int) -> Any:
    if isinstance(value, str):
        return _masked_text(value, names, depth)
    if not isinstance(value, (dict, list)):
        return value
    if depth >= MAX_MASK_DEPTH:
        return MASK
    if isinstance(value, list):
        return [_masked(item, names, depth + 1) for item in value]
    # An event that sets a KV entry names the key beside the value.
    key = value.get("key")
    hides_value = isinstance(key, str) and _normal(key) in names
    return {
        name: MASK if _normal(name) in names or (hides_value and name == "value") else _masked(item, names, depth + 1)
        for name, item in value.items()
    }


def mask_text(text: str, masked: Collection[str]) -> str:
    """Return a text, masked if it is JSON; see mask().

    A text that is not JSON is withheld if it begins like JSON, for example because it was cut, or if a masked key with
    a colon or an equals sign stands in it.
    """
    return _masked_text(text, normalized(masked), 0) if masked else text


def _masked_text(text: str, names: frozenset[str], depth: int) -> str:
    begins_like_json = text.lstrip(_BLANK).startswith(("{", "[", '"'))
    try:
        value = json.loads(text) if begins_like_json else text
        if not begins_like_json:
            return MASK if _names_key(text, names) else text
        shown = _masked(value, names, depth + 1)
    except (ValueError, RecursionError):
        return MASK
    return text if shown == value else json.dumps(shown, ensure_ascii=False, separators=(",", ":"))


def _names_key(text: str, names: frozenset[str]) -> bool:
    folded = text.casefold()
    return any(
        name in folded and re.search(rf"(?<!\w)@?{re.escape(name)}[\"'\\]*\s*[:=]", folded) is not None
        for name in names
    )


def failure_message(details: str | None) -> str:
    """Return the display text of a stored failure, of which only the beginning may be known."""
    found = _MESSAGE.search(details or "")
    if found is None:
        return ""
    text = found[1]
    try:
        return str(json.loads(f'{text}"'))
    except ValueError:
        return text[1:]
