"""The files of config/examples about callers, teams and tiers, through the real Envoy: allowed and refused
requests, and their counters.
"""

from __future__ import annotations

from zoneinfo import ZoneInfo

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from testing.waiting import wait_for

from .callers import Caller, midnight
from .conftest import Gateway, Unique, in_one_minute

pytestmark = pytest.mark.e2e

BERLIN = ZoneInfo("Europe/Berlin")


# workload-identity.yaml


@pytest.mark.parametrize("stream", [False, True], ids=["json", "sse"])
@in_one_minute
def test_an_application_is_refused_when_the_budget_of_its_minute_is_exhausted(
    examples: Gateway, unique: Unique, stream: bool
) -> None:
    """All 100 tokens can be used, and then no request passes. Another application is not affected."""
    namespace, other = unique("payments"), unique("search")
    payments = Caller(
        examples, "/v1", {"x-client-ns": namespace}, bucket=f"token-budgets|client_ns={namespace}"
    )
    search = Caller(examples, "/v1", {"x-client-ns": other}, bucket=f"token-budgets|client_ns={other}")
    assert [200, 200, 429] == payments.spend(60, 40, 1, stream=stream)
    assert [200] == search.spend(40, stream=stream)
    payments.next_window("minute")
    assert [200] == payments.spend(40, stream=stream)


# team-budgets.yaml


def team(examples: Gateway, name: str, *, windows: int = 2) -> Caller:
    return Caller(examples, "/team", {"x-team-id": name}, f"team-budgets|team={name}", windows)


@in_one_minute
def test_a_team_that_exhausts_its_hour_is_refused_until_a_reset(examples: Gateway) -> None:
    """dba is refused after five prompts, with the reason. support continues. An operator resets dba's
    budget.
    """
    dba, support = team(examples, "dba").fresh(), team(examples, "support").fresh()
    assert [200] * 5 == dba.spend(1200, 900, 1500, 600, 1000)
    refusal = dba.refusal()
    assert (
        f"dba-hourly: 5200 of 5000 tokens of this hour are used. It is new at {refusal['resets_at']}."
        == refusal["message"]
    )
    assert [200] == support.spend(5001)
    assert {"hour": 5200, "day": 5200} == dba.used
    dba.fresh()
    assert [200] == dba.spend(40)


@in_one_minute
def test_a_new_hour_does_not_reset_the_budget_of_the_day(examples: Gateway) -> None:
    """If both are exhausted, the refusal names the day, which resets later. A new hour changes nothing, a new
    day does.
    """
    dba = team(examples, "dba").fresh()
    assert [200] == dba.spend(50_001)
    assert ("dba-daily", "day", midnight(ZoneInfo("UTC"))) == shown_limit(dba)
    dba.next_window("hour")
    assert ("dba-daily", "day", midnight(ZoneInfo("UTC"))) == shown_limit(dba)
    dba.next_window("day")
    assert [200] == dba.spend(40)


@in_one_minute
def test_an_unlisted_team_has_a_small_budget(examples: Gateway, unique: Unique) -> None:
    """Each unlisted team has its own, of 1,000 tokens an hour."""
    ops, sales = (team(examples, unique(name), windows=1) for name in ("ops", "sales"))
    assert [200, 429] == ops.spend(1000, 1)
    assert [200] == sales.spend(999)


