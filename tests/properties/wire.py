"""Requests on the wire: well-formed ones, ones with extreme numbers, and bytes that are almost a request."""

from __future__ import annotations

from hypothesis import strategies as st

from ratelimit_service.proto.ratelimit_pb2 import RateLimitDescriptor, RateLimitRequest

UINT32 = [0, 1, 2, 9, 10, 11, 2**31 - 1, 2**31, 2**32 - 1]
UINT64 = [*UINT32, 2**32, 2**53 - 1, 2**53, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1]
ENUM = [*range(-1, 10), 127, 128, 2**31 - 1, -(2**31)]
"""Values of an open enum: those that it has, and any other that an int32 can say."""

NAMES = [b"team", b"path", b"user", b"free", b"trial", b"quota", b"stranger", b"", b"team_dba"]
VALUES = [
    b"",
    b"dba",
    b"/api/v1",
    b"/api/*",
    b"*",
    b"a\x00b",
    b"\xff\xfe",
    b"\xed\xa0\x80",
    "é\u202e\x1b[31m".encode(),
]

texts = st.one_of(
    st.sampled_from(VALUES), st.binary(max_size=6), st.sampled_from([b"x" * 128, b"y" * 129, b"z" * 3000])
)
domains = st.sampled_from(
    ["d", "d", "d", "budgets", "budgets", "budgets", "", "unknown", "d\x00", "é\n", "x" * 5000]
)


@st.composite
def descriptors(draw: st.DrawFn) -> RateLimitDescriptor:
    """Return one descriptor of a well-formed message. It may be meaningless."""
    descriptor = RateLimitDescriptor()
    for key, value in draw(st.lists(st.tuples(st.sampled_from(NAMES) | texts, texts), max_size=3)):
        descriptor.entries.add(key=key, value=value)
    if draw(st.booleans()):
        descriptor.hits_addend.value = draw(st.sampled_from(UINT64))
    if draw(st.integers(0, 3)) == 0:
        descriptor.limit.requests_per_unit = draw(st.sampled_from(UINT32))
        descriptor.limit.unit = draw(st.sampled_from([1, 2, 3, 4, 5, 6, 7]) | st.sampled_from(ENUM))  # type: ignore[assignment]
        if draw(st.booleans()):
            descriptor.limit.unit_multiplier.value = draw(st.sampled_from(UINT32))
    descriptor.is_negative_hits = draw(st.booleans())
    return descriptor


@st.composite
def requests(draw: st.DrawFn) -> RateLimitRequest:
    """Return a well-formed message."""
    request = RateLimitRequest(domain=draw(domains), hits_addend=draw(st.sampled_from(UINT32)))
    request.descriptors.extend(draw(st.lists(descriptors(), max_size=4)))
    return request


def varint(number: int) -> bytes:
    """Return a number as protobuf encodes it, even if it is too large for any type."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def field(number: int, content: int | bytes, kind: int | None = None) -> bytes:
    """Return a field with its tag. `kind` is the wire type, normally 0 for a number and 2 for bytes."""
    right = 0 if isinstance(content, int) else 2
    tag = varint(number << 3 | (right if kind is None else kind))
    if isinstance(content, int):
        return tag + varint(content)
    return tag + varint(len(content)) + content


numbers = st.sampled_from([*UINT64, 2**64, 2**70 - 1, 2**69])  # the last three have more bits than any type
kinds = st.sampled_from([None] * 12 + [0, 1, 2, 3, 4, 5, 6, 7])


def fields(content: st.SearchStrategy[int | bytes]) -> st.SearchStrategy[bytes]:
    """Return known and unknown fields in any order, mostly with the right wire type."""
    known = st.integers(1, 4) | st.sampled_from([1, 2, 3, 4, 5, 19_000, 2**29 - 1])
    return st.lists(st.builds(field, known, content, kinds), max_size=4).map(b"".join)


nearly = fields(st.recursive(numbers | texts, lambda inner: numbers | texts | fields(inner), max_leaves=8))
"""Bytes with the structure of a message, whatever the fields mean."""


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Return a well-formed message with a few bytes changed, lost, repeated or inserted."""
    data = draw(requests()).SerializeToString()
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.sampled_from([0, 1, 1, 2, 8, 1000])))
        put = draw(
            st.one_of(
                st.just(b""), st.binary(max_size=3), st.just(data[start:end] * 2), st.just(b"\xff" * 10)
            )
        )
        data = data[:start] + put + data[end:]
    return data


messages = st.one_of(
    requests().map(lambda request: request.SerializeToString()), mutated(), nearly, st.binary(max_size=60)
)
"""What may arrive: bytes."""
