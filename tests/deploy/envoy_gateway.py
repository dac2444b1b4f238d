"""Envoy Gateway 1.9 and Envoy AI Gateway 1.1: their translation of policies, as read in their sources. A
policy becomes resources, which the control plane sends to the rate-limit service, and rate limits, which it
sends to Envoy.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ratelimit_service.proto.xds_pb2 import RateLimitConfig
from testing.control_plane import resource

from .gateways import FILTER, Object, per_route, ratelimit_filter

CLUSTER = "ratelimit_cluster"
QUOTA_CLUSTER = "ai_gateway_ratelimit_cluster"
QUOTA_FILTER = f"{FILTER}/ai-gateway-quota"
QUOTA_DOMAIN = "ai-gateway-quota"

ENVIRONMENT = {
    "RUNTIME_ROOT": "/data",
    "RUNTIME_SUBDIRECTORY": "ratelimit",
    "RUNTIME_IGNOREDOTFILES": "true",
    "RUNTIME_WATCH_ROOT": "false",
    "LOG_LEVEL": "info",
    "USE_STATSD": "false",
    "CONFIG_TYPE": "GRPC_XDS_SOTW",
    "CONFIG_GRPC_XDS_SERVER_URL": "envoy-gateway:18001",
    "CONFIG_GRPC_XDS_NODE_ID": "envoy-ratelimit",
    "GRPC_SERVER_USE_TLS": "true",
    "GRPC_SERVER_TLS_CERT": "/certs/tls.crt",
    "GRPC_SERVER_TLS_KEY": "/certs/tls.key",
    "GRPC_SERVER_TLS_CA_CERT": "/certs/ca.crt",
    "CONFIG_GRPC_XDS_SERVER_USE_TLS": "true",
    "CONFIG_GRPC_XDS_CLIENT_TLS_CERT": "/certs/tls.crt",
    "CONFIG_GRPC_XDS_CLIENT_TLS_KEY": "/certs/tls.key",
    "CONFIG_GRPC_XDS_SERVER_TLS_CACERT": "/certs/ca.crt",
    "FORCE_START_WITHOUT_INITIAL_CONFIG": "true",
    "REDIS_SOCKET_TYPE": "tcp",
    "REDIS_URL": "redis.redis-system.svc.cluster.local:6379",
    "USE_PROMETHEUS": "true",
    "PROMETHEUS_ADDR": ":19001",
    "PROMETHEUS_MAPPER_YAML": "/etc/statsd-exporter/conf.yaml",
}
"""The environment that Envoy Gateway sets in the container of the rate-limit service."""

_ADDRESS = "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"

PROBE: Object = {
    "httpGet": {"path": "/healthcheck", "port": 8080, "scheme": "HTTP"},
    "periodSeconds": 10,
    "successThreshold": 1,
    "timeoutSeconds": 1,
}
"""The probes that it sets."""


class Part(NamedTuple):
    """One level of a rule: the key and value in the resource, and the action that makes the entry of a
    request.
    """

    key: str
    value: str
    action: Object


class Translated(NamedTuple):
    """The translation of a policy for one route."""

    resources: list[RateLimitConfig]
    filters: list[Object]
    per_filter: Object


def translate(policy: Object, *, listener: str, route: str) -> Translated:
    """Return the translation of a BackendTrafficPolicy for a route of a listener. Both have the names that
    Envoy Gateway gives them.
    """
    owner = f"{policy['metadata']['namespace']}/{policy['metadata']['name']}"
    trees: dict[str, dict[str, list[Object]]] = {}
    limits: dict[str, list[Object]] = {}
    numbers = {True: 0, False: 0}
    for index, rule in enumerate(policy["spec"]["rateLimit"]["global"]["rules"]):
        shared = bool(rule.get("shared"))
        number, numbers[shared] = numbers[shared], numbers[shared] + 1
        domain, first = (owner, f"{owner}/rule/{index}") if shared else (listener, route)
        parts = list(_parts(rule, number))
        trees.setdefault(domain, {}).setdefault(first, []).append(_tree(rule, parts))
        generic = {"generic_key": {"descriptor_key": first, "descriptor_value": first}}
        actions = [generic, *(part.action for part in parts)]
        limits.setdefault(domain, []).extend(_rate_limits(rule, actions))
    resources = [
        resource(domain, *({"key": key, "value": key, "descriptors": below} for key, below in tree.items()))
        for domain, tree in trees.items()
    ]
    names = {domain: FILTER if domain == listener else f"{FILTER}/{domain}" for domain in trees}
    return Translated(
        resources,
        [
            ratelimit_filter(
                CLUSTER,
                name,
                domain=domain,
                failure_mode_deny=True,
                enable_x_ratelimit_headers="DRAFT_VERSION_03",
                disable_x_envoy_ratelimited_header=True,
            )
            for domain, name in names.items()
        ],
        {name: per_route(*limits[domain], domain=domain) for domain, name in names.items()},
    )


def _parts(rule: Object, number: int) -> Iterator[Part]:
    selectors = rule.get("clientSelectors", [])
    match = 0
    for header in (header for selector in selectors for header in selector.get("headers", ())):
        key, match = f"rule-{number}-match-{match}", match + 1
        if header.get("type") == "Distinct":
            yield Part(key, "", {"request_headers": {"header_name": header["name"], "descriptor_key": key}})
            continue
        wanted = {"name": header["name"], "string_match": {"exact": header["value"]}}
        fields = {"descriptor_key": key, "descriptor_value": key, "expect_match": True, "headers": [wanted]}
        yield Part(key, key, {"header_value_match": fields})
    for source in (selector["sourceCIDR"] for selector in selectors if "sourceCIDR" in selector):
        network = ipaddress.ip_network(source["value"])
        ranges = [{"address_prefix": str(network.network_address), "prefix_len": network.prefixlen}]
        key = "masked_remote_address"
        fields = {
            "descriptor_key": key,
            "descriptor_value": source["value"],
            "address_matcher": {"ranges": ranges},
        }
        yield Part(key, source["value"], {"remote_address_match": fields})
        if source.get("type") == "Distinct":
            each = {**fields, "descriptor_key": "remote_address", "descriptor_value": _ADDRESS}
            yield Part("remote_address", "", {"remote_address_match": each})
    if not selectors:
        key = f"rule-{number}-match--1"
        yield Part(key, key, {"generic_key": {"descriptor_key": key, "descriptor_value": key}})


def _tree(rule: Object, parts: Sequence[Part]) -> Object:
    shadow = bool(rule.get("shadowMode"))
    limit = {"requests_per_unit": rule["limit"]["requests"], "unit": rule["limit"]["unit"]}
    tree: Object = {}
    for part in reversed(parts):
        below = {"descriptors": [tree]} if tree else {"rate_limit": limit}
        tree = {"key": part.key, "value": part.value, "shadow_mode": shadow, **below}
    return tree


def _rate_limits(rule: Object, actions: Sequence[Object]) -> Iterator[Object]:
    cost = rule.get("cost", {})
    limit = {}
    if fields := rule["limit"].get("fromMetadata"):
        where = {"key": fields["namespace"], "path": [{"key": fields["key"]}]}
        limit = {"limit": {"dynamic_metadata": {"metadata_key": where}}}
    yield {"actions": list(actions), **limit, **_hits(cost.get("request"))}
    if "response" in cost:
        yield {"actions": list(actions), **limit, **_hits(cost["response"]), "apply_on_stream_done": True}


def _hits(cost: Object | None) -> Object:
    if cost is None:
        return {}
    if cost["from"] == "Number":
        return {"hits_addend": {"number": cost["number"]}}
    return {"hits_addend": {"format": "%DYNAMIC_METADATA({namespace}:{key})%".format(**cost["metadata"])}}


def patched(policy: Object, filters: Sequence[Object]) -> list[Object]:
    """Return the HTTP filters of a listener after an EnvoyPatchPolicy."""
    patched = list(filters)
    for patch in policy["spec"]["jsonPatches"]:
        operation = patch["operation"]
        place = "/default_filter_chain/filters/0/typed_config/http_filters/"
        assert ("add", True) == (operation["op"], operation["path"].startswith(place))
        patched.insert(int(operation["path"].removeprefix(place)), operation["value"])
    return patched


# Envoy AI Gateway

_UNITS = {"1s": "SECOND", "1m": "MINUTE", "1h": "HOUR", "1d": "DAY"}


def quota(policy: Object) -> RateLimitConfig:
    """Return the resource that the controller sends for a QuotaPolicy without rules for buckets."""
    namespace = policy["metadata"]["namespace"]
    descriptors = []
    for target in policy["spec"]["targetRefs"]:
        models = []
        for model in policy["spec"]["perModelQuotas"]:
            fields = model["quota"]["defaultBucket"]
            limit = {"requests_per_unit": fields["limit"] % 2**32, "unit": _UNITS[fields["duration"]]}
            models.append(
                {
                    "key": "model_name_override",
                    "value": model["modelName"],
                    "rate_limit": limit,
                    "quota_mode": True,
                }
            )
        name = f"{namespace}/{target['name']}"
        descriptors.append({"key": "backend_name", "value": name, "descriptors": models})
    return resource(QUOTA_DOMAIN, *descriptors)


def quota_limits(backends: Mapping[str, str]) -> Object:
    """Return the rate limits of Envoy for a route to these backends, each with its name of the model: checks,
    and one charge.
    """

    def fixed(key: str, value: str) -> Object:
        return {"generic_key": {"descriptor_key": key, "descriptor_value": value}}

    def said(key: str, name: str) -> Object:
        where = {"key": "io.envoy.ai_gateway", "path": [{"key": name}]}
        return {"metadata": {"descriptor_key": key, "metadata_key": where, "source": "DYNAMIC"}}

    checks = [
        {"actions": [fixed("backend_name", backend), fixed("model_name_override", model)]}
        for backend, model in backends.items()
    ]
    charge = {
        "actions": [
            said("backend_name", "ai_service_backend_name"),
            said("model_name_override", "model_name_override"),
        ],
        "hits_addend": {"format": "%DYNAMIC_METADATA(io.envoy.ai_gateway:quota_cost)%"},
        "apply_on_stream_done": True,
    }
    return {QUOTA_FILTER: per_route(*checks, charge)}


def processed(backend: str, model: str) -> list[Object]:
    """Return the metadata that the external processor would write, from the usage of an answer."""
    namespace = "io.envoy.ai_gateway"
    costs = [
        {"metadata_namespace": namespace, "key": key, "type": "NUMBER"}
        for key in ("quota_cost", "llm_total_token")
    ]
    rules = [{"selectors": [{"key": "usage"}, {"key": "total_tokens"}], "on_present": cost} for cost in costs]
    said = {"ai_service_backend_name": backend, "model_name_override": model}
    return [
        {
            "name": "envoy.filters.http.set_metadata",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.set_metadata.v3.Config",
                "metadata": [{"metadata_namespace": namespace, "value": said}],
            },
        },
        {
            "name": "envoy.filters.http.json_to_metadata",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.json_to_metadata.v3"
                ".JsonToMetadata",
                "response_rules": {"rules": rules},
            },
        },
    ]


def container(environment: Mapping[str, str]) -> Any:
    """Return the Deployment that Envoy Gateway creates, as far as an overlay concerns it."""
    env = [{"name": name, "value": value} for name, value in environment.items()]
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "envoy-ratelimit", "namespace": "envoy-gateway-system"},
        "spec": {
            "selector": {"matchLabels": {"app.kubernetes.io/name": "envoy-ratelimit"}},
            "template": {
                "metadata": {"labels": {"app.kubernetes.io/name": "envoy-ratelimit"}},
                "spec": {
                    "containers": [
                        {
                            "name": "envoy-ratelimit",
                            "image": "docker.io/envoyproxy/ratelimit:17b1956c",
                            "command": ["/bin/ratelimit"],
                            "env": env,
                            "startupProbe": {**PROBE, "failureThreshold": 30},
                            "readinessProbe": {**PROBE, "periodSeconds": 5, "failureThreshold": 1},
                            "livenessProbe": {**PROBE, "failureThreshold": 3},
                        }
                    ]
                },
            },
        },
    }
