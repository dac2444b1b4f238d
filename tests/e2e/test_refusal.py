"""The refusals of the real Envoy: they name the budget and its reset, and have no header twice."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from testing.mock_llm import MockLlm
from testing.redis_servers import RedisServer
from testing.service import Service, calling

from .conftest import EXAMPLES, Gateway, Unique, gateway_before, in_one_minute, this_minute

pytestmark = pytest.mark.e2e

OURS = ("retry-after", "content-type")
JITTER = 5
"""Seconds that REFUSAL_RETRY_JITTER may add to a retry-after."""
ENVOYS = ("x-envoy-ratelimited", "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset")


@pytest.fixture(scope="module")
def envoy_with_retry_after(
    examples: Gateway, redis_server: RedisServer, llm: MockLlm, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """An Envoy for the same service that adds its own Retry-After (enable_retry_after_header)."""
    directory = tmp_path_factory.mktemp("retry-after")
    with gateway_before(examples.service, redis_server, llm, directory, retry_after=True) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def without_body(
    redis_server: RedisServer, llm: MockLlm, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """A gateway whose service has REFUSAL_BODY=none."""
    environment = {"CONFIG_PATH": str(EXAMPLES), "REDIS_URL": redis_server.url, "REFUSAL_BODY": "none"}
    with (
        Service(environment) as service,
        gateway_before(service, redis_server, llm, tmp_path_factory.mktemp("without-body")) as gateway,
    ):
        yield gateway


@pytest.fixture(params=["examples", "envoy_with_retry_after"], ids=["default", "enable_retry_after_header"])
def either(request: pytest.FixtureRequest) -> Gateway:
    """An Envoy with the usual configuration, and one that adds its own Retry-After."""
    gateway: Gateway = request.getfixturevalue(request.param)
    return gateway


def refused(gateway: Gateway, team: str) -> httpx.Response:
    """Return the refusal of a team that has used up its 1,000 tokens of the hour."""
    with calling(gateway.service.grpc) as other_gateway:
        other_gateway.ask("team-budgets", "team", team, hits=1200)
    return gateway.complete("/team", {"x-team-id": team})


def times(answer: httpx.Response, *names: str) -> dict[str, int]:
    """Return how many times an answer has each of these headers."""
    return {name: len(answer.headers.get_list(name)) for name in names}


def seconds_until(moment: datetime) -> range:
    """Return the possible values of a Retry-After for this moment, because the answer is slightly older."""
    left = int((moment - datetime.now(UTC)).total_seconds())
    return range(left, left + 10 + JITTER)


def next_hour() -> datetime:
    return this_minute().replace(minute=0) + timedelta(hours=1)


@in_one_minute
def test_a_refusal_names_the_budget_and_its_reset(either: Gateway, unique: Unique) -> None:
    """In an error of OpenAI's format, which SDKs show to users."""
    team = unique("ops")
    answer = refused(either, team)
    assert int(answer.headers["retry-after"]) in seconds_until(next_hour())
    assert (429, "application/json") == (answer.status_code, answer.headers["content-type"])
    seconds = answer.json()["error"]["rate_limit"]["resets_in_seconds"]
    assert seconds in seconds_until(next_hour())
    # in the last minute of an hour a retry helps
    soon = seconds <= 60
    hint = (
        f"Try again in {seconds} second{'s' if seconds > 1 else ''}."
        if soon
        else "Retrying before then does not help."
    )
    resets_at = f"{next_hour():%Y-%m-%dT%H:%M:%SZ}"
    assert soon == ("x-should-retry" not in answer.headers)
    assert {
        "error": {
            "message": f"Token budget other-teams-hourly is used up. It resets at {resets_at}. {hint}",
            "type": "tokens" if soon else "insufficient_quota",
            "param": None,
            "code": "rate_limit_exceeded" if soon else "insufficient_quota",
            "resets_at": resets_at,
            "rate_limit": {
                "domain": "team-budgets",
                "descriptor": f"team={team}",
                "rule": "other-teams-hourly",
                "used": 1200,
                "limit": 1000,
                "unit": "hour",
                "resets_in_seconds": seconds,
                "resets_at": resets_at,
            },
        }
    } == answer.json()


