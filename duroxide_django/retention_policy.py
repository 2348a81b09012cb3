"""The setting RETENTION: how long ended instances are kept, by orchestration and by how they ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from duroxide_django.exceptions import ConfigurationError

#: Stands for every orchestration that has no rule of its own.
OTHERS = "*"

_UNITS_MS = {"minutes": 60_000, "hours": 3_600_000, "days": 86_400_000}
_STATUSES = {"completed": "Completed", "failed": "Failed"}


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionRule:
    """Which ended root instances go, with their families.

    Attributes:
        name: the roots' orchestration; None: every one but ``excluding``.
        status: how the root ended: ``Completed`` or ``Failed``.
        age_ms: how long ago every member of its family must have ended, milliseconds.
    """

    name: str | None
    excluding: tuple[str, ...]
    status: str
    age_ms: int


def parse(configured: Any) -> list[RetentionRule]:
    """Return the rules that a value of the setting describes.

    Args:
        configured: by orchestration (``*``: all others) an age (``{"days": 30}``, ``hours``, ``minutes``), or ages by
            how the root ended (``{"completed": {"days": 7}, "failed": {"days": 90}}``), or None: keep for ever.

    Raises:
        ConfigurationError: it describes none.
    """
    if not isinstance(configured, Mapping):
        raise ConfigurationError("must be a dict of orchestrations")
    named = tuple(name for name in configured if name != OTHERS)
    rules = []
    for name, kept in configured.items():
        if not isinstance(name, str) or not name:
            raise ConfigurationError(f"has the key {name!r}; keys are names of orchestrations, or '*'")
        others = name == OTHERS
        for status, age_ms in _ages(name, kept):
            rules.append(
                RetentionRule(
                    name=None if others else name, excluding=named if others else (), status=status, age_ms=age_ms
                )
            )
    return rules


def _ages(name: str, kept: Any) -> list[tuple[str, int]]:
    if kept is None:
        return []
    if not isinstance(kept, Mapping) or not kept:
        raise ConfigurationError(f"[{name!r}] must be like {{'days': 30}}, or None to keep them for ever")
    if set(kept) <= set(_STATUSES):
        return [(_STATUSES[key], _age_ms(f"[{name!r}][{key!r}]", age)) for key, age in kept.items() if age is not None]
    age_ms = _age_ms(f"[{name!r}]", kept)
    return [(status, age_ms) for status in _STATUSES.values()]


def _age_ms(where: str, age: Any) -> int:
    if not isinstance(age, Mapping) or not age or not set(age) <= set(_UNITS_MS):
        raise ConfigurationError(f"{where} must have 'days', 'hours' or 'minutes' (or 'completed' and 'failed')")
    for unit, number in age.items():
        if isinstance(number, bool) or not isinstance(number, (int, float)) or not 0 <= number < 1_000_000:
            raise ConfigurationError(f"{where}[{unit!r}] must be a number of at least 0")
    return int(sum(number * _UNITS_MS[unit] for unit, number in age.items()))
