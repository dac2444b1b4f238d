"""A serialized RateLimitRequest in its plain form: split from its numbers of hits, read, and put together
again; and the numbers of an answer.

The plain form is what Envoy and agentgateway send: one domain, descriptors of entries and maybe hits, and
maybe a hits_addend, in this order, with texts of at most 127 bytes. `codec.py` gives any other form to
protobuf.

`_wire.pyx` is the compiled twin of this module. It may leave input to protobuf that this module reads, but it
never reads input differently: tests/transports/test_wire.py compares both with each other and with protobuf.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TypeVar

from google.protobuf.message import DecodeError
from google.protobuf.wrappers_pb2 import UInt64Value

from ..core.model import UINT32_MAX, Descriptor, Entry, Request
from ..proto.ratelimit_pb2 import RateLimitRequest

T = TypeVar("T")

Split = tuple[bytes, tuple[int | None, ...], int]
"""The key of a request, the hits of each descriptor, and the hits_addend."""

Entries = tuple[tuple[Entry, ...], ...]

# The tags of fields: their number, and how their value is written.
_DOMAIN, _DESCRIPTOR = 0x0A, 0x12
_ENTRY, _HITS = 0x0A, 0x1A
_MORE = 0x80

_LONGEST_ADDEND = 6
"""Bytes of a hits_addend as protobuf writes it."""


def split(data: bytes) -> Split | None:
    """Split the numbers of hits from a serialized request; None unless it has the plain form.

    The key is the same request without hits and without a hits_addend, serialized. This does not validate the
    domain and the entries, as `read` does. Of requests with the same key, either all are valid or none is,
    and they differ only in their hits.
    """
    try:
        if data[0] != _DOMAIN or data[1] & _MORE:
            return None
        at, whole = 2 + data[1], len(data)
        kept = [data[:at]]
        hits: list[int | None] = []
        while at < whole and data[at] == _DESCRIPTOR:
            size = data[at + 1]
            at += 2
            if size & _MORE:
                if data[at] & _MORE:
                    return None
                size = size & 0x7F | data[at] << 7
                at += 1
            begin, end = at, at + size
            while at < end and data[at] == _ENTRY:
                if data[at + 1] & _MORE:
                    return None
                at += 2 + data[at + 1]
            kept += (_head(at - begin), data[begin:at])
            if at == end:
                hits.append(None)
            elif at < end <= whole and data[at] == _HITS and at + 2 + data[at + 1] == end:
                hits.append(_value(data[at + 2 : end]))
                at = end
            else:
                return None
        if whole - at > _LONGEST_ADDEND:
            return None
        addend = _addend(data[at:]) if at != whole else 0
    except (IndexError, DecodeError):
        return None
    return (b"".join(kept), tuple(hits), addend) if addend is not None else None


def read(key: bytes) -> tuple[str, Entries] | None:
    """Return the domain of a key, and the entries of each descriptor; None if it is no valid request."""
    try:
        message = RateLimitRequest.FromString(key)
    except DecodeError:
        return None
    return message.domain, tuple(
        [tuple([Entry(entry.key, entry.value) for entry in each.entries]) for each in message.descriptors]
    )


def request_of(
    domain: str, entries: Entries, hits: tuple[int | None, ...], addend: int, key: bytes, repeats: bool
) -> Request:
    """Return a request in the plain form, from its parts."""
    return Request(domain, tuple(map(Descriptor, entries, hits)), addend, key, repeats=repeats)


def take_off(
    data: bytes, id_key: bytes, done: tuple[bytes, bytes] | None
) -> tuple[bytes, tuple[bytes | None, ...]] | None:
    """Return a request without its hold entries, and Request.returned; None leaves it to protobuf.

    `id_key` and `done` are those of HoldEntries. Only the compiled module reads requests here: ids are longer
    than the texts of the plain form, and protobuf took a quarter of the time of a charge with an id.
    """
    return None


def with_returned(request: Request, returned: tuple[bytes | None, ...]) -> Request:
    """Return a request with what came back with its descriptors."""
    return request._replace(returned=returned, repeats=False)


@lru_cache(maxsize=1_000)
def _head(size: int) -> bytes:
    """Return the tag and the size of a descriptor."""
    low, high = size & 0x7F, size >> 7
    return bytes((_DESCRIPTOR, low | _MORE, high)) if high else bytes((_DESCRIPTOR, low))


@lru_cache(maxsize=10_000)
def _value(data: bytes) -> int:
    value: int = UInt64Value.FromString(data).value
    return value


@lru_cache(maxsize=10_000)
def _addend(data: bytes) -> int | None:
    """Return the hits_addend that is all of `data`, the end of a request; None if there is anything else."""
    request = RateLimitRequest.FromString(data)
    alone = RateLimitRequest(hits_addend=request.hits_addend)
    return request.hits_addend if alone.SerializeToString() == data else None


def hidden(made: T) -> T:
    """Return a new object that is in no cycle; where this is compiled, the garbage collector does not visit
    it.
    """
    return made


def limit_remaining(remaining: int) -> bytes:
    """Return the field limit_remaining of a status; it saturates at 2^32-1."""
    if remaining < _MORE:
        return b"\x18" + LAST[remaining]
    if remaining < _MORE << 7:
        return _LEFT[remaining & 0x7F] + LAST[remaining >> 7]
    if remaining < _MORE << 14:
        return _LEFT[remaining & 0x7F] + _CONTINUED[remaining >> 7 & 0x7F] + LAST[remaining >> 14]
    return b"\x18" + varint(remaining if remaining < UINT32_MAX else UINT32_MAX)


_OF_HOLD = (b"\x1a", b"\n\x04hold\x12", b"\n", b"2")
"""What precedes the sizes: of the string, of the value with it, of the entry, and of the Struct."""


def hold_metadata(text: str) -> bytes:
    """Return the field dynamic_metadata of an answer with {hold: text}, an id."""
    value = text.encode("ascii")
    for head in _OF_HOLD:
        value = head + varint(len(value)) + value
    return value


def varint(value: int) -> bytes:
    """Return groups of seven bits, the lowest first; all but the last have the eighth bit set."""
    groups = []
    while value >= _MORE:
        groups.append(_CONTINUED[value & 0x7F])
        value >>= 7
    groups.append(LAST[value])
    return b"".join(groups)


LAST = [bytes([value]) for value in range(_MORE)]
"""The last byte of a number, or all of a small one."""
_CONTINUED = [bytes([value | _MORE]) for value in range(_MORE)]
_LEFT = [b"\x18" + group for group in _CONTINUED]
