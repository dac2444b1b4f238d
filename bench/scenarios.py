"""The scenarios, in their order."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from testing.service import REPOSITORY

from . import reconciliation
from .machine import resident_bytes
from .measurement import Bench, closed_loop, open_loop, run_of
from .messages import CONSTANT, FOUR_BY_TWO, expected, write_rules
from .replay_client import replay
from .results import NARROW, SINGLE, WIDE, Results, Shape, named
from .servers import AS_DEPLOYED, Server, gateway, metric, nothing, series, start_service, statistics, target
from .stages import measure_apart

TRANSPORTS, STORES = ("native", "grpcio"), ("redis", "memory")
BOTH_SHAPES = ("charge", "check")
REQUESTS = ("mixed", "cold:cold", *CONSTANT)
FEWER_REQUESTS = ("mixed", "cold:cold", "charge", "over the limit")
"""What grpcio is measured with: it is for comparison, and any request costs it about the same."""
OPEN_RATES = {
    "native": (1_000, 2_000, 5_000, 10_000, 20_000, 30_000, 40_000, 60_000),
    # Above GRPC_MAX_CONCURRENT_CALLS, calls are refused uncounted, so charges could not be compared.
    "grpcio": (250, 500, 1_000, 1_500, 2_000),
}
STEADY = 5_000
"""Decisions a second of the steady minute."""
MANY_RULES, FEW_RULES = 10_000, 10
SCRAPED_RULES = {"": 1_150, "/all rules": MANY_RULES}
"""The rules of the steady minutes, by the ends of their names: ten thousand series, and as many rules."""
_COLD_RATE = 2_000
ATTACKS = (
    "calls_without_end",
    "unfinished_requests",
    "replies_that_are_not_read",
    "headers_that_grow",
    "input_that_is_left_behind",
    "bytes_from_everywhere",
    "calls_from_everywhere",
    "connections_without_end",
    "watches",
    "questions_of_reflection",
    "requests_that_take_long",
)
"""Kinds of hostile peers in tests/faults/hostile_peers.py."""
_GIVEN_UP = 0.9
"""If this share of a load is late, higher loads are not measured."""
LOADED = "ratelimit_service_config_load_success"


_BESIDE = 5.0
"""Seconds that a run of a few seconds takes beside those: starting servers, warming up, comparing
counters.
"""


@dataclass(frozen=True)
class Scenario:
    """A measurement. --only matches its `name`; `long` needs --long."""

    name: str
    measure: Callable[[Bench], None]
    long: bool = False
    runs: int = 1
    """The runs of Bench.seconds that it has."""
    minutes: float = 0.0
    """The runs of Bench.minute that it has."""

    def lasts(self, bench: Bench) -> float:
        """Estimate its seconds."""
        long = bench.ten_minutes if self.long else 0.0
        return self.runs * (bench.seconds + _BESIDE) + self.minutes * bench.minute + long


def selected(only: str, *, long: bool, address: str = "", pids: list[int] | None = None) -> list[Scenario]:
    """Return the scenarios with `only` in their names, and those that take ten minutes if `long`."""
    return [each for each in all_scenarios(address, pids) if only in each.name and (long or not each.long)]


def all_scenarios(address: str = "", pids: list[int] | None = None) -> Iterator[Scenario]:
    """Return all scenarios, including the service at `address` with the processes `pids`, if given."""
    for transport in TRANSPORTS:
        for shape in (WIDE, NARROW):
            yield Scenario(
                f"nothing/{transport}/{shape}", partial(_nothing, transport=transport, shape=shape)
            )
    for transport in TRANSPORTS:
        for store in STORES:
            for request, shape in _requests(REQUESTS if transport == "native" else FEWER_REQUESTS):
                name = named(transport, store, request.partition(":")[0], shape)
                yield Scenario(
                    name,
                    partial(
                        _service, name=name, transport=transport, store=store, request=request, shape=shape
                    ),
                )
    if address:
        for request, shape in _requests(REQUESTS):
            name = f"target/{request.partition(':')[0]}/{shape}"
            yield Scenario(
                name,
                partial(_target, name=name, address=address, pids=pids or [], request=request, shape=shape),
            )
    for request in ("mixed", "charge", FOUR_BY_TWO):
        name = named("native", "cluster", request, WIDE)
        yield Scenario(
            name,
            partial(_service, name=name, transport="native", store="cluster", request=request, shape=WIDE),
        )
    yield Scenario("idle/native/redis", _idle)
    for attack in ATTACKS:
        yield Scenario(f"hostile/{attack}", partial(_hostile, attack=attack))
    yield Scenario("rules/native/memory", _rules, runs=4)
    for transport, store in (("native", "redis"), ("native", "memory"), ("grpcio", "redis")):
        yield Scenario(
            f"open/{transport}/{store}",
            partial(_open, transport=transport, store=store),
            runs=len(OPEN_RATES[transport]),
        )
    for suffix, rules in SCRAPED_RULES.items():
        name = f"minute/native/redis{suffix}"
        yield Scenario(name, partial(_minute, name=name, rules=rules), minutes=1)
    yield Scenario("envoy/native/redis", _envoy, runs=4, minutes=1)
    yield Scenario("million/native/memory", _million, runs=6)
    yield Scenario("stages", _stages, runs=2)
    yield Scenario("ten minutes/native/redis", _ten_minutes, long=True)
    # Once more at the end, to notice a change of the machine.
    yield Scenario(
        f"nothing again/grpcio/{WIDE}", partial(_nothing, transport="grpcio", shape=WIDE, again=" again")
    )


def _requests(requests: tuple[str, ...]) -> Iterator[tuple[str, Shape]]:
    for request in requests:
        if request == "charge of a named team":  # for the scenario with many rules
            continue
        yield request, WIDE
        if request in BOTH_SHAPES:
            yield request, NARROW


def _nothing(bench: Bench, transport: str, shape: Shape, again: str = "") -> None:
    with nothing(transport) as server:
        closed_loop(bench, f"nothing{again}/{transport}/{shape}", server, "charge", shape)


def _service(bench: Bench, name: str, transport: str, store: str, request: str, shape: Shape) -> None:
    with start_service(transport, store, bench.directory) as server:
        empty, _ = server.redis_memory()
        run = closed_loop(bench, name, server, request, shape)
        if server.redis:
            used, keys = server.redis_memory()
            run.extra |= {"redis_bytes": max(0, used - empty), "redis_keys": keys}


def _target(bench: Bench, name: str, address: str, pids: list[int], request: str, shape: Shape) -> None:
    with target(address, pids) as server:
        closed_loop(bench, name, server, request, shape)


def _idle(bench: Bench) -> None:
    """Measure one caller, which waits for each answer."""
    with start_service("native", "redis", bench.directory, environment=AS_DEPLOYED) as server:
        done = replay(server, "charge", SINGLE, bench.seconds)
        reconciliation.wait_until_idle(server)
        reconciliation.check_exactly(server, expected("charge", done.sent))
        bench.keep(run_of("idle/native/redis", server, "charge", SINGLE, done))


def _hostile(bench: Bench, attack: str) -> None:
    """Measure one caller beside a hostile peer, in wall-clock time; tests/faults/test_peers.py measures CPU
    time.
    """
    with start_service("native", "memory", bench.directory) as server:
        command = (sys.executable, "-m", "tests.faults.hostile_peers", str(server.port), attack)
        with subprocess.Popen(command, cwd=REPOSITORY) as attacking:
            done = replay(server, "charge", SINGLE, bench.seconds)
            attacking.wait()
        reconciliation.wait_until_idle(server)
        beside = f"charge, beside {attack.replace('_', ' ')}"
        bench.keep(run_of(f"hostile/{attack}", server, beside, SINGLE, done))


def _rules(bench: Bench) -> None:
    """Measure the same load with few and with many rules, twice alternately; take the better run of each."""
    scratch = Bench(bench.directory, Results({}), bench.seconds)
    for _ in range(2):
        for count in (FEW_RULES, MANY_RULES):
            with start_service("native", "memory", bench.directory, rules=count) as server:
                closed_loop(scratch, f"rules/{count}", server, "charge of a named team", WIDE)
    for count in (FEW_RULES, MANY_RULES):
        runs = [run for run in scratch.results.runs if run.name == f"rules/{count}"]
        bench.keep(min(runs, key=lambda run: run.server_cpu))


def _open(bench: Bench, transport: str, store: str) -> None:
    """Increase the load until too many answers are late."""
    for rate in OPEN_RATES[transport]:
        with start_service(transport, store, bench.directory, environment=AS_DEPLOYED) as server:
            name = f"open/{transport}/{store}/{rate}"
            run = bench.keep(open_loop(bench, name, server, "mixed", rate, bench.seconds, shape=WIDE))
        if run.rate < _GIVEN_UP * rate or run.generator_bound:
            return


def _minute(bench: Bench, name: str, rules: int) -> None:
    """Measure a steady load for a minute, with garbage collections, reloads of the rules, and scrapes of
    their series.
    """
    with start_service("native", "redis", bench.directory, rules=rules, environment=AS_DEPLOYED) as server:
        service = server.service
        assert service is not None
        loads = metric(service, LOADED)
        at: dict[float, Callable[[], object]] = {
            bench.minute * share: partial(write_rules, bench.directory, rules + more)
            for more, share in ((1, 1 / 3), (2, 2 / 3))
        }
        scrapes: list[float] = []
        at |= {
            bench.minute * share: lambda: scrapes.append(series(service)) for share in (1 / 6, 1 / 2, 5 / 6)
        }
        actions = {when: partial(_do, action) for when, action in at.items()}
        run = open_loop(bench, name, server, "mixed", STEADY, bench.minute, shape=WIDE, at=actions)
        run.server += f", {rules:,} rules reloaded twice, scraped three times"
        run.extra |= {
            "reloads": metric(service, LOADED) - loads,
            "scrapes": len(scrapes),
            "series": min(scrapes, default=0),
        }
        bench.keep(run)


def _do(action: Callable[[], object]) -> None:
    action()


def _envoy(bench: Bench) -> None:
    """Measure what Envoy can pass, with a service that decides nothing and with this one; then half of it for
    a minute.

    In a closed loop, Envoy sees a hundred requests at once, which is less work for each. So half of that is
    offered for a moment, and what comes of it is what it passes.
    """
    with nothing("native") as free, gateway(free, bench.directory) as (server, _):
        _keep_through_envoy(bench, "envoy/nothing", server)
    with (
        start_service("native", "redis", bench.directory, environment=AS_DEPLOYED) as limiter,
        gateway(limiter, bench.directory) as (server, _),
    ):
        most = _keep_through_envoy(bench, "envoy closed/native/redis", server)
        passed = _keep_through_envoy(bench, "envoy open/native/redis", server, most / 2)
    with (
        start_service("native", "redis", bench.directory, environment=AS_DEPLOYED) as limiter,
        gateway(limiter, bench.directory) as (server, envoy),
    ):
        done = replay(server, "gateway", WIDE, bench.minute, rate=passed / 2)
        reconciliation.wait_until_idle(limiter)
        seen = statistics(envoy)
        charged = sum(
            used for (bucket, _), used in reconciliation.use_in_redis(limiter).items() if bucket[0] == "team"
        )
        run = run_of("envoy/native/redis", server, "gateway", WIDE, done)
        run.offered = passed / 2
        run.extra = {
            "failure_mode_allowed": seen.get("cluster.answers.ratelimit.failure_mode_allowed", 0),
            "upstream_rq_timeout": seen.get("cluster.ratelimit.upstream_rq_timeout", 0),
            "asked": seen.get("cluster.ratelimit.upstream_rq_total", 0),
            "passed": seen.get("http.gateway.downstream_rq_2xx", 0),
            "charged": charged,
        }
        bench.keep(run)
        assert sum(done.sent) == charged == run.extra["asked"] == run.extra["passed"], run.extra


def _keep_through_envoy(bench: Bench, name: str, server: Server, rate: float = 0.0) -> float:
    """Return how many requests a second Envoy passes, in a closed loop or of those that are offered."""
    run = run_of(name, server, "gateway", WIDE, replay(server, "gateway", WIDE, bench.seconds, rate=rate))
    run.offered = rate
    run.extra = {}  # an answer of Envoy has no message, so errors cannot be distinguished
    return bench.keep(run).rate


def _million(bench: Bench) -> None:
    """Fill the memory store with this number of buckets."""
    some = max(1_000, bench.million // 50)
    with start_service("native", "memory", bench.directory) as server:
        (pid,) = server.pids
        first = replay(server, "cold:fleeting", WIDE, 0, many=some, warm_up=0)
        before = resident_bytes(pid)
        done = replay(server, "cold:cold", WIDE, 0, many=bench.million, warm_up=0)
        after = resident_bytes(pid)
        reconciliation.check_exactly(server, expected("cold:cold", done.sent))
        run = run_of("million/native/memory", server, "cold", WIDE, done)
        run.extra |= {
            "buckets": sum(done.sent),
            "bytes": (after - before) / sum(done.sent),
            "rss_end": after,
            "warmed_by": sum(first.sent),
        }
        bench.keep(run)


def _ten_minutes(bench: Bench) -> None:
    """Charge new buckets all the time, with windows of a minute."""
    with start_service("native", "redis", bench.directory, environment=AS_DEPLOYED) as server:
        (pid,) = server.pids
        service = server.service
        assert service is not None
        seen: list[float] = []
        times = [bench.ten_minutes * step / 120 for step in range(1, 120)]
        at = {when: partial(_do, lambda: seen.append(resident_bytes(pid))) for when in times}
        done = replay(server, "cold:fleeting", WIDE, bench.ten_minutes, rate=_COLD_RATE, at=at)
        time.sleep(0.1)
        run = run_of("ten minutes/native/redis", server, "cold", WIDE, done)
        # After the first fifth, memory has reached the need of a minute, and must not grow.
        settled = seen[len(seen) // 5 :]
        run.extra |= {"rss_settled": settled[0], "rss_highest": max(settled), "rss_end": settled[-1]}
        run.offered = _COLD_RATE
        counted = metric(service, "ratelimit_service_rate_limit_total_hits")
        assert counted == sum(done.sent), (counted, sum(done.sent))
        bench.keep(run)


def _stages(bench: Bench) -> None:
    """Run bench.stages in a separate process."""
    bench.results.stages = measure_apart(bench.seconds)
    bench.results.amended = measure_apart(bench.seconds, "amended")
