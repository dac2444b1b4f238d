"""The plain form of a request, split and read in Python, in the compiled module, and by protobuf."""

from __future__ import annotations

import gc
from types import ModuleType

import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given
from hypothesis import strategies as st

from ratelimit_service.core.holds.entries import DEFAULT_ENTRIES, NO_ENTRIES, HoldEntries
from ratelimit_service.core.model import Entry, Request
from ratelimit_service.proto.ratelimit_pb2 import RateLimitRequest, RateLimitResponse
from ratelimit_service.transports import _wire, wire
from ratelimit_service.transports.codec import request_of

from .test_codec import mangled, messages, plainly

BOTH = pytest.mark.parametrize("twin", [wire, _wire])


def put_together(twin: ModuleType, data: bytes) -> Request | None:
    """Return the request that a twin reads from a message, if it reads it."""
    parts = twin.split(data)
    if parts is None:
        return None
    key, hits, addend = parts
    read = twin.read(key)
    if read is None:
        return None
    domain, entries = read
    request: Request = twin.request_of(domain, entries, hits, addend, key, False)
    return request


def plain(hits: int | None = None, addend: int = 0, key: bytes = b"team", value: bytes = b"dba") -> bytes:
    """Return a request with one descriptor."""
    request = RateLimitRequest(domain="token-budgets", hits_addend=addend)
    descriptor = request.descriptors.add()
    descriptor.entries.add(key=key, value=value)
    if hits is not None:
        descriptor.hits_addend.value = hits
    return request.SerializeToString()


@pytest.mark.fuzz
@given(messages() | mangled() | st.binary(max_size=60))
@example(b"\x0a\x01d\x12\x06\x0a\x00\x1a\x02\x08\x05")
@example(b"\x0a\x01d\x12\x05\x0a\x00\x1a\x01\x08")  # a number without a byte
@example(b"\x0a\x01d\x12\x02\x0a\x00\x18\x00")  # a hits_addend that protobuf does not write
@example(b"\x0a\x01d\x12\x02\x0a\x00\x18\x81\x00")  # another one
@example(b"\x0a\x01d\x12\x02\x0a\x00\x18\xff\xff\xff\xff\x1f")  # more than 32 bits
@example(b"\x0a\x01d\x12\x82\x00\x0a\x00")  # a size in two bytes where one would do
@example(b"\x0a\x01d\x12\xff\x7f\x0a\x00")  # a descriptor that ends far behind the message
@example(b"\x0a\x01d\x12\x04\x0a\x02\x12\x00")  # a value without a key
@example(b"\x0a\x01d\x12\x06\x0a\x04\x12\x00\x0a\x00")  # the value before the key
@example(b"\x0a\x01\xff\x12\x02\x0a\x00")  # a domain that is not UTF-8
@example(b"\x0a\x7f" + b"d" * 126)  # a domain that ends behind the message
@example(b"\x0a\x01d" + b"\x12\x00" * 500)
@example(b"\x0a\x01d" + b"\x12\x00" * 600)
def test_both_twins_read_the_same_as_protobuf(data: bytes) -> None:
    """Both read the same as protobuf, and the Python twin reads every message that the compiled one reads."""
    by_python, compiled = put_together(wire, data), put_together(_wire, data)
    expected = plainly(data)
    for found in (by_python, compiled):
        if found is not None:
            assert expected == found._replace(key=b"")
    if compiled is not None:
        assert by_python == compiled


@BOTH
@given(hits=st.none() | st.integers(0, 2**63 - 1), addend=st.integers(0, 2**32 - 1))
def test_the_key_is_the_request_without_its_numbers(twin: ModuleType, hits: int | None, addend: int) -> None:
    """So a check and charges of any size share the plan of their bucket."""
    assert (plain(), (hits,), addend) == twin.split(plain(hits, addend))


@BOTH
def test_parts_make_the_request_again(twin: ModuleType) -> None:
    message = RateLimitRequest(domain="é", hits_addend=7)
    for number in range(3):
        descriptor = message.descriptors.add()
        for entry in range(number):
            descriptor.entries.add(key=b"k%d" % entry, value=bytes(range(100 * entry, 100 * entry + 100)))
        if number:
            descriptor.hits_addend.value = 200 * number
    data = message.SerializeToString()
    found = put_together(twin, data)
    assert found is not None
    assert request_of(message) == found._replace(key=b"")
    assert type(found) is Request
    assert "hits_addend=400" in repr(found.descriptors[2])


@BOTH
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x0a",
        plain(200)[:-1],
        plain(value=b"x" * 128),
        plain(200) + b"\x20\x01",
        plain() + plain(),
    ],
)
def test_other_forms_are_left_to_protobuf(twin: ModuleType, data: bytes) -> None:
    assert twin.split(data) is None


def test_a_number_of_ten_bytes_is_left_to_protobuf() -> None:
    """The compiled twin does not implement protobuf's truncation of such numbers."""
    assert _wire.split(plain(2**63)) is None
    assert (2**63,) == (wire.split(plain(2**63)) or ((), ()))[1]


@BOTH
@given(st.integers(0, 2**53 - 1))
@example(0)
@example(2**7)
@example(2**14)
@example(2**21)
@example(2**32)
def test_numbers_are_written_as_protobuf_writes_them(twin: ModuleType, number: int) -> None:
    """The remaining budget saturates at 2^32-1."""
    status = RateLimitResponse.DescriptorStatus(limit_remaining=min(number, 2**32 - 1))
    assert (status.SerializeToString() or b"\x18\x00") == twin.limit_remaining(number)
    assert RateLimitRequest(hits_addend=number & 0xFFFFFFFF).SerializeToString()[1:] == (
        twin.varint(number & 0xFFFFFFFF) if number & 0xFFFFFFFF else b""
    )


