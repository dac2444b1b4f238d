"""The fast paths of the codec read and write the same as protobuf, for all bytes."""

from __future__ import annotations

import sys
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from ratelimit_service.core.errors import InvalidRequest
from ratelimit_service.core.matching.tree import RuleTree
from ratelimit_service.core.model import (
    UINT32_MAX,
    Code,
    Decision,
    Header,
    Limit,
    Request,
    Status,
    Unit,
    Window,
)
from ratelimit_service.proto.ratelimit_pb2 import RateLimitRequest, RateLimitResponse
from ratelimit_service.transports.codec import Codec, request_of, response_of
from ratelimit_service.transports.wire import split

CODEC = Codec()

texts = st.binary(max_size=6) | st.binary(min_size=120, max_size=135)
numbers = st.sampled_from([0, 1, 127, 128, 1_500, 2**32 - 1, 2**53, 2**64 - 1])


@st.composite
def messages(draw: Any) -> bytes:
    """Generate serialized requests: those of gateways, and unusual ones."""
    request = RateLimitRequest(domain=draw(st.sampled_from(["d", "", "token-budgets", "x" * 130])))
    for _ in range(draw(st.integers(0, 4))):
        descriptor = request.descriptors.add()
        for _ in range(draw(st.integers(0, 3))):
            descriptor.entries.add(key=draw(texts), value=draw(texts))
        if draw(st.booleans()):
            descriptor.hits_addend.value = draw(numbers)
        if draw(st.integers(0, 7)) == 0:
            descriptor.is_negative_hits = True
        if draw(st.integers(0, 7)) == 0:
            descriptor.limit.unit = 2  # type: ignore[assignment]
    if draw(st.booleans()):
        request.hits_addend = draw(numbers) & UINT32_MAX
    return request.SerializeToString()


@st.composite
def mangled(draw: Any) -> bytes:
    """Return the same bytes with a few changed, removed or inserted."""
    data = bytearray(draw(messages()))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 2))] = draw(st.binary(max_size=2))
    return bytes(data)


def plainly(data: bytes) -> Request | str:
    """Return a request as protobuf reads it."""
    try:
        message = RateLimitRequest.FromString(data)
        return request_of(message)
    except Exception as error:
        return "DecodeError" if not isinstance(error, InvalidRequest) else str(error)


def decoded(data: bytes) -> Request | str:
    """Return a request as the codec reads it."""
    try:
        return CODEC.decode(data)._replace(key=b"", repeats=False)
    except InvalidRequest as error:
        return "DecodeError" if "not a RateLimitRequest" in str(error) else str(error)


@given(messages() | mangled() | st.binary(max_size=40))
@example(b"\x0a\x01d\x12\x06\x0a\x00\x1a\x02\x08\x05")
@example(b"\x0a\x01d\x12\x02\x0a\x00\x18\x01\x0a\x00")  # a second domain, which is empty, behind the hits
@example(b"\x0a\x01d\x12\x02\x0a\x00\x18\x80")  # a number that does not end
@example(b"\x0a\x01d\x12\x08\x0a\x00\x1a\x04\x08\x80\x80\x80")  # another one
@example(b"\x0a\x01d\x12\x09\x0a\x00\x1a\x02\x08\x05")  # a descriptor that reaches beyond the end
@example(b"\x0a\x01\xff\x12\x02\x0a\x00")  # a domain that is not UTF-8
def test_a_request_is_decoded_as_protobuf_does(data: bytes) -> None:
    """It is read twice, because the second result comes from the cache."""
    expected = plainly(data)
    assert [expected, expected] == [decoded(data), decoded(data)]


@given(messages() | mangled(), messages() | mangled())
def test_requests_of_one_key_differ_in_their_hits_alone(one: bytes, two: bytes) -> None:
    """Plans are shared by this law."""
    found = []
    for data in (one, two):
        parts = split(data)
        request = plainly(data)
        if parts is None or isinstance(request, str):
            return
        bare = [descriptor._replace(hits_addend=None) for descriptor in request.descriptors]
        found.append((parts[0], (request.domain, bare)))
    (first, first_request), (second, second_request) = found
    assert (first == second) <= (first_request == second_request)


def test_a_check_and_charges_of_any_size_have_one_key() -> None:
    """So they share the plan of their bucket. The hits_addend of the request does not change the key
    either.
    """
    keys = set()
    for hits, addend in [
        (0, 0),
        (1, 0),
        (200, 0),
        (1_500, 0),
        (16_384, 0),
        (2**40, 0),
        (200, 5),
        (200, 70_000),
    ]:
        request = RateLimitRequest(domain="token-budgets", hits_addend=addend)
        descriptor = request.descriptors.add()
        descriptor.entries.add(key=b"team", value=b"dba")
        descriptor.hits_addend.value = hits
        keys.add(CODEC.decode(request.SerializeToString()).key)
    assert [True] == [bool(key) for key in keys]


