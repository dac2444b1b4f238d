"""What speaks gRPC is chosen at the start, and said."""

from __future__ import annotations

import sys
from pathlib import Path

import grpc
import pytest

from ratelimit_service.assembly import make_grpc_server
from ratelimit_service.core.errors import StartError
from ratelimit_service.observe.metrics import Metrics
from ratelimit_service.runtime.health import Health
from ratelimit_service.service import RateLimitService
from ratelimit_service.settings.table import load_settings
from ratelimit_service.stores.memory import MemoryStore
from testing.certificates import Authority
from testing.service import Caller, Service, calling, port_of

from .conftest import probing, serving


@pytest.mark.parametrize("transport", ["grpcio", "native"])
def test_either_transport_serves(config: str, transport: str) -> None:
    """The log says which it is, and the calls are counted by both."""
    environment = {"BACKEND_TYPE": "memory", "CONFIG_PATH": config, "GRPC_TRANSPORT": transport}
    with Service(environment) as service, calling(service.grpc) as caller, probing(service) as probe:
        assert transport == service.wait_for_event("serving")["transport"]
        caller.ask("d", "team", "dba", hits=4)
        assert 6 == caller.ask("d", "team", "dba").statuses[0].limit_remaining
        assert "SERVING" == serving(probe, "ratelimit")


@pytest.mark.parametrize("transport", ["grpcio", "native"])
def test_either_transport_serves_with_tls(config: str, transport: str, tmp_path: Path) -> None:
    """And answers nobody but the gateway, by the name in its certificate."""
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


def test_what_is_not_built_is_told_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what would build it."""
    for module in ("server", "calls", "connection", "health"):
        monkeypatch.delitem(sys.modules, f"ratelimit_service.transports.native.{module}", raising=False)
    monkeypatch.setitem(sys.modules, "ratelimit_service.transports.native._http2", None)
    service = RateLimitService(MemoryStore(lambda: 0.0), Metrics(), lambda: 0.0)
    with pytest.raises(StartError) as error:
        make_grpc_server(
            load_settings({"GRPC_TRANSPORT": "native"}),
            service,
            Health(),
            lambda method, seconds, calls=1: None,
        )
    said = str(error.value)
    assert said.startswith("GRPC_TRANSPORT=native is not built (")
    assert "`make native`" in said
    assert "\n" not in said
