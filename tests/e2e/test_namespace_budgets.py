"""Tokens per application: the budgets of demo/configmap.yaml, and a gateway that knows the caller's
namespace.
"""

from __future__ import annotations

import pytest

from .conftest import Gateway, Unique, in_one_minute, this_minute

pytestmark = pytest.mark.e2e

COMPLETIONS = "/v1/chat/completions"


@pytest.mark.parametrize("stream", [False, True], ids=["json", "sse"])
@in_one_minute
def test_a_namespace_is_refused_when_the_tokens_of_its_minute_are_used(
    gateway: Gateway, unique: Unique, stream: bool
) -> None:
    """With replies of 40 tokens and a budget of 100, the one that crosses the limit succeeds, and the next is
    refused. Another namespace is unaffected, and redis-cli shows the usage of both under readable keys.
    """
    namespace, other = unique("payments"), unique("search")
    codes = []
    for used in (40, 80, 120):
        codes.append(gateway.complete(COMPLETIONS, {"x-client-ns": namespace}, stream=stream).status_code)
        gateway.counters.wait_until(f"token-budgets|client_ns={namespace}", used)
    codes.append(gateway.complete(COMPLETIONS, {"x-client-ns": namespace}, stream=stream).status_code)
    codes.append(gateway.complete(COMPLETIONS, {"x-client-ns": other}, stream=stream).status_code)
    gateway.counters.wait_until(f"token-budgets|client_ns={other}", 40)

    assert [200, 200, 200, 429, 200] == codes
    for who, held in ((namespace, "120"), (other, "40")):
        key = f"{{token-budgets|client_ns={who}}}:minute:{this_minute():%Y-%m-%dT%H:%MZ}"
        assert held == gateway.counters.redis.cli("GET", key)


@in_one_minute
def test_a_name_that_is_not_utf_8_is_limited_like_any_other(gateway: Gateway, unique: Unique) -> None:
    """Envoy copies any byte of a header into the descriptor; no byte lets a caller exceed its budget."""
    number = unique("").encode()
    headers = {b"x-client-ns": b"te\xffam" + number}
    codes = []
    for used in (40, 80, 120):
        codes.append(gateway.complete(COMPLETIONS, headers).status_code)
        gateway.counters.wait_until(f"token-budgets|client_ns=te%FFam{number.decode()}", used)
    codes.append(gateway.complete(COMPLETIONS, headers).status_code)
    assert [200, 200, 200, 429] == codes


@in_one_minute
def test_a_refused_caller_is_answered_by_envoy(gateway: Gateway, unique: Unique) -> None:
    """The refusal identifies itself as a rate limit's, and has the limit, the remaining amount and the
    reset.
    """
    namespace = unique("batch")
    tokens = {"x-client-ns": namespace, "x-mock-tokens": "101"}
    allowed = gateway.complete(COMPLETIONS, tokens)
    gateway.counters.wait_until(f"token-budgets|client_ns={namespace}", 101)
    refused = gateway.complete(COMPLETIONS, tokens)

    answers = [allowed, refused]
    assert [200, 429] == [each.status_code for each in answers]
    assert [None, "true"] == [each.headers.get("x-envoy-ratelimited") for each in answers]
    assert ["100, 100;w=60"] * 2 == [each.headers["x-ratelimit-limit"] for each in answers]
    assert ["100", "0"] == [each.headers["x-ratelimit-remaining"] for each in answers]
    assert all(1 <= int(each.headers["x-ratelimit-reset"]) <= 60 for each in answers)
