"""Values of callers in messages: bounded, and without what may be a secret."""

from __future__ import annotations

import re

MAX_CHARS = 80
#: A URL, a connection string, or anything else with a place for a password.
_MAY_HOLD_SECRET = re.compile(r"://|@|passw|pwd|secret|token", re.IGNORECASE)


def quoted(value: object) -> str:
    """Return a value for a message; of one that may hold a password, only its type and length."""
    text = repr(value)
    if _MAY_HOLD_SECRET.search(text):
        return f"a {type(value).__name__} of {len(text)} characters that may hold a password"
    return text if len(text) <= MAX_CHARS else f"{text[:MAX_CHARS]}…"
