"""The result of a soak, as a table and as a verdict."""

from __future__ import annotations

import statistics
from collections import Counter
from datetime import UTC, datetime

from .callers import ABORTED, JSON, STREAM
from .parts import Replica
from .schedule import SoakResult

WARM_UP = 300.0
"""Seconds in which the caches of a replica fill; in a short soak, a third of its time."""
_GROWTH, _MORE_DESCRIPTORS = 0.05, 8
"""The allowed growth of a replica after its warm-up: the share of its memory, and the number of descriptors.
"""
_MIB = 2**20


def books(soaked: SoakResult) -> tuple[int, int]:
    """Return the tokens that were lost, and those that were counted twice."""
    charged, held = soaked.books.charged, soaked.held
    return (charged - held).total(), (held - charged).total()


def unexplained(soaked: SoakResult) -> list[str]:
    """Return failed requests, and failed charges of Envoy, that no fault explains."""
    found = [
        f"{failure.why}, at {datetime.fromtimestamp(failure.ended, UTC):%H:%M:%S}"
        for failure in soaked.books.failures
        if soaked.explains(failure.began, failure.ended) is None
    ]
    stray = soaked.envoy["errors"] - sum(fault.charge_errors for fault in soaked.faults)
    return [*found, *(["a call of Envoy failed"] * stray)]


def memory(replica: Replica, seconds: float) -> tuple[float, float, float]:
    """Return the MiB after the warm-up, at the end, and at most; the first two are medians of a tenth of the
    samples.
    """
    first = replica.samples[0].at
    warm_up = min(WARM_UP, seconds / 3)
    settled = [sample for sample in replica.samples if sample.at - first >= warm_up] or replica.samples
    some = max(1, len(settled) // 10)
    return (
        statistics.median(sample.resident for sample in settled[:some]) / _MIB,
        statistics.median(sample.resident for sample in settled[-some:]) / _MIB,
        max(sample.resident for sample in replica.samples) / _MIB,
    )


def lasting(soaked: SoakResult) -> list[Replica]:
    """Return the replicas that served until the end."""
    end = max(replica.samples[-1].at for replica in soaked.replicas if replica.samples)
    return [replica for replica in soaked.replicas if replica.samples and replica.samples[-1].at >= end]


def problems(soaked: SoakResult) -> list[str]:
    """Return everything that is wrong; an empty list means success."""
    found = []
    lost, doubled = books(soaked)
    if lost or doubled:
        found.append(f"{lost} tokens were lost, and {doubled} counted twice")
    found += unexplained(soaked) + soaked.stray_lines
    for replica in soaked.replicas:
        if replica.code != 0:
            found.append(f"replica {replica.name} ended with {replica.code}")
        if dropped := replica.counted["ratelimit_service_store_journal_dropped"]:
            found.append(f"replica {replica.name} dropped {dropped:.0f} hits")
    for replica in lasting(soaked):
        before, after, _ = memory(replica, soaked.seconds)
        if after > before * (1 + _GROWTH):
            found.append(f"replica {replica.name} grew from {before:.1f} to {after:.1f} MiB")
        few = replica.samples[len(replica.samples) // 3].descriptors
        if (many := replica.samples[-1].descriptors) > few + _MORE_DESCRIPTORS:
            found.append(f"replica {replica.name} had {few} descriptors open, and then {many}")
    return found


def table(soaked: SoakResult) -> str:
    """Return the soak as a Markdown table."""
    record, envoy = soaked.books, soaked.envoy
    lost, doubled = books(soaked)
    by_fault = Counter[str]()
    for failure in record.failures:
        if (fault := soaked.explains(failure.began, failure.ended)) is not None:
            by_fault[fault.name] += 1
    away = [fault for fault in soaked.faults if fault.name.startswith("Redis")]
    counted = {
        name: sum(replica.counted[name] for replica in soaked.replicas) for name in soaked.replicas[0].counted
    }
    loads = counted["ratelimit_service_config_load_success"]
    refused_loads = counted["ratelimit_service_config_load_error"]
    rows = [
        ("run", f"{datetime.now(UTC):%Y-%m-%d}, {soaked.seconds / 60:.0f} minutes, {soaked.transport}"),
        ("requests", f"{record.requests:,}, {record.requests / soaked.seconds:.0f} a second, two calls each"),
        *((f"served: {kind}", f"{record.served[kind]:,}") for kind in (JSON, STREAM, ABORTED)),
        ("refused by a budget (429)", f"{record.refused:,}"),
        ("tokens charged, in buckets", f"{record.charged.total():,}, {len(record.charged):,}"),
        ("tokens lost, counted twice", f"{lost}, {doubled}"),
        *(
            (
                f"{fault.name}, and all is settled after {fault.ended - fault.began:.1f} s",
                f"{by_fault[fault.name]:,} requests and {fault.charge_errors:,} calls of Envoy got an error",
            )
            for fault in away
        ),
        ("errors that no fault explains", str(len(unexplained(soaked)))),
        ("lines of the log, from warning on, that none explains", str(len(soaked.stray_lines))),
        ("replicas replaced, their exit codes", _replaced(soaked)),
        ("rules loaded, refused", f"{loads:.0f}, {refused_loads:.0f} (by all replicas)"),
        ("certificate renewed", f"{soaked.renewed} times"),
        ("connections of Envoy, handshakes of TLS that failed", _connections(envoy)),
        *(
            (f"memory of replica {replica.name}", _memory(replica, soaked.seconds))
            for replica in lasting(soaked)
        ),
    ]
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def _replaced(soaked: SoakResult) -> str:
    ended = [replica for replica in soaked.replicas if replica not in lasting(soaked)]
    return f"{len(ended)}, {', '.join(str(replica.code) for replica in ended)}"


def _connections(envoy: dict[str, int]) -> str:
    failed = envoy.get("upstream_cx_connect_fail", 0)
    return (
        f"{envoy.get('upstream_cx_total', 0):,}, {failed} could not connect; "
        f"{envoy.get('ssl.connection_error', 0)}"
    )


def _memory(replica: Replica, seconds: float) -> str:
    before, after, most = memory(replica, seconds)
    return f"{before:.1f} MiB after the warm-up, {after:.1f} MiB at the end, {most:.1f} MiB at most"
