"""Tokens per application: the budgets of configmap.yaml, and a gateway that knows the caller's namespace."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import httpx
import pytest

from .conftest import Gateway, Unique

pytestmark = pytest.mark.e2e

COMPLETIONS = "/v1/chat/completions"


def this_minute() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%MZ")


def within_one_minute(scene: Callable[[], object]) -> str:
    """Play `scene` and return the minute that it lay in.

    Where a minute ends in the middle of it, budgets come back, as they should, and the scene is about
    something else: it is played once more, for which it has a whole minute.
    """
    minute = this_minute()
    scene()
    if minute != this_minute():
        minute = this_minute()
        scene()
    return minute


@pytest.mark.parametrize("stream", [False, True], ids=["json", "sse"])
def test_a_namespace_is_refused_when_its_tokens_of_the_minute_are_used(
    gateway: Gateway, unique: Unique, stream: bool
) -> None:
    """Replies of 40 tokens, a budget of 100: the one that crosses the line succeeds, the next is refused.

    Another namespace is not touched, and redis-cli shows what both have used, under keys that one can read.
    """
    namespace = other = ""
    codes: list[int] = []

    def scene() -> None:
        nonlocal namespace, other
        namespace, other = unique("payments"), unique("search")
        codes.clear()
        for used in (40, 80, 120):
            codes.append(gateway.complete(COMPLETIONS, {"x-client-ns": namespace}, stream=stream).status_code)
            gateway.counters.wait_until(f"token-budgets|client_ns={namespace}", used)
        codes.append(gateway.complete(COMPLETIONS, {"x-client-ns": namespace}, stream=stream).status_code)
        codes.append(gateway.complete(COMPLETIONS, {"x-client-ns": other}, stream=stream).status_code)
        gateway.counters.wait_until(f"token-budgets|client_ns={other}", 40)

    minute = within_one_minute(scene)
    assert [200, 200, 200, 429, 200] == codes
    for who, used in ((namespace, "120"), (other, "40")):
        key = f"{{token-budgets|client_ns={who}}}:minute:{minute}"
        assert used == gateway.counters.redis.cli("GET", key)


def test_a_name_that_is_not_utf8_is_limited_like_any_other(gateway: Gateway, unique: Unique) -> None:
    """Envoy copies any byte of a header into the descriptor; none of them gets a caller past its budget."""
    codes: list[int] = []

    def scene() -> None:
        number = unique("").encode()
        headers = {b"x-client-ns": b"te\xffam" + number}
        codes.clear()
        for used in (40, 80, 120):
            codes.append(gateway.complete(COMPLETIONS, headers).status_code)
            gateway.counters.wait_until(f"token-budgets|client_ns=te%FFam{number.decode()}", used)
        codes.append(gateway.complete(COMPLETIONS, headers).status_code)

    within_one_minute(scene)
    assert [200, 200, 200, 429] == codes


def test_a_refused_caller_is_answered_by_envoy(gateway: Gateway, unique: Unique) -> None:
    """The refusal says that it is a rate limit's, what the limit is, what is left and when it resets."""
    answers: list[httpx.Response] = []

    def scene() -> None:
        namespace = unique("batch")
        tokens = {"x-client-ns": namespace, "x-mock-tokens": "101"}
        answers[:] = [gateway.complete(COMPLETIONS, tokens)]
        gateway.counters.wait_until(f"token-budgets|client_ns={namespace}", 101)
        answers.append(gateway.complete(COMPLETIONS, tokens))

    within_one_minute(scene)
    allowed, refused = answers
    assert [200, 429] == [allowed.status_code, refused.status_code]
    assert [None, "true"] == [each.headers.get("x-envoy-ratelimited") for each in answers]
    assert ["100, 100;w=60"] * 2 == [each.headers["x-ratelimit-limit"] for each in answers]
    assert ["100", "0"] == [each.headers["x-ratelimit-remaining"] for each in answers]
    assert all(1 <= int(each.headers["x-ratelimit-reset"]) <= 60 for each in answers)
