"""The process with TLS on its ports: errors at the start, and requests of operators."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from testing.certificates import Authority
from testing.service import CommandResult, Service, run


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        (
            {"GRPC_SERVER_USE_TLS": "true", "GRPC_SERVER_TLS_CERT": "tls.crt"},
            "GRPC_SERVER_USE_TLS needs GRPC_SERVER_TLS_CERT and GRPC_SERVER_TLS_KEY: give the paths of two "
            "PEM files",
        ),
        (
            {
                "GRPC_SERVER_USE_TLS": "true",
                "GRPC_SERVER_TLS_CERT": "tls.crt",
                "GRPC_SERVER_TLS_KEY": "tls.key",
                "GRPC_CLIENT_TLS_SAN": "envoy.mesh",
            },
            "GRPC_CLIENT_TLS_SAN needs GRPC_CLIENT_TLS_CACERT: without it, no client is asked for a "
            "certificate",
        ),
        (
            {
                "GRPC_SERVER_USE_TLS": "true",
                "GRPC_SERVER_TLS_CERT": "/nowhere/tls.crt",
                "GRPC_SERVER_TLS_KEY": "/nowhere/tls.key",
            },
            "gRPC cannot be served with TLS: /nowhere/tls.crt cannot be read: No such file or directory",
        ),
        ({"HTTP_TLS_CERT": "tls.crt"}, "HTTP_TLS_CERT and HTTP_TLS_KEY belong together: give both, or none"),
        (
            {"HTTP_TLS_CERT": "/nowhere/tls.crt", "HTTP_TLS_KEY": "/nowhere/tls.key"},
            "HTTP cannot be served with TLS: /nowhere/tls.crt cannot be read: No such file or directory",
        ),
    ],
)
def test_missing_tls_settings_stop_the_start(config: str, environment: dict[str, str], said: str) -> None:
    """One line reports it, and nothing is served without the requested TLS."""
    ended = run("serve", environment={"CONFIG_PATH": config, "LOG_LEVEL": "error", **environment})
    assert (1, "", f"{said}\n") == ended


def test_tls_settings_without_effect_are_named(config: str, tmp_path: Path) -> None:
    """Otherwise, an operator could believe that client certificates are checked."""
    with Service({"CONFIG_PATH": config, "GRPC_CLIENT_TLS_CACERT": str(tmp_path / "ca.crt")}) as service:
        said = (
            "the gRPC port is served without TLS: "
            "set GRPC_SERVER_USE_TLS=true for GRPC_CLIENT_TLS_CACERT to mean anything"
        )
        assert ["warning"] == [event["level"] for event in service.wait_for_events(said)]


def test_ask_works_with_a_client_certificate(config: str, authority: Authority, tmp_path: Path) -> None:
    """`ask` shows the answer, or the reason of a failure."""
    certificate, key = authority.server().write(tmp_path, "server")
    ca = authority.write(tmp_path)
    environment = {
        "CONFIG_PATH": config,
        "GRPC_HOST": "127.0.0.1",
        "GRPC_SERVER_USE_TLS": "true",
        "GRPC_SERVER_TLS_CERT": certificate,
        "GRPC_SERVER_TLS_KEY": key,
        "GRPC_CLIENT_TLS_CACERT": ca,
        "GRPC_CLIENT_TLS_SAN": "ops.mesh",
    }
    with Service(environment) as service:

        def ask(*options: str) -> CommandResult:
            return run("ask", "d", "team=dba", "--server", service.grpc, *options, environment={})

        def shown(name: str) -> tuple[str, ...]:
            certificate, key = authority.issue(name).write(tmp_path, name)
            return "--ca", ca, "--cert", certificate, "--key", key

        answered = ask(*shown("ops.mesh"))
        assert (0, "OK", "") == (answered.code, answered.out.split("\n")[0], answered.err)
        assert (
            1,
            "",
            f"no decision from {service.grpc}: PERMISSION_DENIED: "
            "the client's certificate does not have the DNS name ops.mesh\n",
        ) == ask(*shown("dev.mesh"))
        for options in ((), ("--ca", ca), ("--tls",)):
            code, out, err = ask(*options)
            assert (1, "") == (code, out)
            assert err.startswith(f"no decision from {service.grpc}: UNAVAILABLE: ")
            assert (not options) == err.endswith(" (if the port has TLS, give --tls or --ca)\n")
        assert (1, "", "--cert and --key belong together: give both, or none\n") == ask("--cert", ca)
        assert (1, "", "/nowhere cannot be read: No such file or directory\n") == ask("--ca", "/nowhere")


def test_all_http_ports_are_served_with_tls(config: str, authority: Authority, tmp_path: Path) -> None:
    """All ports use a renewed certificate."""
    certificate, key = authority.server().write(tmp_path)
    with Service({"CONFIG_PATH": config, "HTTP_TLS_CERT": certificate, "HTTP_TLS_KEY": key}) as service:
        urls = [
            f"https://localhost:{address.rpartition(':')[2]}{path}"
            for address, path in (
                (service.http, "/healthcheck"),
                (service.debug, "/rlconfig"),
                (service.metrics, "/metrics"),
            )
        ]

        def statuses(authority: Authority) -> list[int]:
            context = authority.context()
            return [httpx.get(url, verify=context, trust_env=False, timeout=60).status_code for url in urls]

        assert [200] * 3 == statuses(authority)
        other = Authority()
        other.server().write(tmp_path)
        assert [200] * 3 == statuses(other)
        assert 0 == service.stop()
        assert 1 == len(service.events("certificate renewed"))
