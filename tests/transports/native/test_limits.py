"""Strangers that send too much of everything, or nothing, to the native transport.

The tests use raw sockets.
"""

from __future__ import annotations

import asyncio
import itertools

import pytest

from ratelimit_service.proto.ratelimit_pb2 import RateLimitResponse
from ratelimit_service.transports.native._http2 import STREAMS
from ratelimit_service.transports.options import GrpcOptions
from testing.waiting import until

from .. import h2
from ..h2 import Answer, Peer
from ..serving import CHARGE_40, CHECK, message
from .native_server import Begin, Limiter

OK, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, UNIMPLEMENTED, INTERNAL = 0, 4, 8, 12, 13
INVALID_ARGUMENT = 3


def goaway_error(frames: list[h2.Frame]) -> int:
    """Return the error code of the server's GOAWAY."""
    reasons = [int.from_bytes(frame.payload[4:8], "big") for frame in frames if frame.kind == h2.GOAWAY]
    assert reasons, "no GOAWAY"
    return reasons[-1]


def opening(stream: int, headers: tuple[h2.Header, ...] = h2.CALL) -> bytes:
    """Return the beginning of a call."""
    return h2.frame(h2.HEADERS, h2.END_HEADERS, stream, h2.block(headers))


def reset(stream: int) -> bytes:
    """Return an RST_STREAM of the caller."""
    return h2.frame(h2.RST_STREAM, 0, stream, (8).to_bytes(4, "big"))


FLOODS = {
    "calls that are reset before they are whole": b"".join(opening(n) + reset(n) for n in range(1, 4001, 2)),
    "pings": h2.frame(h2.PING, 0, 0, bytes(8)) * 3000,
    "settings": h2.settings() * 3000,
    "priorities": h2.frame(h2.PRIORITY, 0, 1, bytes(5)) * 3000,
    "empty data": opening(1) + h2.frame(h2.DATA, 0, 1) * 3000,
    "streams that break the rules": b"".join(
        opening(n) + h2.frame(h2.WINDOW_UPDATE, 0, n, bytes(4)) for n in range(1, 4001, 2)
    ),
}


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
async def test_a_peer_that_only_floods_is_disconnected(limiter: Limiter, flood: bytes) -> None:
    """Its connection is closed, and others are served."""
    peer = await limiter.connect()
    peer.send(flood)
    frames = await peer.rest()
    assert not [frame for frame in frames if frame.kind == h2.DATA]
    assert await limiter.still_serves()


async def test_a_rapid_reset_gets_enhance_your_calm(limiter: Limiter) -> None:
    """It is the error code of the GOAWAY."""
    peer = await limiter.connect()
    peer.send(FLOODS["calls that are reset before they are whole"])
    assert h2.ENHANCE_YOUR_CALM == goaway_error(await peer.rest())


async def test_a_block_of_headers_without_end_ends_the_connection(limiter: Limiter) -> None:
    """The server does not accept an unlimited number of CONTINUATION frames."""
    peer = await limiter.connect()
    peer.send(h2.frame(h2.HEADERS, 0, 1, h2.block(h2.CALL)))
    peer.send(h2.frame(h2.CONTINUATION, 0, 1, h2.block([(b"x", b"y" * 100)])) * 100)
    await peer.rest()
    assert await limiter.still_serves()


async def test_a_caller_that_no_longer_waits_is_charged_all_the_same(limiter: Limiter) -> None:
    """Each call is complete before it is reset. Any number of such calls is valid."""
    peer = await limiter.connect()
    charge = message("gone", 1)
    peer.send(b"".join(h2.call(number, charge) + reset(number) for number in range(1, 6001, 2)))
    peer.send(h2.call(6001, CHECK))
    assert OK == (await peer.answer(6001)).status
    assert 3000 == await limiter.counted("gone")


