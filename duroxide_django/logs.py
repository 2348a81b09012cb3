"""Logging through structlog onto the standard library's loggers ``duroxide.*``.

Payloads are not logged unless LOG_PAYLOADS is set. The text of an exception may quote them, so lines name its class.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import traceback
from typing import Any, TextIO

import structlog
from django.db import InterfaceError, OperationalError

from duroxide_django.conf import settings
from duroxide_django.exceptions import ClientError

_ROOT = "duroxide"
_TARGETS = {
    "orchestration": "duroxide.orchestration",
    "activity": "duroxide.activity",
    "runtime": "duroxide.runtime",
}
_LEVELS = {
    "trace": logging.DEBUG,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "off": logging.CRITICAL + 10,
}
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


def _logger(name: str) -> Any:
    return structlog.wrap_logger(
        logging.getLogger(name),
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.contextvars.merge_contextvars,
            structlog.processors.StackInfoRenderer(),
            structlog.stdlib.render_to_log_kwargs,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


#: Traces of orchestrations, of activities, and the runtime's own messages.
orchestration_log = _logger(_TARGETS["orchestration"])
activity_log = _logger(_TARGETS["activity"])
runtime_log = _logger(_TARGETS["runtime"])


def describe(error: BaseException) -> str:
    """Return an exception for a log line: its class and what of its text can't quote payloads.

    That is: the first line of what says that a database is away, and the code of other errors of databases
    (PostgreSQL's texts and details quote values, and the refused row).
    """
    name = type(error).__name__
    if settings.LOG_PAYLOADS:
        return f"{name}: {error}"
    if isinstance(error, (OperationalError, InterfaceError)):
        return f"{name}: {str(error).partition(chr(10))[0]}"
    code = getattr(error.__cause__, "sqlstate", None) or getattr(error.__cause__, "sqlite_errorname", None)
    return f"{name} ({code})" if code else name


def log_exception(message: str, error: BaseException, **fields: Any) -> None:
    """Log an error of the runtime with where it was raised; see describe()."""
    if settings.LOG_PAYLOADS:
        runtime_log.error(message, exc_info=error, **fields)
        return
    frames = "".join(traceback.format_tb(error.__traceback__))
    runtime_log.error(f"{message}: {describe(error)}", raised_at=frames, **fields)


class FieldsFormatter(logging.Formatter):
    """Writes a record with the fields that structlog bound to it, or to the context in which it is logged."""

    def __init__(self, style: str, constants: dict[str, str] | None = None) -> None:
        """
        Args:
            style: json (one object a line), compact (one line) or pretty (fields on a line of their own).
            constants: fields added to every line, for example the service's name.
        """
        super().__init__(datefmt="%Y-%m-%dT%H:%M:%S%z")
        self._json = style == "json"
        self._one_line = style == "compact"
        self._glue = "\n    " if style == "pretty" else " "
        self._constants = constants or {}

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        fields = {key: value for key, value in vars(record).items() if key not in _STANDARD}
        # What an activity logs by the standard library alone belongs to its instance all the same.
        fields = {**self._constants, **structlog.contextvars.get_contextvars(), **fields}
        time = self.formatTime(record, self.datefmt)
        message = record.getMessage()
        if record.exc_info:
            message = f"{message}\n{self.formatException(record.exc_info)}"
        if self._json:
            line = {
                "timestamp": time,
                "level": record.levelname,
                "target": record.name,
                "message": message,
                **fields,
            }
            return json.dumps(line, default=str, ensure_ascii=False)
        bound = " ".join(f"{key}={value}" for key, value in fields.items())
        if self._one_line:
            # A line break in a message or an id must not look like another record.
            message, bound = _escaped(record.getMessage()), _escaped(bound)
            if record.exc_info:
                message = f"{message}\n{self.formatException(record.exc_info)}"
        return f"{time} {record.levelname:<5} {record.name}: {message}{self._glue if bound else ''}{bound}"


def _escaped(text: str) -> str:
    return text.replace("\r", "\\r").replace("\n", "\\n")


def configure(
    *,
    level: str | None,
    style: str | None,
    constants: dict[str, str] | None = None,
    stream: TextIO | None = None,
) -> None:
    """Set the loggers up if somebody asked for it and nobody has done so.

    Asking is: a level or a style in RuntimeOptions, or the environment variable RUST_LOG (spec 15). A style makes a
    handler on ``stream`` (stderr); so does the rest unless the project's root logger has handlers.
    """
    directives = os.environ.get("RUST_LOG")
    if level is None and style is None and not directives:
        return
    root = logging.getLogger(_ROOT)
    if any(isinstance(handler, _TraceFile) for handler in root.handlers):
        # init_tracing() came first, with its level.
        return
    if not root.handlers and (style is not None or not logging.getLogger().handlers):
        handler = logging.StreamHandler(stream or sys.stderr)
        handler.setFormatter(FieldsFormatter(style or "pretty", constants))
        root.addHandler(handler)
        # The project's root handlers would write each line a second time.
        root.propagate = False
    set_levels(level or "info", directives)


def set_levels(level: str, directives: str | None = None) -> None:
    """Set the user targets to ``level`` and the rest to warnings; ``directives`` (as in RUST_LOG) overrides.

    Args:
        level: trace, debug, info, warn, error or off.
        directives: for example ``info`` or ``duroxide::orchestration=debug,warn``. The more special one counts,
            whatever their order; a target stands for those below it too.
    """
    user = _LEVELS[level.lower()]
    levels = dict.fromkeys((_ROOT, *_TARGETS.values()), logging.WARNING)
    levels |= {_TARGETS["orchestration"]: user, _TARGETS["activity"]: user}
    # From the general to the special.
    for target, number in sorted(_parsed(directives or ""), key=lambda directive: len(directive[0])):
        levels[target or _ROOT] = number
        for name in levels:
            if not target or name.startswith(f"{target}."):
                levels[name] = number
    for name, number in levels.items():
        logging.getLogger(name).setLevel(number)


def _parsed(directives: str) -> list[tuple[str, int]]:
    """Return (logger, level) for each directive; the logger is empty where one is for all."""
    parsed = []
    for directive in filter(None, map(str.strip, directives.split(","))):
        target, equals, wanted = directive.partition("=")
        if not equals and target.lower() in _LEVELS:
            target, wanted = "", target
        # A target alone lets everything through.
        number = _LEVELS.get(wanted.strip().lower() if equals or not target else "trace")
        if number is None or not re.fullmatch(r"[\w:.]*", target.strip()):
            runtime_log.warning("RUST_LOG: not understood, left out", directive=directive)
            continue
        parsed.append((target.strip().replace("::", "."), number))
    return parsed


class _TraceFile(logging.FileHandler):
    """The file of init_tracing()."""


def init_tracing(log_file: str, log_level: str | None = None, log_format: str | None = None) -> None:
    """Append log lines to a file; call it before ``Runtime.start()``.

    Args:
        log_file: path of the file.
        log_level: level of the orchestration and activity traces; info if left out. RUST_LOG overrides.
        log_format: json, pretty or compact (the default).

    Raises:
        ClientError: the file can't be opened, or tracing is set up already (the first one wins).
    """
    root = logging.getLogger(_ROOT)
    if root.handlers:
        raise ClientError("Tracing is set up already; the first set-up wins.")
    if log_format not in (None, "json", "pretty", "compact"):
        raise ClientError(f"log_format must be json, pretty or compact, got {log_format!r}.")
    if (log_level or "info").lower() not in _LEVELS:
        raise ClientError(f"log_level must be one of {', '.join(_LEVELS)}, got {log_level!r}.")
    try:
        handler = _TraceFile(log_file, encoding="utf-8")
    except OSError as exc:
        raise ClientError(f"The log file {log_file!r} can't be opened: {exc}") from exc
    handler.setFormatter(FieldsFormatter(log_format or "compact"))
    root.addHandler(handler)
    set_levels(log_level or "info", os.environ.get("RUST_LOG"))
