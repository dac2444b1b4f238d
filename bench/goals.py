"""The goals of the service, and whether a run reached them, computed from the results."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from .messages import FOUR_BY_TWO
from .results import NARROW, WIDE, Results, Run, named
from .scenarios import ATTACKS

MB = 10**6

_CALLED = {"charge": "charges", "mixed": "mixed traffic", "cold": "new buckets"}


class Goal(NamedTuple):
    """A goal. `measured` is empty if it was not measured; `met` then has no meaning."""

    text: str
    measured: str
    met: bool

    @property
    def verdict(self) -> str:
        """Return its row of the table."""
        if not self.measured:
            return "not measured"
        return "yes" if self.met else "**no**"


def goals(results: Results) -> list[Goal]:
    """Return all goals, in the order of the table."""
    return [
        *_units(results),
        *_minute(results),
        *_round_trips(results),
        *_costs(results),
        *_memory(results),
        *_hostile(results),
        *_envoy(results),
    ]


def _of(text: str, run: Run | None, say: Callable[[Run], str], met: Callable[[Run], bool]) -> Goal:
    return Goal(text, say(run), met(run)) if run else Goal(text, "", False)


def _units(results: Results) -> Iterator[Goal]:
    for request, store, shape, least in (
        ("mixed", "redis", WIDE, 15),
        ("cold", "redis", WIDE, 8),
        ("charge", "redis", WIDE, 25),
        ("over the limit", "redis", WIDE, 18),
        (FOUR_BY_TWO, "redis", WIDE, 12),
        ("charge", "redis", NARROW, 10),
        ("mixed", "memory", WIDE, 20),
        ("cold", "memory", WIDE, 10),
        ("charge", "memory", WIDE, 32),
        ("charge", "memory", NARROW, 12),
        ("mixed", "cluster", WIDE, 8),
    ):
        where = {"redis": "Redis", "memory": "memory", "cluster": "a Cluster"}[store]
        text = f"{_CALLED.get(request, request)} on {where}, {shape}: at least {least} units"
        run, unit = results.find(named("native", store, request, shape)), results.unit(shape)
        if run and unit:
            yield Goal(text, f"{run.rate / unit:.1f}", run.rate / unit >= least)
        else:
            yield Goal(text, "", False)
    yield _of(
        f"mixed traffic on Redis, {WIDE}: p99 of the closed loop at most 4 ms",
        results.find(named("native", "redis", "mixed", WIDE)),
        lambda r: _ms(r.latency.p99),
        lambda r: r.latency.p99 <= 4,
    )
    idle = results.find("idle/native/redis")
    yield _of(
        "one caller on Redis: at most 80 µs of the server's CPU",
        idle,
        lambda r: f"{r.server_cpu:.0f} µs",
        lambda r: r.server_cpu <= 80,
    )
    yield _of("… p50 at most 0.15 ms", idle, lambda r: _ms(r.latency.p50), lambda r: r.latency.p50 <= 0.15)


def _minute(results: Results) -> Iterator[Goal]:
    run = results.find("minute/native/redis")
    where = f"{run.offered:,.0f}/s for {run.seconds:.0f} s" if run else "5,000/s for a minute"
    where = f"open loop, mixed traffic on Redis, {where}, with two reloads and three scrapes of 10,000 series"
    yield _of(
        f"{where}: p99 at most 1.5 ms", run, lambda r: _ms(r.latency.p99), lambda r: r.latency.p99 <= 1.5
    )
    yield _of("… p99.9 at most 5 ms", run, lambda r: _ms(r.latency.p999), lambda r: r.latency.p999 <= 5)
    yield from _undisturbed(run, "…", 10_000)
    yield from _undisturbed(
        results.find("minute/native/redis/all rules"), "… with 10,000 rules and all of their series:", 80_000
    )


def _undisturbed(run: Run | None, where: str, series: int) -> Iterator[Goal]:
    """Return the goals of a steady minute: no answer is late or missing, and everything took place beside
    it.
    """
    yield _of(
        f"{where} nothing over 20 ms",
        run,
        lambda r: (
            f"{r.latency.over_20ms:,} of {r.decisions:,}, p99 {_ms(r.latency.p99)}, "
            f"worst {_ms(r.latency.worst)}"
        ),
        lambda r: not r.latency.over_20ms,
    )
    yield _of(
        f"{where} no call without a decision; both reloads and the scrapes, of {series:,} series at least, "
        "took place",
        run,
        lambda r: (
            f"{r.extra['errors']:.0f} errors, {r.extra['reloads']:.0f} reloads, {r.extra['scrapes']:.0f} "
            f"scrapes, {r.extra['series']:,.0f} series"
        ),
        lambda r: (
            r.extra["errors"] == 0
            and r.extra["reloads"] == 2
            and r.extra["scrapes"] == 3
            and r.extra["series"] >= series
        ),
    )


def _round_trips(results: Results) -> Iterator[Goal]:
    yield _of(
        f"at most 0.1 script calls a decision with 100 callers ({WIDE})",
        results.find(named("native", "redis", "charge", WIDE)),
        lambda r: f"{r.calls:.3f}",
        lambda r: r.calls <= 0.1,
    )
    yield _of(
        "one script call a decision when idle (one caller)",
        results.find("idle/native/redis"),
        lambda r: f"{r.calls:.3f}",
        lambda r: round(r.calls, 2) == 1,
    )


def _costs(results: Results) -> Iterator[Goal]:
    for store in ("Redis", "memory"):
        yield _of(
            f"at most 15 µs of the server's CPU a charge, {store}, {WIDE}",
            results.find(named("native", store.lower(), "charge", WIDE)),
            lambda r: f"{r.server_cpu:.1f} µs",
            lambda r: r.server_cpu <= 15,
        )
    few, many = results.find("rules/10"), results.find("rules/10000")
    text = "10,000 rules cost at most 1.1 times what 10 rules do"
    yield _ratio(text, many, few, lambda run: run.server_cpu, 1.1)
    yield from _amended(results)
    for store in ("Redis", "memory"):
        four = results.find(named("native", store.lower(), FOUR_BY_TWO, WIDE))
        one = results.find(named("native", store.lower(), "charge", WIDE))
        text = f"{FOUR_BY_TWO} cost at most 2.5 times what one does, {store}"
        yield _ratio(text, four, one, lambda run: 1 / run.rate, 2.5)


def _amended(results: Results) -> Iterator[Goal]:
    found = results.amended
    for text, one, other, most in (
        (
            "10,000 amendments, one for each team of mixed traffic, cost a decision at most 3 %",
            "with",
            "without",
            1.03,
        ),
        ("10,000 limits of their own cost no more as amendments than as rules", "own", "rules", 1.0),
    ):
        if found:
            ratio = found[one] / found[other]
            yield Goal(text, f"{(ratio - 1) * 100:+.1f} %", ratio <= most)
        else:
            yield Goal(text, "", False)


def _ratio(text: str, run: Run | None, base: Run | None, cost: Callable[[Run], float], most: float) -> Goal:
    if not run or not base:
        return Goal(text, "", False)
    ratio = cost(run) / cost(base)
    return Goal(text, f"{ratio:.2f}", round(ratio, 2) <= most)


def _memory(results: Results) -> Iterator[Goal]:
    for store in ("Redis", "memory"):
        yield _of(
            f"at most 60 MB of memory after the start, native, {store}",
            results.find(named("native", store.lower(), "charge", WIDE)),
            lambda r: f"{r.extra['rss_start'] / MB:.1f} MB",
            lambda r: r.extra["rss_start"] <= 60 * MB,
        )
    yield _of(
        "memory is flat over ten minutes of new buckets: at most 5 % more after the first two",
        results.find("ten minutes/native/redis"),
        lambda r: (
            f"{r.extra['rss_settled'] / MB:.1f} → {r.extra['rss_end'] / MB:.1f} MB in {r.seconds / 60:.0f} "
            f"minutes, {r.decisions:,} buckets"
        ),
        lambda r: r.extra["rss_highest"] <= 1.05 * r.extra["rss_settled"],
    )
    yield _of(
        "a million buckets in the memory store: at most 300 bytes each",
        results.find("million/native/memory"),
        lambda r: f"{r.extra['bytes']:.0f} bytes with {r.extra['buckets']:,.0f}",
        lambda r: r.extra["bytes"] <= 300,
    )


def _hostile(results: Results) -> Iterator[Goal]:
    runs = [run for attack in ATTACKS if (run := results.find(f"hostile/{attack}"))]
    worst = max(runs, key=lambda run: run.latency.p99, default=None)
    whole = worst if len(runs) == len(ATTACKS) else None
    yield _of(
        "one caller beside hostile peers: p99 at most 20 ms with each of them",
        whole,
        lambda r: f"at most {_ms(r.latency.p99)}, of {len(runs)}: {r.request}",
        lambda r: r.latency.p99 <= 20,
    )
    failed = sum(run.extra["errors"] + run.extra["refused"] for run in runs)
    yield _of(
        "… every call of it has a decision",
        whole,
        lambda r: f"{failed:.0f} of {sum(run.decisions for run in runs):,} without",
        lambda r: not failed,
    )


def _envoy(results: Results) -> Iterator[Goal]:
    yield _of(
        "a real Envoy with its 20 ms, at half of what it passes with this service, "
        "for a minute: failure_mode_allowed = 0, upstream_rq_timeout = 0",
        results.find("envoy/native/redis"),
        lambda r: (
            f"{r.extra['failure_mode_allowed']:.0f} and {r.extra['upstream_rq_timeout']:.0f} of "
            f"{r.extra['asked']:,.0f} at {r.offered:,.0f}/s"
        ),
        lambda r: not r.extra["failure_mode_allowed"] and not r.extra["upstream_rq_timeout"],
    )


def _ms(value: float) -> str:
    return f"{value:.2f} ms"
