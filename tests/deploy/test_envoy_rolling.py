"""A rolling restart behind the Envoy of deploy/envoy, which has static addresses: callers do not notice.

Only the health check of the file tells Envoy that a replica stops, so a replica has to drain for longer than
that takes (SHUTDOWN_DRAIN). Here, the interval of the check is shorter, to shorten the test. Another test
shows that the files match.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from ratelimit_service.settings.table import load_settings
from ratelimit_service.settings.types import read_duration
from testing.envoy import EnvoyProcess
from testing.redis_servers import RedisServer, free_port
from testing.service import Service
from testing.waiting import PATIENCE

from ..e2e.conftest import Counters
from .envoy_file import FILE, RULES, bootstrap, bucket
from .kustomize import objects_of
from .provider import COMPLETIONS, PeculiarLlm

pytestmark = pytest.mark.e2e

CALLERS = 8
TOKENS = 3
BETWEEN_TWO = 100
"""Answers between two events, so that each event happens under load."""

OFTEN = "0.25s"
DRAIN = "2s"
"""Several intervals of OFTEN, for slow machines."""


def health_check(text: dict[str, Any]) -> dict[str, Any]:
    """Return the health check of the service in Envoy's file."""
    (cluster,) = (each for each in text["static_resources"]["clusters"] if each["name"] == "ratelimit")
    (check,) = cluster["health_checks"]
    assert isinstance(check, dict)
    return check


@pytest.mark.parametrize("name", ["base", "redis", "managed-redis"])
def test_a_replica_drains_for_longer_than_the_health_check_takes_to_notice(name: str) -> None:
    """One NOT_SERVING is enough for Envoy, and its next check is at most an interval away."""
    check = health_check(yaml.safe_load(FILE.read_text()))
    assert check["interval"] == check["no_traffic_interval"]
    noticed = read_duration(check["interval"]) + read_duration(check["timeout"])
    assert noticed < load_settings(objects_of(name).environment).shutdown_drain


class Callers:
    """Callers that request completions without a pause. `answers` has the number of answers by status."""

    def __init__(self, client: httpx.AsyncClient, team: str) -> None:
        self._client = client
        self._headers = {"x-team-id": team, "x-mock-tokens": str(TOKENS)}
        self._ended = False
        self._answered = asyncio.Condition()
        self.answers = Counter[int]()

    async def call(self) -> None:
        """Call until the end."""
        while not self._ended:
            answer = await self._client.post(COMPLETIONS, headers=self._headers, json={"messages": []})
            async with self._answered:
                self.answers[answer.status_code] += 1
                self._answered.notify_all()

    async def more(self) -> None:
        """Wait until some more requests are answered."""
        least = self.answers.total() + BETWEEN_TWO
        async with self._answered:
            await self._answered.wait_for(lambda: self.answers.total() >= least)

    def end(self) -> None:
        """Let each caller end after its current answer."""
        self._ended = True


async def healthy(envoy: EnvoyProcess, client: httpx.AsyncClient, *ports: int) -> None:
    """Wait until Envoy considers the replicas at these ports healthy."""
    wanted = {f"ratelimit::127.0.0.1:{port}::health_flags::healthy" for port in ports}
    async with asyncio.timeout(PATIENCE):
        while not wanted <= set((await client.get(f"http://{envoy.admin}/clusters")).text.splitlines()):
            await asyncio.sleep(0.05)


def before(*ports: int, llm: int) -> str:
    """Return the configuration of an Envoy with the service at each of these ports."""
    text = bootstrap(ratelimit=0, llm=llm)
    check = health_check(text)
    check |= {"interval": OFTEN, "no_traffic_interval": OFTEN}
    places = [{"address": "127.0.0.1", "port_value": port} for port in ports]
    (cluster,) = (each for each in text["static_resources"]["clusters"] if each["name"] == "ratelimit")
    cluster["load_assignment"]["endpoints"] = [
        {"lb_endpoints": [{"endpoint": {"address": {"socket_address": place}}} for place in places]}
    ]
    return yaml.safe_dump(text)


async def test_no_request_fails_while_replicas_behind_a_static_envoy_are_restarted(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    """Each keeps its address, and there is one on each transport. Every answer is a 200, and every request is
    charged.
    """
    rules = tmp_path / "rules.yaml"
    rules.write_text(RULES.read_text().replace("tokens_per_unit: 1_000}", "tokens_per_unit: 1_000_000_000}"))
    ports = {"grpcio": free_port(), "native": free_port()}
    environments = {
        transport: {
            "CONFIG_PATH": str(rules),
            "REDIS_URL": redis_server.url,
            "GRPC_TRANSPORT": transport,
            "GRPC_PORT": str(port),
            "SHUTDOWN_DRAIN": DRAIN,
        }
        for transport, port in ports.items()
    }
    team = "rolling"
    async with AsyncExitStack() as stack:

        async def start(transport: str) -> Service:
            replica = await asyncio.to_thread(Service, environments[transport])
            stack.callback(replica.kill)
            return replica

        llm = PeculiarLlm()
        stack.callback(llm.stop)
        replicas = {transport: await start(transport) for transport in ports}
        envoy = await asyncio.to_thread(EnvoyProcess, tmp_path, before(*ports.values(), llm=llm.port))
        stack.callback(envoy.stop)
        url = f"http://{envoy.listeners['callers']}"
        client = await stack.enter_async_context(
            httpx.AsyncClient(base_url=url, timeout=PATIENCE, trust_env=False)
        )
        await healthy(envoy, client, *ports.values())
        callers = Callers(client, team)
        async with asyncio.TaskGroup() as group:
            for _ in range(CALLERS):
                group.create_task(callers.call())
            for transport, replica in replicas.items():
                await callers.more()
                assert 0 == await asyncio.to_thread(replica.stop)
                await callers.more()
                await start(transport)
                await healthy(envoy, client, *ports.values())
            await callers.more()
            callers.end()
        assert [200] == list(callers.answers), callers.answers
        counted = Counters(redis_server)
        await asyncio.to_thread(counted.wait_until, bucket(team), TOKENS * callers.answers[200])
