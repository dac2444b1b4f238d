"""An exception in what a server does with all its connections closes one of them, with a report, and no
other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from ratelimit_service.transports.native import peers
from ratelimit_service.transports.native._http2 import Budget
from ratelimit_service.transports.native.connection import COST, Connection
from ratelimit_service.transports.native.lifetime import Lifetime
from ratelimit_service.transports.options import GrpcOptions
from testing.waiting import until

from .native_server import Begin, Limiter

Reported = list[str]


@pytest.fixture
async def reported() -> Reported:
    """Collect what is reported to the handler of the event loop."""
    messages: Reported = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: messages.append(context["message"]))
    return messages


@pytest.fixture
def breaks(monkeypatch: pytest.MonkeyPatch) -> Callable[[Connection, str], list[Connection]]:
    """Let a method of one connection raise, and return the others whose method was called."""

    def apply(broken: Connection, method: str) -> list[Connection]:
        original = getattr(Connection, method)
        called: list[Connection] = []

        def call(self: Connection, *arguments: object) -> object:
            if self is broken:
                raise RuntimeError("unable to perform operation")
            called.append(self)
            return original(self, *arguments)

        monkeypatch.setattr(Connection, method, call)
        return called

    return apply


async def test_handshakes_continue_after_one_that_raises(
    limiter: Limiter, reported: Reported, breaks: Callable[[Connection, str], list[Connection]]
) -> None:
    """Neither the rest of its turn nor later turns wait for ever."""
    ends = await limiter.connections(5)
    called = breaks(ends[0], "shake_hands")
    for end in ends:
        limiter.server.peers.shake_hands(end)
    await until(lambda: called == ends[1:])
    await until(lambda: ends[0] not in limiter.server.peers)
    assert ["a connection has failed"] == reported


async def test_connections_are_checked_after_one_whose_check_raises(
    limiter: Limiter, reported: Reported, breaks: Callable[[Connection, str], list[Connection]]
) -> None:
    """A peer that does not read would otherwise be kept for as long as the failing one is."""
    ends = await limiter.connections(3)
    called = breaks(ends[0], "check")
    limiter.server.peers._check(iter(ends))
    assert ends[1:] == called[:2]
    await until(lambda: ends[0] not in limiter.server.peers)
    assert ["a connection has failed"] == reported


async def test_memory_is_freed_after_a_connection_that_cannot_be_closed_for_it(
    limiter: Limiter,
    reported: Reported,
    breaks: Callable[[Connection, str], list[Connection]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The connections that keep less are closed instead, also at later times."""
    ends = await limiter.connections(2)
    monkeypatch.setattr(peers, "_waiting", lambda end: 2**30 if end is ends[0] else 2**29)
    called = breaks(ends[0], "abort")
    limiter.server.peers._closing = [ends[1], ends[0]]
    monkeypatch.setattr(limiter.server.peers, "_budget", _FullBudget(limiter.server.turn.budget))
    limiter.server.peers._relieve_more()
    await until(lambda: called == [ends[1]])
    await until(lambda: not limiter.server.peers)
    assert ["a connection has failed"] == reported


class _FullBudget:
    """A budget of which too many bytes wait."""

    most_waiting, waiting = 100, 2**40

    def __init__(self, whole: Budget) -> None:
        self.disconnect = whole.disconnect


@pytest.mark.parametrize("method", ["announce", "leave", "abort"])
async def test_a_server_stops_although_a_connection_raises(
    limiter: Limiter,
    reported: Reported,
    breaks: Callable[[Connection, str], list[Connection]],
    method: str,
) -> None:
    """The others are asked to leave all the same."""
    ends = await limiter.connections(3)
    called = breaks(ends[0], method)
    await limiter.server.stop(0.01)
    assert set(ends[1:]) <= set(called)
    assert not limiter.server.peers
    assert ["a connection has failed"] == reported


@pytest.mark.parametrize("method", ["dismiss", "free"])
async def test_a_new_connection_is_accepted_although_the_one_that_makes_room_raises(
    begin: Begin,
    reported: Reported,
    breaks: Callable[[Connection, str], list[Connection]],
    monkeypatch: pytest.MonkeyPatch,
    method: str,
) -> None:
    """The exception is not that of the new one, and the place is free."""
    monkeypatch.setattr(Lifetime, "may_make_room", lambda self, session, now: True)
    limiter = await begin(GrpcOptions(max_connections=1))
    (silent,) = await limiter.connections(1)
    limiter.server.peers._check(iter([silent]))
    breaks(silent, method)
    assert await limiter.still_serves()
    assert silent not in limiter.server.peers
    assert "a connection has failed" in reported


def test_a_closed_connection_frees_the_place_of_an_accepted_one() -> None:
    """Peers alone decides whether there is room: a bound of its own here once counted fewer than it gave
    back.
    """
    budget = Budget(COST)
    budget.connect(COST)
    budget.disconnect(COST)
    assert 0 == budget.connections
