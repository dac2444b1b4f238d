"""The mirror: callers get the first service's answers unchanged, and the second service is compared with it.

Here the tee and the comparison are in one process; test_processes.py tests the connection of the two.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import hpack
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2

from ratelimit_service.cli.comparison.answers import EXPLAIN
from ratelimit_service.cli.comparison.frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PREFACE,
    RST_STREAM,
)
from ratelimit_service.cli.comparison.mirror import Mirror, _Overlaps
from ratelimit_service.cli.comparison.report import Report
from ratelimit_service.cli.comparison.tee import Target, Tee, listen
from ratelimit_service.proto.ratelimit_pb2 import RateLimitRequest, RateLimitResponse
from ratelimit_service.transports.grpc_method import METHOD, PATH, SERVICE

from .answering import answer, request, status
from .test_call_follower import block, frame, message

Handler = Callable[[bytes, Any], Any]

ASKED = request("a").SerializeToString()


def replying(*lefts: int) -> tuple[Handler, list[bytes]]:
    """Return a service with this remaining budget at each call, and the requests that it gets."""
    asked: list[bytes] = []

    async def handler(data: bytes, context: Any) -> bytes:
        asked.append(data)
        response = answer(status(lefts[min(len(asked), len(lefts)) - 1])).response
        assert response is not None
        return bytes(response.SerializeToString())

    return handler, asked


@asynccontextmanager
async def server(
    handler: Handler, at: int | str = 0, credentials: grpc.ServerCredentials | None = None
) -> AsyncIterator[str]:
    """Serve ShouldRateLimit with `handler` and a SERVING health. Yields the address."""
    serving = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)

    async def health(data: bytes, context: Any) -> bytes:
        return bytes(serving.SerializeToString())

    server = aio.server()
    for service, method, behaviour in (
        (SERVICE, METHOD, handler),
        ("grpc.health.v1.Health", "Check", health),
    ):
        methods = {method: grpc.unary_unary_rpc_method_handler(behaviour)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, methods),))
    address = at if isinstance(at, str) else f"127.0.0.1:{at}"
    if credentials is None:
        port = server.add_insecure_port(address)
    else:
        port = server.add_secure_port(address, credentials)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


class Mirrored:
    """A tee before a service, a comparison with another one, and a caller. `lines` are the reports, and
    `notes` the messages of the tee.
    """

    def __init__(self, tee: Tee, mirror: Mirror, report: Report, lines: list[str], notes: list[str]) -> None:
        self.tee, self.mirror, self.report, self.lines, self.notes = tee, mirror, report, lines, notes
        self.caller: aio.Channel = aio.insecure_channel(tee.address)

    async def ask(self, data: bytes = ASKED, **options: Any) -> bytes:
        answered: bytes = await self.caller.unary_unary(PATH, None, None)(data, **options)
        return answered

    async def finished(self) -> Report:
        """Return the reports after the end."""
        await self.tee.stop(5)
        await self.mirror.finish()
        return self.report


@asynccontextmanager
async def mirrored(theirs: str, ours: str, **options: Any) -> AsyncIterator[Mirrored]:
    lines: list[str] = []
    notes: list[str] = []
    report = Report(put=lines.append)
    async with aio.insecure_channel(ours) as channel:
        mirror = Mirror(channel, report, **{"timeout": 5.0, **options})
        tee = Tee(Target.of(theirs), mirror, notes.append, timeout=5)
        await tee.start(listen("127.0.0.1:0"))
        front = Mirrored(tee, mirror, report, lines, notes)
        try:
            async with front.caller:
                yield front
        finally:
            await tee.stop(0)
            await mirror.finish()


async def test_the_caller_gets_their_bytes_and_both_are_asked_the_same() -> None:
    """This includes bytes that our encoder would not produce. Our service gets a request for an explanation
    too.
    """
    odd = answer(status(7)).response
    assert odd is not None
    reply = b"\xf8\xff\x07\x01" + odd.SerializeToString()

    async def theirs(data: bytes, context: Any) -> bytes:
        return reply

    ours, asked = replying(9)
    async with server(theirs) as one, server(ours) as other, mirrored(one, other) as front:
        assert reply == await front.ask()
        report = await front.finished()
    assert [ASKED + EXPLAIN] == asked
    assert RateLimitRequest.FromString(asked[0]).explain
    assert ({"counted-before": 1}, 0) == (dict(report.explained), report.unexplained)


async def test_differences_are_printed_while_it_runs() -> None:
    """The first gap is counted before. A gap that widens is shown with both answers."""
    theirs, _ = replying(50, 50)
    ours, _ = replying(50, 40)
    async with server(theirs) as one, server(ours) as other, mirrored(one, other) as front:
        await front.ask()
        await front.ask()
        report = await front.finished()
    assert [
        "#2 llm: team=a hits 0\n  statuses[0].limit_remaining: theirs 50, ours 40  [no reason known]"
    ] == front.lines
    assert (2, 1, 1) == (report.requests, report.same, report.unexplained)


async def test_an_error_of_theirs_is_the_callers() -> None:
    """It keeps its status, its text and its metadata."""

    async def theirs(data: bytes, context: Any) -> bytes:
        await context.abort(
            grpc.StatusCode.UNKNOWN, "no rate limit configuration loaded", (("why", "because"),)
        )
        raise AssertionError

    ours, _ = replying(9)
    async with server(theirs) as one, server(ours) as other, mirrored(one, other) as front:
        with pytest.raises(aio.AioRpcError) as failure:
            await front.ask()
        report = await front.finished()
    error: Any = failure.value
    assert (grpc.StatusCode.UNKNOWN, "no rate limit configuration loaded") == (error.code(), error.details())
    assert ("why", "because") in [(key, value) for key, value in error.trailing_metadata()]
    assert 1 == report.unexplained
    assert "grpc_status: theirs UNKNOWN, ours OK" in front.lines[0]


async def test_the_deadline_and_the_metadata_of_the_caller_are_theirs() -> None:
    """Nothing is added or removed."""
    seen: list[Any] = []

    async def theirs(data: bytes, context: Any) -> bytes:
        seen.append((context.time_remaining(), {key for key, _ in context.invocation_metadata()}))
        return b""

    ours, _ = replying(9)
    async with server(theirs) as one, server(ours) as other, mirrored(one, other) as front:
        await front.ask(timeout=30, metadata=(("traceparent", "00-1-2-01"),))
    ((left, keys),) = seen
    assert 25 < left < 31  # gRPC rounds a deadline up
    assert "traceparent" in keys


async def test_a_service_that_is_not_there_costs_callers_nothing() -> None:
    """Our service refuses every connection. The first service answers, and each call is a difference."""
    theirs, _ = replying(9)
    async with server(theirs) as one, mirrored(one, "127.0.0.1:1") as front:
        assert await front.ask()
        report = await front.finished()
    assert 1 == report.unexplained
    assert "grpc_status: theirs OK, ours UNAVAILABLE" in front.lines[0]


async def test_a_service_that_is_too_slow_is_left_out_and_counted() -> None:
    """Calls to it do not accumulate, and callers do not wait for it."""
    theirs, _ = replying(9)
    going_on = asyncio.Event()

    async def ours(data: bytes, context: Any) -> bytes:
        await going_on.wait()
        return await theirs(data, context)  # type: ignore[no-any-return]

    async with server(theirs) as one, server(ours) as other, mirrored(one, other, most_waiting=3) as front:
        for _ in range(10):
            assert await front.ask()
        going_on.set()
        report = await front.finished()
    assert (3, {"ours was too slow": 7}) == (report.requests, dict(report.not_compared))


async def test_a_caller_that_goes_before_an_answer_is_counted_by_ours_as_well() -> None:
    """The first service may have counted it. There is nothing to compare, and the state of the bucket is
    forgotten.
    """
    ours, asked = replying(9)
    called, cancelled = asyncio.Event(), asyncio.Event()

    async def theirs(data: bytes, context: Any) -> bytes:
        called.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    async with server(theirs) as one, server(ours) as other, mirrored(one, other) as front:
        waiting = asyncio.ensure_future(front.ask())
        await called.wait()
        waiting.cancel()
        await cancelled.wait()
        while not asked:
            await asyncio.sleep(0)
        report = await front.finished()
    assert (0, {"the caller went before an answer": 1}) == (report.requests, dict(report.not_compared))


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


async def test_a_reply_of_ours_that_is_none_is_a_difference() -> None:
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


async def test_what_is_no_request_is_theirs_to_judge() -> None:
    """Its bytes are passed on unchanged."""
    theirs, asked = replying(9)
    ours, _ = replying(9)
    async with server(theirs) as one, server(ours) as other, mirrored(one, other) as front:
        await front.ask(b"\xff\xff")
    assert [b"\xff\xff"] == asked


async def test_its_health_is_theirs() -> None:
    """A gateway or kubelet that checks its health gets that of the first service."""
    theirs, _ = replying(9)
    async with server(theirs) as one, mirrored(one, "127.0.0.1:1") as front:
        check = front.caller.unary_unary("/grpc.health.v1.Health/Check", None, None)
        reply = health_pb2.HealthCheckResponse.FromString(await check(b""))
        assert health_pb2.HealthCheckResponse.SERVING == reply.status
    async with mirrored("127.0.0.1:1", "127.0.0.1:1") as front:
        check = front.caller.unary_unary("/grpc.health.v1.Health/Check", None, None)
        with pytest.raises(aio.AioRpcError, match="UNAVAILABLE"):
            await check(b"")


async def test_calls_at_the_same_time_are_no_faults() -> None:
    """Each service counts twenty concurrent charges of a bucket in its own order, so the remaining budgets
    may differ by their sum.
    """

    def counting(order: int) -> Handler:
        waiting: list[asyncio.Future[int]] = []
        first = asyncio.Event()

        async def handler(data: bytes, context: Any) -> bytes:
            # All calls arrive before any is counted; the first service takes them from the front, the other
            # from behind.
            future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            waiting.append(future)
            if len(waiting) == 20:
                for place, each in enumerate(waiting[::order], 1):
                    each.set_result(100 - 5 * place)
                first.set()
            response = answer(status(await future)).response
            assert response is not None
            return response.SerializeToString()

        return handler

    charge = request("a", hits=5).SerializeToString()
    async with (
        server(counting(1)) as one,
        server(counting(-1)) as other,
        mirrored(one, other) as front,
    ):
        await asyncio.gather(*(front.ask(charge) for _ in range(20)))
        report = await front.finished()
    assert (20, 0) == (report.requests, report.unexplained)
    assert {"overlapping"} == report.explained.keys()


def test_hits_of_calls_at_the_same_time_are_added_up() -> None:
    """They are those of calls that overlap, whether they began before or after. Nothing is kept of calls that
    ended.
    """
    overlaps = _Overlaps()
    first = overlaps.begin(request("a", hits=5))
    second = overlaps.begin(request("a", "b", hits=7))
    assert [7] == overlaps.end(first)
    third = overlaps.begin(request("b", hits=-2))
    assert [5, 2] == overlaps.end(second)
    assert [7] == overlaps.end(third)
    alone = overlaps.begin(request("a", hits=1))
    assert [0] == overlaps.end(alone)
    assert ({}, {}) == (dict(overlaps._open), dict(overlaps._begun))


def test_what_asks_for_an_explanation_may_follow_any_request() -> None:
    """It is one field, appended to any message."""
    made = RateLimitRequest.FromString(ASKED + EXPLAIN)
    assert made.explain
    made.explain = False
    assert RateLimitRequest.FromString(ASKED) == made
    assert RateLimitResponse() == RateLimitResponse.FromString(b"")
