"""The series of metrics: which there are before the first event, how many there can be, and what a scrape
shows.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ratelimit_service.core.errors import StoreError
from ratelimit_service.core.matching.tree import RuleTree
from ratelimit_service.core.model import Descriptor, DescriptorRule, DomainRules, Entry, Limit
from ratelimit_service.loading.slices import at_once
from ratelimit_service.observe.catalogue.all_metrics import CATALOGUE
from ratelimit_service.observe.catalogue.events import EVENT_METRICS
from ratelimit_service.observe.catalogue.page import markdown
from ratelimit_service.observe.catalogue.tracing import TRACING_METRICS
from ratelimit_service.observe.catalogue.workers import WORKER_METRICS
from ratelimit_service.observe.catalogue.xds import XDS_METRICS
from ratelimit_service.observe.metrics import Metrics
from ratelimit_service.observe.tables import Sample

from .counting import DAY, count, descriptor, hold_everything, rule, shown
from .replica import text_of


def loaded(*descriptors: DescriptorRule, most: int = 100) -> Metrics:
    """Return metrics with these rules of the domain d."""
    metrics = Metrics(most)
    at_once(metrics.config_read(RuleTree([DomainRules("d", descriptors)])))
    return metrics


def test_series_of_the_rules_start_at_0_with_the_load() -> None:
    """A series that begins with its first hit has no increase for that hit, so an alert would miss it."""
    metrics = loaded(
        DescriptorRule(b"team", b"dba", rule("team_dba", budget=True, warn_at=(0.8, 1.0))),
        DescriptorRule(b"user", rule=rule("user")),
        DescriptorRule(b"ops", rule=rule("ops", unlimited=True)),
    )
    expected = [
        *(
            f'rate_limit_{name}{{domain="d",key1="team_dba"}}'
            for name in ("total_hits", "within_limit", "over_limit")
        ),
        *(
            f'rate_limit_{name}{{domain="d",key1="user"}}'
            for name in ("total_hits", "within_limit", "over_limit")
        ),
        'rate_limit_unlimited_hits{domain="d",key1="ops"}',
        *(
            f'rule_{name}{{domain="d",path="d.team_dba",rule="d.team_dba",unit="day",window="day"}}'
            for name in ("hits", "refused", "cost_missing", "checks", "charges", "charges_above_max")
        ),
        *(
            f'rule_{name}{{domain="d",path="d.user",rule="d.user",unit="day",window="day"}}'
            for name in ("hits", "refused")
        ),
        *(
            'budget_threshold_crossed{domain="d",path="d.team_dba",rule="d.team_dba",'
            f'share="{share}",window="day"}}'
            for share in ("0.8", "1")
        ),
        *(
            f'decisions{{domain="{name}",outcome="{outcome}"}}'
            for name in ("d", "unknown")
            for outcome in ("ok", "over_limit", "error")
        ),
        *(f'should_rate_limit_error{{err_type="{kind}"}}' for kind in ("redis_error", "service_error")),
    ]
    assert dict.fromkeys(expected, 0) == shown(
        metrics, "rate_limit", "rule", "budget", "decisions", "should_rate_limit"
    )


def test_a_path_with_values_of_requests_begins_with_its_first_hit() -> None:
    """Its name is not known before."""
    metrics = loaded(DescriptorRule(b"each", rule=rule("each", detailed_metric=True)))
    assert {} == shown(metrics, "rate_limit")


def test_rules_beyond_the_bound_make_no_series_before_they_are_hit() -> None:
    """Rules with strangers' values are not shown at 0 either."""
    metrics = loaded(*[DescriptorRule(b"k", b"%d" % n, rule(f"k_{n}")) for n in range(10)], most=4)
    assert [f'rate_limit_total_hits{{domain="d",key1="k_{n}"}}' for n in range(3)] == sorted(
        shown(metrics, "rate_limit_total")
    )


def test_gauges_are_read_at_the_scrape() -> None:
    """They have the value of that moment."""
    metrics = Metrics()
    calls = [1, 2]
    metrics.watch("ratelimit_service_calls_in_hand", lambda: len(calls))
    before = shown(metrics, "calls")
    calls.pop()
    assert ({"calls_in_hand": 2}, {"calls_in_hand": 1}) == (before, shown(metrics, "calls"))


