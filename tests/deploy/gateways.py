"""Gateways that configure an Envoy: the configuration that each creates from its objects, as far as it
concerns the rate-limit service.

It was read in their sources and in their output (Istio 1.31, kgateway of June 2026, Contour 1.33, Emissary
3). The Envoy is a real one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml

from testing.envoy import EnvoyProcess, connection_manager
from testing.service import REPOSITORY

DEPLOY = REPOSITORY / "deploy"

Object = dict[str, Any]

FILTER = "envoy.filters.http.ratelimit"
_TYPE = "type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3"
_HTTP2 = {
    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
}


def objects(file: Path) -> list[Object]:
    """Return the objects in a file."""
    return [each for each in yaml.safe_load_all(file.read_text()) if each]


def one(file: Path, kind: str) -> Object:
    """Return the object of a kind."""
    (found,) = [each for each in objects(file) if each["kind"] == kind]
    return found


def ratelimit_filter(cluster: str, name: str = FILTER, *, authority: str = "", **config: Any) -> Object:
    """Return the filter that calls the service, with `config`.

    Without `authority`, Envoy sends the name of the cluster.
    """
    target = {"cluster_name": cluster} | ({"authority": authority} if authority else {})
    service = {"transport_api_version": "V3", "grpc_service": {"envoy_grpc": target}}
    return {
        "name": name,
        "typed_config": {"@type": f"{_TYPE}.RateLimit", "rate_limit_service": service, **config},
    }


def per_route(*rate_limits: Object, **config: Any) -> Object:
    """Return the configuration of the filter for a route."""
    return {"@type": f"{_TYPE}.RateLimitPerRoute", "rate_limits": list(rate_limits), **config}


def bootstrap(
    *,
    ratelimit: int,
    llm: int,
    cluster: str,
    filters: Sequence[Object],
    routes: Sequence[Object],
    virtual_host: Object | None = None,
    transport_socket: Object | None = None,
) -> Object:
    """Return an Envoy with these filters before a provider. `cluster` is the gateway's name for the
    service.
    """

    def upstream(name: str, port: int, **more: Any) -> Object:
        address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
        endpoints = [{"lb_endpoints": [{"endpoint": {"address": address}}]}]
        return {"name": name, "load_assignment": {"cluster_name": name, "endpoints": endpoints}, **more}

    manager = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3"
        ".HttpConnectionManager",
        "stat_prefix": "gateway",
        "use_remote_address": True,
        "xff_num_trusted_hops": 1,  # tests choose the address of a caller
        "route_config": {
            "virtual_hosts": [
                {"name": "all", "domains": ["*"], "routes": list(routes), **(virtual_host or {})},
            ]
        },
        "http_filters": [
            *filters,
            {
                "name": "envoy.filters.http.router",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
                },
            },
        ],
    }
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    anywhere = {"socket_address": {"address": "127.0.0.1", "port_value": 0}}
    tls = {} if transport_socket is None else {"transport_socket": transport_socket}
    return {
        "admin": {"address": anywhere},
        "static_resources": {
            "listeners": [{"name": "callers", "address": anywhere, "filter_chains": [chain]}],
            "clusters": [
                upstream("llm", llm),
                upstream(cluster, ratelimit, typed_extension_protocol_options=_HTTP2, **tls),
            ],
        },
    }


def route(prefix: str = "/", **more: Any) -> Object:
    """Return a route to the provider. `more` is beside `match`; its `route` is merged into the route's
    own.
    """
    inner = more.pop("route", {})
    return {"match": {"prefix": prefix}, "route": {"cluster": "llm", **inner}, **more}


@contextmanager
def running(directory: Path, configuration: Object) -> Iterator[httpx.Client]:
    """Yield a client of an Envoy with this configuration; its calls to the service have a long timeout."""
    for each in connection_manager(configuration)["http_filters"]:
        if "rate_limit_service" in each["typed_config"]:
            each["typed_config"]["timeout"] = "10s"
    directory.mkdir(exist_ok=True)
    envoy = EnvoyProcess(directory, yaml.safe_dump(configuration))
    try:
        with httpx.Client(
            base_url=f"http://{envoy.listeners['callers']}", timeout=30, trust_env=False
        ) as client:
            yield client
    finally:
        envoy.stop()


# Istio: EnvoyFilters are patches of the configuration itself.


def istio(*filters: Object) -> tuple[list[Object], Object]:
    """Return the HTTP filters that EnvoyFilters insert before the router, and what they merge into virtual
    hosts.
    """
    inserted: list[Object] = []
    merged: Object = {}
    for each in filters:
        for patch in each["spec"]["configPatches"]:
            match patch["applyTo"], patch["patch"]["operation"]:
                case "HTTP_FILTER", "INSERT_BEFORE":
                    assert (
                        "envoy.filters.http.router"
                        == (patch["match"]["listener"]["filterChain"]["filter"]["subFilter"]["name"])
                    )
                    inserted.append(patch["patch"]["value"])
                case "VIRTUAL_HOST", "MERGE":
                    merged |= patch["patch"]["value"]
                case unknown:
                    raise AssertionError(unknown)
    return inserted, merged


# kgateway


def kgateway(extension: Object, policy: Object) -> tuple[Object, Object, str]:
    """Return the filter of a GatewayExtension, the configuration of a TrafficPolicy's routes, and the
    cluster.
    """
    fields = extension["spec"]["rateLimit"]
    backend = fields["grpcService"]["backendRef"]
    cluster = f"kube_{backend['namespace']}_{backend['name']}_{backend['port']}"
    made = ratelimit_filter(
        cluster,
        name=f"ratelimit/{extension['metadata']['namespace']}/{extension['metadata']['name']}",
        domain=fields["domain"],
        failure_mode_deny=not fields.get("failOpen", True),
        **(
            {"enable_x_ratelimit_headers": "DRAFT_VERSION_03"}
            if fields.get("xRateLimitHeaders") == "DraftVersion03"
            else {}
        ),
    )
    limits = [
        {"actions": [_of_kgateway(entry) for entry in descriptor["entries"]]}
        for descriptor in policy["spec"]["rateLimit"]["global"]["descriptors"]
    ]
    return made, {made["name"]: per_route(*limits)}, cluster


def _of_kgateway(entry: Object) -> Object:
    match entry["type"]:
        case "Generic":
            fields = entry["generic"]
            return {"generic_key": {"descriptor_key": fields["key"], "descriptor_value": fields["value"]}}
        case "Header":
            return {"request_headers": {"header_name": entry["header"], "descriptor_key": entry["header"]}}
        case "RemoteAddress":
            return {"remote_address": {}}
        case "Path":
            return {"request_headers": {"header_name": ":path", "descriptor_key": "path"}}
        case unknown:
            raise AssertionError(unknown)


# Contour


def contour(
    extension: Object, configuration: Object, proxy: Object
) -> tuple[Object, list[Object], Object, str]:
    """Return the filter, the routes and the virtual host of an HTTPProxy, and the cluster."""
    fields = configuration["spec"]["rateLimitService"]
    where = fields["extensionService"]
    assert (extension["metadata"]["namespace"], extension["metadata"]["name"]) == (
        where["namespace"],
        where["name"],
    )
    cluster = f"extension/{where['namespace']}/{where['name']}"
    made = ratelimit_filter(
        cluster,
        authority=cluster.replace("/", "."),
        domain=fields["domain"],
        failure_mode_deny=not fields.get("failOpen", False),
        **(
            {"enable_x_ratelimit_headers": "DRAFT_VERSION_03"}
            if fields.get("enableXRateLimitHeaders")
            else {}
        ),
    )
    routes = []
    for each in proxy["spec"]["routes"]:
        (condition,) = each["conditions"]
        limits = _of_contour(each)
        routes.append(route(condition["prefix"], route={"rate_limits": limits} if limits else {}))
    return made, routes, {"rate_limits": _of_contour(proxy["spec"]["virtualhost"])}, cluster


def _of_contour(fields: Object) -> list[Object]:
    descriptors = fields.get("rateLimitPolicy", {}).get("global", {}).get("descriptors", [])
    return [{"stage": 0, "actions": [_action(entry) for entry in each["entries"]]} for each in descriptors]


def _action(entry: Object) -> Object:
    ((kind, fields),) = entry.items()
    match kind:
        case "genericKey":
            key = {"descriptor_key": fields["key"]} if "key" in fields else {}
            return {"generic_key": {"descriptor_value": fields["value"], **key}}
        case "requestHeader":
            return {
                "request_headers": {
                    "header_name": fields["headerName"],
                    "descriptor_key": fields["descriptorKey"],
                }
            }
        case "requestHeaderValueMatch":
            headers = [
                {"name": each["name"], "string_match": {"exact": each["exact"]}} for each in fields["headers"]
            ]
            match_ = {
                "descriptor_value": fields["value"],
                "expect_match": fields["expectMatch"],
                "headers": headers,
            }
            return {"header_value_match": match_}
        case "remoteAddress":
            return {"remote_address": {}}
        case unknown:
            raise AssertionError(unknown)


# Emissary


def emissary(service: Object, mapping: Object) -> tuple[Object, Object, str]:
    """Return the filter of a RateLimitService, the route of a Mapping, and the cluster."""
    fields = service["spec"]
    assert "v3" == fields["protocol_version"]
    cluster = (
        "cluster_" + "".join(char if char.isalnum() else "_" for char in fields["service"]) + "_emissary"
    )
    made = ratelimit_filter(
        cluster, domain=fields["domain"], failure_mode_deny=fields.get("failure_mode_deny", False)
    )
    limits = []
    for group in mapping["spec"]["labels"][fields["domain"]]:
        ((_, labels),) = group.items()
        limits.append({"stage": 0, "actions": [_of_emissary(label) for label in labels]})
    return made, route(mapping["spec"]["prefix"], route={"rate_limits": limits}), cluster


def _of_emissary(label: Object) -> Object:
    ((kind, fields),) = label.items()
    match kind:
        case "generic_key":
            return {
                "generic_key": {
                    "descriptor_key": fields.get("key", "generic_key"),
                    "descriptor_value": fields["value"],
                }
            }
        case "request_headers":
            header = {"header_name": fields["header_name"], "descriptor_key": fields["key"]}
            return {
                "request_headers": header
                | ({"skip_if_absent": True} if fields.get("omit_if_not_present") else {})
            }
        case "remote_address":
            return {"remote_address": {}}
        case unknown:
            raise AssertionError(unknown)
