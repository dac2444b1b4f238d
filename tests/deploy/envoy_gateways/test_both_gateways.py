"""deploy/envoy-ai-gateway/both.yaml: one service for Envoy Gateway and Envoy AI Gateway."""

from __future__ import annotations

import re
from pathlib import Path

import grpc
import kubernetes_validate
import pytest
import yaml

from ratelimit_service.proto import ratelimit_pb2 as pb
from ratelimit_service.settings.table import load_settings
from testing.certificates import Authority
from testing.mock_llm import MockLlm
from testing.redis_servers import RedisServer, free_port
from testing.service import METHOD, Service, port_of
from testing.threaded_control_plane import ThreadedControlPlane
from testing.waiting import wait_for

from ...e2e.conftest import Counters, Unique, in_one_minute
from ..envoy_gateway import ENVIRONMENT, QUOTA_DOMAIN, quota
from ..gateways import objects
from ..kustomize import OLDEST
from ..test_kinds import read
from .policies import (
    AIG,
    BACKENDS,
    EG,
    LISTENER,
    POLICIES,
    QUOTA,
    ROUTE,
    TOKENS,
    USERS,
    asking,
    environment,
    quota_bucket,
    rlconfig,
    statuses,
    values,
)

pytestmark = pytest.mark.e2e


@in_one_minute
def test_one_service_serves_both_gateways(
    certificates: Path,
    plane: ThreadedControlPlane,
    redis_server: RedisServer,
    authority: Authority,
    llm: MockLlm,
    counters: Counters,
    unique: Unique,
    tmp_path: Path,
) -> None:
    """With the rules of both control planes, over TLS for one and without for the other."""
    configured = yaml.safe_load((AIG / "both.yaml").read_text())["config"]["envoyGateway"]["provider"][
        "kubernetes"
    ]
    given = {each["name"]: each["value"] for each in configured["rateLimitDeployment"]["container"]["env"]}
    eg, ai = given["CONFIG_GRPC_XDS_SERVER_URL"].split(",")
    for backend in BACKENDS:
        counters.reset(quota_bucket(backend))
    port = free_port()
    with ThreadedControlPlane() as quotas:
        quotas.do(lambda served: setattr(served, "nodes", {"envoy-ai-gateway-ratelimit"}))
        quotas.send(quota(QUOTA))
        ours = {
            **environment(certificates, plane, redis_server.address),
            **given,
            "CONFIG_GRPC_XDS_SERVER_URL": ",".join(
                [
                    eg.replace("envoy-gateway:18001", plane.address),
                    re.sub("=[^?]*", f"={quotas.address}", ai, count=1),
                ]
            ),
            "XDS_CACHE_DIR": str(tmp_path),
            "GRPC_PLAINTEXT_PORT": str(port),
            "SHUTDOWN_DRAIN": "0s",
        }
        plane.send(*TOKENS.resources, *POLICIES.resources, *USERS.resources)
        with Service(ours) as service:
            for domain in (LISTENER, QUOTA_DOMAIN):
                wait_for(f"the rules of {domain}", lambda name=domain: name in "\n".join(rlconfig(service)))  # type: ignore[misc]
            with grpc.secure_channel(
                f"localhost:{port_of(service.grpc)}",
                authority.channel(),
                (("grpc.ssl_target_name_override", "x.envoy-gateway-system"),),
            ) as channel:
                assert 5_000 == limit_of(
                    channel, LISTENER, [(ROUTE, ROUTE), ("rule-0-match-0", unique("eg"))]
                )
            with asking(service, llm, tmp_path, "default/provider-a", port=port) as client:
                assert [200] == statuses(client, 1, x_mock_tokens="20")
                counters.wait_until(quota_bucket("default/provider-a"), 21)


def limit_of(channel: grpc.Channel, domain: str, entries: list[tuple[str, str]]) -> int:
    request = pb.RateLimitRequest(domain=domain)
    descriptor = request.descriptors.add()
    for key, value in entries:
        descriptor.entries.add(key=key.encode(), value=value.encode())
    descriptor.hits_addend.SetInParent()
    call = channel.unary_unary(
        METHOD,
        request_serializer=pb.RateLimitRequest.SerializeToString,
        response_deserializer=pb.RateLimitResponse.FromString,
    )
    answer: pb.RateLimitResponse = call(request, timeout=60)
    return answer.statuses[0].current_limit.requests_per_unit


def test_the_values_for_both_gateways_match_the_other_files() -> None:
    """The settings load, the Service has the right name and pods, and its port is the one without TLS."""
    both = yaml.safe_load((AIG / "both.yaml").read_text())["config"]["envoyGateway"]
    configured = values(EG)["config"]["envoyGateway"]
    head = {"apiVersion": "gateway.envoyproxy.io/v1alpha1", "kind": "EnvoyGateway"}
    assert "" == read({**head, **both})
    given, instead = (
        {
            each["name"]: each["value"]
            for each in chart["provider"]["kubernetes"]["rateLimitDeployment"]["container"]["env"]
        }
        for chart in (configured, both)
    )
    assert given.items() <= instead.items()
    settings = load_settings({**ENVIRONMENT, **instead})
    (service,) = objects(AIG / "both-service.yaml")
    kubernetes_validate.validate(service, OLDEST, strict=True)
    (port,) = service["spec"]["ports"]
    assert (8081, settings.grpc_plaintext_port) == (port["port"], port["targetPort"])
    (replaced,) = [each for each in objects(AIG / "ratelimit.yaml") if each["kind"] == "Service"]
    assert replaced["metadata"]["name"] == service["metadata"]["name"]
