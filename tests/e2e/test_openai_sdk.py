"""OpenAI's SDK and an exhausted budget: it reports the reason, and waits for the given time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import openai
import pytest

from .conftest import Gateway, Unique, in_one_minute

pytestmark = pytest.mark.e2e


def client(
    gateway: Gateway, namespace: str, *, max_retries: int = 0, seen: Callable[[Any], None] | None = None
) -> openai.OpenAI:
    """Return an SDK for Envoy, for an application in this namespace. `seen` gets every response, including
    those that the SDK retries.
    """
    return openai.OpenAI(
        api_key="none",
        base_url=f"{str(gateway.client.base_url).rstrip('/')}/v1",
        max_retries=max_retries,
        default_headers={"x-client-ns": namespace},
        http_client=openai.DefaultHttpxClient(event_hooks={"response": [seen] if seen else []}),
    )


def ask(client: openai.OpenAI, *, tokens: int = 40, stream: bool = False) -> None:
    """Make one completion that costs this many tokens."""
    client.chat.completions.create(
        model="gpt-x",
        messages=[{"role": "user", "content": "Hello?"}],
        stream=stream,
        extra_headers={"x-mock-tokens": str(tokens)},
    )


def use_up(gateway: Gateway, namespace: str) -> str:
    """Let an application use the 100 tokens of its minute, and return its bucket."""
    bucket = f"token-budgets|client_ns={namespace}"
    with client(gateway, namespace) as sdk:
        ask(sdk, tokens=120)
    gateway.counters.wait_until(bucket, 120)
    return bucket


@pytest.mark.parametrize("stream", [False, True], ids=["json", "sse"])
@in_one_minute
def test_a_refusal_is_a_rate_limit_error_with_the_reason(
    examples: Gateway, unique: Unique, stream: bool
) -> None:
    """The error has our message, the budget in its body, and Retry-After in its response."""
    namespace = unique("app")
    use_up(examples, namespace)
    with (
        client(examples, namespace) as sdk,
        pytest.raises(openai.RateLimitError) as raised,
    ):
        ask(sdk, stream=stream)
    error = raised.value
    assert 1 <= int(error.response.headers["retry-after"]) <= 60
    assert isinstance(error.body, dict)
    limit = error.body["rate_limit"]
    assert (
        f"Token budget token-budgets.client_ns is used up. It resets at {limit['resets_at']}."
        f" Try again in {limit['resets_in_seconds']} second"
    ) in str(error)
    assert ("rate_limit_exceeded", "tokens") == (error.code, error.type)
    assert (f"client_ns={namespace}", 120, 100) == (limit["descriptor"], limit["used"], limit["limit"])


@in_one_minute
def test_the_sdk_waits_for_the_given_time_and_continues(
    examples: Gateway, unique: Unique, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without any code in the application. The minute ends as soon as the SDK sleeps."""
    namespace = unique("app")
    bucket = use_up(examples, namespace)
    waits: list[str | None] = []
    asked: list[float] = []

    def hear(response: Any) -> None:
        waits.append(response.headers.get("retry-after"))

    def sleep(seconds: float) -> None:
        asked.append(seconds)
        examples.counters.reset(bucket)

    with client(examples, namespace, max_retries=1, seen=hear) as sdk, monkeypatch.context() as patch:
        patch.setattr(time, "sleep", sleep)
        ask(sdk)
    refused, served = waits
    assert refused is not None and served is None
    assert [float(refused)] == asked
    assert 1 <= float(refused) <= 60
    examples.counters.wait_until(bucket, 40)
