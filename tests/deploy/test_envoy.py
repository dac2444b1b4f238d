"""deploy/envoy: the file for users to start from, in the real Envoy, in front of the service with the rules
of the folder.
"""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from ratelimit_service.core.matching.tree import RuleTree
from ratelimit_service.core.model import Entry
from ratelimit_service.core.rules.reader import load
from ratelimit_service.sources.yaml_text import read
from testing.envoy import connection_manager, validated
from testing.redis_servers import RedisServer, free_port
from testing.service import REPOSITORY, Service, port_of
from testing.waiting import wait_for

from ..docs.documents import blocks
from ..e2e.conftest import Counters, Gateway, Unique, in_one_minute
from .envoy_file import (
    ASSUMED,
    FILE,
    JSON,
    RULES,
    STREAM,
    bootstrap,
    bucket,
    ratelimit_filter,
    running,
)
from .provider import COMPLETIONS, EMBEDDINGS, MESSAGES, RESPONSES, PeculiarLlm

pytestmark = pytest.mark.e2e


def test_envoy_accepts_the_file_unchanged(tmp_path: Path) -> None:
    """`envoy --mode validate` finds no error, and no deprecated field."""
    assert "deprecated" not in validated(tmp_path, "-c", str(FILE)).lower()


def test_every_descriptor_of_the_file_matches_a_rule() -> None:
    """For a team with its own rule, and for one without."""
    configured = ratelimit_filter(yaml.safe_load(FILE.read_text()))
    loaded = load([read(RULES.name, RULES.read_bytes())])
    assert () == loaded.warnings
    tree = RuleTree(loaded.domains)
    for team in ("dba", "anybody"):
        for limit in configured["rate_limits"]:
            entries = tuple(entry(action, team) for action in limit["actions"])
            assert tree.match(configured["domain"], entries), entries


def entry(action: dict[str, Any], header: str) -> Entry:
    """Return the entry that an action makes from this value of its header."""
    ((kind, fields),) = action.items()
    values = {"request_headers": header, "generic_key": fields.get("descriptor_value")}
    return Entry(fields["descriptor_key"].encode(), values[kind].encode())


@pytest.mark.parametrize("stream", [False, True], ids=["json", "sse"])
@in_one_minute
def test_answers_are_charged_until_the_budget_is_exhausted(
    gateway: Gateway, unique: Unique, stream: bool
) -> None:
    """600 and 500 of 1,000 tokens: the request that crosses the limit succeeds.

    Another team is unaffected.
    """
    team, other = unique("ops"), unique("sales")
    codes = []
    for tokens, used in ((600, 600), (500, 1_100)):
        headers = {"x-team-id": team, "x-mock-tokens": str(tokens)}
        codes.append(gateway.complete(COMPLETIONS, headers, stream=stream).status_code)
        gateway.counters.wait_until(bucket(team), used)
    codes += [
        gateway.complete(COMPLETIONS, {"x-team-id": each}, stream=stream).status_code
        for each in (team, other)
    ]
    assert [200, 200, 429, 200] == codes


@in_one_minute
def test_a_refusal_has_the_reason_and_the_time_of_the_reset(gateway: Gateway, unique: Unique) -> None:
    """Envoy's x-ratelimit headers, and the service's Retry-After and body, each of them once."""
    team = unique("ops")
    served = gateway.complete(COMPLETIONS, {"x-team-id": team, "x-mock-tokens": "1200"})
    gateway.counters.wait_until(bucket(team), 1_200)
    refused = gateway.complete(COMPLETIONS, {"x-team-id": team})

    answers = (served, refused)
    assert [200, 429] == [answer.status_code for answer in answers]
    limit = '1000, 1000;w=3600;name="other-teams-hourly"'
    assert [limit] * 2 == [answer.headers["x-ratelimit-limit"] for answer in answers]
    assert ["1000", "0"] == [answer.headers["x-ratelimit-remaining"] for answer in answers]
    assert [[], ["true"]] == [answer.headers.get_list("x-envoy-ratelimited") for answer in answers]
    assert [] == served.headers.get_list("retry-after")
    (seconds,) = refused.headers.get_list("retry-after")
    assert 1 <= int(seconds) <= 3605
    assert ["application/json"] == refused.headers.get_list("content-type")
    error = refused.json()["error"]
    assert error["message"].startswith("Token budget other-teams-hourly is used up. It resets at ")
    assert ("other-teams-hourly", f"team={team}", 1_200) == tuple(
        error["rate_limit"][name] for name in ("rule", "descriptor", "used")
    )


def test_a_request_without_the_header_is_refused_with_the_reason(gateway: Gateway) -> None:
    """Envoy omits the team; the descriptor gateway=llm remains. There is no Retry-After."""
    refused = gateway.complete(COMPLETIONS, {})
    assert 429 == refused.status_code
    message = "The request is refused: no descriptor has the key 'team'. Retrying does not help."
    assert message == refused.json()["error"]["message"]
    assert (None, "false") == (refused.headers.get("retry-after"), refused.headers["x-should-retry"])


