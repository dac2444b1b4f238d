"""The work and memory that one peer can cause in the native transport, and their bounds. The tests use raw
sockets.
"""

from __future__ import annotations

from itertools import pairwise

import pytest
from grpc_health.v1 import health_pb2

from ratelimit_service.transports.native import health
from ratelimit_service.transports.options import GrpcOptions
from testing.waiting import until

from .. import h2
from ..serving import CHARGE_40, message
from .hostile import OK, RESOURCE_EXHAUSTED, watch
from .native_server import TOTAL, Begin, Limiter, short_turns
from .test_calls import bodies_of
from .test_limits import goaway_error, opening

# A frame whose size is wrong, after the abuse budget of the peer is spent in the same read.

SPENT = opening(1) + h2.frame(h2.DATA, 0, 1) * 1_000


WRONG_SIZES = {
    "ping": h2.frame(h2.PING, 0, 0, b"1"),
    "settings": h2.frame(h2.SETTINGS, 0, 0, b"1"),
    "acknowledged settings": h2.frame(h2.SETTINGS, h2.ACK, 0, bytes(6)),
    "reset": h2.frame(h2.RST_STREAM, 0, 1, b"1"),
    "priority": h2.frame(h2.PRIORITY, 0, 1, b"1"),
    "window update": h2.frame(h2.WINDOW_UPDATE, 0, 1, b"1"),
    "goaway": h2.frame(h2.GOAWAY, 0, 0, b"1"),
    "headers with a priority": h2.frame(h2.HEADERS, h2.END_HEADERS | 0x20, 3, b"1"),
    "padded headers with a priority": h2.frame(h2.HEADERS, h2.END_HEADERS | 0x28, 3, b"\0" * 5),
    "padded data": h2.frame(h2.DATA, 0x8, 1),
    "a large frame": h2.frame(h2.DATA, 0, 1, bytes(16_385)),
}


@pytest.mark.parametrize("wrong", WRONG_SIZES.values(), ids=WRONG_SIZES)
async def test_a_malformed_frame_after_the_end_of_a_session_ends_no_process(
    limiter: Limiter, wrong: bytes
) -> None:
    """nghttp2 asserts that a session that was terminated in a callback reads nothing more, so nothing more is
    passed to it.
    """
    peer = await limiter.connect()
    peer.send(SPENT + wrong + h2.call(3, CHARGE_40))
    assert h2.ENHANCE_YOUR_CALM == goaway_error(await peer.rest())
    assert await limiter.still_serves()
    assert 0 == await limiter.counted()


@pytest.mark.parametrize("wrong", WRONG_SIZES.values(), ids=WRONG_SIZES)
async def test_a_malformed_frame_is_answered_with_frame_size_error(limiter: Limiter, wrong: bytes) -> None:
    """Its head may come in two reads. The calls before it are answered."""
    peer = await limiter.connect()
    peer.send(h2.call(1, CHARGE_40) + wrong[:5])
    assert OK == (await peer.answer(1)).status
    peer.send(wrong[5:])
    assert h2.FRAME_SIZE_ERROR == goaway_error(await peer.rest())


async def test_a_client_that_pushes_is_sent_away(limiter: Limiter) -> None:
    """Only servers may push."""
    peer = await limiter.connect()
    peer.send(h2.frame(h2.PUSH_PROMISE, h2.END_HEADERS, 1, bytes(4)))
    assert h2.PROTOCOL_ERROR == goaway_error(await peer.rest())


MANY_SETTINGS = h2.frame(
    h2.SETTINGS, 0, 0, b"".join(b"\0\4" + (60_000 + n).to_bytes(4, "big") for n in range(32))
)


LOOKS_AT_ALL_STREAMS = {
    "goaway": h2.frame(h2.GOAWAY, 0, 0, bytes(8)),
    "settings": MANY_SETTINGS,
}


@pytest.mark.parametrize("frame", LOOKS_AT_ALL_STREAMS.values(), ids=LOOKS_AT_ALL_STREAMS)
async def test_a_frame_that_touches_every_stream_costs_more(limiter: Limiter, frame: bytes) -> None:
    """With a thousand streams, a hundred such frames are a flood."""
    peer = await limiter.connect()
    peer.send(b"".join(opening(stream) for stream in range(1, 2_001, 2)))
    await until(lambda: sum(end.session.streams for end in limiter.server.peers if end.session) == 1_000)
    peer.send(frame * 100)
    assert h2.ENHANCE_YOUR_CALM == goaway_error(await peer.rest())


