"""The values of metrics after events."""

from __future__ import annotations

import pytest

from ratelimit_service.core.errors import InternalError, InvalidRequest, RateLimitServiceError, StoreError
from ratelimit_service.core.matching.overrides import OVERRIDE_SOURCE
from ratelimit_service.core.model import Limit, Override, Unit
from ratelimit_service.observe.metrics import Metrics

from .counting import DAY, TREE, count, descriptor, hold_everything, planned, rule, shown

OF_RULES = ("rule_hits", "rule_refused", "rule_charges")
UPSTREAMS_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


def test_limits_are_counted_under_upstreams_names_and_labels() -> None:
    """They are exactly the same, so that its dashboards keep working."""
    metrics = Metrics()
    count(metrics, descriptor("team=dba", 3))
    count(metrics, descriptor("team=dba", 2), before=9)
    assert {
        'rate_limit_total_hits{domain="d",key1="team"}': 5,
        'rate_limit_within_limit{domain="d",key1="team"}': 3,
        'rate_limit_near_limit{domain="d",key1="team"}': 1,
        'rate_limit_over_limit{domain="d",key1="team"}': 1,
    } == shown(metrics, "rate_limit")


def test_a_budget_counts_the_calls_that_did_not_say_their_cost() -> None:
    """They are charged 0, and the metric makes that visible."""
    metrics = Metrics()
    count(metrics, descriptor("budget=x"))
    count(metrics, descriptor("budget=x", 0), descriptor("budget=x", 3))
    assert {
        'rule_cost_missing{domain="d",path="d.budget",rule="d.budget",unit="day",window="day"}': 1,
        'rule_hits{domain="d",path="d.budget",rule="d.budget",unit="day",window="day"}': 3,
    } == shown(metrics, "rule_cost", "rule_hits")


def test_charges_above_max_charge_have_a_metric() -> None:
    """It includes refunds, and hits that the store did not count. The counted hits are bounded."""
    metrics = Metrics()
    count(metrics, descriptor("budget=x", 7))
    count(metrics, descriptor("budget=x", 2**63))
    count(metrics, descriptor("budget=x", 8, negative=True))
    metrics.failed(planned(descriptor("budget=x", 8)), StoreError("gone"))
    assert {
        'rule_charges_above_max{domain="d",path="d.budget",rule="d.budget",unit="day",window="day"}': 3,
        'rule_charges{domain="d",path="d.budget",rule="d.budget",unit="day",window="day"}': 3,
        'rule_hits{domain="d",path="d.budget",rule="d.budget",unit="day",window="day"}': 21,
    } == shown(metrics, "rule_hits", "rule_charges")


@pytest.mark.parametrize(
    ("returned", "checks"), [((), 1), ((b"-",), 0), ((b"",), 0), ((None,), 1), ((b"-", b"-"), 0)]
)
def test_the_end_of_a_request_does_not_count_as_a_check(
    returned: tuple[bytes | None, ...], checks: int
) -> None:
    """Gateways that bring ids back send one for each refused, failed or aborted request."""
    metrics = Metrics()
    count(metrics, descriptor("windows=x", 0), returned=returned)
    assert ({CHECKS: 1} if checks else {}) == shown(metrics, "rule_checks")


CHECKS, CHARGES = (
    f'rule_{name}{{domain="d",path="d.windows",rule="d.windows",unit="hour",window="hour"}}'
    for name in ("checks", "charges")
)


@pytest.mark.parametrize(
    ("sent", "before", "expected"),
    [
        ("windows=x: 0", 0, {CHECKS: 1}),
        ("windows=x", 0, {CHECKS: 1}),
        ("windows=x: 0", 10, {}),
        # another descriptor refuses the request, and so no charge will come
        ("windows=x: 0, team=x: 0, quarter=x: 11", 0, {}),
        ("windows=x: 40", 0, {CHARGES: 1}),
        ("windows=x: 40", 10, {CHARGES: 1}),
        ("windows=x: -3", 10, {}),
    ],
)
def test_checks_that_pass_and_charges_can_be_compared(
    sent: str, before: int, expected: dict[str, float]
) -> None:
    """For a rule with several windows, only the first one counts them."""
    metrics = Metrics()
    descriptors = []
    for each in sent.split(", "):
        entry, _, hits = each.partition(": ")
        descriptors.append(descriptor(entry, abs(int(hits)) if hits else None, hits.startswith("-")))
    count(metrics, *descriptors, before=before)
    counted = shown(metrics, "rule_checks", "rule_charges")
    assert expected == {series: value for series, value in counted.items() if "d.windows" in series}


