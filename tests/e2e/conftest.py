"""Fixtures of the end-to-end tests: one Redis, one provider, and a service with an Envoy for each
configuration. Tests run in any order, because each has its own callers (`unique`).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec

import httpx
import pytest
import yaml

from testing.envoy import Envoy
from testing.mock_llm import MockLlm
from testing.redis_servers import RedisServer
from testing.service import REPOSITORY, Service, port_of
from testing.waiting import wait_for

HERE = Path(__file__).parent
EXAMPLES = REPOSITORY / "config" / "examples"

P = ParamSpec("P")

Unique = Callable[[str], str]
"""Makes unique names."""


def this_minute() -> datetime:
    """Return the beginning of the current minute."""
    return datetime.now(UTC).replace(second=0, microsecond=0)


def in_one_minute(test: Callable[P, None]) -> Callable[P, None]:
    """Run a test within one minute of the clock, and so within one window.

    If the minute ends during the test, budgets are new and the test fails; it then runs again, with a whole
    minute.
    """

    @functools.wraps(test)
    def played(*arguments: P.args, **fixtures: P.kwargs) -> None:
        minute = this_minute()
        try:
            test(*arguments, **fixtures)
        except Exception:
            if minute == this_minute():
                raise
        if minute != this_minute():
            test(*arguments, **fixtures)

    return played


class Counters:
    """The counters in Redis, as redis-cli shows them."""

    def __init__(self, redis: RedisServer) -> None:
        self.redis = redis

    def of(self, bucket: str) -> dict[str, int]:
        """Return the counters of a bucket ("domain|key=value"), each by its window
        ("minute:2026-11-21T01:00Z").
        """
        start = f"{{{bucket}}}:"
        keys = [key for key in self._keys(bucket) if ":warned-" not in key]
        return {key.removeprefix(start): int(self.redis.cli("GET", key)) for key in keys}

    def reset(self, bucket: str, window: str = "") -> None:
        """Delete the counters of a bucket, or only that of a window ("hour"), as if the window had just
        begun.
        """
        if keys := self._keys(bucket, window):
            self.redis.cli("DEL", *keys)

    def _keys(self, bucket: str, window: str = "") -> list[str]:
        # In a pattern, `?` matches the `*` in the name of a bucket that several values share.
        return self.redis.cli("--scan", "--pattern", f"{{{bucket.replace('*', '?')}}}:{window}*").split()

    def wait_until(self, bucket: str, used: int) -> None:
        """Wait until this much is counted, because a charge is sent after the reply."""
        try:
            wait_for(f"{used} counted in {bucket}", lambda: sum(self.of(bucket).values()) == used)
        except AssertionError as failure:
            failure.add_note(f"counted in the end: {self.of(bucket)}")
            raise


class Gateway(NamedTuple):
    """The address for callers' completions, and the counters behind it."""

    client: httpx.Client
    counters: Counters
    service: Service

    def complete(
        self,
        path: str,
        headers: dict[str, str] | dict[bytes, bytes],
        *,
        stream: bool = False,
        include_usage: bool = True,
    ) -> httpx.Response:
        """Make one chat completion, and read all of it."""
        body: dict[str, Any] = {"model": "gpt-x", "messages": [{"role": "user", "content": "Hello?"}]}
        if stream:
            body |= {"stream": True, "stream_options": {"include_usage": include_usage}}
        return self.client.post(path, headers=headers, json=body)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A redis-server for these tests alone. Their services run to the end of the session, and are replicas of
    each other.
    """
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="session")
def unique() -> Unique:
    """`unique("dba")` → "dba-1", and at the next call "dba-2"."""
    numbers = itertools.count(1)
    return lambda name: f"{name}-{next(numbers)}"


@pytest.fixture(scope="session")
def configmap() -> dict[str, str]:
    """The files in the data of demo/configmap.yaml."""
    manifest = yaml.safe_load((REPOSITORY / "demo" / "configmap.yaml").read_text())
    data: dict[str, str] = manifest["data"]
    return data


@pytest.fixture(scope="session")
def llm() -> Iterator[MockLlm]:
    """The provider behind every gateway."""
    provider = MockLlm()
    yield provider
    provider.stop()


@contextmanager
def gateway_before(
    service: Service, redis_server: RedisServer, llm: MockLlm, directory: Path, *, retry_after: bool = False
) -> Iterator[Gateway]:
    """An Envoy between callers and the provider; it calls `service`, which counts in `redis_server`."""
    envoy = Envoy(directory, ratelimit_port=port_of(service.grpc), llm_port=llm.port, retry_after=retry_after)
    try:
        with httpx.Client(base_url=envoy.url, timeout=30) as client:
            yield Gateway(client, Counters(redis_server), service)
    finally:
        envoy.stop()


@pytest.fixture(scope="session")
def gateway(
    redis_server: RedisServer,
    llm: MockLlm,
    configmap: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Gateway]:
    """A gateway whose service has the ConfigMap's file and teams.yaml."""
    mounted = tmp_path_factory.mktemp("configmap")
    for name, text in configmap.items():
        (mounted / name).write_text(text)
    environment = {
        "CONFIG_PATH": f"{mounted},{HERE / 'teams.yaml'}",
        "REDIS_SOCKET_TYPE": "tcp",
        "REDIS_URL": redis_server.address,
    }
    with (
        Service(environment) as service,
        gateway_before(service, redis_server, llm, tmp_path_factory.mktemp("envoy")) as gateway,
    ):
        yield gateway


@pytest.fixture(scope="session")
def examples(
    redis_server: RedisServer, llm: MockLlm, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """A gateway whose service has all of config/examples."""
    environment = {
        "CONFIG_PATH": str(EXAMPLES),
        "REDIS_URL": redis_server.url,
        "RESPONSE_DYNAMIC_METADATA": "true",
    }
    with (
        Service(environment) as service,
        gateway_before(service, redis_server, llm, tmp_path_factory.mktemp("examples")) as gateway,
    ):
        yield gateway
