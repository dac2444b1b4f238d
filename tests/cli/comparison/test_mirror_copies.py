"""The comparison gets copies of a connection: what it leaves out, and what it counts as a difference.

A test makes the copies by hand, or has a tee make them of unusual calls.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import hpack
import pytest
from grpc import aio

from ratelimit_service.cli.comparison.answers import EXPLAIN
from ratelimit_service.cli.comparison.frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PREFACE,
    RST_STREAM,
)
from ratelimit_service.cli.comparison.mirror import Mirror
from ratelimit_service.cli.comparison.report import Report

from .answering import answer, status
from .mirrored import ASKED, mirrored, replying, server
from .test_call_follower import block, frame, message


@asynccontextmanager
async def comparing(ours: str) -> AsyncIterator[tuple[Mirror, Report, list[str]]]:
    """A comparison whose copies a test makes by hand. Connection 1 has a call that the first service has not
    answered.
    """
    lines: list[str] = []
    report = Report(put=lines.append)
    async with aio.insecure_channel(ours) as channel:
        mirror = Mirror(channel, report, timeout=5)
        mirror.opened(1)
        mirror.from_caller(1, PREFACE + frame(HEADERS, END_HEADERS, 1, block()))
        mirror.from_caller(1, frame(DATA, END_STREAM, 1, message(ASKED)))
        yield mirror, report, lines
        await mirror.finish()


async def test_a_connection_that_is_no_longer_followed_is_counted_once() -> None:
    """Our service still counts its call in flight, because the first service may have counted it."""
    handler, asked = replying(9)
    async with server(handler) as ours, comparing(ours) as (mirror, report, _):
        mirror.missed(1)
        mirror.missed(1)
        mirror.from_caller(1, b"rest")
        mirror.from_theirs(1, b"rest")
        mirror.closed(1)
        mirror.opened(2)
        mirror.from_caller(2, b"GET / HTTP/1.1\r\n")
        await mirror.finish()
    assert [ASKED + EXPLAIN] == asked
    assert {
        "a connection that is no longer followed: the comparison was too slow to read it": 1,
        "a connection that is no longer followed: it is not HTTP/2": 1,
        "the connection is no longer followed": 1,
    } == dict(report.not_compared)


async def test_a_call_that_theirs_has_not_begun_is_not_counted_by_ours() -> None:
    """Its caller sends it again (REFUSED_STREAM)."""
    handler, asked = replying(9)
    async with server(handler) as ours, comparing(ours) as (mirror, report, _):
        mirror.from_theirs(1, frame(RST_STREAM, 0, 1, (7).to_bytes(4)))
    assert ([], {"theirs has broken the call off": 1}) == (asked, dict(report.not_compared))


async def test_a_call_that_cannot_be_read_is_left_out() -> None:
    """A compressed call is an example. The next call is compared."""
    handler, asked = replying(9)
    async with server(handler) as ours, comparing(ours) as (mirror, report, _):
        mirror.from_caller(1, frame(HEADERS, END_HEADERS, 3, block()))
        mirror.from_caller(1, frame(DATA, END_STREAM, 3, message(ASKED, compressed=1)))
        headers = bytes(hpack.Encoder().encode([(":status", "200"), ("grpc-status", "8")]))
        for number in (3, 1):
            mirror.from_theirs(1, frame(HEADERS, END_HEADERS | END_STREAM, number, headers))
    assert [ASKED + EXPLAIN] == asked
    assert (1, {"the message is compressed": 1}) == (report.requests, dict(report.not_compared))


async def test_an_invalid_reply_of_our_service_is_a_difference() -> None:
    """Any other caller would also get an error."""

    async def handler(data: bytes, context: Any) -> bytes:
        return b"\xff\xff"

    headers = bytes(hpack.Encoder().encode([(":status", "200"), ("grpc-status", "8")]))
    async with server(handler) as ours, comparing(ours) as (mirror, _, lines):
        mirror.from_theirs(1, frame(HEADERS, END_HEADERS | END_STREAM, 1, headers))
    assert "grpc_status: theirs RESOURCE_EXHAUSTED, ours INTERNAL" in lines[0]


async def test_answers_that_cannot_be_compared_are_left_out() -> None:
    """JSON has no NaN, for example. The next answers are compared."""
    loads = iter((float("nan"), 1.0))

    async def theirs(data: bytes, context: Any) -> bytes:
        response = answer(status(50)).response
        assert response is not None
        response.dynamic_metadata.fields["load"].number_value = next(loads)
        return bytes(response.SerializeToString())

    ours, asked = replying(50)
    async with server(theirs) as one, server(ours) as other, mirrored(one, other) as front:
        await front.ask()
        await front.ask()
        report = await front.finished()
    assert 2 == len(asked)
    assert (1, {"the answers cannot be compared": 1}) == (report.requests, dict(report.not_compared))
    assert "dynamic_metadata.load: theirs 1.0, ours nothing" in front.lines[0]


async def test_codes_of_a_newer_definition_are_shown_by_number() -> None:
    """The same holds for units."""

    async def theirs(data: bytes, context: Any) -> bytes:
        response = answer(status(50)).response
        assert response is not None
        response.overall_code = 77  # type: ignore[assignment]
        response.statuses[0].code = 78  # type: ignore[assignment]
        response.statuses[0].current_limit.unit = 79  # type: ignore[assignment]
        return bytes(response.SerializeToString())

    ours, _ = replying(50)
    async with server(theirs) as one, server(ours) as other, mirrored(one, other) as front:
        await front.ask()
        await front.finished()
    (text,) = front.lines
    for part in (
        "overall_code: theirs 77, ours OK",
        "code: theirs 78, ours OK",
        "unit: theirs 79, ours HOUR",
    ):
        assert part in text


async def test_a_failure_in_one_connection_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is counted, and the copies of other connections are still read."""
    handler, asked = replying(9)

    def fails(*_: object) -> None:
        raise ValueError("bytes of a stranger")

    async with server(handler) as ours, comparing(ours) as (mirror, report, _):
        with monkeypatch.context() as patch:
            patch.setattr("ratelimit_service.cli.comparison.call_follower._answer", fails)
            headers = bytes(hpack.Encoder().encode([(":status", "200"), ("grpc-status", "8")]))
            mirror.from_theirs(1, frame(HEADERS, END_HEADERS | END_STREAM, 1, headers))
        for take in (mirror.from_caller, mirror.from_theirs):
            take(404, b"of a connection that is not known")
        mirror.missed(404)
        mirror.closed(404)
        mirror.opened(2)
        mirror.from_caller(2, PREFACE + frame(HEADERS, END_HEADERS, 1, block()))
        mirror.from_caller(2, frame(DATA, END_STREAM, 1, message(ASKED)))
        mirror.from_theirs(2, frame(HEADERS, END_HEADERS | END_STREAM, 1, headers))
    assert 1 == report.requests
    assert 1 == report.not_compared["a connection that is no longer followed: reading it failed (ValueError)"]
    assert [ASKED + EXPLAIN] * 2 == asked
