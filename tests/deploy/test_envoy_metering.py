"""deploy/envoy: the charge for an answer, for each format and each end."""

from __future__ import annotations

import socket

import grpc
import pytest

from ..e2e.conftest import Gateway, Unique, in_one_minute
from .envoy_file import ASSUMED, JSON, STREAM, bucket
from .provider import COMPLETIONS, COUNT_TOKENS, EMBEDDINGS, MESSAGES, RESPONSES, PeculiarLlm

pytestmark = pytest.mark.e2e


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


@each_shape
@in_one_minute
def test_an_answer_in_each_format_is_charged_exactly(
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
def test_an_answer_without_usage_is_charged_the_assumed_amount(
    gateway: Gateway, unique: Unique, path: str, stream: bool
) -> None:
    """Otherwise, an answer without usage would be the cheapest."""
    team = unique("ops")
    answer = gateway.complete(path, {"x-team-id": team, "x-mock-usage": "none"}, stream=stream)
    assert (200, False) == (answer.status_code, "_tokens" in answer.text)
    gateway.counters.wait_until(bucket(team), ASSUMED)


@in_one_minute
def test_a_stream_without_usage_is_charged_the_assumed_amount(gateway: Gateway, unique: Unique) -> None:
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
def test_an_unusual_answer_is_metered(
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
def test_a_request_without_tokens_costs_nothing(gateway: Gateway, unique: Unique) -> None:
    """An error, a request that counts the tokens of a prompt, and the retrieval of an earlier answer,
    although it has usage.
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
    # A charge for one of them would be counted before the charge of this request.
    assert 200 == gateway.complete(COMPLETIONS, who | {"x-mock-tokens": "7"}).status_code
    gateway.counters.wait_until(bucket(team), 7)


@pytest.mark.parametrize(
    ("path", "charged"), [(COMPLETIONS, ASSUMED), (RESPONSES, ASSUMED), (MESSAGES, 5 + 5 + 10 + 1)]
)
@in_one_minute
def test_a_caller_that_aborts_a_stream_is_charged(
    gateway: Gateway, unique: Unique, path: str, charged: int
) -> None:
    """The usage that the stream has sent so far (for messages, the prompt), or else the assumed amount."""
    team = unique("ops")
    body = {"model": "gpt-x", "messages": [], "stream": True}
    headers = {"x-team-id": team, "x-mock-endless": "yes"}
    with gateway.client.stream("POST", path, headers=headers, json=body) as answer:
        assert 200 == answer.status_code
        assert "data: " in next(answer.iter_text())
    gateway.counters.wait_until(bucket(team), charged)


@pytest.mark.parametrize("http2", [False, True], ids=["disconnects", "resets"])
@in_one_minute
def test_a_caller_that_disconnects_before_the_answer_is_charged_the_assumed_amount(
    gateway: Gateway, peculiar_llm: PeculiarLlm, unique: Unique, http2: bool
) -> None:
    """The provider processes the request nevertheless.

    In HTTP/2, a caller resets its stream, as a gRPC client does when it is closed.
    """
    team = unique("ops")
    headers = {"x-team-id": team, "x-mock-silent": team}
    if http2:
        with grpc.insecure_channel(gateway.client.base_url.netloc.decode()) as channel:
            ask = channel.unary_unary(COMPLETIONS, request_serializer=bytes, response_deserializer=bytes)
            call = ask.future(b"{}", metadata=tuple(headers.items()))
            peculiar_llm.wait_for_silence(team)
            assert not call.done()
    else:
        url = gateway.client.base_url
        with socket.create_connection((url.host, url.port or 0)) as connection:
            head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            connection.sendall(
                f"POST {COMPLETIONS} HTTP/1.1\r\nhost: x\r\n{head}content-length: 2\r\n\r\n{{}}".encode()
            )
            peculiar_llm.wait_for_silence(team)
    gateway.counters.wait_until(bucket(team), ASSUMED)
