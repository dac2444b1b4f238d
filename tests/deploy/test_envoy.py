"""deploy/envoy: the file that people start from, in the real Envoy, before the service with the rules beside
it.

Of envoy.yaml only the addresses are replaced: where it listens, and where the service and the provider are.
Where a test is not about time, the service has more of it too, so that a slow machine fails no test.
"""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import yaml

from ratelimit_service.core.matching.tree import RuleTree
from ratelimit_service.core.model import Entry
from ratelimit_service.core.rules.reader import load
from ratelimit_service.sources.yaml_text import read
from testing.envoy import EnvoyProcess, validated
from testing.redis_servers import RedisServer, free_port
from testing.service import REPOSITORY, Service, port_of
from testing.waiting import wait_for

from ..docs.documents import blocks
from ..e2e.conftest import Counters, Gateway, Unique, in_one_minute
from .provider import COMPLETIONS, COUNT_TOKENS, EMBEDDINGS, MESSAGES, RESPONSES, PeculiarLlm

pytestmark = pytest.mark.e2e

FOLDER = REPOSITORY / "deploy" / "envoy"
FILE = FOLDER / "envoy.yaml"
RULES = FOLDER / "rules.yaml"
ASSUMED = 1_000
"""What an answer is charged that does not say what it has cost."""

JSON, STREAM = False, True
each_shape = pytest.mark.parametrize(
    ("path", "stream"),
    [
        (COMPLETIONS, JSON),
        (COMPLETIONS, STREAM),
        (MESSAGES, JSON),
        (MESSAGES, STREAM),
        (RESPONSES, JSON),
        (RESPONSES, STREAM),
        (EMBEDDINGS, JSON),
    ],
    ids=lambda value: ("json", "sse")[value] if isinstance(value, bool) else value.rpartition("/")[2],
)


def bootstrap(*, ratelimit: int, llm: int, patient: bool = True) -> dict[str, Any]:
    """envoy.yaml on free ports, with the service and the provider at these addresses."""
    text: dict[str, Any] = yaml.safe_load(FILE.read_text())
    resources = text["static_resources"]
    places = [text["admin"]["address"], *(listener["address"] for listener in resources["listeners"])]
    for place in places:
        place["socket_address"] = {"address": "127.0.0.1", "port_value": 0}
    ports = {"ratelimit": ("ratelimit", 8081, ratelimit), "llm": ("upstream", 8080, llm)}
    for cluster in resources["clusters"]:
        (group,) = cluster["load_assignment"]["endpoints"]
        (host,) = group["lb_endpoints"]
        place = host["endpoint"]["address"]["socket_address"]
        name, documented, port = ports.pop(cluster["name"])
        assert {"address": name, "port_value": documented} == place
        place |= {"address": "127.0.0.1", "port_value": port}
    if patient:
        ratelimit_filter(text)["timeout"] = "10s"
    return text


def manager(text: dict[str, Any]) -> dict[str, Any]:
    """The configuration of the HTTP connection manager."""
    (chain,) = text["static_resources"]["listeners"][0]["filter_chains"]
    found = chain["filters"][0]["typed_config"]
    assert isinstance(found, dict)
    return found


def ratelimit_filter(text: dict[str, Any]) -> dict[str, Any]:
    """The configuration of the rate limit filter."""
    filters = manager(text)["http_filters"]
    (found,) = (each["typed_config"] for each in filters if each["name"] == "envoy.filters.http.ratelimit")
    assert isinstance(found, dict)
    return found


@contextmanager
def running(directory: Path, text: dict[str, Any]) -> Iterator[str]:
    """Run an Envoy with this configuration, and yield its address for callers."""
    directory.mkdir(exist_ok=True)
    envoy = EnvoyProcess(directory, yaml.safe_dump(text))
    try:
        yield f"http://{envoy.listeners['callers']}"
    finally:
        envoy.stop()


