"""Measures the export of a million entries of ledgers: 1,500 buckets, every hour of 28 days.

    .venv/bin/python -m bench.ledger

A replica serves the API over a redis-server that has the entries, and the command line adds them up by team
and day. The sum is compared. Prints the time, the CPU time of each process, and the slowest commands of
Redis. SLOWLOG has the time that passed, which includes the time without a core; so each slow command is sent
again, and the CPU time of Redis for it is printed as well.
"""

from __future__ import annotations

import csv
import io
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import redis

from testing.redis_servers import RedisServer
from testing.service import COMMAND, Service

from .machine import cpu_seconds

BUCKETS, DAYS = 1_500, 28
LIMIT = 1_000
"""Microseconds that no command may take."""
NOTED = 250
"""Microseconds from which SLOWLOG notes a command."""
REPEATS = 50
RULES = """\
domain: d
descriptors:
  - key: team
    rate_limit: {unit: month, tokens_per_unit: 1000000}
    ledger: {}
    price: {per_million: 2.50, currency: USD}
"""


def say(line: str) -> None:
    """Print a line."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


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


def waited(pid: int) -> float:
    """Return the seconds for which a process was ready to run and had no core."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum([int((task / "schedstat").read_text().split()[1]) for task in tasks]) / 1e9


def on_cpu(client: Any, pid: int, command: bytes) -> str:
    """Return the CPU time of a command, from repeating it, or why it cannot be repeated."""
    name, *arguments = command.split(b" ")
    if b"... (" in command:
        return "SLOWLOG has only a part of it, so its CPU time is unknown"
    info: Any = client.execute_command("COMMAND", "INFO", name)
    if not any("readonly" in each["flags"] for each in info.values()):
        return "it writes, so it is not repeated, and its CPU time is unknown"
    before = cpu_seconds([pid])
    for _ in range(REPEATS):
        client.execute_command(name, *arguments)
    return (
        f"repeated, it takes {(cpu_seconds([pid]) - before) / REPEATS * 1e3:.2f} ms of CPU time, "
        "its reply included"
    )


def report(client: Any, pid: int, without_core: float) -> None:
    """Print the slowest commands, and whether any of them is too slow by itself."""
    noted: list[Any] = sorted(client.slowlog_get(-1), key=lambda entry: -entry["duration"])
    over = [entry for entry in noted if entry["duration"] > LIMIT]
    say(f"commands of Redis over {LIMIT / 1e3:g} ms: {len(over)}")
    say(f"time in which Redis was ready and had no core: {without_core * 1e3:.1f} ms")
    if not noted:
        say(f"the slowest command took less than {NOTED / 1e3:g} ms")
    for entry in over[:5] or noted[:1]:
        shown = entry["command"][:80].decode(errors="backslashreplace")
        say(f"{entry['duration'] / 1e3:.2f} ms: {shown}: {on_cpu(client, pid, entry['command'])}")


def main() -> None:
    """Run the measurement."""
    with tempfile.TemporaryDirectory() as name, RedisServer() as server:
        (Path(name) / "rules.yaml").write_text(RULES)
        client = redis.Redis.from_url(server.url)
        entries, tokens = fill(client)
        with Service({"CONFIG_PATH": name, "BACKEND_TYPE": "redis", "REDIS_URL": server.address}) as service:
            client.config_resetstat()
            client.config_set("slowlog-log-slower-than", NOTED)
            client.config_set("slowlog-max-len", 100_000)
            client.slowlog_reset()
            pids = {"the service": service.pid, "Redis": server.pid}
            before = {what: cpu_seconds([pid]) for what, pid in pids.items()}
            children = resource.getrusage(resource.RUSAGE_CHILDREN)
            without_core = waited(server.pid)
            started = time.perf_counter()
            asked = ["--by", "team", "--from", "2026-02-01", "--to", "2026-03-01", "--format", "csv"]
            done = subprocess.run(
                [*COMMAND, "usage", "d", "--server", service.debug, *asked],
                capture_output=True,
                text=True,
                check=True,
            )
            seconds = time.perf_counter() - started
            without_core = waited(server.pid) - without_core
            used = resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu = {what: cpu_seconds([pid]) - before[what] for what, pid in pids.items()}
            cpu["the command"] = used.ru_utime + used.ru_stime - children.ru_utime - children.ru_stime
            rows = list(csv.DictReader(io.StringIO(done.stdout)))
            assert tokens == sum([int(row["charged"]) for row in rows]), (
                "the export is not what the ledgers have"
            )
            say(f"{entries:,} entries, {len(rows):,} lines: {seconds:.1f} s")
            say(", ".join([f"{what} {value:.1f} s of CPU time" for what, value in cpu.items()]))
            report(client, server.pid, without_core)
        client.close()


if __name__ == "__main__":
    main()
