"""Where an execution stands in its code: the frames at each open ``yield``, and what each waits for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType, GeneratorType
from typing import Any

from duroxide_django.engine import futures
from duroxide_django.engine.determinism import Position

_RETRY_LOOPS = futures.retry_block.__code__.co_filename


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenYield:
    """One suspended generator: the orchestration itself, or a block inside ``all()`` or ``race()``.

    Attributes:
        frames: outermost first; more than one with ``yield from``.
        waits_for: (family, name, schedule event) of what it waits for.
        is_block: whether it is a block inside another one.
    """

    frames: tuple[Position, ...]
    waits_for: tuple[tuple[str, str, int | None], ...]
    is_block: bool


def open_yields(root: futures.BlockNode | None) -> list[OpenYield]:
    """Return the open yields below a block, outermost first; nothing once it has ended."""
    if root is None or root.done or root.closed:
        return []
    return list(_of_block(root, is_block=False))


def _of_block(block: futures.BlockNode, *, is_block: bool) -> Iterator[OpenYield]:
    leaves: list[tuple[str, str, int | None]] = []
    blocks: list[futures.BlockNode] = []
    if block.waiting is not None:
        _gather(block.waiting, leaves, blocks)
    yield OpenYield(frames=tuple(_frames(block.generator)), waits_for=tuple(leaves), is_block=is_block)
    for inner in blocks:
        yield from _of_block(inner, is_block=True)


def _gather(future: futures.Future, leaves: list[tuple[str, str, int | None]], blocks: list[futures.BlockNode]) -> None:
    if future.done:
        return
    if isinstance(future, futures.Leaf):
        leaves.append((future.family, future.name, future.event_id))
    elif isinstance(future, (futures.AllNode, futures.RaceNode)):
        for member in future.members:
            _gather(member, leaves, blocks)
    elif isinstance(future, futures.BlockNode):
        if _is_ours(future.generator):
            # A retry loop is no code of the user's: what it waits for counts as waited for here.
            if future.waiting is not None:
                _gather(future.waiting, leaves, blocks)
        else:
            blocks.append(future)


def _is_ours(generator: Any) -> bool:
    code: CodeType = generator.gi_code
    return code.co_filename == _RETRY_LOOPS


def _frames(generator: Any) -> Iterator[Position]:
    inner = generator
    while isinstance(inner, GeneratorType) and inner.gi_frame is not None:
        code = inner.gi_code
        yield Position(code.co_filename, inner.gi_frame.f_lineno, code.co_qualname)
        inner = inner.gi_yieldfrom
