"""The orchestration decorator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, overload

from duroxide_django.engine.versions import DEFAULT_VERSION
from duroxide_django.registry import default_registry

F = TypeVar("F", bound=Callable[..., Any])


@overload
def orchestration(name: F) -> F: ...
@overload
def orchestration(name: str | None = None, *, version: str = DEFAULT_VERSION) -> Callable[[F], F]: ...
def orchestration(name: Any = None, *, version: str = DEFAULT_VERSION) -> Any:
    """Register a generator function as an orchestration: ``@orchestration("Checkout", version="1.1.0")``.

    Args:
        name: how it is started; the function's own name if left out.
        version: semantic version; several versions of one name may be registered, in any order.

    Raises:
        InvalidArgument: a bad name or version, a version registered already, an async function.
    """
    if callable(name) and not isinstance(name, str):
        return orchestration(None)(name)

    def register(function: F) -> F:
        chosen = function.__name__ if name is None else name
        default_registry.add_orchestration(chosen, function, version)
        function.duroxide_orchestration_name = chosen  # type: ignore[attr-defined]
        return function

    return register
