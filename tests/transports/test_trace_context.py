"""The trace context of a call in each transport, including bytes that no gRPC client sends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from ratelimit_service.core.errors import RateLimitServiceError
from ratelimit_service.core.trace_context import MOST_TRACEPARENT, MOST_TRACESTATE, TraceHeaders
from ratelimit_service.observe.metrics import Metrics
from ratelimit_service.proto.ratelimit_pb2 import RateLimitResponse
from ratelimit_service.runtime.health import Health
from ratelimit_service.service import RateLimitService
from ratelimit_service.stores.memory import MemoryStore
from ratelimit_service.transports.contract import GrpcServer
from ratelimit_service.transports.native.server import NativeServer
from ratelimit_service.transports.options import GrpcOptions
from testing.waiting import until

from . import h2
from .serving import CHARGE_40, CHECK, NOW, TRANSPORTS, TREE

PARENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
LONG = b"a" * (MOST_TRACEPARENT + 1)

SENT: list[tuple[list[tuple[bytes, bytes]], TraceHeaders | None]] = [
    ([], None),
    ([(b"traceparent", PARENT)], TraceHeaders(PARENT)),
    ([(b"traceparent", PARENT), (b"tracestate", b"a=1")], TraceHeaders(PARENT, b"a=1")),
    (
        [(b"tracestate", b"a=1"), (b"traceparent", PARENT), (b"tracestate", b"b=2")],
        TraceHeaders(PARENT, b"a=1,b=2"),
    ),
    ([(b"tracestate", b"a=1")], TraceHeaders(b"", b"a=1")),
    ([(b"traceparent", LONG)], TraceHeaders()),
    ([(b"traceparent", PARENT), (b"tracestate", b"s" * (MOST_TRACESTATE + 1))], TraceHeaders(PARENT)),
    ([(b"tracestate", b"s" * MOST_TRACESTATE)], TraceHeaders(b"", b"s" * MOST_TRACESTATE)),
    ([(b"tracestate", b"s" * (MOST_TRACESTATE + 1)), (b"tracestate", b"a=1")], TraceHeaders()),
    ([(b"tracestate", b"s" * 300), (b"tracestate", b"t" * 300)], TraceHeaders()),
    ([(b"tracestate", b"s" * 300), (b"tracestate", b"t" * 300), (b"tracestate", b"a=1")], TraceHeaders()),
    (
        [(b"tracestate", b"s" * 300), (b"tracestate", b"t" * 211)],
        TraceHeaders(b"", b"s" * 300 + b"," + b"t" * 211),
    ),
    ([(b"tracestate", b"s" * 300), (b"tracestate", b"t" * 212)], TraceHeaders()),
    ([(b"x-traceparent", PARENT), (b"traceparen", PARENT)], None),
]

HOSTILE = [
    [(b"traceparent", PARENT), (b"traceparent", PARENT)],
    [(b"traceparent", b"\xff\xfe\x80")],
    [(b"traceparent", b"")],
    [(b"tracestate", b"\x80" * 100)] * 20,
    [(b"traceparent", b"%n%s")] * 50,
]


class Noting(RateLimitService):
    """A traced service that records the trace contexts of calls."""

    traced = True

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.seen: list[TraceHeaders | None] = []
        self.refused: list[TraceHeaders | None] = []

    def submit(self, calls: Any) -> None:
        self.seen += [call.trace for call in calls]
        super().submit(calls)

    def refused_early(self, trace: TraceHeaders | None, error: RateLimitServiceError) -> None:
        self.refused.append(trace)


@asynccontextmanager
async def connected(transport: str) -> AsyncIterator[tuple[Noting, GrpcServer, h2.Peer]]:
    """A service, its server, and a connection to it."""
    service = Noting(MemoryStore(lambda: NOW), Metrics(), lambda: NOW)
    service.use(TREE)
    server = TRANSPORTS[transport](service, Health(), GrpcOptions())
    await server.start()
    peer = await h2.Peer.connect(server.address)
    try:
        yield service, server, peer
    finally:
        peer.close()
        await server.stop(0)


async def ask(transport: str, *headers: list[tuple[bytes, bytes]], body: bytes = CHECK) -> Noting:
    """Make a call with each of these headers, one after another, on one connection."""
    async with connected(transport) as (service, _, peer):
        for number, more in enumerate(headers):
            peer.send(h2.call(2 * number + 1, body, [*h2.CALL, *more]))
            await peer.answer(2 * number + 1)
    return service


def without_absence(sent: TraceHeaders | None) -> TraceHeaders:
    return sent if sent is not None else TraceHeaders()


async def test_the_headers_of_a_call_are_its_trace_context(transport: str) -> None:
    """Several traceparents are invalid, several tracestates are joined, and values that are too long are
    ignored.
    """
    service = await ask(transport, *[headers for headers, _ in SENT])
    assert [without_absence(sent) for _, sent in SENT] == list(map(without_absence, service.seen))


async def test_hostile_headers_are_no_trace_context_and_do_no_harm(
    transport: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Each call is answered on the same connection, and the log stays empty."""
    service = await ask(transport, *HOSTILE, [(b"traceparent", PARENT)])
    assert PARENT == without_absence(service.seen[-1]).traceparent
    seen = [without_absence(sent).traceparent for sent in service.seen[:-1]]
    if transport == "grpcio":  # grpc itself passes on one of several traceparents
        assert PARENT == seen.pop(0)
    assert PARENT not in seen
    assert [] == caplog.records


