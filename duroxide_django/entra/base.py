"""Django's PostgreSQL backend with a token in place of the password; ``ENGINE`` of Entra providers' aliases."""

from __future__ import annotations

from typing import Any

from django.db.backends.postgresql import base


class DatabaseWrapper(base.DatabaseWrapper):
    """Asks for the token at each new connection: a token lives for an hour, a worker for months."""

    def get_connection_params(self) -> dict[str, Any]:
        """See Django's backend; the option ``token_source`` is a TokenSource."""
        params = super().get_connection_params()
        source = params.pop("token_source")
        return {**params, "password": source.token()}
