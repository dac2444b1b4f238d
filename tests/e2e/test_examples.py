"""Every file of config/examples through the real Envoy: who may go on, who is refused, what is counted, and
where.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from testing.service import calling
from testing.waiting import wait_for

from .conftest import Gateway, Unique, in_one_minute

pytestmark = pytest.mark.e2e

BERLIN = ZoneInfo("Europe/Berlin")


class Caller(NamedTuple):
    """Somebody who is known by these headers, and charged on a bucket that counts in so many windows."""

    gateway: Gateway
    path: str
    headers: dict[str, str]
    bucket: str
    windows: int = 1

    def complete(self, tokens: int = 40, *, prompt: int = 0, stream: bool = False) -> httpx.Response:
        """One completion that costs so many tokens, of which so many for the prompt."""
        cost = {"x-mock-tokens": str(tokens), "x-mock-prompt-tokens": str(prompt)}
        return self.gateway.complete(self.path, {**self.headers, **cost}, stream=stream)

    def spend(self, *tokens: int, stream: bool = False) -> list[int]:
        """The statuses of completions that cost so much, one after another, each of them charged before the
        next.
        """
        statuses = []
        used = sum(self.used.values())
        for amount in tokens:
            statuses.append(self.complete(amount, stream=stream).status_code)
            used += amount * self.windows if statuses[-1] == 200 else 0
            self.gateway.counters.wait_until(self.bucket, used)
        return statuses

    @property
    def used(self) -> dict[str, int]:
        """What is counted, by unit: {"hour": 40, "day": 40}."""
        counters = self.gateway.counters.of(self.bucket)
        return {window.partition(":")[0]: used for window, used in counters.items()}

    def refusal(self) -> dict[str, Any]:
        """What the next request is refused with: `rate_limit` of the body, and the `message`."""
        answer = self.complete()
        assert 429 == answer.status_code
        error: dict[str, Any] = answer.json()["error"]
        return {**error["rate_limit"], "message": error["message"]}

    def next_window(self, unit: str) -> None:
        """The window of this unit is over, as far as its counter can tell."""
        self.gateway.counters.reset(self.bucket, unit)

    def fresh(self) -> Caller:
        """The same with nothing counted; for those whose names stand in a file."""
        self.gateway.counters.reset(self.bucket)
        return self


def midnight(zone: ZoneInfo, *, day_of_month: int | None = None, weekday: int | None = None) -> str:
    """The next midnight in `zone` at which such a day begins, as the UTC instant that a refusal names."""
    day = datetime.now(zone).date() + timedelta(days=1)
    while day_of_month not in (None, day.day) or weekday not in (None, day.weekday()):
        day += timedelta(days=1)
    instant = datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC)
    return instant.strftime("%Y-%m-%dT%H:%M:%SZ")


# workload-identity.yaml


@pytest.mark.parametrize("stream", [False, True], ids=["json", "sse"])
@in_one_minute
def test_an_application_is_refused_when_its_minute_is_used_up(
    examples: Gateway, unique: Unique, stream: bool
) -> None:
    """All of the 100 tokens can be used, and nothing after them; another application goes on."""
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
def test_a_team_burns_through_its_hour(examples: Gateway) -> None:
    """dba is refused after five prompts and told why; support goes on; an operator gives dba its budget back."""
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
def test_a_new_hour_does_not_open_the_budget_of_the_day(examples: Gateway) -> None:
    """With both used up the day refuses, since it takes longer; a new hour does not change that, a new day
    does.
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
    """Each has its own, of 1,000 tokens an hour."""
    ops, sales = (team(examples, unique(name), windows=1) for name in ("ops", "sales"))
    assert [200, 429] == ops.spend(1000, 1)
    assert [200] == sales.spend(999)