def test_levels_beyond_the_second_are_summed() -> None:
    """key2 exists if a limit has two levels or more; deeper levels are not distinguished."""
    metrics = Metrics()
    count(metrics, descriptor("team=x user=al", 1))
    count(metrics, descriptor("team=x user=al model=a", 2), descriptor("team=x user=al model=b", 4))
    assert {'rate_limit_total_hits{domain="d",key1="team",key2="user_al"}': 7} == shown(
        metrics, "rate_limit_total"
    )


def test_hits_over_a_limit_in_shadow_mode_have_a_metric_more() -> None:
    """The requests were allowed."""
    metrics = Metrics()
    count(metrics, descriptor("tried=x", 2), before=10)
    assert {
        'rate_limit_total_hits{domain="d",key1="tried"}': 2,
        'rate_limit_over_limit{domain="d",key1="tried"}': 2,
        'rate_limit_shadow_mode{domain="d",key1="tried"}': 2,
        'rule_hits{domain="d",path="d.tried",rule="d.tried",unit="day",window="day"}': 2,
        'rule_charges{domain="d",path="d.tried",rule="d.tried",unit="day",window="day"}': 1,
        'decisions{domain="d",outcome="ok"}': 1,
    } == shown(metrics, "rate_limit", *OF_RULES, "decisions")


def test_a_check_makes_no_series_of_a_limit() -> None:
    """It counts nothing; decisions count it, and its refusal is counted for the rule."""
    metrics = Metrics()
    count(metrics, descriptor("team=dba", 0), before=11)
    assert {
        'rule_refused{domain="d",path="d.team",rule="d.team",unit="day",window="day"}': 1,
        'decisions{domain="d",outcome="over_limit"}': 1,
    } == shown(metrics, "rate_limit", "rule", "decisions")


def test_refunded_hits_have_their_own_metric() -> None:
    """Upstream's five metrics never decrease, and do not count refunds."""
    metrics = Metrics()
    count(metrics, descriptor("team=dba", 3, negative=True), before=5)
    assert {'rate_limit_negative_hits{domain="d",key1="team"}': 3} == shown(metrics, "rate_limit", "rule")


def test_hits_on_an_unlimited_rule_have_a_metric_of_their_own() -> None:
    """They are in none of upstream's five metrics."""
    metrics = Metrics()
    count(metrics, descriptor("free=x", 7))
    assert {'rate_limit_unlimited_hits{domain="d",key1="free"}': 7} == shown(metrics, "rate_limit", "rule")


def test_rules_are_counted_with_their_whole_path_and_window() -> None:
    """A rule may have more levels than upstream's labels."""
    metrics = Metrics()
    count(metrics, descriptor("team=x user=al model=a", 20))
    count(metrics, descriptor("quarter=x", 3))
    deep = "d.team.user_al.model_a"
    assert {
        f'rule_hits{{domain="d",path="{deep}",rule="{deep}",unit="day",window="day"}}': 20,
        f'rule_refused{{domain="d",path="{deep}",rule="{deep}",unit="day",window="day"}}': 1,
        f'rule_charges{{domain="d",path="{deep}",rule="{deep}",unit="day",window="day"}}': 1,
        'rule_hits{domain="d",path="d.quarter",rule="d.quarter",unit="15minute",window="15minute"}': 3,
        'rule_charges{domain="d",path="d.quarter",rule="d.quarter",unit="15minute",window="15minute"}': 1,
    } == shown(metrics, *OF_RULES)


