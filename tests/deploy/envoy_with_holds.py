"""deploy/envoy/holds.yaml before a provider that answers when a test allows it."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import grpc
import httpx
import yaml

from ratelimit_service.proto import ratelimit_pb2 as pb
from testing.envoy import EnvoyProcess, connection_manager
from testing.service import METHOD, REPOSITORY, port_of
from testing.waiting import wait_for

FILE = REPOSITORY / "deploy" / "envoy" / "holds.yaml"
NOON = 1_795_262_400

RULES = """
domain: team-budgets
descriptors:
  - {key: team, rate_limit: {name: daily, unit: day, tokens_per_unit: 100}, hold: auto}
"""
LARGE = RULES.replace("100", "100_000").replace("auto", "1000")
"""Each request holds a hundredth of the budget."""

Filters = list[dict[str, Any]]


class PatientLlm:
    """A provider that answers after `go`; `arrived` counts the requests. An answer costs 60 tokens or the
    request's `x-tokens`, and nothing if `x-status` names another status than 200.
    """

    def __init__(self) -> None:
        self.go = threading.Event()
        self.arrived = 0
        self.port = 0
        ready = threading.Event()

        async def serve() -> None:
            self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
            async with await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1_000) as server:
                self.port = server.sockets[0].getsockname()[1]
                ready.set()
                await self._stopping.wait()

        self._thread = threading.Thread(target=asyncio.run, args=(serve(),), daemon=True)
        self._thread.start()
        assert ready.wait(10)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError), closing(writer):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                await reader.readexactly(int(re.findall(r"content-length: (\d+)", head)[0]))
                status = (re.findall(r"x-status: (\d+)", head) or ["200"])[0]
                tokens = (re.findall(r"x-tokens: (\d+)", head) or ["60"])[0]
                self.arrived += 1
                while not self.go.is_set():
                    await asyncio.sleep(0.02)
                body = b'{"usage": {"total_tokens": %s}}' % tokens.encode() if status == "200" else b"{}"
                fields = f"content-type: application/json\r\ncontent-length: {len(body)}"
                writer.write(f"HTTP/1.1 {status} X\r\n{fields}\r\n\r\n".encode() + body)

    def stop(self) -> None:
        self.go.set()
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(10)


class Provider(Protocol):
    """The address that Envoy sends requests to."""

    port: int


def configured(services: list[str], llm: Provider) -> dict[str, Any]:
    """Return the configuration in the file, with these services and this provider."""
    text: dict[str, Any] = yaml.safe_load(FILE.read_text())
    resources = text["static_resources"]
    for place in (text["admin"]["address"], resources["listeners"][0]["address"]):
        place["socket_address"] = {"address": "127.0.0.1", "port_value": 0}
    ports = {"ratelimit": [port_of(service) for service in services], "llm": [llm.port]}
    for cluster in resources["clusters"]:
        cluster["load_assignment"]["endpoints"] = [
            {
                "lb_endpoints": [
                    {
                        "endpoint": {
                            "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}
                        }
                    }
                    for port in ports[cluster["name"]]
                ]
            }
        ]
        # A machine with other work: many requests at once, and slow answers.
        cluster["circuit_breakers"] = {
            "thresholds": [{"max_requests": 5000, "max_connections": 5000, "max_pending_requests": 5000}]
        }
    rate_limit(filters(text))["timeout"] = "10s"
    return text


def filters(text: dict[str, Any]) -> Filters:
    found: Filters = connection_manager(text)["http_filters"]
    return found


def rate_limit(found: Filters) -> dict[str, Any]:
    (one,) = [each["typed_config"] for each in found if each["name"].endswith(".ratelimit")]
    assert isinstance(one, dict)
    return one


@contextmanager
def running(directory: Path, text: dict[str, Any]) -> Iterator[str]:
    envoy = EnvoyProcess(directory, yaml.safe_dump(text))
    try:
        yield envoy.listeners["callers"]
    finally:
        envoy.stop()


def post(address: str, team: str = "dba", **headers: str) -> httpx.Response:
    """Send one request on its own connection."""
    return httpx.post(
        f"http://{address}/v1/chat/completions",
        headers={"x-team-id": team, **{name.replace("_", "-"): value for name, value in headers.items()}},
        json={},
        timeout=60,
        trust_env=False,
    )


def aborted(address: str, llm: PatientLlm, times: int) -> None:
    """Send requests whose callers disconnect as soon as the provider has them."""
    body = b"{}"
    head = f"POST / HTTP/1.1\r\nhost: x\r\nx-team-id: dba\r\ncontent-length: {len(body)}\r\n\r\n"
    host, _, port = address.partition(":")
    connections = []
    for _ in range(times):
        connection = socket.create_connection((host, int(port)), timeout=30)
        connection.sendall(head.encode() + body)
        connections.append(connection)
    wait_for("the provider to have the requests", lambda: llm.arrived >= times)
    for connection in connections:
        connection.close()
    llm.arrived = 0


def charge_of(text: dict[str, Any]) -> dict[str, Any]:
    """Return the entry of the charge in the filter."""
    found = rate_limit(filters(text))["rate_limits"][1]
    assert isinstance(found, dict)
    return found


def remaining(service: str, key: bytes = b"team") -> int:
    """Return the remaining budget. The call marks the end of a request, so it takes no hold."""
    request = pb.RateLimitRequest(domain="team-budgets")
    descriptor = request.descriptors.add()
    descriptor.entries.add(key=key, value=b"dba")
    descriptor.entries.add(key=b"hold", value=b"-")
    descriptor.hits_addend.value = 0
    with grpc.insecure_channel(service) as channel:
        call = channel.unary_unary(
            METHOD,
            request_serializer=pb.RateLimitRequest.SerializeToString,
            response_deserializer=pb.RateLimitResponse.FromString,
        )
        left: int = call(request, timeout=60).statuses[0].limit_remaining
    return left
