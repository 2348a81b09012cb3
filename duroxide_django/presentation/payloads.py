"""Payloads for people: embedded, indented, cut, masked."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

MASK = "•••"
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
    """Return a whole payload indented, with the values of ``masked`` keys hidden; text that is no JSON as it is."""
    value = decode(text)
    if event and isinstance(value, dict):
        value = {name: _embedded(name, item) for name, item in value.items()}
    value = mask(value, masked)
    return value if isinstance(value, str) and value == text else json.dumps(value, indent=2, ensure_ascii=False)


def decode(text: str) -> Any:
    """Return the value of JSON text, or the text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _embedded(name: str, value: Any) -> Any:
    return decode(value) if name in _EMBEDDED and isinstance(value, str) else value


def mask(value: Any, masked: Collection[str]) -> Any:
    """Return ``value`` with the values of ``masked`` object keys replaced, also inside texts that are JSON."""
    if not masked:
        return value
    if isinstance(value, dict):
        # An event that sets a KV entry names the key beside the value.
        hidden = {*masked, "value"} if isinstance(value.get("key"), str) and value["key"] in masked else masked
        return {key: MASK if key in hidden else mask(item, masked) for key, item in value.items()}
    if isinstance(value, list):
        return [mask(item, masked) for item in value]
    return mask_text(value, masked) if isinstance(value, str) else value


def mask_text(text: str, masked: Collection[str]) -> str:
    """Return a text, masked if it is a JSON object or list; see mask()."""
    if not masked or not text.lstrip().startswith(("{", "[", '"')):
        return text
    value = decode(text)
    if value == text:
        return text  # It is no JSON.
    shown = mask(value, masked)
    return text if shown == value else json.dumps(shown, ensure_ascii=False, separators=(",", ":"))


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