@in_one_minute
def test_a_team_that_nears_its_budget_is_seen(examples: Gateway) -> None:
    """Each threshold is logged once when it is crossed, and gauges show what is used of which limit."""
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

    text = httpx.get(f"http://{examples.service.metrics}/metrics").text
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
def test_a_developer_is_refused_where_a_standard_subscription_is_not(
    examples: Gateway, unique: Unique
) -> None:
    """2,000 tokens a minute are all that a developer has, and little of what the standard tier has."""
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
def test_a_quota_for_the_month_is_apart_from_the_minute(examples: Gateway, unique: Unique) -> None:
    """A new minute does not help who has used up the billing month, which ends on the 15th, at midnight in
    Berlin.
    """
    developer = subscriber(examples, "developer", unique("s"))
    assert [200] == developer.spend(100_000)
    developer.next_window("minute")
    assert ("developer-quota", "month", midnight(BERLIN, day_of_month=15)) == shown_limit(developer)
    assert {"month": 100_000} == developer.used


@in_one_minute
def test_the_unlimited_tier_is_never_refused(examples: Gateway, unique: Unique) -> None:
    """Whatever it costs; and nothing is counted in Redis."""
    unlimited = subscriber(examples, "unlimited", unique("s"), windows=0)
    assert [200] * 3 == unlimited.spend(1_000_000_000, 1_000_000_000, 1)
    assert {} == unlimited.used


@in_one_minute
def test_a_caller_without_a_subscription_is_limited_by_address(examples: Gateway) -> None:
    """One address uses up its minute and, with a costly reply, the week; its neighbour goes on."""
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


# model-budgets.yaml


def model(examples: Gateway, team: str, name: str, *, bucket: str = "") -> Caller:
    headers = {"x-team-id": team, "x-model": name}
    return Caller(examples, "/model", headers, f"model-budgets|team={team}|model={bucket or name}")


@in_one_minute
def test_models_of_one_family_share_a_budget(examples: Gateway) -> None:
    """What mini-a and mini-b use adds up, and both are refused; another model of the team has its own budget."""
    mini_a = model(examples, "research", "mini-a", bucket="mini-*").fresh()
    mini_b = model(examples, "research", "mini-b", bucket="mini-*")
    large = model(examples, "research", "large").fresh()
    assert [200] == mini_a.spend(600_000)
    assert [200] == mini_b.spend(400_000)
    assert [429, 429] == [mini_a.complete().status_code, mini_b.complete().status_code]
    assert [200, 429] == large.spend(200_000, 1)


@in_one_minute
def test_each_model_of_another_team_has_a_budget_of_its_own(examples: Gateway, unique: Unique) -> None:
    """Also where the names look alike."""
    ops = unique("ops")
    mini_a, mini_b = model(examples, ops, "mini-a"), model(examples, ops, "mini-b")
    assert [200, 429] == mini_a.spend(50_000, 1)
    assert [200] == mini_b.spend(1)


# prompt-and-completion.yaml


@in_one_minute
def test_prompts_and_completions_have_budgets_apart(examples: Gateway, unique: Unique) -> None:
    """A team that pastes long documents runs out of prompt tokens, one that has novels written of the others."""
    reader, writer = (
        Caller(examples, "/prompt-and-completion", {"x-team-id": name}, f"prompt-and-completion|team={name}")
        for name in (unique("reader"), unique("writer"))
    )

    def used(caller: Caller) -> list[int]:
        counters = caller.gateway.counters
        return [
            sum(counters.of(f"{caller.bucket}|tokens={kind}").values()) for kind in ("prompt", "completion")
        ]

    assert 200 == reader.complete(200_010, prompt=200_000).status_code
    wait_for("two charges", lambda: used(reader) == [200_000, 10])
    assert "prompt-tokens" == reader.refusal()["rule"]

    assert 200 == writer.complete(50_007, prompt=7).status_code
    wait_for("two charges", lambda: used(writer) == [7, 50_000])
    assert "completion-tokens" == writer.refusal()["rule"]
    assert [[200_000, 10], [7, 50_000]] == [used(reader), used(writer)]


# requests-and-tokens.yaml


def user(examples: Gateway, name: str) -> Caller:
    return Caller(
        examples, "/requests-and-tokens", {"x-user-id": name}, f"requests-and-tokens|user-tokens={name}"
    )


@in_one_minute
def test_many_small_requests_are_refused_though_there_are_tokens_left(
    examples: Gateway, unique: Unique
) -> None:
    """The sixth request of a minute is one too many, however little the others have cost."""
    ann = user(examples, unique("ann"))
    assert [200] * 5 + [429] == ann.spend(1, 1, 1, 1, 1, 1)
    assert "requests" == ann.refusal()["rule"]
    assert {"hour": 5} == ann.used


