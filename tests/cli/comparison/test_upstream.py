"""The 3,200 answers recorded from envoyproxy/ratelimit are compared with ours: each difference has a
reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest
from google.protobuf import json_format

from ratelimit_service.cli.comparison.answers import EXPLAIN, Answer
from ratelimit_service.cli.comparison.comparer import Comparer
from ratelimit_service.core.matching.tree import RuleTree
from ratelimit_service.core.model import Unit
from ratelimit_service.core.rules.reader import load
from ratelimit_service.core.windows.blocks import SECONDS
from ratelimit_service.observe.metrics import Metrics
from ratelimit_service.proto.ratelimit_pb2 import RateLimitDescriptor, RateLimitRequest, RateLimitResponse
from ratelimit_service.service import RateLimitService
from ratelimit_service.sources.yaml_text import read
from ratelimit_service.stores.memory import MemoryStore
from ratelimit_service.transports.codec import make_decode, make_encode

from ...vectors.test_answers import ANSWERS_THAT_DIFFER, NOW, on, policy, recorded


def request_of(step: Mapping[str, Any]) -> RateLimitRequest:
    """Return a recorded request as it was sent."""
    request = RateLimitRequest(domain=step["domain"], hits_addend=step.get("hits_addend", 0))
    for each in step["descriptors"]:
        descriptor = request.descriptors.add()
        for key, value in each["entries"]:
            descriptor.entries.add(key=key.encode(), value=value.encode())
        if "hits_addend" in each:
            descriptor.hits_addend.value = each["hits_addend"]
        if "limit" in each:
            amount, unit = each["limit"]
            descriptor.limit.CopyFrom(
                RateLimitDescriptor.RateLimitOverride(requests_per_unit=amount, unit=unit)
            )
    return request


def response_of(step: Mapping[str, Any], ours: RateLimitResponse) -> RateLimitResponse:
    """Return a recorded answer as it was sent.

    The recording has no resets. Those of statuses are computed for windows that are counted from 1970, and
    that of the header is copied from our answer.
    """
    response = RateLimitResponse(overall_code=step["overall_code"])
    for each in step["statuses"]:
        status = response.statuses.add(code=each["code"], limit_remaining=each["limit_remaining"])
        if "current_limit" in each:
            status.current_limit.CopyFrom(RateLimitResponse.RateLimit(**each["current_limit"]))
            length = SECONDS[Unit[each["current_limit"]["unit"]]]
            status.duration_until_reset.seconds = length - int(NOW) % length
    headers = {header.key: header.value for header in ours.response_headers_to_add}
    for name, value in step.get("response_headers_to_add", {}).items():
        response.response_headers_to_add.add(
            key=name, value=headers[name] if name == "RateLimit-Reset" else value
        )
    if "dynamic_metadata" in step:
        json_format.ParseDict(step["dynamic_metadata"], response.dynamic_metadata)
    return response


async def compared(number: int, **instead: str) -> Counter[str]:
    """Return the number of requests of a group by the reason for their difference; "" for none."""
    group, comparer = recorded()[number], Comparer()
    service = RateLimitService(
        MemoryStore(lambda: NOW), Metrics(), lambda: NOW, policy(group["env"] | instead)
    )
    documents = [read(name, text) for name, text in sorted(group["files"].items())]
    service.use(RuleTree(load(documents, merge_domains=on(group["env"], "MERGE_DOMAIN_CONFIG")).domains))
    reasons: Counter[str] = Counter()
    for step in group["steps"]:
        request = request_of(step["request"])
        asked = make_decode(service.policy.bounds)(request.SerializeToString() + EXPLAIN)
        ours = Answer.of(make_encode()(await service.should_rate_limit(asked)))
        assert ours.response is not None
        theirs = Answer.of(response_of(step["response"], ours.response).SerializeToString())
        found = comparer.compare(request, theirs, ours).findings
        reasons.update({finding.reason for finding in found})
    return reasons


async def test_each_recorded_answer_that_differs_has_its_reason() -> None:
    """A shadow rule that stops counting differs, with its consequences. The other 3,186 answers are equal."""
    found = {number: await compared(number) for number in range(len(recorded()))}
    assert {10: {"stopped": 2, "follows": 8}, 13: {"stopped": 4}} == {
        number: dict(reasons) for number, reasons in found.items() if reasons
    }
    assert {number: len(places) for number, places in ANSWERS_THAT_DIFFER.items()} == {
        number: reasons.total() for number, reasons in found.items() if reasons
    }


@pytest.mark.parametrize(
    "number, setting", [(0, "SHADOW_MODE"), (1, "STOP_CACHE_KEY_INCREMENT_WHEN_OVERLIMIT"), (2, "QUOTA_MODE")]
)
async def test_a_service_that_is_set_otherwise_differs_without_a_reason(number: int, setting: str) -> None:
    """No reason is wide enough to hide another configuration."""
    env = recorded()[number]["env"]
    assert (await compared(number, **{setting: "false" if on(env, setting) else "true"}))[""] > 0
