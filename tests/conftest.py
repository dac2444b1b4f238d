"""Fixtures of all tests: the effort of Hypothesis, and one real Redis."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from testing.redis_fleets import RedisCluster
from testing.redis_servers import RedisServer

# No deadline, and nothing is too slow: how long an example takes depends on what else the machine does. The
# same examples at each run, so that a change is what makes a test fail; `make fuzz` goes and looks for
# others.
settings.register_profile(
    "default",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
settings.register_profile(
    "fuzz", settings.get_profile("default"), derandomize=False, max_examples=50_000, print_blob=True
)
settings.load_profile("default")


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """Return a running redis-server that all tests share. Use `redis_url`, or keys that no other test has."""
    missing = [name for name in ("redis-server", "redis-cli") if shutil.which(name) is None]
    if missing:
        pytest.fail(f"{' and '.join(missing)} not found: `make test` installs what is missing", pytrace=False)
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="session")
def redis_cluster_of_all(redis_server: RedisServer) -> Iterator[RedisCluster]:
    """Return a running Redis Cluster that all tests share. Use `redis_cluster`."""
    with RedisCluster() as cluster:
        yield cluster


@pytest.fixture
def redis_cluster(redis_cluster_of_all: RedisCluster) -> RedisCluster:
    """Return an empty Redis Cluster. A test that breaks it must repair it."""
    redis_cluster_of_all.flush()
    return redis_cluster_of_all


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """Return the URL of an empty Redis."""
    redis_server.cli("FLUSHALL")
    return redis_server.url
