"""Native servers for tests that need their internals."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from ratelimit_service.transports.native import connection, peers

from .native_server import Begin, Limiter


@pytest.fixture
async def begin() -> AsyncIterator[Begin]:
    """Return a function that starts servers. They stop after the test."""
    begun: list[Limiter] = []

    async def start(*arguments: object, **more: object) -> Limiter:
        limiter = Limiter(*arguments, **more)  # type: ignore[arg-type]
        begun.append(limiter)
        await limiter.server.start()
        return limiter

    yield start
    for limiter in begun:
        for peer in limiter.peers:
            peer.close()
        await limiter.server.stop(0)


@pytest.fixture
async def limiter(begin: Begin) -> Limiter:
    """Return a server with nothing held."""
    return await begin()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disconnect peers that delay the server after a fraction of a second."""
    monkeypatch.setattr(peers, "_CHECK", 0.02)
    monkeypatch.setattr(connection, "PATIENCE", 0.2)
