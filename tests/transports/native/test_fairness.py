"""A peer can take only its share of a turn, of memory, and of the calls in flight."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

import pytest

from ratelimit_service.transports.native import connection as connection_module
from ratelimit_service.transports.native import peers
from ratelimit_service.transports.native.connection import Connection
from ratelimit_service.transports.native.methods import PATHS, REFLECT
from ratelimit_service.transports.options import GrpcOptions
from testing.waiting import until

from .. import h2
from ..serving import CHECK, message
from .hostile import OK, RESOURCE_EXHAUSTED
from .native_server import TOTAL, Begin, Limiter, short_turns
from .test_bytes import MIB, long_call
from .test_calls import batches_of
from .test_limits import opening


def flood(team: str = "greedy") -> bytes:
    """Return a hundred charges of 1."""
    return b"".join(h2.call(stream, message(team, 1)) for stream in range(1, 201, 2))


async def test_the_last_input_of_many_that_hang_up_is_taken_in_shares(
    limiter: Limiter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise, a thousand connections that are reset together would cause one turn with all their calls."""
    greedy = await limiter.connections(10)
    sizes = batches_of(limiter, monkeypatch)
    short_turns(limiter, monkeypatch)
    for connection in greedy:
        connection.data_received(flood())
        connection._transport.abort()
    await until(lambda: sum(sizes) == 1_000)
    assert max(sizes) <= 2 * TOTAL
    assert 1_000 == await limiter.counted("greedy")
    await until(lambda: not limiter.server.peers)
    budget = limiter.server.turn.budget
    await until(lambda: (budget.connections, budget.waiting, budget.in_hand) == (0, 0, 0))


