"""Limits in the headers of answers: the IETF's fields, and the names of LIMIT_RESPONSE_HEADERS_*."""

from __future__ import annotations

import pytest

from tests.core.answers.refusals import headers, limiter
from tests.limiter import descriptor


@pytest.mark.parametrize(
    "entries, hits, policy, left",
    [
        ("team=dba", 40, '"hourly";q=100;w=3600, "daily";q=250;w=86400',
            '"hourly";r=60;t=3600, "daily";r=210;t=86400'),
        ("team=dba", 120, '"hourly";q=100;w=3600, "daily";q=250;w=86400',
            '"hourly";r=0;t=3600, "daily";r=130;t=86400'),
        ("unnamed=x", 1, '"15day";q=1;w=1296000', '"15day";r=0;t=1036800'),
        ("stranger=x", 1, None, None),
    ],
)  # fmt: skip
def test_the_fields_of_draft_11_are_on_every_answer(
    entries: str, hits: int, policy: str | None, left: str | None
) -> None:
    """They have every window of the rule. A limit without a name has that of its window."""
    asked = limiter(ietf_fields=True)
    decision = asked.ask(descriptor(entries, hits))
    assert (policy, left) == (headers(decision).get("ratelimit-policy"), headers(decision).get("ratelimit"))
    if hits == 120:  # the next one is refused, and has them too
        refusal = headers(asked.ask(descriptor(entries, 0)))
        assert (policy, left, "3600") == (
            refusal["ratelimit-policy"],
            refusal["ratelimit"],
            refusal["retry-after"],
        )


def test_the_fields_are_valid_structured_fields() -> None:
    """Integers have at most 15 digits, names are unique, and letters are ASCII."""
    rules = """
domain: d
descriptors:
  - key: team
    rate_limits:
      - {name: größe, unit: hour, tokens_per_unit: 9007199254740991}
      - {name: gr__e, unit: day, tokens_per_unit: 5}
"""
    decision = limiter(rules, ietf_fields=True).ask(descriptor("team=x", 0))
    assert {
        "ratelimit-policy": '"hour";q=999999999999999;w=3600, "day";q=5;w=86400',
        "ratelimit": '"hour";r=999999999999999;t=3600, "day";r=5;t=86400',
    } == headers(decision)


def test_a_header_without_a_name_is_not_sent() -> None:
    """LIMIT_REMAINING_HEADER=, for example."""
    decision = limiter(limit_header="limit", reset_header="reset").ask(descriptor("team=x", 0))
    assert {"limit", "reset"} == set(headers(decision))
