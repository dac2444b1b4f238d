"""ShouldRateLimit in JSON, as protobuf maps it, but with entries' keys and values as plain strings.

They are `bytes` in our proto (proto/ratelimit.proto says why), which protobuf's JSON would have in base64.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator
from typing import Any, Never, Protocol

from google.protobuf import json_format
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from ..core import model
from ..core.errors import InternalError, InvalidRequest, RateLimitServiceError
from ..core.model import Code, Decision
from ..core.text import printable, shorten
from ..proto.ratelimit_pb2 import RateLimitRequest, RateLimitResponse
from ..service import RateLimitService
from .plain import text

LARGEST_BODY = 1_048_576
"""Bytes."""

_LONGEST_COMPLAINT = 500

_STATUS = {Code.OK: 200, Code.OVER_LIMIT: 429}


class Codec(Protocol):
    """Between the messages of the protocol and the nouns of core (transports/codec.py is one)."""

    def request_of(self, message: RateLimitRequest) -> model.Request:
        """A RateLimitRequest as a Request."""
        ...

    def response_of(self, decision: Decision) -> RateLimitResponse:
        """A decision as a RateLimitResponse."""
        ...


class JsonEndpoint:
    """Answers /json with upstream's status codes: 200 for OK, 429 for OVER_LIMIT, 400 for what went wrong."""

    def __init__(self, service: RateLimitService, codec: Codec) -> None:
        self._service = service
        self._codec = codec

    async def answer(self, request: Request) -> Response:
        """One request, whatever its method and content type."""
        try:
            body = await _read(request)
            if body is None:
                return text(f"Content Too Large: the body may have {LARGEST_BODY} bytes at most", 413)
            decision = await self._service.should_rate_limit(self._codec.request_of(parse(body)))
        except InternalError as error:
            return text(f"Internal Server Error: {error}", 500)
        except RateLimitServiceError as error:
            complaint = " ".join(str(error).split())  # protobuf's have several lines
            return text(f"Bad Request: {shorten(printable(complaint), _LONGEST_COMPLAINT)}", 400)
        except ClientDisconnect:
            return text("Bad Request: the body ended early", 400)  # nobody is there to read it
        message = json_format.MessageToJson(self._codec.response_of(decision), indent=None)
        return Response(message, _STATUS[decision.code], media_type="application/json")


async def _read(request: Request) -> bytes | None:
    """The body, or None where it is too large."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > LARGEST_BODY:
            return None
    return bytes(body)


def parse(body: bytes) -> RateLimitRequest:
    """The RateLimitRequest that `body` is in JSON. Raises InvalidRequest where it is none."""
    try:
        data = json.loads(body.decode(), parse_constant=_refuse_constant, object_pairs_hook=_object)
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"the body is not UTF-8: byte {error.start} is wrong") from None
    except RecursionError:
        raise InvalidRequest("the body is nested too deeply") from None
    except ValueError as error:
        raise InvalidRequest(f"the body is not JSON: {error}") from None
    if not isinstance(data, dict):
        raise InvalidRequest('the body must be a JSON object: {"domain": ..., "descriptors": [...]}')
    _entries_to_base64(data)
    message = RateLimitRequest()
    try:
        json_format.ParseDict(data, message)
    except json_format.ParseError as error:
        raise InvalidRequest(f"the body is not a RateLimitRequest: {error}") from None
    except Exception as error:
        # ParseDict has an error of its own for most that is wrong, and any of Python's for the rest.
        raise InvalidRequest(f"the body is not a RateLimitRequest: {type(error).__name__}: {error}") from None
    return message


def _refuse_constant(name: str) -> Never:
    raise ValueError(f"{name} is not a JSON number")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the name {name!r} stands twice in one object")
        found[name] = value
    return found


def _entries_to_base64(data: dict[str, Any]) -> None:
    """Write the keys and values of all entries as protobuf's JSON has bytes."""
    for descriptor, there in _objects(data, "descriptors", ""):
        for entry, where in _objects(descriptor, "entries", f"{there}."):
            for name in ("key", "value"):
                if entry.get(name) is not None:
                    entry[name] = _base64(entry[name], f"{where}.{name}")


def _objects(parent: dict[str, Any], name: str, where: str) -> Iterator[tuple[dict[str, Any], str]]:
    """The objects in the list `name` of `parent`, each with its path; none where it is null or absent."""
    items = parent.get(name)
    if items is None:
        return
    if not isinstance(items, list):
        raise InvalidRequest(f"{where}{name} must be a list")
    for place, item in enumerate(items):
        if not isinstance(item, dict):
            raise InvalidRequest(f"{where}{name}[{place}] must be an object")
        yield item, f"{where}{name}[{place}]"


def _base64(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise InvalidRequest(f"{where} must be a string")
    try:
        return b64encode(value.encode()).decode()
    except UnicodeEncodeError:
        raise InvalidRequest(f"{where} has half of a surrogate pair, which is no character") from None