@in_one_minute
def test_a_team_near_its_limit_is_logged_and_shown(examples: Gateway) -> None:
    """Each threshold is logged once when it is crossed, and gauges show the use and the limit."""
    support = team(examples, "support").fresh()

    def crossed() -> list[tuple[str, float, int]]:
        events = examples.service.events("budget threshold crossed")
        mine = [event for event in events if support.bucket in event["bucket"]]
        return [(event["rule"], event["share"], event["used"]) for event in mine]

    before = crossed()
    assert [200] * 4 == support.spend(9_999, 1, 1, 9_999)
    crossings = [(0.5, 10_000), (0.8, 20_000), (1.0, 20_000)]
    expected = [("support-hourly", share, used) for share, used in crossings]
    wait_for("three events", lambda: crossed()[len(before) :] == expected)

    text = httpx.get(f"http://{examples.service.metrics}/metrics", timeout=60).text
    gauges = {
        (family.name.removeprefix("ratelimit_service_budget_"), sample.labels["rule"]): sample.value
        for family in text_string_to_metric_families(text)
        if family.name.startswith("ratelimit_service_budget_")
        for sample in family.samples
        if sample.labels.get("bucket") == "team=support"
    }
    assert (20_000, 20_000) == (gauges["used", "support-hourly"], gauges["limit", "support-hourly"])
    assert (20_000, 200_000) == (gauges["used", "support-daily"], gauges["limit", "support-daily"])
    assert 0 < gauges["seconds_to_reset", "support-hourly"] <= 3600


def shown_limit(caller: Caller) -> tuple[str, str, str]:
    """The rule that refuses a caller, its unit, and when it resets."""
    refusal = caller.refusal()
    return refusal["rule"], refusal["unit"], refusal["resets_at"]


# tiers.yaml


def subscriber(examples: Gateway, tier: str, subscription: str, *, windows: int = 2) -> Caller:
    headers = {"x-tier": tier, "x-subscription-id": subscription}
    return Caller(examples, "/tiers", headers, f"tiers|tier={tier}|subscription={subscription}", windows)


@in_one_minute
def test_a_developer_has_less_than_a_standard_subscription(examples: Gateway, unique: Unique) -> None:
    """A developer has 2,000 tokens a minute, the standard tier many more."""
    developer = subscriber(examples, "developer", unique("s"))
    standard = subscriber(examples, "standard", unique("s"))
    another = subscriber(examples, "developer", unique("s"))
    assert [200, 429] == developer.spend(2_000, 1)
    refusal = developer.refusal()
    assert ("developer-rate", "minute", True) == (
        refusal["rule"],
        refusal["unit"],
        1 <= refusal["resets_in_seconds"] <= 60,
    )
    assert f"Try again in {refusal['resets_in_seconds']} second" in refusal["message"]
    assert [200, 200] == standard.spend(2_000, 1)
    assert [200] == another.spend(1)


@in_one_minute
def test_a_new_minute_does_not_reset_the_quota_of_the_month(examples: Gateway, unique: Unique) -> None:
    """The billing month ends on the 15th at midnight in Berlin."""
    developer = subscriber(examples, "developer", unique("s"))
    assert [200] == developer.spend(100_000)
    developer.next_window("minute")
    assert ("developer-quota", "month", midnight(BERLIN, day_of_month=15)) == shown_limit(developer)
    assert {"month": 100_000} == developer.used


@in_one_minute
def test_the_unlimited_tier_is_never_refused(examples: Gateway, unique: Unique) -> None:
    """Whatever the cost. Nothing is counted in Redis."""
    unlimited = subscriber(examples, "unlimited", unique("s"), windows=0)
    assert [200] * 3 == unlimited.spend(1_000_000_000, 1_000_000_000, 1)
    assert {} == unlimited.used


@in_one_minute
def test_a_caller_without_a_subscription_is_limited_by_address(examples: Gateway) -> None:
    """One address exhausts its minute and, with an expensive reply, its week. Another address is not
    affected.
    """
    one, other = (
        Caller(
            examples, "/tiers", {"x-forwarded-for": address}, f"tiers|remote_address={address}", windows=2
        ).fresh()
        for address in ("198.51.100.7", "198.51.100.8")
    )
    assert [200, 429] == one.spend(500, 1)
    assert "visitor-rate" == one.refusal()["rule"]
    assert [200] == other.spend(9_500)
    one.next_window("minute")
    assert [200] == one.spend(9_500)
    one.next_window("minute")
    assert ("visitor-quota", "week", midnight(BERLIN, weekday=0)) == shown_limit(one)
    other.next_window("minute")
    assert [200] == other.spend(1)
