"""Which time counts: the database's clock, or a virtual instant under test."""

from __future__ import annotations

from contextvars import ContextVar

#: Epoch milliseconds that stand in for the database's clock in this context, or None.
virtual_now_ms: ContextVar[int | None] = ContextVar("duroxide_virtual_now_ms", default=None)
