"""A closed loop with one request, by nghttp2's load generator, which is faster than every server here."""

from __future__ import annotations

import re
import resource
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

from ratelimit_service.transports.grpc_method import PATH

from .machine import LOAD_CORE
from .results import Latency, Shape


class Load(NamedTuple):
    """The report of h2load on a run, and the share of its core that it used."""

    decisions: int
    seconds: float
    latency: Latency
    generator: float


def h2load(port: int, body: bytes, shape: Shape, seconds: float, directory: Path) -> Load:
    """Run a closed loop. Raises AssertionError if a call fails."""
    data, log = directory / "h2load.bin", directory / "h2load.log"
    data.write_bytes(body)
    log.unlink(missing_ok=True)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    done = subprocess.run(
        [
            *("taskset", "-c", str(LOAD_CORE), "h2load", f"--clients={shape.connections}"),
            *(f"--max-concurrent-streams={shape.streams}", f"--duration={round(seconds * 1000)}ms"),
            *(f"--data={data}", f"--log-file={log}"),
            *("--header=content-type: application/grpc", "--header=te: trailers"),
            f"http://127.0.0.1:{port}{PATH}",
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
        timeout=seconds + 60,
    )
    elapsed = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    counts = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", done.stdout)
    assert counts is not None, done.stdout
    succeeded, *bad = map(int, counts.groups())
    assert not any(bad), done.stdout
    assert succeeded, done.stdout
    times = [int(line.split("\t")[2]) / 1e6 for line in log.read_text().splitlines()]
    return Load(succeeded, seconds, Latency.of(times), used / elapsed)
