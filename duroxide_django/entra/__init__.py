"""Azure Entra authentication: a token in place of the password, fetched anew for new connections before it expires."""

from __future__ import annotations

import threading
import time
from typing import Any

from django.db import OperationalError

from duroxide_django.exceptions import ConfigurationError
from duroxide_django.logs import runtime_log

#: A token that ends within so many seconds isn't used for a new connection any more.
_RESERVE_S = 300


class TokenSource:
    """Gives the current token; shared by all connections of one alias, from any thread."""

    def __init__(self, audience: str, refresh_interval_ms: int | None) -> None:
        """
        Args:
            audience: the token's scope.
            refresh_interval_ms: milliseconds after which a token is fetched anew even if it is still good.

        Raises:
            ConfigurationError: azure-identity is not installed.
        """
        self._credential = _credential()
        self._audience = audience
        self._interval_s = None if refresh_interval_ms is None else refresh_interval_ms / 1000
        self._lock = threading.Lock()
        self._token: str | None = None
        self._good_until = 0.0

    def token(self) -> str:
        """Return a token that is good for a new connection.

        Raises:
            OperationalError: none can be had now, and the last one has expired; workers try again, as with any
                database that is away.
        """
        with self._lock:
            now = time.time()
            if self._token is None or now >= self._good_until:
                try:
                    found = self._credential.get_token(self._audience)
                except Exception as exc:  # the kinds of failure differ between credentials
                    raise OperationalError(f"Azure Entra gave no token for {self._audience}: {exc}") from exc
                self._token = str(found.token)
                expires = float(found.expires_on) - _RESERVE_S
                self._good_until = expires if self._interval_s is None else min(expires, now + self._interval_s)
                runtime_log.debug("Fetched an Azure Entra token", expires_on=found.expires_on)
            return self._token

    def __deepcopy__(self, memo: dict[int, Any]) -> TokenSource:
        # Django copies the settings of a connection, lock and all.
        return self


def _credential() -> Any:
    try:
        from azure.identity import DefaultAzureCredential  # type: ignore[import-not-found,unused-ignore]
    except ImportError as exc:
        raise ConfigurationError(
            "Azure Entra authentication needs azure-identity: pip install 'duroxide-django[entra]'."
        ) from exc
    return DefaultAzureCredential()
