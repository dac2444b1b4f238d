"""The end of the native transport, as its peers see it."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from ratelimit_service.transports.native import connection
from ratelimit_service.transports.native import server as native
from ratelimit_service.transports.native._http2 import Budget, Session, Turn
from ratelimit_service.transports.native.methods import PATHS, REFLECT, WATCH
from testing.waiting import PATIENCE

from ...fuzz.native import last_of_goaways
from .. import h2
from ..serving import CHECK
from .native_server import Limiter


async def test_a_peer_that_gets_a_goaway_may_reconnect_until_the_port_closes(
    limiter: Limiter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway without another replica can connect until the port closes."""
    monkeypatch.setattr(native, "NOTICE", PATIENCE)
    peer = await limiter.connect()
    await peer.until(h2.SETTINGS)
    stopping = asyncio.create_task(limiter.server.stop(PATIENCE))
    await peer.until(h2.GOAWAY)
    assert await limiter.still_serves()
    stopping.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await stopping
    await limiter.server.stop(0)
    with pytest.raises(ConnectionRefusedError):
        await limiter.connect()


@pytest.mark.parametrize(
    ("path", "body"), [(PATHS[WATCH], b""), (PATHS[REFLECT], b"\x3a\x00")], ids=["watch", "reflection"]
)
async def test_a_stream_that_begins_while_the_server_ends_is_ended(
    limiter: Limiter, path: bytes, body: bytes
) -> None:
    """Clients watch again as soon as a watch ends, and an open watch would delay the stop for the whole
    grace.
    """
    peer = await limiter.connect()
    await peer.until(h2.SETTINGS)
    stopping = asyncio.create_task(limiter.server.stop(PATIENCE))
    await peer.until(h2.GOAWAY)
    peer.send(
        h2.frame(h2.HEADERS, h2.END_HEADERS, 1, h2.block(h2.replaced(path=path)))
        + h2.frame(h2.DATA, h2.END_STREAM if path == PATHS[WATCH] else 0, 1, h2.message(body))
    )
    assert 0 == (await peer.answer(1)).status
    peer.close()
    await asyncio.wait_for(stopping, PATIENCE / 2)


async def test_a_peer_may_write_until_it_has_read_to_the_end(
    limiter: Limiter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A closed socket answers a write with a reset, which discards the answers on their way."""
    monkeypatch.setattr(connection, "_LINGER", PATIENCE)
    peer = await limiter.connect()
    peer.send(h2.call(1, CHECK))
    stopping = asyncio.create_task(limiter.server.stop(PATIENCE))
    frames = await peer.rest()
    assert {1} == {frame.stream for frame in frames if frame.kind == h2.HEADERS}
    peer.send(h2.call(3, CHECK))
    await asyncio.wait({stopping}, timeout=0.05)
    assert not stopping.done()
    peer.close()
    await stopping


async def test_a_connection_that_comes_when_the_port_is_closed_is_not_waited_for(limiter: Limiter) -> None:
    """It was in the backlog, or in its handshake."""
    connection = limiter.server._connection()
    await limiter.server.stop(0)
    assert not limiter.server.made(connection)


def test_no_call_is_accepted_after_the_last_one_in_the_goaway() -> None:
    """A peer sends later calls again to another server, so a charge that was accepted here would count
    twice.
    """
    turn = Turn(lambda: None, Budget(2**24))
    session = Session(turn, None, PATHS, 4_096, 2**20)
    session.feed(h2.MAGIC + h2.settings() + h2.call(1, b""))
    session.goaway()
    session.feed(h2.call(3, b""))
    assert [1] == [call.number for call in turn.take_calls()]
    assert 1 == last_of_goaways(session.drain())
