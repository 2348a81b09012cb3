"""The options a runtime works with: RuntimeOptions over the project's settings."""

from __future__ import annotations

import os
import secrets
import socket
from dataclasses import dataclass
from typing import Any

from duroxide_django.conf import settings
from duroxide_django.engine.outcome import EngineOptions
from duroxide_django.exceptions import ConfigurationError, InvalidArgument
from duroxide_django.options import RuntimeOptions, TagFilter
from duroxide_django.storage import payloads


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Resolved options; times in milliseconds. See conf.Settings for what each means."""

    worker_id: str
    owner: str
    runs_orchestrations: bool
    slots: int
    batch: int
    batch_bytes: int
    tag_filter: TagFilter
    poll_ms: int
    turn_lease_ms: int
    turn_timeout_ms: int
    unknown_code_grace_ms: int
    activity_lease_ms: int
    cancel_check_ms: int
    max_attempts: int
    max_sessions: int
    session_idle_ms: int
    session_lease_ms: int
    serial_sessions: bool
    cache_executions: int
    cache_bytes: int
    fails_on_nondeterminism: bool
    notify: bool
    engine: EngineOptions

    @property
    def runs_activities(self) -> bool:
        """Whether this runtime takes activities at all."""
        return self.slots > 0 and not self.tag_filter.takes_nothing

    @property
    def renewal_ms(self) -> int:
        """How often leases are renewed: well before they end (spec 13.1)."""
        lease = self.activity_lease_ms
        return max(100, lease - 5_000 if lease >= 15_000 else lease // 3)

    @property
    def session_renewal_ms(self) -> int:
        """How often session leases are renewed: twice before they would end."""
        return max(1, self.session_lease_ms // 3)


def engine_options() -> EngineOptions:
    """Return the engine's options out of the settings."""
    return EngineOptions(
        max_payload_bytes=settings.MAX_PAYLOAD_BYTES,
        cancel_cleanup_turns=settings.CANCEL_CLEANUP_TURNS,
        buffer_events=settings.BUFFER_EVENTS,
        trace_errors=settings.LOG_PAYLOADS,
    )


def resolve(options: RuntimeOptions | None) -> Config:
    """Return the configuration that ``options`` over the settings give.

    Raises:
        ConfigurationError: a setting is wrong, or sessions would end before their activities' leases are renewed.
    """
    given = options or RuntimeOptions()
    kind: object = given
    if not isinstance(kind, RuntimeOptions):
        raise InvalidArgument(f"Runtime options are RuntimeOptions(…), got {type(kind).__name__}.")

    payloads.codec()

    def pick(value: Any, name: str) -> Any:
        return getattr(settings, name) if value is None else value

    worker_id = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"[:255]
    replay_every_turn = settings.REPLAY_EVERY_TURN
    config = Config(
        worker_id=worker_id,
        owner=pick(given.worker_node_id, "WORKER_NODE_ID") or worker_id,
        runs_orchestrations=pick(given.orchestration_concurrency, "ORCHESTRATION_CONCURRENCY") > 0,
        slots=pick(given.worker_concurrency, "WORKER_CONCURRENCY"),
        batch=settings.ORCHESTRATION_BATCH,
        batch_bytes=settings.ORCHESTRATION_BATCH_BYTES,
        tag_filter=TagFilter.parse(pick(given.worker_tag_filter, "WORKER_TAG_FILTER")),
        poll_ms=pick(given.dispatcher_poll_interval_ms, "POLL_INTERVAL_MS"),
        turn_lease_ms=settings.TURN_LEASE_MS,
        turn_timeout_ms=settings.TURN_TIMEOUT_MS,
        unknown_code_grace_ms=settings.UNKNOWN_CODE_GRACE_MS,
        activity_lease_ms=pick(given.worker_lock_timeout_ms, "ACTIVITY_LEASE_MS"),
        cancel_check_ms=settings.CANCEL_CHECK_MS,
        max_attempts=settings.MAX_ATTEMPTS,
        max_sessions=pick(given.max_sessions_per_runtime, "MAX_SESSIONS"),
        session_idle_ms=pick(given.session_idle_timeout_ms, "SESSION_IDLE_MS"),
        session_lease_ms=settings.SESSION_LEASE_MS,
        serial_sessions=pick(given.serial_sessions, "SERIAL_SESSIONS"),
        cache_executions=0 if replay_every_turn else settings.CACHE_EXECUTIONS,
        cache_bytes=settings.CACHE_BYTES,
        fails_on_nondeterminism=settings.ON_NONDETERMINISM == "fail",
        notify=settings.NOTIFY,
        engine=engine_options(),
    )
    if config.session_idle_ms <= config.renewal_ms:
        raise ConfigurationError(
            f"The session idle time-out ({config.session_idle_ms} ms) must exceed the lease renewal interval "
            f"({config.renewal_ms} ms), or sessions would be lost while their activities run."
        )
    return config