@pytest.mark.parametrize("name", ["config_load_success", "healthy", "decisions", "store_seconds"])
def test_a_series_cannot_be_registered_twice(name: str) -> None:
    """A series that appears twice makes a scrape invalid."""
    metrics = Metrics()
    metrics.watch("ratelimit_service_healthy", lambda: 1)
    with pytest.raises(ValueError) as raised:
        metrics.watch(f"ratelimit_service_{name}", lambda: 1)
    assert f"ratelimit_service_{name} cannot be watched: it is shown already" == str(raised.value)


def series_of(metrics: Metrics) -> dict[str, int]:
    """Return the number of series of each metric."""
    found: dict[str, int] = {}
    for sample in metrics.counters():
        found[sample.name] = found.get(sample.name, 0) + 1
    return found


def test_callers_cannot_create_more_series_than_allowed() -> None:
    """Events beyond the bound are counted in one series with the labels `other`, and sums stay correct."""
    metrics = Metrics(max_series=5)
    for number in range(20):
        count(metrics, descriptor(f"each={number}", 2), descriptor(f"each={number} x=y", 1), domain="d")
        count(metrics, descriptor("each=x"), domain=f"stranger{number}")
        metrics.requested(f"Method{number}", 0.001)
    found = shown(
        metrics, "rate_limit_total", "domain_not_found", "total_requests", "response_time_seconds_c"
    )
    assert {
        'rate_limit_total_hits{domain="other",key1="other",key2="other"}': 32,
        'domain_not_found{domain="other"}': 16,
        'total_requests{grpc_method="other"}': 16,
        'response_time_seconds_count{grpc_method="other"}': 16,
    } == {series: value for series, value in found.items() if '"other"' in series}
    assert 40 == sum(value for series, value in found.items() if series.startswith("rate_limit"))
    assert 5 == max(series_of(metrics).values())


def test_existing_series_continue_when_there_is_no_room_for_others() -> None:
    """Only new series are counted as `other`."""
    metrics = Metrics(max_series=2)
    for value in ("a", "b", "a"):
        count(metrics, descriptor(f"each={value}", 1))
    assert {
        'rate_limit_total_hits{domain="d",key1="each_a"}': 2,
        'rate_limit_total_hits{domain="other",key1="other",key2="other"}': 1,
    } == shown(metrics, "rate_limit_total")


HOSTILE = ('quote"', "back\\slash", "new\nline", "\x00\x1b[31m", "\u202e", "x" * 100_000, "}", "", "Ünï")


def test_a_scrape_is_valid_for_any_names() -> None:
    """Each label is one printable line of bounded length."""
    metrics = Metrics()
    for name in HOSTILE:
        count(metrics, Descriptor((Entry(b"each", name.encode()),), 1))
        count(metrics, descriptor("team=x"), domain=name or "-")
    families = {family.name: family for family in text_string_to_metric_families(text_of(metrics))}
    samples = [sample for family in families.values() for sample in family.samples]
    labels = [value for sample in samples for value in sample.labels.values()]
    assert [] == [value for value in labels if not value.isprintable() or len(value) > 300]
    assert len(HOSTILE) == len(families["ratelimit_service_domain_not_found"].samples)
    assert {r"each_new\nline", 'each_quote"', r"each_back\slash", "each_Ünï"} <= set(labels)


def test_counting_continues_while_it_is_read() -> None:
    """A thread renders the scrape; later events are in the next one."""
    metrics = Metrics()
    count(metrics, descriptor("each=1"))
    reading = iter(metrics.counters())
    names = [next(reading).name]
    count(metrics, descriptor("each=2"))
    names += [sample.name for sample in reading]
    assert 1 == names.count("ratelimit_service_rate_limit_total_hits")


