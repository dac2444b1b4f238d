"""The content of an answer beside its statuses: LIMIT_RESPONSE_HEADERS_* and RESPONSE_DYNAMIC_METADATA."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest

from ratelimit_service.core.model import Descriptor, Entry, Override, Unit
from tests.limiter import Limiter, descriptor

RULES = """
domain: d
descriptors:
  - {key: minute,   rate_limit: {requests_per_unit: 10, unit: minute}}
  - {key: hour,     rate_limit: {requests_per_unit: 10, unit: hour}}
  - {key: many,     rate_limit: {requests_per_unit: 100, unit: day}}
  - {key: over,     rate_limit: {requests_per_unit: 0, unit: minute}}
  - {key: over_too, rate_limit: {requests_per_unit: 0, unit: hour}}
  - {key: shadow,   rate_limit: {requests_per_unit: 0, unit: second}, shadow_mode: true}
  - {key: quota,    rate_limit: {requests_per_unit: 0, unit: day}, quota_mode: true}
  - {key: free,     rate_limit: {unlimited: true}}
  - {key: quiet,    rate_limit: {requests_per_unit: 1, unit: minute}, limit_headers: on_refusal}
  - {key: silent,   rate_limit: {requests_per_unit: 0, unit: day}, limit_headers: on_refusal}
"""


def headers(keys: str, **settings: Any) -> str:
    """Return the three headers of an answer, as `10 9 60`; empty if there are none."""
    names: dict[str, Any] = {
        "limit_header": "RateLimit-Limit",
        "remaining_header": "x-left",
        "reset_header": "X-RESET",
    }
    sent = Limiter(RULES, **names, **settings).ask(*keys.split()).headers
    assert list(names.values()) == [header.name for header in sent] or not sent
    return " ".join(header.value for header in sent)


@pytest.mark.parametrize(
    "keys, expected",
    [
        ("minute", "10 9 60"),
        # the one with the least left
        ("many minute", "10 9 60"),
        ("minute many", "10 9 60"),
        # the first of two with the same
        ("minute hour", "10 9 60"),
        ("hour minute", "10 9 3600"),
        # one that refuses before the one with the least left, and the last of several that refuse
        ("over many", "0 0 60"),
        ("many over minute", "0 0 60"),
        ("over over_too", "0 0 3600"),
        ("over_too minute over many", "0 0 60"),
        # a shadow rule over its limit has nothing left, but does not refuse
        ("many shadow", "0 0 1"),
        ("over shadow", "0 0 60"),
        # nor does a quota by itself: one that refuses comes first
        ("minute quota", "0 0 86400"),
        ("quota over", "0 0 60"),
        ("over quota", "0 0 60"),
        ("quota shadow", "0 0 86400"),
        # without a limit, there are no headers
        ("free", ""),
        ("stranger", ""),
        ("free stranger minute", "10 9 60"),
        # nor for a limit that is only shown in refusals, unless it refuses
        ("quiet", ""),
        ("quiet many", "100 99 86400"),
        ("silent", "0 0 86400"),
        ("quiet silent over", "0 0 60"),
    ],
)
def test_the_headers_are_those_of_one_descriptor(keys: str, expected: str) -> None:
    """The last one that refuses, or else the first with the least left."""
    assert expected == headers(keys)


def test_global_shadow_mode_leaves_the_headers_as_they_are() -> None:
    """They show the refusal that did not happen."""
    assert "0 0 60" == headers("minute over", shadow_mode=True)


def test_without_the_setting_there_are_no_headers() -> None:
    """An answer has no headers by default."""
    decision = Limiter(RULES).ask("over")
    assert ((), None) == (decision.headers, decision.dynamic_metadata)


METADATA = """
domain: d
descriptors:
  - key: gold
    rate_limit: {requests_per_unit: 1, unit: hour}
    metadata: {tier: gold, model: {name: large, limits: {tokens: 5}}, tags: [a]}
  - key: silver
    rate_limit: {requests_per_unit: 100, unit: hour}
    metadata:
      tier: silver
      model: {name: small, limits: {tokens: 1, words: 2}, cheap: true}
      tags: [b]
      extra: 1
  - key: free
    rate_limit: {unlimited: true}
    metadata: {tier: free}
  - key: flat
    rate_limit: {requests_per_unit: 100, unit: hour}
    metadata: {model: flat}
  - key: trial
    shadow_mode: true
    rate_limit: {requests_per_unit: 0, unit: hour}
    metadata: {trial: true}
  - {key: bare, rate_limit: {requests_per_unit: 0, unit: hour}}
