"""Cutting what is written into statements of a bounded size: the server refuses a message beyond 1 GB."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from duroxide_django.storage.features import Columns
from duroxide_django.storage.payloads import payload_places

#: One statement writes at most this many rows, and stops growing at this many characters of payloads.
ROWS, CHARS = 1_000, 8 * 1024 * 1024


def chunks(columns: Columns, rows: Sequence[Sequence[Any]]) -> Iterator[Sequence[Sequence[Any]]]:
    """Yield ``rows`` in pieces that one statement each can write.

    Args:
        columns: as ``Database.rows`` takes them; those with payloads are measured.
    """
    if len(rows) <= 1:
        # A row can't be cut.
        if rows:
            yield rows
        return
    places = payload_places(columns)
    if is_small(len(rows), _chars(places, rows)):
        yield rows
        return
    piece: list[Sequence[Any]] = []
    chars = 0
    for row in rows:
        size = _chars(places, (row,))
        if piece and (len(piece) >= ROWS or chars + size > CHARS):
            yield piece
            piece, chars = [], 0
        piece.append(row)
        chars += size
    yield piece


def is_small(rows: int, chars: int) -> bool:
    """Return whether one statement can write so many rows with so many characters together."""
    return rows <= ROWS and chars <= CHARS


def _chars(places: Sequence[int], rows: Sequence[Sequence[Any]]) -> int:
    return sum(len(row[place]) for place in places for row in rows if row[place])
