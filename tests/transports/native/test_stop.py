"""How the native transport ends: what its peers meet in which order."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from ratelimit_service.transports.native import server as native
from testing.waiting import PATIENCE

from .. import h2
from .limiter import Limiter


async def test_a_peer_that_is_asked_to_leave_may_come_back_until_the_port_closes(
    limiter: Limiter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway that knows no other replica waits for no closed port longer than it must."""
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


async def test_a_connection_that_comes_when_the_port_is_closed_is_not_waited_for(limiter: Limiter) -> None:
    """One that the system had accepted already, or that was still shaking hands."""
    connection = limiter.server._connection()
    await limiter.server.stop(0)
    assert not limiter.server.made(connection)
