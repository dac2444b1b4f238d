"""The desk of the tests of the API."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from .desk import Desk, open_desk


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    """The API of a replica."""
    async with open_desk(Desk()) as desk:
        yield desk
