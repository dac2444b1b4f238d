"""Measures what `compare --mirror` adds to a call: its time, and CPU time for each call.

    .venv/bin/python -m bench.mirror [--calls=4000] [--pause=1]

Two services count in memory, and the mirror passes calls on to the first and compares with the second. A
caller makes turns of a hundred calls, to the first service and through the mirror in turn, so that other load
on the machine slows down both alike. `--pause` is between two calls, in milliseconds. "Added" is the
difference of two percentiles.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from testing.mirror import mirroring
from testing.service import Caller, Service, calling

from .machine import cpu_seconds
from .results import percentile

TURN = 100
"""Calls in a turn."""

PERCENTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}
RULES = """\
domain: llm
descriptors:
  - key: team
    rate_limit: {unit: year, requests_per_unit: 1000000000}
"""


def turn(caller: Caller, name: str, pause: float) -> list[float]:
    """Make the calls of a turn, and return the milliseconds of each. Each way has buckets of its own."""
    took = []
    for number in range(TURN):
        begin = time.perf_counter()
        caller.ask("llm", "team", f"{name}-{number % 7}", hits=1)
        took.append((time.perf_counter() - begin) * 1e3)
        time.sleep(pause)
    return took


def row(name: str, values: Sequence[float]) -> str:
    """Return a line of the table."""
    return "".join([f"{name:<10}", *(f"{value:>8.2f}" for value in values)]) + "\n"


def main(calls: int, pause: float) -> None:
    """Run the measurement."""
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "rules.yaml").write_text(RULES)
        environment = {"CONFIG_PATH": directory, "BACKEND_TYPE": "memory"}
        with (
            Service(environment) as theirs,
            Service(environment) as ours,
            mirroring(theirs.grpc, ours.grpc, "--json") as (mirror, address),
            calling(theirs.grpc) as direct,
            calling(address) as through,
        ):
            for caller, name in ((direct, "direct"), (through, "through")):
                turn(caller, name, pause)
            comparing = Path(f"/proc/{mirror.pid}/task/{mirror.pid}/children").read_text().split()
            processes = {
                "the tee": [mirror.pid],
                "the comparison": [int(pid) for pid in comparing],
                "the service behind it": [theirs.pid],
            }
            before = {name: cpu_seconds(pids) for name, pids in processes.items()}
            took: dict[str, list[float]] = {"direct": [], "through": []}
            for _ in range(calls // TURN):  # the comparison, which may be late, has the second turn to finish
                took["through"] += turn(through, "through", pause)
                took["direct"] += turn(direct, "direct", pause)
            cpu = {name: cpu_seconds(pids) - before[name] for name, pids in processes.items()}
            cpu["the service behind it"] /= 2  # it has answered the direct calls as well
            mirror.send_signal(signal.SIGTERM)
            out, error = mirror.communicate(timeout=60)
    made = len(took["through"])
    summary = json.loads(out.splitlines()[-1])
    assert (made + TURN, 0, "") == (summary["requests"], summary["unexplained"], error), (summary, error)
    report(took, cpu)


def report(took: dict[str, list[float]], cpu: dict[str, float]) -> None:
    """Print the percentiles of each way and their differences, and the CPU time for each call."""
    made = len(took["through"])
    ordered = {name: sorted(values) for name, values in took.items()}
    found = {
        name: [percentile(values, share) for share in PERCENTILES.values()]
        for name, values in ordered.items()
    }
    found["added"] = [
        through - direct for direct, through in zip(found["direct"], found["through"], strict=True)
    ]
    sys.stdout.write(f"milliseconds of {made:,} calls each way, on {os.cpu_count()} cores\n")
    sys.stdout.write("".join([f"{'':<10}", *(f"{name:>8}" for name in PERCENTILES)]) + "\n")
    for name, values in found.items():
        sys.stdout.write(row(name, values))
    sys.stdout.write("milliseconds of CPU time for each call\n")
    for name, seconds in cpu.items():
        sys.stdout.write(f"{name}: {seconds / made * 1e3:.2f}\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m bench.mirror", description="Measure what the mirror adds to a call."
    )
    parser.add_argument("--calls", type=int, default=4_000, help="calls each way (4000)")
    parser.add_argument("--pause", type=float, default=1.0, help="milliseconds between two calls (1)")
    given = parser.parse_args()
    if given.calls < TURN or given.pause < 0:
        parser.error(f"--calls is at least {TURN}, and --pause not below 0")
    main(given.calls, given.pause / 1e3)