async def test_a_call_that_is_reset_during_a_store_call_is_charged(begin: Begin) -> None:
    """Its reply is dropped, and the connection stays open."""
    limiter = await begin(hold=True)
    peer = await limiter.connect()
    peer.send(h2.call(1, CHARGE_40))
    await until(lambda: bool(limiter.held))
    peer.send(reset(1) + h2.call(3, CHECK))
    await until(lambda: len(limiter.held) == 2)
    for answer in limiter.held:
        answer()
    assert OK == (await peer.answer(3)).status
    assert (0, 40) == (limiter.server.in_hand, await limiter.counted())


async def test_a_caller_whose_connection_is_gone_is_charged(begin: Begin) -> None:
    """Its call is no longer in flight."""
    limiter = await begin(hold=True)
    peer = await limiter.connect()
    peer.send(h2.call(1, CHARGE_40))
    await until(lambda: bool(limiter.held))
    peer.close()
    await until(lambda: not limiter.server.peers)
    limiter.held[0]()
    await until(lambda: not limiter.server.in_hand)
    assert 40 == await limiter.counted()


MALFORMED = {
    "no protobuf": (h2.call(3, b"\xff\xff\xff"), INVALID_ARGUMENT),
    "no message": (h2.frame(h2.HEADERS, h2.END_HEADERS | h2.END_STREAM, 3, h2.block(h2.CALL)), UNIMPLEMENTED),
    "half a message": (opening(3) + h2.frame(h2.DATA, h2.END_STREAM, 3, h2.message(CHECK)[:-1]), INTERNAL),
    "half a prefix": (opening(3) + h2.frame(h2.DATA, h2.END_STREAM, 3, b"\0\0"), INTERNAL),
    "two messages": (opening(3) + h2.frame(h2.DATA, h2.END_STREAM, 3, h2.message(CHECK) * 2), UNIMPLEMENTED),
    "a compressed message": (
        opening(3) + h2.frame(h2.DATA, h2.END_STREAM, 3, h2.message(CHECK, compressed=1)),
        UNIMPLEMENTED,
    ),
    "another method": (h2.call(3, CHECK, h2.replaced(path=b"/limits.Limiter/Limit")), UNIMPLEMENTED),
    "four gigabytes": (opening(3) + h2.frame(h2.DATA, 0, 3, b"\0\xff\xff\xff\xff"), RESOURCE_EXHAUSTED),
    "large headers": (
        h2.frame(h2.HEADERS, 0, 3, h2.block([*h2.CALL, (b"x-cookie", b"x" * 9000)]))
        + h2.frame(h2.CONTINUATION, h2.END_HEADERS, 3, h2.block([(b"x-cookie", b"y" * 9000)]))
        + h2.frame(h2.DATA, h2.END_STREAM, 3, h2.message(CHECK)),
        RESOURCE_EXHAUSTED,
    ),
}


@pytest.mark.parametrize(("bad", "status"), MALFORMED.values(), ids=MALFORMED)
async def test_a_malformed_call_of_a_batch_fails_alone(limiter: Limiter, bad: bytes, status: int) -> None:
    """The calls before and after it in the same read are answered, and so are later ones."""
    peer = await limiter.connect()
    peer.send(h2.call(1, CHARGE_40) + bad + h2.call(5, CHARGE_40))
    answers = await answers_of(peer, 1, 3, 5)
    assert [OK, status, OK] == [answer.status for answer in answers]
    assert "identity" == answers[1].headers["grpc-accept-encoding"]
    assert 80 == await limiter.counted()
    peer.send(h2.call(7, CHECK))
    assert (
        20 == RateLimitResponse.FromString(bytes((await peer.answer(7)).body[5:])).statuses[0].limit_remaining
    )


async def answers_of(peer: Peer, *streams: int) -> list[Answer]:
    """Return the answers on several streams, in whatever order they arrive."""
    answers = await peer.answers(set(streams))
    return [answers[stream] for stream in streams]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (h2.replaced(content_type=b"application/json"), "415"),
        (h2.replaced(content_type=b"application/grpcish"), "415"),
        (h2.replaced(method=b"PUT"), "405"),
    ],
)
async def test_a_request_other_than_grpc_gets_an_http_status(
    limiter: Limiter, headers: tuple[h2.Header, ...], status: str
) -> None:
    """The answer has an HTTP status."""
    peer = await limiter.connect()
    peer.send(h2.call(1, CHECK, headers))
    assert {":status": status} == (await peer.answer(1)).headers


