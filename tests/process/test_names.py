"""Names of limits with letters beyond ASCII: unchanged in logs, metrics and JSON, and as ASCII in headers."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest

from testing.service import Service, calling
from testing.waiting import wait_for

from .conftest import write

NAME, IN_A_HEADER = 'größter "Topf" 日', "gr__ter _Topf_ _"
RULES = f"""\
domain: names
descriptors:
  - key: team
    warn_at: [0.5]
    track: true
    rate_limits:
      - {{name: '{NAME}', unit: year, tokens_per_unit: 10}}
      - {{name: other, unit: year, unit_multiplier: 2, tokens_per_unit: 100}}
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service in which team=dba has used up its budget."""
    directory = tmp_path_factory.mktemp("names")
    environment = {
        "BACKEND_TYPE": "memory",
        "CONFIG_PATH": str(write(directory / "names.yaml", RULES)),
        "REFUSAL_HEADERS": "x-ratelimit",
    }
    with Service(environment) as running:
        with calling(running.grpc) as caller:
            caller.ask("names", "team", "dba", hits=10)
            caller.ask("names", "team", "dba", hits=0)
        yield running


def get(address: str, path: str) -> str:
    return httpx.get(f"http://{address}{path}", trust_env=False, timeout=60).text


def test_logs_have_the_name_unchanged(service: Service) -> None:
    """The lines for a refusal and for a threshold have it."""
    events = [service.wait_for_event(message) for message in ("budget threshold crossed", "limit reached")]
    assert [NAME, NAME] == [event["rule"] for event in events]


def test_metrics_and_rlconfig_have_the_name_unchanged(service: Service) -> None:
    """It is the value of a label, which may be any text."""
    label = NAME.replace('"', '\\"')
    wait_for("a gauge", lambda: f'rule="{label}"' in get(service.metrics, "/metrics"))
    assert f", name: {NAME}, " in get(service.debug, "/rlconfig")


def test_json_and_the_body_of_a_refusal_have_the_name_unchanged(service: Service) -> None:
    """Parsing the JSON undoes its escapes."""
    asked = {
        "domain": "names",
        "descriptors": [{"entries": [{"key": "team", "value": "dba"}], "hitsAddend": "0"}],
    }
    answer = httpx.post(f"http://{service.http}/json", json=asked, trust_env=False, timeout=60).json()
    assert NAME == answer["statuses"][0]["currentLimit"]["name"]


def test_headers_of_the_service_and_of_envoy_have_the_name_in_ascii(service: Service) -> None:
    """Envoy puts current_limit.name in quotes, and does not escape it."""
    with calling(service.grpc) as caller:
        answer = caller.ask("names", "team", "dba", hits=0)
    assert IN_A_HEADER == answer.statuses[0].current_limit.name
    headers = {header.key: header.value for header in answer.response_headers_to_add}
    assert f'10;w=31536000;name="{IN_A_HEADER}"' in headers["x-ratelimit-limit"]
    error = json.loads(answer.raw_body)["error"]
    assert NAME == error["rate_limit"]["rule"]
