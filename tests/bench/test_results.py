"""The arithmetic of the report, with figures that are easy to check by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import capacity, report, upstream_comparison
from bench.goals import Goal, goals
from bench.messages import FOUR_BY_TWO
from bench.results import NARROW, SINGLE, WIDE, Latency, Results, Run, Shape, named, percentile
from bench.scenarios import ATTACKS
from bench.stages import OF_NOTHING, STAGES

CALM = Latency(0.5, 0.8, 1.5, 4.0, 12.0, 0)
MACHINE = {"measured on": "2026-11-21"}


def run(name: str, shape: Shape = WIDE, rate: float = 1_000.0, **values: object) -> Run:
    """Return a run with the given fields; the others do not matter."""
    server = "native, redis" if "redis" in name else "native, memory"
    made = Run(name, server, "charge", shape, 3.0, int(rate * 3), rate, CALM, extra={"rss_start": 5e7})
    for field, value in values.items():
        setattr(made, field, value)
    return made


def verdict(results: Results, start: str) -> str:
    """Return the verdict on the goal whose text begins with this."""
    (found,) = [goal for goal in goals(results) if goal.text.startswith(start)]
    return found.verdict


@pytest.mark.parametrize(
    "share, value",
    [(0.5, 50), (0.9, 90), (0.99, 99), (0.999, 100), (1.0, 100), (0.001, 1)],
)
def test_a_percentile_is_the_nearest_rank(share: float, value: int) -> None:
    """For 1 to 100, the p-th percentile is p."""
    assert value == percentile(range(1, 101), share)


def test_a_single_value_is_every_percentile() -> None:
    """This includes the lowest and the highest."""
    assert [7.0, 7.0] == [percentile([7.0], 0.001), percentile([7.0], 0.999)]


def test_latency_is_in_milliseconds_and_counts_what_envoy_would_not_have_waited_for() -> None:
    """21 ms is late and 20 ms is not, in any order of the values."""
    assert Latency(2, 21, 21, 21, 21, 1) == Latency.of([0.021, 0.001, 0.002])
    assert 0 == Latency.of([0.020]).over_20ms


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    """So a report can be written again without measuring again."""
    results = Results(
        MACHINE, [run("a", extra={"errors": 3.0})], {"decode": 1.5}, {"own": 2.5}, {"b": "it broke"}
    )
    results.dump(tmp_path / "results.json")
    assert results == Results.load(tmp_path / "results.json")


@pytest.mark.parametrize("rate, met", [(25_000.0, "yes"), (24_999.0, "**no**")])
def test_units_are_of_the_same_shape_in_the_same_run(rate: float, met: str) -> None:
    """There are 25 units of 1,000, whatever the other shape has."""
    results = Results(MACHINE)
    assert "not measured" == verdict(results, "charges on Redis, 4 × 25")
    results.runs += [run(f"nothing/grpcio/{NARROW}", NARROW, 10.0), run(f"nothing/grpcio/{WIDE}", WIDE)]
    assert "not measured" == verdict(results, "charges on Redis, 4 × 25")
    results.runs.append(run(named("native", "redis", "charge", WIDE), rate=rate))
    assert met == verdict(results, "charges on Redis, 4 × 25")


def test_traffic_that_differs_has_goals_of_its_own() -> None:
    """The best case does not predict it."""
    runs = [
        run(f"nothing/grpcio/{WIDE}"),
        run(named("native", "redis", "mixed", WIDE), rate=15_000.0),
        run(named("native", "redis", "cold", WIDE), rate=7_999.0),
        run(named("native", "cluster", "mixed", WIDE), rate=8_000.0),
    ]
    results = Results(MACHINE, runs)
    texts = ("mixed traffic on Redis, 4 × 25: at least", "new buckets on Redis", "mixed traffic on a Cluster")
    assert ["yes", "**no**", "yes"] == [verdict(results, text) for text in texts]


@pytest.mark.parametrize("with_them, own, met", [(1.03, 1.2, "yes"), (1.031, 1.201, "**no**")])
def test_amendments_are_compared_with_none_and_with_rules(with_them: float, own: float, met: str) -> None:
    """The measure is the cost of a decision in one process."""
    texts = ("10,000 amendments", "10,000 limits of their own")
    results = Results(MACHINE)
    assert ["not measured"] * 2 == [verdict(results, text) for text in texts]
    results.amended = {"without": 1.0, "with": with_them, "own": own, "rules": 1.2}
    assert [met] * 2 == [verdict(results, text) for text in texts]


@pytest.mark.parametrize("many, met", [(11.0, "yes"), (11.2, "**no**")])
def test_many_rules_are_compared_with_few(many: float, met: str) -> None:
    """The measure is the CPU of the server."""
    runs = [run("rules/10", server_cpu=10.0), run("rules/10000", server_cpu=many)]
    assert met == verdict(Results(MACHINE, runs), "10,000 rules")


@pytest.mark.parametrize("rate, met", [(400.0, "yes"), (390.0, "**no**")])
def test_more_descriptors_are_compared_with_one(rate: float, met: str) -> None:
    """The measure is the throughput of the core, including Redis."""
    runs = [
        run(named("native", "redis", "charge", WIDE)),
        run(named("native", "redis", FOUR_BY_TWO, WIDE), rate=rate),
    ]
    assert met == verdict(
        Results(MACHINE, runs), f"{FOUR_BY_TWO} cost at most 2.5 times what one does, Redis"
    )


@pytest.mark.parametrize(
    "name, where, series",
    [
        ("minute/native/redis", "…", 10_000.0),
        ("minute/native/redis/all rules", "… with 10,000 rules and all of their series:", 80_000.0),
    ],
)
def test_the_minute_fails_by_a_single_late_answer(name: str, where: str, series: float) -> None:
    """It also fails by a single error, and by a reload or a scrape that did not happen."""
    extra = {"errors": 0.0, "reloads": 2.0, "scrapes": 3.0, "series": series}
    minute = run(name, offered=5_000.0, extra=extra)
    results = Results(MACHINE, [minute])
    late, missing = f"{where} nothing over", f"{where} no call"
    assert ["yes", "yes"] == [verdict(results, late), verdict(results, missing)]
    minute.latency = Latency(0.5, 0.8, 1.5, 4.0, 20.1, 1)
    assert "**no**" == verdict(results, late)
    for less in ({"errors": 1.0}, {"reloads": 1.0}, {"scrapes": 2.0}, {"series": series - 1}):
        minute.extra = extra | less
        assert "**no**" == verdict(results, missing)


@pytest.mark.parametrize(
    "targets, expected, note",
    [
        ([], ["mixed traffic", "15.0", "0.5", "2.5", "6.1"], "an earlier run"),
        (
            [run(f"target/mixed/{WIDE}", rate=3_000.0)],
            ["mixed traffic", "15.0", "0.5", "3.0", "5.0"],
            "this run",
        ),
    ],
)
def test_others_are_compared_by_units_and_the_table_says_of_which_run(
    targets: list[Run], expected: list[str], note: str
) -> None:
    """Mixed traffic comes first. A missing measurement is shown as missing."""
    runs = [
        run(f"nothing/grpcio/{WIDE}"),
        run(named("native", "redis", "mixed", WIDE), rate=15_000.0),
        run(named("grpcio", "redis", "mixed", WIDE), rate=500.0),
    ]
    _, mixed, cold, *_ = upstream_comparison.rows(results := Results(MACHINE, [*runs, *targets]))
    assert expected == list(mixed)
    assert ("new buckets", "–", "–", "2.0", "–") == cold
    assert note in upstream_comparison.note(results)


@pytest.mark.parametrize("highest, met", [(105.0, "yes"), (106.0, "**no**")])
def test_memory_is_flat_up_to_five_percent(highest: float, met: str) -> None:
    """The bound is on the highest value, relative to the settled one."""
    extra = {"rss_settled": 100.0, "rss_highest": highest, "rss_end": 100.0}
    results = Results(MACHINE, [run("ten minutes/native/redis", extra=extra)])
    assert met == verdict(results, "memory is flat")


@pytest.mark.parametrize("slowest, refused, expected", [(20.0, 0, ["yes", "yes"]), (20.1, 1, ["**no**"] * 2)])
def test_the_worst_hostile_peer_decides(slowest: float, refused: int, expected: list[str]) -> None:
    """The caller beside it is compared. With one of them missing, the goal is not measured."""
    texts = ("one caller beside hostile peers", "… every call of it")
    extra = {"errors": 0.0, "refused": 0.0}
    runs = [run(f"hostile/{attack}", SINGLE, extra=extra) for attack in ATTACKS]
    assert ["not measured"] * 2 == [verdict(Results(MACHINE, runs[1:]), text) for text in texts]
    runs[3].latency = Latency(0.5, 0.8, slowest, 30.0, 40.0, 5)
    runs[4].extra = extra | {"refused": float(refused)}
    assert expected == [verdict(Results(MACHINE, runs), text) for text in texts]


def test_a_goal_without_a_run_is_not_measured() -> None:
    """It is neither reached nor missed."""
    assert {"not measured"} == {goal.verdict for goal in goals(Results(MACHINE))}
    assert "yes" == Goal("x", "1", True).verdict


def test_a_run_is_marked_if_other_load_affects_it() -> None:
    """† marks other load on the machine, and ‡ a generator at its limit."""
    assert "" == report.marks(run("a", others=0.01, generator=0.89))
    assert " † ‡" == report.marks(run("a", others=0.5, generator=0.95))


def test_the_page_reports_that_the_machine_was_busy() -> None:
    """It has the number of such runs among all runs, and the change of the unit at the end."""
    runs = [run(f"nothing/grpcio/{WIDE}"), run(f"nothing again/grpcio/{WIDE}", rate=1_050.0)]
    said = report.quietness(Results(MACHINE, runs))
    assert "The machine was quiet" in said
    assert "+5.0%" in said
    runs[1].others, runs[1].rate = 0.4, 700.0
    said = report.quietness(Results(MACHINE, runs, failures={"envoy": "gone"}))
    assert "**The machine was not quiet**: in 1 of 2 runs" in said
    assert "**The machine changed**: at the end, the unit was -30%" in said
    assert "- envoy: gone" in said


def test_the_table_has_units_and_the_share_of_the_transport() -> None:
    """Here, half of the native rate without decisions is ten units."""
    results = Results(
        MACHINE,
        [
            run(f"nothing/grpcio/{WIDE}", server="grpcio, decides nothing"),
            run(f"nothing/native/{WIDE}", server="native, decides nothing", rate=20_000.0),
            run(named("native", "redis", "charge", WIDE), rate=10_000.0, redis_cpu=2.0, calls=0.04),
        ],
    )
    line = report.closed_table(results).splitlines()[-1]
    assert (
        "| native, redis | charge | 4 × 25 | 10,000 | 10.0 | 50% | 0.50 | 1.50 | 4.00 | – | 2.0 | 0.040 |"
        == line
    )


def test_the_parts_of_a_charge_add_up_to_the_measured_total() -> None:
    """The transport's part is its cost without decisions, less decoding and encoding."""
    stages = dict.fromkeys((*STAGES, OF_NOTHING), 1.0)
    results = Results(
        MACHINE,
        [
            run(f"nothing/native/{WIDE}", server_cpu=8.0),
            run(named("native", "memory", "charge", WIDE), server_cpu=13.0),
            run(named("native", "redis", "charge", WIDE), server_cpu=15.0, redis_cpu=4.0),
        ],
        stages,
    )
    found = dict(report.parts(results, "native", "redis"))
    assert (6.0, 1.0, 2.0, 4.0) == tuple(
        found[name] for name in ("transport", "between the stages", "calling Redis", "Redis")
    )
    assert 19.0 == sum(found.values())
    assert [] == report.parts(results, "grpcio", "redis")


