"""A network that drops a connection without notice, as firewalls do: the service detects it before a call
does.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from ratelimit_service.core.errors import StoreError
from ratelimit_service.core.model import Hit
from ratelimit_service.ports import CounterStore, Outcome
from ratelimit_service.stores.layers.per_second import PerSecondStore
from ratelimit_service.stores.redis.client import Address, Link, at_address
from ratelimit_service.stores.redis.cluster import ClusterStore
from ratelimit_service.stores.redis.server import RedisStore
from testing.proxy import Proxy
from testing.redis_fleets import RedisCluster
from testing.redis_servers import RedisServer
from testing.waiting import until

LINK = Link(timeout=0.5, connect_timeout=5.0)


async def charge(store: CounterStore, *keys: str) -> list[object]:
    """Return the counts of one request."""
    answer: asyncio.Future[Sequence[Outcome]] = asyncio.get_running_loop().create_future()
    store.hit([[Hit(key, 1, ttl=60) for key in keys]], answer.set_result)
    (outcome,) = await asyncio.wait_for(answer, 15)
    return [outcome] if isinstance(outcome, StoreError) else list(outcome)


@asynccontextmanager
async def network_before(*ports: int) -> AsyncIterator[dict[int, Proxy]]:
    """Return a proxy in front of each port."""
    proxies = {port: Proxy(port) for port in ports}
    for proxy in proxies.values():
        await proxy.start()
    yield proxies
    for proxy in proxies.values():
        await proxy.stop()


def forget(proxies: dict[int, Proxy]) -> None:
    for proxy in proxies.values():
        proxy.forget_all()


async def test_the_health_check_uses_the_connection_of_calls(
    redis_server: RedisServer, redis_url: str
) -> None:
    """So the check fails, and the next call uses a new connection."""
    async with network_before(redis_server.port) as proxies:
        store = RedisStore(at_address(("127.0.0.1", proxies[redis_server.port].port), LINK))
        await store.start()
        assert [0] == await charge(store, "{a}:hour:x")
        forget(proxies)
        with pytest.raises(StoreError, match="no answer within 500 ms"):
            await store.ping()
        assert [1] == await charge(store, "{a}:hour:x")
        await store.close()


async def test_the_connection_for_windows_of_seconds_is_checked(
    redis_server: RedisServer, redis_url: str
) -> None:
    """REDIS_PERSECOND, in the same way."""
    async with network_before(redis_server.port) as proxies:
        at = ("127.0.0.1", proxies[redis_server.port].port)
        direct = ("127.0.0.1", redis_server.port)
        store = PerSecondStore(RedisStore(at_address(direct, LINK)), RedisStore(at_address(at, LINK)))
        await store.start()
        forget(proxies)
        with pytest.raises(StoreError, match="for windows of seconds: Redis: TimeoutError"):
            await store.ping()
        assert [0, 0] == await charge(store, "{a}:hour:x", "{a}:second:x")
        await store.close()


async def test_every_server_of_a_cluster_is_checked(redis_cluster: RedisCluster) -> None:
    """With the connection of calls. Lost ones are replaced while no call waits."""
    redis_cluster.flush()
    async with network_before(*(server.port for server in redis_cluster.servers)) as proxies:

        def connect(address: Address) -> object:
            return at_address(("127.0.0.1", proxies[address[1]].port), LINK)

        store = ClusterStore(connect, redis_cluster.addresses(), patience=0.5)  # type: ignore[arg-type]
        await store.start()
        keys = [f"{{d|k={number}}}:hour:x" for number in range(30)]
        assert [0] * 30 == await charge(store, *keys)
        for node in store._topology.primaries:
            await node.client.aclose()  # connections of the driver do not matter here
        forget(proxies)
        with pytest.raises(StoreError, match="no primary of the Cluster can be reached"):
            await store.ping()
        await until(lambda: not any(node.away for node in store._topology.primaries))
        assert [1] * 30 == await charge(store, *keys)
        await store.close()
