"""The SDKs of OpenAI and Anthropic through the real Envoy: they retry if the budget resets soon, and
otherwise stop at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import NamedTuple

import pytest

from testing.envoy import Envoy
from testing.in_process_service import ClockedService
from testing.mock_llm import MockLlm
from testing.service import calling, port_of

from .conftest import Unique
from .sdks import Outcome, Sdk, anthropic_python, javascript, openai_python

pytestmark = pytest.mark.e2e

NOON = 1_795_262_400
"""2026-11-21T12:00:00Z: the middle of a day, and the first second of an hour."""

SDKS = {
    "openai-python": "openai",
    "openai-js-6": "openai",
    "openai-js-7": "openai",
    "anthropic-python": "anthropic",
    "anthropic-js": "anthropic",
}
"""The SDKs, and the dialect of each."""

LIMITS = {
    "minute": "{name: minutely, unit: minute, tokens_per_unit: 100}",
    "day": "{name: daily, unit: day, tokens_per_unit: 100}",
    "blocked": "{name: nothing, unit: day, tokens_per_unit: 0}",
}

RULES = "domain: token-budgets\nunmatched: deny\ndescriptors:\n" + "".join(
    f'  - {{key: client_ns, value: "{kind}-{dialect}-*", rate_limit: {limit}, error_format: {dialect}}}\n'
    for kind, limit in LIMITS.items()
    for dialect in ("openai", "anthropic")
)
RULES += "".join(
    f'  - {{key: client_ns, value: "held-{dialect}-*", rate_limit: {LIMITS["day"]}, error_format: {dialect}, '
    "hold: 60, hold_max: 100%}\n"
    for dialect in ("openai", "anthropic")
)
"""An application is in the namespace <limit>-<dialect>-<name>; other names match no rule."""


class Limited(NamedTuple):
    """A gateway in front of a service with a stopped clock."""

    service: ClockedService
    url: str

    def use_up(self, namespace: str) -> None:
        """Let an application use more than its budget."""
        with calling(self.service.address) as gateway:
            gateway.ask("token-budgets", "client_ns", namespace, hits=5_000)


@pytest.fixture(scope="module")
def limited(llm: MockLlm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Limited]:
    """A gateway whose service has the default settings."""
    directory = tmp_path_factory.mktemp("sdks")
    with ClockedService(RULES, now=NOON) as service:
        envoy = Envoy(directory, ratelimit_port=port_of(service.address), llm_port=llm.port)
        try:
            yield Limited(service, envoy.url)
        finally:
            envoy.stop()


class Caller(NamedTuple):
    """An application with one of the SDKs."""

    sdk: Sdk
    dialect: str

    def namespace(self, limit: str, unique: Unique) -> str:
        return unique(f"{limit}-{self.dialect}")


@pytest.fixture(scope="module", params=SDKS)
def caller(request: pytest.FixtureRequest, limited: Limited) -> Iterator[Caller]:
    """A caller that is already connected, because the first request of a process takes longer."""
    name: str = request.param
    with made(name, limited.url) as sdk:
        caller = Caller(sdk, SDKS[name])
        assert [200] == sdk.ask(f"day-{caller.dialect}-before", never).statuses
        yield caller


def made(name: str, url: str) -> AbstractContextManager[Sdk]:
    if name == "openai-python":
        return openai_python(url)
    if name == "anthropic-python":
        return anthropic_python(url)
    return javascript("anthropic" if name == "anthropic-js" else name.replace("-js", ""), url)


def never(seconds: float) -> None:
    pytest.fail(f"it wants to come back in {seconds} s")


def refused_once(outcome: Outcome) -> bool:
    """Return whether there was one attempt without a pause."""
    return ([429], []) == (outcome.statuses, outcome.pauses)


def test_a_refusal_by_a_daily_budget_is_not_retried(caller: Caller, limited: Limited, unique: Unique) -> None:
    """The application gets the name of the budget and its reset."""
    limited.service.now = NOON
    namespace = caller.namespace("day", unique)
    limited.use_up(namespace)
    outcome = caller.sdk.ask(namespace, never)
    assert refused_once(outcome), outcome
    assert "Token budget daily is used up. It resets at 2026-11-22T00:00:00Z." in outcome.message
    assert "insufficient_quota" == outcome.code


@pytest.mark.parametrize(
    "kind, message",
    [
        ("blocked", "Token budget nothing lets nothing through. Retrying does not help."),
        ("stranger", "The request is refused: no rule matches client_ns=stranger-"),
    ],
)
def test_a_permanent_refusal_is_not_retried(caller: Caller, unique: Unique, kind: str, message: str) -> None:
    """A limit of 0, and `unmatched: deny`."""
    outcome = caller.sdk.ask(caller.namespace(kind, unique), never)
    assert refused_once(outcome), outcome
    assert message in outcome.message


def test_the_sdk_waits_for_a_reset_in_20_seconds(caller: Caller, limited: Limited, unique: Unique) -> None:
    """By itself. The request is served soon after the reset."""
    limited.service.now = NOON + 40
    namespace = caller.namespace("minute", unique)
    limited.use_up(namespace)

    def pause(seconds: float) -> None:
        limited.service.now += seconds

    outcome = caller.sdk.ask(namespace, pause)
    assert ([429, 200], "") == (outcome.statuses, outcome.message)
    (waited,) = outcome.pauses
    assert 20 <= waited <= 25


def test_the_sdk_waits_for_the_end_of_a_minute(caller: Caller, limited: Limited, unique: Unique) -> None:
    """Even if the minute has just begun: SDKs wait up to 60 s, with or without jitter."""
    limited.service.now = NOON + 120
    namespace = caller.namespace("minute", unique)
    limited.use_up(namespace)
    outcome = caller.sdk.ask(namespace, lambda seconds: setattr(limited.service, "now", NOON + 180))
    assert ([429, 200], [60]) == (outcome.statuses, outcome.pauses)


def test_the_sdk_waits_for_a_held_budget(caller: Caller, limited: Limited, unique: Unique) -> None:
    """Two requests of 60 tokens hold a daily budget of 100; both end before the second retry of the SDK."""
    limited.service.now = NOON
    namespace = caller.namespace("held", unique)
    with calling(limited.service.address) as gateway:
        for _ in range(2):
            gateway.ask("token-budgets", "client_ns", namespace, hits=0)

        def pause(seconds: float) -> None:
            limited.service.now += seconds
            gateway.ask("token-budgets", "client_ns", namespace, hits=10)

        outcome = caller.sdk.ask(namespace, pause)
    assert ([429, 200], "") == (outcome.statuses, outcome.message)
    (waited,) = outcome.pauses
    assert 1 <= waited <= 10


def test_a_budget_that_stays_held_is_reported_as_held(
    caller: Caller, limited: Limited, unique: Unique
) -> None:
    """After the retries of the SDK, the code of the error shows that the budget is held, and not
    exhausted.
    """
    limited.service.now = NOON
    namespace = caller.namespace("held", unique)
    with calling(limited.service.address) as gateway:
        for _ in range(2):
            gateway.ask("token-budgets", "client_ns", namespace, hits=0)
    outcome = caller.sdk.ask(namespace, lambda seconds: None)
    assert [429] * 3 == outcome.statuses
    assert "120 tokens of token budget daily are held by running requests." in outcome.message
    assert "rate_limit_exceeded" == outcome.code
