"""deploy/agentgateway: the calls that a gateway makes with its policies, on the service and a real Redis."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import grpc
import pytest

from testing.redis_servers import RedisServer, free_port
from testing.service import Service

from ..e2e.conftest import Counters, Unique, in_one_minute
from .agentgateway import CONFIG, FOLDER, POLICIES, RULES, AgentGateway, Everything, Facts, Policy, policy_of

REFUSAL_HEADERS = "retry-after,content-type,x-should-retry,x-envoy-ratelimited,x-ratelimit"


class Make(Protocol):
    """Creates a gateway with the policy of a folder."""

    def __call__(self, folder: str, *, keeps_refusals: bool = False) -> AgentGateway: ...


@pytest.fixture(scope="module")
def service(redis_server: RedisServer) -> Iterator[Service]:
    """A service that has the ConfigMaps of all folders, and the settings of the README."""
    with serving(redis_server, *(file for name, file in RULES.items() if name != "standalone")) as service:
        yield service


@contextmanager
def serving(redis_server: RedisServer, *files: Path) -> Iterator[Service]:
    environment = {
        "CONFIG_PATH": ",".join(map(str, files)),
        "REDIS_URL": redis_server.url,
        "REFUSAL_HEADERS": REFUSAL_HEADERS,
    }
    with Service(environment) as service:
        yield service


@pytest.fixture(scope="module")
def gateway(service: Service) -> Iterator[Make]:
    """Create a gateway with the policy of a folder, on its single connection."""
    with grpc.insecure_channel(service.grpc) as channel:

        def make(folder: str, *, keeps_refusals: bool = False) -> AgentGateway:
            policy = policy_of(FOLDER / folder / "policy.yaml")
            return AgentGateway(policy, channel, keeps_refusals=keeps_refusals)

        yield make


@pytest.fixture
def counters(redis_server: RedisServer) -> Counters:
    return Counters(redis_server)


def cost(tokens: int, *, prompt: int = 0) -> Facts:
    """The facts after an answer of this many tokens, of which this many were in the prompt."""
    return {"llm.inputTokens": prompt, "llm.outputTokens": tokens - prompt}


def used(counters: Counters, bucket: str) -> dict[str, int]:
    """The counts by unit."""
    return {window.partition(":")[0]: held for window, held in counters.of(bucket).items()}


def described(gateway: AgentGateway) -> list[list[tuple[str, int | None]]]:
    """Return the calls that were made: for each, its descriptors as text, with their hits."""
    return [
        [
            (
                ",".join(f"{entry.key.decode()}={entry.value.decode()}" for entry in descriptor.entries),
                descriptor.hits_addend.value if descriptor.HasField("hits_addend") else None,
            )
            for descriptor in call.descriptors
        ]
        for call in gateway.calls
    ]


NAMESPACE = "source.identity.namespace"
TEAM = "jwt.team"
USER = 'request.headers["x-user-id"]'
PRICE = "uint(llm.cost.total * 1000000.0)"
FLAT = "uint(double(llm.totalTokens) * 30.0)"


@pytest.mark.e2e
@in_one_minute
def test_an_application_is_refused_when_the_budget_of_its_minute_is_exhausted(
    gateway: Make, unique: Unique
) -> None:
    """The answer that crosses the limit is served, and another namespace is unaffected.

    Each request is a check and a charge.
    """
    agent = gateway("namespaces")
    payments, search = ({NAMESPACE: unique(name)} for name in ("payments", "search"))
    assert [200, 200, 429, 200] == [
        agent.complete(who, cost(60, prompt=20)).status for who in (payments, payments, payments, search)
    ]
    entries = [f"client_ns={who[NAMESPACE]}" for who in (payments, search)]
    assert [(entries[0], 0), (entries[0], 60)] * 2 + [(entries[0], 0), (entries[1], 0), (entries[1], 60)] == [
        each for (each,) in described(agent)
    ]


@pytest.mark.e2e
@in_one_minute
def test_callers_without_an_identity_share_a_budget(gateway: Make, counters: Counters) -> None:
    """They are not exempt."""
    counters.reset("token-budgets|client_ns=unknown")
    agent = gateway("namespaces")
    assert [200, 429] == [agent.complete({NAMESPACE: None}, cost(100)).status for _ in range(2)]


@pytest.mark.e2e
@in_one_minute
def test_a_team_exhausts_its_hour_and_gets_the_reason(gateway: Make, counters: Counters) -> None:
    """dba has 5,000 tokens an hour and 50,000 a day, and both are charged. The team support is unaffected."""
    dba, support = {TEAM: "dba"}, {TEAM: "support"}
    for who in (dba, support):
        counters.reset(f"team-budgets|team={who[TEAM]}")
    agent = gateway("teams")
    assert [200] * 4 == [agent.complete(dba, cost(n)).status for n in (1200, 1400, 1300, 1500)]
    refused = agent.complete(dba, cost(1))
    assert 429 == refused.status
    error = json.loads(refused.body)["error"]
    assert error["message"].startswith("Token budget dba-hourly is used up. It resets at ")
    assert ("dba-hourly", 5_400) == (error["rate_limit"]["rule"], error["rate_limit"]["used"])
    assert {"hour": 5_400, "day": 5_400} == used(counters, "team-budgets|team=dba")
    assert 200 == agent.complete(support, cost(1)).status


@pytest.mark.e2e
@pytest.mark.parametrize("team", [None, "nobody"], ids=["no claim", "no rule"])
def test_a_jwt_of_a_team_without_a_budget_is_refused_permanently(gateway: Make, team: str | None) -> None:
    """The refusal names the team, and has no Retry-After."""
    agent = gateway("teams")
    refused = agent.complete({TEAM: team}, cost(1))
    assert 429 == refused.status
    assert (
        f"The request is refused: no rule matches team={team or 'unknown'}. Retrying does not help."
        == json.loads(refused.body)["error"]["message"]
    )
    assert {"content-type", "x-envoy-ratelimited", "x-should-retry"} == set(refused.headers)
    assert 1 == len(agent.calls)


@pytest.mark.e2e
@in_one_minute
def test_requests_and_tokens_are_counted_separately(
    gateway: Make, counters: Counters, unique: Unique
) -> None:
    """Each request takes three calls. Requests are sent without hits, and count 1."""
    agent = gateway("requests-and-tokens")
    user = unique("ann")
    ann = {USER: user}
    assert [200] * 3 == [agent.complete(ann, cost(7)).status for _ in range(3)]
    calls = [[(f"user_requests={user}", None)], [(f"user_tokens={user}", 0)], [(f"user_tokens={user}", 7)]]
    assert calls * 3 == described(agent)
    buckets = [f"requests-and-tokens|{key}={user}" for key in ("user_requests", "user_tokens")]
    assert [{"minute": 3}, {"hour": 21}] == [used(counters, bucket) for bucket in buckets]


@pytest.mark.e2e
@pytest.mark.parametrize("keeps_refusals", [False, True], ids=["75b4e6ce", "since 3386"])
@in_one_minute
def test_headers_show_the_token_budget_although_requests_are_checked_first(
    gateway: Make, counters: Counters, unique: Unique, keeps_refusals: bool
) -> None:
    """The check of requests has passed and counted the request in its own call; no header shows its limit."""
    agent = gateway("requests-and-tokens", keeps_refusals=keeps_refusals)
    user = unique("bob")
    served = agent.complete({USER: user}, cost(20_000))
    refused = agent.complete({USER: user}, cost(1))
    assert [(200, "20000"), (429, "20000")] == [
        (answer.status, answer.headers["x-ratelimit-limit"]) for answer in (served, refused)
    ]
    reset, retry_after = (int(refused.headers[name]) for name in ("x-ratelimit-reset", "retry-after"))
    assert 0 <= retry_after - reset <= 5
    assert ("0", "true") == tuple(
        refused.headers[name] for name in ("x-ratelimit-remaining", "x-envoy-ratelimited")
    )
    assert {"minute": 2} == used(counters, f"requests-and-tokens|user_requests={user}")


@pytest.mark.e2e
@in_one_minute
def test_callers_without_the_header_share_a_small_budget(gateway: Make, counters: Counters) -> None:
    """All of them share five requests a minute."""
    for key in ("user_requests", "user_tokens"):
        counters.reset(f"requests-and-tokens|{key}=unknown")
    agent = gateway("requests-and-tokens")
    answers = [agent.complete({USER: None}, cost(1)) for _ in range(6)]
    assert [200] * 5 + [429] == [answer.status for answer in answers]
    assert ["1000", "5"] == [answer.headers["x-ratelimit-limit"] for answer in answers[-2:]]


@pytest.mark.e2e
@in_one_minute
def test_prompts_and_completions_have_separate_budgets(
    gateway: Make, counters: Counters, unique: Unique
) -> None:
    """One call checks both, and each is charged its own amount. A request is refused if either is
    exhausted.
    """
    agent = gateway("prompt-and-completion")
    name = unique("reader")
    assert 200 == agent.complete({NAMESPACE: name}, cost(200_010, prompt=200_000)).status
    refused = agent.complete({NAMESPACE: name}, cost(1))
    assert (429, "prompt-tokens") == (
        refused.status,
        json.loads(refused.body)["error"]["rate_limit"]["rule"],
    )
    entries = [f"client_ns={name},tokens={kind}" for kind in ("prompt", "completion")]
    checked = [(each, 0) for each in entries]
    assert [
        checked,
        list(zip(entries, (200_000, 10), strict=True)),
        checked,
    ] == described(agent)
    buckets = [f"prompt-and-completion|client_ns={name}|tokens={kind}" for kind in ("prompt", "completion")]
    assert [{"day": 200_000}, {"day": 10}] == [used(counters, bucket) for bucket in buckets]


@pytest.mark.e2e
@in_one_minute
def test_money_is_counted_in_millionths_and_no_model_is_free(
    gateway: Make, counters: Counters, unique: Unique
) -> None:
    """12 cents by the catalogue, and 100,000 tokens of a model without a price, at 30 dollars a million."""
    agent = gateway("money")
    name = unique("payments")
    bucket = f"spend-budgets|client_ns={name}"
    assert 200 == agent.complete({NAMESPACE: name}, {PRICE: 120_000, FLAT: 0}).status
    assert {"day": 120_000, "month": 120_000} == used(counters, bucket)
    assert 200 == agent.complete({NAMESPACE: name}, {PRICE: None, FLAT: 3_000_000}).status
    assert {"day": 3_120_000, "month": 3_120_000} == used(counters, bucket)
    assert 200 == agent.complete({NAMESPACE: name}, {PRICE: 16_880_000, FLAT: 0}).status
    refused = agent.complete({NAMESPACE: name}, {PRICE: 1, FLAT: 0})
    assert (429, f"What client_ns={name} may spend in this day is spent.") == (
        refused.status,
        json.loads(refused.body)["error"]["message"].partition(" It goes on")[0],
    )


@pytest.mark.e2e
@in_one_minute
def test_an_answer_without_a_cost_is_not_charged_and_not_logged(
    service: Service, gateway: Make, counters: Counters, unique: Unique
) -> None:
    """The charge then has no descriptors. The gateway ignores the error, and it is not logged."""
    agent = gateway("money")
    name = unique("payments")
    logged = len(service.everything())
    assert 200 == agent.complete({NAMESPACE: name}, {PRICE: None, FLAT: None}).status
    assert [[(f"client_ns={name}", 0)], []] == described(agent)
    assert {} == counters.of(f"spend-budgets|client_ns={name}")
    # Lines about refusals of earlier tests may still come.
    assert {"limit reached"} >= {event["@message"] for event in service.everything()[logged:]}


@pytest.mark.e2e
@in_one_minute
def test_the_configuration_without_kubernetes_works_in_the_same_way(
    redis_server: RedisServer, counters: Counters
) -> None:
    """With the gateway's own configuration file and its rules: three calls, and a refusal with the reason."""
    dba: Mapping[str, str | None] = {TEAM: "dba"}
    for key in ("team", "team_requests"):
        counters.reset(f"team-budgets|{key}=dba")
    with (
        serving(redis_server, RULES["standalone"]) as service,
        grpc.insecure_channel(service.grpc) as channel,
    ):
        agent = AgentGateway(policy_of(CONFIG), channel)
        codes = [agent.complete(dba, cost(5_000)).status for _ in range(2)]
        nobody = agent.complete({TEAM: None}, cost(1))
    assert [200, 429] == codes
    assert [
        [("team_requests=dba", None)],
        [("team=dba", 0)],
        [("team=dba", 5_000)],
    ] == described(agent)[:3]
    assert "no rule matches team=unknown" in nobody.body


@pytest.mark.parametrize("file", [*POLICIES, CONFIG], ids=lambda file: file.parent.name)
def test_requests_are_refused_while_the_service_is_down(file: Path) -> None:
    """With failClosed, the answer is a 500 after one call, without a charge."""
    policy: Policy = policy_of(file)
    with grpc.insecure_channel(f"127.0.0.1:{free_port()}") as channel:
        agent = AgentGateway(policy, channel)
        assert 500 == agent.complete(Everything("dba"), cost(1)).status
    assert 1 == len(agent.calls)
