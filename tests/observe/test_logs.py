"""The log: the format of events, the escaping of values, and the masking of secrets."""

from __future__ import annotations

import io
import json
import logging
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from ratelimit_service.observe import logs
from ratelimit_service.observe.line_writer import LineWriter


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Restore logging after each test."""
    root, own = logging.getLogger(), logging.getLogger(logs.OWN)
    handlers, levels = root.handlers[:], (root.level, own.level)
    yield
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    own.setLevel(levels[1])
    structlog.reset_defaults()


def logged(act: Callable[[Any], object], *, level: str = "debug", fmt: str = "text") -> str:
    """Return the line that `act` logs, without its end."""
    stream = io.StringIO()
    logs.configure(level, fmt, stream)
    act(structlog.get_logger())
    return stream.getvalue().removesuffix("\n")


def event(act: Callable[[Any], object], *, level: str = "debug") -> dict[str, Any]:
    """Return the only event that `act` logs, parsed from JSON."""
    line = logged(act, level=level, fmt="json")
    assert "\n" not in line
    fields: dict[str, Any] = json.loads(line)
    return fields


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


def test_json_has_the_names_of_upstream_and_then_the_events_own() -> None:
    """@timestamp, level and @message, so that tools for upstream's log can read it."""
    fields = event(lambda log: log.warning("limit reached", team="dba", limit=5, shadow=False, rest=None))
    at = datetime.fromisoformat(fields["@timestamp"])
    assert ["@timestamp", "level", "@message", "team", "limit", "shadow", "rest"] == list(fields)
    assert ["warning", "limit reached", "dba", 5, False, None] == list(fields.values())[1:]
    assert timedelta(0) == at.utcoffset()


def test_text_is_one_readable_line() -> None:
    """Time, level, message and values, without colours unless it is a terminal."""
    line = logged(lambda log: log.info("serving", grpc="0.0.0.0:8081", team="Zürich"))
    assert "[info     ] serving grpc=0.0.0.0:8081 team=Zürich" == line.partition(" ")[2]
    assert "\x1b" not in line


def test_a_terminal_gets_colours() -> None:
    """Other streams do not."""
    stream = Terminal()
    logs.configure("info", "text", stream)
    structlog.get_logger().info("serving")
    assert "\x1b[" in stream.getvalue()


@pytest.mark.parametrize(
    ("level", "heard"),
    [
        ("trace", ["debug", "info", "warning", "error", "critical"]),
        ("DEBUG", ["debug", "info", "warning", "error", "critical"]),
        ("info", ["info", "warning", "error", "critical"]),
        ("Warn", ["warning", "error", "critical"]),
        ("warning", ["warning", "error", "critical"]),
        ("error", ["error", "critical"]),
        ("fatal", ["critical"]),
        ("panic", ["critical"]),
    ],
)
def test_the_level_selects_the_logged_lines(level: str, heard: list[str]) -> None:
    """Levels have upstream's names, in upper or lower case."""

    def act(log: Any) -> None:
        for name in ("debug", "info", "warning", "error", "critical"):
            getattr(log, name)(name)

    lines = logged(act, level=level, fmt="json").splitlines()
    assert heard == [json.loads(line)["@message"] for line in lines]


def test_the_worst_level_has_upstreams_name() -> None:
    """ "fatal", which Python calls "critical"."""
    assert "fatal" == event(lambda log: log.critical("no"))["level"]


@pytest.mark.parametrize(("level", "heard"), [("debug", ["warned", "failed"]), ("error", ["failed"])])
def test_libraries_are_heard_from_warning_on_in_the_same_pipeline(level: str, heard: list[str]) -> None:
    """Independent of the level of our own log."""

    def act(_: Any) -> None:
        library = logging.getLogger("redis.connection")
        library.debug("said")
        library.info("said")
        library.warning("warned")
        library.error("failed")

    fields = [json.loads(line) for line in logged(act, level=level, fmt="json").splitlines()]
    assert (heard, {"redis.connection"}) == (
        [field["@message"] for field in fields],
        {field["logger"] for field in fields},
    )


