"""Registered functions: orchestrations by name and version, activities by name."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from duroxide_django.engine.limits import RESERVED_PREFIX, check_text
from duroxide_django.engine.replay import Function
from duroxide_django.engine.versions import DEFAULT_VERSION, Version
from duroxide_django.exceptions import InvalidArgument


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivityDefinition:
    """A registered activity.

    Attributes:
        name: registered name.
        function: the function; called with (ctx, input).
        atomic: run in a transaction together with the completion (exactly-once writes).
        is_async: whether it is an ``async def``.
    """

    name: str
    function: Callable[..., Any]
    atomic: bool = False
    is_async: bool = False


class Registry:
    """What a runtime can execute."""

    def __init__(self) -> None:
        self.activities: dict[str, ActivityDefinition] = {}
        self.orchestrations: dict[str, dict[Version, Function]] = {}

    def add_activity(self, name: str, function: Callable[..., Any], *, atomic: bool = False) -> None:
        """Register an activity.

        Raises:
            InvalidArgument: a bad or reserved name, no callable, a generator, a name registered already,
                or an async function with ``atomic=True``.
        """
        check_text(name, "activity name")
        if name.startswith(RESERVED_PREFIX):
            raise InvalidArgument(f"Activity names beginning with {RESERVED_PREFIX!r} are reserved.")
        if not callable(function):
            raise InvalidArgument(f"Activity {name!r} must be a function, got {type(function).__name__}.")
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise InvalidArgument(f"Activity {name!r} is a generator; only orchestrations yield.")
        _check_takes_two(function, f"Activity {name!r}")
        is_async = inspect.iscoroutinefunction(function)
        if is_async and atomic:
            raise InvalidArgument(f"Activity {name!r} can't be atomic: Django's transactions are not async.")
        known = self.activities.get(name)
        if known is not None and not _same(known.function, function):
            raise InvalidArgument(f"Activity {name!r} is registered already, as {_where(known.function)}.")
        self.activities[name] = ActivityDefinition(name=name, function=function, atomic=atomic, is_async=is_async)

    def add_orchestration(self, name: str, function: Function, version: str = DEFAULT_VERSION) -> None:
        """Register an orchestration; versions of one name may come in any order.

        Raises:
            InvalidArgument: a bad name or version, no callable, an async function, or a version registered already.
        """
        check_text(name, "orchestration name")
        parsed = Version.parse(version)
        if not callable(function):
            raise InvalidArgument(f"Orchestration {name!r} must be a function, got {type(function).__name__}.")
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            raise InvalidArgument(f"Orchestration {name!r} is async; write a generator: def … yield ctx.…")
        _check_takes_two(function, f"Orchestration {name!r}")
        versions = self.orchestrations.setdefault(name, {})
        known = versions.get(parsed)
        if known is not None and not _same(known, function):
            raise InvalidArgument(f"Orchestration {name!r} {parsed.text} is registered already, as {_where(known)}.")
        versions[parsed] = function

    def resolve(self, name: str, version: str | None) -> tuple[str, Function] | None:
        """Return (exact version, function) for ``version``, or for the latest if it is None; None if missing."""
        versions = self.orchestrations.get(name)
        if not versions:
            return None
        if version is None:
            latest = max(versions)
            return latest.text, versions[latest]
        for known, function in versions.items():
            if known.text == version:
                return known.text, function
        return None

    def known_code(self) -> list[str]:
        """Return ``name@version`` of every orchestration, and ``name@`` for starts at the latest version."""
        return [
            f"{name}@{text}"
            for name, versions in self.orchestrations.items()
            for text in ("", *(version.text for version in versions))
        ]

    def alike(self, name: str) -> str | None:
        """Return the registered orchestration that ``name`` may be a misspelling of, or None."""
        return next(iter(difflib.get_close_matches(name, self.orchestrations, n=1, cutoff=0.8)), None)

    def describe_missing(self, name: str, version: str | None) -> str:
        """Return in words why ``resolve`` found nothing."""
        versions = self.orchestrations.get(name)
        if not versions:
            alike = self.alike(name)
            hint = "" if alike is None else f" (did you mean {alike!r}?)"
            return f"no orchestration {name!r} is registered{hint}"
        known = ", ".join(entry.text for entry in sorted(versions))
        return f"orchestration {name!r} has no version {version} (registered: {known})"


def _check_takes_two(function: Callable[..., Any], what: str) -> None:
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):
        return  # Some builtins have none.
    try:
        signature.bind(None, None)
    except TypeError as exc:
        raise InvalidArgument(f"{what} must take (ctx, input), its signature is {signature}.") from exc


def _same(known: Callable[..., Any], new: Callable[..., Any]) -> bool:
    # A module imported twice under reload defines the same function again.
    if known is new:
        return True
    return (
        inspect.isfunction(known)
        and inspect.isfunction(new)
        and known.__module__ != "__main__"
        and (known.__module__, known.__qualname__) == (new.__module__, new.__qualname__)
        and "<locals>" not in known.__qualname__
        and "<lambda>" not in known.__qualname__
        and known.__code__ == new.__code__
    )


def _where(function: Callable[..., Any]) -> str:
    return f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', repr(function))}"
