"""The files of config/examples about models, kinds of tokens, and requests, through the real Envoy."""

from __future__ import annotations

from zoneinfo import ZoneInfo

import pytest

from testing.service import calling
from testing.waiting import wait_for

from .callers import Caller
from .conftest import Gateway, Unique, in_one_minute

pytestmark = pytest.mark.e2e

BERLIN = ZoneInfo("Europe/Berlin")


# model-budgets.yaml


def model(examples: Gateway, team: str, name: str, *, bucket: str = "") -> Caller:
    headers = {"x-team-id": team, "x-model": name}
    return Caller(examples, "/model", headers, f"model-budgets|team={team}|model={bucket or name}")


@in_one_minute
def test_models_of_one_family_share_a_budget(examples: Gateway) -> None:
    """Usage of mini-a and mini-b is summed, and both are refused. Another model of the team has its own
    budget.
    """
    mini_a = model(examples, "research", "mini-a", bucket="mini-*").fresh()
    mini_b = model(examples, "research", "mini-b", bucket="mini-*")
    large = model(examples, "research", "large").fresh()
    assert [200] == mini_a.spend(600_000)
    assert [200] == mini_b.spend(400_000)
    assert [429, 429] == [mini_a.complete().status_code, mini_b.complete().status_code]
    assert [200, 429] == large.spend(200_000, 1)


@in_one_minute
def test_each_model_of_another_team_has_a_budget_of_its_own(examples: Gateway, unique: Unique) -> None:
    """Even if the names are similar."""
    ops = unique("ops")
    mini_a, mini_b = model(examples, ops, "mini-a"), model(examples, ops, "mini-b")
    assert [200, 429] == mini_a.spend(50_000, 1)
    assert [200] == mini_b.spend(1)


# prompt-and-completion.yaml


@in_one_minute
def test_prompts_and_completions_have_separate_budgets(examples: Gateway, unique: Unique) -> None:
    """A team with long documents exhausts its prompt tokens, a team with long answers its completion
    tokens.
    """
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
def test_a_limit_of_requests_refuses_even_if_tokens_are_left(examples: Gateway, unique: Unique) -> None:
    """The sixth request of a minute is refused, however little the others have cost."""
    ann = user(examples, unique("ann"))
    assert [200] * 5 + [429] == ann.spend(1, 1, 1, 1, 1, 1)
    assert "requests" == ann.refusal()["rule"]
    assert {"hour": 5} == ann.used


@in_one_minute
def test_a_request_that_the_token_budget_refuses_is_not_counted(examples: Gateway, unique: Unique) -> None:
    """One expensive answer exhausts the tokens. The refused requests do not count towards the five."""
    name = unique("bob")
    bob = user(examples, name)
    assert [200, 429, 429] == bob.spend(10_000, 1, 1)
    assert "tokens" == bob.refusal()["rule"]
    assert [1] == list(examples.counters.of(f"requests-and-tokens|user-requests={name}").values())


# quotas.yaml


@in_one_minute
def test_a_request_is_refused_only_if_both_quotas_are_exhausted(examples: Gateway) -> None:
    """Reserved capacity is used first, then capacity on demand. After that, callers are refused."""
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
def test_required_budgets_serve_callers_that_have_one(
    examples: Gateway,
) -> None:
    """Teams in the file are served as usual. test_refusal.py tests the others."""
    dba = Caller(examples, "/closed", {"x-team-id": "dba"}, "closed|team=dba").fresh()
    assert [200, 200, 429] == dba.spend(4_999, 1, 1)
    assert "dba-hourly" == dba.refusal()["rule"]


# request-limits.yaml


@in_one_minute
def test_a_login_is_limited_and_a_health_check_is_not(examples: Gateway) -> None:
    """Five in a quarter of an hour at this path. The window is named by its whole length."""
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
def test_an_exempt_address_is_not_limited(examples: Gateway) -> None:
    """Two addresses have made 600 requests each. Only the exempt one may continue."""
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
    """A key far above the limit is served and counted."""
    name = unique("key")
    key = Caller(examples, "/edge", {"x-api-key": name}, f"edge|api_key={name}")
    with calling(examples.service.grpc) as gateway:
        gateway.ask("edge", "api_key", name, hits=20_000)
    assert 200 == key.complete().status_code
    assert {"hour": 20_001} == key.used
