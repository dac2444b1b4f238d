"""The fields of a serialized request are counted before it is parsed: as protobuf counts them, with bounded
work.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given
from hypothesis import strategies as st

from ratelimit_service.core.bounds import DEFAULT_BOUNDS, RequestBounds
from ratelimit_service.core.errors import InvalidRequest
from ratelimit_service.proto.ratelimit_pb2 import RateLimitRequest
from ratelimit_service.transports import codec, request_size
from ratelimit_service.transports.codec import Codec

BOUNDS = RequestBounds(3, 5)


def verdict(data: bytes, bounds: RequestBounds = BOUNDS) -> str:
    """Return the reason to refuse a message; empty if it may be parsed."""
    try:
        request_size.check(data, bounds)
    except InvalidRequest as error:
        return str(error)
    return ""


def message(*entries: int, limit: bool = True) -> bytes:
    """Return a request with a descriptor of so many entries for each number, and all other fields."""
    request = RateLimitRequest(domain="d" * 200, hits_addend=2**32 - 1)
    for number in entries:
        descriptor = request.descriptors.add(is_negative_hits=True)
        descriptor.hits_addend.value = 2**64 - 1
        if limit:
            descriptor.limit.requests_per_unit = 5
            descriptor.limit.unit = 4  # type: ignore[assignment]
            descriptor.limit.unit_multiplier.value = 300
        for _ in range(number):
            descriptor.entries.add(key=b"k" * 300, value=b"")
    return request.SerializeToString()


@pytest.mark.parametrize(
    "data, expected",
    [
        (message(), ""),
        (message(5), ""),
        (message(2, 2, 1), ""),
        (message(0, 0, 0), ""),
        (message(0, 0, 0, 0), "a request may have 3 descriptors, not more (REQUEST_MAX_DESCRIPTORS)"),
        (message(6), "a request may have 5 entries in all, not more (REQUEST_MAX_ENTRIES)"),
        (message(2, 2, 2), "a request may have 5 entries in all, not more (REQUEST_MAX_ENTRIES)"),
        (b"\x0a\x01d" * 9, "the message is not a RateLimitRequest: it has too many fields"),
        (
            b"\x12\x12" + b"\x12\x00" * 9,
            "the message is not a RateLimitRequest: a descriptor has too many fields",
        ),
        (b"\x28\x01" * 9, "the message is not a RateLimitRequest: it has too many fields"),
        (b"\x2b\x2c", "the message is not a RateLimitRequest: it has a group"),
        (b"\x12\x05\x0a", "the message is not a RateLimitRequest: it is cut off"),
        (b"\x12", "the message is not a RateLimitRequest: it is cut off"),
        (b"\x29\x00", "the message is not a RateLimitRequest: it is cut off"),
        (
            b"\x18" + b"\x80" * 10 + b"\x01",
            "the message is not a RateLimitRequest: a number has too many bytes",
        ),
        # Tags and lengths may be written with more bytes than they need.
        (b"\x92\x00\x00" * 4, "a request may have 3 descriptors, not more (REQUEST_MAX_DESCRIPTORS)"),
        (b"\x12\x80\x80\x00" * 4, "a request may have 3 descriptors, not more (REQUEST_MAX_DESCRIPTORS)"),
        # Another wire type makes it another field, which protobuf passes over.
        (b"\x10\x01" * 4, ""),
        (b"\x29" + b"\x00" * 8 + b"\x2d" + b"\x00" * 4, ""),
    ],
)
def test_a_message_is_counted_as_protobuf_reads_it(data: bytes, expected: str) -> None:
    """This holds for each field."""
    assert expected == verdict(data)


@given(
    st.binary(max_size=60) | st.lists(st.integers(0, 4), max_size=5).map(lambda n: message(*n, limit=False))
)
@example(b"\x12\x02\x0a\x00" * 3)
def test_a_message_that_passes_has_no_more_than_it_may(data: bytes) -> None:
    """Whatever its bytes are, protobuf's message is within the bounds."""
    if verdict(data):
        return
    try:
        request = RateLimitRequest.FromString(data)
    except DecodeError:
        return
    assert len(request.descriptors) <= BOUNDS.descriptors
    assert sum(len(descriptor.entries) for descriptor in request.descriptors) <= BOUNDS.entries


@given(st.lists(st.integers(0, 4), max_size=5), st.booleans())
def test_a_message_within_the_bounds_passes(entries: list[int], limit: bool) -> None:
    """It has every field that a request may have. A larger message is refused."""
    fits = len(entries) <= BOUNDS.descriptors and sum(entries) <= BOUNDS.entries
    assert fits == (not verdict(message(*entries, limit=limit)))


SHAPES: dict[str, Callable[[int], bytes]] = {
    "descriptors": lambda size: b"\x12\x00" * (size // 2),
    "entries": lambda size: b"\x12" + _varint(size) + b"\x0a\x00" * (size // 2),
    "fields": lambda size: b"\x28\x01" * (size // 2),
    "fields of a descriptor": lambda size: b"\x12" + _varint(size) + b"\x28\x01" * (size // 2),
    "domains": lambda size: b"\x0a\x00" * (size // 2),
}


def _varint(value: int) -> bytes:
    groups = []
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])


@pytest.mark.parametrize("shape", SHAPES)
def test_a_message_of_megabytes_is_refused_before_it_is_parsed(
    shape: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Protobuf would take tens of milliseconds and hundreds of megabytes for two million descriptors."""

    class Unused:
        @staticmethod
        def FromString(data: bytes) -> None:
            raise AssertionError("it was parsed")

    monkeypatch.setattr(codec, "RateLimitRequest", Unused)
    passed: list[int] = []
    real = request_size._varint

    def counted(data: bytes, at: int, end: int) -> tuple[int, int]:
        passed.append(at)
        return real(data, at, end)

    monkeypatch.setattr(request_size, "_varint", counted)
    with pytest.raises(InvalidRequest):
        Codec().decode(SHAPES[shape](4_000_000))
    assert len(passed) <= 2 * (DEFAULT_BOUNDS.descriptors + DEFAULT_BOUNDS.entries) + 20
