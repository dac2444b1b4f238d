"""The use of buckets as gauges."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ratelimit_service.core.matching import keys
from ratelimit_service.core.model import (
    Calendar,
    Descriptor,
    DescriptorRule,
    Entry,
    Limit,
    Override,
    Request,
    Rule,
    StatKey,
    Tally,
    Unit,
    Use,
    Window,
)
from ratelimit_service.observe import tracking
from ratelimit_service.observe.tables import Sample
from ratelimit_service.observe.tracking import bucket_text
from tests.limiter import MIDNIGHT

from .replica import DAY, HOUR, Replica, budget, text_of

HOURLY = Limit(100, HOUR, "hourly")
TEAM = budget("team", HOURLY, track=True)

Gauges = dict[str, tuple[float, float, float | None]]
"""By bucket and window: used, limit and seconds to the reset."""


def gauges(replica: Replica) -> Gauges:
    """Return the gauges in a scrape."""
    found: dict[str, dict[str, float]] = {}
    for sample in replica.samples("budget_used", "budget_limit", "budget_seconds"):
        series = found.setdefault(f"{sample.labels['bucket']} {sample.labels['window']}", {})
        assert sample.name not in series, f"{sample} is there twice"
        series[sample.name.removeprefix("ratelimit_service_budget_")] = sample.value
    return {
        name: (series["used"], series["limit"], series.get("seconds_to_reset"))
        for name, series in found.items()
    }


async def test_a_bucket_has_its_usage_its_limit_and_its_reset() -> None:
    """The values are those at the scrape. Checks and charges update them alike."""
    replica = Replica(TEAM)
    await replica.ask(hits=30)
    seen = [gauges(replica)]
    replica.now += 600.5
    await replica.ask(hits=-10)
    seen.append(gauges(replica))
    await replica.ask(hits=0)
    await replica.ask("team=other", 0)
    seen.append(gauges(replica))
    assert [
        {"team=dba hour": (30, 100, 3600)},
        {"team=dba hour": (20, 100, 2999.5)},
        {"team=dba hour": (20, 100, 2999.5), "team=other hour": (0, 100, 2999.5)},
    ] == seen


@pytest.mark.parametrize("ahead", [2 * 3_600, 400 * 86_400])
async def test_a_window_that_has_not_begun_is_not_shown(ahead: int) -> None:
    """A clock that was ahead has charged it, and is corrected: the bucket shows the current window."""
    replica = Replica(TEAM)
    replica.now += ahead
    await replica.ask(hits=90)
    assert {"team=dba hour": (90, 100, 3600)} == gauges(replica)
    replica.now -= ahead
    assert {} == gauges(replica)
    await replica.ask(hits=10)
    assert {"team=dba hour": (10, 100, 3600)} == gauges(replica)


async def test_a_series_names_domain_rule_bucket_and_window() -> None:
    """The rule is the name of the limit, or its path."""
    replica = Replica(budget("team", HOURLY, Limit(400, Window(Unit.MINUTE, 15)), track=True))
    await replica.ask(hits=1)
    assert [
        {"domain": "d", "rule": "hourly", "path": "d.team", "bucket": "team=dba", "window": "hour"},
        {"domain": "d", "rule": "d.team", "path": "d.team", "bucket": "team=dba", "window": "15minute"},
    ] == [sample.labels for sample in replica.samples("budget_used")]


async def test_a_window_shows_how_long_it_is() -> None:
    """Its length follows its calendar, so that the elapsed share can be computed."""
    berlin = Calendar("Europe/Berlin")
    windows = [HOUR, Window(Unit.DAY, 1, berlin), Window(Unit.MONTH, 1, berlin)]
    replica = Replica(budget("team", *[Limit(10, window) for window in windows], track=True))
    replica.now = 1_792_886_400  # 2026-10-25T00:00Z, a day of 25 hours in a month of 31 days and an hour
    await replica.ask(hits=1)
    assert {"hour": 3600, "day": 25 * 3600, "month": 31 * 86400 + 3600} == {
        sample.labels["window"]: sample.value for sample in replica.samples("budget_window_seconds")
    }


async def test_only_rules_that_say_so_are_tracked() -> None:
    """Other rules take no memory."""
    replica = Replica(budget("team", HOURLY))
    await replica.ask(hits=1)
    assert ({}, 0) == (gauges(replica), len(replica.tracker))


async def test_a_window_that_is_over_is_not_shown() -> None:
    """Its bucket is shown again after its next request."""
    replica = Replica(budget("team", HOURLY, Limit(400, DAY, "daily"), track=True))
    await replica.ask(hits=30)
    replica.now += 3600
    over = gauges(replica)
    await replica.ask(hits=5)
    assert {"team=dba day": (30, 400, 82800)} == over
    assert {"team=dba day": (35, 400, 82800), "team=dba hour": (5, 100, 3600)} == gauges(replica)


async def test_the_largest_shares_are_shown_and_the_others_summed() -> None:
    """The order is by share and not by amount. The sum has no reset."""
    replica = Replica(TEAM, budget("user", Limit(1_000, HOUR), track=True), most_tracked=2)
    for entries, hits in [("user=big", 300), ("team=a", 40), ("team=b", 50), ("team=c", 10)]:
        await replica.ask(entries, hits)
    found = [(*sample.labels.values(), sample.value) for sample in replica.samples("budget_used")]
    assert [
        ("d", "hourly", "d.team", "team=b", "hour", 50),
        ("d", "hourly", "d.team", "team=a", "hour", 40),
        ("d", "d.user", "d.user", "other", "hour", 300),
        ("d", "hourly", "d.team", "other", "hour", 10),
    ] == found
    assert {
        "team=b hour": (50, 100, 3600),
        "team=a hour": (40, 100, 3600),
    } == {name: values for name, values in gauges_of("hourly", replica).items() if "other" not in name}
    assert (10, 100, None) == gauges_of("hourly", replica)["other hour"]


def gauges_of(rule: str, replica: Replica) -> Gauges:
    """Return the gauges of one rule."""
    found: dict[str, list[float]] = {}
    for sample in replica.samples("budget_used", "budget_limit", "budget_seconds"):
        if sample.labels["rule"] == rule:
            found.setdefault(f"{sample.labels['bucket']} {sample.labels['window']}", []).append(sample.value)
    return {name: (used, limit, rest[0] if rest else None) for name, (used, limit, *rest) in found.items()}


async def test_only_the_most_used_buckets_are_tracked() -> None:
    """Made-up buckets evict each other, and not those that are nearly exhausted."""
    replica = Replica(TEAM, most_tracked=5)
    await replica.ask("team=dba", 90)
    largest = 0
    for number in range(100):
        await replica.ask(f"team=made-up-{number}", 1)
        largest = max(largest, len(replica.tracker))
    assert 10 == largest
    found = gauges(replica)
    assert (6, (90, 100, 3600)) == (len(found), found["team=dba hour"])


def test_an_eviction_examines_some_of_the_counters_in_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """With thousands of them, a sample determines the limit, and the most used ones still stay."""
    monkeypatch.setattr(tracking, "_EXAMINED", 50)
    tracker = tracking.Tracker(lambda: MIDNIGHT, most=500)
    looked_at = []
    counted: list[int] = []

    def share(row: tracking._Row) -> float:
        counted.append(1)
        return row.used / row.limit.amount

    monkeypatch.setattr(tracking._Row, "share", property(share))
    rule = Rule(StatKey("d", ("team",)), (HOURLY,), budget=True, track=True)
    for number in range(5_000):
        used = 90 + number % 10 if number % 100 == 0 else number % 50
        entry = Entry(b"team", b"%d" % number)
        use = Use(HOURLY, f"{{d|team={number}}}:hour:x", MIDNIGHT + 3_600, 0, used, False, 80)
        tally = Tally(rule.path, rule, HOURLY, False, windows=[use])
        counted.clear()
        tracker.note(Descriptor((entry,)), tally)
        looked_at.append(len(counted))
        assert len(tracker) <= 1_000
    assert max(looked_at) <= 3 * 50 + 10
    kept = {int(sample.labels["bucket"].removeprefix("team=")) for sample in samples(tracker)}
    assert set(range(0, 5_000, 100)) <= kept


def samples(tracker: tracking.Tracker) -> list[Sample]:
    """Return the gauges of the use."""
    return [s for s in tracker.samples() if s.name.endswith("_used") and s.labels["bucket"] != "other"]


async def test_windows_that_are_over_make_room_first() -> None:
    """The share used of them does not matter."""
    replica = Replica(TEAM, most_tracked=2)
    for number in range(4):
        await replica.ask(f"team=old-{number}", 90)
    replica.now += 3600
    await replica.ask("team=new", 1)
    assert ({"team=new hour": (1, 100, 3600)}, 1) == (gauges(replica), len(replica.tracker))


async def test_a_limit_of_nothing_is_used_up() -> None:
    """It comes first, and there is no division by 0."""
    replica = Replica(TEAM, budget("user", Limit(0, HOUR), track=True), most_tracked=1)
    await replica.ask("team=a", 99)
    await replica.ask("user=x", 0)
    assert ["user=x", "other"] == [sample.labels["bucket"] for sample in replica.samples("budget_used")]


async def test_a_load_of_rules_changes_limits_and_names() -> None:
    """They change at the next decision on the bucket. Its use stays, and the old series is gone."""
    replica = Replica(TEAM)
    await replica.ask(hits=30)
    replica.use(budget("team", Limit(200, HOUR, "new"), track=True))
    await replica.ask(hits=0)
    assert {"team=dba hour": (30, 200, 3600)} == gauges(replica)
    assert ["new"] == [sample.labels["rule"] for sample in replica.samples("budget_used")]


async def test_limits_that_requests_bring_are_one_rule() -> None:
    """Its name does not depend on a stranger's values."""
    replica = Replica(TEAM)
    asked = Descriptor((Entry(b"team", b"dba"),), 5, Override(50, Unit.DAY))
    await replica.service.should_rate_limit(Request("d", (asked,)))
    assert [("override", "day")] == [
        (sample.labels["rule"], sample.labels["window"]) for sample in replica.samples("budget_used")
    ]