@pytest.mark.parametrize("kind", [b"application/grpc+proto", b"application/grpc;charset=utf-8"])
async def test_grpc_may_say_how_it_is_encoded(limiter: Limiter, kind: bytes) -> None:
    """The specification allows it."""
    peer = await limiter.connect()
    peer.send(h2.call(1, CHECK, h2.replaced(content_type=kind)))
    assert OK == (await peer.answer(1)).status


async def test_a_message_in_small_pieces_is_one_message(limiter: Limiter) -> None:
    """Each byte has its own frame and its own read."""
    peer = await limiter.connect()
    peer.send(opening(1))
    for byte in h2.message(CHECK):
        peer.send(h2.frame(h2.DATA, 0, 1, bytes((byte,))))
        await asyncio.sleep(0)
    peer.send(h2.frame(h2.DATA, h2.END_STREAM, 1))
    assert OK == (await peer.answer(1)).status


async def test_messages_that_never_arrive_in_full_are_not_kept_without_end(begin: Begin) -> None:
    """Each is within the limit for one message. Their sum is not, and the last of them are refused."""
    limiter = await begin(GrpcOptions(max_message_bytes=100_000, max_connection_bytes=1_000_000))
    peer = await limiter.connect()
    begun = b"\0" + (100_000).to_bytes(3 + 1, "big") + bytes(15_000)
    for number in range(1, 201, 2):
        peer.send(opening(number) + h2.frame(h2.DATA, 0, number, begun))
    refused = await peer.until(h2.HEADERS)
    assert refused.flags & h2.END_STREAM
    assert await limiter.still_serves()


async def test_more_streams_than_agreed_are_refused_one_by_one(begin: Begin) -> None:
    """REFUSED_STREAM says that nothing was done, so the client may retry."""
    limiter = await begin()
    peer = await limiter.connect()
    peer.send(b"".join(opening(number) for number in range(1, 2 * STREAMS + 3, 2)))
    frame = await peer.until(h2.RST_STREAM)
    assert (2 * STREAMS + 1, 7) == (frame.stream, int.from_bytes(frame.payload, "big"))
    peer.send(h2.frame(h2.DATA, h2.END_STREAM, 1, h2.message(CHECK)))
    assert 0 == (await peer.answer(1)).status


async def test_an_answer_that_comes_after_the_deadline_is_dropped(begin: Begin) -> None:
    """The caller gets DEADLINE_EXCEEDED, and the charge counts."""
    limiter = await begin(hold=True)
    peer = await limiter.connect()
    peer.send(h2.call(1, CHARGE_40, [*h2.CALL, (b"grpc-timeout", b"1n")]))
    await until(lambda: bool(limiter.held))
    await asyncio.sleep(0.002)
    limiter.held[0]()
    assert DEADLINE_EXCEEDED == (await peer.answer(1)).status
    assert 40 == await limiter.counted()


@pytest.mark.usefixtures("impatient")
async def test_a_peer_without_a_flow_control_window_is_disconnected(limiter: Limiter) -> None:
    """Without a window, the answers stay in the server, but only for a limited time."""
    peer = await limiter.connect(h2.MAGIC + h2.settings(initial_window_size=0))
    peer.send(b"".join(h2.call(number, CHECK) for number in range(1, 201, 2)))
    frames = await peer.rest()
    assert not [frame for frame in frames if frame.kind == h2.DATA]
    await until(lambda: not limiter.server.peers)


@pytest.mark.usefixtures("impatient")
async def test_a_peer_that_does_not_read_is_disconnected(limiter: Limiter) -> None:
    """The bytes kept for it are bounded, however much it sends."""
    host, _, port = limiter.server.address.rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port), limit=1)
    writer.write(h2.MAGIC + h2.settings() + h2.frame(h2.WINDOW_UPDATE, 0, 0, (2**30).to_bytes(4, "big")))
    with pytest.raises(ConnectionError):
        await call_for_ever(writer)
    await until(lambda: not limiter.server.peers)
    assert await limiter.still_serves()


