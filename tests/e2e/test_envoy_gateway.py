"""Every shape of the resources of Envoy Gateway 1.9, with the requests of its Envoy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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

from .envoy_gateway import Match, Route, Rule, Translation, bootstrap, translate

pytestmark = pytest.mark.e2e

OK, OVER = 200, 429


class Call(NamedTuple):
    """Requests of one kind, and their answers one after another."""

    path: str
    codes: Sequence[int]
    headers: Mapping[str, str] = {}
    method: str = "GET"
    gateway: str = "first"


class Shape(NamedTuple):
    """Routes with their rules, and calls in their order."""

    routes: Sequence[Route]
    calls: Sequence[Call]


def one(name: str, *rules: Rule, path: str = "") -> list[Route]:
    """Return a route with its own listener."""
    return [Route(f"httproute/shop/{name}/rule/0/match/0/*", rules, f"/{name}{path}", f"{name}/gw/http")]


def exact(value: str, name: str = "x-user-id") -> Match:
    return Match(name, "exact", value)


def user(value: str) -> dict[str, str]:
    return {"x-user-id": value}


def from_(address: str) -> dict[str, str]:
    return {"x-forwarded-for": address}


DISTINCT = Match("x-user-id", "distinct")
POLICY = "shop/limits"

SHAPES: dict[str, Shape] = {
    "distinct": Shape(
        one("distinct", Rule(2, (DISTINCT,))),
        [
            Call("/distinct", [OK, OK, OVER], user("a")),
            Call("/distinct", [OK, OK, OVER], user("b")),
            Call("/distinct", [OK] * 4),  # without the header there is no descriptor
        ],
    ),
    "distinct-query": Shape(
        one("distinct-query", Rule(1, (Match("user", "distinct", query=True),))),
        [
            Call("/distinct-query?user=a", [OK, OVER]),
            Call("/distinct-query?user=b", [OK, OVER]),
        ],
    ),
    "distinct-remote-address": Shape(
        one("distinct-remote-address", Rule(2, cidr="192.168.0.0/16", cidr_distinct=True)),
        [
            Call("/distinct-remote-address", [OK, OK, OVER], from_("192.168.0.1")),
            Call("/distinct-remote-address", [OK, OK, OVER], from_("192.168.9.9")),
            Call("/distinct-remote-address", [OK] * 4, from_("10.0.0.1")),
        ],
    ),
    "no-selector": Shape(
        one("no-selector", Rule(2)),
        [Call("/no-selector", [OK, OK, OVER]), Call("/no-selector", [OVER], user("a"))],
    ),
    "shadow": Shape(
        one("shadow", Rule(1, (exact("one"), exact("three", "x-org-id")), cidr="0.0.0.0/0", shadow=True)),
        [Call("/shadow", [OK] * 4, {**user("one"), "x-org-id": "three"})],
    ),
    "shared-distinct": Shape(
        [
            Route(
                "r1",
                [Rule(2, (DISTINCT,), shared=True)],
                "/shared-distinct/1",
                "shared-distinct/gw/http",
                f"{POLICY}-1",
            ),
            Route(
                "r2",
                [Rule(2, (DISTINCT,), shared=True)],
                "/shared-distinct/2",
                "shared-distinct/gw/http",
                f"{POLICY}-1",
            ),
        ],
        [
            Call("/shared-distinct/1", [OK], user("a")),
            Call("/shared-distinct/2", [OK, OVER], user("a")),
            Call("/shared-distinct/1", [OVER], user("a")),
            Call("/shared-distinct/1", [OK], user("b")),
        ],
    ),
    "several-shared-policies": Shape(
        [
            Route(
                "s1", [Rule(1, (exact("one"),), shared=True)], "/several/1", "several/gw/http", f"{POLICY}-2"
            ),
            Route(
                "s2", [Rule(1, (exact("one"),), shared=True)], "/several/2", "several/gw/http", f"{POLICY}-2"
            ),
            Route(
                "s3", [Rule(2, (exact("two"),), shared=True)], "/several/3", "several/gw/http", f"{POLICY}-3"
            ),
            Route("s4", [Rule(2, (exact("three"),))], "/several/4", "several/gw/http"),
        ],
        [
            Call("/several/1", [OK], user("one")),
            Call("/several/2", [OVER], user("one")),
            Call("/several/3", [OK, OK, OVER], user("two")),
            Call("/several/4", [OK, OK, OVER], user("three")),
            Call("/several/3", [OK] * 3, user("one")),
        ],
    ),
    "headers-and-cidr": Shape(
        one("headers-and-cidr", Rule(2, (exact("one"), exact("three", "x-org-id")), cidr="0.0.0.0/0")),
        [
            Call("/headers-and-cidr", [OK, OK, OVER], {**user("one"), "x-org-id": "three"}),
            Call("/headers-and-cidr", [OK] * 3, user("one")),
        ],
    ),
    "cidr": Shape(
        one("cidr", Rule(2, cidr="192.168.0.0/16")),
        [
            Call("/cidr", [OK], from_("192.168.0.1")),
            Call("/cidr", [OK, OVER], from_("192.168.9.9")),  # all addresses share the limit
            Call("/cidr", [OK] * 3, from_("10.0.0.1")),
        ],
    ),
    "cidr-inverted": Shape(
        one("cidr-inverted", Rule(2, cidr="192.168.0.0/24", cidr_invert=True)),
        [
            Call("/cidr-inverted", [OK] * 3, from_("192.168.0.1")),
            Call("/cidr-inverted", [OK, OK, OVER], from_("10.0.0.1")),
        ],
    ),
    "same-cidr-on-two-routes": Shape(
        [
            Route("c1", [Rule(1, cidr="192.168.0.10/32")], "/same-cidr/1", "same-cidr/gw/http"),
            Route("c2", [Rule(3, cidr="192.168.0.10/32")], "/same-cidr/2", "same-cidr/gw/http"),
        ],
        [
            Call("/same-cidr/1", [OK, OVER], from_("192.168.0.10")),
            Call("/same-cidr/2", [OK, OK, OK, OVER], from_("192.168.0.10")),
        ],
    ),
    "methods": Shape(
        one("methods", Rule(2, methods=("GET", "PUT")), Rule(3, methods=("POST",))),
        [
            Call("/methods", [OK]),
            Call("/methods", [OK, OVER], method="PUT"),  # the methods of one rule share the limit
            Call("/methods", [OK, OK, OK, OVER], method="POST"),
            Call("/methods", [OK] * 3, method="DELETE"),
        ],
    ),
    "months-and-years": Shape(
        [
            Route("m1", [Rule(2, (exact("one"),), unit="month")], "/months/1", "months/gw/http"),
            Route("m2", [Rule(1, (exact("two"),), unit="year")], "/months/2", "months/gw/http"),
        ],
        [
            Call("/months/1", [OK, OK, OVER], user("one")),
            Call("/months/2", [OK, OVER], user("two")),
        ],
    ),
    "all-selectors": Shape(
        one(
            "all-selectors",
            Rule(
                2,
                (exact("one"), exact("three", "x-org-id")),
                methods=("GET", "POST"),
                path=("exact", "/all-selectors/baz"),
                cidr="0.0.0.0/0",
            ),
        ),
        [
            Call("/all-selectors/baz", [OK], {**user("one"), "x-org-id": "three"}),
            Call("/all-selectors/baz", [OK, OVER], {**user("one"), "x-org-id": "three"}, "POST"),
            Call("/all-selectors/bar", [OK] * 3, {**user("one"), "x-org-id": "three"}),
            Call("/all-selectors/baz", [OK] * 3, {**user("one"), "x-org-id": "three"}, "PUT"),
        ],
    ),
    "several-shared-rules-distinct": Shape(
        [
            Route(
                "d",
                [
                    Rule(3, (DISTINCT,), shared=True),
                    Rule(2, (DISTINCT,), shared=True),
                    Rule(1, (Match("x-org-id", "distinct"),), shared=True),
                ],
                "/several-rules",
                "several-rules/gw/http",
                f"{POLICY}-4",
            )
        ],
        [
            Call("/several-rules", [OK, OK, OVER], user("a")),  # the tightest of them
            Call("/several-rules", [OK, OVER], {"x-org-id": "o"}),
        ],
    ),
    "two-listeners": Shape(
        [
            Route("t", [Rule(1, (DISTINCT,))], "/two-listeners", "two-listeners/gw/http"),
            Route("t", [Rule(1, (DISTINCT,))], "/two-listeners", "two-listeners/gw/https", gateway="second"),
        ],
        [
            Call("/two-listeners", [OK, OVER], user("a")),
            Call("/two-listeners", [OK, OVER], user("a"), gateway="second"),
        ],
    ),
    "two-listeners-share": Shape(
        [
            Route("t", [Rule(2, (DISTINCT,), shared=True)], "/share", "share/gw/http", f"{POLICY}-5"),
            Route(
                "t", [Rule(2, (DISTINCT,), shared=True)], "/share", "share/gw/https", f"{POLICY}-5", "second"
            ),
        ],
        [
            Call("/share", [OK], user("a")),
            Call("/share", [OK, OVER], user("a"), gateway="second"),
            Call("/share", [OVER], user("a")),
        ],
    ),
    "one-listener-shares": Shape(
        [
            Route("t", [Rule(1, (DISTINCT,))], "/partly", "partly/gw/http"),
            Route(
                "t",
                [Rule(2, (DISTINCT,), shared=True)],
                "/partly",
                "partly/gw/https",
                f"{POLICY}-6",
                "second",
            ),
        ],
        [
            Call("/partly", [OK, OVER], user("a")),
            Call("/partly", [OK, OK, OVER], user("a"), gateway="second"),
        ],
    ),
    "two-headers": Shape(
        one("two-headers", Rule(2, (exact("one"), exact("two", "x-org-id")))),
        [
            Call("/two-headers", [OK, OK, OVER], {**user("one"), "x-org-id": "two"}),
            Call("/two-headers", [OK] * 3, user("one")),
        ],
    ),
    "two-routes": Shape(
        [
            Route("first-route", [Rule(1, (exact("one"),))], "/two-routes/1", "two-routes/gw/http"),
            Route("second-route", [Rule(2, (exact("two"),))], "/two-routes/2", "two-routes/gw/http"),
        ],
        [
            Call("/two-routes/1", [OK, OVER], user("one")),
            Call("/two-routes/2", [OK, OK, OVER], user("two")),
        ],
    ),
    "two-rules": Shape(
        one("two-rules", Rule(1, (exact("one"),)), Rule(2**32 - 1, (exact("two"),))),
        [Call("/two-rules", [OK, OVER], user("one")), Call("/two-rules", [OK] * 5, user("two"))],
    ),
    "shared-and-not": Shape(
        [
            Route(
                "mixed",
                [
                    Rule(1, (exact("one"),), shared=True),
                    Rule(2, (exact("two"),)),
                    Rule(3, (exact("three"),), shared=True),
                    Rule(1, (exact("four"),)),
                ],
                "/mixed",
                "mixed/gw/http",
                f"{POLICY}-7",
            )
        ],
        [
            Call("/mixed", [OK, OVER], user("one")),
            Call("/mixed", [OK, OK, OVER], user("two")),
            Call("/mixed", [OK, OK, OK, OVER], user("three")),
            Call("/mixed", [OK, OVER], user("four")),
            Call("/mixed", [OK] * 5, user("five")),
        ],
    ),
    "paths": Shape(
        one("paths", Rule(2, path=("exact", "/paths/a")), Rule(1, path=("regex", "/paths/b.*"))),
        [
            Call("/paths/a", [OK, OK, OVER]),
            Call("/paths/bcd", [OK]),
            Call("/paths/b", [OVER]),
            Call("/paths/c", [OK] * 3),
        ],
    ),
    "query-parameters": Shape(
        one("query-parameters", Rule(2, (exact("one"), Match("user", "exact", "alice", query=True)))),
        [
            Call("/query-parameters?user=alice", [OK, OK, OVER], user("one")),
            Call("/query-parameters?user=bob", [OK] * 3, user("one")),
        ],
    ),
    "regex-and-inverted-headers": Shape(
        one("regex", Rule(2, (Match("x-user-id", "regex", "a.*"), Match("x-org-id", "invert", "ours")))),
        [
            Call("/regex", [OK, OK, OVER], {**user("abc"), "x-org-id": "theirs"}),
            Call("/regex", [OK] * 3, {**user("abc"), "x-org-id": "ours"}),
            Call("/regex", [OK] * 3, {**user("xyz"), "x-org-id": "theirs"}),
        ],
    ),
}


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
def test_a_shape_of_envoy_gateway_is_matched_counted_and_answered(running: Running, name: str) -> None:
    """Each limit refuses the request after the last that it has room for, and no other."""
    for call in SHAPES[name].calls:
        url = f"http://{running.envoy.listeners[call.gateway]}{call.path}"
        answers = [
            httpx.request(call.method, url, headers=dict(call.headers), trust_env=False) for _ in call.codes
        ]
        assert (call, list(call.codes)) == (call, [answer.status_code for answer in answers])
        for answer in answers:
            if answer.status_code == OVER:
                assert "0" == answer.headers["x-ratelimit-remaining"]
                assert "retry-after" in answer.headers
                assert "x-envoy-ratelimited" not in answer.headers


def test_a_limit_on_trial_is_counted_and_refuses_nothing(running: Running) -> None:
    """Its metric counts the requests that it would have refused."""
    for _ in range(3):
        httpx.get(
            f"http://{running.envoy.listeners['first']}/shadow",
            headers={**user("one"), "x-org-id": "three"},
            trust_env=False,
        )
    text = httpx.get(f"http://{running.service.metrics}/metrics", trust_env=False).text
    (line,) = [
        line
        for line in text.splitlines()
        if "rate_limit_shadow_mode{" in line and 'domain="shadow/gw/http"' in line
    ]
    assert float(line.rpartition(" ")[2]) >= 2


def test_no_limit_is_out_of_reach_and_nothing_is_wrong(running: Running) -> None:
    """Every rule of every shape is in force, with the path of its resource."""
    lines = httpx.get(f"http://{running.service.debug}/rlconfig", trust_env=False).text.splitlines()
    limits = [line for line in lines if not line.startswith("#") and line]
    rules = sum(len(route.rules) for shape in SHAPES.values() for route in shape.routes)
    shared_twice = 3  # rules of one policy on two routes or listeners are one
    assert rules - shared_twice == len({line.partition(": unit")[0] for line in limits})
    assert [] == running.service.events("configuration refused")


# Two traps of Envoy Gateway 1.9


def test_two_rules_with_one_cidr_take_no_other_domain_down() -> None:
    """They become siblings with the same key and value. The set is rejected, the other domain is limited."""
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
                "bad/gw/http: descriptors[0].descriptors[1]: 'masked_remote_address_10.0.0.0/8' (key, or key_value) is already defined "
                "at xds eg: bad/gw/http: descriptors[0].descriptors[0]: siblings must differ in it"
            ] == wait_for("the rejection", lambda: plane.rejections)


# Envoy AI Gateway


def quota(caller: Caller, backend: str, model: str, hits: int | None) -> tuple[int, int]:
    """Return the code of a request, and what remains."""
    request = pb.RateLimitRequest(domain="ai-gateway-quota")
    descriptor = request.descriptors.add()
    for key, value in (("backend_name", backend), ("model_name_override", model)):
        descriptor.entries.add(key=key.encode(), value=value.encode())
    if hits is not None:
        descriptor.hits_addend.value = hits
    answer = caller._call(request, timeout=10)
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
                for line in httpx.get(f"http://{service.metrics}/metrics", trust_env=False).text.splitlines()
                if line.startswith("ratelimit_service_rule_hits{") and "llama-3" in line and "backend" in line
            )
            assert 3 == service.metric("ratelimit_service_config_rules")
