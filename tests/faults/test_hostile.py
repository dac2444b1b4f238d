"""Hostile callers: the process keeps running and keeps its size, no exhausted bucket is freed, and other
callers are served.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from grpc import aio

from ratelimit_service.proto.ratelimit_pb2 import RateLimitRequest, RateLimitResponse
from ratelimit_service.transports.grpc_method import PATH
from testing.service import Service, port_of

REQUESTS = int(os.environ.get("HOSTILE_REQUESTS", "30000"))
"""The number of requests, each with four new descriptors; `make faults` sends a quarter of a million."""


def test_a_flood_of_new_names_does_not_grow_the_process() -> None:
    """Metrics, tracked buckets, thresholds, logs of refusals and caches stay within their bounds."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.hostile_keys", str(REQUESTS)],
        capture_output=True,
        check=True,
        timeout=600,
        cwd=Path(__file__).parents[2],
    )
    assert json.loads(done.stdout)["grown_mib"] <= 30


def test_requests_that_cost_a_cache_more_than_their_bytes_do_not_grow_the_process() -> None:
    """Caches count bytes: a request of 847 bytes may take a hundred times as much memory in a cache."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.hostile_bytes"],
        capture_output=True,
        check=True,
        timeout=600,
        cwd=Path(__file__).parents[2],
    )
    assert max(json.loads(done.stdout).values()) <= 96


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    rules = tmp_path_factory.mktemp("rules") / "rules.yaml"
    rules.write_text(
        "domain: d\ndescriptors: [{key: team, rate_limit: {unit: day, tokens_per_unit: 1000000}}]\n"
    )
    with Service({"CONFIG_PATH": str(rules), "BACKEND_TYPE": "memory"}) as served:
        yield served


def message(descriptors: int = 1, value: bytes = b"dba", unit: int = 0) -> bytes:
    request = RateLimitRequest(domain="d")
    for _ in range(descriptors):
        descriptor = request.descriptors.add()
        descriptor.entries.add(key=b"team", value=value)
        descriptor.hits_addend.value = 0
        if unit:
            descriptor.limit.unit = unit  # type: ignore[assignment]
    return request.SerializeToString()


async def served(address: str) -> bool:
    """Return whether an honest caller is answered over its own connection.

    By default, channels to one address share a connection, and the server closes one with many unfinished
    calls.
    """
    async with aio.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        method = channel.unary_unary(PATH, bytes, RateLimitResponse.FromString)
        response: RateLimitResponse = await method(message(), timeout=60)
        return response.overall_code == RateLimitResponse.OK


HOSTILE = [
    message(10_000),
    message(1_000, b"x" * 3_000),
    message(1, b"\x00\xff\r\n" * 16_384),
    message(1, unit=99),
    message()[:-3],
    b"\x0a" * 100_000,
    b"\x12\xff\xff\xff\xff\x0f",
    b"\x13" * 10_000,  # groups in groups in groups
    os.urandom(50_000),
]


async def test_hostile_messages_affect_no_other_caller(service: Service) -> None:
    """Each gets a decision or an error, and an honest caller is served in between."""
    codes = []
    async with aio.insecure_channel(service.grpc) as channel:
        method = channel.unary_unary(PATH, bytes, bytes)
        for data in HOSTILE:
            call = method(data, timeout=60)
            codes.append((await call.code()).name)
            assert await served(service.grpc)
    assert {"OK", "INVALID_ARGUMENT"} == set(codes)


async def test_calls_that_are_reset_at_once_affect_no_other(service: Service) -> None:
    """Two thousand streams are opened and reset."""
    async with aio.insecure_channel(service.grpc) as channel:
        method = channel.unary_unary(PATH, bytes, bytes)
        for _ in range(20):
            calls = [method(message(), timeout=60) for _ in range(100)]
            await asyncio.sleep(0)
            for call in calls:
                call.cancel()
    assert await served(service.grpc)


GREETINGS = [
    b"",
    b"PRI * HTTP/2.0\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00",
    b"GET / HTTP/1.1\r\nHost: x\r\n",
    b"POST /json HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n{",
    b"\x16\x03\x01\x02\x00\x01\x00",
    os.urandom(500),
]


async def test_nearly_silent_connections_affect_no_other(service: Service) -> None:
    """Two hundred connections each to the gRPC port and the HTTP port are silent, incomplete, or use another
    protocol.
    """
    with ExitStack() as open_ones:
        for address in (service.grpc, service.http):
            for number in range(200):
                connection = open_ones.enter_context(
                    socket.create_connection(("127.0.0.1", port_of(address)))
                )
                try:
                    connection.sendall(GREETINGS[number % len(GREETINGS)])
                except OSError:  # it was disconnected already
                    continue
        assert await served(service.grpc)
        assert (200, "OK") == await asyncio.to_thread(service.health)
    assert service.running
