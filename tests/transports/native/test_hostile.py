"""The work and memory that one peer can cause in the native transport, and their bounds. The tests use raw
sockets.
"""

from __future__ import annotations

import ctypes
import gc
import ssl
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import pairwise
from typing import NamedTuple

import pytest
from grpc_health.v1 import health_pb2

from ratelimit_service.core.errors import StartError
from ratelimit_service.listening.certificates import Certificates
from ratelimit_service.transports.native import health, lifetime
from ratelimit_service.transports.native import server as native
from ratelimit_service.transports.native._http2 import Session, library_version
from ratelimit_service.transports.native.connection import Connection
from ratelimit_service.transports.native.tls import Tls
from ratelimit_service.transports.options import GrpcOptions
from testing.certificates import Authority

from .. import h2
from ..serving import CHARGE_40, message, until
from .hostile import OK, RESOURCE_EXHAUSTED, watch
from .native_server import Begin, Limiter
from .test_calls import batches_of
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


# One peer, and the others.


async def test_a_peer_that_sends_much_at_once_is_served_a_share_in_each_turn(
    limiter: Limiter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later call of another peer is in the first batch, and no call is lost."""
    greedy, modest = await limiter.connections(2)
    sizes = batches_of(limiter, monkeypatch)
    sent = b"".join(h2.call(stream, message("greedy", 1)) for stream in range(1, 1_001, 2))
    greedy.data_received(sent)
    modest.data_received(h2.call(1, message("modest", 1)))
    await until(lambda: sum(sizes) == 501)
    assert (True, 1) == (sizes[0] <= 129, await limiter.counted("modest"))
    assert max(sizes) <= 129
    assert 500 == await limiter.counted("greedy")


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
    sizes = batches_of(limiter, monkeypatch)
    calls, turn = limiter.server._calls, limiter.server.turn
    monkeypatch.setattr(calls, "_set_shares", lambda *_: None)
    turn.total = 20
    for connection in greedy:
        connection.data_received(
            b"".join(h2.call(stream, message("greedy", 1)) for stream in range(1, 201, 2))
        )
    await until(lambda: bool(sizes))
    modest.data_received(h2.call(1, message("modest", 1)))
    done = len(sizes)
    await until(lambda: len(sizes) > done)
    assert 1 == await limiter.counted("modest")
    await until(lambda: sum(sizes) == 501)
    assert max(sizes) <= 20 + 5


@pytest.mark.parametrize("how", ["hangs up", "is cut off"])
async def test_what_was_left_for_the_next_turn_is_charged_when_the_peer_has_gone(
    limiter: Limiter, how: str
) -> None:
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


# Who may ask.


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


def kept(*kinds: type) -> int:
    """Return the number of objects of these classes."""
    gc.collect()
    return sum(isinstance(one, kinds) for one in gc.get_objects())


@pytest.fixture(scope="module")
def authority() -> Authority:
    """Return the CA of the server."""
    return Authority()


@pytest.fixture
async def secured(begin: Begin, authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Limiter:
    """Return a server with TLS that accepts three connections."""
    files = authority.server().write(tmp_path_factory.mktemp("tls"))
    options = GrpcOptions("localhost:0", certificates=Certificates("gRPC", *files), max_connections=3)
    return await begin(options)


CLIENT_HELLO = b"\x16\x03\x01\x02\x00\x01\x00"
"""How a ClientHello begins."""


async def test_connections_count_before_they_have_shaken_hands(
    secured: Limiter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some are silent, and some stop in the middle of the handshake."""
    monkeypatch.setattr(lifetime, "SILENT", 1_000.0)
    peers = [await secured.connect(hello) for hello in (b"", CLIENT_HELLO, b"")]
    await until(lambda: len(secured.server.peers) == 3)
    assert [] == await (await secured.connect(b"")).rest()
    peers[0].close()
    await until(lambda: len(secured.server.peers) == 2)


@pytest.mark.parametrize("hello", [b"", CLIENT_HELLO])
async def test_a_handshake_that_ends_early_leaves_nothing(secured: Limiter, hello: bytes) -> None:
    """There is no connection left, and no session of TLS or HTTP/2."""
    before = kept(Connection, Tls, Session)
    for _ in range(50):
        peer = await secured.connect(hello)
        await until(lambda: bool(secured.server.peers))
        peer.reset()
        await until(lambda: not secured.server.peers)
    assert before == kept(Connection, Tls, Session)
    assert 0 == secured.server.turn.budget.connections


async def test_a_call_in_records_of_one_byte_is_a_call(secured: Limiter, authority: Authority) -> None:
    """Each record is decrypted separately, and some of them wait for the next turn."""
    peer = await secured.connect(b"", tls=authority.context())
    for byte in h2.MAGIC + h2.settings() + h2.call(1, CHARGE_40):
        peer.send(bytes((byte,)))
    assert OK == (await peer.answer(1)).status
    assert 40 == await secured.counted()


@pytest.mark.parametrize(
    ("hello", "answer"), [(h2.MAGIC, b""), (b"\x16\x03\x01\x00\x05" + b"\xff" * 5, b"\x15")]
)
async def test_what_is_no_tls_ends_the_connection(secured: Limiter, hello: bytes, answer: bytes) -> None:
    """If the bytes resemble TLS, the server sends an alert."""
    peer = await secured.connect(hello)
    assert answer == (await peer.read())[:1]
    peer.close()
    await until(lambda: not secured.server.peers)


# The library.


def test_an_old_library_is_named_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error at the start prevents a crash of the process later."""
    monkeypatch.setattr(native, "library_version", lambda: (0x012B00, "1.43.0"))
    with pytest.raises(StartError, match=r"libnghttp2 1\.52 or newer, and 1\.43\.0 is loaded"):
        native.check_library()


def test_the_library_that_is_loaded_is_new_enough() -> None:
    """Its number and its text are the same version."""
    number, text = library_version()
    assert number >= 0x013400
    assert [number >> 16, number >> 8 & 0xFF, number & 0xFF] == numbers(text.split("-")[0].split("."))


def numbers(parts: Iterable[str]) -> list[int]:
    return [int(part) for part in parts]


class OwnTls(NamedTuple):
    """A connection whose TLS is done by the test, which chooses the bytes of each read."""

    peer: h2.Peer
    tls: ssl.SSLObject
    outgoing: ssl.MemoryBIO


async def own_tls(secured: Limiter, authority: Authority) -> OwnTls:
    """Return a connection after its handshake."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = authority.context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    peer = await secured.connect(b"")
    while True:
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            peer.send(outgoing.read())
            incoming.write(await peer.read())
        else:
            break
    peer.send(outgoing.read())
    await until(lambda: any(end.session for end in secured.server.peers))
    return OwnTls(peer, tls, outgoing)


async def test_new_keys_count_for_what_they_take(secured: Limiter, authority: Authority) -> None:
    """A KeyUpdate of 27 bytes in TLS 1.3 takes as long as most of a call, and produces no data that would
    count otherwise.
    """
    peer, tls, outgoing = await own_tls(secured, authority)
    tls.write(h2.MAGIC + h2.settings())
    peer.send(outgoing.read())
    (end,) = secured.server.peers
    await until(lambda: end.session is not None and end.session.opened)
    assert end._tls is not None
    update = new_keys(tls, outgoing)
    works = []
    for _ in range(8):
        end._tls.received(b"".join(next(update) for _ in range(500)))
        assert b"" == end._tls.read()
        works.append(end._tls.work)
    assert sum(works) >= (8 * 500 - 600) // 2
    tls.write(h2.call(1, CHARGE_40))
    peer.send(outgoing.read())
    await until(lambda: bool(secured.answered))
    peer.close()


def new_keys(tls: ssl.SSLObject, outgoing: ssl.MemoryBIO) -> Iterator[bytes]:
    """Generate KeyUpdate records without end, which Python's ssl cannot send."""
    library = ctypes.CDLL("libssl.so.3")
    # An _ssl._SSLSocket begins with its head, a reference to the socket, and the SSL.
    session = ctypes.c_void_p.from_address(id(tls._sslobj) + 24)  # type: ignore[attr-defined]
    while True:
        assert 1 == library.SSL_key_update(session, 0) == library.SSL_do_handshake(session)
        yield outgoing.read()


async def test_decrypting_waits_for_a_turn_with_time_for_it(secured: Limiter, authority: Authority) -> None:
    """The calls are decided, although the peer disconnects meanwhile."""
    peer, tls, outgoing = await own_tls(secured, authority)
    (end,) = secured.server.peers
    tls.write(h2.MAGIC + h2.settings() + h2.call(1, CHARGE_40))
    secured.server.turn.spend(secured.server.turn.total)
    end.data_received(outgoing.read())
    assert end.session is not None
    assert (False, True) == (end.session.opened, end._has_rest)
    end._transport.abort()
    await until(lambda: bool(secured.answered) and not secured.server.peers)
    assert 40 == await secured.counted()
    peer.close()


async def test_a_call_before_the_end_of_tls_is_charged(secured: Limiter, authority: Authority) -> None:
    """A caller that disconnects right after its charge sends both in one read."""
    peer, tls, outgoing = await own_tls(secured, authority)
    tls.write(h2.MAGIC + h2.settings() + h2.call(1, CHARGE_40))
    with suppress(ssl.SSLError):
        tls.unwrap()
    peer.send(outgoing.read())
    await until(lambda: bool(secured.answered))
    assert 40 == await secured.counted()
    peer.close()


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
