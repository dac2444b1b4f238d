"""The start selects and logs the transport."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import grpc
import pytest
from structlog.testing import capture_logs

from ratelimit_service.assembly.grpc_server import make_grpc_server
from ratelimit_service.core.errors import StartError
from ratelimit_service.observe.metrics import Metrics
from ratelimit_service.runtime.health import Health
from ratelimit_service.service import RateLimitService
from ratelimit_service.settings.table import load_settings
from ratelimit_service.stores.memory import MemoryStore
from ratelimit_service.transports.contract import GrpcServer
from ratelimit_service.transports.native import server as native
from testing.certificates import Authority
from testing.service import Caller, Service, calling, port_of

from .conftest import probing, serving


@pytest.mark.parametrize("transport", ["grpcio", "native", ""])
def test_either_transport_serves(config: str, transport: str) -> None:
    """The log names the transport, and both count calls. The default is native."""
    environment = {"BACKEND_TYPE": "memory", "CONFIG_PATH": config}
    if transport:
        environment["GRPC_TRANSPORT"] = transport
    transport = transport or "native"
    with Service(environment) as service, calling(service.grpc) as caller, probing(service) as probe:
        assert transport == service.wait_for_event("serving")["transport"]
        caller.ask("d", "team", "dba", hits=4)
        assert 6 == caller.ask("d", "team", "dba").statuses[0].limit_remaining
        assert "SERVING" == serving(probe, "ratelimit")


@pytest.mark.parametrize("transport", ["grpcio", "native"])
def test_either_transport_serves_with_tls(config: str, transport: str, tmp_path: Path) -> None:
    """It answers only the gateway, identified by the name in its certificate."""
    authority = Authority()
    certificate, key = authority.server().write(tmp_path)
    environment = {
        "BACKEND_TYPE": "memory",
        "CONFIG_PATH": config,
        "GRPC_TRANSPORT": transport,
        "GRPC_SERVER_USE_TLS": "true",
        "GRPC_SERVER_TLS_CERT": certificate,
        "GRPC_SERVER_TLS_KEY": key,
        "GRPC_CLIENT_TLS_CACERT": authority.write(tmp_path),
        "GRPC_CLIENT_TLS_SAN": "gateway.mesh",
    }
    with Service(environment) as service:
        address = f"127.0.0.1:{port_of(service.grpc)}"
        with grpc.secure_channel(address, authority.channel(authority.issue("gateway.mesh"))) as channel:
            assert 10 == Caller(channel).ask("d", "team", "dba").statuses[0].limit_remaining
        with (
            grpc.secure_channel(address, authority.channel(authority.issue("other.mesh"))) as channel,
            pytest.raises(grpc.RpcError) as error,
        ):
            Caller(channel).ask("d", "team", "dba")
        assert grpc.StatusCode.PERMISSION_DENIED == error.value.code()


@pytest.fixture
def not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation without the compiled module."""
    for module in ("server", "calls", "connection", "health"):
        monkeypatch.delitem(sys.modules, f"ratelimit_service.transports.native.{module}", raising=False)
    monkeypatch.setitem(sys.modules, "ratelimit_service.transports.native._http2", None)


@pytest.fixture
def old_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation with a libnghttp2 that is too old."""
    monkeypatch.setattr(native, "library_version", lambda: (0x012B00, "1.43.0"))


def make(environment: Mapping[str, str]) -> GrpcServer:
    """The gRPC server of a process with this environment."""
    service = RateLimitService(MemoryStore(lambda: 0.0), Metrics(), lambda: 0.0)
    return make_grpc_server(
        load_settings(environment), service, Health(), lambda method, seconds, calls=1: None
    )


async def test_native_is_the_default_without_a_warning() -> None:
    with capture_logs() as logs:
        server = make({})
    assert ("native", []) == (server.TRANSPORT, logs)


@pytest.mark.parametrize(
    ("installation", "why"),
    [("not_built", "it is not built"), ("old_library", "it needs libnghttp2 1.52 or newer")],
)
async def test_grpcio_replaces_an_unusable_native_transport_with_a_warning(
    installation: str, why: str, request: pytest.FixtureRequest
) -> None:
    """One line reports what is lost, why, and how to install it."""
    request.getfixturevalue(installation)
    with capture_logs() as logs:
        server = make({})
    assert "grpcio" == server.TRANSPORT
    (line,) = logs
    assert ("warning", True) == (line["log_level"], line["why"].startswith(why))
    assert "several times the CPU" in line["event"]
    assert "libnghttp2-dev" in line["to_have_it"]


@pytest.mark.parametrize("installation", ["not_built", "old_library"])
def test_a_requested_transport_that_cannot_be_used_stops_the_start(
    installation: str, request: pytest.FixtureRequest
) -> None:
    """The line names the command that builds it."""
    request.getfixturevalue(installation)
    with pytest.raises(StartError) as error:
        make({"GRPC_TRANSPORT": "native"})
    said = str(error.value)
    assert said.startswith("GRPC_TRANSPORT=native cannot be used: it ")
    assert "`make wheel`" in said
    assert "\n" not in said


async def test_grpcio_is_used_without_a_warning_on_request(not_built: None) -> None:
    with capture_logs() as logs:
        server = make({"GRPC_TRANSPORT": "grpcio"})
    assert ("grpcio", []) == (server.TRANSPORT, logs)
