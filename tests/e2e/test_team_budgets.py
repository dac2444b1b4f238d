"""Budgets per team (teams.yaml): Envoy's headers, refunds, overrides, overshoot, and plain request limits."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from .conftest import Gateway, Unique

pytestmark = pytest.mark.e2e

YEAR = 365 * 24 * 60 * 60


def spend(gateway: Gateway, path: str, team: str, tokens: int, *, used: int) -> int:
    """Make a completion of this many tokens, wait until the team's counter is `used`, and return the HTTP
    status.
    """
    status = gateway.complete(path, {"x-team-id": team, "x-mock-tokens": str(tokens)}).status_code
    gateway.counters.wait_until(f"team-budgets|team={team}", used)
    return status


def test_every_answer_has_the_remaining_budget(gateway: Gateway, unique: Unique) -> None:
    """Envoy's x-ratelimit headers come from the check, so they have the amount before the charge of the
    request.
    """
    team = unique("dba")
    seen = []
    for used in (40, 80, 120, 120):
        answer = gateway.complete("/team", {"x-team-id": team})
        gateway.counters.wait_until(f"team-budgets|team={team}", used)
        seen.append((answer.status_code, answer.headers["x-ratelimit-remaining"]))
        assert f'100, 100;w={YEAR};name="team-budget"' == answer.headers["x-ratelimit-limit"]
        assert 1 <= int(answer.headers["x-ratelimit-reset"]) <= YEAR
    assert [(200, "100"), (200, "60"), (200, "20"), (429, "0")] == seen


def test_another_team_is_not_affected(gateway: Gateway, unique: Unique) -> None:
    dba, support = unique("dba"), unique("support")
    assert 200 == spend(gateway, "/team", dba, 101, used=101)
    assert 429 == gateway.complete("/team", {"x-team-id": dba}).status_code
    answer = gateway.complete("/team", {"x-team-id": support})
    assert (200, "100") == (answer.status_code, answer.headers["x-ratelimit-remaining"])


def test_a_stream_without_usage_is_not_charged(gateway: Gateway, unique: Unique) -> None:
    """If the provider does not report the cost of a stream, Envoy sends no charge, and nothing is counted."""
    team = unique("dba")
    assert 200 == gateway.complete("/team", {"x-team-id": team}, stream=True, include_usage=False).status_code
    assert 200 == spend(gateway, "/team", team, 7, used=7)


def test_a_charge_far_over_the_limit_is_counted_in_full(gateway: Gateway, unique: Unique) -> None:
    """A reply of a million tokens on a budget of 100 has already been paid for, so all of it is counted."""
    team = unique("dba")
    assert 200 == spend(gateway, "/team", team, 1_000_000, used=1_000_000)
    assert 429 == gateway.complete("/team", {"x-team-id": team}).status_code


def test_a_refund_reopens_the_budget(gateway: Gateway, unique: Unique) -> None:
    """Refunded tokens (is_negative_hits) can be spent again, and no refund raises a budget above its
    limit.
    """
    team = unique("dba")
    assert 200 == spend(gateway, "/team", team, 120, used=120)
    assert 429 == gateway.complete("/team", {"x-team-id": team}).status_code

    assert 200 == gateway.complete("/refund", {"x-team-id": team, "x-refund": "90"}).status_code
    gateway.counters.wait_until(f"team-budgets|team={team}", 30)
    assert 200 == spend(gateway, "/team", team, 5, used=35)

    assert 200 == gateway.complete("/refund", {"x-team-id": team, "x-refund": "1000"}).status_code
    gateway.counters.wait_until(f"team-budgets|team={team}", 0)
    assert "100" == gateway.complete("/team", {"x-team-id": team}).headers["x-ratelimit-remaining"]


@pytest.mark.parametrize(
    ("route", "limit"), [("/static-override", 70), ("/metadata-override", 50)], ids=["static", "metadata"]
)
def test_a_limit_of_the_route_overrides_the_configured_one(
    gateway: Gateway, unique: Unique, route: str, limit: int
) -> None:
    """The limit is in the configuration or metadata of a route; the counter is the team's."""
    team = unique("dba")
    assert 200 == spend(gateway, route, team, limit, used=limit)
    assert 200 == spend(gateway, route, team, 1, used=limit + 1)
    refused = gateway.complete(route, {"x-team-id": team})
    assert (429, f"{limit}, {limit};w={YEAR}") == (refused.status_code, refused.headers["x-ratelimit-limit"])
    usual = gateway.complete("/team", {"x-team-id": team})
    assert (200, str(100 - limit - 1)) == (usual.status_code, usual.headers["x-ratelimit-remaining"])


def test_parallel_requests_overshoot_but_the_next_one_is_refused(gateway: Gateway, unique: Unique) -> None:
    """Six requests that are checked before any is charged spend 360 of 100 tokens; the seventh gets 429."""
    team = unique("dba")
    headers = {"x-team-id": team, "x-mock-tokens": "60", "x-mock-together": "6"}
    with ThreadPoolExecutor(6) as callers:
        answers = list(callers.map(lambda _: gateway.complete("/team", headers), range(6)))
    assert [200] * 6 == [answer.status_code for answer in answers]
    gateway.counters.wait_until(f"team-budgets|team={team}", 360)
    assert 429 == gateway.complete("/team", {"x-team-id": team}).status_code


def test_a_request_without_hits_counts_one(gateway: Gateway, unique: Unique) -> None:
    """Envoy's usual configuration has no hits_addend: requests are counted, including refused ones."""
    caller = unique("cron")
    codes = [gateway.complete("/classic", {"x-caller": caller}).status_code for _ in range(3)]
    assert [200, 200, 429] == codes
    gateway.counters.wait_until(f"team-budgets|caller={caller}", 3)
