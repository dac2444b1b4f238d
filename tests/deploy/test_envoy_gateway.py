"""deploy/envoy-gateway and deploy/envoy-ai-gateway: their policies, over a control plane, before a real
Envoy.

The service has the environment that the gateway gives its container. The control plane is one of the tests;
that of both gateways is asked in the tests of xDS.
"""

from __future__ import annotations

import re
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import kubernetes_validate
import pytest
import yaml

from ratelimit_service.proto import ratelimit_pb2 as pb
from ratelimit_service.settings.table import load_settings
from ratelimit_service.settings.unsupported import unsupported
from testing.certificates import Authority
from testing.mock_llm import MockLlm
from testing.redis_servers import RedisServer, free_port
from testing.service import METHOD, Service, calling, port_of
from testing.threaded_control_plane import ThreadedControlPlane
from testing.waiting import wait_for

from ..docs.documents import load_text
from ..e2e.conftest import Counters, Unique, in_one_minute
from .envoy_gateway import (
    CLUSTER,
    ENVIRONMENT,
    QUOTA_CLUSTER,
    QUOTA_DOMAIN,
    QUOTA_FILTER,
    container,
    patched,
    processed,
    quota,
    quota_limits,
    translate,
)
from .gateways import DEPLOY, Object, bootstrap, objects, one, ratelimit_filter, route, running
from .kustomize import OLDEST, Objects
from .test_kinds import read

pytestmark = pytest.mark.e2e

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