COST = capacity.Cost(10.0, 2.0, 0.05)
CONSTANTS = capacity.Constants(
    idle=capacity.Cost(100.0, 40.0, 1.0),
    busy=COST,
    cluster=capacity.Cost(20.0, 12.0, 0.5),
    hot=capacity.Cost(9.0, 1.5, 0.04),
    redis_bytes=100.0,
    memory_bytes=200.0,
    connections=10,
)


@pytest.mark.parametrize(
    "rate, replicas, shards, calls",
    [
        (1_000, 2, 1, 1_000.0),  # 0.1 of a core: two, so that one may go; each call by itself
        (100_000, 2, 1, 5_000.0),  # one core at 60 %; 0.2 of a core of Redis
        (10_000_000, 334, 200, 5_000_000.0),  # 200 cores and 120 of Redis, at 60 % each
    ],
)
def test_capacity_follows_the_formulas(rate: int, replicas: int, shards: int, calls: float) -> None:
    """The figures are worked by hand from round constants."""
    planned = capacity.plan(CONSTANTS, rate)
    assert (replicas, shards, calls) == (planned.replicas, planned.shards, planned.calls)
    assert replicas * 10 == planned.connections


def test_a_bucket_takes_what_one_core_of_redis_takes() -> None:
    """That is 60 % of a core at 1.5 µs each."""
    assert 400_000 == round(capacity.hottest(CONSTANTS))


def test_the_constants_come_from_the_runs() -> None:
    """If one is missing, the page says that they were not measured."""
    results = Results(MACHINE)
    assert "Not measured" in capacity.tables(results)["sizes"]
    results.runs += [
        run("idle/native/redis", SINGLE, server_cpu=100.0, redis_cpu=40.0, calls=1.0),
        run(named("native", "redis", "mixed", WIDE), server_cpu=10.0, redis_cpu=2.0, calls=0.05),
        run(named("native", "cluster", "mixed", WIDE), server_cpu=20.0, redis_cpu=12.0, calls=0.5),
        run(named("native", "redis", "charge", WIDE), server_cpu=9.0, redis_cpu=1.5, calls=0.04),
        run(named("native", "redis", "cold", WIDE), extra={"redis_bytes": 1_000_000.0, "redis_keys": 10_000}),
        run("million/native/memory", extra={"bytes": 200.0}),
    ]
    assert CONSTANTS == capacity.Constants.of(results)
    line = "| 10,000,000 | 334 | Cluster of 200 | 120.00 | 5,000,000 | 3,340 | 100 MB |"
    assert line == capacity.tables(results)["sizes"].splitlines()[-1]