def test_the_garbage_collector_does_not_visit_what_is_cached_of_a_request() -> None:
    """Thousands of new requests would be visited twice. Their parts are bytes and numbers, in no cycle."""
    parts = _wire.split(plain(5))
    assert parts is not None
    key, hits, _ = parts
    read = _wire.read(key)
    assert read is not None
    _, entries = read
    cached = [hits, entries, entries[0], entries[0][0], _wire.hidden([])]
    assert [False] * 5 == [gc.is_tracked(each) for each in cached]
    assert wire.hidden(()) == _wire.hidden(())


_HOLD_TEXTS = st.sampled_from([b"hold", b"phase", b"done", b"", b"-", b"x" * 130, b"holds", b"team"])
_PARTS = st.builds(
    lambda key, value: (
        (b"\n" + wire.varint(len(key)) + key) * (key != b"team")
        + (b"\x12" + wire.varint(len(value)) + value) * (value != b"team")
    ),
    _HOLD_TEXTS,
    _HOLD_TEXTS,
)
"""Entries, some without a key or a value."""


def by_protobuf(data: bytes, entries: HoldEntries) -> Request | None:
    """Return a request as protobuf reads it, without `entries`; None if it is malformed."""
    try:
        return request_of(RateLimitRequest.FromString(data), entries)
    except DecodeError:
        return None


@st.composite
def _with_hold_entries(draw: st.DrawFn) -> bytes:
    """Return a serialized request with hold entries, maybe with fields in unusual places."""
    whole = b"\n\x01d"
    for _ in range(draw(st.integers(0, 3))):
        parts = draw(st.lists(_PARTS.map(lambda part: b"\n" + wire.varint(len(part)) + part), max_size=4))
        parts += draw(st.sampled_from([[], [b"\x1a\x02\x08\x05"], [b"\x1a\x00"], [b"\x12\x02\x10\x01"]]))
        if draw(st.integers(0, 5)) == 0:
            parts = draw(st.permutations(parts))
        descriptor = b"".join(parts)
        whole += b"\x12" + wire.varint(len(descriptor)) + descriptor
    return whole + draw(st.sampled_from([b"", b"\x18\x07", b"\x18\x00", b"\x20\x01"]))


@pytest.mark.fuzz
@pytest.mark.parametrize(
    "entries",
    [DEFAULT_ENTRIES, NO_ENTRIES, HoldEntries(b"hold"), HoldEntries(b"", Entry(b"phase", b"done"))],
    ids=["both", "none", "id", "done"],
)
@given(data=_with_hold_entries() | messages() | mangled() | st.binary(max_size=60))
@example(data=b"\n\x01d\x12\xff\x7f\n\x00")  # a descriptor that ends far behind the message
@example(data=b"\n\x01d\x12\x04\n\x7f\n\x00")  # an entry that ends behind its descriptor
@example(data=b"\n\x01d\x12\x04\n\x02\n\x7f")  # a key that ends behind its entry
@example(data=b"\n\x01d\x12\x80\x00")  # a size in two bytes where one would do
@example(data=b"\n\x01d\x12\x80")
@example(data=b"\n\x01d" + b"\x12\x80\x00" * 340)
def test_hold_entries_are_taken_off_as_protobuf_does(entries: HoldEntries, data: bytes) -> None:
    """What is left is read as protobuf reads it, or the whole request is left to protobuf."""
    found = _wire.take_off(data, entries.id_key, entries.done)
    if found is None:
        return
    rest, returned = found
    assert len(rest) <= len(data)
    expected, left = by_protobuf(data, entries), by_protobuf(rest, NO_ENTRIES)
    if expected is None or left is None:
        assert expected is left
        return
    assert (expected.returned or (None,) * len(expected.descriptors)) == returned
    assert expected._replace(returned=()) == left


def test_a_charge_with_an_id_is_not_left_to_protobuf() -> None:
    """Nor is one whose id is longer than the other texts of the plain form."""
    for text in (b"-", b"x" * 100, b"x" * 500):
        message = RateLimitRequest.FromString(plain(200))
        message.descriptors[0].entries.add(key=b"hold", value=text)
        data = message.SerializeToString()
        assert (plain(200), (text,)) == _wire.take_off(data, b"hold", None)


@BOTH
@pytest.mark.parametrize("size", [1, 100, 107, 108, 109, 110, 111, 112, 127, 128, 129, 500, 2_048])
def test_the_metadata_of_a_hold_is_that_of_protobuf(twin: ModuleType, size: int) -> None:
    expected = RateLimitResponse()
    expected.dynamic_metadata.update({"hold": "x" * size})
    assert expected.SerializeToString() == twin.hold_metadata("x" * size)


def test_the_compiled_twin_refuses_an_id_beyond_its_buffer() -> None:
    with pytest.raises(ValueError, match="2048 characters"):
        _wire.hold_metadata("x" * 2_049)


@BOTH
def test_a_request_gets_what_came_back(twin: ModuleType) -> None:
    request = Request("d", (), 7, b"key", repeats=True)
    expected = Request("d", (), 7, b"key", returned=(b"id",))
    found = twin.with_returned(request, (b"id",))
    assert expected == found
    assert type(found) is Request
