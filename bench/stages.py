"""Measures the cost of a decision by stage, within a process: all features of the service, without network
and Redis.

    python -m bench.stages [SECONDS] [amended]

It measures the times between calls of the ports (ports.py, service.Call): between decoding and `submit`, at
`CounterStore.hit` and its `on_outcomes`, at `Observer.decided` and at `Call.reply`. The cost of the clocks is
measured and subtracted. Prints JSON: microseconds a decision by stage; with "amended", those of a decision
without amendments and with 10,000 of them, measured alternately.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

from ratelimit_service.core.amendments.index import Amendments
from ratelimit_service.core.amendments.model import Amendment, override
from ratelimit_service.core.amendments.target import parse
from ratelimit_service.core.errors import RateLimitServiceError
from ratelimit_service.core.matching.tree import RuleTree
from ratelimit_service.core.model import Decision, Hit, Request
from ratelimit_service.core.plan import Plan
from ratelimit_service.core.rules.reader import load
from ratelimit_service.observe.metrics import Metrics
from ratelimit_service.observe.observers import Observers
from ratelimit_service.observe.thresholds import Thresholds
from ratelimit_service.observe.tracking import Tracker
from ratelimit_service.ports import Observer, OnOutcomes, Outcome
from ratelimit_service.service import Answer, RateLimitService
from ratelimit_service.sources.yaml_text import read
from ratelimit_service.stores.memory import MemoryStore
from ratelimit_service.transports.codec import Codec, Decode, make_encode

from .empty_servers import DECISION
from .machine import SERVER_CORE, pin
from .messages import DOMAIN, LIMIT, TEAMS, requests, rules
from .servers import ROOT, as_installed

STAGES = ("decode", "match and plan", "store", "decide", "observe", "encode")
OF_NOTHING = "encode of nothing"
"""The cost of encoding the answer of a server that decides nothing, which native's measurement includes."""
BATCH = 25
"""Calls in a batch of a transport."""
_BATCHES = 40
clock = time.perf_counter


class Watch:
    """Adds up the times of stages; `mark` ends a stage, `pause` ends the time between two."""

    def __init__(self) -> None:
        self.spent = dict.fromkeys(STAGES, 0.0)
        self.marks = dict.fromkeys(STAGES, 0)
        self.encode = make_encode()
        self._at = 0.0

    def begin(self) -> None:
        """Start the clock."""
        self._at = clock()

    def mark(self, stage: str) -> None:
        """Add the time since the last mark to a stage."""
        now = clock()
        self.spent[stage] += now - self._at
        self.marks[stage] += 1
        self._at = clock()


class WatchedStore(MemoryStore):
    """The memory store between two marks."""

    watch: Watch

    def hit(self, groups: Sequence[Sequence[Hit]], on_outcomes: OnOutcomes) -> None:
        """See ports.CounterStore."""
        self.watch.mark("match and plan")

        def answered(outcomes: Sequence[Outcome]) -> None:
            self.watch.mark("store")
            on_outcomes(outcomes)

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
    gone = False

    def __init__(self, request: Request, watch: Watch) -> None:
        self.request = request
        self._watch = watch

    def reply(self, answer: Answer) -> None:
        """See service.Call."""
        assert isinstance(answer, Decision)
        self._watch.mark("decide")
        self._watch.encode(answer)
        self._watch.mark("encode")


