"""What the end-to-end tests share: one Redis, one service, one Envoy and one provider for all of them.

Tests do not disturb one another, in whatever order they run: each has callers of its own (`unique`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import yaml

from ..servers import RedisServer
from ..service import Service, port_of
from ..waiting import wait_for
from .envoy import Envoy
from .upstream import MockLlm

HERE = Path(__file__).parent


Unique = Callable[[str], str]
"""Makes names that no other test has."""


class Counters:
    """What stands in Redis, as redis-cli shows it."""

    def __init__(self, redis: RedisServer) -> None:
        self.redis = redis

    def of(self, bucket: str) -> dict[str, int]:
        """The counters of a bucket ("domain|key=value"), each by its window ("minute:2026-11-21T01:00Z")."""
        start = f"{{{bucket}}}:"
        keys = self.redis.cli("--scan", "--pattern", f"{start}*").split()
        return {key.removeprefix(start): int(self.redis.cli("GET", key)) for key in keys}

    def wait_until(self, bucket: str, used: int) -> None:
        """Return when so much has been counted: a charge comes after the reply that it is for."""
        try:
            wait_for(f"{used} counted in {bucket}", lambda: sum(self.of(bucket).values()) == used)
        except AssertionError as failure:
            failure.add_note(f"counted in the end: {self.of(bucket)}")
            raise


class Gateway(NamedTuple):
    """Where callers send their completions, and what counts them."""

    client: httpx.Client
    counters: Counters

    def complete(
        self,
        path: str,
        headers: dict[str, str] | dict[bytes, bytes],
        *,
        stream: bool = False,
        include_usage: bool = True,
    ) -> httpx.Response:
        """One chat completion, read to its end."""
        body: dict[str, Any] = {"model": "gpt-x", "messages": [{"role": "user", "content": "Hello?"}]}
        if stream:
            body |= {"stream": True, "stream_options": {"include_usage": include_usage}}
        return self.client.post(path, headers=headers, json=body)


@pytest.fixture(scope="session")
def unique() -> Unique:
    """`unique("dba")` → "dba-1", and at the next call "dba-2"."""
    numbers = itertools.count(1)
    return lambda name: f"{name}-{next(numbers)}"


@pytest.fixture(scope="session")
def configmap() -> dict[str, str]:
    """The files in the data of configmap.yaml."""
    manifest = yaml.safe_load((HERE / "configmap.yaml").read_text())
    data: dict[str, str] = manifest["data"]
    return data


@pytest.fixture(scope="session")
def gateway(
    redis_server: RedisServer, configmap: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """Envoy in front of the provider, asking the service, which has the ConfigMap's file and teams.yaml."""
    mounted = tmp_path_factory.mktemp("configmap")
    for name, text in configmap.items():
        (mounted / name).write_text(text)
    with ExitStack() as cleanup:
        llm = MockLlm()
        cleanup.callback(llm.stop)
        service = Service(
            {
                "CONFIG_PATH": f"{mounted},{HERE / 'teams.yaml'}",
                "REDIS_SOCKET_TYPE": "tcp",
                "REDIS_URL": redis_server.address,
            }
        )
        cleanup.callback(service.kill)
        directory = tmp_path_factory.mktemp("envoy")
        envoy = Envoy(directory, ratelimit_port=port_of(service.grpc), llm_port=llm.port)
        cleanup.callback(envoy.stop)
        client = cleanup.enter_context(httpx.Client(base_url=envoy.url, timeout=30))
        yield Gateway(client, Counters(redis_server))