async def test_values_that_share_a_bucket_show_their_pattern() -> None:
    """The series does not have the value that came first."""
    rule = Rule(StatKey("d", ("path",)), (HOURLY,), budget=True, track=True)
    replica = Replica(DescriptorRule(b"path", b"/api/*", rule, share_threshold=True))
    for entries in ("path=/api/x", "path=/api/y"):
        await replica.ask(entries, 10)
    assert {"path=/api/* hour": (20, 100, 3600)} == gauges(replica)


@pytest.mark.parametrize(
    "prefix, entries, expected",
    [
        ("", ((b"team", b"dba"), (b"model", b"gpt-4.1")), "team=dba,model=gpt-4.1"),
        ("a{b|c}:", ((b"k", b"{x|y}:="),), "k={x|y}:="),
        ("", ((b"k", b"\x1b[31m\xff"),), r"k=\x1b[31m\xff"),
        ("", ((b"k", b"x" * 300),), f"k={'x' * 128}… (300 bytes)"),
    ],
)
def test_the_name_of_a_bucket_is_its_descriptor(
    prefix: str, entries: tuple[tuple[bytes, bytes], ...], expected: str
) -> None:
    """The name is readable, however the key is written."""
    parts = [keys.entry_text(*entry) for entry in entries]
    key = keys.bucket(prefix, keys.domain_text("d|}"), parts) + ":hour:2026-11-21T01Z"
    assert expected == bucket_text(key, Descriptor(tuple([Entry(*entry) for entry in entries])))


