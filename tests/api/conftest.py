"""A fixture for the tests of the API."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from .served_api import ServedApi, serve_api


@pytest.fixture
async def api() -> AsyncIterator[ServedApi]:
    """Yield a Desk: the API of one replica, and a client."""
    async with serve_api(ServedApi()) as api:
        yield api
