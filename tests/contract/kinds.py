"""The kinds of stores: two connections to each, as two replicas would have."""

from __future__ import annotations

import pytest

from ratelimit_service.ports import CounterStore
from ratelimit_service.stores.layers.group_commit import CoalescingStore
from ratelimit_service.stores.layers.per_second import PerSecondStore
from ratelimit_service.stores.layers.settling import SettlingStore
from ratelimit_service.stores.memory import MemoryStore
from ratelimit_service.stores.redis.client import Link, at_address, through_sentinels
from ratelimit_service.stores.redis.cluster import ClusterStore
from ratelimit_service.stores.redis.server import RedisStore
from testing.redis_clients import connect
from testing.redis_fleets import RedisCluster, RedisSentinels
from testing.redis_servers import RedisServer

from .conftest import NOW


def stores_of(request: pytest.FixtureRequest, kind: str) -> list[CounterStore]:
    """Return two stores of one kind, over an empty Redis."""
    if kind == "cluster":
        cluster: RedisCluster = request.getfixturevalue("redis_cluster")
        return [
            ClusterStore(
                lambda address: at_address(address, Link(timeout=5.0)), cluster.addresses(), patience=5.0
            )
            for _ in range(2)
        ]
    if kind == "sentinels":
        sentinels: RedisSentinels = request.getfixturevalue("redis_sentinels")
        sentinels.primary.cli("FLUSHALL")
        return [
            RedisStore(through_sentinels("mymaster", sentinels.addresses(), Link(timeout=5.0)))
            for _ in range(2)
        ]
    server: RedisServer = request.getfixturevalue("redis_server")
    server.cli("FLUSHALL")
    if kind == "redis, with a prefix":
        return [RedisStore(connect(server.url), prefix="{rl}:") for _ in range(2)]
    stores = [RedisStore(connect(server.url)) for _ in range(2)]
    if kind == "redis, as it is served":
        return [
            PerSecondStore(CoalescingStore(SettlingStore(store)), MemoryStore(lambda: NOW))
            for store in stores
        ]
    return list(stores)


KINDS = [
    "memory",
    "memory, from a snapshot",
    "redis",
    "redis, as it is served",
    "redis, with a prefix",
    "sentinels",
    "cluster",
]
"""The kinds of stores that `stores_of` can create."""
