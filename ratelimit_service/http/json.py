"""ShouldRateLimit in JSON, by protobuf's mapping, but with the keys and values of entries as plain strings.

They are `bytes` in proto/ratelimit.proto (which says why); protobuf's JSON would have them in base64.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from google.protobuf import json_format

from ..core import model
from ..core.bounds import DEFAULT_BOUNDS, RequestBounds
from ..core.errors import InternalError, InvalidRequest, Overloaded, RateLimitServiceError
from ..core.holds.entries import HoldEntries
from ..core.model import Code, Decision
from ..core.text import fit
from ..core.trace_context import sent_in
from ..proto.ratelimit_pb2 import RateLimitRequest, RateLimitResponse
from ..service import RateLimitService
from .messages import IncompleteBody, Request, Response, text
from .strict_json import strict_json

LARGEST_BODY = 1_048_576
"""Bytes."""

MOST_HELD = 16 * LARGEST_BODY
"""Bytes of all incomplete bodies: otherwise a thousand slow connections could hold a gigabyte."""

_LONGEST_COMPLAINT = 500

_STATUS = {Code.OK: 200, Code.OVER_LIMIT: 429}


class Codec(Protocol):
    """Converts between the messages of the protocol and the nouns of core (transports/codec.py)."""

    def request_of(self, message: RateLimitRequest, hold_entries: HoldEntries = ...) -> model.Request:
        """Return the Request of a RateLimitRequest, without these entries."""
        ...

    def response_of(self, decision: Decision) -> RateLimitResponse:
        """Return the RateLimitResponse of a decision."""
        ...


class JsonEndpoint:
    """Answers /json with upstream's status codes: 200 for OK, 429 for OVER_LIMIT, 400 for an error."""

    def __init__(self, service: RateLimitService, codec: Codec) -> None:
        self._service = service
        self._codec = codec
        self._held = 0

    async def answer(self, request: Request) -> Response:
        """Answer a request with any method and content type."""
        trace = sent_in(request.headers, json=True) if self._service.traced else None
        submitted = False
        try:
            body = await self._read(request)
            if body is None:
                return text(f"Content Too Large: the body may have {LARGEST_BODY} bytes at most", 413)
            policy = self._service.policy
            asked = self._codec.request_of(parse(body, policy.bounds), policy.hold_entries)
            submitted = True
            decision = await self._service.should_rate_limit(asked, trace=trace)
        except Overloaded as error:
            return text(f"Service Unavailable: {error}", 503)
        except InternalError as error:
            return text(f"Internal Server Error: {error}", 500)
        except RateLimitServiceError as error:
            if not submitted:
                self._service.refused_early(trace, error)
            complaint = " ".join(str(error).split())  # protobuf's messages have several lines
            return text(f"Bad Request: {fit(complaint, _LONGEST_COMPLAINT)}", 400)
        except IncompleteBody:
            return text("Bad Request: the body ended early", 400)
        message = json_format.MessageToJson(self._codec.response_of(decision), indent=None)
        return Response(message.encode(), _STATUS[decision.code], "application/json")

    async def _read(self, request: Request) -> bytes | None:
        """Return the body; None if it is too large. Raises Overloaded or IncompleteBody."""
        body = bytearray()
        try:
            async for chunk in request.body:
                body += chunk
                self._held += len(chunk)
                if len(body) > LARGEST_BODY:
                    return None
                if self._held > MOST_HELD:
                    raise Overloaded(f"incomplete requests hold {MOST_HELD} bytes already")
            return bytes(body)
        finally:
            self._held -= len(body)


def parse(body: bytes, bounds: RequestBounds = DEFAULT_BOUNDS) -> RateLimitRequest:
    """Return the RateLimitRequest in a JSON body. Raises InvalidRequest if it is invalid or too large."""
    _check_size(body, bounds)
    data = strict_json(body)
    if not isinstance(data, dict):
        raise InvalidRequest('the body must be a JSON object: {"domain": ..., "descriptors": [...]}')
    domain = data.pop("domain") if isinstance(data.get("domain"), str) else ""
    _bytes(domain, "domain")
    descriptors = list(_descriptors(data))
    message = RateLimitRequest()
    try:
        json_format.ParseDict(data, message)
        message.domain = domain or message.domain
    except json_format.ParseError as error:
        raise InvalidRequest(f"the body is not a RateLimitRequest: {error}") from None
    except Exception as error:
        # ParseDict raises ParseError for most mistakes, and any exception of Python for the rest.
        raise InvalidRequest(f"the body is not a RateLimitRequest: {type(error).__name__}: {error}") from None
    for descriptor, entries in zip(message.descriptors, descriptors, strict=True):
        for key, value in entries:
            descriptor.entries.add(key=key, value=value)
    return message


def _check_size(body: bytes, bounds: RequestBounds) -> None:
    """Raise InvalidRequest if `body` has more objects or values than a request within `bounds` can have.

    Parsing a megabyte of `{}`, a third of a million objects, takes a second. So objects are counted first, in
    a few passes over the bytes. The planner has the exact count.
    """
    objects = 16 + 2 * bounds.descriptors + bounds.entries
    values = 16 + 8 * (bounds.descriptors + bounds.entries)
    # Without escapes, each quote begins or ends a string.
    text = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    if text.count(b'"') <= 4 * values:
        text = b"".join(text.split(b'"')[::2])
        if text.count(b"{") <= objects and text.count(b"[") + text.count(b",") <= values:
            return
    raise InvalidRequest(
        f"a request may have {bounds.descriptors} descriptors (REQUEST_MAX_DESCRIPTORS) and {bounds.entries} "
        "entries (REQUEST_MAX_ENTRIES) in all, and the body has more"
    )


def _descriptors(data: dict[str, Any]) -> Iterator[list[tuple[bytes, bytes]]]:
    """Remove the entries from each descriptor, and yield their keys and values.

    Entries are most of a request, and protobuf's JSON takes ten times as long for each.
    """
    for descriptor, there in _objects(data, "descriptors", ""):
        entries = []
        for entry, where in _objects(descriptor, "entries", f"{there}."):
            key, value = (_bytes(entry.pop(name, None), f"{where}.{name}") for name in ("key", "value"))
            if entry:
                raise InvalidRequest(f'{where} has no field named "{next(iter(entry))}": give key and value')
            entries.append((key, value))
        descriptor.pop("entries", None)
        yield entries


def _objects(parent: dict[str, Any], name: str, where: str) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield the objects in the list `name` of `parent`, each with its path. A list may be null or absent."""
    items = parent.get(name)
    if items is None:
        return
    if not isinstance(items, list):
        raise InvalidRequest(f"{where}{name} must be a list")
    for place, item in enumerate(items):
        if not isinstance(item, dict):
            raise InvalidRequest(f"{where}{name}[{place}] must be an object")
        yield item, f"{where}{name}[{place}]"


def _bytes(value: Any, where: str) -> bytes:
    if value is None:
        return b""
    if not isinstance(value, str):
        raise InvalidRequest(f"{where} must be a string")
    try:
        return value.encode()
    except UnicodeEncodeError:
        raise InvalidRequest(f"{where} has half of a surrogate pair, which is not a character") from None