def test_limits_that_requests_bring_are_one_rule() -> None:
    """Strangers choose their values and windows; their statistics go by values, as in upstream."""
    metrics = Metrics()
    count(metrics, descriptor("team=a", 1, override=Override(5, Unit.HOUR, 7)))
    count(metrics, descriptor("team=b", 1, override=Override(5, Unit.HOUR, 8)))
    assert {
        'rule_hits{domain="d",path="override",rule="override",unit="hour",window="hour"}': 2,
        'rule_charges{domain="d",path="override",rule="override",unit="hour",window="hour"}': 2,
        'rate_limit_total_hits{domain="d",key1="team_a"}': 1,
        'rate_limit_total_hits{domain="d",key1="team_b"}': 1,
    } == shown(metrics, *OF_RULES, "rate_limit_total")


@pytest.mark.parametrize(
    "error, err_type",
    [
        (StoreError("gone"), "redis_error"),
        (InternalError("oops"), "service_error"),
        (InvalidRequest("no"), "service_error"),
    ],
)
def test_hits_are_counted_even_when_the_answer_is_an_error(
    error: RateLimitServiceError, err_type: str
) -> None:
    """total_hits counts the requested hits, as in upstream."""
    metrics = Metrics()
    metrics.failed(planned(descriptor("team=dba", 3), descriptor("free=x", 2)), error)
    assert {
        'rate_limit_total_hits{domain="d",key1="team"}': 3,
        'rate_limit_unlimited_hits{domain="d",key1="free"}': 2,
        f'should_rate_limit_error{{err_type="{err_type}"}}': 1,
        'decisions{domain="d",outcome="error"}': 1,
    } == shown(metrics, "rate_limit", "should", "decisions")


def test_a_request_without_a_plan_is_an_error_of_no_known_domain() -> None:
    """The domain of the request does not matter."""
    metrics = Metrics()
    metrics.failed(None, InvalidRequest("no"))
    assert {
        'should_rate_limit_error{err_type="service_error"}': 1,
        'decisions{domain="unknown",outcome="error"}': 1,
    } == shown(metrics, "should", "decisions")


def test_domains_without_configuration_do_not_crowd_the_decisions() -> None:
    """They have a separate metric."""
    metrics = Metrics()
    count(metrics, descriptor("team=dba"), domain="x")
    count(metrics, descriptor("team=dba"), domain="y")
    assert {
        'decisions{domain="unknown",outcome="ok"}': 2,
        'domain_not_found{domain="x"}': 1,
        'domain_not_found{domain="y"}': 1,
    } == shown(metrics, "decisions", "domain", "rate_limit")


def test_global_shadow_mode_counts_whom_it_let_through() -> None:
    """Requests within their limits do not count."""
    metrics = Metrics()
    count(metrics, descriptor("team=dba"), shadow_mode=True)
    count(metrics, descriptor("team=dba"), before=10, shadow_mode=True)
    assert {"global_shadow_mode": 1, 'decisions{domain="d",outcome="ok"}': 2} == shown(
        metrics, "global", "decisions"
    )


def test_loads_are_counted_and_dated() -> None:
    """A failed load changes neither the time nor the number of rules."""
    metrics = Metrics()
    metrics.config_loaded(TREE, 1_700_000_000.5)
    metrics.config_failed()
    metrics.config_failed()
    assert {
        "config_load_success": 1,
        "config_load_error": 2,
        "config_rejected": 1,
        "config_load_time_seconds": 1_700_000_000.5,
        "config_rules": len(TREE.rules),
    } == shown(metrics, "config")


def test_a_load_that_succeeds_ends_a_rejection() -> None:
    """The metric shows that a file was corrected."""
    metrics = Metrics()
    seen = []
    for outcome in ("never read", "refused", "loaded"):
        if outcome == "refused":
            metrics.config_failed()
        elif outcome == "loaded":
            metrics.config_loaded(TREE, 1.0)
        seen.append(shown(metrics, "config_rejected")["config_rejected"])
    assert [0, 1, 0] == seen


def test_new_rules_continue_the_series_of_the_old_ones() -> None:
    """A series belongs to a path, not to a load."""
    metrics = Metrics()
    count(metrics, descriptor("team=dba", 1))
    metrics.config_loaded(TREE, 1.0)
    assert 1 == len(metrics._former_rows) == len(list(metrics.config_replaced()))
    count(metrics, descriptor("team=dba", 1))
    assert {'rule_hits{domain="d",path="d.team",rule="d.team",unit="day",window="day"}': 2} == shown(
        metrics, 'rule_hits{domain="d",path="d.team",'
    )


