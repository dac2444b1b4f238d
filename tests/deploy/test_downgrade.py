"""deploy/envoy/downgrade.yaml: a cheaper model before the budget is exhausted, through the real
Envoy 1.40.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from starlette.requests import Request
from starlette.responses import Response

from testing.envoy import EnvoyProcess, connection_manager
from testing.in_process_service import ClockedService
from testing.mock_llm import MockLlm
from testing.service import REPOSITORY, port_of
from testing.waiting import wait_for

pytestmark = pytest.mark.e2e

DIRECTORY = REPOSITORY / "deploy" / "envoy"
RULES = (DIRECTORY / "downgrade-rules.yaml").read_text()
NOON = 1_795_262_400
SIGNALS = ("x-tokens-state", "x-tokens-used-share", "x-tokens-remaining")


class RecordingLlm(MockLlm):
    """A provider that keeps the model of each request, and its headers."""

    def __init__(self) -> None:
        self.models: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.lengths: list[int] = []
        super().__init__()

    async def _complete(self, request: Request) -> Response:
        body = await request.json()
        self.models.append(body["model"])
        self.lengths.append(len(body["prompt"]))
        self.headers.append({name: ",".join(request.headers.getlist(name)) for name in SIGNALS})
        return await super()._complete(request)


@pytest.fixture
def llm() -> Iterator[RecordingLlm]:
    provider = RecordingLlm()
    yield provider
    provider.stop()


def configured(service: str, llm: MockLlm) -> dict[str, Any]:
    """Return the configuration in the file, with this service and this provider."""
    text: dict[str, Any] = yaml.safe_load((DIRECTORY / "downgrade.yaml").read_text())
    resources = text["static_resources"]
    for place in (text["admin"]["address"], resources["listeners"][0]["address"]):
        place["socket_address"] = {"address": "127.0.0.1", "port_value": 0}
    ports = {"ratelimit": port_of(service), "llm": llm.port}
    for cluster in resources["clusters"]:
        (endpoint,) = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
        endpoint["endpoint"]["address"]["socket_address"] = {
            "address": "127.0.0.1",
            "port_value": ports[cluster["name"]],
        }
    connection_manager(text)["http_filters"][0]["typed_config"]["timeout"] = "10s"  # for busy machines
    return text


class Gateway:
    """Envoy in front of a service with a stopped clock."""

    def __init__(self, address: str, service: ClockedService, llm: RecordingLlm) -> None:
        self.llm = llm
        self._service = service
        self._address = address

    def post(self, tokens: int = 0, prompt: str = "Hello!", **headers: str) -> httpx.Response:
        """Send a request that costs so many tokens, and wait until these are charged."""
        before = self._service.answered
        answer = httpx.post(
            f"http://{self._address}/v1/chat/completions",
            headers={
                "x-team-id": "dba",
                "x-mock-tokens": str(tokens),
                **{name.replace("_", "-"): value for name, value in headers.items()},
            },
            json={"model": "large-model", "prompt": prompt},
            timeout=60,
            trust_env=False,
        )
        if answer.status_code == httpx.codes.OK:
            wait_for("the charge", lambda: self._service.answered >= before + 2)
        return answer


@contextmanager
def gateway(directory: Path, llm: RecordingLlm, rules: str = RULES) -> Iterator[Gateway]:
    with ClockedService(rules, now=NOON) as service:
        envoy = EnvoyProcess(directory, yaml.safe_dump(configured(service.address, llm)))
        try:
            yield Gateway(envoy.listeners["callers"], service, llm)
        finally:
            envoy.stop()


def told(answer: httpx.Response) -> list[str]:
    return [answer.headers[name] for name in SIGNALS]


def test_requests_get_the_smaller_model_from_80_percent_on(tmp_path: Path, llm: RecordingLlm) -> None:
    """Until the budget is exhausted and requests are refused. The provider and the caller get the signal in
    advance.
    """
    with gateway(tmp_path, llm) as envoy:
        answers = [envoy.post(tokens) for tokens in (799, 1, 199, 1, 0)]
        assert [200, 200, 200, 200, 429] == [answer.status_code for answer in answers]
        assert ["large-model", "large-model", "small-model", "small-model"] == llm.models
        expected = [
            ["ok", "0.0000", "1000"],
            ["ok", "0.7990", "201"],
            ["low", "0.8000", "200"],
            ["low", "0.9990", "1"],
        ]
        assert expected == [told(answer) for answer in answers[:4]]
        assert expected == [list(headers.values()) for headers in llm.headers]
        assert not set(SIGNALS) & set(answers[4].headers)


def test_a_caller_cannot_choose_its_model(tmp_path: Path, llm: RecordingLlm) -> None:
    """Its own headers, however many and however spelt, neither cause a downgrade nor prevent one, and reach
    no provider.
    """
    forged = {"x_tokens_state": "low", "X_Tokens_Remaining": "999999", "x_tokens_used_share": "0"}
    with gateway(tmp_path, llm) as envoy:
        envoy.post(900, **forged)
        answer = envoy.post(0, **{**forged, "x_tokens_state": "ok"})
        assert ["large-model", "small-model"] == llm.models
        assert ["low", "0.9000", "100"] == list(llm.headers[1].values()) == told(answer)


def test_a_long_request_is_downgraded(tmp_path: Path, llm: RecordingLlm) -> None:
    """Its body is larger than Envoy buffers by default."""
    with gateway(tmp_path, llm) as envoy:
        envoy.post(900)
        assert 200 == envoy.post(0, prompt="x" * 3_000_000).status_code
        assert (["large-model", "small-model"], 3_000_000) == (llm.models, llm.lengths[1])


def test_a_soft_limit_downgrades_and_refuses_no_request(tmp_path: Path, llm: RecordingLlm) -> None:
    """shadow_mode: beyond the limit the state is `over`, and the request passes."""
    with gateway(tmp_path, llm, f"{RULES}    shadow_mode: true\n") as envoy:
        answers = [envoy.post(tokens) for tokens in (1_500, 0)]
        assert [200, 200] == [answer.status_code for answer in answers]
        assert ["large-model", "small-model"] == llm.models
        assert ["over", "1.5000", "0"] == told(answers[1])


def test_without_a_signal_no_model_is_changed(tmp_path: Path, llm: RecordingLlm) -> None:
    """The routes of the file do no harm to rules without it."""
    rules = "\n".join(line for line in RULES.splitlines() if not line.startswith(("signal", "low_at")))
    with gateway(tmp_path, llm, rules) as envoy:
        answers = [envoy.post(tokens) for tokens in (900, 0)]
        assert ["large-model", "large-model"] == llm.models
        assert not set(SIGNALS) & set(answers[1].headers)
