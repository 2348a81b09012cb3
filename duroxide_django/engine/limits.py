"""Sizes and counts that are part of the contract (spec part 17)."""

from __future__ import annotations

from duroxide_django.exceptions import InvalidArgument, LimitExceeded

MAX_KV_KEYS = 150
MAX_KV_VALUE_BYTES = 65_536
MAX_CUSTOM_STATUS_BYTES = 262_144
MAX_TAG_NAME_BYTES = 256
MAX_WORKER_TAGS = 5

#: The widths of the text columns that hold identifiers.
MAX_INSTANCE_ID_CHARS = 512
MAX_NAME_CHARS = 255

#: How deep blocks, ``all`` and ``race`` may nest: each level needs a few frames of Python's stack.
MAX_NESTING = 100
#: Tasks of one turn that resolve at once. A function that yields more of them loops for ever, and its worker with it.
MAX_STEPS_WITHOUT_WAITING = 100_000

#: Names that belong to the engine itself (spec 1, *syscall activity*).
RESERVED_PREFIX = "__duroxide_syscall:"


def check_text(value: object, what: str, *, max_chars: int = MAX_NAME_CHARS, empty: bool = False) -> str:
    """Return ``value`` if it is storable text, else raise InvalidArgument that says why.

    Args:
        value: the candidate.
        what: how the message names it, for example ``instance_id``.
        max_chars: the longest text allowed, in characters.
        empty: whether the empty text is allowed.
    """
    if not isinstance(value, str):
        raise InvalidArgument(f"{what} must be a str, got {type(value).__name__}.")
    if not value and not empty:
        raise InvalidArgument(f"{what} must not be empty.")
    if len(value) > max_chars:
        raise InvalidArgument(f"{what} may have {max_chars} characters at most, got {len(value)}.")
    return check_storable(value, what)


def check_instance_id(value: object) -> str:
    """Return ``value`` if it can be an instance's id, else raise InvalidArgument."""
    return check_text(value, "instance_id", max_chars=MAX_INSTANCE_ID_CHARS)


def check_whole(value: object, what: str, *, least: int = 0) -> int:
    """Return ``value`` if it is a whole number of at least ``least``, else raise InvalidArgument."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InvalidArgument(f"{what} must be a whole number of at least {least}, got {value!r}.")
    return value


def check_storable(value: str, what: str) -> str:
    """Return ``value`` unless it holds a NUL or a lone surrogate, which PostgreSQL's text can't store."""
    if "\x00" in value:
        raise InvalidArgument(f"{what} must not contain NUL characters.")
    try:
        value.encode()
    except UnicodeEncodeError as exc:
        raise InvalidArgument(f"{what} contains a lone surrogate at position {exc.start}.") from exc
    return value


def check_bytes(value: str, what: str, limit: int) -> str:
    """Return ``value`` if its UTF-8 form has ``limit`` bytes at most, else raise LimitExceeded."""
    if len(value) * 4 > limit and (size := len(value.encode())) > limit:
        raise LimitExceeded(f"{what} is {size} bytes, the limit is {limit} bytes.")
    return value


def check_delay_ms(value: object, what: str = "delay_ms") -> int:
    """Return ``value`` if it is a whole, non-negative number of milliseconds, else raise InvalidArgument."""
    if isinstance(value, bool) or not isinstance(value, int):
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        else:
            raise InvalidArgument(f"{what} must be a whole number of milliseconds, got {value!r}.")
    if value < 0:
        raise InvalidArgument(f"{what} must not be negative, got {value}.")
    # 10,000 years: beyond it the fire time no longer fits a bigint's useful range or a datetime.
    if value > 315_576_000_000_000:
        raise InvalidArgument(f"{what} must be below 10,000 years, got {value} ms.")
    return value


def check_tag(value: object) -> str:
    """Return ``value`` if it is a legal activity tag (spec 10.2)."""
    tag = check_text(value, "tag", max_chars=MAX_TAG_NAME_BYTES)
    return check_bytes(tag, f"tag {tag[:40]!r}", MAX_TAG_NAME_BYTES)
