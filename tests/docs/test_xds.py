"""The examples in docs/xds.md, over resources as control planes send them."""

from __future__ import annotations

from typing import Any

import yaml

from ratelimit_service.core.model import DomainRules
from ratelimit_service.core.rules.reader import load
from ratelimit_service.loading.task import Task
from ratelimit_service.proto.xds_pb2 import RateLimitConfig
from ratelimit_service.sources.xds.overlays import by_domain
from ratelimit_service.sources.xds.reading import reading, stored_resources
from ratelimit_service.sources.yaml_text import read
from testing.control_plane import limit, resource

from ..sources.xds.rule_sets import received
from ..sources.xds.test_translate import placeless
from .documents import DOCS, blocks

OVERLAY, METADATA = (block.text for block in blocks(DOCS / "xds.md") if block.info.startswith("yaml"))
ROUTE = "httproute/shop/api/rule/0/match/0/*"


def rules(config: RateLimitConfig, overlay: str | None = None) -> DomainRules:
    """The only domain, without problems and warnings."""
    overlays, problems = by_domain([read("overlay.yaml", overlay)] if overlay else [])
    groups = list(received(config).groups.values())
    loaded = Task(reading(stored_resources("gateway", groups), overlays), apart=True).rules()
    assert ([], (), ()) == (list(problems), loaded.problems, loaded.warnings)
    (domain,) = loaded.domains
    return domain


def test_the_overlay_completes_a_policy_of_envoy_gateway() -> None:
    policy: dict[str, Any] = {
        "key": ROUTE,
        "value": ROUTE,
        "descriptors": [limit("rule-0-match-0", 100, "day")],
    }
    (expected,) = load([read("overlay.yaml", OVERLAY)]).domains
    assert placeless(expected) == placeless(rules(resource("shop/gw/http", policy), OVERLAY))


def test_keys_in_metadata_have_the_same_effect_as_in_a_file() -> None:
    keys = yaml.safe_load(METADATA)
    sent = rules(resource("d", limit("team", 7, "minute", **keys)))
    written = {"domain": "d", "descriptors": [{"key": "team", **keys["metadata"]["ratelimit-service"]}]}
    (expected,) = load([read("rules.yaml", yaml.safe_dump(written))]).domains
    assert placeless(expected) == placeless(sent)
