"""A served transport, and messages for it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from ratelimit_service.transports.options import GrpcOptions

from .serving import TRANSPORTS, Served, Start, serve


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
async def start(transport: str) -> AsyncIterator[Start]:
    """Return a function that starts servers. They stop after the test."""
    started: list[Served] = []

    async def begin(options: GrpcOptions | None = None, **more: Any) -> Served:
        served = await serve(options or GrpcOptions(), transport, **more)
        started.append(served)
        return served

    yield begin
    for served in started:
        await served.channel.close(None)
        await served.server.stop(0)


@pytest.fixture
async def served(start: Start) -> Served:
    return await start()
