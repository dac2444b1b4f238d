"""Any body of /json is a request, or is refused as invalid."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

from ratelimit_service.core.errors import InvalidRequest
from ratelimit_service.core.model import Override
from ratelimit_service.http.json import parse
from ratelimit_service.proto.ratelimit_pb2 import RateLimitRequest
from ratelimit_service.transports import codec
from tests.limiter import Limiter, descriptor

from .wire import ENUM, UINT64, requests

RULES = (
    "{domain: d, descriptors: [{key: team, rate_limit: {requests_per_unit: 10, unit: hour}, "
    "metadata: {tier: [1]}}]}"
)


def outcome(body: bytes) -> str:
    """Return `invalid`, or the verdict of the decision on a body."""
    try:
        request = codec.request_of(parse(body))
        decision = Limiter(RULES, dynamic_metadata=True).answer(request)
    except InvalidRequest as refusal:
        return "invalid" if str(refusal) else "invalid, without saying why"
    answer = json.loads(json_format.MessageToJson(codec.response_of(decision)))
    assert len(request.descriptors) == len(answer["statuses"])
    return str(answer["overallCode"])


NAMES = (
    "domain descriptors entries key value hitsAddend hits_addend limit requestsPerUnit requests_per_unit "
    "unit unitMultiplier isNegativeHits @type"
).split()

numbers = st.sampled_from([*UINT64, 2**64, -1, *ENUM]) | st.floats() | st.integers()
scalars: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    numbers,
    numbers.map(str),
    st.text(max_size=4),
    st.sampled_from(["HOUR", "hour", "NOPE", "d", "team", "", "\ud800", "\x00", "1e3", "NaN", " 1"]),
)
structures = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=2), inner, max_size=4)
    ),
    max_leaves=12,
)
entries = st.lists(
    st.fixed_dictionaries({}, optional={"key": scalars, "value": scalars}) | structures, max_size=2
)
limits = st.fixed_dictionaries(
    {}, optional={"requestsPerUnit": scalars, "unit": scalars, "unitMultiplier": scalars}
)
descriptors = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "entries": entries,
            "limit": limits | scalars,
            "hitsAddend": scalars,
            "isNegativeHits": scalars,
        },
    )
    | structures,
    max_size=2,
)
nearly = st.fixed_dictionaries(
    {"domain": st.just("d") | scalars},
    optional={"descriptors": descriptors | structures, "hitsAddend": scalars, "more": structures},
)


def written(structure: Any) -> bytes:
    return json.dumps(structure).encode()


@pytest.mark.fuzz
@given(st.binary(max_size=100) | st.text(max_size=50).map(str.encode))
def test_any_bytes_are_a_request_or_invalid(body: bytes) -> None:
    """Random bytes are hardly ever a request."""
    assert outcome(body) in ("OK", "OVER_LIMIT", "invalid")


@pytest.mark.fuzz
@given(nearly | structures)
def test_any_json_is_a_request_or_invalid(structure: Any) -> None:
    """Values of any kind in any place, including numbers that JSON does not have."""
    assert outcome(written(structure)) in ("OK", "OVER_LIMIT", "invalid")


@pytest.mark.fuzz
@given(st.data(), nearly)
def test_json_with_a_piece_changed_is_a_request_or_invalid(data: st.DataObject, structure: Any) -> None:
    """The piece is cut off, repeated, or has inserted bytes."""
    body = written(structure)
    start, end = sorted(data.draw(st.tuples(*[st.integers(0, len(body))] * 2)))
    put = data.draw(
        st.sampled_from([b"", body[start:end] * 2, b'"', b"\\", b"{", b"]", b"\xff", b"\x00", b"1e999"])
    )
    assert outcome(body[:start] + put + body[end:]) in ("OK", "OVER_LIMIT", "invalid")


@pytest.mark.fuzz
@given(requests())
def test_a_request_in_json_is_the_request(request: RateLimitRequest) -> None:
    """It is written as protobuf does, with text for bytes."""
    said = json_format.MessageToDict(request)
    for one, plain in zip(said.get("descriptors", []), request.descriptors, strict=True):
        for entry, sent in zip(one.get("entries", []), plain.entries, strict=True):
            sent.key, sent.value = as_text(sent.key).encode(), as_text(sent.value).encode()
            entry |= {"key": sent.key.decode(), "value": sent.value.decode()}
    assert codec.request_of(request) == codec.request_of(parse(written(said)))


def as_text(raw: bytes) -> str:
    return raw.decode(errors="replace")


TEAM: Any = {"entries": [{"key": "team", "value": "a"}]}


def ask(**more: Any) -> bytes:
    return written({"domain": "d", "descriptors": [TEAM | more]})


EDGES: dict[str, tuple[bytes, str]] = {
    "one hit": (ask(), "OK"),
    "one over": (ask(hitsAddend=11), "OVER_LIMIT"),
    "a number as text": (ask(hitsAddend="11"), "OVER_LIMIT"),
    "the largest number": (ask(hitsAddend=2**64 - 1), "OVER_LIMIT"),
    "one more": (ask(hitsAddend=2**64), "invalid"),
    "less than nothing": (ask(hitsAddend=-1), "invalid"),
    "a fraction": (ask(hitsAddend=1.5), "invalid"),
    "more than a float holds": (ask().replace(b"}]}]", b'}], "hitsAddend": 1e999}]'), "invalid"),
    "a number of 100,000 digits": (
        ask().replace(b"}]}]", b'}], "hitsAddend": ' + b"9" * 100_000 + b"}]"),
        "invalid",
    ),
    "a truth for a number": (ask(hitsAddend=True), "invalid"),
    "a unit by name": (ask(limit={"requestsPerUnit": 0, "unit": "HOUR"}), "OVER_LIMIT"),
    "a unit by number": (ask(limit={"requests_per_unit": 1, "unit": 4}), "OK"),
    "a unit that is none": (ask(limit={"unit": "FORTNIGHT"}), "invalid"),
    "a number that is none": (ask(limit={"unit": 99}), "invalid"),
    "nothing for a hit": (ask(hitsAddend=None), "OK"),
    "a field that is not known": (ask(colour="red"), "invalid"),
    "a number for a value": (ask(entries=[{"key": "team", "value": 1}]), "invalid"),
    "half of a surrogate pair": (
        b'{"domain": "d", "descriptors": [{"entries": [{"key": "\\ud800"}]}]}',
        "invalid",
    ),
    "half of one for a domain": (b'{"domain": "\\ud800", "descriptors": [{}]}', "invalid"),
    "half of one for a name": (b'{"\\udfff": 1}', "invalid"),
    "a NUL": (ask(entries=[{"key": "team", "value": "\0"}]), "OK"),
    "10,000 descriptors": (written({"domain": "d", "descriptors": [TEAM] * 10_000}), "invalid"),
    "a value of 64 kB": (ask(entries=[{"key": "team", "value": "x" * 65_536}]), "OK"),
    "lists in lists": (b"[" * 500_000, "invalid"),
    "objects in objects": (b'{"a":' * 200_000, "invalid"),
    "lists in lists that end": (b'{"descriptors": ' + b"[" * 900 + b"]" * 900 + b"}", "invalid"),
    "NaN": (b'{"domain": NaN}', "invalid"),
    "a name twice": (b'{"domain": "d", "domain": "d", "descriptors": [{}]}', "invalid"),
    "nothing": (b"", "invalid"),
    "null": (b"null", "invalid"),
    "an empty object": (b"{}", "invalid"),
    "UTF-16": ('{"domain": "d"}'.encode("utf-16"), "invalid"),
    "a byte order mark": (b"\xef\xbb\xbf" + ask(), "invalid"),
    "what stands behind it": (ask() + b" {}", "invalid"),
}


@pytest.mark.parametrize("body, expected", EDGES.values(), ids=EDGES)
def test_edge_cases(body: bytes, expected: str) -> None:
    """Bodies have extreme sizes, numbers, characters and structures."""
    assert expected == outcome(body)


def test_a_request_has_the_same_meaning_in_json_and_on_the_wire() -> None:
    """Every field occurs once, under both of its names."""
    limit = {"requests_per_unit": 7, "unit": "DAY", "unitMultiplier": 3}
    body = written(
        {
            "domain": "d",
            "hits_addend": 4,
            "descriptors": [TEAM | {"limit": limit, "hitsAddend": "5", "isNegativeHits": True}],
        }
    )
    request = codec.request_of(parse(body))
    assert ("d", 4) == (request.domain, request.hits_addend)
    assert (descriptor("team=a", -5, Override(7, 4, 3)),) == request.descriptors
