"""The requests of the load generator: valid messages, their distributions, and a sequence that the books can
repeat.
"""

from __future__ import annotations

from collections import Counter

import hpack
import pytest

from bench import frames, messages
from bench.messages import LoadRequest, Zipf, expected, requests
from ratelimit_service.core.rules.reader import load
from ratelimit_service.proto.ratelimit_pb2 import RateLimitRequest
from ratelimit_service.sources.yaml_text import read

TRAFFIC = [*messages.CONSTANT, "mixed", "cold:cold"]


def parsed(asked: LoadRequest) -> RateLimitRequest:
    """Return the message in a gRPC frame."""
    assert 0 == asked.body[0]
    assert len(asked.body) - 5 == int.from_bytes(asked.body[1:5], "big")
    return RateLimitRequest.FromString(asked.body[5:])


@pytest.mark.parametrize("traffic", TRAFFIC)
def test_every_request_agrees_with_the_books(traffic: str) -> None:
    """The domain, and the key, value and hits of each descriptor, are the same."""
    for asked in requests(traffic, 200, 3):
        request = parsed(asked)
        assert messages.DOMAIN == request.domain
        assert all(descriptor.HasField("hits_addend") for descriptor in request.descriptors)
        charges = tuple(
            (entry.key.decode(), entry.value.decode(), descriptor.hits_addend.value)
            for descriptor in request.descriptors
            for entry in descriptor.entries
            if descriptor.hits_addend.value and entry.key not in (b"spent", b"nobody")
        )
        assert asked.charges == charges


@pytest.mark.parametrize("traffic", TRAFFIC)
def test_a_shorter_run_is_the_beginning_of_a_longer_one(traffic: str) -> None:
    """More requests are prepared than sent, and the books only know the number of sent ones."""
    assert list(requests(traffic, 70, 1)) == list(requests(traffic, 5_000, 1))[:70]


@pytest.mark.parametrize("traffic", TRAFFIC)
def test_the_books_are_the_sum_of_all_connections(traffic: str) -> None:
    """This holds for each bucket."""
    charged: Counter[tuple[str, str]] = Counter()
    for connection, many in enumerate((40, 7, 0)):
        for asked in requests(traffic, many, connection):
            for key, value, hits in asked.charges:
                charged[key, value] += hits
    assert charged == expected(traffic, [40, 7, 0])


def test_a_cold_bucket_comes_once() -> None:
    """No other connection uses it either."""
    seen = [asked.charges for connection in range(3) for asked in requests("cold:cold", 500, connection)]
    assert 1_500 == len(set(seen))


def test_mixed_traffic_checks_as_often_as_it_charges() -> None:
    """Some requests have a second descriptor."""
    mixed = list(requests("mixed", 4_000))
    assert 2_000 == sum(1 for asked in mixed if asked.charges)
    assert {1, 2} == {len(parsed(asked).descriptors) for asked in mixed}


def test_unknown_traffic_is_refused() -> None:
    """A misspelt name would measure other traffic."""
    with pytest.raises(ValueError, match="warm"):
        requests("warm", 1)


def test_zipf_draws_by_rank() -> None:
    """The first of a thousand is drawn as often as the law says, and two to three times as often as the
    second.
    """
    seen = Counter(Zipf(1_000, 1.1, 1).draw(100_000))
    share = 1 / sum(1 / k**1.1 for k in range(1, 1_001))
    assert share == pytest.approx(seen[0] / 100_000, rel=0.03)
    assert 2**1.1 == pytest.approx(seen[0] / seen[1], rel=0.05)
    assert set(seen) <= set(range(1_000))


