"""The slots and servers that a Cluster reports, and how the store uses them."""

from __future__ import annotations

import time

import pytest

from ratelimit_service.stores.batch import CallFailed
from ratelimit_service.stores.redis.client import Link, at_address
from ratelimit_service.stores.redis.cluster import ClusterStore
from ratelimit_service.stores.redis.slots import SLOTS

ASKED = ("10.0.0.1", 7000)


def store() -> ClusterStore:
    return ClusterStore(lambda address: at_address(address, Link()), [ASKED])


def owners(store: ClusterStore, *slots: int) -> list[str]:
    return [str(store._topology.owners[slot]) for slot in slots]


def partly(store: ClusterStore) -> bool:
    """Return whether only a part of the Cluster failed."""
    failure = store._on_error(OSError("gone"))
    assert isinstance(failure, CallFailed)
    return failure.partly


async def test_slots_belong_to_the_servers_that_the_cluster_reports() -> None:
    """Each server has a range of slots. A slot without a server is known to have none."""
    cluster = store()
    cluster._topology.use(
        ASKED,
        [
            [0, 99, [b"10.0.0.1", 7000, b"id"], [b"10.0.0.2", 7001, b"id"]],
            [100, 100, [b"10.0.0.3", 7002, b"id", []]],
            [200, SLOTS - 1, [b"10.0.0.1", 7000, b"id"]],
        ],
    )
    expected = ["10.0.0.1:7000", "10.0.0.1:7000", "10.0.0.3:7002", "None", "10.0.0.1:7000"]
    assert expected == owners(cluster, 0, 99, 100, 150, SLOTS - 1)
    assert {"10.0.0.1:7000", "10.0.0.3:7002"} == set(cluster.servers())
    assert {("10.0.0.1", 7000), ("10.0.0.3", 7002), ("10.0.0.2", 7001)} == set(cluster._topology.to_ask())
    await cluster.close()


@pytest.mark.parametrize("host", [b"", b"?", None])
async def test_an_empty_host_means_the_host_of_the_queried_server(host: bytes | None) -> None:
    """Servers that do not know their preferred endpoint report none."""
    cluster = store()
    cluster._topology.use(ASKED, [[0, SLOTS - 1, [host, 7005, b"id"]]])
    assert ["10.0.0.1:7005"] == owners(cluster, 0)
    await cluster.close()


async def test_connections_are_kept_as_long_as_their_server_has_slots() -> None:
    """A server without slots keeps its connection for some time, because it may get slots again; then the
    connection is closed.
    """
    cluster = store()
    cluster._topology.use(ASKED, [[0, SLOTS - 1, [b"10.0.0.1", 7000, b"id"]]])
    before = cluster._topology.owners[0]
    assert before is not None
    before.used = time.monotonic()
    cluster._topology.use(ASKED, [[0, SLOTS - 1, [b"10.0.0.2", 7000, b"id"]]])
    assert before in cluster._topology.servers.values()
    cluster._topology.use(ASKED, [[0, SLOTS - 1, [b"10.0.0.1", 7000, b"id"]]])
    assert before is cluster._topology.owners[0]
    cluster._topology.use(ASKED, [[0, SLOTS - 1, [b"10.0.0.2", 7000, b"id"]]])
    before.used -= 60
    cluster._topology.use(ASKED, [[0, SLOTS - 1, [b"10.0.0.2", 7000, b"id"]]])
    assert before not in cluster._topology.servers.values()
    await cluster.close()


async def test_one_unreachable_server_is_a_partial_failure() -> None:
    """It does not open the circuit; the failure of all servers does."""
    cluster = store()
    cluster._topology.use(
        ASKED, [[0, 99, [b"10.0.0.1", 7000, b"id"]], [100, SLOTS - 1, [b"10.0.0.2", 7000, b"id"]]]
    )
    first, second = cluster._topology.primaries
    first.away = True
    assert partly(cluster)
    assert {None, second} == {cluster.server_of(0), cluster.server_of(SLOTS - 1)}
    second.away = True
    assert not partly(cluster)
    assert {} == cluster.servers()
    await cluster.close()


async def test_a_cluster_without_known_servers_is_unreachable() -> None:
    """Before the first report, no server is known."""
    cluster = store()
    assert not partly(cluster)
    await cluster.close()