@pytest.fixture(scope="module")
def llm() -> Iterator[MockLlm]:
    provider = MockLlm()
    yield provider
    provider.stop()


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def certificates(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Secret `envoy-rate-limit`, as it is mounted."""
    directory = tmp_path_factory.mktemp("certs")
    authority.write(directory)
    authority.issue("*.envoy-gateway-system").write(directory)
    return directory


@pytest.fixture(scope="module")
def plane(authority: Authority, certificates: Path) -> Iterator[ThreadedControlPlane]:
    """Envoy Gateway's control plane: TLS 1.3, and a client certificate is asked for."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(*authority.issue("envoy-gateway").write(certificates, "control-plane"))
    context.load_verify_locations(cadata=authority.pem.decode())
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols(["h2"])
    with ThreadedControlPlane(context) as served:
        yield served


def environment(certificates: Path, plane: ThreadedControlPlane, redis: str, **more: str) -> dict[str, str]:
    """That of Envoy Gateway's container, with places and ports of this machine."""
    mounted = {name: value.replace("/certs/", f"{certificates}/") for name, value in ENVIRONMENT.items()}
    return {
        **mounted,
        "CONFIG_GRPC_XDS_SERVER_URL": plane.address,
        "CONFIG_GRPC_XDS_SERVER_TLS_SAN": "envoy-gateway",  # its name in the cluster, which nobody resolves here
        "REDIS_URL": redis,
        "PROMETHEUS_ADDR": "127.0.0.1:0",
        **more,
    }


@pytest.fixture(scope="module")
def service(certificates: Path, plane: ThreadedControlPlane, redis_server: RedisServer) -> Iterator[Service]:
    """The service that Envoy Gateway starts, with the rules of all policies here that are its."""
    settings = environment(certificates, plane, redis_server.address)
    with Service({**settings, "BUDGET_DOMAINS": LISTENER}) as service:
        # FORCE_START_WITHOUT_INITIAL_CONFIG: healthy with its Redis, though it has no rules yet.
        wait_for("a healthy service", lambda: service.health() == (200, "OK"))
        plane.send(*TOKENS.resources, *POLICIES.resources, *USERS.resources)
        wait_for("the rules", lambda: f"{SHOP}." in "\n".join(rlconfig(service)))
        yield service


def rlconfig(service: Service) -> list[str]:
    """What `egctl config envoy-ratelimit` shows: /rlconfig of the port that it forwards."""
    return httpx.get(f"http://{service.debug}/rlconfig", trust_env=False).text.splitlines()


@pytest.fixture(scope="module")
def gateway(
    service: Service, llm: MockLlm, certificates: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Any]:
    """Runs an Envoy as Envoy Gateway configures it: TLS to the service, whose name is not asked for."""
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


def statuses(client: httpx.Client, times: int, **headers: str) -> list[int]:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return [client.post("/v1/chat", headers=names, json={}).status_code for _ in range(times)]


def bucket(domain: str, *entries: tuple[str, str]) -> str:
    """As it stands in Redis."""
    return "|".join([domain, *(f"{key}={value}".replace("*", "%2A") for key, value in entries)])


# Envoy Gateway


@pytest.mark.parametrize("stream", [False, True], ids=["json", "sse"])
@in_one_minute
def test_tokens_are_checked_and_charged(
    gateway: Callable[..., Any], counters: Counters, unique: Unique, stream: bool
) -> None:
    """By the value of a header; the answer that crosses the line is served, and other teams go on."""
    team, other = unique("eg"), unique("eg")
    filters = patched(one(EG / "tokens.yaml", "EnvoyPatchPolicy"), TOKENS.filters)
    body = {"stream": stream, "stream_options": {"include_usage": True}}
    with gateway(filters, TOKENS.per_filter) as client:
        for tokens, used in ((3_000, 3_000), (2_500, 5_500)):
            headers = {"x-team-id": team, "x-mock-tokens": str(tokens)}
            assert 200 == client.post("/v1/chat", headers=headers, json=body).status_code
            counters.wait_until(bucket(LISTENER, (ROUTE, ROUTE), ("rule-0-match-0", team)), used)
        assert [429, 200] == [*statuses(client, 1, x_team_id=team), *statuses(client, 1, x_team_id=other)]


@in_one_minute
def test_other_policies_hold_as_well(gateway: Callable[..., Any], counters: Counters, unique: Unique) -> None:
    """A shared limit, one on trial, one from metadata with a default, and one for every address of a network."""
    claims = {
        "name": "envoy.filters.http.set_metadata",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.set_metadata.v3.Config",
            "metadata": [
                {
                    "metadata_namespace": "envoy.filters.http.jwt_authn",
                    "value": {"limit": {"requests_per_unit": 5, "unit": "HOUR"}},
                }
            ],
        },
    }
    shared = bucket("shop/limits", ("shop/limits/rule/0", "shop/limits/rule/0"), ("rule-0-match-0",) * 2)
    counters.reset(shared)
    user, org = unique("user"), unique("org")
    with gateway(POLICIES.filters, POLICIES.per_filter) as client:
        assert [200] * 4 + [429] == statuses(client, 5, x_plan="trial")
        assert [200] * 4 == statuses(client, 4, x_user_id=user)
        assert [200] * 3 + [429] == statuses(client, 4, x_org_id=org)
        address = "127.9.8.7"
        assert [200] * 2 == statuses(client, 2, x_forwarded_for=address)
    with gateway([claims, *POLICIES.filters], POLICIES.per_filter) as client:
        assert [200] * 5 + [429] == statuses(client, 6, x_org_id=unique("org"))
    assert [5] == list(counters.of(shared).values())
    assert [4] == list(counters.of(bucket(SHOP, (API, API), ("rule-0-match-0", user))).values())
    network = ("masked_remote_address", "127.0.0.0/8")
    assert [2] == list(counters.of(bucket(SHOP, (API, API), network, ("remote_address", address))).values())


def test_egctl_finds_the_rules(service: Service) -> None:
    """On the debug port, by domain."""
    shown = "\n".join(rlconfig(service))
    for domain in (LISTENER, SHOP, "shop/limits"):
        assert f"{domain}." in shown


def test_every_variable_of_the_container_is_known() -> None:
    """Those that mean nothing here are named at the start; the CA that upstream does not know either is no
    reason to stop.
    """
    settings = load_settings(ENVIRONMENT)
    assert (19001, True, "redis") == (
        settings.prometheus_address[1],
        settings.grpc_server_use_tls,
        settings.backend_type,
    )
    (warning,) = unsupported(ENVIRONMENT)
    assert warning.startswith("PROMETHEUS_MAPPER_YAML is set, but not supported")


def values(folder: Path) -> Object:
    loaded: Object = yaml.safe_load((folder / "values.yaml").read_text())
    return loaded