async def test_a_peer_that_sends_much_at_once_is_served_a_share_in_each_turn(
    limiter: Limiter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later call of another peer is in the first batch, and no call is lost."""
    greedy, modest = await limiter.connections(2)
    batches = bodies_of(limiter, monkeypatch)
    short_turns(limiter, monkeypatch, share=TOTAL // 2)
    sent = b"".join(h2.call(stream, message("greedy", 1)) for stream in range(1, 1_001, 2))
    greedy.data_received(sent)
    modest.data_received(h2.call(1, message("modest", 1)))
    await until(lambda: sum(map(len, batches)) == 501)
    assert [message("greedy", 1)] * (TOTAL // 2) + [message("modest", 1)] == batches[0]
    assert max(map(len, batches)) == TOTAL // 2 + 1
    assert (500, 1) == (await limiter.counted("greedy"), await limiter.counted("modest"))


async def test_the_busier_the_connections_the_smaller_their_shares(limiter: Limiter) -> None:
    """The length of a turn does not depend on the number of busy peers."""
    shares = []
    for active in (1, 10, 100, 10_000):
        limiter.server._calls._set_shares(0, active, 0.0)
        shares.append(limiter.server.turn.share)
    assert all(share >= larger for share, larger in pairwise(shares))
    assert (128, 1) == (shares[0], shares[-1])


async def test_all_connections_together_have_their_share_of_a_turn(
    limiter: Limiter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Connections that send little are served at once. The rest of the others is served a few at a time."""
    *greedy, modest = await limiter.connections(6)
    batches = bodies_of(limiter, monkeypatch)
    short_turns(limiter, monkeypatch)
    for connection in greedy:
        connection.data_received(
            b"".join(h2.call(stream, message("greedy", 1)) for stream in range(1, 201, 2))
        )
    await until(lambda: bool(batches))
    modest.data_received(h2.call(1, message("modest", 1)))
    done = len(batches)
    await until(lambda: sum(map(len, batches)) == 501)
    assert message("modest", 1) in batches[done]
    assert max(map(len, batches)) <= TOTAL + 5


@pytest.mark.parametrize("how", ["hangs up", "is cut off"])
async def test_postponed_calls_of_a_disconnected_peer_are_charged(limiter: Limiter, how: str) -> None:
    """The calls have arrived, and the caller did not choose the size of a turn."""
    (connection,) = await limiter.connections(1)
    connection.data_received(b"".join(h2.call(stream, CHARGE_40) for stream in range(1, 401, 2)))
    if how == "hangs up":
        connection._transport.abort()
    else:
        connection.abort()
    await until(lambda: sum(calls for _, calls in limiter.answered) == 200)
    assert 200 * 40 == await limiter.counted()


async def test_the_names_of_unknown_services_are_not_kept(limiter: Limiter) -> None:
    """They stay unknown, so there is nothing to remember."""
    peer = await limiter.connect()
    names = [str(n).zfill(15_000) for n in range(3)]
    for stream, name in enumerate([*names, "ratelimit"]):
        peer.send(watch(2 * stream + 1, name))
        answer = await peer.until(h2.DATA, 2 * stream + 1)
        status = health_pb2.HealthCheckResponse.FromString(answer.payload[5:]).status
        assert status == (1 if name == "ratelimit" else 3)
    (watches,) = limiter.server._health._watches.values()
    assert {"unknown", "ratelimit"} == set(watches.values())


async def test_a_connection_has_a_hundred_watches_and_not_more(limiter: Limiter) -> None:
    """Each watch is a stream that stays as long as the connection."""
    peer = await limiter.connect()
    peer.send(b"".join(watch(stream, "") for stream in range(1, 203, 2)))
    assert RESOURCE_EXHAUSTED == (await peer.answer(201)).status
    peer.send(h2.frame(h2.RST_STREAM, 0, 1, bytes(4)) + watch(203, ""))
    await peer.until(h2.DATA, 203)


async def test_many_watches_are_notified_in_steps(limiter: Limiter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Notifications take time, so they use several turns of the event loop. Watches of other services get
    none.
    """
    monkeypatch.setattr(health, "_REPORTS_AT_ONCE", 2)
    peer = await limiter.connect()
    peer.send(b"".join(watch(stream, "ratelimit" if stream < 10 else "") for stream in range(1, 13, 2)))
    for stream in range(1, 13, 2):
        await peer.until(h2.DATA, stream)
    limiter.health.set("store", False)
    data_frames = [await peer.until(h2.DATA) for _ in range(5)]
    assert [1, 3, 5, 7, 9] == [frame.stream for frame in data_frames]
    assert {2} == {
        health_pb2.HealthCheckResponse.FromString(frame.payload[5:]).status for frame in data_frames
    }


async def test_a_peer_that_may_not_ask_is_not_charged_when_it_has_gone(begin: Begin) -> None:
    """The name in its certificate is checked at the handshake, and applies to everything that it has sent."""
    limiter = await begin(GrpcOptions(client_name="envoy.mesh"))
    (connection,) = await limiter.connections(1)
    assert connection.session
    connection.session.forbidden = True
    connection.data_received(h2.call(1, CHARGE_40))
    connection.connection_lost(None)
    await until(lambda: sum(calls for _, calls in limiter.answered) == 1)
    assert 0 == await limiter.counted()


async def test_a_connection_that_has_spent_its_abuse_budget_is_counted_as_closed(limiter: Limiter) -> None:
    """So the operator of the peer can see the reason."""
    peer = await limiter.connect()
    peer.send(SPENT)
    assert h2.ENHANCE_YOUR_CALM == goaway_error(await peer.rest())
    assert {"the peer has spent its abuse budget": 1} == limiter.server.peers._reasons


async def test_a_block_of_headers_that_grows_without_end_ends_the_connection(limiter: Limiter) -> None:
    """After a reset of the stream, the rest of the block would still take milliseconds to decode."""
    peer = await limiter.connect()
    large = h2.remembered([(b"x-large", b"a" * 3_900)])
    peer.send(h2.frame(h2.HEADERS, h2.END_HEADERS, 1, h2.block(h2.CALL) + large + b"\xbe" * 16))
    assert h2.ENHANCE_YOUR_CALM == goaway_error(await peer.rest())
