"""A store on the Redis of the tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from ratelimit_service.stores.redis.server import RedisStore
from testing.redis_clients import connect


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[RedisStore]:
    store = RedisStore(connect(redis_url))
    await store.start()
    yield store
    await store.close()