HOSTILE = [b'quote"', b"back\\slash", b"new\nline", b"\x00\xff", "\u202e".encode(), b"x" * 100_000, b"}", b""]


async def test_a_scrape_is_valid_for_any_values() -> None:
    """Each series once, with labels of one printable line of bounded length; names that look the same become
    `other`.
    """
    replica = Replica(TEAM)
    for value in (*HOSTILE, rb"new\nline", b"x" * 100_000 + b"y"):
        descriptor = Descriptor((Entry(b"team", value),), 1)
        await replica.service.should_rate_limit(Request("d", (descriptor,)))
    families = {family.name: family for family in text_string_to_metric_families(text_of(replica.metrics))}
    used = families["ratelimit_service_budget_used"].samples
    shown = [sample.labels["bucket"] for sample in used]
    assert [] == [bucket for bucket in shown if not bucket.isprintable() or len(bucket) > 300]
    assert len(HOSTILE) + 2 == len(shown) == len(set(shown))
    assert {r"team=new\nline", 'team=quote"', "other"} <= set(shown)
    assert len(HOSTILE) + 2 == sum(sample.value for sample in used)


async def test_counting_continues_during_a_read() -> None:
    """A thread renders the scrape; later events are in the next one."""
    replica = Replica(TEAM)
    await replica.ask("team=a", 1)
    reading = replica.tracker.samples()
    found = [next(reading)]
    await replica.ask("team=b", 1)
    found += reading
    assert {"team=a"} == {sample.labels["bucket"] for sample in found}
