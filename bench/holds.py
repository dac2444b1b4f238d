"""Simulates holds: how far parallel requests overshoot a budget, and which requests holds refuse without
need.

    python -m bench.holds [--write]

Requests arrive at a budget at random, run for a random time, and are charged a random cost when they end,
unless their caller has hung up. The service and the memory store are those that serve; only the clock is not.
The seed is fixed, so a run prints the same numbers each time. `--write` puts them into docs/holds.md and
draws docs/images/holds*.svg.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from ratelimit_service.core.errors import RateLimitServiceError
from ratelimit_service.core.holds.hit import HoldHit, Op
from ratelimit_service.core.holds.ids import HoldIds
from ratelimit_service.core.holds.state import LEARN, Holds
from ratelimit_service.core.matching.tree import RuleTree
from ratelimit_service.core.model import OK, Decision, Descriptor, Entry, Request
from ratelimit_service.core.plan import Plan
from ratelimit_service.core.rules.reader import load
from ratelimit_service.service import RateLimitService
from ratelimit_service.sources.yaml_text import read
from ratelimit_service.stores.holds import AllHolds
from ratelimit_service.stores.memory import MemoryStore
from testing.page_blocks import fill_page

from .plots import Line, lines

DOCS = Path(__file__).parents[1] / "docs"

HOUR = 3_600
START = 1_795_262_400
"""2026-11-21T12:00:00Z, a whole hour."""
_RETRIES = 2


@dataclass(frozen=True)
class Scene:
    """A scene at a budget of an hour, which is used up after about half of it."""

    name: str
    in_flight: float = 20
    """The mean number of requests in flight."""
    spread: float = 0.5
    """The standard deviation of a cost, as a share of its mean (log-normal)."""
    seconds: float = 20
    """The mean time in flight."""
    aborts: float = 0.0
    """The share of requests whose caller hangs up: they are not charged."""
    outage: tuple[int, int] = (0, 0)
    """The minutes in which the upstream fails all requests after a second."""
    ttl: int = 60
    replicas: int = 1
    burst: int = 0
    """So many requests at once at the moment when nine tenths of the budget are used."""


SCENES = (
    Scene("2 in flight", in_flight=2),
    Scene("20 in flight"),
    Scene("200 in flight", in_flight=200),
    Scene("equal costs", spread=0.01),
    Scene("costs that differ (sd = 2 × mean)", spread=2.0),
    Scene("streams of 2 s", in_flight=4, seconds=2),
    Scene("streams of 2 s, hold_ttl: 6s", in_flight=4, seconds=2, ttl=6),
    Scene("streams of 120 s, twice the ttl", seconds=120),
    Scene("30 % aborted", aborts=0.3),
    Scene("80 % aborted", aborts=0.8),
    Scene("upstream down for 10 minutes", outage=(15, 25)),
    Scene("two replicas", replicas=2),
    Scene("200 at once near the limit", burst=200),
)

MEAN = 1_000
"""Tokens of a request."""


class Way(NamedTuple):
    """A way to hold: the keys of the rule, whether ids are returned, and the implementation of a bucket's
    holds.
    """

    rule: str
    ids: bool = False
    holds: Callable[[], Holds] = Holds


class CountedHolds(Holds):
    """Holds that measure the share of charged checks instead of the share of holds that do not expire."""

    def apply(self, hit: HoldHit) -> tuple[int, int]:
        """Apply a hit."""
        share = self.share
        result = super().apply(hit)
        self.share = share + LEARN * (1 - share) if hit.op is Op.CHARGE else share
        if hit.op is Op.TAKE:
            self.share = share * (1 - LEARN)
        return result


WAYS = {
    "off": Way(""),
    "fixed": Way(f"hold: {MEAN}"),
    "mean": Way("hold: auto"),
    "p90": Way("hold: auto\n    hold_strictness: p90"),
    "exact": Way("hold: auto", ids=True),
    "exact p90": Way("hold: auto\n    hold_strictness: p90", ids=True),
}
REJECTED = {"share of charges": Way("hold: auto", holds=CountedHolds)}


class Result(NamedTuple):
    """The overshoot in requests of the mean cost, and shares of all requests before the budget was used
    up.
    """

    overshoot: float
    refused: float
    """Requests that were refused because of holds at each of their attempts, before the budget was used
    up.
    """


class _Ask:
    """A call that keeps its answer."""

    timeout = -1
    gone = False

    def __init__(self, request: Request) -> None:
        self.request = request
        self.answer: Decision | None = None

    def reply(self, answer: Decision | RateLimitServiceError) -> None:
        assert isinstance(answer, Decision), answer
        self.answer = answer


class _Unobserved:
    def decided(self, plan: Plan, decision: Decision) -> None:
        """See ports.Observer."""

    def failed(self, plan: Plan | None, error: RateLimitServiceError) -> None:
        """See ports.Observer."""
        raise error


class Simulation:
    """One scene with one way to hold."""

    def __init__(self, scene: Scene, way: Way, seed: int) -> None:
        self._scene = scene
        self._way = way
        self._random = random.Random(seed)
        self._now = float(START)
        self._rate = scene.in_flight / scene.seconds
        self.limit = int(self._rate * HOUR / 2 * MEAN * max(0.05, 1 - scene.aborts))
        store = MemoryStore(lambda: self._now)
        store.holds = AllHolds(2**24, way.holds)
        rule = f"  - key: team\n    rate_limit: {{unit: hour, tokens_per_unit: {self.limit}}}\n"
        if way.rule:
            rule += f"    {way.rule}\n    hold_ttl: {scene.ttl}s\n"
        tree = RuleTree(load([read("rules.yaml", f"domain: d\ndescriptors:\n{rule}")]).domains)
        self._services = []
        for number in range(scene.replicas):
            ids = HoldIds(_nonces(number), b"secret")
            service = RateLimitService(store, _Unobserved(), lambda: self._now, ids=ids)
            service.use(tree)
            self._services.append(service)
        self._store = store
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._asked = self._refused = 0
        self._burst = scene.burst

    def play(self) -> Result:
        """Simulate an hour that teaches the cost of requests, at a tenth of the load, and then the measured
        hour.
        """
        self._arrivals(START, self._rate / 10, HOUR)
        self._run(START + HOUR)
        self._asked = self._refused = 0
        self._arrivals(START + HOUR, self._rate, HOUR)
        self._run(START + 2 * HOUR - 1)
        over = max(0, self._used() - self.limit) / MEAN
        return Result(over, self._refused / max(1, self._asked))

    def _arrivals(self, begin: float, rate: float, seconds: float) -> None:
        at = begin + self._random.expovariate(rate)
        while at < begin + seconds:
            self._at(at, self._arrive)
            at += self._random.expovariate(rate)

    def _at(self, when: float, do: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._numbers), do))

    def _run(self, until: float) -> None:
        while self._events and self._events[0][0] <= until:
            self._now, _, do = heapq.heappop(self._events)
            do()
        self._now = until

    def _used(self) -> int:
        return max(self._store._counters.values(), default=0) if self._now >= START + HOUR else 0

    def _arrive(self) -> None:
        self._attempt(0)
        if self._burst and self._now > START + HOUR and self._used() > 0.9 * self.limit:
            for _ in range(self._burst):
                self._attempt(0)
            self._burst = 0

    def _attempt(self, retries: int) -> None:
        service = self._random.choice(self._services)
        decision = self._ask(service, 0, ())
        before = self._used() < self.limit
        self._asked += before and not retries
        if decision.code is OK:
            self._begin(decision.hold)
        elif decision.in_flight is not None:
            if retries < _RETRIES:
                self._at(self._now + decision.in_flight[2], lambda: self._attempt(retries + 1))
            else:
                self._refused += before

    def _begin(self, name: str) -> None:
        scene, draw = self._scene, self._random
        minute = (self._now - START - HOUR) / 60
        seconds = draw.expovariate(1 / scene.seconds)
        if scene.outage[0] <= minute < scene.outage[1]:
            self._at(self._now + 1, lambda: self._end(name, 0))
        elif draw.random() < scene.aborts:
            self._at(self._now + seconds * draw.random(), lambda: self._end(name, 0))
        else:
            deviation = math.sqrt(math.log(1 + scene.spread**2))
            cost = max(1, round(MEAN * draw.lognormvariate(-(deviation**2) / 2, deviation)))
            self._at(self._now + seconds, lambda: self._end(name, cost))

    def _end(self, name: str, cost: int) -> None:
        if cost or self._way.ids:  # without ids, gateways send nothing for a request without usage
            service = self._random.choice(self._services)
            self._ask(service, cost, (name.encode() or b"-",) if self._way.ids else ())

    def _ask(self, service: RateLimitService, hits: int, returned: tuple[bytes, ...]) -> Decision:
        descriptor = Descriptor((Entry(b"team", b"a"),), hits)
        call = _Ask(Request("d", (descriptor,), key=b"team=a", returned=returned))
        service.submit([call])
        assert call.answer is not None
        return call.answer


def _nonces(replica: int) -> Callable[[], bytes]:
    numbers = itertools.count(replica << 64)
    return lambda: next(numbers).to_bytes(12, "big")


_SEEDS = range(3)


def mean_of(scene: Scene, way: Way) -> Result:
    """Return the mean of a few runs."""
    results = [Simulation(scene, way, seed).play() for seed in _SEEDS]
    return Result(*[sum(values) / len(results) for values in zip(*results, strict=True)])


def table() -> Iterator[str]:
    """Yield the lines of a table in Markdown: overshoot in requests, and the share of requests refused
    without need.
    """
    ways = WAYS | REJECTED
    yield f"| overshoot in requests; refused | {' | '.join(ways)} |"
    yield f"|---|{'---|' * len(ways)}"
    for scene in SCENES:
        results = [mean_of(scene, way) for way in ways.values()]
        cells = [f"{each.overshoot:.1f}; {each.refused:.1%}".replace("; 0.0%", "") for each in results]
        yield f"| {scene.name} | {' | '.join(cells)} |"


class Sweep(NamedTuple):
    """A plot: scenes that differ in one field, by its values."""

    axis: str
    field: str
    values: tuple[float, ...]


SWEEPS = {
    "": Sweep("requests in flight", "in_flight", (2, 5, 10, 20, 50, 100)),
    "-spread": Sweep("standard deviation of a cost, as a share of its mean", "spread", (0.1, 0.3, 1, 2, 3)),
    "-streams": Sweep("mean seconds of a stream (hold_ttl: 60s)", "seconds", (2, 5, 10, 20, 60, 120)),
    "-aborts": Sweep("share of requests that are aborted", "aborts", (0.05, 0.1, 0.2, 0.4, 0.8)),
}
_LEAST_OVERSHOOT, _LEAST_REFUSED = 0.1, 0.1


def plots() -> Iterator[tuple[str, str]]:
    """Yield the name of each plot and its SVG: the overshoot, and the requests refused without need."""
    for name, (axis, field, values) in SWEEPS.items():
        overshot, refused = [], []
        for way in WAYS:
            results = [(value, mean_of(replace(SCENES[1], **{field: value}), WAYS[way])) for value in values]  # type: ignore[arg-type]
            overshot.append(
                Line(way, [(value, max(each.overshoot, _LEAST_OVERSHOOT)) for value, each in results])
            )
            refused.append(
                Line(way, [(value, max(100 * each.refused, _LEAST_REFUSED)) for value, each in results])
            )
        yield f"holds{name}", lines("Overshoot of a budget", axis, "requests beyond the limit", overshot)
        title = "Requests that holds refused without need"
        yield f"holds{name}-refused", lines(title, axis, "per cent of the requests", refused[1:])


def main() -> None:
    """Print the table; with --write, also put it and the plot into the docs."""
    text = "".join([f"{line}\n" for line in table()])
    sys.stdout.write(text)
    if "--write" in sys.argv:
        fill_page(DOCS / "holds.md", {"holds": text})
        for name, drawing in plots():
            (DOCS / "images" / f"{name}.svg").write_text(drawing)


if __name__ == "__main__":
    main()
