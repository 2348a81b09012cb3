"""Codes that customers see: short enough to read out, too many to guess."""

import secrets

#: No 0/O, 1/I/L: the ones that people mix up on the telephone.
ALPHABET = "23456789ABCDEFGHJKMNPQRSTUVWXYZ"
CODE_LENGTH = 10


def new_code() -> str:
    """Return a new random code."""
    return "".join(secrets.choice(ALPHABET) for _ in range(CODE_LENGTH))
