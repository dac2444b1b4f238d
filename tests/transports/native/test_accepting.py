"""Connections are accepted a few at a time, and later if the system has no room for them."""

from __future__ import annotations

import asyncio
import errno
import socket
from itertools import pairwise
from typing import cast

import pytest
from structlog.testing import capture_logs

from ratelimit_service.transports.native import accepting
from ratelimit_service.transports.native.accepting import Accepting
from testing.waiting import until

from .native_server import Limiter


def connect(address: str, number: int) -> list[socket.socket]:
    """Open this many connections, which wait in the backlog of the listening socket."""
    host, _, port = address.rpartition(":")
    return [socket.create_connection((host, int(port)), timeout=20) for _ in range(number)]


async def test_connections_are_accepted_a_few_in_a_turn(limiter: Limiter) -> None:
    """A peer that connects as fast as it can delays no other."""
    opened = connect(limiter.server.address, 50)
    known = [0]
    while known[-1] < len(opened):
        await asyncio.sleep(0)
        known.append(len(limiter.server.peers))
    steps = [after - before for before, after in pairwise(known)]
    assert 0 < max(steps) <= accepting._ACCEPTED_AT_ONCE
    for connection in opened:
        connection.close()


class Crowded:
    """A listening socket whose system has no room for the first connection."""

    def __init__(self, listening: socket.socket) -> None:
        self._listening = listening
        self.tries = 0

    def accept(self) -> tuple[socket.socket, object]:
        self.tries += 1
        if self.tries == 1:
            raise OSError(errno.EMFILE, "Too many open files")
        return self._listening.accept()

    def __getattr__(self, name: str) -> object:
        return getattr(self._listening, name)


async def test_a_shortage_of_descriptors_is_waited_for(
    limiter: Limiter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line is logged, and the event loop does not spin meanwhile."""
    monkeypatch.setattr(accepting, "_PAUSE", 0.05)
    listening = socket.create_server(("127.0.0.1", 0))
    crowded = Crowded(listening)
    waiting = Accepting(cast(socket.socket, crowded), limiter.server._connection)
    with capture_logs() as logs:
        waiting.start(10)
        opened = connect(f"127.0.0.1:{listening.getsockname()[1]}", 1)
        await until(lambda: crowded.tries == 1)
        for _ in range(10):
            await asyncio.sleep(0)
        assert 1 == crowded.tries
        await until(lambda: len(limiter.server.peers) == 1)
    assert ["a connection cannot be accepted"] == [line["event"] for line in logs]
    await waiting.stop()
    await waiting.stop()
    opened[0].close()
