"""Requests and answers, made as the tests of what differs need them."""

from __future__ import annotations

from typing import Any

from google.protobuf import json_format

from ratelimit_service.cli.comparison.answers import Answer
from ratelimit_service.proto.ratelimit_pb2 import RateLimitRequest, RateLimitResponse

HOUR = {"window": "hour", "unit": "HOUR", "multiplier": 1, "over": False}


def request(*descriptors: Any, domain: str = "llm", hits: int | None = 0) -> RateLimitRequest:
    """One with a descriptor for each of these, which are values of `team`, or (value, hits) with hits of
    their own.
    """
    made = RateLimitRequest(domain=domain)
    for each in descriptors:
        value, own = each if isinstance(each, tuple) else (each, hits)
        descriptor = made.descriptors.add()
        descriptor.entries.add(key=b"team", value=value if isinstance(value, bytes) else value.encode())
        if own is not None:
            descriptor.hits_addend.value = abs(own)
            descriptor.hits_addend.SetInParent()
            descriptor.is_negative_hits = own < 0
    return made


def status(
    left: int, *, limit: int = 100, over: bool = False, reset: int = 1_800, **fields: Any
) -> dict[str, Any]:
    """A status of a limit an hour."""
    current = {"requestsPerUnit": limit, "unit": "HOUR", **fields}
    code = "OVER_LIMIT" if over else "OK"
    return {"code": code, "limitRemaining": left, "currentLimit": current, "durationUntilReset": f"{reset}s"}


def answer(*statuses: dict[str, Any], rules: list[dict[str, Any]] | None = None, **fields: Any) -> Answer:
    """A response with these statuses, in the words of protobuf's JSON; `rules` are what it explains."""
    over = any(each["code"] == "OVER_LIMIT" for each in statuses)
    said = {"overallCode": "OVER_LIMIT" if over else "OK", "statuses": list(statuses), **fields}
    if rules is not None:
        said["dynamicMetadata"] = {**said.get("dynamicMetadata", {}), "explanation": {"descriptors": rules}}
    return Answer.of(json_format.ParseDict(said, RateLimitResponse()).SerializeToString())