@pytest.fixture(scope="module")
def llm() -> Iterator[PeculiarLlm]:
    """The provider behind every Envoy."""
    provider = PeculiarLlm()
    yield provider
    provider.stop()


@pytest.fixture(scope="module")
def gateway(
    redis_server: RedisServer, llm: PeculiarLlm, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """An Envoy with envoy.yaml, and a service with the rules of the folder."""
    with Service({"CONFIG_PATH": str(RULES), "REDIS_URL": redis_server.url}) as service:
        text = bootstrap(ratelimit=port_of(service.grpc), llm=llm.port)
        with (
            running(tmp_path_factory.mktemp("envoy"), text) as url,
            httpx.Client(base_url=url, timeout=30, trust_env=False) as client,
        ):
            yield Gateway(client, Counters(redis_server), service)


def bucket(team: str) -> str:
    return f"team-budgets|team={team}"


# The file


def test_envoy_accepts_the_file_as_it_is(tmp_path: Path) -> None:
    """`envoy --mode validate` finds no error, and no deprecated field."""
    assert "deprecated" not in validated(tmp_path, "-c", str(FILE)).lower()


def test_every_descriptor_that_it_sends_matches_a_rule() -> None:
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
    """The entry that an action makes from this value of its header."""
    ((kind, fields),) = action.items()
    values = {"request_headers": header, "generic_key": fields.get("descriptor_value")}
    return Entry(fields["descriptor_key"].encode(), values[kind].encode())


# Check and charge


@pytest.mark.parametrize("stream", [False, True], ids=["json", "sse"])
@in_one_minute
def test_what_an_answer_has_cost_is_charged_and_the_next_is_refused_when_all_is_used(
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
def test_a_refused_caller_learns_why_and_when_to_come_back(gateway: Gateway, unique: Unique) -> None:
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


# All shapes of answers


@each_shape
@in_one_minute
def test_an_answer_of_each_shape_is_charged_to_the_token(
    gateway: Gateway, unique: Unique, path: str, stream: bool
) -> None:
    """An expression of Envoy would round the seven digits in the text."""
    team = unique("ops")
    answer = gateway.complete(path, {"x-team-id": team, "x-mock-tokens": "1234567"}, stream=stream)
    assert (200, "text/event-stream" if stream else "application/json") == (
        answer.status_code,
        answer.headers["content-type"].partition(";")[0],
    )
    gateway.counters.wait_until(bucket(team), 1_234_567)


@each_shape
@in_one_minute
def test_an_answer_that_does_not_say_what_it_has_cost_is_charged_what_is_assumed(
    gateway: Gateway, unique: Unique, path: str, stream: bool
) -> None:
    """Otherwise, an answer without usage would be the cheapest."""
    team = unique("ops")
    answer = gateway.complete(path, {"x-team-id": team, "x-mock-usage": "none"}, stream=stream)
    assert (200, False) == (answer.status_code, "_tokens" in answer.text)
    gateway.counters.wait_until(bucket(team), ASSUMED)


@in_one_minute
def test_a_stream_that_was_not_asked_for_its_usage_is_charged_what_is_assumed(
    gateway: Gateway, unique: Unique
) -> None:
    """OpenAI's API omits usage in a stream unless stream_options requests it."""
    team = unique("ops")
    answer = gateway.complete(COMPLETIONS, {"x-team-id": team}, stream=True, include_usage=False)
    assert (200, False) == (answer.status_code, "_tokens" in answer.text)
    gateway.counters.wait_until(bucket(team), ASSUMED)


@pytest.mark.parametrize(
    ("path", "stream", "peculiar"),
    [
        (COMPLETIONS, JSON, {"x-mock-content-type": "application/json; charset=utf-8"}),
        (COMPLETIONS, JSON, {"accept-encoding": "gzip"}),
        (COMPLETIONS, JSON, {"x-mock-padding": str(3 * 2**20)}),
        (RESPONSES, STREAM, {"x-mock-padding": "100000"}),
        (COMPLETIONS, STREAM, {"x-mock-usage": "each"}),
        (MESSAGES, STREAM, {"x-mock-usage": "full"}),
    ],
    ids=["charset", "gzip", "large", "large event", "usage in each chunk", "usage in two events"],
)
@in_one_minute
def test_an_answer_is_metered_though_it_is(
    gateway: Gateway, unique: Unique, path: str, stream: bool, peculiar: dict[str, str]
) -> None:
    """A content type with a charset, a provider that compresses, an answer or an event above Envoy's default
    size, and several numbers, of which the last one counts.
    """
    team = unique("ops")
    headers = {"x-team-id": team, "x-mock-tokens": "77", **peculiar}
    assert 200 == gateway.complete(path, headers, stream=stream).status_code
    gateway.counters.wait_until(bucket(team), 77)


@in_one_minute
def test_what_makes_no_tokens_costs_nothing(gateway: Gateway, unique: Unique) -> None:
    """An error, a request that counts the tokens of a prompt, and an answer that is read again, although it
    has usage.
    """
    team = unique("ops")
    who = {"x-team-id": team}
    for status, path, headers in (
        (503, COMPLETIONS, {"x-mock-usage": "none", "x-mock-status": "503"}),
        (200, COUNT_TOKENS, {}),
    ):
        assert status == gateway.complete(path, who | headers).status_code
    stored = gateway.client.get(RESPONSES, headers=who)
    assert (200, 40) == (stored.status_code, stored.json()["usage"]["total_tokens"])
    # Whatever was charged for them would be there before what this has cost.
    assert 200 == gateway.complete(COMPLETIONS, who | {"x-mock-tokens": "7"}).status_code
    gateway.counters.wait_until(bucket(team), 7)


@pytest.mark.parametrize(
    ("path", "charged"), [(COMPLETIONS, ASSUMED), (RESPONSES, ASSUMED), (MESSAGES, 5 + 5 + 10 + 1)]
)
@in_one_minute
def test_a_caller_that_hangs_up_on_a_stream_is_charged(
    gateway: Gateway, unique: Unique, path: str, charged: int
) -> None:
    """By the usage that the stream has sent so far, which for messages is the prompt, or else by the assumed
    amount.
    """
    team = unique("ops")
    body = {"model": "gpt-x", "messages": [], "stream": True}
    headers = {"x-team-id": team, "x-mock-endless": "yes"}
    with gateway.client.stream("POST", path, headers=headers, json=body) as answer:
        assert 200 == answer.status_code
        assert "data: " in next(answer.iter_text())
    gateway.counters.wait_until(bucket(team), charged)


@pytest.mark.parametrize("http2", [False, True], ids=["disconnects", "resets"])
@in_one_minute
def test_a_caller_that_hangs_up_before_the_answer_begins_is_charged_what_is_assumed(
    gateway: Gateway, llm: PeculiarLlm, unique: Unique, http2: bool
) -> None:
    """The provider processes the request nevertheless.

    In HTTP/2 a caller resets its stream, as a gRPC client does that is closed.
    """
    team = unique("ops")
    headers = {"x-team-id": team, "x-mock-silent": team}
    if http2:
        with grpc.insecure_channel(gateway.client.base_url.netloc.decode()) as channel:
            ask = channel.unary_unary(COMPLETIONS, request_serializer=bytes, response_deserializer=bytes)
            call = ask.future(b"{}", metadata=tuple(headers.items()))
            llm.wait_for_silence(team)
            assert not call.done()
    else:
        url = gateway.client.base_url
        with socket.create_connection((url.host, url.port or 0)) as connection:
            head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            connection.sendall(
                f"POST {COMPLETIONS} HTTP/1.1\r\nhost: x\r\n{head}content-length: 2\r\n\r\n{{}}".encode()
            )
            llm.wait_for_silence(team)
    gateway.counters.wait_until(bucket(team), ASSUMED)


def test_the_access_log_has_the_metered_tokens(
    gateway: Gateway, llm: PeculiarLlm, unique: Unique, tmp_path: Path
) -> None:
    """One line for each request, with the amount charged; without tokens if nothing is charged."""
    team = unique("ops")
    text = {"x-mock-content-type": "text/plain"}
    with (
        running(tmp_path, bootstrap(ratelimit=port_of(gateway.service.grpc), llm=llm.port)) as url,
        httpx.Client(base_url=url, trust_env=False) as client,
    ):
        through = gateway._replace(client=client)
        through.complete(COMPLETIONS, {})
        through.complete(COMPLETIONS, {"x-team-id": team, "x-mock-tokens": "12"})
        for path in ("/v1/files", COMPLETIONS):
            through.complete(path, {"x-team-id": team, **text})
    # It is written when Envoy ends, at the latest.
    logged = [
        json.loads(line) for line in (tmp_path / "envoy.log").read_text().splitlines() if line.startswith("{")
    ]
    assert [(None, 429, None), (team, 200, 12), (team, 200, None), (team, 200, ASSUMED)] == [
        (line["team"], line["status"], line["tokens"]) for line in logged
    ]
    assert "request_rate_limited" == logged[0]["details"]


# The example of the project's README


@in_one_minute
def test_the_readme_charges_what_it_says_and_no_more(
    redis_server: RedisServer, llm: PeculiarLlm, unique: Unique, tmp_path: Path
) -> None:
    """JSON of OpenAI's APIs, with a charset as well. The other APIs need envoy.yaml, and are not charged."""
    (example,) = [block.text for block in blocks(REPOSITORY / "README.md") if "http_filters:" in block.text]
    rules = str(REPOSITORY / "config" / "token-budgets.yaml")
    namespace = unique("payments")
    with Service({"CONFIG_PATH": rules, "REDIS_URL": redis_server.url}) as service:
        text = bootstrap(ratelimit=port_of(service.grpc), llm=llm.port)
        manager(text)["http_filters"] = yaml.safe_load(example)["http_filters"]
        ratelimit_filter(text)["timeout"] = "10s"
        with running(tmp_path, text) as url, httpx.Client(base_url=url, trust_env=False) as client:
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


# Without the service


@pytest.mark.parametrize(("closed", "status"), [(True, 503), (False, 200)], ids=["closed", "open"])
def test_what_becomes_of_requests_while_the_service_is_away(
    llm: PeculiarLlm, redis_server: RedisServer, unique: Unique, tmp_path: Path, closed: bool, status: int
) -> None:
    """503 with the file, and 200 with failure_mode_deny: false.

    When the service is back, Envoy calls it again.
    """
    team, port = unique("ops"), free_port()
    text = bootstrap(ratelimit=port, llm=llm.port, patient=False)
    asks = ratelimit_filter(text)
    assert (True, "0.25s") == (asks["failure_mode_deny"], asks["timeout"])
    asks["failure_mode_deny"] = closed
    environment = {"CONFIG_PATH": str(RULES), "REDIS_URL": redis_server.url, "GRPC_PORT": str(port)}

    with running(tmp_path, text) as url, httpx.Client(base_url=url, trust_env=False) as client:

        def asked() -> httpx.Response:
            return client.post(COMPLETIONS, headers={"x-team-id": team}, json={})

        answer = asked()
        assert (status, False) == (answer.status_code, "x-ratelimit-limit" in answer.headers)
        with Service(environment) as service:
            wait_for("an answer of the service", lambda: asked().headers.get("x-ratelimit-limit"))
            # It hangs: longer than the timeout nobody waits for it.
            service.signal(signal.SIGSTOP)
            answer = asked()
            assert (status, False) == (answer.status_code, "x-ratelimit-limit" in answer.headers)
            assert answer.elapsed.total_seconds() >= 0.24  # timers of Envoy are that exact
