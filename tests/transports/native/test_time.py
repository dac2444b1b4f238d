"""The time limits of the server for its peers."""

from __future__ import annotations

import asyncio

import pytest

from ratelimit_service.transports.native import lifetime
from ratelimit_service.transports.options import GrpcOptions
from testing.waiting import until

from .. import h2
from ..h2 import Peer
from ..serving import CHECK
from .hostile import DEADLINE_EXCEEDED, OK, watch
from .native_server import Begin, Limiter
from .test_limits import goaway_error, look_at_them, opening

# Time.


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_a_peer_that_takes_no_replies_is_cut_off_however_often_it_pings(limiter: Limiter) -> None:
    """Only read replies count, and an answer to a PING is not a reply."""
    peer = await limiter.connect(h2.MAGIC + h2.settings(initial_window_size=0))
    peer.send(h2.call(1, CHECK))
    begun = now()
    for second in range(1, 10):
        await ping(peer)
        look_at_them(limiter, begun + second)
        assert 1 == len(limiter.server.peers)
    await ping(peer)
    look_at_them(limiter, begun + 12)
    await peer.rest()
    assert 1 == limiter.server.peers.closed


async def test_a_peer_that_takes_a_byte_a_second_is_cut_off(limiter: Limiter) -> None:
    """A reply must be read completely within ten seconds."""
    peer = await limiter.connect(h2.MAGIC + h2.settings(initial_window_size=0))
    peer.send(h2.call(1, CHECK))
    begun = now()
    for second in range(1, 10):
        peer.send(h2.frame(h2.WINDOW_UPDATE, 0, 1, (1).to_bytes(4, "big")))
        assert 1 == len((await peer.until(h2.DATA, 1)).payload)
        look_at_them(limiter, begun + second)
    look_at_them(limiter, begun + 12)
    await peer.rest()
    assert not limiter.server.peers


async def test_a_watch_that_is_not_read_is_cut_off_as_well(limiter: Limiter) -> None:
    """A watch that is read stays, however rarely the health changes."""
    deaf = await limiter.connect(h2.MAGIC + h2.settings(initial_window_size=0))
    deaf.send(watch(1, ""))
    reading = await limiter.connect()
    reading.send(watch(1, ""))
    await reading.until(h2.DATA, 1)
    await deaf.until(h2.HEADERS, 1)
    look_at_them(limiter, now() + 12)
    await deaf.rest()
    assert 1 == len(limiter.server.peers)


async def ping(peer: Peer, after: int = 0) -> None:
    """Wait until the server has read all sent bytes, and has sent this many headers."""
    peer.send(h2.frame(h2.PING, 0, 0, bytes(8)))
    kinds = [(await peer.frame()).kind]
    while h2.PING not in kinds or kinds.count(h2.HEADERS) < after:
        kinds.append((await peer.frame()).kind)
    assert after in (0, kinds.count(h2.HEADERS))


async def test_a_request_that_does_not_arrive_in_time_is_refused(limiter: Limiter) -> None:
    """This includes a request with a steady trickle of bytes. Other requests of the connection continue."""
    peer = await limiter.connect()
    begun = now()
    peer.send(opening(1))
    for second, byte in enumerate(h2.message(CHECK)[:9]):
        peer.send(h2.frame(h2.DATA, 0, 1, bytes((byte,))))
        await ping(peer)
        look_at_them(limiter, begun + second)
    peer.send(opening(3))
    await ping(peer)
    look_at_them(limiter, begun + 12)
    assert DEADLINE_EXCEEDED == (await peer.answer(1)).status
    peer.send(h2.frame(h2.DATA, h2.END_STREAM, 3, h2.message(CHECK)))
    assert OK == (await peer.answer(3)).status


async def test_many_late_requests_are_refused_a_few_at_a_time(limiter: Limiter) -> None:
    """Other calls are not delayed. In the end all are refused, and the connection stays open."""
    peer = await limiter.connect()
    peer.send(b"".join(opening(stream) for stream in range(1, 241, 2)))
    (end,) = limiter.server.peers
    await until(lambda: end.session is not None and end.session.streams == 120)
    for look in range(3):
        look_at_them(limiter, now() + 12 + look)
        await ping(peer, after=50 if look < 2 else 20)
    peer.send(h2.call(241, CHECK))
    await peer.until(h2.DATA, 241)


async def test_how_long_a_request_may_take_is_a_setting(begin: Begin) -> None:
    """Its unit is seconds."""
    limiter = await begin(GrpcOptions(request_timeout=60))
    peer = await limiter.connect()
    begun = now()
    peer.send(opening(1))
    await ping(peer)
    look_at_them(limiter, begun + 58)
    look_at_them(limiter, begun + 62)
    answers = await peer.answer(1)
    assert (DEADLINE_EXCEEDED, 1) == (answers.status, len(limiter.server.peers))


@pytest.mark.parametrize("kind", ["headers", "trailers"])
async def test_headers_that_do_not_end_in_time_end_the_connection(limiter: Limiter, kind: str) -> None:
    """nghttp2 waits for the rest of them, and processes no other frame of the connection meanwhile."""
    peer = await limiter.connect()
    if kind == "trailers":
        peer.send(opening(1) + h2.frame(h2.DATA, 0, 1, h2.message(CHECK)))
        peer.send(h2.frame(h2.HEADERS, h2.END_STREAM, 1, b""))
    else:
        peer.send(h2.frame(h2.HEADERS, 0, 1, h2.block(h2.CALL)))
    await until(lambda: any(end.session and end.session.streams for end in limiter.server.peers))
    look_at_them(limiter, now() + 12)
    assert h2.ENHANCE_YOUR_CALM == goaway_error(await peer.rest())


async def test_a_connection_that_is_used_now_and_then_is_not_idle(limiter: Limiter) -> None:
    """Its calls are so short that none is in flight at a check."""
    peer = await limiter.connect()
    begun = now()
    for hour, stream in enumerate((1, 3, 5, 7)):
        peer.send(h2.call(stream, CHECK))
        assert OK == (await peer.answer(stream)).status
        look_at_them(limiter, begun + hour * 3_000)
    (end,) = limiter.server.peers
    assert begun + 9_000 == end.life.busy_at
    await ping(peer)
    assert await limiter.still_serves()


async def test_an_idle_connection_ends_without_losing_a_call(
    limiter: Limiter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that was sent before the peer has read the first GOAWAY is served."""
    monkeypatch.setattr(lifetime, "NOTICE", 0.0)
    peer = await limiter.connect()
    await ping(peer)
    look_at_them(limiter, now())
    peer.send(h2.call(1, CHECK))
    look_at_them(limiter, now() + 3_700)
    goaways = [await peer.until(h2.GOAWAY)]
    goaways.append(await peer.until(h2.GOAWAY))
    assert [2**31 - 1, 1] == [int.from_bytes(each.payload[:4], "big") for each in goaways]
