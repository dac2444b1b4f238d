"""The log: one pipeline for our own events and for those of the libraries, on one stream.

Whatever is logged may hold a stranger's bytes, so every value comes out escaped: an event is one line, whatever is in
it. A traceback has several lines, which are marked as its own in text, and one value in JSON. Secrets are masked by the
name they are logged under, and in URLs. A line that cannot be written is dropped: it is not worth a request. A service writes
its log from a thread (line_writer.py), because a pipe that nobody reads holds up whatever writes to it.

Callers use `structlog.get_logger()`. Where speed matters, they ask for their logger once: a bound logger answers a call
below the level with a `return None`.
"""

from __future__ import annotations

import logging
import math
import re
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
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
"""The level names of envoyproxy/ratelimit, and what they are here."""

LONGEST = 8_192
"""Characters of one value; what is beyond them is cut off."""

OWN = "ratelimit_service"
"""The logger of the standard library that our own events go through."""

_HIDDEN = "***"
_SECRET = re.compile(
    r"(?:^|[_-])(?:password|passwd|passphrase|secret|auth|authorization|credentials?|private_?key|api_?key)$",
    re.I,
)


def configure(level: str, fmt: str, stream: TextIO | None = None, writer: LineWriter | None = None) -> None:
    """Log everything from `level` on (a name of upstream's, in any case) to `stream`, which is stderr without one.

    With a `writer`, it writes the lines, and `stream` only tells how: its encoding, and whether it is a terminal.

    `fmt` is "text" for people, in colour on a terminal, or "json" for an object on each line. Libraries are heard from
    WARNING on. Can be called again; the last call holds.
    """
    threshold = LEVELS[level.lower()]
    stream = sys.stderr if stream is None else stream
    handler = _Handler(stream, writer)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
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
    """Log what Python itself would write to stderr while it runs: warnings, and exceptions that nothing can catch.

    As its own lines they would stand between ours, and hold up whatever causes them where nobody reads stderr.
    """
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
    """Ours among the handlers of the root logger. What cannot be shown or written is dropped."""

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
    """The names that envoyproxy/ratelimit gives the fields of its JSON, which go first."""
    level = str(event.pop("level", "info"))
    return {
        "@timestamp": event.pop("timestamp", ""),
        "level": "fatal" if level == "critical" else level,
        "@message": event.pop("event", ""),
        **event,
    }


def _mark_traceback(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Put something in front of every line of a traceback, so that none of them can pass for an event."""
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
    if len(text) > 8 * LONGEST:  # a stranger's: none of our URLs is as long
        return hide_credentials(fit(text, LONGEST))
    return shorten(hide_credentials(printable(text)), LONGEST)


def _fit(name: str, value: object) -> object:
    """`value` as the log shows it under `name`: plain data, all text of which is one line."""
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
