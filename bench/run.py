"""Decisions a second, closed loop, by transport, store and shape of the connections.

    make bench          (or: .venv/bin/python -m bench.run [--seconds 5] [--write])

Server and redis-server share one core, the load (h2load, Debian's nghttp2-client) has the other. Everything that the service
does is switched on. The unit is grpc.aio on uvloop that decides nothing, measured in the same run: these machines are shared,
so a ratio says more than a number. After each run the charges that were acknowledged are compared with the counter.
`--target HOST:PORT` measures any other RateLimitService with the same load.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx

from ratelimit_service.proto.ratelimit_pb2 import RateLimitRequest
from ratelimit_service.transports.grpc_method import PATH
from tests.servers import RedisServer
from tests.service import Service, port_of

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "performance.md"
RULES = """
domain: bench
descriptors:
  - key: team
    rate_limit: {unit: year, tokens_per_unit: 4_000_000_000}
  - key: both
    rate_limits:
      - {unit: hour, tokens_per_unit: 4_000_000_000}
      - {unit: year, tokens_per_unit: 4_000_000_000}
  - key: spent
    rate_limit: {unit: year, tokens_per_unit: 0}
"""
SERVER_CORE, LOAD_CORE = 0, 1


@dataclass(frozen=True)
class Shape:
    """How many connections, and streams on each."""

    connections: int
    streams: int

    def __str__(self) -> str:
        return f"{self.connections} × {self.streams}"


SHAPES = (Shape(4, 25), Shape(100, 1))


@dataclass(frozen=True)
class Result:
    """One run: decisions a second, the slowest of ninety-nine in a hundred in milliseconds, CPU of the server in µs each."""

    what: str
    shape: Shape
    rate: float
    p99: float
    cpu: float


def message(key: str, value: str, hits: int, descriptors: int = 1) -> bytes:
    """A framed request."""
    request = RateLimitRequest(domain="bench")
    for number in range(descriptors):
        descriptor = request.descriptors.add()
        descriptor.entries.add(key=key.encode(), value=f"{value}{number or ''}".encode())
        descriptor.hits_addend.value = hits
    data = request.SerializeToString()
    return b"\0" + len(data).to_bytes(4) + data


REQUESTS = {
    "charge": message("team", "dba", 1),
    "check": message("team", "dba", 0),
    "4 descriptors × 2 windows": message("both", "dba", 1, 4),
    "refused": message("spent", "dba", 0),
    "no rule": message("nobody", "x", 1),
}


def load(port: int, body: bytes, shape: Shape, seconds: float, log: Path) -> tuple[int, float, float]:
    """Requests that were answered, how many a second, and the p99 in milliseconds."""
    data = log.with_suffix(".bin")
    data.write_bytes(body)
    log.unlink(missing_ok=True)
    done = subprocess.run(
        [
            *("taskset", "-c", str(LOAD_CORE), "h2load", f"--clients={shape.connections}"),
            *(f"--max-concurrent-streams={shape.streams}", f"--duration={seconds:g}", "--warm-up-time=1"),
            *(f"--data={data}", f"--log-file={log}"),
            *("--header=content-type: application/grpc", "--header=te: trailers"),
            f"http://127.0.0.1:{port}{PATH}",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    counts = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", done.stdout)
    assert counts is not None, done.stdout
    succeeded, *bad = map(int, counts.groups())
    assert not any(bad), done.stdout
    times = sorted(int(line.split("\t")[2]) for line in log.read_text().splitlines())
    return succeeded, succeeded / seconds, times[int(len(times) * 0.99)] / 1000


def cpu_seconds(pid: int) -> float:
    """What a process has used of its core."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def pin(pid: int) -> None:
    """Put a process, all its threads included, on the server's core."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), {SERVER_CORE})


@contextmanager
def nothing(transport: str) -> Iterator[tuple[int, int]]:
    """A server that decides nothing: its port and its pid."""
    with subprocess.Popen(
        [sys.executable, "-m", "bench.nothing", transport], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        pin(process.pid)
        try:
            yield port, process.pid
        finally:
            process.send_signal(signal.SIGTERM)


@contextmanager
def served(transport: str, store: str, directory: Path) -> Iterator[tuple[int, int, Service]]:
    """The service with all that it does: its port, its pid and itself."""
    (directory / "rules.yaml").write_text(RULES)
    environment = {
        "CONFIG_PATH": str(directory / "rules.yaml"),
        "BACKEND_TYPE": store,
        "GRPC_TRANSPORT": transport,
    }
    with ExitStack() as stack:
        if store == "redis":
            redis = stack.enter_context(RedisServer())
            pin(redis.pid)
            environment["REDIS_URL"] = redis.address
        service = stack.enter_context(Service(environment))
        pin(service.pid)
        yield port_of(service.grpc), service.pid, service


def used(service: Service, key: str, value: str) -> int:
    """What the counter of a bucket holds, by what is left of it."""
    body = {
        "domain": "bench",
        "descriptors": [{"entries": [{"key": key, "value": value}], "hitsAddend": "0"}],
    }
    answer = httpx.post(f"http://{service.http}/json", json=body, trust_env=False).json()
    return 4_000_000_000 - int(answer["statuses"][0]["limitRemaining"])


def measure(seconds: float, directory: Path) -> list[Result]:
    """All runs."""
    log = directory / "times"
    results = []

    def run(what: str, port: int, pid: int, shape: Shape, body: bytes) -> None:
        before = cpu_seconds(pid)
        answered, rate, p99 = load(port, body, shape, seconds, log)
        # The warm-up second counts for the CPU as well, so its share is taken off.
        cpu = (cpu_seconds(pid) - before) * seconds / (seconds + 1) / answered * 1e6
        results.append(Result(what, shape, rate, p99, cpu))
        sys.stderr.write(f"{what:45} {shape!s:8} {rate:10,.0f}/s  p99 {p99:6.1f} ms  {cpu:6.1f} µs\n")

    for transport in ("grpcio", "native"):
        for shape in SHAPES:
            with nothing(transport) as (port, pid):
                run(f"{transport}, decides nothing", port, pid, shape, REQUESTS["charge"])
    for transport in ("grpcio", "native"):
        for store in ("memory", "redis"):
            for name, body in REQUESTS.items():
                for shape in SHAPES if name in ("charge", "check") else SHAPES[:1]:
                    with served(transport, store, directory) as (port, pid, service):
                        run(f"{transport}, {store}: {name}", port, pid, shape, body)
                        if name == "charge":
                            counted, charged = (
                                used(service, "team", "dba"),
                                service.metric_sum("ratelimit_service_total_requests"),
                            )
                            assert counted == charged, (counted, charged)
    return results


def table(results: list[Result]) -> str:
    """The results as Markdown, with each rate in units of grpc.aio that decides nothing."""
    units = {result.shape: result.rate for result in results if result.what == "grpcio, decides nothing"}
    lines = [
        "| what | connections × streams | decisions/s | in units | p99 ms | server CPU µs each |",
        "|---|---|---|---|---|---|",
    ]
    return "\n".join([*lines, *[_line(result, units[result.shape]) for result in results]])


def _line(result: Result, unit: float) -> str:
    return (
        f"| {result.what} | {result.shape} | {result.rate:,.0f} | {result.rate / unit:.1f} "
        f"| {result.p99:.1f} | {result.cpu:.1f} |"
    )


def machine() -> str:
    """What it was measured on."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    load_average = os.getloadavg()[0]
    quiet = "" if load_average < 0.7 else " **The machine was not quiet.**"
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores of {model[1] if model else 'an unknown kind'}, "
        f"Python {sys.version.split()[0]}, load average before the run {load_average:.2f}.{quiet}"
    )


def main() -> None:
    """Measure, print, and with --write put the table into docs/performance.md."""
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--seconds", type=float, default=5.0)
    options.add_argument("--write", action="store_true")
    options.add_argument("--target", help="HOST:PORT of another RateLimitService")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        if chosen.target:
            for shape in SHAPES:
                port = port_of(chosen.target)
                _, rate, p99 = load(port, REQUESTS["charge"], shape, chosen.seconds, directory / "times")
                sys.stdout.write(f"{chosen.target} {shape}: {rate:,.0f}/s, p99 {p99:.1f} ms\n")
            return
        where = machine()
        text = f"{where}\n\n{table(measure(chosen.seconds, directory))}\n"
    sys.stdout.write(text)
    if chosen.write:
        before, mark, rest = PAGE.read_text().partition("<!-- measured by `make bench` -->\n")
        PAGE.write_text(f"{before}{mark}\n{text}\n<!-- end -->{rest.partition('<!-- end -->')[2]}")


if __name__ == "__main__":
    main()