@in_one_minute
def test_a_request_that_is_refused_for_its_tokens_is_not_counted(examples: Gateway, unique: Unique) -> None:
    """One costly reply uses up the tokens; the requests that are refused for it leave the five as they are."""
    name = unique("bob")
    bob = user(examples, name)
    assert [200, 429, 429] == bob.spend(10_000, 1, 1)
    assert "tokens" == bob.refusal()["rule"]
    assert [1] == list(examples.counters.of(f"requests-and-tokens|user-requests={name}").values())


# quotas.yaml


@in_one_minute
def test_a_request_is_refused_only_where_both_backends_are_used_up(examples: Gateway) -> None:
    """Reserved capacity is used first, then what is on demand, and only then is a caller refused."""
    reserved, on_demand = (
        Caller(examples, "/quotas", {}, f"quotas|backend={name}").fresh()
        for name in ("reserved", "on-demand")
    )
    first = reserved.complete(10_000)
    examples.counters.wait_until(reserved.bucket, 10_000)
    second = on_demand.complete(2_000)
    examples.counters.wait_until(on_demand.bucket, 2_000)
    assert ["reserved", "on-demand"] == [answer.headers["x-backend"] for answer in (first, second)]
    assert 429 == on_demand.complete().status_code

    reserved.next_window("minute")
    assert "reserved" == reserved.complete().headers["x-backend"]
    examples.counters.wait_until(reserved.bucket, 40)


# closed.yaml


@in_one_minute
def test_if_budgets_are_required_callers_with_one_continue_until_it_is_exhausted(
    examples: Gateway,
) -> None:
    """A team that is named is served as usual; test_refusal.py has those that are not."""
    dba = Caller(examples, "/closed", {"x-team-id": "dba"}, "closed|team=dba").fresh()
    assert [200, 200, 429] == dba.spend(4_999, 1, 1)
    assert "dba-hourly" == dba.refusal()["rule"]


# request-limits.yaml


@in_one_minute
def test_a_login_is_limited_and_a_health_check_is_not(examples: Gateway) -> None:
    """Five in a quarter of an hour at this path; the window is named as it is counted."""
    visitor = {"x-forwarded-for": "198.51.100.9"}
    login = Caller(examples, "/login", visitor, "edge|path=/login").fresh()
    health = Caller(examples, "/health/live", visitor, "edge|path=/health/live")
    assert [200] * 5 + [429] == [login.complete().status_code for _ in range(6)]
    assert {"15minute": 6} == login.used
    refused = login.complete()
    assert (429, "15 minutes") == (refused.status_code, refused.json()["error"]["rate_limit"]["unit"])
    assert [200] * 6 == [health.complete().status_code for _ in range(6)]
    assert {} == health.used


@in_one_minute
def test_one_address_is_let_through_and_any_other_limited(examples: Gateway) -> None:
    """Of the two that have made 600 requests already, the one without a limit goes on."""
    monitoring, visitor = (
        Caller(examples, "/edge", {"x-forwarded-for": address}, f"edge|remote_address={address}").fresh()
        for address in ("10.0.0.1", "198.51.100.10")
    )
    with calling(examples.service.grpc) as gateway:
        for caller in (monitoring, visitor):
            gateway.ask("edge", "remote_address", caller.headers["x-forwarded-for"], hits=600)
    assert [200, 429] == [monitoring.complete().status_code, visitor.complete().status_code]
    assert "Rate limit edge.remote_address is used up." in visitor.refusal()["message"]


@in_one_minute
def test_a_limit_in_shadow_mode_refuses_no_request(examples: Gateway, unique: Unique) -> None:
    """A key that is far over it is served, and counted."""
    name = unique("key")
    key = Caller(examples, "/edge", {"x-api-key": name}, f"edge|api_key={name}")
    with calling(examples.service.grpc) as gateway:
        gateway.ask("edge", "api_key", name, hits=20_000)
    assert 200 == key.complete().status_code
    assert {"hour": 20_001} == key.used