def test_zipf_is_the_same_for_the_same_seed() -> None:
    """Another seed draws another sequence."""
    first, again, other = (Zipf(100, 1.1, seed).draw(50) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_the_rules_load_without_a_warning() -> None:
    """These are the rules for this service, those with many more rules, and those for other services."""
    for text in (messages.rules(), messages.rules(10), messages.rules_for_others()):
        assert () == load([read("rules.yaml", text.encode())]).warnings
    assert "tokens_per_unit" not in messages.rules_for_others()


# Frames


def calls(script: frames.Script) -> list[tuple[int, list[tuple[str, str]], bytes]]:
    """Decode a script with hpack. Return the stream, the headers and the data of each request."""
    decoder = hpack.Decoder()
    found: dict[int, tuple[list[tuple[str, str]], bytes]] = {}
    data = script.data
    while data:
        size = int.from_bytes(data[:3], "big")
        kind, stream, payload = data[3], int.from_bytes(data[5:9], "big"), data[9 : 9 + size]
        headers, body = found.get(stream, ([], b""))
        if kind == frames.HEADERS:
            headers = [(str(name), str(value)) for name, value in decoder.decode(payload)]
        else:
            body += payload
        found[stream] = headers, body
        data = data[9 + size :]
    return [(stream, headers, body) for stream, (headers, body) in found.items()]


def test_a_script_is_calls_of_grpc() -> None:
    """Each call has its own stream and all headers, although most headers are one byte."""
    script = frames.grpc_script([b"first", b"second"])
    headers = list(frames.GRPC)
    assert [(1, headers, b"first"), (3, headers, b"second")] == calls(script)
    assert [5, 6] == list(script.costs)
    assert len(script.data) == script.ends[-1]
    assert script.ends[1] - script.ends[0] < script.ends[0], "the table of headers is not used"


def test_a_script_for_a_gateway_has_the_header_of_each_request() -> None:
    """The requests have no body."""
    script = frames.http_script("x-team-id", ["a", "b"])
    assert [
        (stream, [*frames.HTTP, ("x-team-id", value)], b"") for stream, value in ((1, "a"), (3, "b"))
    ] == calls(script)


def answer(stream: int, message: bytes = b"\x08\x01") -> bytes:
    """Return the answer of a gRPC server."""
    return (
        frames.frame(frames.HEADERS, frames.END_HEADERS, stream, b"\x88")
        + frames.frame(frames.DATA, 0, stream, messages.framed(message))
        + frames.frame(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, stream, b"\xbe")
    )


@pytest.mark.parametrize("piece", [1, 7, 1_000])
def test_answers_are_separated_however_they_are_cut(piece: int) -> None:
    """They are an OK followed by RST_STREAM with NO_ERROR, a refusal, an error without a message, and a reset
    stream.
    """
    sent = (
        answer(1)
        + frames.frame(frames.RST_STREAM, 0, 1, b"\0\0\0\0")
        + answer(3, b"\x08\x02")
        + frames.frame(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, 5, b"\x88")
        + frames.frame(frames.RST_STREAM, 0, 7, b"\0\0\0\x08")
    )
    reader, finished = frames.Reader(), list[int]()
    for at in range(0, len(sent), piece):
        reader.feed(sent[at : at + piece], finished)
    assert [1, 3, 5, 7] == finished
    assert (2, 1, 1) == (reader.messages, reader.over, reader.failed)


def test_the_reader_follows_the_protocol_for_clients() -> None:
    """It acknowledges pings and settings, and tracks the flow-control window."""
    reader = frames.Reader()
    settings = frames.frame(frames.SETTINGS, 0, 0, b"\0\x03\0\0\0\x64")
    assert frames.frame(frames.SETTINGS, frames.ACK, 0) == reader.feed(settings, [])
    assert 100 == reader.streams
    ping = frames.frame(frames.PING, 0, 0, b"12345678")
    assert frames.frame(frames.PING, frames.ACK, 0, b"12345678") == reader.feed(ping, [])
    reader.feed(frames.frame(frames.WINDOW_UPDATE, 0, 0, b"\0\0\x01\0"), [])
    assert frames.DEFAULT_WINDOW + 256 == reader.window
    with pytest.raises(ConnectionError):
        reader.feed(frames.frame(frames.GOAWAY, 0, 0, bytes(8)), [])
