"""Whether rows have the types that the code expects: SQLite's columns take any, and people change rows by hand."""

from __future__ import annotations

import re
from collections.abc import Sequence
from types import NoneType
from typing import Any

from duroxide_django.exceptions import CorruptRow

#: Types of the columns of a row, in order; a row may go on after them.
Shape = tuple[type | tuple[type, ...], ...]

OPTIONAL_INT = (int, NoneType)
OPTIONAL_TEXT = (str, NoneType)


def fits(row: Sequence[Any], shape: Shape) -> bool:
    """Return whether the values of a row have these types."""
    return all(map(isinstance, row, shape))


def mended(row: Sequence[Any], shape: Shape, what: str) -> tuple[list[Any], CorruptRow]:
    """Return (a row that fits, with an empty value for each that didn't, the error that tells which they were).

    Args:
        what: names the row in the error.
    """
    values, wrong = list(row), []
    for place, kind in enumerate(shape):
        if not isinstance(row[place], kind):
            wrong.append(f"value {place + 1} is of the type {type(row[place]).__name__}")
            values[place] = None if isinstance(kind, tuple) else kind()
    return values, CorruptRow(
        f"{what} can't be read: {', '.join(wrong)}. Something other than duroxide_django changed it; repair the row."
    )


def moment(value: Any) -> int | None:
    """Return a column's time in epoch milliseconds, or None if it holds none."""
    return int(value) if isinstance(value, (int, float)) else None


def plain(text: str) -> str:
    """Return a text for people in ASCII: characters that a database may refuse are replaced by their codes."""
    return text.encode("ascii", "backslashreplace").decode().replace("\0", "\\x00")


def plain_json(text: str) -> str:
    """Return the same JSON value in ASCII, which every encoding of a database has."""
    return re.sub(r"[^\x00-\x7f]", lambda found: _escaped(ord(found.group())), text)


def _escaped(code: int) -> str:
    if code < 0x10000:
        return f"\\u{code:04x}"
    code -= 0x10000
    return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"
