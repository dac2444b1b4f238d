"""Control planes in the settings."""

from __future__ import annotations

import pytest

from ratelimit_service.assembly.control_planes import server_of
from ratelimit_service.core.errors import InvalidSetting, StartError
from ratelimit_service.settings.table import load_settings
from ratelimit_service.sources.xds.server import Server, Tls

ENVOY_GATEWAY = {
    "CONFIG_TYPE": "GRPC_XDS_SOTW",
    "CONFIG_GRPC_XDS_SERVER_URL": "envoy-gateway:18001",
    "CONFIG_GRPC_XDS_NODE_ID": "envoy-ratelimit",
    "CONFIG_GRPC_XDS_SERVER_USE_TLS": "true",
    "CONFIG_GRPC_XDS_CLIENT_TLS_CERT": "/certs/tls.crt",
    "CONFIG_GRPC_XDS_CLIENT_TLS_KEY": "/certs/tls.key",
    "CONFIG_GRPC_XDS_SERVER_TLS_CACERT": "/certs/ca.crt",
}
"""The environment that Envoy Gateway sets in the container."""

TLS = Tls("envoy-gateway", "/certs/ca.crt", "/certs/tls.crt", "/certs/tls.key")


def servers(environ: dict[str, str]) -> list[Server]:
    settings = load_settings(environ)
    return [server_of(url, settings) for url in settings.config_grpc_xds_server_url]


def refusal(environ: dict[str, str]) -> str:
    with pytest.raises(InvalidSetting) as refused:
        load_settings(environ)
    return str(refused.value)


def test_the_environment_of_envoy_gateway_is_supported() -> None:
    """The certificate must be valid for the host of the address."""
    assert [
        Server("envoy-gateway:18001", "envoy-gateway", 18001, node_id="envoy-ratelimit", tls=TLS)
    ] == servers(ENVOY_GATEWAY)
    (server,) = servers(ENVOY_GATEWAY)
    assert "envoy-gateway" == server.authority


def test_the_defaults_are_those_of_upstream() -> None:
    """A control plane on this machine, without TLS."""
    assert [Server("localhost:18000", "localhost", 18000)] == servers({})
    settings = load_settings({})
    assert (("FILE",), 10.0, 60.0, 0.5, True, 0) == (
        settings.config_type,
        settings.xds_client_backoff_initial_interval,
        settings.xds_client_backoff_max_interval,
        settings.xds_client_backoff_random_factor,
        settings.xds_client_backoff_jitter,
        settings.xds_client_max_msg_size_in_bytes,
    )


def test_pings_are_less_frequent_than_the_servers_of_the_gateways_tolerate() -> None:
    """gRPC servers in Go close connections that ping more often than every five minutes, with
    too_many_pings.
    """
    assert load_settings({}).xds_keepalive > 5 * 60


def test_several_control_planes_have_names_and_their_own_settings() -> None:
    """For example, Envoy Gateway and Envoy AI Gateway in one deployment."""
    url = (
        "eg=envoy-gateway:18001, ai=ai-gateway-controller.envoy-ai-gateway-system:18002"
        "?node_id=envoy-ai-gateway-ratelimit&use_tls=false,unix:/run/xds.sock?use_tls=f,v6=[::1]:1?server_tls_san=x"
    )
    assert [
        Server("eg", "envoy-gateway", 18001, node_id="envoy-ratelimit", tls=TLS),
        Server(
            "ai",
            "ai-gateway-controller.envoy-ai-gateway-system",
            18002,
            node_id="envoy-ai-gateway-ratelimit",
        ),
        Server("unix:/run/xds.sock", path="/run/xds.sock", node_id="envoy-ratelimit"),
        Server(
            "v6",
            "::1",
            1,
            node_id="envoy-ratelimit",
            tls=Tls("x", "/certs/ca.crt", "/certs/tls.crt", "/certs/tls.key"),
        ),
    ] == servers({**ENVOY_GATEWAY, "CONFIG_GRPC_XDS_SERVER_URL": url})


def test_node_metadata_and_headers_are_written_as_in_upstream() -> None:
    """Items without `=` are omitted from the metadata; values may contain anything but commas."""
    (server,) = servers(
        {
            "CONFIG_GRPC_XDS_NODE_METADATA": "a=1,b=2=3, c = 4,key1:val1,=x",
            "CONFIG_GRPC_XDS_CLIENT_ADDITIONAL_HEADERS": "X-Token:a:b,y: z",
        }
    )
    assert ({"a": "1", "b": "2=3", "c": " 4"}, {"x-token": "a:b", "y": "z"}) == (
        server.node_metadata,
        server.headers,
    )


@pytest.mark.parametrize(
    "url, message",
    [
        ("http://a:1", "is not an address: give host:port"),
        (":18000", "has ':18000', which is not an address: give host:port, such as localhost:18000"),
        ("a:0", "has 'a:0', which is not an address"),
        ("a:1,a:1", "has 'a:1' twice: give each control plane a name of its own, as name=host:port"),
        ("a b=a:1", "has the name 'a b': give letters, digits, dashes, dots and underscores"),
        ("a:1?node=x", "has the parameter 'node': the parameters are node_id, use_tls, "),
        ("a:1?use_tls=maybe", "is not a boolean"),
        (",".join(f"n{place}=a:1" for place in range(17)), "has 17 control planes: give at most 16"),
    ],
)
def test_an_invalid_address_is_refused_in_one_line(url: str, message: str) -> None:
    """It has the variable and a correction."""
    text = refusal({"CONFIG_GRPC_XDS_SERVER_URL": url})
    assert (True, True) == (text.startswith('CONFIG_GRPC_XDS_SERVER_URL="'), message in text), text


@pytest.mark.parametrize("headers", ["token", "a b:c", "grpc-timeout:1", ":path:/x"])
def test_invalid_headers_are_refused_without_being_shown(headers: str) -> None:
    """They may contain a secret."""
    text = refusal({"CONFIG_GRPC_XDS_CLIENT_ADDITIONAL_HEADERS": headers})
    assert (
        "CONFIG_GRPC_XDS_CLIENT_ADDITIONAL_HEADERS (not shown) is not a list of headers: give name:value "
        "between commas, such as x-token:secret"
    ) == text


@pytest.mark.parametrize(
    "text, sources",
    [
        ("grpc_xds_sotw", ("GRPC_XDS_SOTW",)),
        ("FILE,GRPC_XDS_SOTW", ("FILE", "GRPC_XDS_SOTW")),
        ("GRPC_XDS_SOTW, file", ("GRPC_XDS_SOTW", "FILE")),
    ],
)
def test_sources_of_rules_keep_their_order(text: str, sources: tuple[str, ...]) -> None:
    """The first source that has a domain takes precedence."""
    assert sources == load_settings({"CONFIG_TYPE": text}).config_type


def test_a_certificate_without_its_key_is_refused() -> None:
    """Upstream then omits both, and the control plane refuses the connection."""
    environ = {**ENVOY_GATEWAY, "CONFIG_GRPC_XDS_CLIENT_TLS_KEY": ""}
    with pytest.raises(StartError, match="belong together: give both, or none"):
        servers(environ)
