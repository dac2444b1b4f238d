"""A real Envoy that presents its certificate to the service, as in docs/security.md."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from testing.certificates import Authority
from testing.envoy import Envoy
from testing.mock_llm import MockLlm
from testing.service import REPOSITORY, Service, port_of
from testing.waiting import wait_for

from .conftest import HERE

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def secured(authority: Authority, tmp_path: Path) -> dict[str, str]:
    """The TLS settings of the service."""
    certificate, key = authority.issue("ratelimit.ratelimit.svc").write(tmp_path, "service")
    return {
        "CONFIG_PATH": str(HERE / "teams.yaml"),
        "GRPC_SERVER_USE_TLS": "true",
        "GRPC_SERVER_TLS_CERT": certificate,
        "GRPC_SERVER_TLS_KEY": key,
        "GRPC_CLIENT_TLS_CACERT": authority.write(tmp_path),
        "GRPC_CLIENT_TLS_SAN": "envoy.gateways.svc",
    }


@pytest.fixture
def transport_socket(authority: Authority, tmp_path: Path) -> Callable[[str], Any]:
    """The snippet of the page, with a certificate for `name`."""
    page = (REPOSITORY / "docs" / "security.md").read_text("utf-8")
    (snippet,) = re.findall(r"^```yaml\n(transport_socket:\n.*?)^```", page, re.MULTILINE | re.DOTALL)

    def of(name: str) -> Any:
        authority.write(tmp_path)
        authority.issue(name).write(tmp_path)
        return yaml.safe_load(snippet.replace("/etc/tls/", f"{tmp_path}/"))["transport_socket"]

    return of


def remaining(envoy: Envoy) -> str:
    """Return the remaining budget of a team before a completion, or the status if there are no headers."""
    body = {"model": "gpt-x", "messages": [{"role": "user", "content": "Hello?"}]}
    answer = httpx.post(
        f"{envoy.url}/team", headers={"x-team-id": "tls"}, json=body, timeout=30, trust_env=False
    )
    return str(answer.headers.get("x-ratelimit-remaining", answer.status_code))


def test_envoy_checks_and_charges_with_its_certificate(
    secured: dict[str, str],
    transport_socket: Callable[[str], Any],
    authority: Authority,
    llm: MockLlm,
    tmp_path: Path,
) -> None:
    """After a renewal of the service's certificate, too, without a restart."""
    with Service(secured) as service:
        envoy = Envoy(
            tmp_path,
            ratelimit_port=port_of(service.grpc),
            llm_port=llm.port,
            transport_socket=transport_socket("envoy.gateways.svc"),
        )
        try:
            assert "100" == remaining(envoy)
            wait_for("a refusal", lambda: remaining(envoy) == "0")
            authority.issue("ratelimit.ratelimit.svc").write(tmp_path, "service")
            assert "0" == remaining(envoy)
        finally:
            envoy.stop()


def test_an_envoy_with_another_name_gets_no_decisions(
    secured: dict[str, str], transport_socket: Callable[[str], Any], llm: MockLlm, tmp_path: Path
) -> None:
    """Its failure mode decides: here, callers get 503."""
    with Service(secured) as service:
        envoy = Envoy(
            tmp_path,
            ratelimit_port=port_of(service.grpc),
            llm_port=llm.port,
            transport_socket=transport_socket("other.gateways.svc"),
        )
        try:
            assert "503" == remaining(envoy)
        finally:
            envoy.stop()
