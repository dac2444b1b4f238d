"""The policies of deploy/envoy-gateway and deploy/envoy-ai-gateway, and calls to the service that has their
rules.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import yaml

from testing.mock_llm import MockLlm
from testing.service import Service, port_of
from testing.threaded_control_plane import ThreadedControlPlane

from ..envoy_gateway import (
    ENVIRONMENT,
    QUOTA_CLUSTER,
    QUOTA_DOMAIN,
    QUOTA_FILTER,
    processed,
    quota_limits,
    translate,
)
from ..gateways import DEPLOY, Object, bootstrap, one, ratelimit_filter, route, running

EG = DEPLOY / "envoy-gateway"


AIG = DEPLOY / "envoy-ai-gateway"


LISTENER = "llm/llm/http"


ROUTE = "httproute/llm/completions/rule/0/match/0/*"


TOKENS = translate(one(EG / "tokens.yaml", "BackendTrafficPolicy"), listener=LISTENER, route=ROUTE)


SHOP, API = "shop/shop/http", "httproute/shop/api/rule/0/match/0/*"


POLICIES = translate(one(EG / "policies.yaml", "BackendTrafficPolicy"), listener=SHOP, route=API)


USERS_ROUTE = "httproute/default/chat/rule/0/match/0/*"


USERS = translate(
    one(AIG / "tokens.yaml", "BackendTrafficPolicy"), listener="default/llm/http", route=USERS_ROUTE
)


def environment(certificates: Path, plane: ThreadedControlPlane, redis: str, **more: str) -> dict[str, str]:
    """Return the environment of Envoy Gateway's container, with paths and ports of this machine."""
    mounted = {name: value.replace("/certs/", f"{certificates}/") for name, value in ENVIRONMENT.items()}
    return {
        **mounted,
        "CONFIG_GRPC_XDS_SERVER_URL": plane.address,
        # Its name in the cluster, which cannot be resolved here.
        "CONFIG_GRPC_XDS_SERVER_TLS_SAN": "envoy-gateway",
        "REDIS_URL": redis,
        "PROMETHEUS_ADDR": "127.0.0.1:0",
        **more,
    }


def rlconfig(service: Service) -> list[str]:
    """Return the output of `egctl config envoy-ratelimit`: /rlconfig of the port that it forwards."""
    return httpx.get(f"http://{service.debug}/rlconfig", trust_env=False).text.splitlines()


def statuses(client: httpx.Client, times: int, **headers: str) -> list[int]:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return [client.post("/v1/chat", headers=names, json={}).status_code for _ in range(times)]


def bucket(domain: str, *entries: tuple[str, str]) -> str:
    """Return the name of a bucket in Redis."""
    return "|".join([domain, *(f"{key}={value}".replace("*", "%2A") for key, value in entries)])


def values(folder: Path) -> Object:
    loaded: Object = yaml.safe_load((folder / "values.yaml").read_text())
    return loaded


# Envoy AI Gateway

QUOTA = one(AIG / "quota.yaml", "QuotaPolicy")


BACKENDS = {f"default/{name}": "gpt-x" for name in ("provider-a", "provider-b")}


def quota_bucket(backend: str) -> str:
    return f"{QUOTA_DOMAIN}|backend_name={backend}|model_name_override=gpt-x"


@contextmanager
def asking(
    service: Service, llm: MockLlm, directory: Path, backend: str, *, port: int = 0
) -> Iterator[httpx.Client]:
    """An Envoy as Envoy AI Gateway configures it. Its requests end at one of the two backends."""
    quota_filter = ratelimit_filter(
        QUOTA_CLUSTER, QUOTA_FILTER, domain=QUOTA_DOMAIN, enable_x_ratelimit_headers="DRAFT_VERSION_03"
    )
    configuration = bootstrap(
        ratelimit=port or port_of(service.grpc),
        llm=llm.port,
        cluster=QUOTA_CLUSTER,
        filters=[*processed(backend, "gpt-x"), quota_filter],
        routes=[route(typed_per_filter_config=quota_limits(BACKENDS))],
    )
    with running(directory, configuration) as client:
        yield client
