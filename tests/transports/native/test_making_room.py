"""The connections that are closed for new ones near the limit, and how they are closed."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Iterable

import pytest

from ratelimit_service.transports.native import connection as connection_module
from ratelimit_service.transports.native import lifetime
from ratelimit_service.transports.native.connection import COST, Connection
from ratelimit_service.transports.options import GrpcOptions
from testing.waiting import until

from .. import h2
from ..h2 import Peer
from ..serving import CHECK
from .hostile import OK, watch
from .native_server import Begin, Limiter
from .test_limits import goaway_error
from .test_time import ping


@pytest.fixture(autouse=True)
def only_told_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing become idle because this machine is slow."""
    monkeypatch.setattr(lifetime, "SILENT", 1_000.0)
    monkeypatch.setattr(lifetime, "IDLE", 5_000.0)


@pytest.fixture
def networks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the networks of the next connections, for a test to set. Later connections have the last one."""
    given: list[str] = ["192.0.2.1"]
    monkeypatch.setattr(
        connection_module, "network_of", lambda _: given.pop(0) if len(given) > 1 else given[0]
    )
    return given


async def connections(limiter: Limiter, number: int) -> list[tuple[Peer, Connection]]:
    """Open new connections, and return them with the server's ends."""
    made = []
    for _ in range(number):
        peer = await limiter.connect()
        name = peer._writer.get_extra_info("sockname")
        await ping(peer)
        (end,) = [end for end in limiter.server.peers if _peer_of(end) == name]
        made.append((peer, end))
    return made


def _peer_of(end: Connection) -> object:
    return end._transport.get_extra_info("peername")


def pass_time(limiter: Limiter, seconds: float, ends: Iterable[Connection] = ()) -> None:
    """Check all connections, to record their activity, and then these ones again this many seconds later."""
    peers = limiter.server.peers
    peers._check(iter(list(peers)))
    for end in ends:
        end.life.began_at -= seconds
        end.life.called_at -= seconds
    peers._check(iter(list(peers)))


async def call(peer: Peer, stream: int = 1) -> None:
    peer.send(h2.call(stream, CHECK))
    assert OK == (await peer.answer(stream)).status


async def test_a_connection_that_never_called_makes_room_at_once(begin: Begin) -> None:
    """The one that has been silent for longest is closed with a GOAWAY."""
    limiter = await begin(GrpcOptions(max_connections=3))
    silent = await connections(limiter, 3)
    pass_time(limiter, lifetime.SILENT + 1, [end for _, end in silent[:2]])
    assert await limiter.still_serves()
    assert 0 == goaway_error(await silent[0][0].rest())
    for peer, _ in silent[1:]:
        await ping(peer)
    assert 1 == limiter.server.peers.closed
    await until(lambda: limiter.server.turn.budget.connections == 3 * COST)


@pytest.mark.parametrize("bound", ["number", "bytes"])
async def test_a_new_connection_waits_for_no_silent_one_however_many_there_are(
    begin: Begin, bound: str
) -> None:
    """Each new connection replaces a silent one, and their cost stays within the bounds."""
    most = 20
    limiter = await begin(
        GrpcOptions(max_connections=most)
        if bound == "number"
        else GrpcOptions(max_bytes=2 * most * COST, max_connections=1_000)
    )
    silent = await connections(limiter, most)
    pass_time(limiter, lifetime.SILENT + 1, [end for _, end in silent])
    for _ in range(most):
        assert await limiter.still_serves()
        assert len(limiter.server.peers) <= most
        assert limiter.server.turn.budget.connections <= most * COST


async def test_a_connection_with_calls_is_never_closed_for_others(begin: Begin) -> None:
    """A connection with a call in flight or a recent call stays, and the new one is closed."""
    limiter = await begin(GrpcOptions(max_connections=2), hold=True)
    (waiting, busy), (recent, other) = await connections(limiter, 2)
    waiting.send(h2.call(1, CHECK))
    recent.send(h2.call(1, CHECK))
    await until(lambda: len(limiter.held) >= 1 and limiter.server.in_hand == 2)
    pass_time(limiter, 3 * lifetime.IDLE, [busy, other])
    assert [] == await (await limiter.connect()).rest()
    for answer in limiter.held:
        answer()
    assert [OK, OK] == [(await peer.answer(1)).status for peer in (waiting, recent)]
    pass_time(limiter, lifetime.IDLE - 1, [busy, other])
    assert [] == await (await limiter.connect()).rest()


