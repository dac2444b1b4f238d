"""Measures the export of a million entries of ledgers: 1,500 buckets, every hour of 28 days.

    .venv/bin/python -m bench.ledger

A replica serves the API over a redis-server that has the entries, and the command line adds them up by team
and day. The sum is compared. Prints the time, the CPU time of each process, and the slowest commands of
Redis (slow_commands.py).
"""

from __future__ import annotations

import csv
import io
import resource
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import redis

from testing.redis_servers import RedisServer
from testing.service import COMMAND, Service

from .printing import say
from .slow_commands import Watch, say_times

BUCKETS, DAYS = 1_500, 28
RULES = """\
domain: d
descriptors:
  - key: team
    rate_limit: {unit: month, tokens_per_unit: 1000000}
    ledger: {}
    price: {per_million: 2.50, currency: USD}
"""


def fill(client: redis.Redis) -> tuple[int, int]:
    """Write the books, and return the numbers of their entries and tokens."""
    for day in range(1, DAYS + 1):
        pipeline = client.pipeline(transaction=False)
        for team in range(BUCKETS):
            entries: Any = {f"T{hour:02}Z:charged": 12_345 + hour for hour in range(24)}
            pipeline.hset(f"{{d|team=t{team}}}:ledger:hour:2026-02-{day:02}", mapping=entries)
        pipeline.execute()
    number = BUCKETS * DAYS
    return number * 24, number * sum(12_345 + hour for hour in range(24))


def main() -> None:
    """Run the measurement."""
    with tempfile.TemporaryDirectory() as name, RedisServer() as server:
        (Path(name) / "rules.yaml").write_text(RULES)
        client = redis.Redis.from_url(server.url)
        entries, tokens = fill(client)
        with Service({"CONFIG_PATH": name, "BACKEND_TYPE": "redis", "REDIS_URL": server.address}) as service:
            watch = Watch(client, service=service.pid, server=server.pid)
            children = resource.getrusage(resource.RUSAGE_CHILDREN)
            started = time.perf_counter()
            asked = ["--by", "team", "--from", "2026-02-01", "--to", "2026-03-01", "--format", "csv"]
            done = subprocess.run(
                [*COMMAND, "usage", "d", "--server", service.debug, *asked],
                capture_output=True,
                text=True,
                check=True,
            )
            seconds = time.perf_counter() - started
            cpu = watch.stop()
            used = resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu["the command"] = used.ru_utime + used.ru_stime - children.ru_utime - children.ru_stime
            rows = list(csv.DictReader(io.StringIO(done.stdout)))
            assert tokens == sum([int(row["charged"]) for row in rows]), (
                "the export is not what the ledgers have"
            )
            say(f"{entries:,} entries, {len(rows):,} lines: {seconds:.1f} s")
            say_times(cpu)
            watch.report()
        client.close()


if __name__ == "__main__":
    main()