WATCHED = (
    "amendments",
    "amendments_age_seconds",
    "amendments_unreadable",
    "amendments_version",
    "ledger_missed",
    "local_cache_refusals",
    "redis_clock_offset_seconds",
    "store_deadline_missed",
    "store_failures",
    "store_circuit_open",
    "store_journal_hits",
    "store_journal_dropped",
    "store_holds_refused",
    "budget_threshold_lost",
    "calls_in_hand",
    "decision_log_dropped",
    "grpc_connections",
    "grpc_connections_closed",
    "grpc_held_bytes",
    "healthy",
    "log_dropped",
    "memory_snapshot_failures",
    "memory_store_bytes",
    "memory_store_refused",
    "refusals_unlogged",
)
"""What others count."""


def everything() -> Metrics:
    """Return metrics after all kinds of events."""
    metrics = Metrics()
    for before in (0, 9):
        count(metrics, descriptor("team=x user=al", 5), descriptor("tried=x user=y", 5), before=before)
    count(metrics, descriptor("team=x user=al", 1, negative=True), descriptor("free=x user=y", 1))
    count(metrics, descriptor("team=x"), domain="nowhere")
    count(metrics, descriptor("budget=x"))
    count(metrics, descriptor("budget=x", 8))
    metrics.failed(None, StoreError("gone"))
    metrics.requested("ShouldRateLimit", 0.001)
    metrics.observe_store(0.001)
    metrics.crossed(rule("team"), Limit(10, DAY), "0.8")
    hold_everything(metrics)
    bucket = {"domain": "d", "rule": "a", "path": "d.team", "bucket": "team=x", "window": "day"}
    for name in (
        "used",
        "limit",
        "held",
        "seconds_to_reset",
        "window_seconds",
        "burn_per_second",
        "seconds_to_exhaustion",
    ):
        metrics.show(lambda name=name: [Sample(f"ratelimit_service_budget_{name}", bucket, 1)])  # type: ignore[misc]
    metrics.show(lambda: [Sample("ratelimit_service_background_failures", {"task": "rules"}, 1)])
    asked = {"endpoint": "/status", "status": "200"}
    metrics.show(lambda: [Sample("ratelimit_service_api_requests", asked, 1)])
    metrics.show(lambda: [Sample(info.name, dict.fromkeys(info.labels, "x"), 1) for info in XDS_METRICS])
    metrics.show(lambda: [Sample(info.name, dict.fromkeys(info.labels, "x"), 1) for info in WORKER_METRICS])
    metrics.show(lambda: [Sample(info.name, dict.fromkeys(info.labels, "x"), 1) for info in EVENT_METRICS])
    metrics.show(lambda: [Sample(info.name, dict.fromkeys(info.labels, "x"), 1) for info in TRACING_METRICS])
    for name in WATCHED:
        metrics.watch(f"ratelimit_service_{name}", lambda: 1)
    return metrics


def test_a_scrape_shows_the_catalogue_and_nothing_else() -> None:
    """Names, types, texts and labels, without prometheus-client's process metrics."""
    families = {
        family.name: family
        for family in text_string_to_metric_families(text_of(everything()))
        if not family.name.startswith("process_")
    }
    assert [(info.name, info.kind.value, info.meaning) for info in CATALOGUE] == [
        (family.name, family.type, family.documentation) for family in families.values()
    ]
    assert {info.name: set(info.labels) for info in CATALOGUE} == {
        name: {label for sample in family.samples for label in sample.labels} - {"le"}
        for name, family in families.items()
    }


def test_no_name_has_a_suffix_of_prometheus_client() -> None:
    """Upstream's names do not end in _total or _created, neither in samples nor in header lines."""
    lines = [line for line in text_of(everything()).splitlines() if "ratelimit_service_" in line]
    names = {
        line.removeprefix("# HELP ").removeprefix("# TYPE ").split(" ")[0].split("{")[0] for line in lines
    }
    assert {info.name for info in CATALOGUE} <= names
    assert set() == {name for name in names if name.endswith(("_total", "_created"))}


def test_the_page_about_metrics_is_current() -> None:
    """docs/metrics.md is the catalogue; `make docs` writes it."""
    page = Path(__file__).parents[2] / "docs" / "metrics.md"
    assert markdown() == page.read_text(encoding="utf-8")