def test_the_values_of_a_librarys_message_are_escaped_and_masked_too() -> None:
    """These come from strangers as well."""
    fields = event(lambda _: logging.getLogger("redis").error("no %s at %s", "a\nb", "redis://:hunter2@host"))
    assert r"no a\nb at redis://***@host" == fields["@message"]


STRANGER = "dba\n2026-01-01T00:00:00Z [info     ] all is well\r\x1b[2J\u2028\u202e\x00\udcff"
ESCAPED = r"dba\n2026-01-01T00:00:00Z [info     ] all is well\r\x1b[2J\u2028\u202e\x00\udcff"


@pytest.mark.parametrize(
    "act",
    [
        lambda log: log.info("refused", value=STRANGER),
        lambda log: log.info("refused", value=STRANGER.encode(errors="surrogateescape")),
        lambda log: log.info("refused", value=[STRANGER]),
        lambda log: log.info("refused", value={STRANGER: 1}),
        lambda log: log.info("refused", value=ValueError(STRANGER)),
        lambda log: log.info(STRANGER),
    ],
    ids=["text", "bytes", "in a list", "as a key", "as an error", "as the message"],
)
@pytest.mark.parametrize("fmt", ["text", "json"])
def test_a_value_cannot_write_a_line_of_its_own(act: Callable[[Any], object], fmt: str) -> None:
    """It does not affect the reader's terminal either, however it is logged."""
    line = logged(act, fmt=fmt)
    assert line.isprintable()


def test_a_value_is_escaped_and_not_lost() -> None:
    """The original value can still be recognized."""
    assert ESCAPED == event(lambda log: log.info("refused", value=STRANGER))["value"]


def test_a_value_cannot_add_a_field_to_a_line_of_text() -> None:
    """A value with a space or an equals sign is quoted."""
    line = logged(lambda log: log.info("refused", value="dba limit=0", limit=5))
    assert line.endswith("refused value='dba limit=0' limit=5")


