"""Requests and answers for the tests of comparisons."""

from __future__ import annotations

from typing import Any

from google.protobuf import json_format

from ratelimit_service.cli.comparison.answers import Answer
from ratelimit_service.proto.ratelimit_pb2 import RateLimitRequest, RateLimitResponse

HOUR = {"window": "hour", "unit": "HOUR", "multiplier": 1, "over": False}


def request(*descriptors: Any, domain: str = "llm", hits: int | None = 0) -> RateLimitRequest:
    """Return a request with a descriptor for each value of `team`; (value, hits) sets its own hits_addend."""
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
    """Return a status with an hourly limit."""
    current = {"requestsPerUnit": limit, "unit": "HOUR", **fields}
    code = "OVER_LIMIT" if over else "OK"
    return {"code": code, "limitRemaining": left, "currentLimit": current, "durationUntilReset": f"{reset}s"}


def answer(*statuses: dict[str, Any], rules: list[dict[str, Any]] | None = None, **fields: Any) -> Answer:
    """Return a response with these statuses, given as protobuf's JSON. Its explanation has `rules`."""
    over = any(each["code"] == "OVER_LIMIT" for each in statuses)
    said = {"overallCode": "OVER_LIMIT" if over else "OK", "statuses": list(statuses), **fields}
    if rules is not None:
        said["dynamicMetadata"] = {**said.get("dynamicMetadata", {}), "explanation": {"descriptors": rules}}
    return Answer.of(json_format.ParseDict(said, RateLimitResponse()).SerializeToString())
