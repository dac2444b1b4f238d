"""A counter that cannot be used is reported; otherwise, no one could find out why the requests of one bucket
fail.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from typing import Any

import pytest
import structlog

from ratelimit_service.core.errors import StoreError
from ratelimit_service.core.model import Limit, Request
from ratelimit_service.stores.redis.server import RedisStore
from testing.redis_servers import RedisServer
from tests.limiter import descriptor
from tests.observe.replica import HOUR, Replica, budget


@pytest.fixture
async def replica(store: RedisStore) -> Replica:
    return Replica(*[budget(key, Limit(1_000, HOUR)) for key in ("team", "user")], store=store)


def keys_logged(logs: Sequence[MutableMapping[str, Any]]) -> list[str]:
    return [event["bucket"] for event in logs if event["event"] == "a counter cannot be used"]


async def charged(replica: Replica, redis_server: RedisServer) -> str:
    """Charge team=dba, and return the key of its counter."""
    await replica.ask("team=dba", 1)
    (key,) = redis_server.cli("KEYS", "{d|team=dba*").split()
    return key


async def test_a_counter_that_is_not_a_number_is_reported_once_a_minute(
    replica: Replica, redis_server: RedisServer
) -> None:
    """With its key and the error of Redis. Other buckets are served, and not reported."""
    key = await charged(replica, redis_server)
    redis_server.cli("SET", key, "text")
    with structlog.testing.capture_logs() as logs:
        for seconds in (0, 1, 60):
            replica.now += seconds
            with pytest.raises(StoreError, match="not an integer"):
                await replica.ask("team=dba", 1)
            await replica.ask("team=app", 1)
    assert [key, key] == keys_logged(logs)
    assert logs[0]["error"].startswith("Redis refused a counter: ERR value is not an integer")


async def test_a_counter_with_another_type_is_reported(replica: Replica, redis_server: RedisServer) -> None:
    """For example, after an LPUSH on its key."""
    key = await charged(replica, redis_server)
    redis_server.cli("DEL", key)
    redis_server.cli("RPUSH", key, "text")
    with structlog.testing.capture_logs() as logs, pytest.raises(StoreError, match="WRONGTYPE"):
        await replica.ask("team=dba", 1)
    assert [key] == keys_logged(logs)


async def test_a_counter_is_reported_once_however_many_requests_use_it(
    replica: Replica, redis_server: RedisServer
) -> None:
    """The request of every user also charges the counter of the team. One line for each user would flood the
    log.
    """
    key = await charged(replica, redis_server)
    redis_server.cli("SET", key, "text")
    with structlog.testing.capture_logs() as logs:
        for number in range(20):
            both = (descriptor(f"user=u{number}", 1), descriptor("team=dba", 1))
            with pytest.raises(StoreError):
                await replica.service.should_rate_limit(Request("d", both))
    assert [key] == keys_logged(logs)
