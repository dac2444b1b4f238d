"""What speaks gRPC is chosen at the start, and said."""

from __future__ import annotations

import sys

import pytest

from ratelimit_service.assembly import make_grpc_server
from ratelimit_service.core.errors import StartError
from ratelimit_service.health import Health
from ratelimit_service.observe.metrics import Metrics
from ratelimit_service.service import RateLimitService
from ratelimit_service.settings import load_settings
from ratelimit_service.stores.memory import MemoryStore

from ..service import Service, calling
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


def test_what_is_not_built_is_told_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what would build it."""
    for module in ("native", "native_connection", "native_health"):
        monkeypatch.delitem(sys.modules, f"ratelimit_service.transports.{module}", raising=False)
    monkeypatch.setitem(sys.modules, "ratelimit_service.transports._http2", None)
    service = RateLimitService(MemoryStore(lambda: 0.0), Metrics(), lambda: 0.0)
    with pytest.raises(StartError) as error:
        make_grpc_server(
            load_settings({"GRPC_TRANSPORT": "native"}), service, Health(), lambda method, seconds: None
        )
    said = str(error.value)
    assert said.startswith("GRPC_TRANSPORT=native is not built here")
    assert "`make native`" in said
    assert "\n" not in said
