"""Recipes of docs/recipes.md that need whole services: their environment, their Redis, and their usage,
through the real Envoy.
"""

from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
import yaml

from testing.mock_llm import MockLlm
from testing.redis_servers import RedisServer
from testing.service import Service, run
from testing.waiting import PATIENCE, wait_for

from ..deploy.gateways import per_route
from ..docs.documents import blocks
from .conftest import in_one_minute
from .test_recipes import PAGE, RECIPES, Answered, Recipe, envoy, play

pytestmark = pytest.mark.e2e

TOKEN = "admin-0123456789"


def recipe_of(domain: str) -> Recipe:
    """Return the recipe with this domain."""
    return next(recipe for recipe in RECIPES if recipe.domain == domain)


def block(name: str) -> str:
    """Return the text of the block with this name."""
    (found,) = [each.text for each in blocks(PAGE) if each.info.endswith(f" {name}")]
    return found


def answered(service: Service) -> Answered:
    """Return a count of the calls that a service has answered."""
    return lambda: service.metric_sum("ratelimit_service_response_time_seconds_count")


@in_one_minute
def test_tokens_charged_through_envoy_have_their_amount_in_usage(llm: MockLlm, tmp_path: Path) -> None:
    """The table of the page is what the command prints, but for the month."""
    recipe = recipe_of("money")
    (tmp_path / "rules.yaml").write_text(recipe.blocks["rules"])
    routed = per_route(*yaml.safe_load(recipe.blocks["envoy"]), domain=recipe.domain)
    settings = {"BACKEND_TYPE": "memory", "CONFIG_PATH": str(tmp_path / "rules.yaml")}
    with Service(settings) as service, envoy(tmp_path, service.grpc, llm, routed) as client:
        assert [step.answer for step in recipe.steps] == play(client, answered(service), recipe)
        time = ("--from", "2020-01-01", "--to", "2100-01-01", "--per", "month")
        command = ("usage", recipe.domain, "--by", "team,model", *time)
        done = run(*command, environment={"RATELIMIT_SERVER": service.debug})
    assert (0, "") == (done.code, done.err)
    assert block("usage") == re.sub(r"^\d{4}-\d\d", "2026-11", done.out, flags=re.MULTILINE)


@in_one_minute
def test_staging_and_production_share_a_redis_and_nothing_else(llm: MockLlm, tmp_path: Path) -> None:
    """Neither sees the charges, blocks or replicas of the other."""
    recipe = recipe_of("environments")
    (tmp_path / "rules.yaml").write_text(recipe.blocks["rules"])
    routed = per_route(*yaml.safe_load(recipe.blocks["envoy"]), domain=recipe.domain)
    with ExitStack() as stack:
        redis = stack.enter_context(RedisServer())
        services: dict[str, Service] = {}
        clients: dict[str, httpx.Client] = {}
        for name in ("production", "staging"):
            settings = dict(line.split("=") for line in block(name).splitlines())
            settings |= {"CONFIG_PATH": str(tmp_path / settings["CONFIG_PATH"]), "REDIS_URL": redis.address}
            services[name] = stack.enter_context(Service({**settings, "ADMIN_TOKEN": TOKEN}))
            directory = tmp_path / name
            directory.mkdir(exist_ok=True)
            clients[name] = stack.enter_context(envoy(directory, services[name].grpc, llm, routed))
        for name, service in services.items():
            assert [step.answer for step in recipe.steps] == play(clients[name], answered(service), recipe)
        counters = [key.partition("{")[0] for key in redis.cli("--scan", "--pattern", "*team=*").split()]
        assert ["", "", "staging:", "staging:"] == sorted(counters)

        blocked = run(
            *("override", recipe.domain, "*", "0", "--reason", "a trial", "--yes"),
            environment={"RATELIMIT_SERVER": services["staging"].debug, "RATELIMIT_TOKEN": TOKEN},
        )
        assert 0 == blocked.code, blocked.err

        def status(name: str) -> int:
            body = {"model": "gpt-x", "messages": [{"role": "user", "content": "Hello?"}]}
            return (
                clients[name]
                .post("/v1/chat/completions", headers={"x-team-id": "new"}, json=body)
                .status_code
            )

        wait_for("the block in staging", lambda: status("staging") == 429)
        assert 200 == status("production")
        for service in services.values():
            replicas = httpx.get(
                f"http://{service.debug}/api/v1/replicas", trust_env=False, timeout=PATIENCE
            ).json()
            assert 1 == len(replicas["replicas"])