async def test_an_idle_connection_leaves_before_room_is_short_and_loses_no_call(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway's connection gets a GOAWAY, and the calls that it sends until then are served."""
    limiter = await begin(GrpcOptions(max_connections=16))
    gateway = await connections(limiter, 14)
    for peer, _ in gateway:
        await call(peer)
    pass_time(limiter, lifetime.IDLE + 1, [end for _, end in gateway])
    assert await limiter.still_serves()  # the fifteenth of sixteen
    peer, end = gateway[0]
    assert [True] + [False] * 13 == [each.life.ends for _, each in gateway]
    assert 2**31 - 1 == int.from_bytes((await peer.until(h2.GOAWAY)).payload[:4], "big")
    await call(peer, 3)
    assert 3 == int.from_bytes((await peer.until(h2.GOAWAY)).payload[:4], "big")
    await peer.rest()
    await until(lambda: end not in list(limiter.server.peers))


async def test_connections_that_became_idle_when_all_places_were_taken_make_room(begin: Begin) -> None:
    """The first newcomer is refused, and finds a place a moment later. Each refusal ends no more than a
    sixteenth.
    """
    limiter = await begin(GrpcOptions(max_connections=3))
    idle = await connections(limiter, 3)
    for peer, _ in idle:
        await call(peer)
    pass_time(limiter, lifetime.IDLE + 1, [end for _, end in idle])
    for _ in range(2):
        assert [] == await (await limiter.connect()).rest()
    assert [True, False, False] == [end.life.ends for _, end in idle]
    await idle[0][0].rest()
    await until(lambda: len(limiter.server.peers) - len(limiter.server.peers._ending) == 2)
    assert await limiter.still_serves()


async def test_a_connection_that_was_silent_and_now_calls_keeps_no_idle_one(begin: Begin) -> None:
    """It is no longer one that can be closed at once."""
    limiter = await begin(GrpcOptions(max_connections=16))
    (late, its_end), *idle = await connections(limiter, 14)
    for peer, _ in idle:
        await call(peer)
    pass_time(limiter, lifetime.IDLE + 1, [its_end, *[end for _, end in idle]])
    await call(late)
    assert await limiter.still_serves()  # the fifteenth of sixteen
    assert [True] + [False] * 12 == [end.life.ends for _, end in idle]
    assert not its_end.life.ends


async def test_a_silent_connection_keeps_its_place_until_it_is_needed(begin: Begin) -> None:
    """The one that has been silent for longest stays the first, and no other is asked to leave meanwhile."""
    limiter = await begin(GrpcOptions(max_connections=16))
    opened = await connections(limiter, 14)
    for peer, _ in opened[2:]:
        await call(peer)
    pass_time(limiter, lifetime.IDLE + 1, [end for _, end in opened])
    assert await limiter.still_serves()
    assert await limiter.still_serves()
    assert not any(end.life.ends for _, end in opened)
    assert await limiter.still_serves()
    assert 0 == goaway_error(await opened[0][0].rest())
    await ping(opened[1][0])


async def test_a_watch_does_not_keep_a_place(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    """A watch is not a call, and its client connects again."""
    monkeypatch.setattr(lifetime, "NOTICE", 0.0)
    monkeypatch.setattr(lifetime, "LAST_CALLS", 0.01)
    limiter = await begin(GrpcOptions(max_connections=16))
    watching = await connections(limiter, 14)
    for peer, _ in watching:
        peer.send(watch(1, ""))
        await peer.until(h2.DATA, 1)
    pass_time(limiter, lifetime.IDLE + 1, [end for _, end in watching])
    assert await limiter.still_serves()
    await watching[0][0].rest()
    for peer, _ in watching[1:]:
        await ping(peer)


async def test_the_address_with_the_most_connections_makes_room_first(
    begin: Begin, networks: list[str]
) -> None:
    """The connection of a gateway stays, although it has been idle for longer."""
    networks[:] = ["gateway", "flood"]
    limiter = await begin(GrpcOptions(max_connections=3))
    (gateway, first), *flood = await connections(limiter, 3)
    pass_time(limiter, lifetime.IDLE + 1, [first, *[end for _, end in flood]])
    assert await limiter.still_serves()
    assert 0 == goaway_error(await flood[0][0].rest())
    await ping(gateway)


async def test_the_last_places_are_for_addresses_with_less_than_their_share(
    begin: Begin, networks: list[str]
) -> None:
    """An address that floods gets no more connections, and a new address is served."""
    networks[:] = ["gateway", "flood"]
    limiter = await begin(GrpcOptions(max_connections=32))
    await connections(limiter, 30)
    assert [] == await (await limiter.connect()).rest()
    assert 30 == len(limiter.server.peers)
    networks[:] = ["another"]
    assert await limiter.still_serves()
    assert await limiter.still_serves()
    assert 32 == len(limiter.server.peers)


async def test_one_address_alone_may_have_all_connections(begin: Begin) -> None:
    """All callers may come through one proxy."""
    limiter = await begin(GrpcOptions(max_connections=32))
    await connections(limiter, 32)
    assert [] == await (await limiter.connect()).rest()


async def test_a_handshake_that_does_not_begin_makes_room_as_well(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would otherwise have ten seconds."""
    monkeypatch.setattr(connection_module, "PATIENCE", 3_600.0)
    limiter = await begin(GrpcOptions(max_connections=2))
    for _ in range(2):
        await limiter.connect(hello=b"")
    await until(lambda: len(limiter.server.peers) == 2)
    ends = list(limiter.server.peers)
    pass_time(limiter, lifetime.SILENT - 1, ends)
    assert [] == await (await limiter.connect()).rest()
    pass_time(limiter, 2, ends)
    assert await limiter.still_serves()


async def test_connections_beyond_half_of_all_are_not_looked_for(begin: Begin) -> None:
    """The search starts only near the limit. It finds a group of connections in each tick, or all at once
    here.
    """
    limiter = await begin(GrpcOptions(max_connections=30))
    silent = await connections(limiter, 15)
    pass_time(limiter, lifetime.SILENT + 1, [end for _, end in silent])
    assert limiter.server.peers._crowd.pop() is None
    silent += await connections(limiter, 1)
    pass_time(limiter, 0)
    assert limiter.server.peers._crowd.pop() in [end for _, end in silent[:15]]


async def test_a_reset_at_the_end_of_a_session_affects_no_other_peer(limiter: Limiter) -> None:
    """Shutting down its socket fails, and the other peers of the turn get their answers."""
    (breaking, end), (other, _) = await connections(limiter, 2)

    def write_eof() -> None:
        raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")

    end._transport.write_eof = write_eof  # type: ignore[method-assign]
    breaking.send(h2.frame(h2.PING, 0, 0, bytes(7)))
    other.send(h2.call(1, CHECK))
    assert OK == (await other.answer(1)).status
    await until(lambda: end._gone)
    assert await limiter.still_serves()


async def test_a_connection_that_fails_costs_no_other_its_answers(
    limiter: Limiter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is closed for any error, and the error is logged."""
    (failing, end), (other, _) = await connections(limiter, 2)

    def write(data: bytes) -> None:
        raise RuntimeError("unable to perform operation")

    monkeypatch.setattr(end._transport, "write", write)
    reported: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: reported.append(context["message"]))
    failing.send(h2.call(1, CHECK))
    await until(lambda: end._gone)
    assert ["a connection has failed"] == reported
    for stream in (1, 3):
        await call(other, stream)


async def test_calls_of_a_turn_in_which_a_connection_fails_are_answered(
    limiter: Limiter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The failing connection is the first to be written to."""
    (_, end), (other, its_end) = await connections(limiter, 2)
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    monkeypatch.setattr(end._transport, "write", lambda data: 1 / 0)
    end.data_received(h2.call(1, CHECK))
    its_end.data_received(h2.call(1, CHECK))
    assert OK == (await other.answer(1)).status