def buckets(metrics: Metrics) -> dict[float, float]:
    """Return the numbers of response times of ShouldRateLimit, by upper bound."""
    start = 'response_time_seconds_bucket{grpc_method="ShouldRateLimit",le="'
    return {
        float(series.removeprefix(start).removesuffix('"}')): count
        for series, count in shown(metrics, start).items()
    }


def test_response_times_are_summed_up_bucket_by_bucket() -> None:
    """A time equal to a bound is counted below it, and upstream's bounds are all present."""
    metrics = Metrics()
    for seconds in (0.001, 0.004, 0.005, 0.006, 60):
        metrics.requested("ShouldRateLimit", seconds)
    found = buckets(metrics)
    assert [0, 1, 1, 3, 4, 4, 5] == [
        found[le] for le in (0.0005, 0.001, 0.0025, 0.005, 0.01, 10, float("inf"))
    ]
    assert set() == set(UPSTREAMS_BOUNDS) - set(found)
    assert {
        'total_requests{grpc_method="ShouldRateLimit"}': 5,
        'response_time_seconds_count{grpc_method="ShouldRateLimit"}': 5,
        'response_time_seconds_sum{grpc_method="ShouldRateLimit"}': pytest.approx(60.016),
    } == shown(metrics, "total_requests", "response_time_seconds_count", "response_time_seconds_sum")


def test_response_times_can_be_milliseconds() -> None:
    """PROMETHEUS_RESPONSE_TIME_AS_MILLISECONDS changes the unit and keeps the name."""
    metrics = Metrics(milliseconds=True)
    metrics.requested("Check", 0.002)
    assert {'response_time_seconds_sum{grpc_method="Check"}': 2} == shown(
        metrics, "response_time_seconds_sum"
    )


def test_round_trips_to_the_store_are_timed() -> None:
    """An observation is one round trip."""
    metrics = Metrics()
    metrics.observe_store(0.25)
    metrics.observe_store(0.5)
    assert {"store_seconds_count": 2, "store_seconds_sum": 0.75} == shown(
        metrics, "store_seconds_count", "store_seconds_sum"
    )


def test_thresholds_are_counted_by_limit_and_share() -> None:
    """A limit has its name or the path of its rule. Limits in requests are one rule."""
    metrics = Metrics()
    named = rule("team", name="x")
    metrics.crossed(named, Limit(10, DAY, "daily"), "0.8")
    metrics.crossed(named, Limit(10, DAY), "0.8")
    metrics.crossed(named, Limit(10, DAY), "1")
    for value in ("a", "b"):
        metrics.crossed(rule(f"team_{value}", source=OVERRIDE_SOURCE), Limit(10, DAY), "1")
    assert {
        'budget_threshold_crossed{domain="d",path="d.team",rule="daily",share="0.8",window="day"}': 1,
        'budget_threshold_crossed{domain="d",path="d.team",rule="d.team",share="0.8",window="day"}': 1,
        'budget_threshold_crossed{domain="d",path="d.team",rule="d.team",share="1",window="day"}': 1,
        'budget_threshold_crossed{domain="d",path="override",rule="override",share="1",window="day"}': 2,
    } == shown(metrics, "budget")


def test_holds_have_metrics() -> None:
    """Holds are counted by rule when they are taken, end, expire or refuse, and so is the overshoot of an
    ended window.
    """
    metrics = Metrics()
    hold_everything(metrics)
    labels = '{domain="d",path="d.held",rule="d.held",unit="day",window="day"}'
    assert {
        f"rule_holds{labels}": 4,
        f"rule_held_tokens{labels}": 24,
        f"rule_holds_ended{labels}": 3,
        f"rule_holds_expired{labels}": 1,
        f"rule_refused_in_flight{labels}": 1,
    } == shown(metrics, "rule_hold", "rule_held", "rule_refused_in")
    overshoot = shown(metrics, "rule_overshoot")
    told = {name: value for name, value in overshoot.items() if "_bucket" not in name}
    assert {f"rule_overshoot_ratio_count{labels}": 1, f"rule_overshoot_ratio_sum{labels}": 0.5} == told
