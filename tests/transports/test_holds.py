"""Holds over each transport: the id in the answer to a check, and the charge that returns it."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import grpc
import pytest
from google.protobuf import json_format

from ratelimit_service.amending.secret import hold_ids
from ratelimit_service.core.holds.entries import HoldEntries
from ratelimit_service.core.matching.tree import RuleTree
from ratelimit_service.core.model import Entry
from ratelimit_service.core.plan import Policy
from ratelimit_service.core.rules.reader import load
from ratelimit_service.deadlines import Patience
from ratelimit_service.proto.ratelimit_pb2 import RateLimitRequest, RateLimitResponse
from ratelimit_service.sources.yaml_text import read
from testing.waiting import until

from .serving import Served, Start

RULES = """
domain: llm
descriptors:
  - {key: team, rate_limit: {unit: hour, tokens_per_unit: 100}, hold: 60, hold_max: 100%}
"""
TREE = RuleTree(load([read("rules.yaml", RULES)]).domains)
ENTRIES = HoldEntries(b"hold", Entry(b"phase", b"done"))
BUCKET = "{llm|team=a}"


async def served(start: Start, policy: dict[str, Any] | None = None, **more: Any) -> Served:
    ids = hold_ids()
    ids.use(b"secret")
    return await start(tree=TREE, policy=Policy(hold_entries=ENTRIES, **(policy or {})), ids=ids, **more)


def message(hits: int, *entries: tuple[str, str], padding: int = 0) -> bytes:
    request = RateLimitRequest(domain="llm")
    descriptor = request.descriptors.add()
    for key, value in (("team", "a"), *entries):
        descriptor.entries.add(key=key.encode(), value=value.encode())
    descriptor.hits_addend.value = hits
    for _ in range(padding):
        request.descriptors.add().entries.add(key=b"other", value=b"x" * 100)
    return request.SerializeToString()


def id_in(answer: RateLimitResponse) -> str:
    return str(json_format.MessageToDict(answer.dynamic_metadata).get("hold", ""))


CHECK = message(0)


async def passed(served: Served) -> list[str]:
    """Return the ids of the checks that pass now, of five."""
    answers = [await served.call(CHECK) for _ in range(5)]
    return [id_in(answer) for answer in answers if answer.overall_code == RateLimitResponse.OK]


@pytest.mark.parametrize("padding", [0, 20], ids=["short", "longer than what is cached"])
async def test_an_id_comes_back_with_the_charge(start: Start, padding: int) -> None:
    """The charge ends the hold and counts once. Hits of 0 release it. The entry with the id is not part of
    the bucket.
    """
    one = await served(start)
    first, second = await passed(one)
    for _ in range(2):
        await one.call(message(10, ("hold", first), padding=padding))
    assert {f"{BUCKET}:hour:2026-11-21T08Z": 10} == await one.store.read_bucket(BUCKET)
    (third,) = await passed(one)
    for each in (second, third):
        await one.call(message(0, ("hold", each), padding=padding))
    assert 2 == len(await passed(one))


async def test_the_marker_of_an_end_is_taken_off(start: Start) -> None:
    """It releases a hold without an id. Another value of its key is an ordinary entry."""
    one = await served(start)
    assert 2 == len(await passed(one))
    await one.call(message(0, ("phase", "done")))
    assert 1 == len(await passed(one))
    answer = await one.call(message(0, ("phase", "begun")))
    assert not answer.statuses[0].HasField("current_limit")


async def test_a_refusal_has_no_id_and_a_retry_soon(start: Start) -> None:
    """Gateways would return an id with hits of 0."""
    one = await served(start, {"refusal_headers": frozenset(["retry-after"])})
    await passed(one)
    answer = await one.call(CHECK)
    assert ("", RateLimitResponse.OVER_LIMIT) == (id_in(answer), answer.overall_code)
    assert [("retry-after", "2")] == [(header.key, header.value) for header in answer.response_headers_to_add]
    assert 2 == answer.statuses[0].duration_until_reset.seconds


async def test_the_id_is_beside_the_metadata_of_the_rules(start: Start) -> None:
    """Both are in the answer with RESPONSE_DYNAMIC_METADATA."""
    one = await served(start, {"dynamic_metadata": True})
    answer = await one.call(CHECK)
    assert {"domain", "descriptors", "hold"} == set(json_format.MessageToDict(answer.dynamic_metadata))


async def test_a_cancelled_call_holds_nothing(start: Start) -> None:
    """Its caller disconnects while the store works, and would never return the id."""
    one = await served(start, hold=True)
    calls = [asyncio.ensure_future(one.call(CHECK)) for _ in range(5)]
    await until(lambda: len(one.held) >= 1 and one.server.in_hand == len(calls))
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    before = len(one.held)
    other = asyncio.ensure_future(
        one.call(message(0, ("no", "rule")))
    )  # behind the resets, on their connection
    await until(lambda: len(one.held) > before)
    while one.held:
        one.held.pop(0)()
        await asyncio.sleep(0)
    await other
    holds = one.store.holds.find(f"{BUCKET}:held")
    assert holds is not None
    assert {} == holds.slots


async def test_a_check_that_was_answered_at_its_deadline_holds_nothing(start: Start) -> None:
    """The store answers later, and the hold is released then."""
    one = await served(start, hold=True, patience=Patience(margin=0.05, otherwise=0.05))
    with suppress(grpc.RpcError):
        await one.call(CHECK, patience=None)
    holds = one.store.holds.find(f"{BUCKET}:held")
    assert holds is not None
    assert 1 == len(holds.slots)
    while one.held:
        one.held.pop(0)()
    assert {} == holds.slots


async def test_the_bytes_of_an_id_elsewhere_are_no_id(start: Start) -> None:
    """A value that looks like the entry may be in any key, and the message is read as any other."""
    one = await served(start)
    mark = "\n\x04hold\x12\x01x"
    answer = await one.call(message(0, ("other", mark)))
    assert not answer.statuses[0].HasField("current_limit")
    assert 2 == len(await passed(one))


async def test_an_entry_in_an_unusual_encoding_is_taken_off_as_well(start: Start) -> None:
    """Its length is in more bytes than it needs, which protobuf reads as the same message."""
    one = await served(start)
    first, second = await passed(one)
    for each in (first, second, first):
        plain = message(10, ("hold", each))
        entry = RateLimitRequest.FromString(plain).descriptors[0].entries[1].SerializeToString()
        longer = entry.replace(b"\x0a\x04hold", b"\x0a\x84\x00hold")
        request = RateLimitRequest.FromString(plain)
        del request.descriptors[0].entries[1]
        rest = request.descriptors[0].SerializeToString()
        descriptor = _field(0x0A, longer) + rest
        await one.call(_field(0x0A, b"llm") + _field(0x12, descriptor))
    assert {f"{BUCKET}:hour:2026-11-21T08Z": 20} == await one.store.read_bucket(BUCKET)
    assert 2 == len(await passed(one))


def _field(tag: int, value: bytes) -> bytes:
    size = len(value)
    return bytes([tag, *([size & 0x7F | 0x80, size >> 7] if size > 0x7F else [size])]) + value