class Rounds:
    """The service with all features, and requests of a traffic that it decides repeatedly."""

    def __init__(self, traffic: str, amendments: Iterable[Amendment] = (), more_rules: str = "") -> None:
        self._bodies = [request.body[5:] for request in requests(traffic, BATCH * _BATCHES)]
        self._watch = watch = Watch()
        store = WatchedStore(time.time)
        store.watch = watch
        metrics = Metrics(10_000)
        observers = Observers(metrics, Thresholds(store, metrics.crossed), Tracker(time.time, 1_000))
        index = Amendments()
        for amendment in amendments:
            index.put(amendment)
        observer = WatchedObserver(observers, watch)
        self._service = RateLimitService(store, observer, time.time, amendments=index)
        tree = RuleTree(load([read("rules.yaml", (rules() + more_rules).encode())]).domains)
        self._service.use(tree)
        metrics.config_loaded(tree, time.time())
        codec = Codec()
        self._decode = codec.decode
        watch.encode = codec.encode_for(tree)
        self._own = min([_cost_of_a_mark() for _ in range(10)])

    def __call__(self) -> dict[str, float]:
        """Run a round, and return the microseconds a decision by stage."""
        watch, bodies = self._watch, self._bodies
        watch.spent, watch.marks = dict.fromkeys(STAGES, 0.0), dict.fromkeys(STAGES, 0)
        for at in range(0, len(bodies), BATCH):
            _batch(self._service, self._decode, watch, bodies[at : at + BATCH])
        self._own, encoded = min(self._own, _cost_of_a_mark()), watch.spent["encode"]
        found = {
            stage: max(0.0, watch.spent[stage] - self._own * watch.marks[stage]) / len(bodies) * 1e6
            for stage in STAGES
        }
        watch.begin()
        for _ in bodies:
            watch.encode(DECISION)
        watch.mark("encode")
        found[OF_NOTHING] = (watch.spent["encode"] - encoded) / len(bodies) * 1e6
        return found


def by_turns(rounds: Sequence[Rounds], seconds: float) -> list[dict[str, float]]:
    """Run rounds of each alternately, and return the best time of each stage, since noise only adds."""
    best = [dict.fromkeys((*STAGES, OF_NOTHING), float("inf")) for _ in rounds]
    until = clock() + seconds
    done = 0
    while done < 2 or clock() < until:
        for known, again in zip(best, rounds, strict=True):
            known.update({stage: min(known[stage], spent) for stage, spent in again().items()})
        done += 1
    return best


def measure(traffic: str, seconds: float) -> dict[str, float]:
    """Return the microseconds a decision by stage, for a traffic."""
    (found,) = by_turns([Rounds(traffic)], seconds)
    return found


def amended_cost(seconds: float) -> dict[str, float]:
    """Microseconds a decision of mixed traffic, by what its 10,000 teams have.

    "without": nothing. "with": an amendment each, of ten limits in all, as where limits come in tiers. "own":
    an amendment each, each with a limit of its own. "rules": the same limits, and a rule for each.
    """
    tiers = [override(parse(DOMAIN, f"team=t{team}"), LIMIT - 1 - team % 10) for team in range(TEAMS)]
    own = [override(parse(DOMAIN, f"team=t{team}"), LIMIT - team) for team in range(TEAMS)]
    each = "".join(
        f"  - {{key: team, value: t{team}, rate_limit: {{unit: year, tokens_per_unit: {LIMIT - team}}}}}\n"
        for team in range(TEAMS)
    )
    rounds = [Rounds("mixed"), Rounds("mixed", tiers), Rounds("mixed", own), Rounds("mixed", more_rules=each)]
    gc.collect()
    gc.freeze()
    totals = [sum(found[stage] for stage in STAGES) for found in by_turns(rounds, seconds)]
    return dict(zip(("without", "with", "own", "rules"), totals, strict=True))


def _batch(service: RateLimitService, decode: Decode, watch: Watch, bodies: Sequence[bytes]) -> None:
    watch.begin()
    calls = [WatchedCall(decode(body), watch) for body in bodies]
    watch.mark("decode")
    service.submit(calls)


def _cost_of_a_mark() -> float:
    """Measure the time of a mark, which is counted in its stage."""
    empty = Watch()
    empty.begin()
    for _ in range(1_000):
        empty.mark("decode")
    return empty.spent["decode"] / 1_000


async def main() -> None:
    """Print the result. Runs on an event loop, which the service needs."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 2.0
    pin(os.getpid(), SERVER_CORE)
    gc.collect()
    gc.freeze()
    of_amendments = sys.argv[2:] == ["amended"]
    found = amended_cost(seconds) if of_amendments else measure("charge", seconds)
    sys.stdout.write(json.dumps(found) + "\n")


def measure_apart(seconds: float, *what: str) -> dict[str, float]:
    """Run this in a separate process; `what` is "amended" for the cost of amendments."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "bench.stages", str(seconds), *what],
        cwd=ROOT,
        env=os.environ | as_installed(),
        capture_output=True,
        text=True,
        check=True,
        timeout=seconds + 120,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    asyncio.run(main())