def test_checks_and_charges_that_repeat_are_decoded_once() -> None:
    """The first charge of a size is not cached: most sizes differ, and would only evict other entries."""
    codec = Codec()

    def decode(hits: int, value: bytes = b"dba") -> Request:
        request = RateLimitRequest(domain="token-budgets")
        descriptor = request.descriptors.add()
        descriptor.entries.add(key=b"team", value=value)
        descriptor.hits_addend.value = hits
        return codec.decode(request.SerializeToString())

    assert decode(0) is decode(0)
    first, second, third = decode(7), decode(7), decode(7)
    assert [first, True] == [second._replace(repeats=False), second.repeats]
    assert first is not second
    assert second is third
    assert [8, 9, 7] == [decode(hits).descriptors[0].hits_addend for hits in (8, 9, 7)]


def test_requests_that_are_too_long_for_the_cache_are_decoded() -> None:
    """Long values of strangers are decoded each time."""
    request = RateLimitRequest(domain="d")
    for number in range(100):
        request.descriptors.add().entries.add(key=b"k%d" % number, value=b"v" * 20)
    decoded = CODEC.decode(request.SerializeToString())
    assert (100, b"") == (len(decoded.descriptors), decoded.key)


limits = st.builds(
    Limit,
    st.sampled_from([0, 1, 5_000, 2**53]),
    st.builds(Window, st.sampled_from(list(Unit)[1:]), st.sampled_from([1, 15])),
    st.sampled_from(["", "dba-hourly"]),
)
statuses = st.builds(
    Status,
    st.sampled_from(list(Code)),
    st.none() | limits,
    st.sampled_from([0, 1, 127, 128, 789, 2**21, 2**32 - 1, 2**40]),
    st.sampled_from([0, 1, 127, 128, 3_600, 31_536_000]),
)


def written(decision: Decision) -> RateLimitResponse:
    """Return the message of a decision, built field by field."""
    response = RateLimitResponse(overall_code=int(decision.code), raw_body=decision.body)  # type: ignore[arg-type]
    for status in decision.statuses:
        message = response.statuses.add(code=int(status.code))
        message.limit_remaining = min(status.remaining, UINT32_MAX)
        if status.limit is not None:
            message.current_limit.requests_per_unit = min(status.limit.amount, UINT32_MAX)
            message.current_limit.unit = int(status.limit.window.unit)  # type: ignore[assignment]
            message.current_limit.name = status.limit.name
            if status.limit.window.multiplier != 1:
                message.current_limit.unit_multiplier.value = status.limit.window.multiplier
        if status.limit is not None or status.reset:
            message.duration_until_reset.seconds = status.reset
    for name, value in decision.headers:
        response.response_headers_to_add.add(key=name, value=value)
    if decision.dynamic_metadata is not None:
        response.dynamic_metadata.update(decision.dynamic_metadata)
    return response


@given(
    st.sampled_from(list(Code)),
    st.lists(statuses, max_size=5),
    st.sampled_from([(), (Header("retry-after", "28"), Header("x", "ü"))]),
    st.sampled_from([b"", b'{"error": {}}']),
    st.sampled_from([None, {}, {"domain": "d"}]),
)
def test_an_answer_is_the_message_that_protobuf_writes(
    code: Code,
    statuses: list[Status],
    headers: tuple[Header, ...],
    body: bytes,
    metadata: dict[str, Any] | None,
) -> None:
    """The bytes are equal. Numbers that the protocol cannot carry saturate."""
    decision = Decision(code, statuses, [None] * len(statuses), headers, body, metadata)
    expected = written(decision)
    assert expected.SerializeToString(deterministic=True) == CODEC.encode_for(None)(decision)
    assert expected == response_of(decision)


def test_encoded_limits_are_released_with_their_rules() -> None:
    """Equal rules share an encoder. A reload replaces it, and the limits of the previous rules are freed."""
    codec, rules = Codec(), [RuleTree([]), RuleTree([])]
    limit = Limit(5, Window(Unit.HOUR))
    before = sys.getrefcount(limit)
    decision = Decision(Code.OK, [Status(Code.OK, limit, 1, 60)], [None])
    answer = codec.encode_for(rules[0])(decision)
    assert codec.encode_for(rules[0]) == codec.encode_for(rules[0])
    assert answer == codec.encode_for(rules[1])(decision)
    del decision
    codec.encode_for(rules[0])
    assert before == sys.getrefcount(limit)
