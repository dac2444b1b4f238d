"""The work and memory that one peer can cause before and within TLS, and their bounds."""

from __future__ import annotations

import ctypes
import gc
import ssl
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

import pytest

from ratelimit_service.listening.certificates import Certificates
from ratelimit_service.transports.native import lifetime
from ratelimit_service.transports.native._http2 import Session
from ratelimit_service.transports.native.connection import Connection
from ratelimit_service.transports.native.tls import Tls
from ratelimit_service.transports.options import GrpcOptions
from testing.certificates import Authority
from testing.waiting import until

from .. import h2
from ..serving import CHARGE_40
from .hostile import OK
from .native_server import Begin, Limiter


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
async def test_invalid_tls_ends_the_connection(secured: Limiter, hello: bytes, answer: bytes) -> None:
    """If the bytes resemble TLS, the server sends an alert."""
    peer = await secured.connect(hello)
    assert answer == (await peer.read())[:1]
    peer.close()
    await until(lambda: not secured.server.peers)


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


async def test_key_updates_count_with_their_cost(secured: Limiter, authority: Authority) -> None:
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
