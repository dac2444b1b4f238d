"""The modules that a serving process imports: none that only another transport or store needs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from testing.service import Service

AT_THE_END = """\
import atexit, sys
from ratelimit_service.__main__ import main
atexit.register(lambda: print(*(name for name, module in sys.modules.items() if module is not None)))
main()
"""
"""`ratelimit-service`, which writes the names of all modules that it has imported when it ends."""

UNUSED = {"better_exceptions", "click", "greenlet", "httpx", "opentelemetry", "pygments", "rich"}
"""Packages that libraries import where they are installed, as they are here; and the client of receivers of
events.
"""

ELSEWHERE = {
    "core.rules.reader",
    "core.rules.fields",
    "core.rules.hints",
    "core.rules.per_domain",
    "core.rules.prices",
}
"""The parts of the package that read rules, which another process does."""


@pytest.mark.parametrize(
    "transport, store, needed, foreign",
    [
        ("native", "memory", "ratelimit_service.transports.native._http2", "grpc redis hiredis"),
        (
            "native",
            "redis",
            "redis hiredis",
            "grpc ratelimit_service.stores.memory ratelimit_service.stores.redis.cluster",
        ),
        ("grpcio", "memory", "grpc", "redis hiredis ratelimit_service.transports.native._http2"),
    ],
)
def test_serve_imports_no_unused_modules(
    config: str, tmp_path: Path, transport: str, store: str, needed: str, foreign: str
) -> None:
    """The other transport, the driver of the other store, YAML, HTTP/2 for control planes, and what libraries
    use only because it is installed take megabytes each.
    """
    environment = {
        "BACKEND_TYPE": store,
        "CONFIG_PATH": config,
        "GRPC_TRANSPORT": transport,
        "REDIS_URL": "127.0.0.1:1",
    }
    path = tmp_path / "modules"
    with path.open("w") as stdout:
        service = Service(
            environment, command=(sys.executable, "-c", AT_THE_END, "serve"), stdout=stdout.fileno()
        )
        assert 0 == service.stop()
    imported = set(path.read_text().split())
    assert {"structlog", *needed.split()} <= imported
    assert set() == {"yaml", "h2", *foreign.split(), *UNUSED} & imported
    assert set() == {f"ratelimit_service.{name}" for name in ELSEWHERE} & imported
    assert [] == [name for name in imported if "sources.xds" in name or "control_planes" in name]


def test_rules_over_xds_do_not_import_grpcio_and_yaml(tmp_path: Path) -> None:
    """A call to a control plane needs only h2, and only overlays need YAML."""
    path = tmp_path / "modules"
    with path.open("w") as stdout:
        service = Service(
            {"BACKEND_TYPE": "memory", "CONFIG_TYPE": "GRPC_XDS_SOTW", "GRPC_TRANSPORT": "native"},
            command=(sys.executable, "-c", AT_THE_END, "serve"),
            stdout=stdout.fileno(),
        )
        assert 0 == service.stop()
    imported = set(path.read_text().split())
    assert "h2.connection" in imported
    assert set() == {"yaml", "grpc", "redis", "hiredis", *UNUSED} & imported
