"""The results of runs. Every report is computed from them; they can be saved as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

GENERATOR_LIMIT = 0.9
"""From this utilization of its core on, the load generator limits a run."""


class Shape(NamedTuple):
    """The number of connections, and of streams on each."""

    connections: int
    streams: int

    def __str__(self) -> str:
        return f"{self.connections} × {self.streams}"


WIDE, NARROW, SINGLE = Shape(4, 25), Shape(100, 1), Shape(1, 1)
"""A gateway; a hundred small callers; a single caller."""


def named(transport: str, store: str, request: str, shape: Shape) -> str:
    """Return the name of a closed-loop run of the service."""
    return f"{transport}/{store}/{request}/{shape}"


@dataclass
class Latency:
    """Percentiles of latency in milliseconds."""

    p50: float
    p90: float
    p99: float
    p999: float
    worst: float
    over_20ms: int = 0
    """The share of calls above 20 ms, Envoy's default timeout."""

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Self:
        """Return the percentiles of latencies in seconds."""
        ordered = sorted(seconds)
        p50, p90, p99, p999 = (percentile(ordered, share) * 1000 for share in (0.5, 0.9, 0.99, 0.999))
        late = sum(1 for value in ordered if value > 0.020)
        return cls(p50, p90, p99, p999, ordered[-1] * 1000, late)


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return a percentile by nearest rank."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


@dataclass
class Run:
    """A run of a load against a server.

    `offered` is the rate of an open loop, 0 for a closed one. CPU is in microseconds a decision. `calls` is
    script calls a decision, with Redis. `extra` has values of this scenario only.
    """

    name: str
    server: str
    request: str
    shape: Shape
    seconds: float
    decisions: int
    rate: float
    latency: Latency
    server_cpu: float = 0.0
    redis_cpu: float = 0.0
    calls: float = 0.0
    offered: float = 0.0
    generator: float = 0.0
    """The utilization of its core by the load generator."""
    others: float = 0.0
    """The share of a core that other processes used."""
    extra: dict[str, float] = field(default_factory=dict)

    @property
    def generator_bound(self) -> bool:
        """Whether the load generator was the limit."""
        return self.generator >= GENERATOR_LIMIT


@dataclass
class Results:
    """All runs, the stages of a decision, failed scenarios, and the machine."""

    machine: dict[str, str]
    runs: list[Run] = field(default_factory=list)
    stages: dict[str, float] = field(default_factory=dict)
    """Microseconds a decision, by stage, within a process."""
    amended: dict[str, float] = field(default_factory=dict)
    """Microseconds a decision within a process, measured alternately: see stages.amended."""
    failures: dict[str, str] = field(default_factory=dict)
    """The errors of failed scenarios, by name."""

    def find(self, name: str) -> Run | None:
        """Return the run of this name; None if there is none."""
        return next((run for run in self.runs if run.name == name), None)

    def unit(self, shape: Shape) -> float | None:
        """Decisions a second of grpc.aio that decides nothing, in the same measurement."""
        run = self.find(f"nothing/grpcio/{shape}")
        return run.rate if run else None

    def dump(self, path: Path) -> None:
        """Save the results as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n", "utf-8")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Load saved results."""
        data: dict[str, Any] = json.loads(path.read_text("utf-8"))
        runs = [
            Run(**{**run, "shape": Shape(*run["shape"]), "latency": Latency(**run["latency"])})
            for run in data.pop("runs")
        ]
        return cls(runs=runs, **data)