def test_envoy_gateway_takes_its_configuration() -> None:
    """By its own type; and the block of the README, which says the same for those who do without the chart."""
    configured = values(EG)["config"]["envoyGateway"]
    head = {"apiVersion": "gateway.envoyproxy.io/v1alpha1", "kind": "EnvoyGateway"}
    image = values(EG)["global"]["images"]["ratelimit"]["image"]
    (block,) = [text for text in _blocks(EG / "README.md") if "rateLimitDeployment" in text]
    shown = yaml.safe_load(block)
    assert image == shown["provider"]["kubernetes"]["rateLimitDeployment"]["container"]["image"]
    assert "" == read({**head, **configured}, {**head, **shown})
    assert "misspelt" in read({**head, **configured, "misspelt": 1})


def _blocks(page: Path) -> list[str]:
    return [each.split("```")[0] for each in page.read_text().split("```yaml\n")[1:]]


def test_the_container_is_what_its_patch_says(tmp_path: Path) -> None:
    """As the API takes it: one way for each probe, a directory for the rules, and settings that load."""
    configured = values(EG)["config"]["envoyGateway"]["provider"]["kubernetes"]["rateLimitDeployment"]
    made = container(
        {**ENVIRONMENT, **{each["name"]: each["value"] for each in configured["container"]["env"]}}
    )
    (tmp_path / "deployment.yaml").write_text(yaml.safe_dump(made))
    patch = {**configured["patch"]["value"], **{key: made[key] for key in ("apiVersion", "kind", "metadata")}}
    kustomization = {"resources": ["deployment.yaml"], "patches": [{"patch": yaml.safe_dump(patch)}]}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    done = subprocess.run(["kubectl", "kustomize", tmp_path], capture_output=True, text=True, check=False)
    if done.returncode == 127:
        pytest.skip("there is no kubectl")
    assert (0, "") == (done.returncode, done.stderr)
    deployment = yaml.safe_load(done.stdout)
    kubernetes_validate.validate(deployment, OLDEST, strict=True)
    (only,) = deployment["spec"]["template"]["spec"]["containers"]
    handlers = {
        name: sorted({"httpGet", "tcpSocket"} & only[f"{name}Probe"].keys())
        for name in ("startup", "readiness", "liveness")
    }
    assert {"startup": ["httpGet"], "readiness": ["tcpSocket"], "liveness": ["tcpSocket"]} == handlers
    settings = load_settings({each["name"]: each["value"] for each in only["env"]})
    (mount,) = configured["container"]["volumeMounts"]
    assert (mount["mountPath"], {mount["name"]}) == (
        settings.xds_cache_dir,
        {volume["name"] for volume in configured["pod"]["volumes"]},
    )


def test_rules_outlast_a_restart_without_a_control_plane(
    certificates: Path, authority: Authority, redis_server: RedisServer, tmp_path: Path
) -> None:
    """By XDS_CACHE_DIR, which values.yaml mounts a directory for."""
    with ThreadedControlPlane() as plane:
        settings = environment(certificates, plane, redis_server.address, XDS_CACHE_DIR=str(tmp_path))
        settings |= {"CONFIG_GRPC_XDS_SERVER_USE_TLS": "false", "GRPC_SERVER_USE_TLS": "false"}
        plane.send(*TOKENS.resources)
        with Service(settings) as service:
            wait_for("the rules", lambda: LISTENER in "\n".join(rlconfig(service)))
            wait_for("the file", lambda: [file for file in tmp_path.iterdir() if file.stat().st_size])
            assert 0 == service.stop()
        plane.stop()
        with Service(settings) as service:
            wait_for("the rules of before", lambda: LISTENER in "\n".join(rlconfig(service)))
            with calling(service.grpc) as caller:
                assert "OK" == caller.status(LISTENER, "team", "dba")


# Envoy AI Gateway

QUOTA = one(AIG / "quota.yaml", "QuotaPolicy")
BACKENDS = {f"default/{name}": "gpt-x" for name in ("provider-a", "provider-b")}


def quota_bucket(backend: str) -> str:
    return f"{QUOTA_DOMAIN}|backend_name={backend}|model_name_override=gpt-x"


