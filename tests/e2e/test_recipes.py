"""Every recipe of docs/recipes.md: its table, through the real Envoy, as Envoy Gateway translates it, and as
agentgateway calls.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import httpx
import pytest
import yaml

from ratelimit_service.core.rules.reader import load
from ratelimit_service.sources.yaml_text import read
from testing.envoy import TEMPLATE, EnvoyProcess, connection_manager
from testing.in_process_service import ClockedService
from testing.mock_llm import MockLlm
from testing.service import REPOSITORY, port_of
from testing.waiting import wait_for

from ..deploy.agentgateway import AgentGateway, Descriptor, Policy
from ..deploy.envoy_gateway import translate
from ..deploy.gateways import FILTER, Object, per_route

pytestmark = pytest.mark.e2e

PAGE = REPOSITORY / "docs" / "recipes.md"
NOON = 1_795_867_200.0  # 2026-11-28T12:00Z: no window ends meanwhile
STATE = "x-tokens-state"
GATEWAY, ROUTE = "llm/llm/http", "httproute/llm/completions/rule/0/match/0/*"


class Step(NamedTuple):
    """A row of a table: a request with these headers, its cost, the status of its answer, and the state that
    it signals.
    """

    headers: dict[str, str]
    prompt: int
    completion: int
    status: int
    state: str | None

    @property
    def answer(self) -> tuple[int, str | None]:
        """The status and the state."""
        return self.status, self.state


class Recipe(NamedTuple):
    """A section of the page: its blocks by name, and its table."""

    title: str
    blocks: dict[str, str]
    steps: tuple[Step, ...]

    @property
    def domain(self) -> str:
        return str(yaml.safe_load(self.blocks["rules"])["domain"])


def _step(row: str) -> Step:
    request, tokens, status, *state = (cell.strip(" `") for cell in row.strip("|").split("|"))
    first, _, second = tokens.partition(" + ")
    prompt, completion = (int(first), int(second)) if second else (0, int(first))
    headers = dict(header.split(": ") for header in request.split(", "))
    signalled = state[0] if state and state[0] != "–" else None
    return Step(headers, prompt, completion, int(status), signalled)


def recipes() -> Iterator[Recipe]:
    """The sections that have rules."""
    for section in re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)[1:]:
        blocks = dict(re.findall(r"^```yaml (\S+)\n(.*?)^```$", section, re.MULTILINE | re.DOTALL))
        if "rules" in blocks:
            rows = re.findall(r"^\| `.*\|$", section, re.MULTILINE)
            yield Recipe(section.splitlines()[0], blocks, tuple(map(_step, rows)))


RECIPES = tuple(recipes())
TRANSLATED = tuple(recipe for recipe in RECIPES if "envoy-gateway" in recipe.blocks)


@contextmanager
def envoy(directory: Path, address: str, llm: MockLlm, routed: Object) -> Iterator[httpx.Client]:
    """The Envoy of the tests, with one route and this configuration of the filter."""
    text = TEMPLATE.read_text().replace("$ratelimit_port", str(port_of(address)))
    text = text.replace("$llm_port", str(llm.port)).replace("$retry_after", "false")
    configuration: Any = yaml.safe_load(re.sub(r"\$\{(\w+)\}", r"$\1", text))
    route = {
        "match": {"prefix": "/"},
        "route": {"cluster": "llm"},
        "typed_per_filter_config": {FILTER: routed},
    }
    connection_manager(configuration)["route_config"]["virtual_hosts"][0]["routes"] = [route]
    process = EnvoyProcess(directory, yaml.safe_dump(configuration))
    try:
        with httpx.Client(base_url=f"http://{process.listeners['gateway']}", timeout=30) as client:
            yield client
    finally:
        process.stop()


Answers = list[tuple[int, str | None]]
"""The status of each answer, and the state that it signals."""


Answered = Callable[[], float]
"""Returns the number of calls that a service has answered."""


def play(client: httpx.Client, answered: Answered, recipe: Recipe) -> Answers:
    """Return the answers to the requests of the table."""
    answers = [ask(client, answered, step.headers, step.prompt, step.completion) for step in recipe.steps]
    return [(answer.status_code, answer.headers.get(STATE)) for answer in answers]


def ask(
    client: httpx.Client, answered: Answered, headers: dict[str, str], prompt: int, completion: int
) -> httpx.Response:
    """Return the answer to a request, once it is charged."""
    before = answered()
    cost = {"x-mock-tokens": str(prompt + completion), "x-mock-prompt-tokens": str(prompt)}
    body = {"model": "gpt-x", "messages": [{"role": "user", "content": "Hello?"}]}
    answer = client.post("/v1/chat/completions", headers={**headers, **cost}, json=body)
    # If there was a check, the charge follows the answer. If no descriptor can be made, there is neither.
    if answer.status_code == 200 and answered() > before:
        wait_for("the charge", lambda: answered() >= before + 2)
    return answer


def through_envoy(recipe: Recipe, rules: str, routed: Object, llm: MockLlm, directory: Path) -> Answers:
    """Return the answers of a table, through an Envoy with this configuration of the route, and a service
    with these rules.
    """
    with (
        ClockedService(rules, now=NOON) as service,
        envoy(directory, service.address, llm, routed) as client,
    ):
        return play(client, lambda: service.answered, recipe)


def rules_of(resource: Any, budgets: frozenset[str]) -> Object:
    """A RateLimitConfig, or one of its descriptors, as a configuration file; an overlay makes the limits of
    these keys budgets.
    """
    names = (name for name in ("domain", "key", "value") if getattr(resource, name, b""))
    found: Object = {name: getattr(resource, name).decode() for name in names}
    if (limit := getattr(resource, "rate_limit", None)) and limit.requests_per_unit:
        unit = limit.DESCRIPTOR.fields_by_name["unit"].enum_type.values_by_number[limit.unit].name.lower()
        amount = "tokens_per_unit" if found["key"].partition("-match")[0] in budgets else "requests_per_unit"
        found["rate_limit"] = {"unit": unit, amount: limit.requests_per_unit}
    if resource.descriptors:
        found["descriptors"] = [rules_of(each, budgets) for each in resource.descriptors]
    return found


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.domain)
def test_each_recipe_is_loaded_without_a_warning(recipe: Recipe) -> None:
    """`check-config --strict` accepts it."""
    assert () == load([read("rules.yaml", recipe.blocks["rules"].encode())]).warnings


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.domain)
def test_each_recipe_works_with_envoy(recipe: Recipe, llm: MockLlm, tmp_path: Path) -> None:
    routed = per_route(*yaml.safe_load(recipe.blocks["envoy"]), domain=recipe.domain)
    answered = through_envoy(recipe, recipe.blocks["rules"], routed, llm, tmp_path)
    assert [step.answer for step in recipe.steps] == answered


@pytest.mark.parametrize("recipe", TRANSLATED, ids=lambda recipe: recipe.domain)
def test_each_recipe_works_with_envoy_gateway(recipe: Recipe, llm: MockLlm, tmp_path: Path) -> None:
    """With the translation of the policy: rules for the service, and descriptors for Envoy."""
    rules = yaml.safe_load(recipe.blocks["envoy-gateway"])
    policy = {
        "metadata": {"namespace": "llm", "name": "budgets"},
        "spec": {"rateLimit": {"type": "Global", "global": {"rules": rules}}},
    }
    translated = translate(policy, listener=GATEWAY, route=ROUTE)
    (resource,) = translated.resources
    budgets = frozenset(f"rule-{number}" for number, rule in enumerate(rules) if "cost" in rule)
    # An overlay adds the keys of the domain that the protocol lacks.
    own = yaml.safe_load(recipe.blocks["rules"])
    overlay = {key: own[key] for key in ("signal", "low_at") if key in own}
    text = yaml.safe_dump(rules_of(resource, budgets) | overlay)
    routed = translated.per_filter[FILTER]
    answered = through_envoy(recipe, text, routed, llm, tmp_path)
    assert [step.answer for step in recipe.steps] == answered


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.domain)
def test_each_recipe_works_with_agentgateway(recipe: Recipe) -> None:
    descriptors = tuple(
        Descriptor(
            tuple((entry["name"], entry["expression"]) for entry in each["entries"]),
            each["unit"],
            each.get("cost"),
        )
        for each in yaml.safe_load(recipe.blocks["agentgateway"])
    )
    answers: Answers = []
    with (
        ClockedService(recipe.blocks["rules"], now=NOON) as service,
        grpc.insecure_channel(service.address) as channel,
    ):
        gateway = AgentGateway(Policy(recipe.domain, descriptors), channel)
        for step in recipe.steps:
            before = {f'request.headers["{name}"]': value for name, value in step.headers.items()}
            after = before | {"llm.inputTokens": step.prompt, "llm.outputTokens": step.completion}
            answer = gateway.complete(before, after)
            answers.append((answer.status, answer.headers.get(STATE)))
    assert [step.answer for step in recipe.steps] == answers


def test_an_agent_that_slows_down_is_never_refused(llm: MockLlm, tmp_path: Path) -> None:
    """It waits as the function on the page returns, and gets an answer to each call until the next day."""
    (text,) = re.findall(r"^```python agent\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    agent: dict[str, Any] = {}
    exec(text, agent)  # the page's own code
    recipe = next(each for each in RECIPES if each.domain == "team-signals")
    routed = per_route(*yaml.safe_load(recipe.blocks["envoy"]), domain=recipe.domain)
    cost, midnight = 50, NOON + 43_200
    statuses: list[int] = []
    with (
        ClockedService(recipe.blocks["rules"], now=NOON) as service,
        envoy(tmp_path, service.address, llm, routed) as client,
    ):
        while service.now < midnight and len(statuses) < 50:
            answer = ask(client, lambda: service.answered, {"x-team-id": "dba"}, 0, cost)
            statuses.append(answer.status_code)
            service.now += agent["pause"](answer.headers, cost)
    assert {200} == set(statuses)
    assert 17 < len(statuses) <= 20  # it slows down after 800 tokens, and uses most of the rest
