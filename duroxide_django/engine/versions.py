"""Semantic versions (semver.org 2.0.0), as far as choosing the latest needs them."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

from duroxide_django.exceptions import InvalidArgument

_NUMBER = r"(0|[1-9][0-9]*)"
_PRERELEASE = r"(?:0|[1-9][0-9]*|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
_BUILD = r"[0-9A-Za-z-]+"
_PATTERN = re.compile(
    rf"{_NUMBER}\.{_NUMBER}\.{_NUMBER}(?:-({_PRERELEASE}(?:\.{_PRERELEASE})*))?(?:\+({_BUILD}(?:\.{_BUILD})*))?"
)

#: The version of an orchestration registered without one (spec 12).
DEFAULT_VERSION = "1.0.0"
MAX_VERSION_CHARS = 64


@functools.total_ordering
@dataclass(frozen=True, slots=True)
class Version:
    """A parsed version; orders by semver precedence (1.10.0 > 1.9.0, 1.0.0 > 1.0.0-rc.1).

    Versions that differ in their build only have no precedence in semver; the text decides, so that the latest one
    doesn't depend on the order of registration.
    """

    text: str
    release: tuple[int, int, int]
    prerelease: tuple[tuple[int, int, str], ...] | None

    @classmethod
    def parse(cls, text: object) -> Version:
        """Return the version that ``text`` names, or raise InvalidArgument."""
        match = _PATTERN.fullmatch(text) if isinstance(text, str) and len(text) <= MAX_VERSION_CHARS else None
        if match is None:
            raise InvalidArgument(f"A version must be a semantic version like '1.2.0', got {text!r}.")
        major, minor, patch, pre, _ = match.groups()
        parts = None if pre is None else tuple(_identifier(part) for part in pre.split("."))
        return cls(match.group(0), (int(major), int(minor), int(patch)), parts)

    def __lt__(self, other: Version) -> bool:
        return (self._key(), self.text) < (other._key(), other.text)

    def _key(self) -> tuple[tuple[int, int, int], bool, tuple[tuple[int, int, str], ...]]:
        return self.release, self.prerelease is None, self.prerelease or ()


def _identifier(part: str) -> tuple[int, int, str]:
    # Numeric identifiers rank below alphanumeric ones (semver 11.4.3).
    return (0, int(part), "") if part.isdigit() else (1, 0, part)
