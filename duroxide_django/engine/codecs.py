"""Values to JSON text and back (spec part 16).

Dataclasses, enums, datetimes, dates, times, Decimals, UUIDs, sets and paths are written by the documented
encoder; models of pydantic, attrs and msgspec by their own, without importing those libraries.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import json
import math
import pathlib
import re
import sys
import uuid
from typing import Any

from duroxide_django.exceptions import PayloadError, PayloadTooLarge

#: Default limit of one payload in UTF-8 bytes; the setting MAX_PAYLOAD_BYTES overrides it.
DEFAULT_MAX_PAYLOAD_BYTES = 2 * 1024 * 1024


def encode_extra(value: Any) -> Any:
    """Return a JSON-able stand-in for a value that ``json`` doesn't know, or raise TypeError."""
    if isinstance(value, (dt.datetime, dt.date, dt.time)):
        return value.isoformat()
    if isinstance(value, (decimal.Decimal, uuid.UUID, pathlib.PurePath)):
        return str(value)
    if isinstance(value, dt.timedelta):
        return value.total_seconds()
    if isinstance(value, enum.Enum):
        return value.value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, (set, frozenset)):
        return sorted(value, key=_set_order)
    return _encode_foreign_model(value)


def _set_order(item: Any) -> str:
    # By JSON text: the repr of a set inside a set differs from process to process.
    try:
        return _encoder.encode(item)
    except (TypeError, ValueError):
        return repr(item)  # It will be refused, with its path.


def _encode_foreign_model(value: Any) -> Any:
    cls = type(value)
    if hasattr(cls, "model_dump"):  # pydantic
        # By alias: that is what model_validate() takes.
        return value.model_dump(mode="json", by_alias=True)
    if hasattr(cls, "__attrs_attrs__"):
        return {attribute.name: getattr(value, attribute.name) for attribute in cls.__attrs_attrs__}
    if hasattr(cls, "__struct_fields__"):  # msgspec
        return {name: getattr(value, name) for name in cls.__struct_fields__}
    raise TypeError(f"Object of type {cls.__name__} is not JSON serializable")


_encoder = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=encode_extra, check_circular=True
)

#: JSON text of a key that may not have been a text; without one no keys were merged, and the value isn't walked.
_KEY_OF_ANOTHER_TYPE = re.compile(r'"(?:-?[0-9][0-9.e+-]*|true|false|null)":')


def dumps(
    value: Any,
    *,
    what: str = "payload",
    max_bytes: int = DEFAULT_MAX_PAYLOAD_BYTES,
    merges_keys: bool = False,
) -> str:
    """Return ``value`` as JSON text.

    Args:
        value: anything JSON can carry, or one of the documented extra types.
        what: how an error message names the value.
        max_bytes: the largest text allowed, in UTF-8 bytes.
        merges_keys: allow keys of a dict that are the same in JSON, as 1 and "1" are: one of the values gets lost.

    Raises:
        PayloadError: JSON or the database can't carry it; the message gives the path of the offending value.
        PayloadTooLarge: the text exceeds ``max_bytes``.
    """
    try:
        text = _encoder.encode(value)
    except (TypeError, ValueError, RecursionError) as exc:
        raise PayloadError(f"{what} is not JSON serializable: {_explain(value, str(exc))}") from exc
    if not merges_keys and _KEY_OF_ANOTHER_TYPE.search(text) and (problem := _find_merged_keys(value, "$")):
        raise PayloadError(f"{what} can't be stored: {problem}")
    if not text.isascii() or "\\u0000" in text:
        problem = _find_unstorable(value, "$")
        if problem:
            raise PayloadError(f"{what} can't be stored: {problem}")
    return check_size(text, what, max_bytes)


def as_text(value: Any, what: str) -> str:
    """Return a text as it is, and any other value as JSON text: what KV entries and custom statuses hold.

    Raises:
        PayloadError: it is no text, and JSON can't carry it.
    """
    if isinstance(value, str):
        # The bare text: an enumeration's member prints its name.
        return str.__str__(value)
    if type(value).__module__ == "django.utils.functional":
        return str(value)  # A text that is translated late.
    return dumps(value, what=what, max_bytes=sys.maxsize)


