"""A flood of requests with distinct values: `python -m tests.faults.hostile_keys 1000000`.

It is a process of its own, so that its memory can be measured. Every tenth value is longer than a key may be.
Every request causes each kind of statistics: detailed metrics, values in metrics, overrides, unknown domains,
tracked buckets, thresholds and refusals. The counters are not kept here: they belong to Redis, or to the
memory store, which has its own bound. The output is the growth of the process, as JSON.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ratelimit_service.core.matching.tree import RuleTree
from ratelimit_service.core.model import Descriptor, Entry, Hit, Override, Request, Unit
from ratelimit_service.core.plan import Policy
from ratelimit_service.core.rules.reader import load
from ratelimit_service.observe import logs
from ratelimit_service.observe.metrics import Metrics
from ratelimit_service.observe.observers import Observers
from ratelimit_service.observe.thresholds import Thresholds
from ratelimit_service.observe.tracking import Tracker
from ratelimit_service.ports import OnOutcomes
from ratelimit_service.service import Answer, RateLimitService
from ratelimit_service.sources.yaml_text import read
from ratelimit_service.stores.memory import MemoryStore

RULES = """
domain: d
descriptors:
  - key: detailed
    detailed_metric: true
    rate_limit: {unit: day, requests_per_unit: 1}
  - key: value
    value_to_metric: true
    rate_limit: {unit: hour, requests_per_unit: 0}
  - key: tracked
    track: true
    warn_at: [0.5, 1.0]
    rate_limits:
      - {unit: hour, tokens_per_unit: 10}
      - {unit: month, tokens_per_unit: 1000}
"""

BATCH = 100


class Forgetful(MemoryStore):
    """A store without counters: every count is 7."""

    def hit(self, groups: Sequence[Sequence[Hit]], on_outcomes: OnOutcomes) -> None:
        on_outcomes([[7] * len(group) for group in groups])


class Call:
    """A call whose answer is read and dropped."""

    __slots__ = ("request",)

    timeout = -1
    gone = False

    def __init__(self, request: Request) -> None:
        self.request = request

    def reply(self, answer: Answer) -> None:
        assert not isinstance(answer, Exception), answer


def stranger(number: int) -> Request:
    """Return a request with unique values."""
    value = f"\x1b[31m{number}\n\xff".encode("latin-1") * (1 if number % 10 else 200)
    override = Override(5, Unit.DAY, number + 1)
    return Request(
        f"unknown-{number}" if number % 5 == 0 else "d",
        (
            Descriptor((Entry(b"detailed", value),), 3),
            Descriptor((Entry(b"value", value),), 3),
            Descriptor((Entry(b"tracked", value),), 3),
            Descriptor((Entry(value, value),), 3, override),
        ),
    )


def resident() -> int:
    """Return the resident memory of this process in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def flood(requests: int) -> dict[str, float]:
    """Serve this many requests, and return the figures."""
    store = Forgetful(time.time)
    metrics = Metrics()
    observers = Observers(metrics, Thresholds(store, metrics.crossed), Tracker(time.time, 1_000), None)
    service = RateLimitService(store, observers, time.time, Policy(error_format="openai"))
    service.use(RuleTree(load([read("rules", RULES)]).domains))

    def serve(first: int, last: int) -> None:
        for start in range(first, last, BATCH):
            service.submit([Call(stranger(number)) for number in range(start, min(start + BATCH, last))])

    warm = min(20_000, requests // 5)
    serve(0, warm)  # every table has reached its bound
    gc.collect()
    before = resident()
    serve(warm, requests)
    gc.collect()
    return {
        "requests": requests,
        "grown_mib": (resident() - before) / 2**20,
        "resident_mib": resident() / 2**20,
    }


def main() -> None:
    """Flood, and print the figures."""
    logs.configure("error", "json")
    sys.stdout.write(json.dumps(asyncio.run(flood(int(sys.argv[1])))) + "\n")


if __name__ == "__main__":
    main()
