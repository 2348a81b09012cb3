"""Settings: one dict ``DUROXIDE`` in the project's settings, read late, each with a typed default."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.conf import settings as django_settings

from duroxide_django.exceptions import ConfigurationError
from duroxide_django.quoting import quoted

Problem = str | None


def _positive(value: Any) -> Problem:
    good = isinstance(value, int) and not isinstance(value, bool) and value > 0
    return None if good else "must be a whole number above 0"


def _not_negative(value: Any) -> Problem:
    good = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return None if good else "must be a whole number of at least 0"


def _flag(value: Any) -> Problem:
    return None if isinstance(value, bool) else "must be True or False"


def _optional_flag(value: Any) -> Problem:
    return None if value is None or isinstance(value, bool) else "must be True, False or None"


def _text(value: Any) -> Problem:
    return None if isinstance(value, str) and value else "must be a non-empty text"


def _optional_text(value: Any) -> Problem:
    return None if value is None else _text(value)


def _texts(value: Any) -> Problem:
    good = isinstance(value, (list, tuple)) and all(isinstance(item, str) and item for item in value)
    return None if good else "must be a list of texts"


def _mode(value: Any) -> Problem:
    return None if value in ("park", "fail") else "must be 'park' or 'fail'"


def _payload_codec(value: Any) -> Problem:
    from duroxide_django.payload_codec import make

    try:
        make(value)
    except ConfigurationError as exc:
        return str(exc)
    return None


def _retention(value: Any) -> Problem:
    from duroxide_django.retention_policy import parse

    try:
        parse(value)
    except ConfigurationError as exc:
        return str(exc)
    return None


def _tag_filter(value: Any) -> Problem:
    from duroxide_django.options import TagFilter

    try:
        TagFilter.parse(value)
    except (ValueError, TypeError) as exc:
        return f"is no tag filter: {exc}".rstrip(".")
    return None


#: Settings whose values may hold keys; they are never shown.
_SECRET = frozenset({"PAYLOAD_CODEC"})


def _with_value(name: str, problem: str, value: Any) -> str:
    return problem if name in _SECRET else f"{problem}, got {quoted(value)}"


class Settings:
    """Typed, checked access: ``settings.WORKER_CONCURRENCY``.

    Attributes are the setting's names; their defaults stand in the class body, their rules in ``_rules``.
    """

    #: Database alias that holds the workflows.
    DATABASE: str = "default"
    #: Names of the modules that are imported from every installed app.
    MODULES: list[str] = ["workflows"]
    #: Instances one worker process computes in one batch.
    ORCHESTRATION_BATCH: int = 200
    #: Bytes of messages, histories or inputs that one worker process reads at once; a single one may have more.
    ORCHESTRATION_BATCH_BYTES: int = 32 * 1024 * 1024
    #: Concurrent turns of one process; 0: run no orchestrations. (The batch is computed by one thread.)
    ORCHESTRATION_CONCURRENCY: int = 4
    #: Slots for activities in one process; 0: run no activities.
    WORKER_CONCURRENCY: int = 8
    #: Which tags this worker serves; see TagFilter.
    WORKER_TAG_FILTER: Any = "default_only"
    #: Stable identity for sessions; None: one for each process.
    WORKER_NODE_ID: str | None = None
    #: Longest pause between two looks at the queues, in milliseconds.
    POLL_INTERVAL_MS: int = 500
    #: How long a claimed instance stays claimed if its worker dies, in milliseconds.
    TURN_LEASE_MS: int = 30_000
    #: How long one turn may compute before its worker counts as hanging and is replaced, in milliseconds.
    TURN_TIMEOUT_MS: int = 20_000
    #: How long an instance whose code a worker doesn't have is left to workers that have it, in milliseconds.
    UNKNOWN_CODE_GRACE_MS: int = 1_000
    #: How long a running activity stays claimed if its worker dies, in milliseconds; it is renewed while it runs.
    ACTIVITY_LEASE_MS: int = 30_000
    #: How often running activities ask whether they are still wanted, in milliseconds.
    CANCEL_CHECK_MS: int = 500
    #: How often an entry may be fetched before it counts as poison.
    MAX_ATTEMPTS: int = 10
    #: Sessions one process may have activities in flight for.
    MAX_SESSIONS: int = 10
    #: How long an idle session is kept, in milliseconds.
    SESSION_IDLE_MS: int = 300_000
    #: Session lease, in milliseconds.
    SESSION_LEASE_MS: int = 30_000
    #: Whether one session's activities run one after another.
    SERIAL_SESSIONS: bool = False
    #: Live executions kept between turns: how many, and roughly how many bytes.
    CACHE_EXECUTIONS: int = 2_000
    CACHE_BYTES: int = 32 * 1024 * 1024
    #: Throw live executions away after each turn, so that determinism is exercised (tests, CI).
    REPLAY_EVERY_TURN: bool = False
    #: Keep external events until a wait consumes them; False: an event nobody waits for is lost.
    BUFFER_EVENTS: bool = True
    #: What to do when code doesn't fit history: "park" (retry with back-off until a deploy heals it) or "fail".
    ON_NONDETERMINISM: str = "park"
    #: Turns a cancelled orchestration may take to clean up.
    CANCEL_CLEANUP_TURNS: int = 20
    #: Largest input, result, event or message, in bytes of JSON.
    MAX_PAYLOAD_BYTES: int = 2 * 1024 * 1024
    #: Use PostgreSQL's LISTEN/NOTIFY as a hint between processes.
    NOTIFY: bool = True
    #: Prepare the statements that are sent most on PostgreSQL; None: unless a pooler stands in between.
    PREPARED_STATEMENTS: bool | None = None
    #: How long ended instances are kept, by orchestration ("*": all others), for example {"*": {"days": 30}}.
    RETENTION: dict[str, Any] = {}
    #: How often a worker looks for instances to delete, in milliseconds.
    RETENTION_INTERVAL_MS: int = 600_000
    #: What payloads pass through on their way to the tables: None, a dotted path, or {"BACKEND": …, "OPTIONS": {…}}.
    PAYLOAD_CODEC: Any = None
    #: Whether log lines may quote payloads: texts of exceptions, and what a history recorded.
    LOG_PAYLOADS: bool = False
    #: JSON object keys whose values are never shown to people.
    MASKED_KEYS: list[str] = []
    #: How long a stopping worker waits for running activities, in milliseconds.
    SHUTDOWN_TIMEOUT_MS: int = 10_000

    _rules: dict[str, Callable[[Any], Problem]] = {
        "DATABASE": _text,
        "MODULES": _texts,
        "ORCHESTRATION_BATCH": _positive,
        "ORCHESTRATION_BATCH_BYTES": _positive,
        "ORCHESTRATION_CONCURRENCY": _not_negative,
        "WORKER_CONCURRENCY": _not_negative,
        "WORKER_TAG_FILTER": _tag_filter,
        "WORKER_NODE_ID": _optional_text,
        "POLL_INTERVAL_MS": _positive,
        "TURN_LEASE_MS": _positive,
        "TURN_TIMEOUT_MS": _positive,
        "UNKNOWN_CODE_GRACE_MS": _not_negative,
        "ACTIVITY_LEASE_MS": _positive,
        "CANCEL_CHECK_MS": _positive,
        "MAX_ATTEMPTS": _positive,
        "MAX_SESSIONS": _positive,
        "SESSION_IDLE_MS": _positive,
        "SESSION_LEASE_MS": _positive,
        "SERIAL_SESSIONS": _flag,
        "CACHE_EXECUTIONS": _not_negative,
        "CACHE_BYTES": _not_negative,
        "REPLAY_EVERY_TURN": _flag,
        "BUFFER_EVENTS": _flag,
        "ON_NONDETERMINISM": _mode,
        "CANCEL_CLEANUP_TURNS": _not_negative,
        "MAX_PAYLOAD_BYTES": _positive,
        "RETENTION": _retention,
        "RETENTION_INTERVAL_MS": _positive,
        "PAYLOAD_CODEC": _payload_codec,
        "LOG_PAYLOADS": _flag,
        "MASKED_KEYS": _texts,
        "NOTIFY": _flag,
        "PREPARED_STATEMENTS": _optional_flag,
        "SHUTDOWN_TIMEOUT_MS": _not_negative,
    }

    def __getattribute__(self, name: str) -> Any:
        if not name.isupper():
            return super().__getattribute__(name)
        rule = Settings._rules.get(name)
        if rule is None:
            raise AttributeError(name)
        given = self.given()
        if name not in given:
            return super().__getattribute__(name)
        if problem := rule(given[name]):
            raise ConfigurationError(f"DUROXIDE[{name!r}] {_with_value(name, problem, given[name])}.")
        return given[name]

    def given(self) -> dict[str, Any]:
        """Return what the project's settings hold."""
        given = getattr(django_settings, "DUROXIDE", {})
        if not isinstance(given, dict):
            raise ConfigurationError("The setting DUROXIDE must be a dict.")
        return given

    def is_valid(self, name: str) -> bool:
        """Return whether reading ``name`` would succeed."""
        try:
            getattr(self, name)
        except ConfigurationError:
            return False
        return True

    def problems(self) -> list[tuple[str, str]]:
        """Return (setting, problem) for everything that is wrong with the project's DUROXIDE dict."""
        try:
            given = self.given()
        except ConfigurationError as exc:
            return [("", str(exc))]
        found = [(name, "is unknown") for name in given if name not in Settings._rules]
        for name, value in given.items():
            rule = Settings._rules.get(name)
            problem = None if rule is None else rule(value)
            if problem:
                found.append((name, _with_value(name, problem, value)))
        return found

    @classmethod
    def names(cls) -> list[str]:
        """Return the names of all settings."""
        return list(cls._rules)


settings = Settings()
