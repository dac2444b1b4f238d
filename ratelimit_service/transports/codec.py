"""Converts requests and answers between serialized protobuf messages and the types of core.

protobuf does that, except for two shortcuts, whose effect docs/performance.md shows:

- Many requests differ only in their numbers of hits. The bytes without these numbers are the key of a cache,
  and only the numbers are parsed (wire.py). protobuf parses requests of any other form.
- This module writes the framing of a status. The parts that do not change come from protobuf, and are cached.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from google.protobuf.message import DecodeError

from ..core.bounds import DEFAULT_BOUNDS, RequestBounds
from ..core.cache import MIB, BoundedCache
from ..core.errors import InvalidRequest
from ..core.holds.entries import NO_ENTRIES, HoldEntries
from ..core.matching.tree import RuleTree
from ..core.model import (
    OK,
    OVER_LIMIT,
    STATUS_LIMIT,
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
from ..core.text import header_text
from ..proto.ratelimit_pb2 import RateLimitDescriptor, RateLimitRequest, RateLimitResponse
from .answers import signal_fields
from .request_size import check
from .wire import Entries

try:
    from ._wire import hidden, hold_metadata, limit_remaining, read, split, take_off, varint, with_returned
    from ._wire import request_of as wire_request
except ImportError:  # not built
    from .wire import hidden, hold_metadata, limit_remaining, read, split, take_off, varint, with_returned
    from .wire import request_of as wire_request

_LONGEST = 1_000
"""Bytes of the longest request that is cached."""

_REQUESTS_BYTES = _FORMS_BYTES = _LIMITS_BYTES = 4 * MIB
_HEADERS_BYTES = MIB

Decode = Callable[[bytes], Request]
Encode = Callable[[Decision], bytes]


class Codec:
    """Decodes requests and encodes answers for one server. Every request passes through both functions."""

    def __init__(
        self, bounds: RequestBounds = DEFAULT_BOUNDS, hold_entries: HoldEntries = NO_ENTRIES
    ) -> None:
        self.decode: Decode = make_decode(bounds, hold_entries)
        self._encode = make_encode()
        self._rules: RuleTree | None = None

    def encode_for(self, rules: RuleTree | None) -> Encode:
        """Return a function that encodes decisions by these rules; its caches are released with them."""
        if rules is not self._rules:
            self._encode, self._rules = make_encode(), rules
        return self._encode


# Requests.


class _Form:
    """A request without its numbers of hits."""

    __slots__ = ("domain", "entries", "key", "last_addend", "last_hits", "weight")

    def __init__(self, key: bytes, domain: str, entries: Entries) -> None:
        self.key = key
        """One object for all requests of the form."""
        self.domain = domain
        self.entries = entries
        self.weight = _weight_of_form(key, entries)
        """Bytes of memory of such a request."""
        self.last_hits: tuple[int | None, ...] = ()
        self.last_addend = 0
        """The hits and the hits_addend of the last request that was not cached."""


def _weight_of_form(key: bytes, entries: Entries) -> int:
    of_entries = 150 * len(entries[0]) if len(entries) == 1 else 150 * sum(map(len, entries))
    return 350 + 2 * len(key) + 110 * len(entries) + of_entries


def _weight_of_request(data: bytes, request: Request) -> int:
    return _weight_of_form(data, tuple([descriptor.entries for descriptor in request.descriptors]))


def make_decode(bounds: RequestBounds = DEFAULT_BOUNDS, hold_entries: HoldEntries = NO_ENTRIES) -> Decode:
    """Return a function that decodes requests, and takes `hold_entries` off their descriptors.

    It is a closure, because attributes would make it a fifth slower.
    """
    requests: BoundedCache[bytes, Request] = BoundedCache(_REQUESTS_BYTES, _weight_of_request)
    forms: BoundedCache[bytes, _Form] = BoundedCache(_FORMS_BYTES, lambda key, form: form.weight)
    newest, older = requests.newest, requests.older
    newest_form, older_form = forms.newest, forms.older
    id_mark, done_mark = _marks(hold_entries)
    id_key, done_key = hold_entries.id_key, b"" if hold_entries.done is None else hold_entries.done.key

    def decode(data: bytes) -> Request:
        """Return a serialized RateLimitRequest as a Request.

        Raises InvalidRequest for anything else, and for requests that are too large: the planner checks their
        size as well, but this saves parsing a long message. Half of all calls are checks, which repeat the
        same bytes, so these are cached, and charges that repeat.
        """
        if len(data) > _LONGEST:
            return _parse(data, bounds, hold_entries)
        return newest(data) or older(data) or decode_new(data)

    def decode_new(data: bytes) -> Request:
        if (id_mark and id_mark in data) or (done_mark and done_mark in data):
            return decode_returned(data)
        parts = split(data)
        if parts is None:
            request = _parse(data, bounds, hold_entries)
            if not request.returned:
                requests.put(data, request)
            return request
        key, hits, addend = parts
        form: _Form | None = newest_form(key) or older_form(key) or new_form(key)
        if form is None:
            return _parse(data, bounds, hold_entries)
        repeats = not (addend or any(hits)) or (hits == form.last_hits and addend == form.last_addend)
        request = wire_request(form.domain, form.entries, hits, addend, form.key, repeats)
        if repeats:
            requests.put(data, request, form.weight)
        else:
            form.last_hits, form.last_addend = hits, addend
        return request

    def decode_returned(data: bytes) -> Request:
        """Decode a request with the id of a hold. The id differs each time; the rest of the request is
        cached.
        """
        parts = take_off(data, id_key, hold_entries.done)
        if parts is None:
            message = _message(data, bounds)
            returned = _take_off(message, hold_entries)
            parts = message.SerializeToString(), returned
        rest, returned = parts
        if not any([each is not None for each in returned]):  # other texts contain these bytes
            return _parse(data, bounds)
        return with_returned(decode(rest), returned)

    def new_form(key: bytes) -> _Form | None:
        """Return the form of a request; None if it has hold entries, whose unusual encoding has hidden their
        marks.
        """
        found = read(key)
        if found is None or len(found[1]) > bounds.descriptors:
            plain = _parse(key, bounds)
            found = plain.domain, tuple([descriptor.entries for descriptor in plain.descriptors])
        domain, entries = found
        # In any encoding, the key of an entry is in the message as it is: most messages have neither.
        suspect = (id_key and id_key in key) or (done_key and done_key in key)
        if suspect and any([hold_entries.take_off(each)[0] for each in entries]):
            return None
        form = hidden(_Form(key, domain, entries))
        forms.put(key, form, form.weight)
        return form

    return decode


def _parse(data: bytes, bounds: RequestBounds, hold_entries: HoldEntries = NO_ENTRIES) -> Request:
    return request_of(_message(data, bounds), hold_entries)


def _message(data: bytes, bounds: RequestBounds) -> RateLimitRequest:
    if len(data) > 2 * bounds.descriptors:  # a field takes two bytes at least
        check(data, bounds)
    try:
        return RateLimitRequest.FromString(data)
    except DecodeError as error:
        raise InvalidRequest(f"the message is not a RateLimitRequest: {error}") from None


def request_of(message: RateLimitRequest, hold_entries: HoldEntries = NO_ENTRIES) -> Request:
    """Return a RateLimitRequest as a Request, without `hold_entries`, which are taken off the message."""
    returned = _take_off(message, hold_entries) if hold_entries is not NO_ENTRIES else ()
    return Request(
        message.domain,
        tuple([_descriptor(descriptor) for descriptor in message.descriptors]),
        message.hits_addend,
        explain=message.explain,
        returned=returned if any([each is not None for each in returned]) else (),
    )


def _take_off(message: RateLimitRequest, hold_entries: HoldEntries) -> tuple[bytes | None, ...]:
    """Take `hold_entries` off a message, and return Request.returned."""
    found = []
    for descriptor in message.descriptors:
        places, returned = hold_entries.take_off([(entry.key, entry.value) for entry in descriptor.entries])
        for place in reversed(places):
            del descriptor.entries[place]
        found.append(returned)
    return tuple(found)


def _marks(hold_entries: HoldEntries) -> tuple[bytes, bytes]:
    """Return bytes that every message with such entries contains; empty for an entry that is off."""
    key, done = hold_entries
    id_mark = RateLimitDescriptor.Entry(key=key).SerializeToString()
    return id_mark, b"" if done is None else RateLimitDescriptor.Entry(
        key=done.key, value=done.value
    ).SerializeToString()


def _descriptor(message: RateLimitDescriptor) -> Descriptor:
    # hits_addend is a presence field: present and 0 is a check; absent means the hits_addend of the request.
    return Descriptor(
        tuple([Entry(entry.key, entry.value) for entry in message.entries]),
        message.hits_addend.value if message.HasField("hits_addend") else None,
        _override(message.limit) if message.HasField("limit") else None,
        message.is_negative_hits,
    )


def _override(limit: Any) -> Override:
    return Override(limit.requests_per_unit, limit.unit, max(1, limit.unit_multiplier.value))


# Answers.


def make_encode() -> Encode:
    """Return a function that encodes decisions."""
    # By the id of the Limit, which stays unique because the value refers to the Limit.
    limits: BoundedCache[int, _EncodedLimit] = BoundedCache(_LIMITS_BYTES, _weight_of_limit)
    headers: BoundedCache[tuple[Header, ...], bytes] = BoundedCache(_HEADERS_BYTES, _weight_of_headers)
    newest_limit = limits.newest

    def encode(decision: Decision) -> bytes:
        """Return a decision as a RateLimitResponse.

        Numbers that the protocol cannot carry saturate at 2^32-1.
        """
        parts = [_OVERALL_OK if decision.code is OK else _OVERALL_REFUSED]
        encoded: _EncodedLimit | None
        for code, limit, remaining, reset in decision.status_values:
            amount = limit_remaining(remaining) if remaining else b""
            if limit is None:
                head = _FREE if code is OK else _REFUSED
                tail = _reset(reset) if reset else b""
                parts += (b"\x12", varint(len(head) + len(amount) + len(tail)), head, amount, tail)
            else:
                encoded = newest_limit(id(limit))
                if encoded is None or encoded.reset != reset:
                    encoded = _encode_limit(limits, limit, reset)
                # The fields are in the order of their numbers.
                parts.append((encoded.ok if code is OK else encoded.refused)[len(amount)])
                parts.append(amount)
                parts.append(encoded.tail)
        if decision.headers:
            parts.append(headers.get(decision.headers) or _encode_headers(headers, decision.headers))
        body = decision.body
        if body:
            parts += (b"*", varint(len(body)), body)
        if decision.dynamic_metadata is not None:
            if decision.dynamic_metadata:
                response = RateLimitResponse()
                response.dynamic_metadata.update(decision.dynamic_metadata)
                parts.append(response.SerializeToString())
            if decision.signals is not None:
                parts.append(signal_fields(decision.signals))
        if decision.hold:  # a message that comes twice is merged
            parts.append(hold_metadata(decision.hold))
        return b"".join(parts)

    return encode


def response_of(decision: Decision) -> RateLimitResponse:
    """Return a decision as a RateLimitResponse for people, which has the names of limits as written."""
    response = RateLimitResponse.FromString(make_encode()(decision))
    for status, values in zip(response.statuses, decision.status_values, strict=True):
        limit = values[STATUS_LIMIT]
        if limit is not None:
            status.current_limit.name = limit.name
    return response


_LONGEST_LEFT = 6


# What follows is output of protobuf.


def _status(code: int) -> RateLimitResponse.DescriptorStatus:
    return RateLimitResponse.DescriptorStatus(code=code)  # type: ignore[arg-type]


_OVERALL_OK, _OVERALL_REFUSED = (RateLimitResponse(overall_code=code).SerializeToString() for code in Code)  # type: ignore[arg-type]
_FREE, _REFUSED = (_status(code).SerializeToString() for code in Code)


class _EncodedLimit:
    """The encoded status of a limit that resets in `reset` seconds."""

    __slots__ = ("limit", "ok", "refused", "reset", "tail")

    def __init__(self, reset: int, ok: list[bytes], refused: list[bytes], tail: bytes, limit: Limit) -> None:
        self.reset = reset
        self.ok = ok
        self.refused = refused
        """The bytes before limit_remaining in a status OK or OVER_LIMIT, by the length of that field."""
        self.tail = tail
        """The bytes after limit_remaining."""
        self.limit = limit
        """A reference, so that no other object gets its id."""


def _encode_limit(limits: BoundedCache[int, _EncodedLimit], limit: Limit, reset: int) -> _EncodedLimit:
    tail = _reset(reset)
    encoded = limits.get(id(limit))
    if encoded is not None and len(encoded.tail) == len(tail):
        ok, refused = encoded.ok, encoded.refused
    else:
        ok, refused = _heads(OK, limit, len(tail)), _heads(OVER_LIMIT, limit, len(tail))
    encoded = _EncodedLimit(reset, ok, refused, tail, limit)
    limits.put(id(limit), encoded)
    return encoded


def _weight_of_limit(identity: int, encoded: _EncodedLimit) -> int:
    return 1_600 + 2 * _LONGEST_LEFT * len(encoded.limit.name)


def _heads(code: Code, limit: Limit, tail: int) -> list[bytes]:
    """Return the bytes before limit_remaining, by the length of that field; `tail` bytes come after it."""
    status = _status(code)
    current = status.current_limit
    current.requests_per_unit = min(limit.amount, UINT32_MAX)
    current.unit = int(limit.window.unit)  # type: ignore[assignment]
    current.name = header_text(limit.name)  # Envoy copies it into a header
    if limit.window.multiplier != 1:
        current.unit_multiplier.value = limit.window.multiplier
    head = status.SerializeToString()
    return [b"\x12" + varint(len(head) + size + tail) + head for size in range(_LONGEST_LEFT + 1)]


@lru_cache(maxsize=10_000)
def _reset(seconds: int) -> bytes:
    status = RateLimitResponse.DescriptorStatus()
    status.duration_until_reset.seconds = seconds
    return status.SerializeToString()


def _weight_of_headers(headers: tuple[Header, ...], encoded: bytes) -> int:
    return 300 + 4 * len(encoded)


def _encode_headers(encoded: BoundedCache[tuple[Header, ...], bytes], headers: tuple[Header, ...]) -> bytes:
    response = RateLimitResponse()
    for name, value in headers:
        # `value`, because Envoy does not read `raw_value` here.
        response.response_headers_to_add.add(key=name, value=value)
    data = response.SerializeToString()
    encoded.put(headers, data)
    return data