@given(value=st.text() | st.binary() | st.floats() | st.integers() | st.dictionaries(st.text(), st.binary()))
def test_whatever_is_logged_is_one_line_and_valid_json(value: object) -> None:
    """This includes numbers that JSON does not have."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    line = logged(lambda log: log.info("event", value=value), fmt="json")
    json.loads(line, parse_constant=refuse)
    assert line.isprintable()


def test_a_traceback_is_marked_line_by_line() -> None:
    """The message of an exception may contain a line that looks like an event."""

    def act(log: Any) -> None:
        try:
            raise ValueError(f"bad {STRANGER} redis://:hunter2@host")
        except ValueError:
            log.exception("failed")

    first, *rest = logged(act).split("\n")
    assert first.endswith("failed")
    assert "  | Traceback (most recent call last):" == rest[0]
    assert all(line.startswith("  | ") and line.isprintable() for line in rest)
    assert rest[-1].endswith("redis://***@host")


def test_a_traceback_is_one_value_in_json() -> None:
    """The value includes its line breaks."""

    def act(log: Any) -> None:
        try:
            raise ValueError("bad")
        except ValueError as error:
            log.error("failed", exc_info=error)

    lines = event(act)["exception"].split("\n")
    assert ("Traceback (most recent call last):", "ValueError: bad") == (lines[0], lines[-1])


@pytest.mark.parametrize(
    "name",
    ["password", "redis_password", "REDIS_AUTH", "client_secret", "authorization", "api_key", "credentials"],
)
def test_a_value_with_the_name_of_a_secret_is_masked(name: str) -> None:
    """The name may also be deeper in a value."""
    fields = event(lambda log: log.info("connecting", **{name: "hunter2"}, options={name: b"hunter2"}))
    assert ("***", {name: "***"}) == (fields[name], fields["options"])


@pytest.mark.parametrize("name", ["tokens", "tokens_left", "key", "bucket_key", "author", "authority"])
def test_a_name_that_only_resembles_a_secret_is_shown(name: str) -> None:
    """Tokens are counted here, and are not secrets."""
    assert "42" == event(lambda log: log.info("counted", **{name: "42"}))[name]


@pytest.mark.parametrize("fmt", ["text", "json"])
def test_credentials_in_urls_are_masked_wherever_they_stand(fmt: str) -> None:
    """They may be in the message, in values, and in the texts of exceptions."""
    url = "redis://me:hunter2@redis:6379/0"
    line = logged(
        lambda log: log.error(f"no {url}", url=url, urls=[url], raw=url.encode(), error=OSError(f"at {url}")),
        fmt=fmt,
    )
    assert (0, 5) == (line.count("hunter2"), line.count("redis://***@redis:6379/0"))


def test_a_long_value_is_cut() -> None:
    """A stranger can send four megabytes in one value."""
    value = event(lambda log: log.info("refused", value=b"x" * 4_000_000))["value"]
    assert "x" * logs.LONGEST + "… (4000000 characters)" == value


def test_the_last_configuration_holds() -> None:
    """Nothing is logged twice, or to the previous stream."""
    before, after = io.StringIO(), io.StringIO()
    logs.configure("debug", "text", before)
    logger = structlog.get_logger()
    logs.configure("info", "json", after)
    logger.debug("not this")
    logger.info("this")
    logging.getLogger("redis").warning("and this")
    assert "" == before.getvalue()
    assert ["this", "and this"] == [json.loads(line)["@message"] for line in after.getvalue().splitlines()]


class Broken(io.StringIO):
    """A stream whose reader has gone."""

    def write(self, _: str) -> int:
        raise BrokenPipeError


class Hostile:
    """A value whose repr fails."""

    def __str__(self) -> str:
        raise RuntimeError


def test_a_line_that_cannot_be_written_is_dropped(capsys: pytest.CaptureFixture[str]) -> None:
    """The request continues, and nothing is written elsewhere."""
    logs.configure("info", "text", Broken())
    structlog.get_logger().info("gone")
    assert ("", "") == tuple(capsys.readouterr())


def test_a_value_that_cannot_be_shown_harms_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """The event is dropped."""
    assert "after" == event(lambda log: (log.info("before", value=Hostile()), log.info("after")))["@message"]
    assert ("", "") == tuple(capsys.readouterr())


def test_without_a_stream_the_log_is_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    """So stdout only has requested output."""
    logs.configure("info", "json")
    structlog.get_logger().info("serving")
    out, err = capsys.readouterr()
    assert ("", "serving") == (out, json.loads(err)["@message"])


def test_tracebacks_are_rendered_without_a_warning() -> None:
    """structlog warns of renderers that get a rendered traceback."""

    def act(log: Any) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            log.error("failed", exc_info=ValueError("bad"))

    assert logged(act).endswith("\n  | ValueError: bad")


def test_messages_of_python_are_in_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """A warning, a thread that ends with an exception, and an exception that cannot be caught: each is an
    event.
    """
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)

    class Unraisable:
        def __del__(self) -> None:
            raise ValueError("in vain")

    def dies() -> None:
        raise ValueError("by mistake")

    stream = io.StringIO()
    logs.configure("info", "json", stream)
    logs.log_what_python_reports()
    try:
        thread = threading.Thread(target=dies, name="dying")
        thread.start()
        thread.join()
        unraisable = Unraisable()
        del unraisable
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            logging.captureWarnings(True)
            warnings.warn("not like this", RuntimeWarning, stacklevel=1)
    finally:
        logging.captureWarnings(False)
    died, ignored, warned = map(json.loads, stream.getvalue().splitlines())
    assert ("a thread has ended", "dying") == (died["@message"], died["thread"])
    assert died["exception"].endswith("ValueError: by mistake")
    assert ignored["exception"].endswith("ValueError: in vain")
    assert "RuntimeWarning: not like this" in warned["@message"]


def test_a_log_with_a_writer_is_written_by_it() -> None:
    """It writes the same as the stream, with escapes for unencodable characters. Nothing is written to the
    stream.
    """

    class Latin(io.StringIO):
        encoding = "latin-1"

    written: list[bytes] = []
    writer = LineWriter(written.append)
    stream = Latin()
    logs.configure("info", "text", stream, writer)
    structlog.get_logger().info("serving", team="Zürich €")
    writer.start()
    writer.close(10)
    assert "" == stream.getvalue()
    assert b"[info     ] serving team='Z\xfcrich \\u20ac'\n" == written[0].partition(b" ")[2]
