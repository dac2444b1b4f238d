"""Between the messages of the protocol and the nouns of core."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import DecodeError

from ..core.errors import InvalidRequest
from ..core.model import UINT32_MAX, Code, Decision, Descriptor, Entry, Override, Request, Status
from ..core.planning import MOST_DESCRIPTORS, MOST_ENTRIES
from ..proto.ratelimit_pb2 import RateLimitDescriptor, RateLimitRequest, RateLimitResponse

_CODES: Any = {code: RateLimitResponse.Code.Value(code.name) for code in Code}


def decode(data: bytes) -> Request:
    """A serialized RateLimitRequest as a Request. Raises InvalidRequest where it is none."""
    try:
        message = RateLimitRequest.FromString(data)
    except DecodeError as error:
        raise InvalidRequest(f"the message is not a RateLimitRequest: {error}") from None
    return request_of(message)


def request_of(message: RateLimitRequest) -> Request:
    """A RateLimitRequest as a Request. Raises InvalidRequest where it is larger than a request may be.

    The planning refuses those too, but to read two million descriptors for it takes seconds, in which nobody is served.
    """
    if len(message.descriptors) > MOST_DESCRIPTORS:
        raise InvalidRequest(
            f"a request may have {MOST_DESCRIPTORS} descriptors, not {len(message.descriptors)}"
        )
    return Request(
        message.domain,
        tuple([_descriptor(descriptor) for descriptor in message.descriptors]),
        message.hits_addend,
    )


def _descriptor(message: RateLimitDescriptor) -> Descriptor:
    if len(message.entries) > MOST_ENTRIES:
        raise InvalidRequest(f"a descriptor may have {MOST_ENTRIES} entries, not {len(message.entries)}")
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
    """A decision as a serialized RateLimitResponse."""
    return response_of(decision).SerializeToString()


def response_of(decision: Decision) -> RateLimitResponse:
    """A decision as a RateLimitResponse. Numbers that the protocol cannot carry saturate at 2^32-1."""
    response = RateLimitResponse()
    response.overall_code = _CODES[decision.code]
    statuses = response.statuses
    for status in decision.statuses:
        _write_status(statuses.add(), status)
    for name, value in decision.headers:
        # `value`, because Envoy does not read `raw_value` here.
        response.response_headers_to_add.add(key=name, value=value)
    if decision.body:
        response.raw_body = decision.body
    if decision.dynamic_metadata is not None:
        response.dynamic_metadata.update(decision.dynamic_metadata)
    return response


def _write_status(message: Any, status: Status) -> None:
    message.code = _CODES[status.code]
    message.limit_remaining = min(status.remaining, UINT32_MAX)
    if status.limit is not None:
        limit = status.limit
        current = message.current_limit
        current.requests_per_unit = min(limit.amount, UINT32_MAX)
        current.unit = int(limit.window.unit)
        current.name = limit.name
        if limit.window.multiplier != 1:
            current.unit_multiplier.value = limit.window.multiplier
        message.duration_until_reset.seconds = status.reset
