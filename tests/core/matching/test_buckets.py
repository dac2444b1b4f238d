"""The bucket of a counter's key, and the rule that limits the bucket."""

from __future__ import annotations

import pytest

from ratelimit_service.core.matching import keys
from ratelimit_service.core.matching.buckets import domain_name, entries_of, find, read_key
from ratelimit_service.core.matching.tree import Domain, RuleTree
from ratelimit_service.core.model import Entry
from ratelimit_service.core.rules.reader import load
from ratelimit_service.sources.yaml_text import read

LONG = "x" * 129
RULES = f"""
domain: d
descriptors:
  - key: team
    rate_limit: {{unit: hour, requests_per_unit: 1}}
  - key: team
    value: dba
    rate_limit: {{unit: hour, requests_per_unit: 2}}
    descriptors:
      - {{key: model, rate_limit: {{unit: day, requests_per_unit: 3}}}}
  - key: team
    value: {LONG}
    rate_limit: {{unit: hour, requests_per_unit: 4}}
  - key: path
    value: /api/*
    share_threshold: true
    rate_limit: {{unit: hour, requests_per_unit: 5}}
  - key: pa*
    share_threshold: true
    rate_limit: {{unit: hour, requests_per_unit: 6}}
  - key: user
    value: premium_*
    rate_limit: {{unit: hour, requests_per_unit: 7}}
  - key: user
    rate_limit: {{unit: hour, requests_per_unit: 8}}
  - key: free
    rate_limit: {{unlimited: true}}
  - key: plain
    rate_limit: {{unit: hour, requests_per_unit: 9}}
"""


def domain() -> Domain:
    return RuleTree(load([read("rules.yaml", RULES)]).domains).domains["d"]


def texts(*entries: tuple[bytes, bytes]) -> tuple[str, ...]:
    """Return the texts in the counter key of a descriptor with these entries."""
    match = domain().match(tuple([Entry(*entry) for entry in entries]))
    assert match is not None
    return match.bucket_entries


HOSTILE = [
    b"",
    b"}",
    b"{d|k=v}:hour:2026-11-21T01Z",
    b"a|b=c",
    b"a=b",
    b"*",
    b"~sha256:" + b"0" * 64,
    b"%2A",
    b"%",
    b"\xff\xfe\x00",
    "\u202eümlaut".encode(),
    b"line\nfeed:\r ",
    b"x" * 128,
    b"<script>alert(1)</script>",
]


@pytest.mark.parametrize("value", HOSTILE, ids=repr)
def test_every_value_is_read_back_byte_for_byte(value: bytes) -> None:
    """Values come from strangers, and may look like any part of a key."""
    bucket = keys.bucket("p:", keys.domain_text("d"), texts((b"team", value)))
    counter = read_key("p:")(f"{bucket}:15minute:2026-11-21T01:30Z")
    assert counter is not None
    assert (bucket, "d", "15minute", "2026-11-21T01:30Z") == (
        counter.bucket,
        counter.domain,
        counter.window,
        counter.start,
    )
    found = find(domain(), counter.entries)
    assert found is not None
    assert ((Entry(b"team", value),), False) == (found.entries, found.hashed)
    assert (Entry(b"team", value),) == entries_of(counter.entries)


@pytest.mark.parametrize(
    "entries, amount, shown",
    [
        ([(b"team", b"dba")], 2, [b"dba"]),
        ([(b"team", b"other")], 1, [b"other"]),
        ([(b"team", b"dba"), (b"model", b"x")], 3, [b"dba", b"x"]),
        ([(b"team", LONG.encode())], 4, [LONG.encode()]),
        ([(b"path", b"/api/v1")], 5, [b"/api/*"]),
        ([(b"path", b"/other")], 6, [b"~pa*"]),
        ([(b"user", b"premium_1")], 7, [b"premium_1"]),
        ([(b"user", b"other")], 8, [b"other"]),
    ],
)
def test_a_bucket_finds_the_rule_that_counts_in_it(
    entries: list[tuple[bytes, bytes]], amount: int, shown: list[bytes]
) -> None:
    """It may be that of the exact value, a pattern or the default. Values that share a bucket are shown as
    their pattern.
    """
    found = find(domain(), texts(*entries))
    assert found is not None
    assert (amount, shown) == (found.rule.limits[0].amount, [entry.value for entry in found.entries])
    asked = tuple([Entry(*entry) for entry in entries])
    assert domain().entries_of_bucket(asked) == found.entries


