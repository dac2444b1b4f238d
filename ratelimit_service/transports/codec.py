"""Between the messages of the protocol and the nouns of core.

protobuf reads and writes them, but for two short cuts, whose worth docs/performance.md shows:

- A request of nothing but entries and hits is like the one before it with the same bytes, but for the numbers of hits. So
  its other bytes are looked up, and only the numbers are read (`part`). Whatever is not plainly of this form goes to protobuf.
- The frame of a status is written here; the parts of an answer that stay the same are protobuf's, and remembered.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from google.protobuf.message import DecodeError
from google.protobuf.wrappers_pb2 import UInt64Value

from ..core.bounds import DEFAULT_BOUNDS, RequestBounds
from ..core.errors import InvalidRequest
from ..core.model import (
    OK,
    OVER_LIMIT,
    STATUS_CODE,
    STATUS_LIMIT,
    STATUS_REMAINING,
    STATUS_RESET,
    UINT32_MAX,
    Code,
    Decision,
    Descriptor,
    Entry,
    Header,
    Limit,
    Override,
    Request,
)
from ..core.recent import MIB, Recent, remembered
from ..core.text import header_text
from ..proto.ratelimit_pb2 import RateLimitDescriptor, RateLimitRequest, RateLimitResponse
from .counting import check


def decode(data: bytes, bounds: RequestBounds = DEFAULT_BOUNDS) -> Request:
    """A serialized RateLimitRequest as a Request. Raises InvalidRequest where it is none, or asks for too much.

    The planner holds requests to the bounds as well; here they save parsing a long message.
    """
    if len(data) > _LONGEST:
        return _read(data, bounds)
    return _newest(data) or _requests.get(data) or _decode(data, bounds)


def _decode(data: bytes, bounds: RequestBounds) -> Request:
    parted = part(data)
    if parted is None:
        request = _read(data, bounds)
        _requests.put(data, request)
        return request
    key, hits, addend = parted
    form = _forms.get(key)
    if form is None:
        request = _read(data, bounds)._replace(key=key)
        weight = _weight_of_request(data, request)
        form = key, request.domain, [descriptor.entries for descriptor in request.descriptors], weight
        _forms.put(key, form, weight)
    else:
        key, domain, entries, weight = form
        request = Request(domain, tuple(map(Descriptor, entries, hits)), addend, key)
    _requests.put(data, request, weight)
    return request


_Form = tuple[bytes, str, list[tuple[Entry, ...]], int]
"""A request without its numbers of hits: the key of all such requests, one object for them all, the domain, the entries.
And the weight of such a request."""


def _weight_of_request(data: bytes, request: Request) -> int:
    descriptors = request.descriptors
    entries = sum([len(descriptor.entries) for descriptor in descriptors])
    return 350 + 2 * len(data) + 110 * len(descriptors) + 150 * entries


_requests: Recent[bytes, Request] = Recent(4 * MIB, _weight_of_request)
"""Checks, half of all calls, are the same bytes again and again."""

_forms: Recent[bytes, _Form] = Recent(4 * MIB, lambda key, form: form[3])

_newest = _requests.newest

_LONGEST = 1_000
"""Bytes of a request that is worth remembering."""

# The tags of fields: their number, and how their value is written.
_DOMAIN, _DESCRIPTOR = 0x0A, 0x12
_ENTRY, _HITS = 0x0A, 0x1A
_MORE = 0x80

_LONGEST_ADDEND = 6
"""Bytes of a hits_addend as protobuf writes it."""


def part(data: bytes) -> tuple[bytes, list[int | None], int] | None:
    """A serialized request in parts: all that is not a number of hits, the hits of each descriptor, and its hits_addend.

    None where it has anything but one domain, descriptors of entries and hits, and a hits_addend, in this order, with texts
    of at most 127 bytes. Whether the domain and the entries are well formed is for protobuf to say: requests with the same
    first part are all good or all bad, and mean the same but for their hits.
    """
    try:
        if data[0] != _DOMAIN or data[1] & _MORE:
            return None
        begin, at, whole = 0, 2 + data[1], len(data)
        kept: list[bytes] = []
        hits: list[int | None] = []
        while at < whole and data[at] == _DESCRIPTOR:
            size = data[at + 1]
            at += 2
            if size & _MORE:
                if data[at] & _MORE:
                    return None
                size = size & 0x7F | data[at] << 7
                at += 1
            end = at + size
            while at < end and data[at] == _ENTRY:
                if data[at + 1] & _MORE:
                    return None
                at += 2 + data[at + 1]
            if at == end:
                hits.append(None)
            elif at < end <= whole and data[at] == _HITS and at + 2 + data[at + 1] == end:
                kept.append(data[begin:at])
                hits.append(_value(data[at + 2 : end]))
                at = begin = end
            else:
                return None
        kept.append(data[begin:at])
        if whole - at > _LONGEST_ADDEND:
            return None
        addend = _addend(data[at:]) if at != whole else 0
    except (IndexError, DecodeError):
        return None
    return (b"".join(kept), hits, addend) if addend is not None else None


@lru_cache(maxsize=10_000)
def _value(data: bytes) -> int:
    value: int = UInt64Value.FromString(data).value
    return value


@lru_cache(maxsize=10_000)
def _addend(data: bytes) -> int | None:
    """The hits_addend of a request of which this is the end; None where there is something else in it."""
    request = RateLimitRequest.FromString(data)
    alone = RateLimitRequest(hits_addend=request.hits_addend)
    return request.hits_addend if alone.SerializeToString() == data else None


def _read(data: bytes, bounds: RequestBounds) -> Request:
    if len(data) > 2 * bounds.descriptors:  # a field takes two bytes at least
        check(data, bounds)
    try:
        message = RateLimitRequest.FromString(data)
    except DecodeError as error:
        raise InvalidRequest(f"the message is not a RateLimitRequest: {error}") from None
    return request_of(message)


def request_of(message: RateLimitRequest) -> Request:
    """A RateLimitRequest as a Request."""
    return Request(
        message.domain,
        tuple([_descriptor(descriptor) for descriptor in message.descriptors]),
        message.hits_addend,
        explain=message.explain,
    )


def _descriptor(message: RateLimitDescriptor) -> Descriptor:
    # hits_addend is a presence field: there and 0 is a check, not there is the request's hits_addend.
    return Descriptor(
        tuple([Entry(entry.key, entry.value) for entry in message.entries]),
        message.hits_addend.value if message.HasField("hits_addend") else None,
        _override(message.limit) if message.HasField("limit") else None,
        message.is_negative_hits,
    )


def _override(limit: Any) -> Override:
    return Override(limit.requests_per_unit, limit.unit, max(1, limit.unit_multiplier.value))


def encode(decision: Decision) -> bytes:
    """A decision as a serialized RateLimitResponse. Numbers that the protocol cannot carry saturate at 2^32-1."""
    parts = [_OVERALL_OK if decision.code is OK else _OVERALL_REFUSED]
    for status in decision.status_values:
        code, limit = status[STATUS_CODE], status[STATUS_LIMIT]
        remaining, reset = status[STATUS_REMAINING], status[STATUS_RESET]
        left = _left(remaining) if remaining else b""
        if limit is None:
            head = _FREE if code is OK else _REFUSED
            behind = _reset(reset) if reset else b""
            parts += (b"\x12", _varint(len(head) + len(left) + len(behind)), head, left, behind)
        else:
            known = _newest_limit(id(limit))
            if known is None or known[0] != reset:
                known = _limited(limit, reset)
            # The fields are in the order of their numbers.
            parts += ((known[1] if code is OK else known[2])[len(left)], left, known[3])
    if decision.headers:
        parts.append(_headers(decision.headers))
    body = decision.body
    if body:
        parts += (b"*", _varint(len(body)), body)
    if decision.dynamic_metadata is not None:
        response = RateLimitResponse()
        response.dynamic_metadata.update(decision.dynamic_metadata)
        parts.append(response.SerializeToString())
    return b"".join(parts)


def response_of(decision: Decision) -> RateLimitResponse:
    """A decision as a RateLimitResponse for people, who see the names of limits as they were written."""
    response = RateLimitResponse.FromString(encode(decision))
    for status, values in zip(response.statuses, decision.status_values, strict=True):
        limit = values[STATUS_LIMIT]
        if limit is not None:
            status.current_limit.name = limit.name
    return response


def _left(remaining: int) -> bytes:
    """The field limit_remaining."""
    if remaining < _MORE:
        return b"\x18" + _ENDING[remaining]
    if remaining < _MORE << 7:
        return _LEFT[remaining & 0x7F] + _ENDING[remaining >> 7]
    if remaining < _MORE << 14:
        return _LEFT[remaining & 0x7F] + _GOING_ON[remaining >> 7 & 0x7F] + _ENDING[remaining >> 14]
    return b"\x18" + _varint(remaining if remaining < UINT32_MAX else UINT32_MAX)


def _varint(value: int) -> bytes:
    """Groups of seven bits, the lowest first, all but the last with the eighth bit set."""
    groups = []
    while value >= _MORE:
        groups.append(_GOING_ON[value & 0x7F])
        value >>= 7
    groups.append(_ENDING[value])
    return b"".join(groups)


_ENDING = [bytes([value]) for value in range(_MORE)]
_GOING_ON = [bytes([value | _MORE]) for value in range(_MORE)]
_LEFT = [b"\x18" + group for group in _GOING_ON]
_LONGEST_LEFT = 6


# What follows is protobuf's own output, remembered.


def _status(code: int) -> RateLimitResponse.DescriptorStatus:
    return RateLimitResponse.DescriptorStatus(code=code)  # type: ignore[arg-type]


_OVERALL_OK, _OVERALL_REFUSED = (RateLimitResponse(overall_code=code).SerializeToString() for code in Code)  # type: ignore[arg-type]
_FREE, _REFUSED = (_status(code).SerializeToString() for code in Code)


_Limited = tuple[int, list[bytes], list[bytes], bytes, Limit]
"""A reset, and the status of a limit that resets then: what is before its limit_remaining, where it is OK and where it is
OVER_LIMIT, by the length of that field; and what is behind it. With the limit, so that it stays."""


def _weight_of_limited(identity: int, limited: _Limited) -> int:
    return 1_600 + 2 * _LONGEST_LEFT * len(limited[4].name)


_limits: Recent[int, _Limited] = Recent(4 * MIB, _weight_of_limited)
"""Those of the last reset, by the identity of the limit, which nothing else has as long as it is in here."""

_newest_limit = _limits.newest


def _limited(limit: Limit, reset: int) -> _Limited:
    behind = _reset(reset)
    known = _limits.get(id(limit))
    if known is not None and len(known[3]) == len(behind):
        ok, refused = known[1], known[2]
    else:
        ok, refused = _before(OK, limit, len(behind)), _before(OVER_LIMIT, limit, len(behind))
    known = (reset, ok, refused, behind, limit)
    _limits.put(id(limit), known)
    return known


def _before(code: Code, limit: Limit, behind: int) -> list[bytes]:
    status = _status(code)
    current = status.current_limit
    current.requests_per_unit = min(limit.amount, UINT32_MAX)
    current.unit = int(limit.window.unit)  # type: ignore[assignment]
    current.name = header_text(limit.name)  # Envoy copies it into a header
    if limit.window.multiplier != 1:
        current.unit_multiplier.value = limit.window.multiplier
    head = status.SerializeToString()
    return [b"\x12" + _varint(len(head) + left + behind) + head for left in range(_LONGEST_LEFT + 1)]


@lru_cache(maxsize=10_000)
def _reset(seconds: int) -> bytes:
    status = RateLimitResponse.DescriptorStatus()
    status.duration_until_reset.seconds = seconds
    return status.SerializeToString()


def _weight_of_headers(headers: tuple[tuple[Header, ...]], encoded: bytes) -> int:
    return 300 + 4 * len(encoded)


@remembered(MIB, _weight_of_headers)
def _headers(headers: tuple[Header, ...]) -> bytes:
    response = RateLimitResponse()
    for name, value in headers:
        # `value`, because Envoy does not read `raw_value` here.
        response.response_headers_to_add.add(key=name, value=value)
    return response.SerializeToString()
