"""One peer that sends the most expensive input within its limits: the service stays small and keeps
answering. docs/bounds.md lists the bounds.
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import httpx
import pytest
from grpc import aio

from ratelimit_service.proto.ratelimit_pb2 import RateLimitResponse
from ratelimit_service.transports.grpc_method import PATH
from testing.service import Service, port_of

from .hostile_bytes import RULES, entry, request

MIB = 2**20

STORE = 24 * MIB
"""The size of the memory store here, so that it is full after some seconds."""

MOST_GROWN = STORE + 84 * MIB
"""The growth that is allowed: the caches (docs/bounds.md) take some 60 MiB, and requests in progress the
rest. A container of deploy/kubernetes has 256 MiB."""

_DAY_OVERRIDE = b"\x12\x04\x08\x05\x10\x04"


def value(number: int, length: int) -> bytes:
    """Return a distinct value whose bytes take three bytes each in a key and four where they are shown."""
    return b"%08d" % number + b"\xff" * (length - 8)


MANY = request() + b"\x12\x00" * 1_900_000

SHAPES: dict[str, tuple[int, Callable[[int], bytes]]] = {
    "many descriptors of one limit": (400, lambda n: request(entry(b"k", value(n, 8)), *[entry(b"k")] * 95)),
    "more descriptors than there may be": (20, lambda n: MANY),
    "limits of their own": (
        100,
        lambda n: request(*[entry(b"x", value(n, 100)) * 10 + _DAY_OVERRIDE] * 100),
    ),
    "long values": (40, lambda n: request(entry(b"k", value(n, MIB)))),
    "new buckets with long names": (
        800,
        lambda n: request(*[entry(b"k", value(100 * n + at, 127)) for at in range(100)]),
    ),
    "tracked buckets": (300, lambda n: request(*[entry(b"t", value(100 * n + at, 127)) for at in range(20)])),
    "series of metrics": (
        300,
        lambda n: request(*[entry(b"m", value(100 * n + at, 300)) for at in range(20)]),
    ),
}
"""For each shape, the number of requests, and the function that makes a request from its number."""


class Peer:
    """Sends calls over one connection, and keeps the codes of the answers."""

    def __init__(self, channel: aio.Channel) -> None:
        self._method = channel.unary_unary(PATH, bytes, RateLimitResponse.FromString)

    async def send(self, requests: Sequence[bytes]) -> set[str]:
        calls = [self._method(data, timeout=60) for data in requests]
        return {(await call.code()).name for call in calls}


def memory(service: Service, what: str) -> int:
    """Return the memory of the process in bytes: VmRSS now, or VmHWM at most."""
    status = Path(f"/proc/{service.pid}/status").read_text()
    found = re.search(rf"{what}:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1_024


MOST = 256 * MIB
"""The bound on the memory of the process with the native transport, the memory store, and all default
settings.
"""


async def test_all_bounds_together_fit_a_small_container(tmp_path: Path) -> None:
    """With default settings, the memory store and the caches are filled, and then connections use as much
    memory as they may.
    """
    rules = tmp_path / "rules.yaml"
    rules.write_text(RULES)
    environment = {"CONFIG_PATH": str(rules), "BACKEND_TYPE": "memory", "GRPC_TRANSPORT": "native"}
    with await asyncio.to_thread(Service, environment) as service:
        async with aio.insecure_channel(service.grpc) as channel:
            peer = Peer(channel)
            for name, (requests, made) in SHAPES.items():
                if made is SHAPES["more descriptors than there may be"][1]:
                    continue
                more = 3 if name == "new buckets with long names" else 1
                for first in range(0, more * requests, 20):
                    await peer.send([made(first + number) for number in range(20)])
        assert await asyncio.to_thread(service.metric, "ratelimit_service_memory_store_refused") > 0
        command = [sys.executable, "-m", "tests.faults.hostile_peers", str(port_of(service.grpc))]
        attacks = [
            await asyncio.create_subprocess_exec(*command, attack, cwd=Path(__file__).parents[2])
            for attack in ("connections_and_nothing_else", "unfinished_requests", "watches")
        ]
        for attack in attacks:
            await asyncio.wait_for(attack.wait(), 120)
        assert service.running
        largest = memory(service, "VmHWM")
    assert largest < MOST, f"{largest / MIB:.0f} MiB"


@pytest.mark.parametrize("transport", ["native", "grpcio"])
async def test_a_hostile_peer_cannot_make_the_process_large(tmp_path: Path, transport: str) -> None:
    """Every cache and table is full, the pages about them are requested, and new buckets are refused. No
    counter is evicted.
    """
    rules = tmp_path / "rules.yaml"
    rules.write_text(RULES)
    environment = {
        "CONFIG_PATH": str(rules),
        "BACKEND_TYPE": "memory",
        "GRPC_TRANSPORT": transport,
        "MEMORY_STORE_SIZE_IN_BYTES": str(STORE),
        "LOG_LEVEL": "error",
    }
    with await asyncio.to_thread(Service, environment | {"LOG_LEVEL": "info"}) as service:
        before = memory(service, "VmRSS")
        options = [("grpc.max_send_message_length", -1)]
        async with aio.insecure_channel(service.grpc, options=options) as channel:
            peer = Peer(channel)
            exhausted = request(entry(b"k", b"exhausted"))
            await peer.send([exhausted] * 3)
            codes: set[str] = set()
            for requests, made in SHAPES.values():
                some = 20 if len(made(0)) < 100_000 else 2  # requests in flight would be measured instead
                for first in range(0, requests, some):
                    codes |= await peer.send([made(first + number) for number in range(some)])
            for page in (f"{service.metrics}/metrics", f"{service.debug}/stats", f"{service.debug}/rlconfig"):
                response = await asyncio.to_thread(httpx.get, f"http://{page}", trust_env=False, timeout=60)
                assert 200 == response.status_code
            answer = await channel.unary_unary(PATH, bytes, RateLimitResponse.FromString)(
                exhausted, timeout=20
            )
        # RESOURCE_EXHAUSTED is the native transport's bound on the bytes of a connection.
        assert {"OK", "INVALID_ARGUMENT", "UNAVAILABLE"} == codes - {"RESOURCE_EXHAUSTED"}
        assert RateLimitResponse.OVER_LIMIT == answer.overall_code
        assert await asyncio.to_thread(service.metric, "ratelimit_service_memory_store_bytes") <= STORE
        assert await asyncio.to_thread(service.metric, "ratelimit_service_memory_store_refused") > 1_000
        assert (200, "OK") == await asyncio.to_thread(service.health)
        grown = memory(service, "VmHWM") - before
    assert grown <= MOST_GROWN, f"{grown / MIB:.0f} MiB"
