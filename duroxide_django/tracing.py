"""OpenTelemetry spans around turns and activities, if its API is installed; otherwise nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from duroxide_django.conf import settings

try:
    from opentelemetry import trace as _trace  # type: ignore[import-not-found,unused-ignore]
except ImportError:
    _tracer: Any = None
else:
    _tracer = _trace.get_tracer("duroxide_django")


def span(name: str, **attributes: Any) -> AbstractContextManager[Any]:
    """Return a context manager for one span; attributes that are None are left out.

    Args:
        name: for example ``activity Charge``.
        attributes: named ``duroxide.<name>`` in the span.
    """
    if _tracer is None:
        return nullcontext()
    given = {f"duroxide.{key}": value for key, value in attributes.items() if value is not None}
    if not settings.LOG_PAYLOADS:
        return _redacted_span(name, given)
    spanned: AbstractContextManager[Any] = _tracer.start_as_current_span(name, attributes=given)
    return spanned


@contextmanager
def _redacted_span(name: str, attributes: dict[str, Any]) -> Iterator[None]:
    """Give a span that records the class of an exception, not its text."""
    with _tracer.start_as_current_span(
        name, attributes=attributes, record_exception=False, set_status_on_exception=False
    ) as current:
        try:
            yield
        except BaseException as exc:
            current.set_status(_trace.StatusCode.ERROR, type(exc).__name__)
            raise
