"""Two answers to one request, and their differences."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from google.protobuf import json_format

from ...core.answers.explanation import EXPLANATION
from ...proto.ratelimit_pb2 import RateLimitRequest, RateLimitResponse

CLOCKS = 2
"""Seconds by which two answers may differ in the end of a window: each service has its own clock, and rounds.
"""

EXPLAIN = RateLimitRequest(explain=True).SerializeToString()
"""Appended to the bytes of any request, this asks this service for an explanation of its answer: the last
value of a field applies."""

_Code = RateLimitResponse.Code
_Unit = RateLimitResponse.RateLimit.Unit


class Answer(NamedTuple):
    """The answer of a service: the name of a gRPC status, its details, and the response if it is OK."""

    status: str
    details: str = ""
    response: RateLimitResponse | None = None

    @classmethod
    def of(cls, data: bytes) -> Answer:
        """Return the answer in the bytes of a response."""
        return cls("OK", "", RateLimitResponse.FromString(data))


class Difference(NamedTuple):
    """One field in which two answers differ; `place` is the descriptor that it belongs to, or None."""

    field: str
    theirs: Any
    ours: Any
    place: int | None = None

    @property
    def name(self) -> str:
        """The field without the descriptor's number: `statuses.code`."""
        return re.sub(r"\[\d+\]", "", self.field)


def explained(answer: Answer) -> dict[str, Any]:
    """Return the explanation in an answer; empty if it has none."""
    if answer.response is None:
        return {}
    found = json_format.MessageToDict(answer.response.dynamic_metadata).get(EXPLANATION)
    return found if isinstance(found, dict) else {}


def differences(theirs: Answer, ours: Answer) -> list[Difference]:
    """Return every field in which two answers differ.

    The details of errors, which are for people, are not compared.
    """
    if theirs.status != ours.status:
        return [Difference("grpc_status", theirs.status, ours.status)]
    if theirs.response is None or ours.response is None:
        return []
    return list(_in_responses(theirs.response, ours.response))


def _in_responses(theirs: RateLimitResponse, ours: RateLimitResponse) -> Iterator[Difference]:
    if theirs.overall_code != ours.overall_code:
        yield Difference("overall_code", _name(_Code, theirs.overall_code), _name(_Code, ours.overall_code))
    if len(theirs.statuses) != len(ours.statuses):
        yield Difference("statuses", len(theirs.statuses), len(ours.statuses))
    for place, (one, other) in enumerate(zip(theirs.statuses, ours.statuses, strict=False)):
        for name, value in _status(one).items():
            mine = _status(other)[name]
            if value != mine and not (name == "duration_until_reset" and abs(value - mine) <= CLOCKS):
                yield Difference(f"statuses[{place}].{name}", value, mine, place)
    for kind in ("response_headers_to_add", "request_headers_to_add"):
        one_headers, other_headers = _headers(getattr(theirs, kind)), _headers(getattr(ours, kind))
        for name in sorted(one_headers.keys() | other_headers.keys()):
            pair = one_headers.get(name), other_headers.get(name)
            if name == "retry-after" and all(_waits(each) for each in (theirs, ours)):
                continue
            if not _alike(*pair, times=name.endswith("reset")):
                yield Difference(f"{kind}.{name}", *pair)
    if _words(theirs.raw_body) != _words(ours.raw_body):
        yield Difference("raw_body", _text(theirs.raw_body), _text(ours.raw_body))
    yield from _in_metadata(_metadata(theirs), _metadata(ours))


def _status(status: RateLimitResponse.DescriptorStatus) -> dict[str, Any]:
    limit = status.current_limit
    return {
        "code": _name(_Code, status.code),
        "limit_remaining": status.limit_remaining,
        "duration_until_reset": status.duration_until_reset.seconds,
        "current_limit": limit.requests_per_unit if status.HasField("current_limit") else None,
        "current_limit.unit": _name(_Unit, limit.unit),
        "current_limit.unit_multiplier": limit.unit_multiplier.value or 1,
        "current_limit.name": limit.name,
    }


def _name(enum: Any, number: int) -> str:
    """Return the name of a value; its number if the service has a newer definition that names it."""
    try:
        return str(enum.Name(number))
    except ValueError:
        return str(number)


def _headers(headers: Any) -> dict[str, str]:
    return {header.key.lower(): header.value or _text(header.raw_value) for header in headers}


def _alike(one: str | None, other: str | None, *, times: bool) -> bool:
    if one == other:
        return True
    if not (times and one and other and one.isdecimal() and other.isdecimal()):
        return False
    return abs(int(one) - int(other)) <= CLOCKS


def _waits(response: RateLimitResponse) -> bool:
    """Return whether a Retry-After ends when there is room again, or later: a random part is added to it."""
    value = _headers(response.response_headers_to_add).get("retry-after", "")
    over = [
        status.duration_until_reset.seconds for status in response.statuses if status.code == _Code.OVER_LIMIT
    ]
    return value.isdecimal() and int(value) >= max(over, default=0)


def _words(body: bytes) -> bytes:
    """Return a body without its numbers, which change with time, and are in the statuses as well."""
    return re.sub(rb"\d+", b"0", body)


def _in_metadata(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> Iterator[Difference]:
    for key in sorted(theirs.keys() | ours.keys()):
        if theirs.get(key) != ours.get(key):
            yield Difference(f"dynamic_metadata.{key}", theirs.get(key), ours.get(key))


def _metadata(response: RateLimitResponse) -> dict[str, Any]:
    """Return the dynamic metadata without the requested explanation.

    Spaces in some texts of upstream are not stable.
    """
    if response.dynamic_metadata.fields.keys() <= {EXPLANATION}:
        return {}
    found: dict[str, Any] = json_format.MessageToDict(response.dynamic_metadata)
    found.pop(EXPLANATION, None)
    for descriptor in found.get("descriptors", []):
        if isinstance(descriptor, dict) and isinstance(descriptor.get("limit"), str):
            descriptor["limit"] = descriptor["limit"].split()
    return found


def _text(value: bytes) -> str:
    return value.decode(errors="backslashreplace")