@in_one_minute
def test_no_header_occurs_twice(either: Gateway, unique: Unique) -> None:
    """The service's headers and Envoy's each occur once, and agree."""
    answer = refused(either, unique("ops"))
    assert dict.fromkeys(OURS + ENVOYS, 1) == times(answer, *OURS, *ENVOYS)
    assert ("true", "0") == (answer.headers["x-envoy-ratelimited"], answer.headers["x-ratelimit-remaining"])
    assert 0 <= int(answer.headers["retry-after"]) - int(answer.headers["x-ratelimit-reset"]) <= JITTER


@pytest.mark.parametrize(
    ("stream", "content"), [(False, "application/json"), (True, "text/event-stream; charset=utf-8")]
)
@in_one_minute
def test_an_answer_to_a_served_caller_is_unchanged(
    either: Gateway, unique: Unique, stream: bool, content: str
) -> None:
    """The reply is the provider's, and so is its content type."""
    answer = either.complete("/team", {"x-team-id": unique("ops")}, stream=stream)
    assert (200, [content]) == (answer.status_code, answer.headers.get_list("content-type"))
    assert {"retry-after": 0, "x-envoy-ratelimited": 0} == times(answer, "retry-after", "x-envoy-ratelimited")
    assert "Hel" in answer.text and "error" not in answer.text


@in_one_minute
def test_a_refusal_may_have_no_body(without_body: Gateway, unique: Unique) -> None:
    """With REFUSAL_BODY=none, the caller still gets Retry-After, and no content type of JSON."""
    team = unique("ops")
    answer = refused(without_body, team)
    assert (429, b"") == (answer.status_code, answer.content)
    assert int(answer.headers["retry-after"]) in seconds_until(next_hour())
    assert "content-type" not in answer.headers
    # Envoy would remove a content type without a body, other gateways would not.
    with calling(without_body.service.grpc) as other_gateway:
        response = other_gateway.ask("team-budgets", "team", team)
    assert {"retry-after"} == {header.key for header in response.response_headers_to_add} - {"x-should-retry"}
    assert b"" == response.raw_body


def use(gateway: Gateway, name: str, *, requests: int, tokens: int) -> None:
    """Let a user of requests-and-tokens.yaml make this many of 5 requests, and use this many of 10,000
    tokens.
    """
    with calling(gateway.service.grpc) as other_gateway:
        for key, hits in (("user-requests", requests), ("user-tokens", tokens)):
            other_gateway.ask("requests-and-tokens", key, name, hits=hits)


@pytest.mark.parametrize(
    ("requests", "tokens", "rule"),
    [(3, 10_000, "tokens"), (5, 9_999, "requests"), (5, 10_000, "tokens")],
    ids=["tokens", "requests", "both"],
)
@in_one_minute
def test_a_refusal_describes_the_limit_that_refused(
    either: Gateway, unique: Unique, requests: int, tokens: int, rule: str
) -> None:
    """Not the limit that had room, even if it had little. If both refuse, it is the one with the later
    reset.
    """
    name = unique("ann")
    use(either, name, requests=requests, tokens=tokens)
    answer = either.complete("/requests-and-tokens", {"x-user-id": name})
    unit, end = (
        ("hour", next_hour()) if rule == "tokens" else ("minute", this_minute() + timedelta(minutes=1))
    )
    error = answer.json()["error"]
    soon = error["rate_limit"]["resets_in_seconds"] <= 60
    assert (429, rule if soon else "insufficient_quota", rule, unit) == (
        answer.status_code,
        error["type"],
        error["rate_limit"]["rule"],
        error["rate_limit"]["unit"],
    )
    assert int(answer.headers["retry-after"]) in seconds_until(end)


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({}, "no descriptor has the key 'team'"),
        ({"x-team-id": "nobody"}, "no rule matches team=nobody"),
        ({"x-team-id": ""}, "no rule matches team="),
    ],
    ids=["required_keys", "unmatched", "empty"],
)
def test_a_caller_without_a_budget_is_refused_with_the_reason(
    examples: Gateway, headers: dict[str, str], reason: str
) -> None:
    """Envoy omits the descriptor of a missing header, and closed.yaml refuses requests without it.

    There is no Retry-After.
    """
    answer = examples.complete("/closed", headers)
    assert (429, f"The request is refused: {reason}. Retrying does not help.") == (
        answer.status_code,
        answer.json()["error"]["message"],
    )
    present = {
        "retry-after": 0,
        "x-should-retry": 1,
        "content-type": 1,
        "x-envoy-ratelimited": 1,
        "x-ratelimit-limit": 0,
    }
    assert present == times(answer, *present)
