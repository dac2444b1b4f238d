"""Two replicas with amendments, in each store; and the report that `make faults` writes into the page
FAULT_REPORT.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from testing.exact_load import REPORT, table
from testing.page_blocks import fill_block
from testing.redis_fleets import RedisSentinels

from .amended_replicas import Fleet, running, stores


@pytest.fixture(scope="module")
def sentinels() -> Iterator[RedisSentinels]:
    with RedisSentinels() as sentinels:
        yield sentinels


@pytest.fixture(params=["memory", "redis", "sentinels", "cluster"])
async def fleet(request: pytest.FixtureRequest) -> AsyncIterator[Fleet]:
    async with running(*stores(request, request.param)) as fleet:
        yield fleet


@pytest.fixture
async def in_redis(request: pytest.FixtureRequest) -> AsyncIterator[Fleet]:
    async with running(*stores(request, "redis")) as fleet:
        yield fleet


def pytest_sessionfinish() -> None:
    """Replace the table of the page with the one of this session."""
    page = os.environ.get("FAULT_REPORT")
    if not page or not REPORT:
        return
    fill_block(Path(page), "faults", table(REPORT))
