"""A fixture for the tests of the API."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from .served_api import Desk, open_desk


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    """Yield a Desk: the API of one replica, and a client."""
    async with open_desk(Desk()) as desk:
        yield desk
