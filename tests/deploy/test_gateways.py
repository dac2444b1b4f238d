"""deploy/istio, kgateway, contour and emissary: the calls of an Envoy that is configured from their objects.
The real Envoy has the configuration that each gateway generates, and the service has the rules of the
folders.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import kubernetes_validate
import pytest

from testing.mock_llm import MockLlm
from testing.redis_servers import RedisServer
from testing.service import Service, port_of

from ..docs.documents import load_text
from ..e2e.conftest import Counters, Unique, in_one_minute
from .gateways import DEPLOY, bootstrap, contour, emissary, istio, kgateway, objects, one, route, running
from .kustomize import OLDEST, Objects, rendered

pytestmark = pytest.mark.e2e

NAMES = ["istio", "kgateway", "contour", "emissary"]
CONFIGS = [DEPLOY / name / "ratelimit-config.yaml" for name in NAMES]


@pytest.fixture(scope="module")
def service(redis_server: RedisServer) -> Iterator[Service]:
    """A service with the rules of all four folders."""
    with Service({"CONFIG_PATH": ",".join(map(str, CONFIGS)), "REDIS_URL": redis_server.url}) as service:
        yield service


@pytest.fixture(scope="module")
def llm() -> Iterator[MockLlm]:
    provider = MockLlm()
    yield provider
    provider.stop()


@pytest.fixture
def counters(redis_server: RedisServer) -> Counters:
    return Counters(redis_server)


def statuses(client: httpx.Client, times: int, path: str, **headers: str) -> list[int]:
    """Return the statuses of this many requests."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return [client.post(path, headers=names, json={}).status_code for _ in range(times)]


# Rules


@pytest.mark.parametrize("name", NAMES)
def test_the_rules_load_without_a_warning(name: str) -> None:
    """They are at the path where the Deployment looks for them."""
    config = one(DEPLOY / name / "ratelimit-config.yaml", "ConfigMap")
    assert ("ratelimit-config", "ratelimit") == (config["metadata"]["name"], config["metadata"]["namespace"])
    kubernetes_validate.validate(config, OLDEST, strict=True)
    for text in config["data"].values():
        assert () == load_text(text).warnings


# Istio


