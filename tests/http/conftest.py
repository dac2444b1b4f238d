"""The event loops on which tests of HTTP run, and a port with clients."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

import pytest
import uvloop

from .peers import Port

Factory = Callable[[], asyncio.AbstractEventLoop]


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Factory]:
    """Test on both event loops, each of which has its own transports and TLS."""
    if item.path.name in ("test_connections.py", "test_turns.py"):
        return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
    return {"asyncio": asyncio.new_event_loop}


@pytest.fixture
async def port() -> AsyncIterator[Port]:
    """A port for `peers.App`; modules may have one of another kind."""
    port = Port(None)
    await port.port.start()
    yield port
    await port.stop()
