"""deploy/envoy-ai-gateway: its policies and its quota, over a control plane, before a real Envoy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from ratelimit_service.settings.table import load_settings
from ratelimit_service.settings.unsupported import unsupported
from testing.mock_llm import MockLlm
from testing.service import Service, calling

from ...docs.documents import load_text
from ...e2e.conftest import Counters, Unique, in_one_minute
from ..envoy_gateway import QUOTA_DOMAIN, processed, quota
from ..gateways import objects, one
from ..kustomize import OLDEST, Objects
from .policies import AIG, BACKENDS, QUOTA, USERS, USERS_ROUTE, asking, bucket, quota_bucket, statuses

pytestmark = pytest.mark.e2e


@in_one_minute
def test_a_quota_is_counted_as_the_gateways_own_test_expects(
    quotas: Callable[..., Service], llm: MockLlm, counters: Counters, tmp_path: Path
) -> None:
    """With 10 tokens and one call of 20, the counter is 21. The next call is refused if every backend is
    over, and counts 1.
    """
    for backend in BACKENDS:
        counters.reset(quota_bucket(backend))
    service = quotas(overlaid=False)
    with asking(service, llm, tmp_path, "default/provider-a") as client:
        assert [200] == statuses(client, 1, x_mock_tokens="20")
        counters.wait_until(quota_bucket("default/provider-a"), 21)
        # provider-b has room, so the call is not refused.
        assert [200] == statuses(client, 1, x_mock_tokens="0")
        counters.wait_until(quota_bucket("default/provider-a"), 22)
    with asking(service, llm, tmp_path, "default/provider-b") as client:
        assert [200] == statuses(client, 1, x_mock_tokens="20")
        counters.wait_until(quota_bucket("default/provider-b"), 2 + 21)
        assert [429] == statuses(client, 1)
    assert {"default/provider-a": 24, "default/provider-b": 24} == {
        backend: sum(counters.of(quota_bucket(backend)).values()) for backend in BACKENDS
    }


@in_one_minute
def test_an_overlay_gives_a_backend_more_than_32_bits(
    quotas: Callable[..., Service], llm: MockLlm, counters: Counters, tmp_path: Path
) -> None:
    """Six calls of a thousand million tokens exhaust 6,000,000,000 tokens. Only tokens are counted."""
    for backend in BACKENDS:
        counters.reset(quota_bucket(backend))
    service = quotas(overlaid=True)
    with calling(service.grpc) as caller:
        assert "OK" == caller.status(QUOTA_DOMAIN, "backend_name", "other")
    with asking(service, llm, tmp_path, "default/provider-b") as client:
        for call in range(1, 7):
            assert [200] == statuses(client, 1, x_mock_tokens="1000000000")
            counters.wait_until(quota_bucket("default/provider-b"), call * 1_000_000_000)
        # provider-a had 10, of which the checks have used 6.
        assert [200] * 4 + [429] == statuses(client, 5, x_mock_tokens="0")
    assert ["month"] == [
        window.partition(":")[0] for window in counters.of(quota_bucket("default/provider-b"))
    ]


@in_one_minute
def test_tokens_counted_by_the_processor_are_charged_to_a_user(
    gateway: Callable[..., Any], counters: Counters, unique: Unique
) -> None:
    """llmRequestCosts, with a BackendTrafficPolicy of Envoy Gateway. Another model has no limit."""
    user = unique("ai")
    filters = [*processed("default/provider-a", "gpt-x"), *USERS.filters]
    with gateway(filters, USERS.per_filter) as client:
        assert [200] == statuses(client, 1, x_user_id=user, x_ai_eg_model="gpt-x", x_mock_tokens="1200")
        entries = ((USERS_ROUTE, USERS_ROUTE), ("rule-0-match-0", user), ("rule-0-match-1", "rule-0-match-1"))
        counters.wait_until(bucket("default/llm/http", *entries), 1_200)
        assert [429, 200] == [
            *statuses(client, 1, x_user_id=user, x_ai_eg_model="gpt-x"),
            *statuses(client, 1, x_user_id=user, x_ai_eg_model="other"),
        ]


def test_the_service_for_quotas_is_where_the_controller_expects_it() -> None:
    """By name, namespace and port, without TLS. Its pods have the same restrictions as the service's other
    pods.
    """
    deployed = Objects(objects(AIG / "ratelimit.yaml"))
    for each in [*deployed, *objects(AIG / "overlay.yaml")]:
        kubernetes_validate.validate(each, OLDEST, strict=True)
    service = deployed.one("Service", "envoy-ai-gateway-ratelimit")
    assert ("envoy-gateway-system", 8081) == (
        service["metadata"]["namespace"],
        service["spec"]["ports"][0]["port"],
    )
    (pod,) = deployed.selected(service["spec"]["selector"])
    (only,) = pod["spec"]["containers"]
    configured = {each["name"]: each["value"] for each in only["env"]}
    settings = load_settings(configured)
    assert ([], "envoy-ai-gateway-ratelimit", False) == (
        unsupported(configured),
        settings.config_grpc_xds_node_id,
        settings.grpc_server_use_tls,
    )
    assert {"drop": ["ALL"]} == only["securityContext"]["capabilities"]
    mounts = {mount["name"]: mount["mountPath"] for mount in only["volumeMounts"]}
    assert (mounts["rules"], mounts["overlays"]) == (
        settings.xds_cache_dir,
        str(Path(settings.xds_overlays[0]).parent),
    )
    assert mounts.keys() == {volume["name"] for volume in pod["spec"]["volumes"]}


def test_the_overlay_matches_the_descriptors_of_the_quota() -> None:
    """Otherwise, it would have no effect. It is a valid rule file."""
    text = one(AIG / "overlay.yaml", "ConfigMap")["data"]["overlay.yaml"]
    (domain,) = load_text(text).domains
    (backend,) = domain.descriptors
    (model,) = backend.children
    sent = {(first.value, second.value) for first in quota(QUOTA).descriptors for second in first.descriptors}
    assert (QUOTA_DOMAIN, True) == (domain.name, (backend.value, model.value) in sent)


def test_a_quota_beyond_32_bits_is_truncated_as_documented() -> None:
    """Without an overlay, as in the README."""
    large = yaml.safe_load(yaml.safe_dump(QUOTA))
    large["spec"]["perModelQuotas"][0]["quota"]["defaultBucket"]["limit"] = 6_000_000_000
    limit = quota(large).descriptors[0].descriptors[0].rate_limit.requests_per_unit
    assert f"6,000,000,000 becomes {limit:,}" in (AIG / "README.md").read_text()
