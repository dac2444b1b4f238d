"""The capacity model of docs/scaling.md: measured constants, and the resources for three sizes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ratelimit_service.settings.table import documented

from .results import WIDE, Results, Run, named

UTILISATION = 0.6
"""The planned utilization of a core: the rest is for bursts, and for the load of a failed replica."""
FEWEST = 2
"""The fewest replicas, so that one may fail."""
SIZES = (1_000, 100_000, 10_000_000)
"""Decisions a second."""
_SPARSE = 2_000
"""Decisions a second of a replica below which a batch has one decision."""
_SHARES = (0.5, 0.1, 0.01)
"""The share of the largest tenant in the traffic."""


@dataclass(frozen=True)
class Cost:
    """The cost of a decision: µs of a replica, µs of Redis, and script calls."""

    replica: float
    redis: float
    calls: float

    @classmethod
    def of(cls, run: Run) -> Cost:
        """Return the cost in a run."""
        return cls(run.server_cpu, run.redis_cpu, run.calls)


@dataclass(frozen=True)
class Constants:
    """The measured constants of the model."""

    idle: Cost
    """One caller in a closed loop."""
    busy: Cost
    """A hundred callers, mixed traffic, one Redis."""
    cluster: Cost
    """The same with a Cluster of three, where a batch is one call for each slot."""
    hot: Cost
    """A hundred callers, all of one bucket."""
    redis_bytes: float
    memory_bytes: float
    connections: int
    """The most connections of a replica to one Redis."""

    @classmethod
    def of(cls, results: Results) -> Constants | None:
        """Return the constants of the results; None if a measurement is missing."""
        idle = results.find("idle/native/redis")
        busy = results.find(named("native", "redis", "mixed", WIDE))
        cluster = results.find(named("native", "cluster", "mixed", WIDE))
        hot = results.find(named("native", "redis", "charge", WIDE))
        cold = results.find(named("native", "redis", "cold", WIDE))
        million = results.find("million/native/memory")
        if not (idle and busy and cluster and hot and cold and million):
            return None
        pool = next(setting.default for setting in documented() if setting.name == "REDIS_POOL_SIZE")
        return cls(
            Cost.of(idle),
            Cost.of(busy),
            Cost.of(cluster),
            Cost.of(hot),
            cold.extra["redis_bytes"] / max(1, cold.extra["redis_keys"]),
            million.extra["bytes"],
            int(pool),
        )


@dataclass(frozen=True)
class Plan:
    """The resources for a rate of decisions."""

    rate: int
    replicas: int
    shards: int
    """Primaries of Redis; 1 is a single server."""
    cost: Cost
    calls: float
    """Script calls a second, from all replicas to all shards."""
    connections: int
    """Connections to each shard."""


def plan(constants: Constants, rate: int) -> Plan:
    """Return the resources, by the formulas of the page in their order."""
    cost, cluster = constants.busy, False
    replicas = _needed(rate, cost.replica, FEWEST)
    if rate / replicas < _SPARSE:
        cost = constants.idle
        replicas = _needed(rate, cost.replica, FEWEST)
    if load(rate, cost.redis) > UTILISATION:
        cost, cluster = constants.cluster, True
        replicas = _needed(rate, cost.replica, FEWEST)
    shards = _needed(rate, cost.redis, 1)
    if cluster:
        shards = max(3, shards)  # a Cluster needs a majority of three
    return Plan(rate, replicas, shards, cost, rate * cost.calls, replicas * constants.connections)


def load(rate: float, microseconds: float) -> float:
    """Busy cores."""
    return rate * microseconds / 1e6


def _needed(rate: float, microseconds: float, fewest: int) -> int:
    return max(fewest, math.ceil(load(rate, microseconds) / UTILISATION))


def hottest(constants: Constants) -> float:
    """Return the decisions a second for one bucket that one shard can count."""
    return UTILISATION * 1e6 / constants.hot.redis


def tables(results: Results) -> dict[str, str]:
    """Return the blocks of docs/scaling.md."""
    constants = Constants.of(results)
    if constants is None:
        missing = "Not measured: this needs a whole run of `make bench`."
        return {"constants": missing, "sizes": missing, "hot": missing}
    return {
        "constants": _constants(constants),
        "sizes": _sizes(constants),
        "hot": _hot(constants),
    }


def _constants(constants: Constants) -> str:
    rows = [
        "| | replica, µs | Redis, µs | script calls | decisions a second and core of a replica |",
        "|---|---|---|---|---|",
    ]
    for name, cost in (
        ("one caller at a time", constants.idle),
        ("mixed traffic, 100 callers, one Redis", constants.busy),
        ("mixed traffic, 100 callers, Cluster", constants.cluster),
        ("one bucket, 100 callers, one Redis", constants.hot),
    ):
        rows.append(
            f"| {name} | {cost.replica:.1f} | {cost.redis:.1f} | {cost.calls:.3f} | "
            f"{1e6 / cost.replica:,.0f} |"
        )
    return "\n".join(
        [
            *rows,
            "",
            "| constant | value |",
            "|---|---|",
            f"| bytes of a bucket and window in Redis | {constants.redis_bytes:.0f} |",
            f"| bytes of a bucket and window in the memory store | {constants.memory_bytes:.0f} |",
            f"| connections of a replica to each Redis, at most | {constants.connections} |",
            f"| share of a core that is planned for | {UTILISATION:.0%} |",
        ]
    )


def _sizes(constants: Constants) -> str:
    rows = [
        "| decisions/s | replicas (a core each) | Redis | cores of it that are busy | script calls/s | "
        "connections to each Redis | memory of a million buckets |",
        "|---|---|---|---|---|---|---|",
    ]
    for rate in SIZES:
        planned = plan(constants, rate)
        # Bytes for one are megabytes for a million.
        redis = "one server" if planned.shards == 1 else f"Cluster of {planned.shards:,}"
        rows.append(
            f"| {rate:,} | {planned.replicas:,} | {redis} | {load(rate, planned.cost.redis):,.2f} "
            f"| {planned.calls:,.0f} | {planned.connections:,} | {constants.redis_bytes:,.0f} MB |"
        )
    return "\n".join(rows)


def _hot(constants: Constants) -> str:
    limit = hottest(constants)
    rows = [
        f"One bucket takes {limit:,.0f} decisions a second ({UTILISATION:.0%} of a core at "
        f"{constants.hot.redis:.1f} µs each).",
        "",
        "| the largest tenant sends | it is the limit from, decisions/s in all | parts that its budget needs "
        f"at {SIZES[-1]:,}/s |",
        "|---|---|---|",
    ]
    for share in _SHARES:
        parts = math.ceil(SIZES[-1] * share / limit)
        rows.append(f"| {share:.0%} of the traffic | {limit / share:,.0f} | {parts:,} |")
    return "\n".join(rows)
