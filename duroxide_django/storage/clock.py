"""Which time counts: the database's clock, or a virtual instant under test."""

from __future__ import annotations

from contextvars import Context, ContextVar

#: Epoch milliseconds that stand in for the database's clock in this context, or None.
virtual_now_ms: ContextVar[int | None] = ContextVar("duroxide_virtual_now_ms", default=None)


def clean_context() -> Context:
    """Return context variables for a user's function: none is set, but for the virtual instant.

    What one activity sets (a tenant, a language, bound log fields) must not be seen by the next.
    """
    context = Context()
    virtual = virtual_now_ms.get()
    if virtual is not None:
        context.run(virtual_now_ms.set, virtual)
    return context
