"""Every shape of the resources of Envoy Gateway 1.9, with the requests of its Envoy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import httpx
import pytest

from ratelimit_service.proto import ratelimit_pb2 as pb
from testing.certificates import Authority
from testing.control_plane import limit, resource
from testing.envoy import EnvoyProcess
from testing.service import Caller, Service, calling, port_of
from testing.threaded_control_plane import ThreadedControlPlane
from testing.waiting import wait_for

from .envoy_gateway import Translation, bootstrap, translate
from .envoy_gateway_shapes import OVER, SHAPES, user

pytestmark = pytest.mark.e2e


class Running(NamedTuple):
    """All shapes at once: one Envoy, one service, one control plane."""

    envoy: EnvoyProcess
    service: Service
    translation: Translation


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    directory = tmp_path_factory.mktemp("envoy-gateway")
    authority = Authority()
    authority.write(directory, "ca")
    authority.issue("envoy").write(directory)
    certificate, key = authority.issue("*.envoy-gateway-system").write(directory, "service")
    routes = [route for shape in SHAPES.values() for route in shape.routes]
    translation = translate(routes)
    with ThreadedControlPlane() as plane:
        plane.send(*translation.resources())
        environment = {
            "BACKEND_TYPE": "memory",
            "CONFIG_TYPE": "GRPC_XDS_SOTW",
            "CONFIG_GRPC_XDS_SERVER_URL": plane.address,
            "CONFIG_GRPC_XDS_NODE_ID": "envoy-ratelimit",
            "GRPC_SERVER_USE_TLS": "true",
            "GRPC_SERVER_TLS_CERT": certificate,
            "GRPC_SERVER_TLS_KEY": key,
            "GRPC_SERVER_TLS_CA_CERT": str(directory / "ca.crt"),
            "FORCE_START_WITHOUT_INITIAL_CONFIG": "true",
        }
        with Service(environment) as service:
            wait_for("the rules", lambda: service.metric("ratelimit_service_config_rules"))
            envoy = EnvoyProcess(directory, bootstrap(routes, translation, port_of(service.grpc), directory))
            try:
                yield Running(envoy, service, translation)
            finally:
                envoy.stop()
        assert [] == plane.rejections


@pytest.mark.parametrize("name", SHAPES)
def test_each_shape_of_resources_limits_the_requests_of_its_envoy(running: Running, name: str) -> None:
    """Each limit refuses exactly the requests beyond it."""
    for call in SHAPES[name].calls:
        url = f"http://{running.envoy.listeners[call.gateway]}{call.path}"
        answers = [
            httpx.request(call.method, url, headers=dict(call.headers), trust_env=False, timeout=60)
            for _ in call.codes
        ]
        assert (call, list(call.codes)) == (call, [answer.status_code for answer in answers])
        for answer in answers:
            if answer.status_code == OVER:
                assert "0" == answer.headers["x-ratelimit-remaining"]
                assert "retry-after" in answer.headers
                assert "x-envoy-ratelimited" not in answer.headers


def test_a_limit_in_shadow_mode_is_counted_and_refuses_nothing(running: Running) -> None:
    """Its metric counts the requests that it would have refused."""
    for _ in range(3):
        httpx.get(
            f"http://{running.envoy.listeners['first']}/shadow",
            headers={**user("one"), "x-org-id": "three"},
            trust_env=False,
            timeout=60,
        )
    text = httpx.get(f"http://{running.service.metrics}/metrics", trust_env=False, timeout=60).text
    (line,) = [
        line
        for line in text.splitlines()
        if "rate_limit_shadow_mode{" in line and 'domain="shadow/gw/http"' in line
    ]
    assert float(line.rpartition(" ")[2]) >= 2


def test_every_limit_is_in_force_without_a_problem(running: Running) -> None:
    """Every rule of every shape is in force, with the path of its resource."""
    lines = httpx.get(
        f"http://{running.service.debug}/rlconfig", trust_env=False, timeout=60
    ).text.splitlines()
    limits = [line for line in lines if not line.startswith("#") and line]
    rules = sum(len(route.rules) for shape in SHAPES.values() for route in shape.routes)
    shared_twice = 3  # rules of one policy on two routes or listeners are one
    assert rules - shared_twice == len({line.partition(": unit")[0] for line in limits})
    assert [] == running.service.events("configuration refused")


def test_two_rules_with_one_cidr_affect_no_other_domain() -> None:
    """They become siblings with the same key and value. The set is rejected, but the other domain is
    limited.
    """
    cidr = limit("masked_remote_address", 5, "year", value="10.0.0.0/8")
    deep = {
        "key": "masked_remote_address",
        "value": "10.0.0.0/8",
        "descriptors": [limit("remote_address", 5)],
    }
    with ThreadedControlPlane() as plane:
        plane.send(
            resource("bad/gw/http", {"key": "route", "value": "route", "descriptors": [cidr, deep]}),
            resource("good/gw/http", limit("team", 5)),
        )
        environment = {
            "BACKEND_TYPE": "memory",
            "CONFIG_TYPE": "GRPC_XDS_SOTW",
            "CONFIG_GRPC_XDS_SERVER_URL": f"eg={plane.address}",
        }
        with Service(environment) as service, calling(service.grpc) as caller:
            wait_for("the rules", lambda: service.health() == (200, "OK"))
            assert 5 == caller.limit("good/gw/http", "team", "dba")
            assert [
                "bad/gw/http: descriptors[0].descriptors[1]: 'masked_remote_address_10.0.0.0/8' (key, "
                "or key_value) is already defined at xds eg: bad/gw/http: descriptors[0].descriptors[0]: "
                "siblings must differ in it"
            ] == wait_for("the rejection", lambda: plane.rejections)


def quota(caller: Caller, backend: str, model: str, hits: int | None) -> tuple[int, int]:
    """Return the code for a request, and the remaining tokens."""
    request = pb.RateLimitRequest(domain="ai-gateway-quota")
    descriptor = request.descriptors.add()
    for key, value in (("backend_name", backend), ("model_name_override", model)):
        descriptor.entries.add(key=key.encode(), value=value.encode())
    if hits is not None:
        descriptor.hits_addend.value = hits
    answer = caller._call(request, timeout=60)
    return int(answer.overall_code), int(answer.statuses[0].limit_remaining)


def test_a_quota_of_envoy_ai_gateway_is_charged_at_the_end_and_refuses_the_next_call() -> None:
    """Its own test has a quota of 10: a call of 20 tokens makes 21, and the next one is refused (22)."""
    leaf = limit("model_name_override", 10, "hour", value="llama-3")
    with ThreadedControlPlane() as plane:
        plane.send(
            resource(
                "ai-gateway-quota",
                {"key": "backend_name", "value": "default/backend", "descriptors": [leaf]},
                {
                    "key": "backend_name",
                    "value": "default/buckets",
                    "descriptors": [
                        {
                            "key": "model_name_override",
                            "value": "llama-3",
                            "descriptors": [
                                limit("rule-0-x-team-match-0", 3, "day", quota_mode=True),
                                limit(
                                    "rule-1-match--1", 5, "minute", value="rule-1-match--1", shadow_mode=True
                                ),
                            ],
                        }
                    ],
                },
            )
        )
        environment = {
            "BACKEND_TYPE": "memory",
            "CONFIG_TYPE": "GRPC_XDS_SOTW",
            "CONFIG_GRPC_XDS_SERVER_URL": plane.address,
            "CONFIG_GRPC_XDS_NODE_ID": "envoy-ai-gateway-ratelimit",
        }
        with Service(environment) as service, calling(service.grpc) as caller:
            wait_for("the rules", lambda: service.health() == (200, "OK"))
            ok, over = pb.RateLimitResponse.Code.OK, pb.RateLimitResponse.Code.OVER_LIMIT
            assert (ok, 9) == quota(caller, "default/backend", "llama-3", None)
            quota(caller, "default/backend", "llama-3", 20)
            assert (over, 0) == quota(caller, "default/backend", "llama-3", None)
            assert 22 == sum(
                float(line.rpartition(" ")[2])
                for line in httpx.get(
                    f"http://{service.metrics}/metrics", trust_env=False, timeout=60
                ).text.splitlines()
                if line.startswith("ratelimit_service_rule_hits{") and "llama-3" in line and "backend" in line
            )
            assert 3 == service.metric("ratelimit_service_config_rules")
