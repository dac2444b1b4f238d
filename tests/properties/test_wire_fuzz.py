"""Any bytes of a request are decided on, or refused as invalid."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimit_service.core.answers.dialects import DIALECTS
from ratelimit_service.core.answers.refusal import HEADERS
from ratelimit_service.core.errors import InvalidRequest
from ratelimit_service.core.matching.tree import RuleTree
from ratelimit_service.core.model import (
    COUNTER_MAX,
    UINT32_MAX,
    Code,
    Decision,
    Descriptor,
    Entry,
    Limit,
    Override,
    Status,
    Unit,
    Window,
)
from ratelimit_service.core.plan import Policy
from ratelimit_service.core.rules.reader import load
from ratelimit_service.observe.metrics import Metrics
from ratelimit_service.proto.ratelimit_pb2 import RateLimitRequest, RateLimitResponse
from ratelimit_service.service import RateLimitService
from ratelimit_service.sources.yaml_text import read
from ratelimit_service.transports.codec import make_decode, make_encode
from tests.limiter import MIDNIGHT, RecordedCall, RecordingStore

from .wire import field, messages, requests

RULES = (
    """
    domain: d
    descriptors:
      - key: team
        rate_limit: {requests_per_unit: 10, unit: hour, name: 'h"é'}
        metadata: {tier: gold, deep: {a: [1, null, 2.5], b: {}}}
        descriptors: [{key: path, rate_limit: {requests_per_unit: 0, unit: day}}]
      - key: team
        value: dba
        detailed_metric: true
        rate_limit: {requests_per_unit: 4294967295, unit: year}
      - {key: path, value: /api/*, share_threshold: true, rate_limit: {requests_per_unit: 1, unit: second}}
      - key: user
        value_to_metric: true
        rate_limit: {requests_per_unit: 3, unit: minute, unit_multiplier: 7}
      - key: free
        rate_limit: {unlimited: true, replaces: [{name: 'h"é'}]}
        metadata: {tier: free, deep: {b: {c: 1}}}
      - {key: trial, rate_limit: {requests_per_unit: 2, unit: week}, shadow_mode: true, metadata: {deep: 1}}
      - {key: quota, rate_limit: {requests_per_unit: 2, unit: month}, quota_mode: true}
    """,
    """
    domain: budgets
    time_zone: Europe/Berlin
    unmatched: deny
    required_keys: [team]
    descriptors:
      - key: team
        rate_limits:
          - {name: hourly, unit: hour, tokens_per_unit: 10}
          - {name: monthly, unit: month, starts_on: 15, tokens_per_unit: 9007199254740991}
        denial_message: >-
          {rule} of {descriptor}: {used} of {limit} in this {unit}, back in {reset_seconds} s, at {resets_at}
        descriptors: [{key: path, rate_limit: {unit: day, tokens_per_unit: 0}, quota_mode: true}]
      - {key: user, rate_limit: {unit: week, tokens_per_unit: 2}, count_refused: false, shadow_mode: true}
      - {key: trial, rate_limit: {unit: week, tokens_per_unit: 2}, limit_headers: on_refusal}
      - key: path
        rate_limits:
          - {unit: minute, requests_per_unit: 1}
          - {unit: minute, unit_multiplier: 2, requests_per_unit: 9}
    """,
)
TREE = RuleTree(load([read(f"{number}.yaml", text) for number, text in enumerate(RULES)]).domains)

policies = st.builds(
    Policy,
    shadow_mode=st.booleans(),
    quota_mode=st.booleans(),
    stop_when_over=st.booleans(),
    dynamic_metadata=st.booleans(),
    limit_header=st.sampled_from(["", "RateLimit-Limit"]),
    remaining_header=st.just("RateLimit-Remaining"),
    reset_header=st.just("RateLimit-Reset"),
    refusal_headers=st.sampled_from([frozenset(), frozenset(HEADERS)]),
    error_format=st.sampled_from(["", *DIALECTS]),
    error_details=st.sampled_from(["full", "minimal"]),
    ietf_fields=st.booleans(),
)

OK, OVER_LIMIT = RateLimitResponse.OK, RateLimitResponse.OVER_LIMIT


def serve(batch: Sequence[bytes], policy: Policy | None = None) -> list[str]:
    """Return `OK`, `OVER_LIMIT` or `invalid` for each message of a batch, with an empty store.

    The service reports anything else, and raises, because there is no event loop here.
    """
    store, metrics = RecordingStore(), Metrics()
    service = RateLimitService(store, metrics, lambda: MIDNIGHT, policy)
    service.use(TREE)
    calls: list[RecordedCall | None] = []
    for data in batch:
        try:
            calls.append(RecordedCall(make_decode()(data)))
        except InvalidRequest:
            calls.append(None)
    service.submit([call for call in calls if call is not None])
    check_counters(store)
    metrics.counters()
    return ["invalid" if call is None else check_answer(call) for call in calls]


def check_answer(call: RecordedCall) -> str:
    (answer,) = call.answers
    if isinstance(answer, InvalidRequest):
        return "invalid"
    assert isinstance(answer, Decision), answer
    response = RateLimitResponse.FromString(make_encode()(answer))
    assert len(call.request.descriptors) == len(response.statuses)
    assert {response.overall_code, *[status.code for status in response.statuses]} <= {OK, OVER_LIMIT}
    for status in response.statuses:
        if status.HasField("current_limit"):
            assert 1 <= status.current_limit.unit <= 7
            assert 1 <= status.duration_until_reset.seconds <= 315_576_000_000
            assert re.fullmatch(r"[ -~]*", status.current_limit.name)
            assert status.limit_remaining <= status.current_limit.requests_per_unit
        elif status.HasField("duration_until_reset"):  # of a rule that shows its limit only in a refusal
            assert OK == status.code
            assert 1 <= status.duration_until_reset.seconds <= 315_576_000_000
        else:
            assert (
                OK == status.code or "budgets" == call.request.domain
            )  # which refuses descriptors that no rule matches
            assert status.limit_remaining in (0, UINT32_MAX)
    for header in response.response_headers_to_add:
        assert re.fullmatch(r"[-A-Za-z]+: [ -~]+", f"{header.key}: {header.value}")
    if response.raw_body:
        assert OVER_LIMIT == response.overall_code
        body = json.loads(response.raw_body)
        assert (body["detail"] if "detail" in body else body["error"]["message"]).isprintable()
    return RateLimitResponse.Code.Name(response.overall_code)


def check_counters(store: RecordingStore) -> None:
    """Check that every hit is valid for a store, and that every counter is within its bounds."""
    for hit in [hit for hand_over in store.asked for group in hand_over for hit in group]:
        assert re.fullmatch(r"[!-~]+", hit.key)
        assert -COUNTER_MAX <= hit.amount <= COUNTER_MAX
        assert hit.ttl >= 1
        held: list[Any] = []
        store.hit([[hit.changed(amount=0)]], held.extend)
        assert 0 <= held[0][0] <= COUNTER_MAX


@pytest.mark.fuzz
@given(st.lists(messages, min_size=1, max_size=3), policies)
def test_any_bytes_are_decided_or_refused(batch: list[bytes], policy: Policy) -> None:
    """Nothing is raised, and every call of a batch has one answer that can be encoded."""
    assert len(batch) == len(serve(batch, policy))


@pytest.mark.fuzz
@given(requests(), policies)
def test_a_well_formed_request_is_decided(request: RateLimitRequest, policy: Policy) -> None:
    """It is refused only for an empty domain, no descriptors, or an unknown unit."""
    wrong = not request.domain or not request.descriptors
    wrong |= any(one.HasField("limit") and not 1 <= one.limit.unit <= 7 for one in request.descriptors)
    (outcome,) = serve([request.SerializeToString()], policy)
    assert wrong is (outcome == "invalid")


@pytest.mark.fuzz
@given(requests(), st.binary(max_size=20), st.integers(0, 2**64 - 1))
def test_unknown_fields_change_nothing(request: RateLimitRequest, text: bytes, number: int) -> None:
    """A newer gateway gets the same answer as an older one."""
    plain = request.SerializeToString()
    newer = plain + field(99, text) + field(100, number)
    for descriptor in request.descriptors:
        descriptor.MergeFromString(field(15, text))
        for entry in descriptor.entries:
            entry.MergeFromString(field(16, number))
    assert serve([plain]) == serve([newer]) == serve([request.SerializeToString()])


def message(*descriptors: bytes, domain: bytes = b"d") -> bytes:
    """Return a RateLimitRequest with these encoded descriptors."""
    return field(1, domain) + b"".join([field(2, descriptor) for descriptor in descriptors])


def entry(key: bytes, value: bytes) -> bytes:
    return field(1, field(1, key) + field(2, value))


def hits(number: int) -> bytes:
    return field(3, field(1, number))


def override(amount: int, unit: int) -> bytes:
    return field(2, field(1, amount) + field(2, unit & (2**64 - 1)))


TEAM = entry(b"team", b"a")


EDGES = {
    # as large as it gets
    "as many descriptors as may be": (
        message(*[entry(b"team", b"%d" % number) for number in range(100)]),
        "OK",
    ),
    "as many of the same": (message(*[TEAM] * 100), "OVER_LIMIT"),
    "one more": (message(*[TEAM] * 101), "invalid"),
    "10,000 without entries": (message(*[b""] * 10_000), "invalid"),
    "as many entries as may be": (message(TEAM * 100), "OK"),
    "one entry more": (message(b"", TEAM * 101), "invalid"),
    "as many entries in all as may be": (message(*[TEAM * 100] * 10), "OK"),
    "one entry more in all": (message(*[TEAM * 100] * 10, TEAM), "invalid"),
    "a value of 64 kB": (message(entry(b"team", b"x" * 65_536)), "OK"),
    "a key of 64 kB": (message(entry(b"x" * 65_536, b"\xff" * 65_536)), "OK"),
    "a domain of 64 kB": (message(TEAM, domain=b"x" * 65_536), "OK"),
    # any byte in a key or a value, but only text in the domain
    "a value of all bytes": (message(entry(b"team", bytes(range(256)))), "OK"),
    "a value of a NUL": (message(entry(b"team", b"\x00")), "OK"),
    "a domain with a NUL": (message(TEAM, domain=b"d\x00"), "OK"),
    "a domain that is not UTF-8": (message(TEAM, domain=b"\xff"), "invalid"),
    "half of a surrogate pair": (message(TEAM, domain=b"\xed\xa0\x80"), "invalid"),
    # numbers: at the limit and over it, at the ends of their types, and beyond
    "exactly full": (message(TEAM + hits(10)), "OK"),
    "one over": (message(TEAM + hits(11)), "OVER_LIMIT"),
    "the largest uint64": (message(TEAM + hits(2**64 - 1)), "OVER_LIMIT"),
    "a refund of the largest": (message(TEAM + hits(2**64 - 1) + field(4, 1)), "OK"),
    "the largest for all": (message(TEAM) + field(3, 2**32 - 1), "OVER_LIMIT"),
    # an empty hits_addend is there, and 0: a check, not one hit
    "ten hits and a check": (message(TEAM + field(3, b""), *[TEAM] * 10), "OK"),
    "eleven hits": (message(*[TEAM] * 11), "OVER_LIMIT"),
    # the last of a field that is there more than once
    "two hits_addend": (message(TEAM + hits(11) + hits(1)), "OK"),
    "two domains": (
        message(TEAM, domain=b"unknown") + field(1, b"d") + field(2, TEAM + hits(10)),
        "OVER_LIMIT",
    ),
    # limits of the request's own
    "a limit of 0": (message(TEAM + override(0, 3)), "OVER_LIMIT"),
    "the largest limit": (message(TEAM + override(2**32 - 1, 7)), "OK"),
    "an empty limit": (message(TEAM + field(2, b"")), "invalid"),
    "unit 8": (message(TEAM + override(1, 8)), "invalid"),
    "unit -1": (message(TEAM + override(1, -1)), "invalid"),
    "the largest unit": (message(TEAM + override(1, 2**31 - 1)), "invalid"),
    # nothing to decide on
    "nothing": (b"", "invalid"),
    "an empty domain": (message(TEAM, domain=b""), "invalid"),
    "no descriptors": (message(), "invalid"),
    "a descriptor without entries": (message(b""), "OK"),
    # no message
    "a zero": (b"\x00", "invalid"),
    "ones": (b"\xff" * 1000, "invalid"),
    "an end too early": (message(TEAM)[:-1], "invalid"),
    "groups in groups without end": (b"\x0b" * 100_000, "invalid"),
    "a number for a domain": (field(1, 1), "invalid"),
}


@pytest.mark.parametrize("data, expected", EDGES.values(), ids=EDGES)
def test_edge_cases_are_decided_too(data: bytes, expected: str) -> None:
    """They have extreme sizes, bytes, numbers and structures."""
    assert [expected] == serve([data])


def test_a_request_arrives_as_it_was_sent() -> None:
    """Every field is present once."""
    data = message(TEAM + override(7, 4) + hits(5) + field(4, 1), entry(b"k", b"\xff")) + field(3, 9)
    request = make_decode()(data)
    first, second = request.descriptors
    assert ("d", 9) == (request.domain, request.hits_addend)
    assert Descriptor((Entry(b"team", b"a"),), 5, Override(7, 4), negative=True) == first
    assert Descriptor((Entry(b"k", b"\xff"),)) == second


amounts = st.integers(0, COUNTER_MAX) | st.sampled_from(
    [0, UINT32_MAX - 1, UINT32_MAX, UINT32_MAX + 1, COUNTER_MAX]
)


@given(
    amounts, amounts, st.sampled_from(list(Unit)[1:]), st.integers(1, UINT32_MAX), st.sampled_from(list(Code))
)
def test_numbers_that_the_protocol_cannot_carry_saturate(
    amount: int, remaining: int, unit: Unit, multiplier: int, code: Code
) -> None:
    """The bound is the largest uint32. Other numbers are unchanged."""
    limit = Limit(amount, Window(unit, multiplier), "name")
    decision = Decision(code, [Status(code, limit, remaining, 60)], [])
    (status,) = RateLimitResponse.FromString(make_encode()(decision)).statuses
    current = status.current_limit
    assert [min(amount, UINT32_MAX), min(remaining, UINT32_MAX)] == [
        current.requests_per_unit,
        status.limit_remaining,
    ]
    assert [int(unit), int(code), 60] == [current.unit, status.code, status.duration_until_reset.seconds]
    assert (multiplier if multiplier != 1 else 0) == current.unit_multiplier.value