@pytest.fixture(scope="module")
def ingress(
    service: Service, llm: MockLlm, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    """Istio's ingress gateway, with both EnvoyFilters."""
    folder = DEPLOY / "istio"
    filters, virtual_host = istio(
        *(one(folder / name, "EnvoyFilter") for name in ("tokens.yaml", "requests.yaml"))
    )
    configuration = bootstrap(
        ratelimit=port_of(service.grpc),
        llm=llm.port,
        cluster="outbound|8081||ratelimit.ratelimit.svc.cluster.local",
        filters=filters,
        routes=[route()],
        virtual_host=virtual_host,
    )
    with running(tmp_path_factory.mktemp("istio"), configuration) as client:
        yield client


@pytest.mark.parametrize("stream", [False, True], ids=["json", "sse"])
@in_one_minute
def test_istio_charges_tokens(
    ingress: httpx.Client, counters: Counters, unique: Unique, stream: bool
) -> None:
    """In the hour and the day. The answer that crosses the limit is served."""
    team = unique("mesh")
    body = {"stream": stream, "stream_options": {"include_usage": True}}
    codes = []
    for tokens, used in ((3_000, 3_000), (2_500, 5_500)):
        headers = {"x-team-id": team, "x-mock-tokens": str(tokens)}
        codes.append(ingress.post("/chat", headers=headers, json=body).status_code)
        counters.wait_until(f"token-budgets|team={team}", 2 * used)  # in both windows
    assert [200, 200, 429] == [*codes, *statuses(ingress, 1, "/chat", x_team_id=team)]


def test_a_gateway_without_an_authority_is_answered(
    service: Service, llm: MockLlm, unique: Unique, tmp_path: Path
) -> None:
    """Envoy then sends the name of the cluster, and Istio's cluster names are no valid host names."""
    filters, _ = istio(one(DEPLOY / "istio" / "tokens.yaml", "EnvoyFilter"))
    grpc = filters[0]["typed_config"]["rate_limit_service"]["grpc_service"]["envoy_grpc"]
    del grpc["authority"]
    configuration = bootstrap(
        ratelimit=port_of(service.grpc),
        llm=llm.port,
        cluster=grpc["cluster_name"],
        filters=filters,
        routes=[route()],
    )
    with running(tmp_path, configuration) as client:
        assert [200] == statuses(client, 1, "/chat", x_team_id=unique("mesh"))


def test_istio_refuses_callers_without_a_team(ingress: httpx.Client) -> None:
    """Envoy omits that descriptor; the service refuses by the other one, which is always present."""
    refused = ingress.post("/chat", json={})
    assert (429, "false") == (refused.status_code, refused.headers["x-should-retry"])


@in_one_minute
def test_istio_limits_requests_by_path(ingress: httpx.Client, counters: Counters, unique: Unique) -> None:
    """At the virtual host, as in Istio's own example. The path includes the query."""
    counters.reset("requests|PATH=/login")
    team = unique("login")
    assert [200] * 5 + [429] == statuses(ingress, 6, "/login", x_team_id=team)
    assert [200] * 6 == statuses(ingress, 6, "/login?next=/", x_team_id=team)


@pytest.fixture
def mesh() -> Objects:
    """The service as the kustomization adds it to a mesh."""
    return rendered(DEPLOY / "istio")


def test_istio_gets_a_service_in_the_mesh(mesh: Objects) -> None:
    """It has both address families, a sidecar, a policy that lets gateways in, and only the rules of the
    folder.
    """
    for each in mesh:
        kubernetes_validate.validate(each, OLDEST, strict=True)
    assert ("::", "::") == (mesh.environment["GRPC_HOST"], mesh.environment["HOST"])
    assert "enabled" == mesh.one("Namespace")["metadata"]["labels"]["istio-injection"]
    own = one(DEPLOY / "istio" / "ratelimit-config.yaml", "ConfigMap")["data"]
    assert own == mesh.one("ConfigMap", "ratelimit-config")["data"]
    spec = mesh.one("NetworkPolicy")["spec"]
    (expression,) = spec["ingress"][0]["from"][0]["namespaceSelector"]["matchExpressions"]
    assert ["istio-system", "istio-ingress"] == expression["values"]
    assert {53, 15012} == {port["port"] for rule in spec["egress"] for port in rule["ports"]}


def test_istio_finds_the_service_by_the_names_in_the_filters(mesh: Objects) -> None:
    """The cluster is that of the Service's port, whose name has the prefix for gRPC."""
    service = mesh.one("Service")
    (port,) = [each for each in service["spec"]["ports"] if each["name"] == "grpc"]
    host = f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc.cluster.local"
    for name in ("tokens.yaml", "requests.yaml"):
        filters, _ = istio(one(DEPLOY / "istio" / name, "EnvoyFilter"))
        grpc = filters[0]["typed_config"]["rate_limit_service"]["grpc_service"]["envoy_grpc"]
        assert {"cluster_name": f"outbound|{port['port']}||{host}", "authority": host} == grpc


# kgateway


@in_one_minute
def test_kgateway_limits_requests(
    service: Service, llm: MockLlm, counters: Counters, unique: Unique, tmp_path: Path
) -> None:
    """By user, by address and by path. Headers show the remaining requests."""
    folder = DEPLOY / "kgateway"
    made, per_filter, cluster = kgateway(
        one(folder / "extension.yaml", "GatewayExtension"), one(folder / "policy.yaml", "TrafficPolicy")
    )
    configuration = bootstrap(
        ratelimit=port_of(service.grpc),
        llm=llm.port,
        cluster=cluster,
        filters=[made],
        routes=[route(typed_per_filter_config=per_filter)],
    )
    user, address = unique("ada"), "198.51.100.7"
    for bucket in (f"api|remote_address={address}", "api|path=/login*"):
        counters.reset(bucket)
    with running(tmp_path, configuration) as client:
        seen = client.post("/other", headers={"x-user-id": user, "x-forwarded-for": address}, json={})
        assert "59" == seen.headers["x-ratelimit-remaining"]
        assert [200] * 10 + [429] == statuses(client, 11, "/login?a=b", x_forwarded_for=address)
    assert {1} == set(counters.of(f"api|service=api|X-User-ID={user}").values())
    assert {12} == set(counters.of(f"api|remote_address={address}").values())


def test_kgateway_is_configured_to_fail_closed() -> None:
    """By default it fails open, after 100 ms. A Service in another namespace needs a grant."""
    resource = one(DEPLOY / "kgateway" / "extension.yaml", "GatewayExtension")
    limits = resource["spec"]["rateLimit"]
    assert (False, "250ms", "DraftVersion03") == (
        limits["failOpen"],
        limits["timeout"],
        limits["xRateLimitHeaders"],
    )
    backend = limits["grpcService"]["backendRef"]
    grant = one(DEPLOY / "kgateway" / "extension.yaml", "ReferenceGrant")
    assert (backend["namespace"], resource["metadata"]["namespace"]) == (
        grant["metadata"]["namespace"],
        grant["spec"]["from"][0]["namespace"],
    )


# Contour


@in_one_minute
def test_contour_limits_requests(
    service: Service, llm: MockLlm, counters: Counters, unique: Unique, tmp_path: Path
) -> None:
    """The limits of a host, and those of a route that replace them."""
    folder = DEPLOY / "contour"
    made, routes, virtual_host, cluster = contour(
        one(folder / "extension.yaml", "ExtensionService"),
        one(folder / "extension.yaml", "ContourConfiguration"),
        one(folder / "proxy.yaml", "HTTPProxy"),
    )
    assert made["typed_config"]["failure_mode_deny"]
    configuration = bootstrap(
        ratelimit=port_of(service.grpc),
        llm=llm.port,
        cluster=cluster,
        filters=[made],
        routes=routes,
        virtual_host=virtual_host,
    )
    user, forwarded = unique("ada"), "198.51.100.8"
    for bucket in ("contour|remote_address=198.51.100.8", "contour|header_match=trial"):
        counters.reset(bucket)
    with running(tmp_path, configuration) as client:
        assert [200] * 10 + [429] == statuses(client, 11, "/v1/x", x_plan="trial")
        assert [200] * 2 == statuses(client, 2, "/v1/x", x_user_id=user, x_forwarded_for=forwarded)
        assert [200] == statuses(client, 1, "/about", x_forwarded_for=forwarded)
    assert {2} == set(counters.of(f"contour|service=api|user={user}").values())
    assert {1} == set(counters.of("contour|remote_address=198.51.100.8").values())


# Emissary


@in_one_minute
def test_emissary_limits_requests(
    service: Service, llm: MockLlm, counters: Counters, unique: Unique, tmp_path: Path
) -> None:
    """By the labels of a Mapping, each group in a descriptor."""
    folder = DEPLOY / "emissary"
    made, labelled, cluster = emissary(
        one(folder / "service.yaml", "RateLimitService"), one(folder / "mapping.yaml", "Mapping")
    )
    assert made["typed_config"]["failure_mode_deny"]
    configuration = bootstrap(
        ratelimit=port_of(service.grpc), llm=llm.port, cluster=cluster, filters=[made], routes=[labelled]
    )
    user, forwarded = unique("ada"), "198.51.100.9"
    counters.reset("ambassador|remote_address=198.51.100.9")
    with running(tmp_path, configuration) as client:
        assert [200] * 60 + [429] == statuses(client, 61, "/v1/x", x_user_id=user, x_forwarded_for=forwarded)
        assert [200] == statuses(
            client, 1, "/v1/x", x_forwarded_for=forwarded
        )  # without a user: the address alone
    assert {61} == set(counters.of(f"ambassador|generic_key=api|user={user}").values())
    assert {62} == set(counters.of("ambassador|remote_address=198.51.100.9").values())


# Files


@pytest.mark.parametrize("name", NAMES)
def test_every_file_is_in_the_readme(name: str) -> None:
    """With its purpose."""
    text = (DEPLOY / name / "README.md").read_text()
    files = sorted(file.name for file in (DEPLOY / name).iterdir() if file.name != "README.md")
    assert [] == [file for file in files if f"| [{file}]({file}) | " not in text]


@pytest.mark.parametrize("name", NAMES)
def test_every_object_has_a_name_and_a_namespace(name: str) -> None:
    """So the current namespace of kubectl does not matter."""
    for file in (DEPLOY / name).glob("*.yaml"):
        if file.name != "kustomization.yaml":
            assert all({"name", "namespace"} <= each["metadata"].keys() for each in objects(file))
