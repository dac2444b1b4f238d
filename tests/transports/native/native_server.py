"""A native server in the process of the test, and raw connections to it."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable

import pytest

from ratelimit_service.observe.metrics import Metrics
from ratelimit_service.runtime.health import Health
from ratelimit_service.service import RateLimitService
from ratelimit_service.stores.memory import MemoryStore
from ratelimit_service.transports.native.connection import Connection
from ratelimit_service.transports.native.server import NativeServer
from ratelimit_service.transports.options import GrpcOptions
from testing.waiting import until

from .. import h2
from ..h2 import Peer
from ..serving import CHECK, NOW, TREE


class Limiter:
    """A server with a memory store. While `hold` is set, answers of the store wait in `held`.

    `answered` has the server's reports about its calls: the method, and the number of calls answered
    together.
    """

    def __init__(self, options: GrpcOptions | None = None, hold: bool = False) -> None:
        self.held: list[Callable[[], None]] = []
        self.answered: list[tuple[str, int]] = []
        self.store = MemoryStore(lambda: NOW, defer=self.held.append if hold else None)
        self.service = RateLimitService(self.store, Metrics(), lambda: NOW)
        self.service.use(TREE)
        self.health = Health()
        self.server = NativeServer(self.service, self.health, options or GrpcOptions(), self._on_answered)
        self.peers: list[Peer] = []

    def _on_answered(self, method: str, seconds: float, calls: int = 1) -> None:
        assert seconds >= 0
        self.answered.append((method, calls))

    async def connect(
        self, hello: bytes = h2.MAGIC + h2.settings(), tls: ssl.SSLContext | None = None
    ) -> Peer:
        peer = await Peer.connect(self.server.address, hello, tls)
        self.peers.append(peer)
        return peer

    async def connections(self, number: int) -> list[Connection]:
        """Return the server's ends of this many new connections, after their handshakes."""
        for _ in range(number):
            await self.connect()
        await until(
            lambda: len([end for end in self.server.peers if end.session and end.session.opened]) == number
        )
        return list(self.server.peers)

    async def counted(self, team: str = "json") -> int:
        return sum(count or 0 for count in (await self.store.read_bucket(f"{{llm|team={team}}}")).values())

    async def still_serves(self) -> bool:
        """Return whether another peer gets an answer."""
        peer = await self.connect()
        peer.send(h2.call(1, CHECK))
        return (await peer.answer(1)).status == 0


Begin = Callable[..., Awaitable[Limiter]]


TOTAL = 20
"""Streams of a short turn."""


def short_turns(limiter: Limiter, monkeypatch: pytest.MonkeyPatch, share: int = 128) -> None:
    """Limit each turn from now on to TOTAL streams, and to `share` of one connection, whatever their time."""
    monkeypatch.setattr(limiter.server._calls, "_set_shares", lambda *_: None)
    turn = limiter.server.turn
    turn.total, turn.share = TOTAL, share
    assert [] == turn.begin()  # the last one may have had handshakes, and shares by their time
