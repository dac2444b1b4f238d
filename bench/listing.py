"""Measures the list of budgets beside a million counters: how soon a page is there, and how long a command
occupies Redis.

    .venv/bin/python -m bench.listing [--counters=1000000] [--seconds=15]

A replica serves the API over a redis-server that has the counters. The first page of two lists is requested,
and again while the service still reads the store: all budgets by usage, and those of which nine tenths are
used, one in ten thousand. Prints the time of these pages, what they had, and how long SCAN and MGET took: on
average, and the slowest commands (slow_commands.py).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import redis

from testing.redis_servers import RedisServer
from testing.service import Service

from .printing import say
from .slow_commands import Watch, say_times

LIMIT = 1_000
NEAR = 10_000
"""One counter in so many is near its limit."""
BATCH = 5_000
PAUSE = 0.05
"""Seconds between two requests of a list."""
LISTS: dict[str, dict[str, str | int | float]] = {
    "all budgets by usage": {"sort": "-used", "limit": 50},
    "budgets of which 90 % are used": {"sort": "-used", "limit": 50, "min_used": 0.9},
}
RULES = f"""\
domain: d
descriptors:
  - {{key: user, rate_limit: {{unit: year, tokens_per_unit: {LIMIT}}}}}
"""


def fill(client: redis.Redis, counters: int) -> None:
    """Write the counters of the present year."""
    year = datetime.now(UTC).year
    for first in range(0, counters, BATCH):
        numbers = range(first, min(first + BATCH, counters))
        client.mset(
            {
                f"{{d|user=u{number}}}:year:{year}-01-01": LIMIT - 1
                if number % NEAR == 0
                else number % 800 + 1
                for number in numbers
            }
        )


def pages(
    client: httpx.Client, query: dict[str, str | int | float], seconds: float
) -> list[tuple[float, Any]]:
    """Return the time of each page and the page, until nothing is being read any more or the time is over."""
    end = time.perf_counter() + seconds
    found: list[tuple[float, Any]] = []
    while True:
        started = time.perf_counter()
        page = client.get("/api/v1/budgets", params=query).raise_for_status().json()
        found.append((time.perf_counter() - started, page))
        if "being read" not in (page["partial_reason"] or "") or time.perf_counter() >= end:
            return found
        time.sleep(PAUSE)


def measure(service: Service, seconds: float) -> None:
    """Request the lists, and print how long their pages took and what they had."""
    with httpx.Client(base_url=f"http://{service.debug}", trust_env=False, timeout=60) as client:
        client.get("/api/v1/status").raise_for_status()
        for name, query in LISTS.items():
            found = pages(client, query, seconds)
            times = [taken for taken, _ in found]
            first, last = found[0][1], found[-1][1]
            say(
                f"{name}: first page after {times[0] * 1e3:.0f} ms, with {len(first['budgets'])} budgets of "
                f"{first['scanned']:,} that were read; slowest of {len(times)} pages {max(times) * 1e3:.0f} "
                f"ms; at the end {len(last['budgets'])} budgets of {last['scanned']:,} "
                f"({last['partial_reason'] or 'complete'})"
            )


def main() -> None:
    """Run the measurement."""
    parser = argparse.ArgumentParser(description="Measure the list of budgets beside many counters.")
    parser.add_argument("--counters", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=15.0, help="the most for one list")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, RedisServer() as server:
        (Path(name) / "rules.yaml").write_text(RULES)
        client = redis.Redis.from_url(server.url)
        fill(client, given.counters)
        with Service({"CONFIG_PATH": name, "BACKEND_TYPE": "redis", "REDIS_URL": server.address}) as service:
            watch = Watch(client, service=service.pid, server=server.pid)
            say(f"{client.dbsize():,} counters")
            measure(service, given.seconds)
            say_times(watch.stop())
            used: Any = client.info("commandstats")
            for command in ("scan", "mget"):
                stats = used.get(f"cmdstat_{command}", {"calls": 0, "usec_per_call": 0})
                say(
                    f"{command.upper()}: {stats['calls']:,} calls, {stats['usec_per_call'] / 1e3:.3f} ms on "
                    "average"
                )
            watch.report()
        client.close()


if __name__ == "__main__":
    main()
