"""Requests of few bytes that take much memory in a cache: `python -m tests.faults.hostile_bytes`.

It is a process of its own, so that its memory can be measured. Each shape is sent through the codec, the
planner, the decision, the observers and the codec again, with other bytes each time. The output is the growth
of the process after each shape, in MiB, as JSON.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from collections.abc import Callable, Iterator

from ratelimit_service.core.answers.refusal import HEADERS
from ratelimit_service.core.errors import RateLimitServiceError
from ratelimit_service.core.matching.tree import RuleTree
from ratelimit_service.core.model import Decision, Request
from ratelimit_service.core.plan import Policy
from ratelimit_service.core.rules.reader import load
from ratelimit_service.observe import logs
from ratelimit_service.observe.metrics import Metrics
from ratelimit_service.observe.observers import Observers
from ratelimit_service.observe.thresholds import Thresholds
from ratelimit_service.observe.tracking import Tracker
from ratelimit_service.service import Answer, RateLimitService
from ratelimit_service.sources.yaml_text import read
from ratelimit_service.transports.codec import Codec

from .hostile_keys import Forgetful, resident

RULES = """
domain: d
descriptors:
  - {key: k, rate_limit: {unit: day, requests_per_unit: 1}}
  - {key: t, track: true, warn_at: [0.5], rate_limit: {unit: day, tokens_per_unit: 5}}
  - {key: free, rate_limit: {unlimited: true}}
  - {key: m, detailed_metric: true, rate_limit: {unit: day, requests_per_unit: 1000}}
"""

_DAY_OVERRIDE = b"\x12\x04\x08\x05\x10\x04"


def varint(value: int) -> bytes:
    """Encode `value` as a varint of protobuf."""
    groups = []
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])


def field(tag: int, content: bytes) -> bytes:
    """Encode a field of bytes."""
    return bytes([tag]) + varint(len(content)) + content


def entry(key: bytes, value: bytes = b"") -> bytes:
    """Encode an entry of a descriptor."""
    return field(0x0A, field(0x0A, key) + (field(0x12, value) if value else b""))


def request(*descriptors: bytes) -> bytes:
    """Encode a RateLimitRequest for the domain of RULES."""
    return field(0x0A, b"d") + b"".join([field(0x12, descriptor) for descriptor in descriptors])


def _bytes(number: int, length: int) -> bytes:
    return b"%08d" % number + b"\xff" * (length - 8)


SHAPES: dict[str, tuple[int, Callable[[int], bytes]]] = {
    "empty descriptors": (1_500, lambda n: request(entry(b"x", _bytes(n, 8)), *[b""] * 95)),
    "descriptors of one limit": (600, lambda n: request(entry(b"k", _bytes(n, 8)), *[entry(b"k")] * 95)),
    "empty entries": (1_500, lambda n: request(entry(b"x", _bytes(n, 8)) + b"\x0a\x00" * 90)),
    "long values refused": (150, lambda n: request(entry(b"k", _bytes(n, 1_000_000)))),
    "long values shown in refusals": (1_000, lambda n: request(entry(b"k", _bytes(n, 200)))),
    "long values tracked": (1_500, lambda n: request(entry(b"t", _bytes(n, 127)))),
    "long values in statistics": (5_000, lambda n: request(entry(b"m", _bytes(n, 400)))),
    "limits of their own": (
        150,
        lambda n: request(*[entry(b"x", _bytes(n, 8)) + _DAY_OVERRIDE] * 60),
    ),
    "limits of their own on long names": (
        150,
        lambda n: request(entry(b"x", _bytes(n, 100)) + entry(b"x", _bytes(n, 127)) * 90 + _DAY_OVERRIDE),
    ),
    "numbers of many bytes": (
        20_000,
        lambda n: request(entry(b"k")) + b"\x18" + varint(n) + b"\x28\x01" * 7,
    ),
    "domains": (5_000, lambda n: field(0x0A, _bytes(n, 900)) + field(0x12, entry(b"k"))),
}
"""For each shape, the number of requests, and the function that makes a request from its number."""


class Call:
    """A call whose answer is encoded and dropped."""

    __slots__ = ("_encode", "request")

    timeout = -1
    gone = False

    def __init__(self, request: Request, encode: Callable[[Decision], bytes]) -> None:
        self.request = request
        self._encode = encode

    def reply(self, answer: Answer) -> None:
        if isinstance(answer, Decision):
            self._encode(answer)


async def grown() -> Iterator[tuple[str, float]]:
    """Return the growth of the process after each shape, in MiB."""
    store = Forgetful(time.time)
    metrics = Metrics()
    observers = Observers(metrics, Thresholds(store, metrics.crossed), Tracker(time.time, 1_000), None)
    policy = Policy(error_format="openai", refusal_headers=frozenset(HEADERS))
    service = RateLimitService(store, observers, time.time, policy)
    service.use(RuleTree(load([read("rules", RULES)]).domains))
    codec = Codec()
    gc.collect()
    before = resident()
    found = []
    for name, (requests, made) in SHAPES.items():
        for number in range(requests):
            try:
                call = Call(codec.decode(made(number)), codec.encode_for(service.tree))
            except RateLimitServiceError:
                continue
            service.submit([call])
        gc.collect()
        found.append((name, round((resident() - before) / 2**20, 1)))
    return iter(found)


def main() -> None:
    """Send all shapes, and print the growth."""
    logs.configure("fatal", "json")
    sys.stdout.write(json.dumps(dict(asyncio.run(grown()))) + "\n")


if __name__ == "__main__":
    main()
