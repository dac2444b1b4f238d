"""The bytes that the server keeps for peers are bounded, for each peer and in total."""

from __future__ import annotations

import asyncio
import gc
import sys
from functools import partial

import pytest

from ratelimit_service.transports.native import peers
from ratelimit_service.transports.native._http2 import Budget, Session, Turn
from ratelimit_service.transports.native.connection import COST
from ratelimit_service.transports.native.methods import PATHS
from ratelimit_service.transports.options import GrpcOptions
from testing.waiting import until

from .. import h2
from ..serving import CHECK, message
from .hostile import OK, RESOURCE_EXHAUSTED
from .native_server import Begin
from .test_limits import opening

MIB = 1_048_576


# Bytes.


async def test_unfinished_calls_of_many_connections_are_bounded_together(begin: Begin) -> None:
    """The connections that keep most are closed; those that keep nothing are served all the time."""
    limiter = await begin(GrpcOptions(max_bytes=8 * MIB))
    honest = await limiter.connect()
    budget = limiter.server.turn.budget
    most = 0
    hostile = [await limiter.connect() for _ in range(30)]
    for number in range(1, 81, 2):
        for peer in hostile:
            peer.send(opening(number) + h2.frame(h2.DATA, 0, number, b"\0\0\0\xff\xff" + bytes(5_000)))
        honest.send(h2.call(number, CHECK))
        assert OK == (await honest.answer(number)).status
        most = max(most, budget.waiting)
    assert 1 * MIB < most <= budget.most_waiting
    assert limiter.server.peers.closed > 0
    assert await limiter.still_serves()


async def test_a_connection_that_keeps_less_than_its_share_is_not_closed(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This holds even if the connections that kept most have closed since they were chosen."""
    monkeypatch.setattr(peers, "_LONGEST_RELIEF", 1e-9)
    limiter = await begin(GrpcOptions(max_bytes=8 * MIB))
    everyone, budget = limiter.server.peers, limiter.server.turn.budget
    honest, late, *hostile = await limiter.connections(5)
    for connection, size in ((honest, 2_000), *((each, 800_000) for each in hostile)):
        assert connection.session is not None
        connection.session.keep(size)
    assert budget.pressed
    everyone.relieve()
    for connection in hostile:
        connection.abort()
    assert late.session is not None
    late.session.keep(1_800_000)
    for _ in range(20):
        everyone._relieve_more()
    assert (False, True) == (honest._gone, late._gone)


async def test_streams_without_a_body_count_as_well(begin: Begin) -> None:
    """A thousand streams take half a megabyte."""
    limiter = await begin(GrpcOptions(max_bytes=4 * MIB))
    for _ in range(5):
        peer = await limiter.connect()
        peer.send(b"".join(opening(stream) for stream in range(1, 2_001, 2)))
    await until(lambda: limiter.server.peers.closed > 0 and not limiter.server.turn.budget.pressed)
    assert await limiter.still_serves()


async def test_a_connection_keeps_no_more_than_its_own_bytes(begin: Begin) -> None:
    """Further calls are refused. A single message of the largest size always fits."""
    limiter = await begin(GrpcOptions(max_message_bytes=600_000, max_connection_bytes=1))
    peer = await limiter.connect()
    half = b"\0" + (600_000).to_bytes(4, "big") + bytes(60_000)
    for stream in range(1, 61, 2):
        peer.send(opening(stream) + h2.frame(h2.DATA, 0, stream, half[:16_000]))
        for at in range(16_000, 60_000, 16_000):
            peer.send(h2.frame(h2.DATA, 0, stream, half[at : at + 16_000]))
        await asyncio.sleep(0.001)
    refused = await peer.until(h2.HEADERS)
    assert refused.flags & h2.END_STREAM
    assert limiter.server.turn.budget.waiting <= 600_000 + 262_144 + 65_536
    assert await limiter.still_serves()


async def test_calls_in_hand_are_bounded_by_their_bytes(begin: Begin) -> None:
    """While the store is slow, further calls are refused, and are not counted."""
    limiter = await begin(GrpcOptions(max_bytes=2 * MIB), hold=True)
    large = message("x" * 20_000, 1)
    peer = await limiter.connect()
    peer.send(b"".join(long_call(stream, large) for stream in range(1, 11, 2)))
    await until(lambda: bool(limiter.held))
    answer = await peer.answer(9)
    assert RESOURCE_EXHAUSTED == answer.status
    budget = limiter.server.turn.budget
    assert 0 < budget.in_hand <= budget.most_in_hand
    for go_on in limiter.held:
        go_on()
    assert OK == (await peer.answer(1)).status
    await until(lambda: not budget.in_hand)


def long_call(stream: int, body: bytes) -> bytes:
    """Return a call in several frames of data."""
    framed = h2.message(body)
    parts = [framed[at : at + 16_000] for at in range(0, len(framed), 16_000)]
    data = [h2.frame(h2.DATA, 0, stream, part) for part in parts[:-1]]
    return opening(stream) + b"".join(data) + h2.frame(h2.DATA, h2.END_STREAM, stream, parts[-1])


async def test_a_connection_counts_with_its_memory(begin: Begin) -> None:
    """Half of all bytes are for connections. One connection too many is closed at once, and one that closes
    makes room.
    """
    limiter = await begin(GrpcOptions(max_bytes=4 * COST))
    first = await limiter.connect()
    await limiter.connections(1)
    third = await limiter.connect(b"")
    assert [] == await third.rest()
    first.close()
    await until(lambda: len(limiter.server.peers) == 1)
    assert await limiter.still_serves()


async def test_much_memory_that_was_freed_is_returned_to_the_system(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """malloc would keep the memory of every kind of flood."""
    trims: list[int] = []
    monkeypatch.setattr(peers, "malloc_trim", trims.append)
    limiter = await begin()
    budget = limiter.server.turn.budget
    limiter.server.peers._trim(0.0)
    budget.connect(20 * MIB)
    limiter.server.peers._trim(1.0)
    assert [] == trims
    budget.disconnect(20 * MIB)
    limiter.server.peers._trim(2.0)
    limiter.server.peers._trim(3.0)
    assert [0] == trims


async def test_nothing_stays_counted_when_all_have_gone(begin: Begin) -> None:
    """A connection may end at any point of a call."""
    limiter = await begin(hold=True)
    whole = h2.MAGIC + h2.settings() + b"".join(h2.call(stream, CHECK) for stream in (1, 3, 5))
    for end in range(0, len(whole), 11):
        peer = await limiter.connect(whole[:end])
        await asyncio.sleep(0)
        peer.close()
    await until(lambda: not limiter.server.peers)
    for answer in limiter.held:
        answer()
    limiter.held.clear()
    await until(lambda: not limiter.server.in_hand)
    budget = limiter.server.turn.budget
    assert (0, 0, 0) == (budget.connections, budget.waiting, budget.in_hand)


def test_calls_that_are_garbage_together_with_their_server_are_freed_in_any_order() -> None:
    """A Call returns its bytes when it is freed, and the collector may have cleared its Turn before."""
    before = sys.getrefcount(type(None))
    for _ in range(20):
        cycle: list[object] = []
        turn = Turn(partial(list, cycle), Budget(MIB))
        session = Session(turn, cycle, PATHS, 1_000, MIB)
        session.feed(h2.MAGIC + h2.settings() + h2.call(1, b"x" * 200))
        cycle += [turn, session, *turn.take_calls()]
        assert 3 == len(cycle)
        del turn, session, cycle
        gc.collect()
    assert abs(sys.getrefcount(type(None)) - before) < 10
