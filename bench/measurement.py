"""One run against one server: the load, the measurement, and the comparison with the store."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from . import reconciliation
from .h2load import h2load
from .machine import Meter, resident_bytes
from .messages import CONSTANT, expected
from .replay_client import ReplayResult, replay
from .results import Results, Run, Shape
from .servers import Server, metric

_SETTLES_WITHIN = 10.0
"""Seconds until hits whose callers got the answer of a deadline must be in the store."""
_CLOSED_WARM_UP = 1.0


@dataclass
class Bench:
    """The length of runs, their files, and the results so far."""

    directory: Path
    results: Results
    seconds: float = 3.0
    minute: float = 60.0
    ten_minutes: float = 600.0
    million: int = 1_000_000
    say: Callable[[Run], None] = field(default=lambda run: None)

    def keep(self, run: Run) -> Run:
        """Add a run to the results."""
        self.results.runs.append(run)
        self.say(run)
        return run


def closed_loop(bench: Bench, name: str, server: Server, request: str, shape: Shape) -> Run:
    """Run a closed loop, with h2load for a constant request, and with bench.replay for mixed traffic."""
    started_with = resident_bytes(server.pids[0]) if server.pids else 0
    run = (
        _constant(bench, name, server, request, shape)
        if request in CONSTANT
        else _replayed(bench, name, server, request, shape)
    )
    if server.service is not None:
        run.extra["rss_start"] = started_with
        run.extra["rss_end"] = resident_bytes(server.pids[0])
    return bench.keep(run)


def _constant(bench: Bench, name: str, server: Server, request: str, shape: Shape) -> Run:
    asked = CONSTANT[request]
    buckets = {(key, value): hits for key, value, hits in asked.charges}
    before = _held(server, list(buckets))
    warm = h2load(server.port, asked.body, shape, min(_CLOSED_WARM_UP, bench.seconds), bench.directory)
    meter = Meter(server.pids, server.redis_pids, [])
    calls = server.script_calls()
    meter.start()
    load = h2load(server.port, asked.body, shape, bench.seconds, bench.directory)
    meter.stop()
    calls = server.script_calls() - calls
    if before:
        done = warm.decisions + load.decisions
        charged = {bucket: before[bucket] + hits * done for bucket, hits in buckets.items()}
        # At the end of a run, every caller has a call in flight.
        reconciliation.check_roughly(server, charged, 2 * shape.connections * shape.streams)
    if server.service is not None and server.redis:
        assert 0 == metric(server.service, "ratelimit_service_store_deadline_missed"), (
            "calls without a decision"
        )
    return Run(
        name,
        server.name,
        request,
        shape,
        load.seconds,
        load.decisions,
        load.decisions / load.seconds,
        load.latency,
        meter.server_cpu / load.decisions * 1e6,
        meter.redis_cpu / load.decisions * 1e6,
        calls / load.decisions,
        generator=load.generator,
        others=meter.others,
    )


def _held(server: Server, buckets: list[reconciliation.Bucket]) -> dict[reconciliation.Bucket, int]:
    """Return the counters before a run; nothing if the server does not report or count."""
    if server.service is not None:
        return reconciliation.reported_use(server, buckets)
    with suppress(reconciliation.Unknown):
        return reconciliation.reported_use(server, buckets)
    return {}


def _replayed(bench: Bench, name: str, server: Server, traffic: str, shape: Shape) -> Run:
    done = replay(server, traffic, shape, bench.seconds)
    if server.service is not None:
        assert not done.errors, f"{done.errors} calls were answered with an error"
        settle(server, expected(traffic, done.sent))
    return run_of(name, server, traffic.partition(":")[0], shape, done)


def open_loop(
    bench: Bench,
    name: str,
    server: Server,
    traffic: str,
    rate: float,
    seconds: float,
    *,
    shape: Shape,
    at: Mapping[float, Callable[[], None]] | None = None,
) -> Run:
    """Run an open loop. Errors are counted in `extra`; all charges must be in the store."""
    done = replay(server, traffic, shape, seconds, rate=rate, at=at)
    settle(server, expected(traffic, done.sent))
    run = run_of(name, server, traffic.partition(":")[0], shape, done)
    run.offered = rate
    return run


def settle(server: Server, charged: Mapping[reconciliation.Bucket, int]) -> int:
    """Wait until the counters equal the charges. Raises AssertionError after the store's longest delay."""
    reconciliation.wait_until_idle(server)
    until = time.monotonic() + _SETTLES_WITHIN
    while time.monotonic() < until:
        with suppress(AssertionError):
            return reconciliation.check_exactly(server, charged)
        time.sleep(0.2)
    return reconciliation.check_exactly(server, charged)


def run_of(name: str, server: Server, request: str, shape: Shape, done: ReplayResult) -> Run:
    """Return the report of bench.replay as a Run."""
    decisions = max(1, done.decisions)
    return Run(
        name,
        server.name,
        request,
        shape,
        done.seconds,
        done.decisions,
        done.decisions / done.seconds,
        done.latency,
        done.meter.server_cpu / decisions * 1e6,
        done.meter.redis_cpu / decisions * 1e6,
        done.calls,
        generator=done.generator,
        others=done.meter.others,
        extra={"errors": done.errors, "refused": done.refused},
    )
