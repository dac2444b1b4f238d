"""Envoy Gateway's side of rate limits, as known from version 1.9.

It translates a policy into resources for the rate-limit service and into descriptors that Envoy makes of
requests. The first level of a domain is the route, or the rule of a shared policy. Below it, each rule is a
chain of selectors with the limit at its end. `rule-n-match-m` counts the rules of a kind (shared or not) and
the selectors of a rule.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ratelimit_service.proto.xds_pb2 import RateLimitConfig
from testing.control_plane import resource

FILTER = "envoy.filters.http.ratelimit"
TYPES = "type.googleapis.com/envoy.extensions"


@dataclass(frozen=True)
class Match:
    """A selector for a header or a query parameter: `kind` is exact, regex, distinct or invert."""

    name: str
    kind: str
    value: str = ""
    query: bool = False


@dataclass(frozen=True)
class Rule:
    """One rule of a policy: selectors, all of which must match, and a limit."""

    amount: int
    matches: tuple[Match, ...] = ()
    methods: tuple[str, ...] = ()
    path: tuple[str, str] | None = None
    """The kind (exact, regex) and the value."""
    cidr: str = ""
    cidr_distinct: bool = False
    cidr_invert: bool = False
    unit: str = "year"
    shared: bool = False
    shadow: bool = False


@dataclass
class Route:
    """A route of a listener with the rules of its policy. The policy has a name if rules are shared."""

    name: str
    rules: Sequence[Rule]
    path: str
    listener: str = "shop/gw/http"
    policy: str = ""
    gateway: str = "first"
    """The port of Envoy that it is on."""


@dataclass
class Translation:
    """Translated routes: descriptors by domain, and the rate limits of each route by filter."""

    descriptors: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    limits: dict[str, dict[str, tuple[str, list[Any]]]] = field(default_factory=dict)

    def resources(self) -> list[RateLimitConfig]:
        """Return one resource for each domain."""
        return [resource(domain, *descriptors) for domain, descriptors in self.descriptors.items()]


def translate(routes: Sequence[Route]) -> Translation:
    """Return the resources and rate limits of routes."""
    result = Translation()
    for route in routes:
        key = f"{route.gateway}{route.path}"
        numbers = {True: 0, False: 0}
        for place, rule in enumerate(route.rules):
            number = numbers[rule.shared]
            numbers[rule.shared] += 1
            domain = route.policy if rule.shared else route.listener
            top = f"{route.policy}/rule/{place}" if rule.shared else route.name
            filter_name = f"{FILTER}/{domain}" if rule.shared else FILTER
            chain = list(_levels(rule, number))
            _graft(result.descriptors.setdefault(domain, []), top, chain, rule)
            _, limits = result.limits.setdefault(key, {}).setdefault(filter_name, (domain, []))
            for method in rule.methods or ("",):
                actions = [_generic(top)]
                actions += [action for level in chain for action in level.actions(method)]
                limits.append({"actions": actions})
    return result


@dataclass(frozen=True)
class _Level:
    """One level of a chain: its descriptor, and the action of Envoy, which may depend on the method."""

    key: str
    value: str
    action: Any = None
    by_method: bool = False

    def actions(self, method: str) -> Iterator[Any]:
        if self.by_method:
            yield _header(self.key, ":method", {"exact": method})
        elif self.action is not None:
            yield self.action


def _levels(rule: Rule, number: int) -> Iterator[_Level]:
    for place, match in enumerate(rule.matches):
        key = f"rule-{number}-match-{place}"
        if match.kind == "distinct":
            action = (
                {"request_headers": {"header_name": match.name, "descriptor_key": key}}
                if not match.query
                else {"query_parameters": {"query_parameter_name": match.name, "descriptor_key": key}}
            )
            yield _Level(key, "", action)
        else:
            how = {"safe_regex": {"regex": match.value}} if match.kind == "regex" else {"exact": match.value}
            make = _query if match.query else _header
            yield _Level(key, key, make(key, match.name, how, invert=match.kind == "invert"))
    if rule.methods:
        yield _Level(f"rule-{number}-method", f"rule-{number}-method", by_method=True)
    if rule.path is not None:
        key = f"rule-{number}-path"
        kind, value = rule.path
        how = {"safe_regex": {"regex": value}} if kind == "regex" else {"exact": value}
        yield _Level(key, key, _header(key, ":path", how))
    if rule.cidr:
        value = f"invert:{rule.cidr}" if rule.cidr_invert else rule.cidr
        yield _Level("masked_remote_address", value, _address("masked_remote_address", value, rule))
        if rule.cidr_distinct:
            client = "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"
            yield _Level("remote_address", "", _address("remote_address", client, rule))
    if not (rule.matches or rule.methods or rule.path or rule.cidr):
        key = f"rule-{number}-match--1"
        yield _Level(key, key, _generic(key))


def _graft(siblings: list[dict[str, Any]], top: str, chain: Sequence[_Level], rule: Rule) -> None:
    """Put a chain below the descriptor `top`, which may be there already."""
    found = [each for each in siblings if each["key"] == top]
    if not found:
        found.append({"key": top, "value": top, "descriptors": []})
        siblings.append(found[0])
    below: list[dict[str, Any]] = found[0]["descriptors"]
    for place, level in enumerate(chain):
        descriptor: dict[str, Any] = {"key": level.key}
        if level.value:
            descriptor["value"] = level.value
        if rule.shadow:
            descriptor["shadow_mode"] = True
        if place == len(chain) - 1:
            descriptor["rate_limit"] = {"unit": rule.unit, "requests_per_unit": rule.amount}
        else:
            descriptor["descriptors"] = []
        if any(each["key"] == level.key and each.get("value") == descriptor.get("value") for each in below):
            return  # a rule of a shared policy, from another route
        below.append(descriptor)
        below = descriptor.get("descriptors", [])


def _generic(key: str) -> Any:
    return {"generic_key": {"descriptor_key": key, "descriptor_value": key}}


def _header(key: str, name: str, how: Any, *, invert: bool = False) -> Any:
    headers = [{"name": name, "string_match": how}]
    return {
        "header_value_match": {
            "descriptor_key": key,
            "descriptor_value": key,
            "expect_match": not invert,
            "headers": headers,
        }
    }


def _query(key: str, name: str, how: Any, *, invert: bool = False) -> Any:
    parameters = [{"name": name, "string_match": how}]
    return {
        "query_parameter_value_match": {
            "descriptor_key": key,
            "descriptor_value": key,
            "expect_match": not invert,
            "query_parameters": parameters,
        }
    }


def _address(key: str, value: str, rule: Rule) -> Any:
    prefix, _, length = rule.cidr.partition("/")
    matcher: dict[str, Any] = {"ranges": [{"address_prefix": prefix, "prefix_len": int(length)}]}
    if rule.cidr_invert:
        matcher["invert_match"] = True
    return {
        "remote_address_match": {"descriptor_key": key, "descriptor_value": value, "address_matcher": matcher}
    }


# Envoy


def bootstrap(
    routes: Sequence[Route], translation: Translation, ratelimit_port: int, certificates: Path
) -> str:
    """An Envoy with these routes on the ports of their gateways, as Envoy Gateway configures it.

    `certificates` has ca.crt, tls.crt and tls.key, by which it calls the service.
    """
    backend = {"pipe": {"path": str(certificates / "backend.sock")}}
    filters = sorted({name for limits in translation.limits.values() for name in limits} | {FILTER})
    listeners = [
        _listener(name, [route for route in routes if route.gateway == name], translation, filters)
        for name in sorted({route.gateway for route in routes})
    ]
    tls = {
        "common_tls_context": {
            "tls_params": {"tls_maximum_protocol_version": "TLSv1_3"},
            "tls_certificates": [
                {
                    "certificate_chain": {"filename": str(certificates / "tls.crt")},
                    "private_key": {"filename": str(certificates / "tls.key")},
                }
            ],
            "validation_context": {"trusted_ca": {"filename": str(certificates / "ca.crt")}},
        }
    }
    http2 = f"{TYPES}.upstreams.http.v3.HttpProtocolOptions"
    ratelimit = {
        **_cluster(
            "ratelimit_cluster", {"socket_address": {"address": "127.0.0.1", "port_value": ratelimit_port}}
        ),
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": http2,
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
        "transport_socket": {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {"@type": f"{TYPES}.transport_sockets.tls.v3.UpstreamTlsContext", **tls},
        },
    }
    answer = {
        "name": "answer",
        "address": backend,
        "filter_chains": [
            {
                "filters": [
                    _manager("answer", [], [{"match": {"prefix": "/"}, "direct_response": {"status": 200}}])
                ]
            }
        ],
    }
    return yaml.safe_dump(
        {
            "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
            "static_resources": {
                "listeners": [answer, *listeners],
                "clusters": [_cluster("backend", backend), ratelimit],
            },
        }
    )


def _listener(name: str, routes: Sequence[Route], translation: Translation, filters: Sequence[str]) -> Any:
    entries = []
    for route in routes:
        limits = translation.limits.get(f"{route.gateway}{route.path}", {})
        entries.append(
            {
                "match": {"path_separated_prefix": route.path},
                "route": {"cluster": "backend"},
                "typed_per_filter_config": {
                    filter_name: {
                        "@type": f"{TYPES}.filters.http.ratelimit.v3.RateLimitPerRoute",
                        "domain": domain,
                        "rate_limits": rate_limits,
                    }
                    for filter_name, (domain, rate_limits) in limits.items()
                },
            }
        )
    address = {"socket_address": {"address": "127.0.0.1", "port_value": 0}}
    return {
        "name": name,
        "address": address,
        "filter_chains": [{"filters": [_manager(name, filters, entries)]}],
    }


def _manager(name: str, filters: Sequence[str], entries: Sequence[Any]) -> Any:
    rate_limit_service = {
        "transport_api_version": "V3",
        "grpc_service": {"envoy_grpc": {"cluster_name": "ratelimit_cluster"}},
    }
    return {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": f"{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": name,
            # The address of a client is in x-forwarded-for, as behind a trusted proxy.
            "use_remote_address": False,
            "http_filters": [
                *(
                    {
                        "name": each,
                        "typed_config": {
                            "@type": f"{TYPES}.filters.http.ratelimit.v3.RateLimit",
                            "domain": each.removeprefix(f"{FILTER}/"),
                            "timeout": "5s",
                            "failure_mode_deny": True,
                            "enable_x_ratelimit_headers": "DRAFT_VERSION_03",
                            "disable_x_envoy_ratelimited_header": True,
                            "rate_limit_service": rate_limit_service,
                        },
                    }
                    for each in filters
                ),
                {
                    "name": "envoy.filters.http.router",
                    "typed_config": {"@type": f"{TYPES}.filters.http.router.v3.Router"},
                },
            ],
            "route_config": {
                "name": name,
                "virtual_hosts": [{"name": name, "domains": ["*"], "routes": list(entries)}],
            },
        },
    }


def _cluster(name: str, address: Any) -> dict[str, Any]:
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": address}}]}]
    return {
        "name": name,
        "type": "STATIC",
        "load_assignment": {"cluster_name": name, "endpoints": endpoints},
    }