async def test_the_memory_of_many_that_hang_up_is_freed_a_few_at_a_time(limiter: Limiter) -> None:
    """Freeing thousands of connections with a thousand streams each would stop all calls meanwhile."""
    number = 2 * peers._BURIED_AT_ONCE
    ends = await limiter.connections(number)
    for connection in ends:
        connection.connection_lost(None)
    left = [len(limiter.server.peers)]
    while left[-1]:
        await asyncio.sleep(0)
        left.append(len(limiter.server.peers))
    assert [number, number // 2, 0] == sorted(set(left), reverse=True)


async def test_a_peer_that_sends_little_is_served_before_those_that_send_much(
    limiter: Limiter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others send short input without end. Its first call waits with theirs, and each later one for a
    turn.
    """
    *greedy, modest = await limiter.connections(60)
    short_turns(limiter, monkeypatch)
    turn, took = limiter.server.turn, []

    def send() -> None:
        turn.spend(turn.total)
        for connection in greedy:
            if not connection._rest:
                connection.data_received(h2.frame(0x20, 0, 0))

    for stream in range(1, 13, 2):
        send()
        modest.data_received(h2.call(stream, message("modest", 1)))
        began = turn.number
        assert modest._rest
        while modest._rest:
            await asyncio.sleep(0)
            send()
        took.append(turn.number - began)
    assert [1] * 5 == took[1:]
    assert OK == (await limiter.peers[-1].answer(11)).status


async def turns_waited(
    limiter: Limiter, caller: Connection, others: list[Connection], sent: Callable[[int], bytes]
) -> list[int]:
    """Return for how many turns each of six calls waits while all others have sent `sent(stream)`.

    `caller` is the last connection.
    """
    turn, took = limiter.server.turn, []
    for stream in range(1, 13, 2):
        turn.spend(turn.total)
        for connection in others:
            if not connection._rest:
                connection.data_received(sent(stream))
        caller.data_received(h2.call(stream, message("modest", 1)))
        began = turn.number
        assert caller._rest
        while caller._rest:
            await asyncio.sleep(0)
        took.append(turn.number - began)
    assert OK == (await limiter.peers[-1].answer(11)).status
    return took


async def test_a_caller_does_not_wait_for_connections_of_its_address_that_send_no_calls(
    limiter: Limiter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two hundred of them are served in ten turns of this length."""
    *junk, caller = await limiter.connections(200)
    short_turns(limiter, monkeypatch)
    took = await turns_waited(limiter, caller, junk, lambda stream: h2.frame(0x20, 0, 0))
    assert [1] * 5 == took[1:]


async def test_a_caller_does_not_wait_for_the_calls_of_another_address(
    limiter: Limiter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other address may have any number of connections, and its calls come first."""
    networks = itertools.chain(["192.0.2.1"] * 199, ["192.0.2.2"])
    monkeypatch.setattr(connection_module, "network_of", lambda _: next(networks))
    *flooding, caller = await limiter.connections(200)
    short_turns(limiter, monkeypatch)
    took = await turns_waited(limiter, caller, flooding, lambda stream: h2.call(stream, message("greedy", 1)))
    assert [1] * 6 == took


async def test_long_calls_count_with_their_cost(limiter: Limiter, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request of 16 KB may take as long as hundreds of others, so a turn has few of them."""
    ends = await limiter.connections(6)
    sizes = batches_of(limiter, monkeypatch)
    short_turns(limiter, monkeypatch)
    for connection in ends:
        connection.data_received(long_call(1, message("x" * 12_000, 0)))
    await until(lambda: sum(sizes) == len(ends))
    assert max(sizes) <= 2


async def test_a_short_call_does_not_wait_for_the_long_ones_of_its_turn(
    limiter: Limiter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is decided and answered first."""
    long, short = await limiter.connections(2)
    short_turns(limiter, monkeypatch)
    sizes = batches_of(limiter, monkeypatch)
    long.data_received(long_call(1, message("x" * 12_000, 0)))
    limiter.server.turn.leave_half()
    short.data_received(h2.call(1, CHECK))
    limiter.server._calls.process()
    assert [1, 1] == sizes
    assert [OK, OK] == [(await peer.answer(1)).status for peer in limiter.peers]


async def test_a_connection_that_keeps_little_is_served_while_others_keep_all(begin: Begin) -> None:
    """While it waits for a turn, its call is not refused and it is not closed."""
    limiter = await begin(GrpcOptions(max_bytes=4 * MIB))
    honest, *greedy = await limiter.connections(3)
    turn = limiter.server.turn
    limiter.server._calls._relieve = lambda: None
    for connection in greedy:
        assert connection.session is not None
        connection.session.keep(MIB)
    assert turn.budget.full
    turn.spend(turn.total)
    honest.data_received(h2.call(1, CHECK))
    assert honest._rest
    assert OK == (await limiter.peers[0].answer(1)).status


async def test_unread_answers_of_reflection_are_bounded_together(begin: Begin) -> None:
    """Each of thousands of connections may have megabytes of unread answers, so there is a bound on their
    sum.
    """
    limiter = await begin(GrpcOptions(max_bytes=8 * MIB))
    question = h2.message(b"\x22\x2benvoy.service.ratelimit.v3.RateLimitService")
    calling = h2.replaced(path=PATHS[REFLECT])
    deaf = [await limiter.connect(h2.MAGIC + h2.settings(initial_window_size=0)) for _ in range(20)]
    budget, calls = limiter.server.turn.budget, limiter.server._calls
    relieve, kept = calls._relieve, []

    def note_and_relieve() -> None:
        kept.append(budget.waiting)
        relieve()

    calls._relieve = note_and_relieve
    for peer in deaf:
        peer.send(opening(1, calling) + h2.frame(h2.DATA, 0, 1, question * 100))
    await until(lambda: limiter.server.peers.closed > 0)
    for _ in range(200):
        await asyncio.sleep(0)
    assert max(kept) <= budget.most_waiting + MIB
    assert not budget.pressed
    assert await limiter.still_serves()


async def test_a_connection_leaves_bytes_of_calls_in_hand_to_others(begin: Begin) -> None:
    """While the store is slow, a connection may have as many bytes as all the others may still add."""
    limiter = await begin(GrpcOptions(max_bytes=2 * MIB), hold=True)
    greedy, modest = await limiter.connect(), await limiter.connect()
    for stream in range(1, 401, 2):
        greedy.send(h2.call(stream, message("x" * 200, 1)))
    answers = await greedy.answers({399})
    assert RESOURCE_EXHAUSTED == answers[399].status
    budget = limiter.server.turn.budget
    assert 0 < budget.in_hand <= budget.most_in_hand // 2 + 4_096
    before = limiter.server.in_hand
    modest.send(h2.call(1, CHECK))
    await until(lambda: limiter.server.in_hand == before + 1)


async def test_idle_connections_make_room_for_new_ones(begin: Begin) -> None:
    """A connection whose session has ended stays open for a moment, and a closed one is freed later."""
    limiter = await begin(GrpcOptions(max_connections=3))
    ended, closed, _ = await limiter.connections(3)
    (gone,) = [peer for peer in limiter.peers if peer._writer.get_extra_info("sockname") == peer_of(ended)]
    gone.send(h2.frame(h2.PING, 0, 0, bytes(8)) * 2_000)
    await until(lambda: ended._gone)
    assert 3 == len(limiter.server.peers)
    assert await limiter.still_serves()
    closed.connection_lost(None)
    assert 3 == len(limiter.server.peers)
    another = limiter.server._connection()
    assert limiter.server.peers.add(another)
    limiter.server.peers.remove(another)


def peer_of(end: Connection) -> object:
    """Return the address of a connection's peer."""
    return end._transport.get_extra_info("peername")


@pytest.mark.parametrize("hangs_up", [False, True])
async def test_a_connection_whose_postponed_input_fails_stops_no_other(
    limiter: Limiter, monkeypatch: pytest.MonkeyPatch, hangs_up: bool
) -> None:
    """The next one of its network is served, and its own place is free again."""
    failing, other = await limiter.connections(2)
    short_turns(limiter, monkeypatch)
    reported: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["message"]))
    take = Connection._take

    def take_or_fail(connection: Connection, data: bytes) -> None:
        if connection is failing:
            raise RuntimeError("unable to perform operation")
        take(connection, data)

    limiter.server.turn.spend(TOTAL)
    failing.data_received(flood())
    other.data_received(flood("modest"))
    assert failing._rest and other._rest
    monkeypatch.setattr(Connection, "_take", take_or_fail)
    if hangs_up:
        failing.abort()
    async with asyncio.timeout(60):
        await until(lambda: list(limiter.server.peers) == [other])
        while await limiter.counted("modest") < 100:
            await asyncio.sleep(0)
        assert ["a connection has failed"] == reported
        await limiter.server.stop(0)


async def test_a_connection_that_cannot_be_freed_costs_no_other_its_place(
    limiter: Limiter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is removed itself as well, so that the server can stop."""
    ends = await limiter.connections(3)
    reported: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["message"]))
    free = Connection.free
    monkeypatch.setattr(Connection, "free", lambda self: 1 / 0 if self is ends[0] else free(self))
    for end in ends:
        end.connection_lost(None)
    await until(lambda: not limiter.server.peers)
    assert ["a connection has failed"] == reported
