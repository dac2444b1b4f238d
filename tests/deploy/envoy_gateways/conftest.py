"""Fixtures of the tests of both gateways: their control plane, a service, and an Envoy as they configure
it.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from testing.certificates import Authority
from testing.mock_llm import MockLlm
from testing.redis_servers import RedisServer
from testing.service import Service, port_of
from testing.threaded_control_plane import ThreadedControlPlane
from testing.waiting import wait_for

from ...e2e.conftest import Counters
from ..envoy_gateway import CLUSTER, QUOTA_DOMAIN, quota
from ..gateways import Object, bootstrap, objects, one, route, running
from ..kustomize import Objects
from .policies import AIG, LISTENER, POLICIES, QUOTA, SHOP, TOKENS, USERS, environment, rlconfig


@pytest.fixture(scope="package")
def llm() -> Iterator[MockLlm]:
    provider = MockLlm()
    yield provider
    provider.stop()


@pytest.fixture(scope="package")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="package")
def certificates(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Secret `envoy-rate-limit`, as it is mounted."""
    directory = tmp_path_factory.mktemp("certs")
    authority.write(directory)
    authority.issue("*.envoy-gateway-system").write(directory)
    return directory


@pytest.fixture(scope="package")
def plane(authority: Authority, certificates: Path) -> Iterator[ThreadedControlPlane]:
    """Envoy Gateway's control plane, with TLS 1.3 and required client certificates."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(*authority.issue("envoy-gateway").write(certificates, "control-plane"))
    context.load_verify_locations(cadata=authority.pem.decode())
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols(["h2"])
    with ThreadedControlPlane(context) as served:
        yield served


@pytest.fixture(scope="package")
def service(certificates: Path, plane: ThreadedControlPlane, redis_server: RedisServer) -> Iterator[Service]:
    """The service as Envoy Gateway starts it, with the rules of all its policies in this folder."""
    settings = environment(certificates, plane, redis_server.address)
    with Service({**settings, "BUDGET_DOMAINS": LISTENER}) as service:
        # FORCE_START_WITHOUT_INITIAL_CONFIG: it is healthy with its Redis, although it has no rules yet.
        wait_for("a healthy service", lambda: service.health() == (200, "OK"))
        plane.send(*TOKENS.resources, *POLICIES.resources, *USERS.resources)
        wait_for("the rules", lambda: f"{SHOP}." in "\n".join(rlconfig(service)))
        yield service


@pytest.fixture(scope="package")
def gateway(
    service: Service, llm: MockLlm, certificates: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Any]:
    """Run an Envoy as Envoy Gateway configures it: with TLS to the service, whose name is not verified."""
    validation = {"validation_context": {"trusted_ca": {"filename": f"{certificates}/ca.crt"}}}
    tls = {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "common_tls_context": validation,
        },
    }

    @contextmanager
    def run(filters: list[Object], per_filter: Object) -> Iterator[httpx.Client]:
        configuration = bootstrap(
            ratelimit=port_of(service.grpc),
            llm=llm.port,
            cluster=CLUSTER,
            filters=filters,
            routes=[route(typed_per_filter_config=per_filter)],
            transport_socket=tls,
        )
        with running(tmp_path_factory.mktemp("envoy"), configuration) as client:
            yield client

    return run


@pytest.fixture
def counters(redis_server: RedisServer) -> Counters:
    return Counters(redis_server)


@pytest.fixture(scope="package")
def quotas(
    redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Service]]:
    """The service of ratelimit.yaml, over a control plane that sends the quota; with the overlay on
    request.
    """
    deployed = Objects(objects(AIG / "ratelimit.yaml"))
    (pod,) = deployed.pods
    (only,) = pod["spec"]["containers"]
    configured = {each["name"]: each["value"] for each in only["env"]}
    started: dict[bool, Service] = {}
    with ThreadedControlPlane() as plane:
        plane.do(lambda served: setattr(served, "nodes", {"envoy-ai-gateway-ratelimit"}))
        plane.send(quota(QUOTA))

        def start(*, overlaid: bool) -> Service:
            if overlaid not in started:
                directory = tmp_path_factory.mktemp("quota")
                overlay = directory / "overlay.yaml"
                overlay.write_text(one(AIG / "overlay.yaml", "ConfigMap")["data"]["overlay.yaml"])
                settings = {
                    **configured,
                    "CONFIG_GRPC_XDS_SERVER_URL": plane.address,
                    "XDS_CACHE_DIR": str(directory),
                    "XDS_OVERLAYS": str(overlay) if overlaid else "",
                    "REDIS_URL": redis_server.address,
                    "SHUTDOWN_DRAIN": "0s",
                }
                # The example of Envoy AI Gateway passes an argument of its controller.
                started[overlaid] = Service(settings, arguments=["--quotaRateLimitServiceAddr=somewhere"])
                wait_for("the quota", lambda: QUOTA_DOMAIN in "\n".join(rlconfig(started[overlaid])))
            return started[overlaid]

        yield start
        for each in started.values():
            each.kill()
