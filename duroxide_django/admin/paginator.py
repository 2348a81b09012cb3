"""Keyset paging: by the key of the last row shown, so that no page costs more than the first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from django.http import QueryDict

from duroxide_django.storage.overview import InstanceRow

PAGE_SIZE = 50
OLDER = "older"
NEWER = "newer"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeysetPage:
    """One page of rows, newest first.

    Attributes:
        older, newer: addresses (query strings) of the pages around it; empty if there is none.
        is_first: whether it begins with the newest row.
    """

    rows: list[InstanceRow]
    older: str = ""
    newer: str = ""
    is_first: bool = True


def keyset_page(
    parameters: QueryDict,
    fetch: Callable[[int, int | None, int | None], list[InstanceRow]],
    looked_to: Callable[[int | None], int | None],
) -> KeysetPage:
    """Return the page that the address asks for.

    Args:
        parameters: of the address; ``older`` or ``newer`` hold the key to go on from.
        fetch: returns rows for (size, older_than, newer_than), newest first.
        looked_to: returns the key to go on from if ``fetch`` gave less than a page and has not looked at all rows.
    """
    older, newer = _whole(parameters.get(OLDER)), _whole(parameters.get(NEWER))
    # One row more than the page tells whether there is another page.
    rows = fetch(PAGE_SIZE + 1, older, None if older is not None else newer)
    more = len(rows) > PAGE_SIZE
    backwards = older is None and newer is not None
    shown = (rows[1:] if backwards else rows[:PAGE_SIZE]) if more else rows
    has_older, has_newer = (True, more) if backwards else (more, older is not None)
    go_on = shown[-1].key if has_older and shown else None if more or backwards else looked_to(older)
    return KeysetPage(
        rows=shown,
        older=_link(parameters, **{OLDER: go_on}) if go_on is not None else "",
        newer=(_link(parameters, **{NEWER: shown[0].key}) if shown else _link(parameters)) if has_newer else "",
        is_first=not has_newer,
    )


def _whole(text: str | None) -> int | None:
    # What doesn't fit the key's column can't be a key.
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 19 else None


def _link(parameters: QueryDict, **changes: int) -> str:
    copied = parameters.copy()
    for name in (OLDER, NEWER):
        copied.pop(name, None)
    for name, value in changes.items():
        copied[name] = str(value)
    return f"?{copied.urlencode()}"
