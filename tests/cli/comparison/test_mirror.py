"""The mirror: callers get the first service's answers unchanged, and the second service is compared with it.

Here the tee and the comparison are in one process; test_processes.py tests the connection of the two.
"""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2

from ratelimit_service.cli.comparison.answers import EXPLAIN
from ratelimit_service.cli.comparison.mirror import _Overlaps
from ratelimit_service.proto.ratelimit_pb2 import RateLimitRequest, RateLimitResponse
from testing.waiting import until

from .answering import answer, request, status
from .mirrored import ASKED, Handler, mirrored, replying, server


async def test_the_caller_gets_unchanged_bytes_and_both_services_get_the_request() -> None:
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
        await until(lambda: asked)
        report = await front.finished()
    assert (0, {"the caller went before an answer": 1}) == (report.requests, dict(report.not_compared))


async def test_an_invalid_request_is_passed_on_unchanged() -> None:
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


def test_the_field_for_an_explanation_can_be_appended_to_any_request() -> None:
    """It is one field, appended to any message."""
    made = RateLimitRequest.FromString(ASKED + EXPLAIN)
    assert made.explain
    made.explain = False
    assert RateLimitRequest.FromString(ASKED) == made
    assert RateLimitResponse() == RateLimitResponse.FromString(b"")