"""

GOLD: dict[str, Any] = {"tier": "gold", "model": {"name": "large", "limits": {"tokens": 5}}, "tags": ["a"]}
SILVER: dict[str, Any] = {
    "tier": "silver",
    "model": {"name": "small", "limits": {"tokens": 1, "words": 2}, "cheap": True},
    "tags": ["b"],
    "extra": 1,
}


@pytest.mark.parametrize(
    "keys, expected",
    [
        ("gold", GOLD),
        # the first value wins; mappings are merged at any depth, and lists are not
        (
            "gold silver",
            {
                "tier": "gold",
                "model": {"name": "large", "limits": {"tokens": 5, "words": 2}, "cheap": True},
                "tags": ["a"],
                "extra": 1,
            },
        ),
        ("silver gold", SILVER),
        # of a mapping and a value, the first wins
        ("flat gold", {"model": "flat", "tier": "gold", "tags": ["a"]}),
        ("gold flat", GOLD),
        # unlimited rules pass, rules over their limit do not, and rules in shadow mode do
        ("free gold", {**GOLD, "tier": "free"}),
        ("gold=a gold=a", None),
        ("trial", {"trial": True}),
        # a refusal of another descriptor makes no difference
        ("bare silver", SILVER),
        # no metadata
        ("bare", None),
        ("stranger", None),
    ],
)
def test_the_metadata_of_rules_that_passed_is_merged(keys: str, expected: dict[str, Any] | None) -> None:
    """The first value wins. Descriptors over their limit add nothing."""
    limiter = Limiter(METADATA, dynamic_metadata=True)
    if keys == "gold=a gold=a":  # used up before, so that neither passes
        limiter.ask("gold=a")
    metadata = limiter.ask(*keys.split()).dynamic_metadata
    assert metadata is not None
    assert expected == metadata.get("metadata")


def test_merging_metadata_does_not_change_the_rules() -> None:
    """Otherwise, the next caller would receive values of this one."""
    limiter = Limiter(METADATA, dynamic_metadata=True)
    assert limiter.service.tree is not None
    rules = limiter.service.tree.rules
    before = copy.deepcopy([rule.metadata for rule in rules])
    for keys in ("gold silver flat free", "silver gold", "flat gold silver", "gold=b silver"):
        limiter.ask(*keys.split())
    assert before == [rule.metadata for rule in rules]
    assert SILVER == (limiter.ask("silver").dynamic_metadata or {}).get("metadata")


@pytest.mark.parametrize(
    "descriptors, hits, expected",
    [
        (
            [descriptor("team=dba model=gpt-4.1")],
            0,
            {"domain": "d", "descriptors": [{"entries": ["team=dba", "model=gpt-4.1"]}]},
        ),
        # hits_addends: the request's unless it is 0, the descriptor's even if it is 0
        (
            [descriptor("a=b", 0), descriptor("a=c", 7), descriptor("a=")],
            5,
            {
                "domain": "d",
                "descriptors": [
                    {"entries": ["a=b"], "hitsAddend": 0},
                    {"entries": ["a=c"], "hitsAddend": 7},
                    {"entries": ["a="]},
                ],
                "hitsAddend": 5,
            },
        ),
        # limits as protobuf writes them
        (
            [
                descriptor("a=b", override=Override(5, Unit.HOUR)),
                descriptor("a=b", override=Override(0, Unit.DAY, 3)),
            ],
            0,
            {
                "domain": "d",
                "descriptors": [
                    {"entries": ["a=b"], "limit": "requests_per_unit:5 unit:HOUR"},
                    {"entries": ["a=b"], "limit": "unit:DAY unit_multiplier:{value:3}"},
                ],
            },
        ),
        ([Descriptor(())], 0, {"domain": "d", "descriptors": [{"entries": []}]}),
    ],
)
def test_the_metadata_has_the_request(
    descriptors: Sequence[Descriptor], hits: int, expected: dict[str, Any]
) -> None:
    """Later filters and access logs use it."""
    limiter = Limiter("{domain: d, descriptors: []}", dynamic_metadata=True)
    assert expected == limiter.ask(*descriptors, hits=hits).dynamic_metadata


def test_bytes_that_are_not_text_are_escaped() -> None:
    """A protobuf Struct has only text."""
    entries = Descriptor((Entry(b"k\xff", b"\x00\xe2\x82"),))
    metadata = Limiter("{domain: d, descriptors: []}", dynamic_metadata=True).ask(entries).dynamic_metadata
    assert metadata is not None
    assert [{"entries": [r"k\xff=\x00\xe2\x82"]}] == metadata["descriptors"]


def test_metadata_is_cut_to_what_a_gateway_accepts() -> None:
    """A request of megabytes, with four characters for each byte, has an answer of some hundred kB."""
    limiter = Limiter("{domain: d, descriptors: []}", dynamic_metadata=True)
    one = Descriptor((Entry(b"k", b"v" * 4_096), Entry(b"k", b"v" * 4_097)))
    many = [Descriptor((Entry(b"k", b"\xff" * 4_000),) * 10) for _ in range(100)]
    (shown,) = (limiter.ask(one).dynamic_metadata or {})["descriptors"]
    assert ["k=" + "v" * 4_096, "k=" + "v" * 4_096 + "… (4097 bytes)"] == shown["entries"]
    assert 100_000 < len(str(limiter.ask(*many).dynamic_metadata)) < 500_000
