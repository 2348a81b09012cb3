"""Payload codecs: what payloads pass through on their way to and from the tables (setting PAYLOAD_CODEC)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Protocol

from django.utils.module_loading import import_string

from duroxide_django.exceptions import ConfigurationError, PayloadUnreadable

#: The name under which a text is stored that only looks like one of a codec's.
PLAIN = "plain"


class PayloadCodec(Protocol):
    """What a class for the setting PAYLOAD_CODEC offers. One object serves all threads.

    Attributes:
        name: stored with every payload, so that its reader is known: 1–20 of a–z, 0–9, ``-`` and ``_``.
    """

    name: str

    def encode(self, text: str) -> str | None:
        """Return the form to store, without NUL characters; None: store ``text`` as it is."""

    def decode(self, stored: str) -> str:
        """Return what ``encode`` was given; raises PayloadUnreadable, without the payload in its message."""

    def is_current(self, stored: str) -> bool:
        """Return whether ``encode`` would store it so today, that is: whether it need not be rewritten."""


class FernetCodec:
    """Encrypts with Fernet (AES-128-CBC and HMAC-SHA256); needs the extra ``duroxide_django[encryption]``."""

    name = "fernet"

    def __init__(self, *, keys: Sequence[str], decrypt_only: bool = False) -> None:
        """
        Args:
            keys: made by ``FernetCodec.new_key()``; the first encrypts, all decrypt.
            decrypt_only: encrypt nothing any more; for switching encryption off.

        Raises:
            ConfigurationError: no key, a key is malformed, or ``cryptography`` is not installed.
        """
        fernet = _fernet()
        if not isinstance(keys, (list, tuple)) or not keys:
            raise ConfigurationError("needs a list of at least one key in OPTIONS['keys']")
        self._fernets = []
        for number, key in enumerate(keys):
            try:
                self._fernets.append(fernet.Fernet(key))
            except (ValueError, TypeError) as exc:
                # The key itself must not appear in a message.
                raise ConfigurationError(
                    f"has no Fernet key (32 bytes in URL-safe base64) in OPTIONS['keys'][{number}]; "
                    "make one with FernetCodec.new_key()"
                ) from exc
        self._invalid: type[Exception] = fernet.InvalidToken
        self._decrypt_only = decrypt_only

    @staticmethod
    def new_key() -> str:
        """Return a new random key."""
        key: bytes = _fernet().Fernet.generate_key()
        return key.decode()

    def encode(self, text: str) -> str | None:
        """See PayloadCodec."""
        if self._decrypt_only:
            return None
        token: bytes = self._fernets[0].encrypt(text.encode())
        return token.decode()

    def decode(self, stored: str) -> str:
        """See PayloadCodec."""
        for fernet in self._fernets:
            text = self._decrypted(fernet, stored)
            if text is not None:
                return text.decode()
        raise PayloadUnreadable(
            f"A payload was encrypted with a key that is none of the {len(self._fernets)} in "
            "DUROXIDE['PAYLOAD_CODEC'] here, or it was changed; add the key to OPTIONS['keys']."
        )

    def is_current(self, stored: str) -> bool:
        """See PayloadCodec."""
        if self._decrypt_only:
            return False
        return self._decrypted(self._fernets[0], stored) is not None

    def _decrypted(self, fernet: Any, stored: str) -> bytes | None:
        # Fernet raises ValueError for a token that is not ASCII.
        try:
            text: bytes = fernet.decrypt(stored)
        except (self._invalid, ValueError):
            return None
        return text


def _fernet() -> Any:
    try:
        from cryptography import fernet
    except ImportError as exc:
        raise ConfigurationError(
            "needs the package cryptography; run: pip install 'duroxide_django[encryption]'"
        ) from exc
    return fernet


_NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_")


#: A key, in whatever encoding, is not two names with a dot in between.
_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


def make(configured: Any) -> PayloadCodec | None:
    """Return the codec that a value of the setting PAYLOAD_CODEC describes.

    Args:
        configured: None, a dotted path, or ``{"BACKEND": dotted path, "OPTIONS": {…}}``.

    Raises:
        ConfigurationError: it describes none. Options never appear in the message: they may hold keys.
    """
    if configured is None:
        return None
    described = {"BACKEND": configured} if isinstance(configured, str) else configured
    if not isinstance(described, dict) or not isinstance(described.get("BACKEND"), str):
        raise ConfigurationError("must be None, a dotted path, or a dict with 'BACKEND' and perhaps 'OPTIONS'")
    unknown = set(described) - {"BACKEND", "OPTIONS"}
    options = described.get("OPTIONS", {})
    if unknown or not isinstance(options, dict):
        raise ConfigurationError("may have 'BACKEND' and 'OPTIONS' (a dict) only")
    path = described["BACKEND"]
    if not _PATH.fullmatch(path):
        raise ConfigurationError("has no dotted path in 'BACKEND' (not shown: it may be a key)")
    codec = _made(path, options)
    name = getattr(codec, "name", None)
    if not isinstance(name, str) or not 1 <= len(name) <= 20 or not _NAME_CHARACTERS.issuperset(name) or name == PLAIN:
        raise ConfigurationError(f"{path} has no valid name (1–20 of a–z, 0–9, '-' and '_')")
    return codec


def _made(path: str, options: dict[str, Any]) -> PayloadCodec:
    """Return the codec; nothing that it says of its options is passed on or chained, but for our own errors."""
    try:
        made = import_string(path)
    except ImportError as exc:
        raise ConfigurationError(f"names {path!r}, which can't be imported: {exc}") from exc
    try:
        codec: PayloadCodec = made(**options)
    except ConfigurationError:
        raise
    except TypeError:
        raise ConfigurationError(f"{path} doesn't take these options; compare the names in 'OPTIONS'") from None
    except Exception as exc:  # noqa: BLE001 - any, of a project's own codec
        raise ConfigurationError(f"{path} can't be made with these options: {type(exc).__name__}") from None
    return codec