async def call_for_ever(writer: asyncio.StreamWriter) -> None:
    async with asyncio.timeout(120):
        for first in itertools.count(1, 200):
            writer.write(b"".join(h2.call(number, CHECK) for number in range(first, first + 200, 2)))
            await writer.drain()


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("hello", [b"", h2.MAGIC, h2.MAGIC[:10]])
async def test_a_peer_that_does_not_begin_http2_is_disconnected(limiter: Limiter, hello: bytes) -> None:
    """Silent connections are not kept."""
    peer = await limiter.connect(hello)
    await peer.rest()
    assert await limiter.still_serves()


@pytest.mark.parametrize(
    "hello", [b"GET / HTTP/1.1\r\nHost: limiter\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03"]
)
async def test_a_peer_of_another_protocol_is_disconnected(limiter: Limiter, hello: bytes) -> None:
    """The peers use HTTP/1.1 and TLS."""
    peer = await limiter.connect(hello)
    assert {h2.SETTINGS, h2.WINDOW_UPDATE} >= {frame.kind for frame in await peer.rest()}
    assert await limiter.still_serves()


async def test_a_connection_without_calls_for_an_hour_is_closed(limiter: Limiter) -> None:
    """It gets a GOAWAY, so that its client opens another connection, and not before the hour has passed."""
    peer = await limiter.connect()
    peer.send(h2.call(1, CHECK))
    await peer.answer(1)
    now = asyncio.get_running_loop().time()
    look_at_them(limiter, now)
    look_at_them(limiter, now + 3_590)
    assert 1 == len(limiter.server.peers)
    look_at_them(limiter, now + 3_610)
    await peer.until(h2.GOAWAY)
    await peer.rest()
    await until(lambda: not limiter.server.peers)
    assert await limiter.still_serves()


async def test_a_peer_that_waits_for_an_answer_is_not_idle(begin: Begin) -> None:
    """The answer may take any time, and the next call uses the same connection."""
    limiter = await begin(hold=True)
    peer = await limiter.connect()
    peer.send(h2.call(1, CHARGE_40))
    await until(lambda: bool(limiter.held))
    look_at_them(limiter, asyncio.get_running_loop().time() + 3_610)
    limiter.held.pop()()
    await peer.answer(1)
    peer.send(h2.call(3, CHARGE_40))
    await until(lambda: bool(limiter.held))
    limiter.held.pop()()
    await peer.answer(3)
    assert 80 == await limiter.counted()


def look_at_them(limiter: Limiter, now: float) -> None:
    """Run the server's check of every second with another time of its clock."""
    for connection in list(limiter.server.peers):
        connection.check(now)


async def test_a_pause_of_this_process_is_not_held_against_its_peers(limiter: Limiter) -> None:
    """After a suspension, the machine first reads the data in its buffers."""
    peer = await limiter.connect(hello=b"")
    await until(lambda: len(limiter.server.peers) == 1)
    (end,) = limiter.server.peers
    end.life.began_at -= 3_600
    peers = limiter.server.peers
    for _ in range(10):
        peers.ignore()
        peers._check_due -= 3_600
        peers.watch()
    assert [end] == list(peers)
    peer.send(h2.MAGIC + h2.settings() + h2.call(1, CHECK))
    assert 0 == (await peer.answer(1)).status


async def test_a_peer_that_does_not_introduce_itself_is_closed_where_nothing_stood_still(
    limiter: Limiter,
) -> None:
    """The process was not suspended here: the checks are on time."""
    await limiter.connect(hello=b"")
    await until(lambda: len(limiter.server.peers) == 1)
    (end,) = limiter.server.peers
    end.life.began_at -= 3_600
    for _ in range(10):
        limiter.server.peers.ignore()
        limiter.server.peers.watch()
    await until(lambda: len(limiter.server.peers) == 0)
