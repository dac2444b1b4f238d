"""The cost of a decision by stage, inside one process: no network, no Redis, the real parts with everything switched on.

    python -m bench.stages [SECONDS]

Clocks stand where the ports are (ports.py, service.Call): between decoding and `submit`, at `CounterStore.hit` and its
`then`, at `Observer.decided` and at `Call.reply`. So this knows nothing of what is inside a stage. What the clocks themselves
cost is measured and taken off. Prints JSON: microseconds a decision, by stage.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from ratelimit_service.core.errors import RateLimitServiceError
from ratelimit_service.core.matching.tree import RuleTree
from ratelimit_service.core.model import Decision, Hit, Request
from ratelimit_service.core.planning import Plan
from ratelimit_service.core.rules.reader import load
from ratelimit_service.observe.metrics import Metrics
from ratelimit_service.observe.observers import Observers
from ratelimit_service.observe.thresholds import Thresholds
from ratelimit_service.observe.tracking import Tracker
from ratelimit_service.ports import Observer, Outcome, Then
from ratelimit_service.service import Answer, RateLimitService
from ratelimit_service.sources.yaml_text import read
from ratelimit_service.stores.memory import MemoryStore
from ratelimit_service.transports import codec

from .machine import SERVER_CORE, pin
from .messages import requests, rules
from .nothing import DECISION
from .servers import ROOT

STAGES = ("decode", "match and plan", "store", "decide", "observe", "encode")
OF_NOTHING = "encode of nothing"
"""What it costs to encode the answer of a server that decides nothing; it is part of what native costs there."""
BATCH = 25
"""Calls that a transport reads together."""
_BATCHES = 40
clock = time.perf_counter


class Watch:
    """Adds up the time of each stage; `mark` ends one, and `pause` ends the time between two."""

    def __init__(self) -> None:
        self.spent = dict.fromkeys(STAGES, 0.0)
        self.marks = dict.fromkeys(STAGES, 0)
        self._at = 0.0

    def begin(self) -> None:
        """From now on."""
        self._at = clock()

    def mark(self, stage: str) -> None:
        """What has passed since the last mark was this stage."""
        now = clock()
        self.spent[stage] += now - self._at
        self.marks[stage] += 1
        self._at = clock()


class WatchedStore(MemoryStore):
    """The memory store between two marks."""

    watch: Watch

    def hit(self, groups: Sequence[Sequence[Hit]], then: Then) -> None:
        """See ports.CounterStore."""
        self.watch.mark("match and plan")

        def answered(outcomes: Sequence[Outcome]) -> None:
            self.watch.mark("store")
            then(outcomes)

        super().hit(groups, answered)


class WatchedObserver:
    """An observer between two marks."""

    def __init__(self, below: Observer, watch: Watch) -> None:
        self._below = below
        self._watch = watch

    def decided(self, plan: Plan, decision: Decision) -> None:
        """See ports.Observer."""
        self._watch.mark("decide")
        self._below.decided(plan, decision)
        self._watch.mark("observe")

    def failed(self, plan: Plan | None, error: RateLimitServiceError) -> None:
        """See ports.Observer."""
        raise error


class WatchedCall:
    """One call, whose reply is encoded."""

    timeout = -1

    def __init__(self, request: Request, watch: Watch) -> None:
        self.request = request
        self._watch = watch

    def reply(self, answer: Answer) -> None:
        """See service.Call."""
        assert isinstance(answer, Decision)
        self._watch.mark("decide")
        codec.encode(answer)
        self._watch.mark("encode")


def measure(traffic: str, seconds: float) -> dict[str, float]:
    """Microseconds a decision, by stage, of requests of a traffic; the best of several rounds, since noise only adds."""
    bodies = [request.body[5:] for request in requests(traffic, BATCH * _BATCHES)]
    watch = Watch()
    store = WatchedStore(time.time)
    store.watch = watch
    metrics = Metrics(10_000)
    observers = Observers(metrics, Thresholds(store, metrics.crossed), Tracker(time.time, 1_000))
    service = RateLimitService(store, WatchedObserver(observers, watch), time.time)
    tree = RuleTree(load([read("rules.yaml", rules().encode())]).domains)
    service.use(tree)
    metrics.config_loaded(tree, time.time())
    best = dict.fromkeys((*STAGES, OF_NOTHING), float("inf"))
    until = clock() + seconds
    done = 0
    own = float("inf")
    while done < 2 or clock() < until:
        watch.spent, watch.marks = dict.fromkeys(STAGES, 0.0), dict.fromkeys(STAGES, 0)
        for at in range(0, len(bodies), BATCH):
            _batch(service, watch, bodies[at : at + BATCH])
        own, encoded = min(own, _cost_of_a_mark()), watch.spent["encode"]
        for stage in STAGES:
            spent = max(0.0, watch.spent[stage] - own * watch.marks[stage])
            best[stage] = min(best[stage], spent / len(bodies) * 1e6)
        watch.begin()
        for _ in bodies:
            codec.encode(DECISION)
        watch.mark("encode")
        best[OF_NOTHING] = min(best[OF_NOTHING], (watch.spent["encode"] - encoded) / len(bodies) * 1e6)
        done += 1
    return best


def _batch(service: RateLimitService, watch: Watch, bodies: Sequence[bytes]) -> None:
    watch.begin()
    calls = [WatchedCall(codec.decode(body), watch) for body in bodies]
    watch.mark("decode")
    service.submit(calls)


def _cost_of_a_mark() -> float:
    """Seconds of a mark that are counted as those of the stage."""
    empty = Watch()
    empty.begin()
    for _ in range(1_000):
        empty.mark("decode")
    return empty.spent["decode"] / 1_000


async def main() -> None:
    """Print what it comes to. On a loop, because the service's parts expect one."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 2.0
    pin(os.getpid(), SERVER_CORE)
    gc.collect()
    gc.freeze()
    sys.stdout.write(json.dumps(measure("charge", seconds)) + "\n")


def measure_apart(seconds: float) -> dict[str, float]:
    """The same in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.stages", str(seconds)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=seconds + 120,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    asyncio.run(main())
