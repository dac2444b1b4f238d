"""The settings of rules over xDS (docs/xds.md)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, NamedTuple
from urllib.parse import parse_qsl

from .field import reader, setting
from .types import (
    Bool,
    Duration,
    PositiveDuration,
    Ratio,
    Text,
    TextList,
    host_port,
    read_bool,
    read_text,
    whole_number,
)

XDS = "Rules over xDS"
HEADERS = "CONFIG_GRPC_XDS_CLIENT_ADDITIONAL_HEADERS"
"""The name of the setting whose value may be a secret."""

_PARAMETERS = (
    "node_id",
    "use_tls",
    "client_tls_cert",
    "client_tls_key",
    "server_tls_cacert",
    "server_tls_san",
)
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,63}")
_HEADER = re.compile(r"[0-9a-z_.-]+")
_MOST_SERVERS = 16


class ServerUrl(NamedTuple):
    """A control plane in CONFIG_GRPC_XDS_SERVER_URL.

    `more` has its parameters, which override the shared variables.
    """

    name: str
    address: str
    more: dict[str, str]


def read_servers(text: str) -> tuple[ServerUrl, ...]:
    """Read control planes: `[name=]host:port[?parameter=value&...]`, separated by commas."""
    servers = [_read_server(part.strip()) for part in read_text(text).split(",") if part.strip()]
    if not servers:
        raise ValueError("has no address: give host:port, such as localhost:18000")
    if len(servers) > _MOST_SERVERS:
        raise ValueError(f"has {len(servers)} control planes: give at most {_MOST_SERVERS}")
    names = [server.name for server in servers]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(
                f"has {name!r} twice: give each control plane a name of its own, as name=host:port"
            )
    return tuple(servers)


def _read_server(text: str) -> ServerUrl:
    place, _, query = text.partition("?")
    name, equals, address = place.partition("=")
    if not equals:
        name, address = place, place
    elif not _NAME.fullmatch(name):
        raise ValueError(f"has the name {name!r}: give letters, digits, dashes, dots and underscores")
    if not address.startswith("unix:"):
        parsed = host_port(address)
        if not parsed.host or not parsed.port:
            raise ValueError(
                f"has {address!r}, which is not an address: give host:port, such as localhost:18000"
            )
    more = dict(parse_qsl(query, keep_blank_values=True))
    for parameter, value in more.items():
        if parameter not in _PARAMETERS:
            raise ValueError(f"has the parameter {parameter!r}: the parameters are {', '.join(_PARAMETERS)}")
        if parameter == "use_tls":
            read_bool(value)
    return ServerUrl(name, address, more)


def read_pairs(text: str) -> dict[str, str]:
    """Read `key=value` separated by commas. Elements without `=` are ignored, as in upstream."""
    pairs = [part.partition("=") for part in read_text(text).split(",")]
    return {key.strip(): value for key, equals, value in pairs if equals and key.strip()}


def read_headers(text: str) -> dict[str, str]:
    """Read `name:value` separated by commas."""
    headers = {}
    for part in filter(None, read_text(text).split(",")):
        name, colon, value = part.partition(":")
        name = name.strip().lower()
        if not colon or not _HEADER.fullmatch(name) or name.startswith("grpc-"):
            raise ValueError(
                "is not a list of headers: give name:value between commas, such as x-token:secret"
            )
        headers[name] = value.strip()
    return headers


@dataclass(frozen=True, kw_only=True)
class XdsSettings:
    """The fields of `table.Settings` for control planes, used if CONFIG_TYPE has GRPC_XDS_SOTW."""

    config_grpc_xds_node_id: Text = setting(
        XDS, "default", "The node id that is sent to the control plane. Envoy Gateway: envoy-ratelimit."
    )
    config_grpc_xds_node_metadata: Annotated[dict[str, str], reader(read_pairs)] = setting(
        XDS, "", "The metadata of the node: key=value, separated by commas."
    )
    config_grpc_xds_server_url: Annotated[tuple[ServerUrl, ...], reader(read_servers)] = setting(
        XDS,
        "localhost:18000",
        "The control plane: host:port, or unix:path. Several are separated by commas; each may have a name "
        "(name=host:port), and parameters that override the variables here: "
        f"?{'=…&'.join(_PARAMETERS)}=…. Several are ours.",
    )
    config_grpc_xds_client_additional_headers: Annotated[dict[str, str], reader(read_headers)] = setting(
        XDS, "", "Headers of the call: name:value, separated by commas."
    )
    config_grpc_xds_server_use_tls: Bool = setting(
        XDS, "false", "Whether connections to the control plane use TLS."
    )
    config_grpc_xds_client_tls_cert: Text = setting(
        XDS,
        "",
        "The file with the client certificate to present and its chain, in PEM. This and the other two "
        "files are read for every new connection.",
    )
    config_grpc_xds_client_tls_key: Text = setting(XDS, "", "The file with its key, without a passphrase.")
    config_grpc_xds_server_tls_cacert: Text = setting(
        XDS,
        "",
        "The file with the trusted CAs; empty: the CAs of the system.",
    )
    config_grpc_xds_server_tls_san: Text = setting(
        XDS,
        "",
        "The name that the control plane's certificate must have, also sent as SNI; empty: the host of "
        "the address.",
    )
    xds_client_backoff_initial_interval: PositiveDuration = setting(
        XDS,
        "10s",
        "The first pause before connecting again; the next three variables refine it.",
    )
    xds_client_backoff_max_interval: PositiveDuration = setting(XDS, "60s", "The longest pause.")
    xds_client_backoff_random_factor: Ratio = setting(
        XDS,
        "0.5",
        "The factor from one pause to the next. 1 or less, with which the pauses of envoyproxy/ratelimit "
        "do not grow, is read as 2.",
    )
    xds_client_backoff_jitter: Bool = setting(
        XDS, "true", "Whether a pause is shortened to a random part of itself."
    )
    xds_client_max_msg_size_in_bytes: Annotated[int, whole_number(0)] = setting(
        XDS, "0", "The largest set that is read; 0 is 64 MiB (4 MiB in envoyproxy/ratelimit)."
    )
    xds_strict: Bool = setting(
        XDS,
        "false",
        "Whether an invalid domain makes the whole set be rejected, as in envoyproxy/ratelimit. Otherwise"
        " that domain keeps its last good rules, and the others are accepted. Ours.",
    )
    xds_domain_grace: Duration = setting(
        XDS,
        "10s",
        "How long the rules of a domain stay in force after a set without it; 0: not at all, as in "
        "envoyproxy/ratelimit. Ours.",
    )
    xds_cache_dir: Text = setting(
        XDS,
        "",
        "The directory for the last good set, with which the service can start while the control plane is"
        " away; empty: none. Ours.",
    )
    xds_overlays: TextList = setting(
        XDS,
        "",
        "Files, separated by commas, with rule keys to add to the descriptors of a control plane. Ours.",
    )
    xds_keepalive: Duration = setting(
        XDS,
        "310s",
        "How often the control plane is pinged; 0: never. The servers of both gateways close connections "
        "that ping more often than every 5 minutes. Ours.",
    )
