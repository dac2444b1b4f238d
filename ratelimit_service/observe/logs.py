"""The log: one pipeline for the events of the service and of libraries, on one stream.

Values may contain a stranger's bytes, so every value is escaped: an event is one line. A traceback has
several lines in text, each with a mark, and is one value in JSON. Secrets are masked by the name of their
field, and in URLs. A line that cannot be written is dropped, because no line is worth delaying a request. The
service writes its log in a thread (line_writer.py), because a pipe that nobody reads blocks its writer.

Callers use `structlog.get_logger()`. Where speed matters, they get their logger once: below the level, a
bound logger returns at once.
"""

from __future__ import annotations

import logging
import math
import re
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from ..core.text import fit, hide_credentials, printable, shorten, show
from .line_writer import LineWriter

LEVELS = {
    "trace": logging.DEBUG,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "fatal": logging.CRITICAL,
    "panic": logging.CRITICAL,
}
"""The level names of envoyproxy/ratelimit, and their levels here."""

LONGEST = 8_192
"""Characters of a value; longer ones are cut."""

OWN = "ratelimit_service"
"""The standard library's logger for the events of the service."""

_HIDDEN = "***"
_SECRET = re.compile(
    r"(?:^|[_-])(?:password|passwd|passphrase|secret|auth|authorization|credentials?|private_?key|api_?key)$",
    re.I,
)


def configure(
    level: str,
    fmt: str,
    stream: TextIO | None = None,
    writer: LineWriter | None = None,
    fields: Mapping[str, Any] | None = None,
) -> None:
    """Log events from `level` up (upstream's name, in upper or lower case) to `stream`, by default stderr.

    With a `writer`, it writes the lines, and `stream` only determines the encoding and the colours. Every
    event has these `fields`.

    `fmt` is "text" for people, in colour on a terminal, or "json" for an object on each line. Libraries log
    from WARNING up. May be called again; the last call applies.
    """
    threshold = LEVELS[level.lower()]
    stream = sys.stderr if stream is None else stream
    handler = _Handler(stream, writer)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                partial(_with, fields or {}),
                _fit_for_people,
                *(_json() if fmt == "json" else _text(colors=stream is not None and stream.isatty())),
            ],
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *_STAMPS],
        )
    )
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old, _Handler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(max(threshold, logging.WARNING))
    logging.getLogger(OWN).setLevel(threshold)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            *_STAMPS,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=_own_logger,
        cache_logger_on_first_use=False,
    )


_STAMPS: list[Processor] = [
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]


def log_what_python_reports() -> None:
    """Log what Python would write to stderr: warnings, and exceptions that no code can catch.

    Written by Python, they would interrupt the log's format, and block if nobody reads stderr.
    """
    # Not `report`: these come from any thread, also before and after the event loop.
    log = structlog.get_logger(OWN)

    def unraisable(unraisable: Any) -> None:
        log.error(
            unraisable.err_msg or "an exception was ignored",
            at=repr(unraisable.object),
            exc_info=unraisable.exc_value or False,
        )

    def thread_died(died: threading.ExceptHookArgs) -> None:
        name = died.thread.name if died.thread is not None else "?"
        log.error("a thread has ended", thread=name, exc_info=died.exc_value or False)

    sys.unraisablehook = unraisable
    threading.excepthook = thread_died
    logging.captureWarnings(True)


class _Handler(logging.Handler):
    """The handler of the root logger. Drops what cannot be formatted or written."""

    def __init__(self, stream: TextIO | None, writer: LineWriter | None) -> None:
        super().__init__()
        self._stream = stream
        self._writer = writer
        self._encoding = getattr(stream, "encoding", None) or "utf-8"

    def emit(self, record: logging.LogRecord) -> None:
        """See logging.Handler."""
        with suppress(Exception):
            line = f"{self.format(record)}\n"
            if self._writer is not None:
                self._writer.put([line.encode(self._encoding, "backslashreplace")])
            elif self._stream is not None:
                self._stream.write(line)
                self._stream.flush()


def _with(fields: Mapping[str, Any], _: WrappedLogger, __: str, event: EventDict) -> EventDict:
    return {**fields, **event}


def _own_logger(*_: Any) -> logging.Logger:
    return logging.getLogger(OWN)


def _json() -> list[Processor]:
    return [_as_upstream, structlog.processors.JSONRenderer(ensure_ascii=False)]


def _text(*, colors: bool) -> list[Processor]:
    console = structlog.dev.ConsoleRenderer(
        colors=colors, sort_keys=False, pad_event_to=0, exception_formatter=structlog.dev.plain_traceback
    )
    return [_mark_traceback, console]


def _as_upstream(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Rename fields as in envoyproxy/ratelimit's JSON, and put them first."""
    level = str(event.pop("level", "info"))
    return {
        "@timestamp": event.pop("timestamp", ""),
        "level": "fatal" if level == "critical" else level,
        "@message": event.pop("event", ""),
        **event,
    }


def _mark_traceback(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Mark each line of a traceback, so that none looks like an event."""
    for name in _SEVERAL_LINES:
        if name in event:
            event[name] = "\n".join(f"  | {line}" for line in event[name].split("\n"))
    return event


_SEVERAL_LINES = ("exception", "stack")


def _fit_for_people(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Escape every value and mask every secret."""
    return {
        name: _lines(str(value)) if name in _SEVERAL_LINES else _fit(name, value)
        for name, value in event.items()
    }


def _lines(text: str) -> str:
    return "\n".join(_line(line) for line in text.split("\n"))


def _line(text: str) -> str:
    if len(text) > 8 * LONGEST:  # text from a request: no URL of the settings is as long
        return hide_credentials(fit(text, LONGEST))
    return shorten(hide_credentials(printable(text)), LONGEST)


def _fit(name: str, value: object) -> object:
    """Return `value` as it is logged under `name`: plain data whose texts are single lines."""
    if value and _SECRET.search(name):
        return _HIDDEN
    if value is None or isinstance(value, bool):
        return value
    if type(value) is int or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, bytes):
        return _line(show(value))
    if isinstance(value, Mapping):
        return {_line(str(key)): _fit(str(key), item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_fit("", item) for item in value]
    return _line(str(value))
