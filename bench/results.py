"""What runs came to, as data: everything that is reported is made from this, and it can be written down and read again."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

GENERATOR_LIMIT = 0.9
"""The share of its core from which on it is the load generator, and not the server, that a run measures."""


class Shape(NamedTuple):
    """How many connections, and streams on each."""

    connections: int
    streams: int

    def __str__(self) -> str:
        return f"{self.connections} × {self.streams}"


WIDE, NARROW, SINGLE = Shape(4, 25), Shape(100, 1), Shape(1, 1)
"""As a gateway calls; as a hundred small ones; as one caller who waits for each answer."""


def named(transport: str, store: str, request: str, shape: Shape) -> str:
    """The name of a run of the service in a closed loop."""
    return f"{transport}/{store}/{request}/{shape}"


@dataclass
class Latency:
    """In milliseconds: so many in a hundred calls took no longer."""

    p50: float
    p90: float
    p99: float
    p999: float
    worst: float
    over_20ms: int = 0
    """How many calls took longer than that, which is the time that Envoy gives us."""

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Self:
        """Of the seconds that calls took, in any order."""
        ordered = sorted(seconds)
        p50, p90, p99, p999 = (percentile(ordered, share) * 1000 for share in (0.5, 0.9, 0.99, 0.999))
        late = sum(1 for value in ordered if value > 0.020)
        return cls(p50, p90, p99, p999, ordered[-1] * 1000, late)


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that so large a share of all does not exceed (nearest rank)."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


@dataclass
class Run:
    """One run of one load against one server.

    `offered` is the rate of an open loop, 0 for a closed one. CPU is in microseconds a decision. `calls` is script calls a
    decision, where there was a Redis. `extra` is what only this scenario has.
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
    """The share of its core that the load generator used."""
    others: float = 0.0
    """The share of one core that everybody else used."""
    extra: dict[str, float] = field(default_factory=dict)

    @property
    def generator_bound(self) -> bool:
        """Whether this says more about the load generator than about the server."""
        return self.generator >= GENERATOR_LIMIT


@dataclass
class Results:
    """All runs, the stages of a decision, what did not come to an end, and the machine."""

    machine: dict[str, str]
    runs: list[Run] = field(default_factory=list)
    stages: dict[str, float] = field(default_factory=dict)
    """Microseconds a decision, by stage, inside the process."""
    amended: dict[str, float] = field(default_factory=dict)
    """Microseconds a decision inside the process, by turns: see stages.amended."""
    failures: dict[str, str] = field(default_factory=dict)
    """What became of scenarios that did not come to their end, by name."""

    def find(self, name: str) -> Run | None:
        """The run of a name; None where there was none."""
        return next((run for run in self.runs if run.name == name), None)

    def unit(self, shape: Shape) -> float | None:
        """Decisions a second of grpc.aio that decides nothing, in this very measurement."""
        run = self.find(f"nothing/grpcio/{shape}")
        return run.rate if run else None

    def dump(self, path: Path) -> None:
        """Write everything down as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n", "utf-8")

    @classmethod
    def load(cls, path: Path) -> Self:
        """What was written down."""
        data: dict[str, Any] = json.loads(path.read_text("utf-8"))
        runs = [
            Run(**{**run, "shape": Shape(*run["shape"]), "latency": Latency(**run["latency"])})
            for run in data.pop("runs")
        ]
        return cls(runs=runs, **data)
