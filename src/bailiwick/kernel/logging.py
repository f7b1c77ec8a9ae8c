"""Structured logs on standard output, one line an event, as JSON or logfmt, without secrets.

Everything comes through one chain: our own structlog calls and the standard library's loggers (uvicorn, SQLAlchemy,
Alembic, gRPC). The chain takes out secrets last, after tracebacks have become text, and a value cannot forge a line:
control characters are escaped in both forms. Phrases operators search for are written exactly so: ``ERROR`` (as the
level), ``slow query`` with ``duration=1.234s``, ``authentication failed``, ``rate limit exceeded``.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
from collections.abc import Callable, Iterable, MutableMapping
from typing import Any, Literal, TextIO, cast

import structlog

from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database
from bailiwick.kernel.redaction import redact_field, redact_text

LogFormat = Literal["json", "logfmt"]

AUTHENTICATION_FAILED = "authentication failed"
RATE_LIMIT_EXCEEDED = "rate limit exceeded"
SLOW_QUERY = "slow query"
SLOW_REQUEST = "slow request"

_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_FIRST = ("ts", "level", "event", "part")
_MAX_STATEMENT = 500
# chatty below warning, and nothing we would act on
_QUIET = ("sqlalchemy", "alembic", "asyncio", "grpc", "aiohttp", "uvicorn.error")

EventDict = MutableMapping[str, Any]


def configure(log_format: LogFormat, level: str, *, part: str = "", stream: TextIO | None = None) -> None:
    """Send this process's logs to ``stream`` (standard output) and everything below ``level`` nowhere.

    ``part`` names the process in every line (``serve-1``, ``work``). Call it once, before anything is logged.
    """
    writer = _LineWriter(stream or sys.stdout)
    chain: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        _level_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        _part_namer(part),
        redact_event,
        render_json if log_format == "json" else render_logfmt,
    ]
    structlog.configure(
        processors=chain,
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=lambda *_: writer,
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    root.handlers = [_ForeignHandler(chain, writer)]
    root.setLevel(_LEVELS[level])
    for name in list(logging.root.manager.loggerDict):
        foreign = logging.getLogger(name)
        foreign.handlers, foreign.propagate = [], True
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(_LEVELS[level], logging.WARNING))
    # the front writes the access log; uvicorn's has no request ids and would hold query strings
    logging.getLogger("uvicorn.access").disabled = True
    logging.captureWarnings(True)


def uvicorn_log_config() -> dict[str, Any]:
    """The ``log_config`` to give uvicorn so that it leaves :func:`configure`'s handlers alone."""
    return {"version": 1, "disable_existing_loggers": False}


def redact_event(_logger: object, _method: str, event_dict: EventDict) -> EventDict:
    """Take secrets out of every field, by name and by form."""
    return {redact_text(str(name)): redact_field(str(name), value) for name, value in event_dict.items()}


def render_json(_logger: object, _method: str, event_dict: EventDict) -> str:
    """One JSON object on one line; everything beyond ASCII is escaped."""
    return json.dumps(_ordered(event_dict), default=str, separators=(",", ":"), allow_nan=True)


def render_logfmt(_logger: object, _method: str, event_dict: EventDict) -> str:
    """``key=value`` pairs, quoted where a value holds blanks, quotes, ``=`` or anything unprintable."""
    return " ".join(f"{_logfmt_key(key)}={_logfmt_value(value)}" for key, value in _ordered(event_dict).items())


def watch_queries(database: Database, clock: Clock, slow_ms: int) -> None:
    """Log ``slow query`` for every statement on ``database`` that takes longer than ``slow_ms``, also when it fails.

    The statement is logged as written, never its parameters.
    """
    limit_s = slow_ms / 1000

    def note(statement: str, seconds: float, failed: bool) -> None:
        if seconds >= limit_s:
            structlog.get_logger(__name__).warning(
                SLOW_QUERY,
                duration=duration_text(seconds),
                statement=" ".join(statement.split())[:_MAX_STATEMENT],
                failed=failed,
            )

    database.watch(clock.monotonic, note)


def duration_text(seconds: float) -> str:
    """``1.234s``: the form Loki's logfmt parser compares with ``duration > 1s``."""
    return f"{seconds:.3f}s"


class _LineWriter:
    """Writes finished lines. A reader that went away must not take the service with it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def _write(self, line: str) -> None:
        with self._lock:
            try:
                try:
                    self._stream.write(line + "\n")
                except UnicodeEncodeError:  # a terminal that only takes ASCII
                    self._stream.write(line.encode("ascii", "backslashreplace").decode() + "\n")
                self._stream.flush()
            except (OSError, ValueError):
                pass

    msg = debug = info = warning = warn = error = critical = exception = fatal = log = _write


class _ForeignHandler(logging.Handler):
    """Takes the records of the standard library's loggers through the same chain."""

    def __init__(self, chain: Iterable[Any], writer: _LineWriter) -> None:
        super().__init__()
        self._chain = list(chain)
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 - arguments that do not fit the format, or whose __str__ fails
            message = record.msg
        event_dict: Any = {"event": message, "logger": record.name}
        if record.exc_info and record.exc_info[0] is not None:
            event_dict["exc_info"] = record.exc_info
        method = record.levelname.lower() if record.levelname.lower() in {*_LEVELS, "critical"} else "info"
        for step in self._chain:
            event_dict = step(None, method, event_dict)
        self._writer.info(cast(str, event_dict))


def _level_name(_logger: object, _method: str, event_dict: EventDict) -> EventDict:
    level = str(event_dict.get("level", "info")).upper()
    if level == "CRITICAL":
        # whoever searches for ERROR wants these first of all
        event_dict["severity"], level = "CRITICAL", "ERROR"
    event_dict["level"] = level
    return event_dict


def _part_namer(part: str) -> Callable[[object, str, EventDict], EventDict]:
    def name(_logger: object, _method: str, event_dict: EventDict) -> EventDict:
        if part:
            event_dict.setdefault("part", part)
        return event_dict

    return name


def _ordered(event_dict: EventDict) -> dict[str, Any]:
    ordered = {key: event_dict[key] for key in _FIRST if key in event_dict}
    ordered.update((key, value) for key, value in event_dict.items() if key not in ordered)
    return ordered


_BAD_KEY = re.compile(r"[^A-Za-z0-9_.-]")


def _logfmt_key(key: str) -> str:
    return _BAD_KEY.sub("_", key) or "_"


def _logfmt_value(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    text = value if isinstance(value, str) else json.dumps(value, default=str, separators=(",", ":"))
    if text and text.isprintable() and not any(mark in text for mark in ' "=\\'):
        return text
    quoted = json.dumps(text, ensure_ascii=False)
    return quoted if quoted.isprintable() else "".join(map(_visible, quoted))


def _visible(character: str) -> str:
    if character.isprintable():
        return character
    code = ord(character)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
