"""Envoy's access log, configured as in docs/migrating: `compare` reads the calls that Envoy has made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from ratelimit_service.cli.comparison.recorded_requests import Recording
from testing.envoy import TEMPLATE, EnvoyProcess, connection_manager
from testing.mock_llm import MockLlm
from testing.service import Service, port_of
from testing.waiting import wait_for

from ..docs.documents import DOCS, section
from .conftest import HERE

pytestmark = pytest.mark.e2e

PAGE = DOCS / "migrating-from-envoyproxy-ratelimit.md"


def access_log(path: Path) -> list[dict[str, Any]]:
    """The access log configuration of the page, written to a file."""
    (shown,) = [block.text for block in section(PAGE, "## Compare before the swap") if block.info == "yaml"]
    found: list[dict[str, Any]] = yaml.safe_load(shown)["access_log"]
    found[0]["typed_config"]["path"] = str(path)
    return found


def test_the_access_log_has_every_call(llm: MockLlm, tmp_path: Path) -> None:
    """A check and a charge for each request, no charge for a refusal, and no call for a request without the
    header.
    """
    log, decisions = tmp_path / "access.log", tmp_path / "decisions.log"
    environment = {"CONFIG_PATH": str(HERE / "teams.yaml"), "BACKEND_TYPE": "memory", "DECISION_LOG": "all"}
    with decisions.open("wb") as file, Service(environment, stdout=file.fileno()) as service:
        text = TEMPLATE.read_text().replace("$ratelimit_port", str(port_of(service.grpc)))
        bootstrap = yaml.safe_load(text.replace("$llm_port", str(llm.port)).replace("$retry_after", "false"))
        connection_manager(bootstrap)["access_log"] = access_log(log)
        envoy = EnvoyProcess(tmp_path, yaml.safe_dump(bootstrap))
        try:
            with httpx.Client(
                base_url=f"http://{envoy.listeners['gateway']}", trust_env=False, timeout=60
            ) as client:
                codes = [
                    client.post("/team", headers=headers, json={}).status_code
                    for headers in (
                        {"x-team-id": "logged", "x-mock-tokens": "70"},
                        {"x-team-id": 'l"o,g=\\'},
                        {},
                        {"x-team-id": "logged", "x-mock-tokens": "10000000"},
                        {"x-team-id": "logged"},
                    )
                ]
                assert [200, 200, 200, 200, 429] == codes
        finally:
            envoy.stop()
        wait_for("the last charge", lambda: "10000000" in decisions.read_text())
        assert 0 == service.stop()
    with log.open() as lines, decisions.open() as others:
        recorded, made = Recording(lines, "access.log"), Recording(others, "decisions.log")
        assert sorted(map(str, made)) == sorted(map(str, recorded))
    assert 7 == recorded.requests
    assert {"calls that a gateway does not make": 3} == recorded.skipped
