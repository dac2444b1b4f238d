"""The header with the tokens of its own request, as docs/migrating-from-envoyproxy-ratelimit.md describes
it.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx
import pytest
import yaml

from testing.envoy import EnvoyProcess, connection_manager
from testing.service import Service, port_of

from ..docs.documents import DOCS, section
from .envoy_file import RULES, bootstrap
from .provider import COMPLETIONS, MESSAGES, PeculiarLlm

pytestmark = pytest.mark.e2e

HEADER = "x-tokens-used"
TOKENS = 423


class Seen(NamedTuple):
    """The responses: JSON, a stream, another caller's stream as bytes, and a refusal; and the tokens in the
    access log.
    """

    json: httpx.Response
    message: httpx.Response
    stream: httpx.Response
    raw_stream: bytes
    refusal: httpx.Response
    logged: list[int | None]


def on_the_page() -> dict[str, Any]:
    """Return the filter in the page."""
    page = DOCS / "migrating-from-envoyproxy-ratelimit.md"
    (block,) = [
        block
        for block in section(page, "## Tokens of a request in a header")
        if "http_filters:" in block.text
    ]
    (filter_of_the_page,) = yaml.safe_load(block.text)["http_filters"]
    assert isinstance(filter_of_the_page, dict)
    return filter_of_the_page


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    """Responses of deploy/envoy/envoy.yaml with the filter in first place, and with the alternatives."""
    directory = tmp_path_factory.mktemp("envoy")
    llm = PeculiarLlm()
    try:
        with Service({"CONFIG_PATH": str(RULES), "BACKEND_TYPE": "memory"}) as service:
            text = yaml.safe_dump(configured(ratelimit=port_of(service.grpc), llm=llm.port))
            envoy = EnvoyProcess(directory, text)
            try:
                address = envoy.listeners["callers"]
                with httpx.Client(base_url=f"http://{address}", trust_env=False, timeout=60) as client:
                    answers = (
                        client.post(COMPLETIONS, headers=headers("plain"), json=body()),
                        client.post(MESSAGES, headers=headers("messages"), json=body()),
                        client.post(COMPLETIONS, headers=headers("streaming"), json=body(stream=True)),
                    )
                    raw = bytes_of_a_stream(address)
                    refusal = client.post(COMPLETIONS, json=body())
            finally:
                envoy.stop()
        log = (directory / "envoy.log").read_text()
        lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
        yield Seen(*answers, raw, refusal, [line["tokens"] for line in lines])
    finally:
        llm.stop()


def headers(team: str) -> dict[str, str]:
    """Return the headers of a request that costs TOKENS, for a caller that accepts trailers."""
    return {"x-team-id": team, "x-mock-tokens": str(TOKENS), "te": "trailers"}


def body(*, stream: bool = False) -> dict[str, Any]:
    """Return the body of such a request."""
    return {"messages": [], "stream": stream, "stream_options": {"include_usage": True}}


def bytes_of_a_stream(address: str) -> bytes:
    """Return the whole response, including the trailers, which clients hide."""
    host, _, port = address.partition(":")
    content = json.dumps(body(stream=True))
    fields = {
        **headers("raw"),
        "host": address,
        "content-type": "application/json",
        "content-length": str(len(content)),
        "connection": "close",
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(f"POST {COMPLETIONS} HTTP/1.1\r\n{head}\r\n{content}".encode())
        return b"".join(iter(lambda: connection.recv(65536), b""))


def configured(*, ratelimit: int, llm: int) -> dict[str, Any]:
    """Return envoy.yaml with the filter of the page in first place, and with the other places that can set a
    header.
    """
    text = bootstrap(ratelimit=ratelimit, llm=llm)
    manager = connection_manager(text)
    late = on_the_page()
    value = late["typed_config"]["mutations"]["response_mutations"][0]["append"]["header"]["value"]
    trailer = {"append": {"header": {"key": "x-trailer", "value": value}}}
    late["typed_config"]["mutations"]["response_trailers_mutations"] = [trailer]
    early = on_the_page()
    early["name"] = "early"
    early["typed_config"]["mutations"]["response_mutations"][0]["append"]["header"]["key"] = "x-early"
    *others, router = manager["http_filters"]
    manager["http_filters"] = [late, *others, early, router]
    (host,) = manager["route_config"]["virtual_hosts"]
    host["response_headers_to_add"] = [{"header": {"key": "x-route", "value": value}}]
    manager["http_protocol_options"] = {"enable_trailers": True}
    return text


def test_the_first_filter_shows_the_tokens_of_an_answer_in_json(seen: Seen) -> None:
    """Its headers are held back until its usage is read, which for messages is a sum."""
    assert [str(TOKENS)] * 2 == [answer.headers[HEADER] for answer in (seen.json, seen.message)]


def test_a_stream_has_no_such_header(seen: Seen) -> None:
    """Its headers are sent before its usage is known, which is in the last event."""
    assert HEADER not in seen.stream.headers
    assert f'"total_tokens": {TOKENS}' in seen.stream.text


@pytest.mark.parametrize("name", ["x-early", "x-route"])
def test_other_places_cannot_set_the_header(seen: Seen, name: str) -> None:
    """A filter after json_to_metadata, and the route, process the headers before the body."""
    assert name not in seen.json.headers
    assert name not in seen.stream.headers


def test_no_trailers_are_added_to_a_stream_without_trailers(seen: Seen) -> None:
    """Nothing follows its last chunk."""
    assert seen.raw_stream.startswith(b"HTTP/1.1 200 OK\r\n")
    assert seen.raw_stream.endswith(b"\r\n0\r\n\r\n")


def test_a_refusal_has_no_such_header(seen: Seen) -> None:
    """It has cost nothing, and an empty header is not sent."""
    assert httpx.codes.TOO_MANY_REQUESTS == seen.refusal.status_code
    assert HEADER not in seen.refusal.headers


def test_the_access_log_has_the_tokens_of_every_answer(seen: Seen) -> None:
    """It is written at the end of the answer. The last request was refused."""
    assert [TOKENS] * 4 + [None] == seen.logged
