"""Which time counts: the database's clock, or a virtual instant under test."""

from __future__ import annotations

from contextvars import Context, ContextVar
from dataclasses import dataclass

#: A paused instance is leased to nobody until then (the year 9999), in epoch milliseconds.
FOR_EVER_MS = 253_402_214_400_000


@dataclass(slots=True)
class VirtualTime:
    """An instant that stands in for the database's clock, epoch milliseconds; None once it no longer does."""

    now_ms: int | None


#: The instant of this context. The object is shared, so that functions in contexts of their own can move it.
virtual_time: ContextVar[VirtualTime | None] = ContextVar("duroxide_virtual_time", default=None)


def virtual_now_ms() -> int | None:
    """Return the epoch milliseconds that stand in for the database's clock in this context, or None."""
    time = virtual_time.get()
    return None if time is None else time.now_ms


def clean_context() -> Context:
    """Return context variables for a user's function: none is set, but for the virtual instant.

    What one activity sets (a tenant, a language, bound log fields) must not be seen by the next.
    """
    context = Context()
    if (time := virtual_time.get()) is not None:
        context.run(virtual_time.set, time)
    return context