def test_a_value_of_which_only_the_digest_is_known_finds_the_rule_for_any_value() -> None:
    """It finds no rule if a pattern might match the value."""
    hashed = texts((b"team", b"y" * 200))
    found = find(domain(), hashed)
    assert found is not None
    assert (True, 1) == (found.hashed, found.rule.limits[0].amount)
    assert (Entry(b"team", hashed[0].removeprefix("team=").encode()),) == found.entries
    assert None is find(domain(), texts((b"user", b"y" * 200)))
    assert None is find(domain(), texts((b"user", b"premium_" + b"y" * 200)))


@pytest.mark.parametrize(
    ("key", "value", "amount"), [(b"team", b"y" * 200, 1), (b"user", b"premium_" + b"y" * 200, 7)]
)
def test_a_value_that_is_known_by_its_digest_finds_its_rule(key: bytes, value: bytes, amount: int) -> None:
    """Also that of a pattern. It may be known because an amendment is for it."""
    known = {keys.escape(value): value}
    found = find(domain(), texts((key, value)), known.get)
    assert found is not None
    expected = (amount, (Entry(key, value),), False)
    assert expected == (found.rule.limits[0].amount, found.entries, found.hashed)
    assert None is find(domain(), (f"path={keys.escape(value)}",), known.get)


@pytest.mark.parametrize(
    "bucket",
    [
        ("nokey=1",),
        ("team",),
        ("team=%zz",),
        ("team=%2a",),  # keys have upper-case digits
        ("team=%41",),  # and `A` stands unescaped
        ("team=a b",),
        ("team=dba", "model=x", "more=y"),
        ("path=/api/x",),  # counts in the bucket of its pattern by now
        ("path=/gone/*",),
        ("free=x",),
        ("~sha256:" + "0" * 64 + "=x",),
    ],
)
def test_a_bucket_in_which_no_rule_counts_finds_none(bucket: tuple[str, ...]) -> None:
    """The key may be of other rules, or written by hand."""
    assert None is find(domain(), bucket)


@pytest.mark.parametrize(
    "key",
    [
        "",
        "d|team=dba",
        "{d|team=dba}",
        "{d|team=dba}:hour",
        "{d|team=dba}:hour:",
        "{d|team=dba}:hour:2026-11-21T01Z:warned-80",
        "{d|team=dba}:hours:2026-11-21T01Z",
        "{d|team=dba}:0hour:2026-11-21T01Z",
        "{d|team=dba}:hour:2026-11-21T01Z\n",
        "{d|team=dba}:hour:٢٠٢٦-11-21",
        "x{d|team=dba}:hour:2026-11-21T01Z",
        "{d}:hour:2026-11-21T01Z",
        "{amendments}:current",
        "lane:abc",
        "{d|{x}|team=dba}:hour:2026-11-21T01Z",
    ],
)
def test_keys_other_than_counters_are_none(key: str) -> None:
    """Markers, registers, amendments, and keys of others."""
    assert None is read_key("")(key)


def test_a_prefix_is_not_part_of_the_bucket_of_another() -> None:
    key = "{d|team=dba}:hour:2026-11-21T01Z"
    found = read_key("{rl}:")("{rl}:" + key)
    assert found is not None
    assert "{rl}:{d|team=dba}" == found.bucket
    assert None is read_key("{rl}:")(key)
    assert None is read_key("")("{rl}:" + key)


def test_a_domain_is_read_back() -> None:
    """A domain that is known by its digest keeps it."""
    assert "tökens budgets" == domain_name(keys.domain_text("tökens budgets"))
    assert keys.domain_text("x" * 200) == domain_name(keys.domain_text("x" * 200))
