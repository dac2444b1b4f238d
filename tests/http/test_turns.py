"""The share of the event loop that the connections of a port have."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest

from ratelimit_service.http import connections, turns
from testing.waiting import until

from .peers import LONG, REQUEST, Port

BUSY = {
    "requests": REQUEST * 300,
    "chunks": b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n" + b"1\r\n \r\n" * 2_000,
}


@pytest.mark.parametrize("sent", BUSY.values(), ids=BUSY)
async def test_a_busy_connection_leaves_time_for_others(
    port: Port, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls of gateways use the same event loop, so each event of HTTP takes its own turn once the port has
    used its time.
    """
    monkeypatch.setattr(turns, "SLICE", 0.0)
    events, turn = [0], connections.Connections.turn

    async def counted(self: connections.Connections) -> None:
        await turn(self)
        events[0] += 1

    monkeypatch.setattr(connections.Connections, "turn", counted)
    await port.connect(send=sent)
    await until(lambda: events[0])
    most, stopped = 0, 0
    while stopped < 20:
        before = events[0]
        await asyncio.sleep(0)
        most = max(most, events[0] - before)
        stopped = stopped + 1 if events[0] == before else 0
    assert events[0] >= 300
    assert most <= 2


async def test_waiting_connections_are_served_in_order() -> None:
    """Each turn of the event loop serves one, in their order, and a closed one delays no other."""
    share, came = turns.Turns(), list[int]()

    async def use(number: int) -> None:
        await share.turn()
        came.append(number)
        share._ends = 0.0

    tasks = [asyncio.create_task(use(number)) for number in range(6)]
    await asyncio.sleep(0)
    tasks[2].cancel()
    lengths = []
    for _ in range(12):
        await asyncio.sleep(0)
        lengths.append(len(came))
    assert [0, 1, 3, 4, 5] == came
    assert max(after - before for before, after in pairwise(lengths)) <= 1
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("closed_by", ["its peer", "the stop"])
async def test_a_connection_that_is_closed_while_it_waits_for_its_turn_ends(
    port: Port, monkeypatch: pytest.MonkeyPatch, closed_by: str
) -> None:
    """Its task does not wait for more data, so that a stop does not wait for it either."""
    free, waiting = asyncio.Event(), list[None]()

    async def turn(self: connections.Connections) -> None:
        waiting.append(None)
        await free.wait()

    monkeypatch.setattr(connections.Connections, "turn", turn)
    peer = await port.connect()
    await until(lambda: waiting)
    owner = port.port._connections
    assert owner is not None
    if closed_by == "its peer":
        peer.close()
        await until(lambda: not len(owner))
        free.set()
        await until(lambda: not owner._tasks)
    stopped = asyncio.create_task(port.port.stop(60))
    await until(lambda: not len(owner))
    free.set()
    async with asyncio.timeout(LONG):
        await stopped
