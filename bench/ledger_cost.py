"""Measures what a ledger adds to the cost of a decision, on the memory store and on Redis.

    python -m bench.ledger_cost [SECONDS]

The traffic is bench.messages' "mixed", checks and charges in turn. Each way is measured with and without a
ledger on every rule, by turns, for SECONDS in all: the store alone, given the hits of batches; the service in
this process, from bytes to bytes, without a transport; and the process with its native transport. Prints the
microseconds of CPU time for a decision in the best turn of each, since noise only adds, and the ratio of the
medians. With Redis, its CPU time is included. The package is measured as it is installed if
`make build/compiled.stamp` has built that.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from ratelimit_service.core.matching.tree import RuleTree
from ratelimit_service.core.model import Decision, Hit, Request
from ratelimit_service.core.plan import Policy
from ratelimit_service.core.planner import Planner
from ratelimit_service.core.rules.reader import load
from ratelimit_service.observe.metrics import Metrics
from ratelimit_service.ports import CounterStore, Outcome
from ratelimit_service.runtime.garbage import enable_for_serving
from ratelimit_service.service import FORM, Answer, RateLimitService
from ratelimit_service.sources.yaml_text import read
from ratelimit_service.stores.layers.settling import SettlingStore
from ratelimit_service.stores.memory import MemoryStore
from ratelimit_service.stores.redis.server import RedisStore
from ratelimit_service.transports.codec import Codec
from testing.redis_clients import connect
from testing.redis_servers import RedisServer

from .machine import SERVER_CORE, cpu_seconds, pin
from .messages import requests, rules
from .replay_client import replay
from .results import WIDE
from .servers import ROOT, Server, as_installed, start_service

STORES = ("memory", "redis")
BATCH, BATCHES = 25, 80
"""Calls in a batch, and batches in a turn within this process."""
_TURN = 1.0
"""Seconds of a turn with the transport."""
_LEAST_TURNS = 3


class Cost(NamedTuple):
    """Microseconds of CPU time for a decision, in each turn."""

    without: list[float]
    ledger: list[float]

    def line(self, name: str) -> str:
        """Return a line of the report."""
        plain, more = min(self.without), min(self.ledger)
        medians = median(self.ledger) / median(self.without)
        best = f"{plain:.2f} without, {more:.2f} with a ledger: {more / plain - 1:+.1%}"
        return f"{name}: {best}, by the medians {medians - 1:+.1%}"


class _Call:
    """A call of the service, whose answer is encoded."""

    timeout = -1
    gone = False

    def __init__(self, request: Request, turn: Turn) -> None:
        self.request = request
        self._turn = turn

    def reply(self, answer: Answer) -> None:
        """See service.Call."""
        assert isinstance(answer, Decision), answer
        self._turn.encode(answer)
        self._turn.answered()


class Turn:
    """Decides on the same requests in each turn, and counts the answers of a batch."""

    def __init__(self, store: CounterStore, *, ledger: bool) -> None:
        self.tree = tree = RuleTree(load([read("rules.yaml", rules(ledger=ledger).encode())]).domains)
        self._store = store
        self._left = 0
        self._all = asyncio.Event()
        codec = Codec()
        self._decode = codec.decode
        self.encode = codec.encode_for(tree)
        metrics = Metrics(10_000)
        self._service = RateLimitService(store, metrics, time.time)
        self._service.use(tree)
        metrics.config_loaded(tree, time.time())
        bodies = [request.body[5:] for request in requests("mixed", BATCH * BATCHES)]
        self._bodies = [bodies[at : at + BATCH] for at in range(0, len(bodies), BATCH)]
        planner, now = Planner(tree, Policy(), lambda: 0), int(time.time())
        self._hits: list[list[Sequence[Hit]]] = [
            [planner.plan(self._decode(body), now).hits for body in batch] for batch in self._bodies
        ]

    def answered(self) -> None:
        """Count an answer."""
        self._left -= 1
        if not self._left:
            self._all.set()

    async def store_alone(self) -> None:
        """Pass the hits of each batch to the store."""
        for groups in self._hits:
            self._left = 1
            self._store.hit(groups, self._on_outcomes)
            await self._answers()

    def _on_outcomes(self, outcomes: Sequence[Outcome]) -> None:
        assert not any([isinstance(outcome, Exception) for outcome in outcomes])
        self.answered()

    async def decisions(self) -> None:
        """Submit each batch of requests to the service."""
        for bodies in self._bodies:
            self._left = len(bodies)
            self._service.submit([_Call(self._decode(body), self) for body in bodies])
            await self._answers()

    async def _answers(self) -> None:
        if self._left:
            await self._all.wait()
        self._all.clear()


async def within(seconds: float) -> dict[str, Cost]:
    """Measure what needs no transport."""
    enable_for_serving()
    with RedisServer() as server:
        pin(server.pid, SERVER_CORE)
        redis = SettlingStore(RedisStore(connect(f"unix://{server.unixsocket}")))
        await redis.start()
        found: dict[str, Cost] = {}
        for name, store, pids in (
            ("memory", MemoryStore(time.monotonic, 2**30), []),
            ("redis", redis, [server.pid]),
        ):
            turns = [Turn(store, ledger=ledger) for ledger in (False, True)]
            gc.collect()
            gc.freeze()
            found[f"{name}, the store alone"] = await _by_turns(
                [turn.store_alone for turn in turns], pids, seconds
            )
            found[f"{name}, without a transport"] = await _by_turns(
                [turn.decisions for turn in turns], pids, seconds
            )
        await redis.close()
    return found


async def _by_turns(
    ways: Sequence[Callable[[], Awaitable[None]]], pids: Sequence[int], seconds: float
) -> Cost:
    cost = Cost([], [])
    until = time.perf_counter() + seconds
    while len(cost.ledger) < _LEAST_TURNS or time.perf_counter() < until:
        for way, spent in zip(ways, cost, strict=True):
            before = time.process_time() + cpu_seconds(pids)
            await way()
            after = time.process_time() + cpu_seconds(pids)
            spent.append((after - before) / (BATCH * BATCHES) * 1e6)
    return cost


def served(seconds: float) -> dict[str, Cost]:
    """Measure the process with its native transport."""
    found: dict[str, Cost] = {}
    for store in STORES:
        with _both(store) as servers:
            cost = found[f"{store}, the whole process"] = Cost([], [])
            until = time.perf_counter() + seconds
            while min(map(len, cost)) < _LEAST_TURNS or time.perf_counter() < until:
                for server, spent in zip(servers, cost, strict=True):
                    done = replay(server, "mixed", WIDE, _TURN)
                    assert not done.errors, f"{done.errors} calls were answered with an error"
                    if done.decisions:  # a busy machine may leave no time for any
                        used = done.meter.server_cpu + done.meter.redis_cpu
                        spent.append(used / done.decisions * 1e6)
    return found


@contextmanager
def _both(store: str) -> Iterator[list[Server]]:
    """Start a service without ledgers, and one with them."""
    with ExitStack() as stack:
        directories = [Path(stack.enter_context(tempfile.TemporaryDirectory())) for _ in range(2)]
        yield [
            stack.enter_context(start_service("native", store, directory, ledger=ledger))
            for directory, ledger in zip(directories, (False, True), strict=True)
        ]


def within_apart(seconds: float) -> tuple[str, dict[str, Cost]]:
    """Run `within` in a process that imports the package as it is installed. Return its form as well."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "bench.ledger_cost", str(seconds), "within"],
        cwd=ROOT,
        env=os.environ | as_installed(),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found.pop("form"), {name: Cost(*each) for name, each in found.items()}


def main() -> None:
    """Print the report."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0
    if sys.argv[2:] == ["within"]:
        pin(os.getpid(), SERVER_CORE)
        sys.stdout.write(json.dumps({"form": FORM, **asyncio.run(within(seconds))}) + "\n")
        return
    form, found = within_apart(seconds)
    sys.stdout.write(f"microseconds of CPU time for a decision, {form}\n")
    for name, cost in (found | served(seconds)).items():
        sys.stdout.write(cost.line(name) + "\n")


if __name__ == "__main__":
    main()