@pytest.mark.parametrize("name", [b"x", b"traceparent", b"tracestate"])
async def test_a_header_with_any_characters_costs_no_call(transport: str, name: bytes) -> None:
    """Each call is answered and counted, and none stays in flight, where it would use up those of its
    peer.
    """
    async with connected(transport) as (_, server, peer):
        left = []
        for stream, body in ((1, CHARGE_40), (3, CHARGE_40), (5, CHECK)):
            peer.send(h2.call(stream, body, [*h2.CALL, (name, "€".encode())]))
            answer = await peer.answer(stream)
            assert 0 == answer.status
            left.append(RateLimitResponse.FromString(bytes(answer.body[5:])).statuses[0].limit_remaining)
        assert [60, 20, 20] == left
        await until(lambda: not server.in_hand)


async def test_a_call_that_cannot_be_read_has_one_as_well(transport: str) -> None:
    """It is refused before it is submitted."""
    service = await ask(transport, [(b"traceparent", PARENT)], body=b"\xff\xff")
    assert ([], [TraceHeaders(PARENT)]) == (service.seen, service.refused)


async def test_the_bytes_of_trace_contexts_are_counted() -> None:
    """They count for incomplete requests and for calls in flight, and the count returns to 0."""
    service = Noting(MemoryStore(lambda: NOW), Metrics(), lambda: NOW)
    service.use(TREE)
    server = NativeServer(service, Health(), GrpcOptions())
    await server.start()
    budget = server.turn.budget
    peer = await h2.Peer.connect(server.address)
    try:
        waiting = []
        context = [(b"traceparent", PARENT), (b"tracestate", b"s" * 500)]
        for number in range(2):
            for stream in range(1 + 1_000 * number, 201 + 1_000 * number, 2):
                headers = [*h2.CALL, *(context if number else ())]
                peer.send(h2.frame(h2.HEADERS, h2.END_HEADERS, stream, h2.block(headers)))
            peer.send(h2.call(201 + 1_000 * number, CHECK))
            await peer.answer(201 + 1_000 * number)
            waiting.append(budget.waiting)
        assert waiting[1] - waiting[0] >= 100 * (512 + 1_024)
        for stream in (*range(1, 201, 2), *range(1_001, 1_201, 2)):
            peer.send(h2.frame(h2.RST_STREAM, 0, stream, (8).to_bytes(4, "big")))
        await until(lambda: budget.waiting < waiting[0])
        peer.send(h2.call(1_301, CHECK, [*h2.CALL, *context]))
        await peer.answer(1_301)
    finally:
        peer.close()
        await server.stop(0)
    service.seen.clear()
    await until(lambda: (budget.waiting, budget.in_hand) == (0, 0))