def check_size(text: str, what: str, max_bytes: int) -> str:
    """Return JSON ``text`` if it has ``max_bytes`` UTF-8 bytes at most, else raise PayloadTooLarge."""
    if len(text) * 4 > max_bytes and (size := len(text.encode())) > max_bytes:
        raise PayloadTooLarge(f"{what} is {size} bytes as JSON, the limit is {max_bytes} bytes.")
    return text


def loads(text: str | None) -> Any:
    """Return the value of JSON ``text``; text that is no JSON is returned as it is (spec 16.1)."""
    if text is None:
        return None
    try:
        return json.loads(text)
    except ValueError:
        return text


def _explain(value: Any, fallback: str) -> str:
    try:
        return _find_unserialisable(value, "$", set()) or fallback
    except RecursionError:
        return "it is nested too deeply"


def _find_unserialisable(value: Any, path: str, seen: set[int]) -> str | None:
    if isinstance(value, float) and not math.isfinite(value):
        return f"{path} is {value!r}, which JSON has no number for"
    if value is None or isinstance(value, (str, bool, int, float)):
        return None
    if id(value) in seen:
        return f"{path} contains itself"
    seen = seen | {id(value)}
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, (str, int, float, bool, type(None))):
                return f"{path} has a key of type {type(key).__name__}; keys must be str"
            if problem := _find_unserialisable(item, f"{path}.{key}", seen):
                return problem
        return None
    if isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            if problem := _find_unserialisable(item, f"{path}[{index}]", seen):
                return problem
        return None
    try:
        stand_in = encode_extra(value)
    except TypeError:
        return f"{path} is of type {type(value).__name__}"
    return _find_unserialisable(stand_in, path, seen)


def _find_merged_keys(value: Any, path: str) -> str | None:
    if isinstance(value, dict):
        if problem := _same_in_json(value, path):
            return problem
        members = [(f"{path}.{key}", member) for key, member in value.items()]
    elif isinstance(value, (list, tuple)):
        members = [(f"{path}[{index}]", member) for index, member in enumerate(value)]
    elif isinstance(value, (str, int, float)) or value is None:
        return None
    else:
        return _find_merged_keys(encode_extra(value), path)
    return next(filter(None, (_find_merged_keys(member, below) for below, member in members)), None)


def _same_in_json(value: dict[Any, Any], path: str) -> str | None:
    seen: dict[str, Any] = {}
    for key in value:
        # As the encoder writes it: true, null, 1, 0.5.
        text = key if isinstance(key, str) else json.dumps(key)
        if text in seen:
            return f"{path} has the keys {seen[text]!r} and {key!r}, which are the same in JSON"
        seen[text] = key
    return None


def _find_unstorable(value: Any, path: str) -> str | None:
    if isinstance(value, str):
        if "\x00" in value:
            return f"the text at {path} contains a NUL character"
        if any("\ud800" <= character <= "\udfff" for character in value):
            return f"the text at {path} contains a lone surrogate"
        return None
    if isinstance(value, dict):
        for key, item in value.items():
            problem = _find_unstorable(str(key), f"{path} (key)") or _find_unstorable(item, f"{path}.{key!s}")
            if problem:
                return problem
        return None
    if isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            if problem := _find_unstorable(item, f"{path}[{index}]"):
                return problem
        return None
    if value is None or isinstance(value, (bool, int, float)):
        return None
    return _find_unstorable(encode_extra(value), path)


def decode_as(value: Any, result_type: Any) -> Any:
    """Return ``value`` (decoded JSON) turned into ``result_type``.

    Understood are: dataclasses (nested, generic), enums, datetime/date/time/timedelta, Decimal, UUID, paths,
    collections, unions, Literal, NewType, NamedTuple, TypedDict, and models of pydantic, msgspec and attrs. Anything
    else is returned as it is.

    Raises:
        PayloadError: the value doesn't fit the type.
    """
    from duroxide_django.engine.typed import build

    try:
        return build(value, result_type)
    except Exception as exc:
        name = getattr(result_type, "__name__", str(result_type))
        raise PayloadError(f"The value does not fit the type {name}: {exc}") from exc
