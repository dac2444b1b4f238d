"""The 3,200 answers recorded from envoyproxy/ratelimit, asked again of every store: same files, same
requests, same order.

Where an answer differs, it differs on purpose, and stands in one of the two tables below;
docs/compatibility.md has the same list with its reasons.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from ratelimit_service.core.matching.tree import RuleTree
from ratelimit_service.core.model import Decision, Descriptor, Entry, Override, Request, Status, Unit
from ratelimit_service.core.plan import Policy
from ratelimit_service.core.rules.reader import load
from ratelimit_service.observe.metrics import Metrics
from ratelimit_service.ports import CounterStore
from ratelimit_service.service import RateLimitService
from ratelimit_service.sources.yaml_text import read
from ratelimit_service.stores.memory import MemoryStore
from ratelimit_service.stores.redis.server import RedisStore
from testing.redis_clients import connect
from testing.redis_servers import RedisServer

NOW = 1_795_256_400.0
"""2026-11-21T10:20:00Z, well inside an hour: a recorded group never crossed the edge of a window."""

ANSWERS_THAT_DIFFER = {
    # STOP_CACHE_KEY_INCREMENT_WHEN_OVERLIMIT: upstream lets a shadow or quota rule that goes over freeze the
    # counters of the rules that are enforced, so that breaking a trial rule lets callers exceed a real one.
    # Here it does not.
    10: [4, 6, 10, 28, 45, 57, 58, 64, 67, 70],
    13: [19, 23, 55, 58],
}

METRICS_THAT_DIFFER = {
    10: "a shadow or quota rule does not freeze other counters (above)",
    # Upstream's mapping of names adds `over_limit_with_local_cache` to `over_limit`: each of these hits
    # counts twice.
    16: "a hit refused from the local cache is one hit over the limit, not two",
    17: "a hit refused from the local cache is one hit over the limit, not two",
}

FIVE = ("total_hits", "within_limit", "near_limit", "over_limit", "shadow_mode")


@cache
def recorded() -> list[dict[str, Any]]:
    text = gzip.decompress((Path(__file__).parent / "upstream.json.gz").read_bytes())
    groups: list[dict[str, Any]] = json.loads(text)["groups"]
    return groups


@pytest.fixture(params=["memory", "redis"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[CounterStore]:
    if request.param == "memory":
        yield MemoryStore(lambda: NOW)
        return
    server: RedisServer = request.getfixturevalue("redis_server")
    server.cli("FLUSHALL")
    store = RedisStore(connect(server.url))
    await store.start()
    yield store
    await store.close()


@pytest.mark.parametrize("number", range(40))
async def test_the_recorded_answers_are_given_again(number: int, store: CounterStore) -> None:
    """Every step of a group is answered as it was recorded, and the statistics are the recorded ones
    afterwards.
    """
    group = recorded()[number]
    metrics = Metrics()
    service = RateLimitService(store, metrics, lambda: NOW, policy(group["env"]))
    documents = [read(name, text) for name, text in sorted(group["files"].items())]
    service.use(RuleTree(load(documents, merge_domains=on(group["env"], "MERGE_DOMAIN_CONFIG")).domains))

    differing = []
    for place, step in enumerate(group["steps"]):
        decision = await service.should_rate_limit(request_of(step["request"]))
        if comparable(said(decision)) != comparable(step["response"]):
            differing.append(place)
    assert ANSWERS_THAT_DIFFER.get(number, []) == differing

    if number not in METRICS_THAT_DIFFER:
        assert {name: value for name, value in group["metrics"].items() if value} == five(metrics)


def on(env: Mapping[str, str], name: str) -> bool:
    return env.get(name) == "true"


def policy(env: Mapping[str, str]) -> Policy:
    headers = on(env, "LIMIT_RESPONSE_HEADERS_ENABLED")
    return Policy(
        near_limit_ratio=float(env.get("NEAR_LIMIT_RATIO", "0.8")),
        shadow_mode=on(env, "SHADOW_MODE"),
        quota_mode=on(env, "QUOTA_MODE"),
        stop_when_over=on(env, "STOP_CACHE_KEY_INCREMENT_WHEN_OVERLIMIT"),
        limit_header="RateLimit-Limit" if headers else "",
        remaining_header="RateLimit-Remaining" if headers else "",
        reset_header="RateLimit-Reset" if headers else "",
        dynamic_metadata=on(env, "RESPONSE_DYNAMIC_METADATA"),
    )


def request_of(recorded: Mapping[str, Any]) -> Request:
    return Request(
        recorded["domain"],
        tuple(
            Descriptor(
                tuple(Entry(key.encode(), value.encode()) for key, value in descriptor["entries"]),
                descriptor.get("hits_addend"),
                Override(descriptor["limit"][0], Unit[descriptor["limit"][1]])
                if "limit" in descriptor
                else None,
            )
            for descriptor in recorded["descriptors"]
        ),
        recorded.get("hits_addend", 0),
    )


def said(decision: Decision) -> dict[str, Any]:
    """A decision in the words of the recording."""
    answer: dict[str, Any] = {
        "overall_code": decision.code.name,
        "statuses": list(map(status, decision.statuses)),
    }
    if decision.headers:
        answer["response_headers_to_add"] = dict(decision.headers) | {"RateLimit-Reset": "(seconds)"}
    if decision.dynamic_metadata is not None:
        answer["dynamic_metadata"] = decision.dynamic_metadata
    return answer


def status(status: Status) -> dict[str, Any]:
    answer: dict[str, Any] = {"code": status.code.name, "limit_remaining": status.remaining}
    if status.limit is not None:
        answer["current_limit"] = {
            "requests_per_unit": status.limit.amount,
            "unit": status.limit.window.unit.name,
            "name": status.limit.name,
        }
    return answer


def comparable(answer: dict[str, Any]) -> Any:
    """Spacing inside the text of a limit is not significant."""
    copy = json.loads(json.dumps(answer))
    for descriptor in copy.get("dynamic_metadata", {}).get("descriptors", []):
        if "limit" in descriptor:
            descriptor["limit"] = descriptor["limit"].split()
    return copy


def five(metrics: Metrics) -> dict[str, float]:
    """Upstream's five statistics of every limit, written as the recording writes them."""
    names = {f"ratelimit_service_rate_limit_{name}" for name in FIVE}
    written = {}
    for name, labels, count in metrics.counters():
        if name in names and count:
            text = ",".join(f'{label}="{value}"' for label, value in labels.items())
            written[f"{name}{{{text}}}"] = count
    return written
