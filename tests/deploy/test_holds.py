"""deploy/envoy/holds.yaml: holds and charges that count once, through the real Envoy 1.40."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from testing.in_process_service import ClockedService
from testing.redis_servers import RedisServer
from testing.service import Service, calling
from testing.waiting import wait_for

from ..e2e.conftest import Counters
from .envoy_with_holds import (
    LARGE,
    NOON,
    RULES,
    Filters,
    PatientLlm,
    aborted,
    configured,
    filters,
    post,
    rate_limit,
    remaining,
    running,
)

pytestmark = pytest.mark.e2e


def with_ids(found: Filters) -> None:
    """The configuration in the file, with ids."""


def without_ids(found: Filters) -> None:
    """A gateway that returns no ids, as most gateways today."""
    del rate_limit(found)["rate_limits"][1]["actions"][1]


def without_ids_and_releases(found: Filters) -> None:
    """A gateway that also sends nothing for an answer without usage."""
    without_ids(found)
    charge = rate_limit(found)["rate_limits"][1]
    charge["hits_addend"] = {"format": "%DYNAMIC_METADATA(llm:total_tokens)%"}


def with_marker(found: Filters) -> None:
    """A gateway that marks the end of a request, instead of returning ids."""
    rate_limit(found)["rate_limits"][1]["actions"][1] = {
        "generic_key": {"descriptor_key": "phase", "descriptor_value": "done"}
    }


def warm(service: str) -> None:
    """Create a bucket that has been used before, and has all of its budget."""
    with calling(service) as gateway:
        gateway.ask("team-budgets", "team", "dba", hits=60)
        gateway.ask("team-budgets", "team", "dba", hits=-60)


@pytest.mark.parametrize(("change", "most"), [(with_ids, 120), (without_ids, 160)])
def test_parallel_requests_hardly_overshoot_with_holds(
    change: Callable[[Filters], None], most: int, redis_server: RedisServer, llm: PatientLlm, tmp_path: Path
) -> None:
    """50 concurrent requests of 60 tokens on a budget of 100, over two replicas. Without holds, they spend
    3,000.
    """
    redis_server.cli("FLUSHALL")
    (tmp_path / "rules.yaml").write_text(RULES)
    settings = {
        "CONFIG_PATH": str(tmp_path / "rules.yaml"),
        "REDIS_URL": redis_server.url,
    }
    counters = Counters(redis_server)
    with ExitStack() as stack:
        services = [stack.enter_context(Service(settings)).grpc for _ in range(2)]
        warm(services[0])
        text = configured(services, llm)
        change(filters(text))
        address = stack.enter_context(running(tmp_path, text))
        with ThreadPoolExecutor(50) as pool:
            asked = [pool.submit(post, address) for _ in range(50)]
            wait_for("the refusals", lambda: sum(each.done() for each in asked) + llm.arrived >= 50)
            llm.go.set()
            answers = [each.result() for each in asked]
        served = [answer for answer in answers if answer.status_code == httpx.codes.OK]
        refused = [answer for answer in answers if answer.status_code == httpx.codes.TOO_MANY_REQUESTS]
        assert 50 == len(served) + len(refused)
        assert 1 <= len(served) <= most // 60
        wait_for("the charges", lambda: 60 * len(served) == used(counters))
        error = refused[0].json()["error"]
        assert ("rate_limit_exceeded", "in_flight") == (error["code"], error["rate_limit"]["reason"])
        assert 1 <= int(refused[0].headers["retry-after"]) <= 10
        assert "x-should-retry" not in refused[0].headers


def used(counters: Counters) -> int:
    keys = counters.redis.cli("--scan", "--pattern", "{team-budgets|team=dba}:day:*").split()
    return sum(int(counters.redis.cli("GET", key)) for key in keys)


@pytest.mark.parametrize("change", [with_ids, with_marker])
def test_aborted_requests_release_their_holds(
    change: Callable[[Filters], None], llm: PatientLlm, tmp_path: Path
) -> None:
    """1,000 of them, on a budget for a hundred: each releases its hold when its caller disconnects."""
    with ClockedService(LARGE, now=NOON) as service:
        text = configured([service.address], llm)
        change(filters(text))
        with running(tmp_path, text) as address:
            for number in range(1, 21):
                aborted(address, llm, 50)
                wait_for("the ends", lambda number=number: service.answered >= 100 * number)  # type: ignore[misc]
            llm.go.set()
            assert 200 == post(address).status_code


def test_holds_of_aborted_requests_end_with_the_ttl(llm: PatientLlm, tmp_path: Path) -> None:
    """Without ids and releases, the holds of 1,000 requests wait for the ttl, and no longer."""
    with ClockedService(LARGE.replace("hold: 1000", "hold: 100"), now=NOON) as service:
        text = configured([service.address], llm)
        without_ids_and_releases(filters(text))
        with running(tmp_path, text) as address:
            for _ in range(20):
                aborted(address, llm, 50)
            llm.go.set()
            assert 429 == post(address).status_code
            service.now = NOON + 60
            assert 200 == post(address).status_code


def test_every_end_of_a_request_releases_its_hold(llm: PatientLlm, tmp_path: Path) -> None:
    """Served, failed at the provider, or refused: no tokens are held afterwards, and each request is charged
    once.
    """
    with ClockedService(LARGE, now=NOON) as service:
        text = configured([service.address], llm)
        llm.go.set()
        with running(tmp_path, text) as address:
            with httpx.Client(trust_env=False, headers={"x-team-id": "dba"}, timeout=60) as client:
                for status in (200, 500, 503) * 60:
                    answer = client.post(f"http://{address}/", headers={"x-status": str(status)}, json={})
                    assert status == answer.status_code
            wait_for("the charges", lambda: 100_000 - 60 * 60 == remaining(service.address))


@pytest.mark.parametrize(
    ("strictness", "change", "most"), [("p90", with_ids, 4), ("p90", without_ids, 4), ("mean", with_ids, 8)]
)
def test_a_cheap_and_an_expensive_model_share_a_bucket(
    strictness: str, change: Callable[[Filters], None], most: int, llm: PatientLlm, tmp_path: Path
) -> None:
    """Costs of 100 and of 1,000 on a budget of 4,000. With p90, parallel requests stay within it even if all
    are expensive.

    With the mean of both, they may overshoot by the difference, and without holds all forty would be served.
    """
    rules = RULES.replace("100}", "4_000}").replace(
        "hold: auto", f"hold: auto, hold_strictness: {strictness}"
    )
    with ClockedService(rules, now=NOON) as service:
        with calling(service.address) as gateway:
            for hits in (100, 1_000) * 40:
                gateway.ask("team-budgets", "team", "dba", hits=hits)
                gateway.ask("team-budgets", "team", "dba", hits=-hits)
        text = configured([service.address], llm)
        change(filters(text))
        with running(tmp_path, text) as address, ThreadPoolExecutor(40) as pool:
            costs = [(100, 1_000)[number % 2] for number in range(40)]
            asked = [pool.submit(post, address, x_tokens=str(cost)) for cost in costs]
            wait_for("the refusals", lambda: sum(each.done() for each in asked) + llm.arrived >= 40)
            llm.go.set()
            statuses = [each.result().status_code for each in asked]
            served = [cost for cost, status in zip(costs, statuses, strict=True) if status == 200]
            assert 40 == len(served) + statuses.count(429)
            assert 3 <= len(served) <= most
            left = max(0, 4_000 - sum(served))
            wait_for("the charges", lambda: left == remaining(service.address))