def test_the_access_log_has_the_metered_tokens(
    gateway: Gateway, peculiar_llm: PeculiarLlm, unique: Unique, tmp_path: Path
) -> None:
    """One line for each request, with the amount charged; without tokens if nothing is charged."""
    team = unique("ops")
    text = {"x-mock-content-type": "text/plain"}
    with (
        running(tmp_path, bootstrap(ratelimit=port_of(gateway.service.grpc), llm=peculiar_llm.port)) as url,
        httpx.Client(base_url=url, trust_env=False, timeout=60) as client,
    ):
        through = gateway._replace(client=client)
        through.complete(COMPLETIONS, {})
        through.complete(COMPLETIONS, {"x-team-id": team, "x-mock-tokens": "12"})
        for path in ("/v1/files", COMPLETIONS):
            through.complete(path, {"x-team-id": team, **text})
    # Envoy writes it at the latest when it ends.
    logged = [
        json.loads(line) for line in (tmp_path / "envoy.log").read_text().splitlines() if line.startswith("{")
    ]
    assert [(None, 429, None), (team, 200, 12), (team, 200, None), (team, 200, ASSUMED)] == [
        (line["team"], line["status"], line["tokens"]) for line in logged
    ]
    assert "request_rate_limited" == logged[0]["details"]


@in_one_minute
def test_the_example_of_the_readme_charges_only_the_documented_answers(
    redis_server: RedisServer, peculiar_llm: PeculiarLlm, unique: Unique, tmp_path: Path
) -> None:
    """JSON of OpenAI's APIs, with a charset as well. The other APIs need envoy.yaml, and are not charged."""
    (example,) = [block.text for block in blocks(REPOSITORY / "README.md") if "http_filters:" in block.text]
    rules = str(REPOSITORY / "config" / "token-budgets.yaml")
    namespace = unique("payments")
    with Service({"CONFIG_PATH": rules, "REDIS_URL": redis_server.url}) as service:
        text = bootstrap(ratelimit=port_of(service.grpc), llm=peculiar_llm.port)
        connection_manager(text)["http_filters"] = yaml.safe_load(example)["http_filters"]
        ratelimit_filter(text)["timeout"] = "10s"
        with (
            running(tmp_path, text) as url,
            httpx.Client(base_url=url, trust_env=False, timeout=60) as client,
        ):
            gateway = Gateway(client, Counters(redis_server), service)
            charset = {"x-mock-content-type": "application/json; charset=utf-8"}
            who = {"x-client-ns": namespace, "x-mock-tokens": "20"}
            codes = [
                gateway.complete(path, who | peculiar, stream=stream).status_code
                for path, stream, peculiar in (
                    (COMPLETIONS, STREAM, {}),
                    (MESSAGES, JSON, {}),
                    (COMPLETIONS, JSON, {"x-mock-usage": "none"}),
                    (COMPLETIONS, JSON, charset),
                    (RESPONSES, JSON, {}),
                    (EMBEDDINGS, JSON, {}),
                )
            ]
            gateway.counters.wait_until(f"token-budgets|client_ns={namespace}", 60)
            codes.append(gateway.complete(COMPLETIONS, who | {"x-mock-tokens": "50"}).status_code)
            gateway.counters.wait_until(f"token-budgets|client_ns={namespace}", 110)
            codes.append(gateway.complete(COMPLETIONS, who).status_code)
    assert [*[200] * 7, 429] == codes


@pytest.mark.parametrize(("closed", "status"), [(True, 503), (False, 200)], ids=["closed", "open"])
def test_the_failure_mode_decides_while_the_service_is_down(
    peculiar_llm: PeculiarLlm,
    redis_server: RedisServer,
    unique: Unique,
    tmp_path: Path,
    closed: bool,
    status: int,
) -> None:
    """503 with the file, and 200 with failure_mode_deny: false.

    When the service is back, Envoy calls it again.
    """
    team, port = unique("ops"), free_port()
    text = bootstrap(ratelimit=port, llm=peculiar_llm.port, patient=False)
    asks = ratelimit_filter(text)
    assert (True, "0.25s") == (asks["failure_mode_deny"], asks["timeout"])
    asks["failure_mode_deny"] = closed
    environment = {"CONFIG_PATH": str(RULES), "REDIS_URL": redis_server.url, "GRPC_PORT": str(port)}

    with running(tmp_path, text) as url, httpx.Client(base_url=url, trust_env=False, timeout=60) as client:

        def asked() -> httpx.Response:
            return client.post(COMPLETIONS, headers={"x-team-id": team}, json={})

        answer = asked()
        assert (status, False) == (answer.status_code, "x-ratelimit-limit" in answer.headers)
        with Service(environment) as service:
            wait_for("an answer of the service", lambda: asked().headers.get("x-ratelimit-limit"))
            # It hangs: callers wait for the timeout at most.
            service.signal(signal.SIGSTOP)
            answer = asked()
            assert (status, False) == (answer.status_code, "x-ratelimit-limit" in answer.headers)
            assert answer.elapsed.total_seconds() >= 0.24  # the accuracy of Envoy's timers