@pytest.fixture(scope="module")
def quotas(
    redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Service]]:
    """The service of ratelimit.yaml, over a control plane that sends the quota; with the overlay where that
    is wanted.
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
                # The example of Envoy AI Gateway gives it an argument of its controller's.
                started[overlaid] = Service(settings, arguments=["--quotaRateLimitServiceAddr=somewhere"])
                wait_for("the quota", lambda: QUOTA_DOMAIN in "\n".join(rlconfig(started[overlaid])))
            return started[overlaid]

        yield start
        for each in started.values():
            each.kill()


@contextmanager
def asking(
    service: Service, llm: MockLlm, directory: Path, backend: str, *, port: int = 0
) -> Iterator[httpx.Client]:
    """An Envoy as Envoy AI Gateway leaves it, whose requests end up at one of the two backends."""
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


@in_one_minute
def test_a_quota_counts_as_its_own_test_expects(
    quotas: Callable[..., Service], llm: MockLlm, counters: Counters, tmp_path: Path
) -> None:
    """10 tokens, one call of 20: the counter is 21; the next call is refused where every backend is over, and
    counts 1.
    """
    for backend in BACKENDS:
        counters.reset(quota_bucket(backend))
    service = quotas(overlaid=False)
    with asking(service, llm, tmp_path, "default/provider-a") as client:
        assert [200] == statuses(client, 1, x_mock_tokens="20")
        counters.wait_until(quota_bucket("default/provider-a"), 21)
        # provider-b has room: it is not refused.
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
    """6,000,000,000 tokens, of which only tokens are counted; six calls of a thousand million each use it up."""
    for backend in BACKENDS:
        counters.reset(quota_bucket(backend))
    service = quotas(overlaid=True)
    with calling(service.grpc) as caller:
        assert "OK" == caller.status(QUOTA_DOMAIN, "backend_name", "other")
    with asking(service, llm, tmp_path, "default/provider-b") as client:
        for call in range(1, 7):
            assert [200] == statuses(client, 1, x_mock_tokens="1000000000")
            counters.wait_until(quota_bucket("default/provider-b"), call * 1_000_000_000)
        # provider-a had 10, of which the checks have taken 6.
        assert [200] * 4 + [429] == statuses(client, 5, x_mock_tokens="0")
    assert ["month"] == [
        window.partition(":")[0] for window in counters.of(quota_bucket("default/provider-b"))
    ]


@in_one_minute
def test_what_its_processor_counts_is_charged_to_a_user(
    gateway: Callable[..., Any], counters: Counters, unique: Unique
) -> None:
    """llmRequestCosts, by a BackendTrafficPolicy of Envoy Gateway; another model has no limit."""
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


def test_the_service_for_quotas_is_what_the_controller_looks_for() -> None:
    """By name, namespace and port, without TLS; restricted as the service's other pods are."""
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


def test_the_overlay_is_for_descriptors_that_the_quota_has() -> None:
    """Else it would be laid over nothing; it is a rule file, and loads as one."""
    text = one(AIG / "overlay.yaml", "ConfigMap")["data"]["overlay.yaml"]
    (domain,) = load_text(text).domains
    (backend,) = domain.descriptors
    (model,) = backend.children
    sent = {(first.value, second.value) for first in quota(QUOTA).descriptors for second in first.descriptors}
    assert (QUOTA_DOMAIN, True) == (domain.name, (backend.value, model.value) in sent)


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
    """With the rules of both control planes, over TLS for the one and without for the other."""
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
    answer: pb.RateLimitResponse = call(request, timeout=10)
    return answer.statuses[0].current_limit.requests_per_unit


def test_the_values_for_both_fit_the_other_files() -> None:
    """They load, the Service has the name and the pods that it should, and its port is the one without TLS."""
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


def test_a_quota_beyond_32_bits_is_cut_as_the_readme_says() -> None:
    """Without an overlay."""
    large = yaml.safe_load(yaml.safe_dump(QUOTA))
    large["spec"]["perModelQuotas"][0]["quota"]["defaultBucket"]["limit"] = 6_000_000_000
    limit = quota(large).descriptors[0].descriptors[0].rate_limit.requests_per_unit
    assert f"6,000,000,000 becomes {limit:,}" in (AIG / "README.md").read_text()
