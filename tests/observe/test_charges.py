"""The histogram of charges by rule."""

from __future__ import annotations

import pytest

from ratelimit_service.core.model import COUNTER_MAX, Override, Unit
from ratelimit_service.observe.columns import CHARGE_BOUNDS, CHARGE_COLUMNS, RULE_CHARGES
from ratelimit_service.observe.exposition import Process
from ratelimit_service.observe.merging import MergedMetrics, packed
from ratelimit_service.observe.metrics import Metrics

from .counting import count, descriptor, shown
from .replica import text_of

# https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-metrics/ , gen_ai.client.token.usage
OPENTELEMETRYS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864)

BUDGET = 'domain="d",path="d.budget",window="day"'


def sizes(metrics: Metrics, labels: str = "") -> dict[str, float]:
    """Return the samples of the histogram, without its name."""
    found = shown(metrics, "rule_charge_size")
    return {name.removeprefix("rule_charge_size_"): value for name, value in found.items() if labels in name}


def test_the_boundaries_are_those_of_opentelemetry() -> None:
    """So budgets and the metrics of clients can be compared."""
    assert OPENTELEMETRYS == CHARGE_BOUNDS


@pytest.mark.parametrize("bound", OPENTELEMETRYS)
def test_a_boundary_belongs_to_the_bucket_below_it(bound: int) -> None:
    """In Prometheus, `le` means less than or equal."""
    place = OPENTELEMETRYS.index(bound)
    assert [place, place + 1] == [
        CHARGE_COLUMNS[(charge - 1).bit_length()] - RULE_CHARGES for charge in (bound, bound + 1)
    ]


@pytest.mark.parametrize("charge", [COUNTER_MAX, 2**64 - 1, 2**64])
def test_the_largest_charges_are_beyond_the_last_boundary(charge: int) -> None:
    """A gateway may send any number."""
    assert RULE_CHARGES + len(OPENTELEMETRYS) == CHARGE_COLUMNS[(charge - 1).bit_length()]


def test_charges_are_counted_by_size() -> None:
    """Checks and refunds are no charges."""
    metrics = Metrics()
    for hits in (1, 4, 5, 0):
        count(metrics, descriptor("team=dba", hits))
    count(metrics, descriptor("team=dba", 3, negative=True), before=5)
    found = sizes(metrics, "d.team")
    assert {"count": 3, "sum": 10} == {
        name.partition("{")[0]: value for name, value in found.items() if "bucket{" not in name
    }
    buckets = {name: value for name, value in found.items() if "bucket{" in name}
    assert [1, 2, 3, *[3] * 12] == list(buckets.values())
    bounds = (*map(float, OPENTELEMETRYS), "+Inf")
    assert [f'bucket{{domain="d",le="{bound}",path="d.team",window="day"}}' for bound in bounds] == list(
        buckets
    )


def test_the_number_of_charges_is_that_of_the_histogram() -> None:
    """Both come from the same columns."""
    metrics = Metrics()
    for hits in (7, 7, 900):
        count(metrics, descriptor("windows=x", hits))
    labels = 'domain="d",path="d.windows",rule="d.windows",unit="hour",window="hour"'
    assert {
        f"rule_charges{{{labels}}}": 3,
        'rule_charge_size_count{domain="d",path="d.windows",window="hour"}': 3,
        'rule_charge_size_sum{domain="d",path="d.windows",window="hour"}': 914,
    } == {
        name: value
        for name, value in shown(metrics, "rule_charges", "rule_charge_size").items()
        if "windows" in name and "bucket{" not in name
    }


def test_a_rule_that_was_never_charged_has_no_histogram() -> None:
    """Seventeen series at 0 for each of ten thousand rules would be most of a scrape."""
    metrics = Metrics()
    count(metrics, descriptor("team=dba", 0))
    assert {} == sizes(metrics)


def test_histograms_beyond_the_bound_are_summed() -> None:
    """METRICS_MAX_SERIES counts series, of which a histogram has seventeen; those shown keep their labels."""
    metrics = Metrics(max_series=3 * 17)
    count(metrics, descriptor("quarter=x", 2))
    first = sizes(metrics)
    for each in ("team=dba", "windows=x", "tried=x"):
        count(metrics, descriptor(each, 10))
    found = sizes(metrics)
    assert first == {name: found[name] for name in first}
    assert {"quarter", "other", "team"} == {
        name.partition('path="')[2].partition('"')[0].removeprefix("d.") for name in found
    }
    others = 'domain="other",path="other",window="other"'
    assert (2, 20) == (found[f"count{{{others}}}"], found[f"sum{{{others}}}"])
    assert 3 * 17 == len(found)


def test_the_histograms_of_workers_are_added_up() -> None:
    """A scrape shows the charges of all of them."""
    both = [Metrics(), Metrics()]
    for metrics in both:
        count(metrics, descriptor("team=dba", 100))
    snapshots = {
        number: packed(metrics.families(), (), metrics.process.values())
        for number, metrics in enumerate(both)
    }
    text = b"".join(MergedMetrics(snapshots, b"", (), Process(), 10).chunks()).decode()
    lines = [line for line in text.splitlines() if "rule_charge_size" in line]
    labels = 'domain="d",path="d.team",window="day"'
    assert f"ratelimit_service_rule_charge_size_sum{{{labels}}} 200.0" in lines
    assert f"ratelimit_service_rule_charge_size_count{{{labels}}} 2.0" in lines
    assert (
        'ratelimit_service_rule_charge_size_bucket{domain="d",le="256.0",path="d.team",window="day"} 2.0'
        in lines
    )
    assert "# TYPE ratelimit_service_rule_charge_size histogram" in text_of(both[0])


def test_the_limits_of_requests_have_one_histogram() -> None:
    """Strangers choose them."""
    metrics = Metrics()
    for amount in (5, 6):
        count(metrics, descriptor("team=a", 1, override=Override(amount, Unit.HOUR)))
    assert 2 == sizes(metrics)['count{domain="d",path="override",window="hour"}']
