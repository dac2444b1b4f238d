"""Signals over each transport: headers for the upstream and the caller, and dynamic metadata."""

from __future__ import annotations

import re

import pytest
from google.protobuf import json_format

from ratelimit_service.amending.secret import hold_ids
from ratelimit_service.core.answers.signals import HIDDEN, Signal, Signals
from ratelimit_service.core.budgets.state import State
from ratelimit_service.core.holds.entries import HoldEntries
from ratelimit_service.core.matching.tree import RuleTree
from ratelimit_service.core.model import COUNTER_MAX, OK, Decision
from ratelimit_service.core.plan import Policy
from ratelimit_service.core.rules.reader import load
from ratelimit_service.proto.ratelimit_pb2 import RateLimitRequest, RateLimitResponse
from ratelimit_service.sources.yaml_text import read
from ratelimit_service.transports.answers import HEADERS, signal_fields
from ratelimit_service.transports.codec import make_encode

from .serving import Start

RULES = f"""
domain: llm
signal: [metadata, upstream, caller]
descriptors:
  - {{key: team, rate_limit: {{unit: hour, tokens_per_unit: 100}}, hold: 20}}
  - {{key: huge, rate_limit: {{unit: hour, tokens_per_unit: {COUNTER_MAX}}}}}
  - {{key: silent, rate_limit: {{unit: hour, tokens_per_unit: 100}}, signal: off}}
"""
TREE = RuleTree(load([read("rules.yaml", RULES)]).domains)


def message(hits: int, *entries: tuple[bytes, bytes]) -> bytes:
    request = RateLimitRequest(domain="llm")
    for key, value in entries:
        descriptor = request.descriptors.add()
        descriptor.entries.add(key=key, value=value)
        descriptor.hits_addend.value = hits
    return request.SerializeToString()


def shown(answer: RateLimitResponse) -> list[dict[str, str]]:
    """Return the headers for the upstream and the caller."""
    return [
        {header.key: header.value for header in headers}
        for headers in (answer.request_headers_to_add, answer.response_headers_to_add)
    ]


async def test_an_answer_carries_the_signals(start: Start) -> None:
    """They come in addition to the headers that Envoy makes of the statuses. A charge shows with the next
    check.
    """
    one = await start(tree=TREE, policy=Policy())
    for used, state, share in ((0, "ok", "0.0000"), (85, "low", "0.8500")):
        if used:
            await one.call(message(used, (b"team", b"a")))
        answer = await one.call(message(0, (b"team", b"a")))
        expected = dict(zip(HEADERS, (state, share, f"{100 - used}"), strict=True))
        assert [expected, expected] == shown(answer)
        metadata = json_format.MessageToDict(answer.dynamic_metadata)
        assert metadata == {
            "tokens_state": state,
            "tokens_used_share": float(share),
            "tokens_remaining": 100 - used,
            "tokens_remaining_text": f"{100 - used}",
        }


async def test_a_remainder_is_exact_in_64_bits(start: Start) -> None:
    """It is a number, which is a double, and text. The status of the protocol ends at 2^32 - 1."""
    one = await start(tree=TREE, policy=Policy())
    answer = await one.call(message(1, (b"huge", b"a")))
    assert f"{COUNTER_MAX - 1}" == shown(answer)[1]["x-tokens-remaining"]
    fields = answer.dynamic_metadata.fields
    assert COUNTER_MAX - 1 == int(fields["tokens_remaining"].number_value)
    assert f"{COUNTER_MAX - 1}" == fields["tokens_remaining_text"].string_value
    assert 2**32 - 1 == answer.statuses[0].limit_remaining


async def test_the_id_of_a_hold_is_beside_them(start: Start) -> None:
    """So is the metadata of the rules (RESPONSE_DYNAMIC_METADATA). Held tokens still count as remaining,
    because they may be released.
    """
    ids = hold_ids()
    ids.use(b"secret")
    policy = Policy(hold_entries=HoldEntries(b"hold", None), dynamic_metadata=True)
    one = await start(tree=TREE, policy=policy, ids=ids)
    for _ in range(2):
        answer = await one.call(message(0, (b"team", b"a")))
        assert "100" == shown(answer)[0]["x-tokens-remaining"]
        assert {"hold", "tokens_state", "domain", "descriptors"} <= set(answer.dynamic_metadata.fields)


async def test_a_refusal_and_a_rule_without_signal_carry_none(start: Start) -> None:
    """A descriptor without a limit carries none either."""
    one = await start(tree=TREE, policy=Policy())
    await one.call(message(100, (b"team", b"a")))
    for entry in ((b"team", b"a"), (b"silent", b"a"), (b"stranger", b"a")):
        answer = await one.call(message(0, entry))
        assert ([{}, {}], False) == (shown(answer), answer.HasField("dynamic_metadata"))


@pytest.mark.parametrize(
    "value", [b"a\r\nx-admin: yes", b"a\x00", b"\xff\xfe", b"x-tokens-state: ok", b"a" * 3_000]
)
async def test_headers_contain_no_text_from_the_request(value: bytes, start: Start) -> None:
    """Values of descriptors come from strangers. Headers consist of fixed words and digits."""
    one = await start(tree=TREE, policy=Policy())
    answer = await one.call(message(7, (b"team", value), (b"huge", value)))
    for headers in shown(answer):
        assert set(HEADERS) == set(headers)
        assert all(re.fullmatch(r"[a-z]+|[0-9.]+", text) for text in headers.values())


@pytest.mark.parametrize(
    "signal",
    [
        Signal(State.OK, 0, COUNTER_MAX),
        Signal(State.LOW, 9_999, 1),
        Signal(State.OVER, 10**8, 0),
        Signal(State.OVER, HIDDEN, HIDDEN),
    ],
)
def test_the_fields_are_those_that_protobuf_writes(signal: Signal) -> None:
    """The bytes are equal except for the order of a map. An answer with other metadata is merged."""
    told = Signals(None if signal.share == HIDDEN else signal, signal, signal)
    data = signal_fields(told)
    parsed = RateLimitResponse.FromString(data)
    assert len(data) == len(parsed.SerializeToString())
    whole = make_encode()(Decision(OK, [], [], (), b"", {"a": 1.0}, signals=told))
    answer = RateLimitResponse.FromString(whole)
    assert shown(parsed) == shown(answer)
    assert {"a", *parsed.dynamic_metadata.fields} == set(answer.dynamic_metadata.fields)
