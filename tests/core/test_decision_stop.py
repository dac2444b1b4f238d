"""STOP_CACHE_KEY_INCREMENT_WHEN_OVERLIMIT: only the limits that refuse a request count it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.limiter import Limiter, decision_text, descriptor

RULES = """
domain: d
descriptors:
  - {key: a,      rate_limit: {requests_per_unit: 10, unit: hour}}
  - {key: b,      rate_limit: {requests_per_unit: 10, unit: hour}}
  - {key: shadow, rate_limit: {requests_per_unit: 10, unit: hour}, shadow_mode: true}
  - {key: quota,  rate_limit: {requests_per_unit: 10, unit: hour}, quota_mode: true}
  - {key: free,   rate_limit: {unlimited: true}}
"""

Row = tuple[str, str, dict[str, int]]
"""The hits of a request as `a=1 b=11`, the answer, and what the counters that exist hold afterwards."""

ROWS: list[Row] = [
    # if all have room, all count
    ("a=1 b=2", "OK: OK 9 3600, OK 8 3600", {"a": 1, "b": 2}),
    # one over: the other one counts nothing, and shows what it has left
    ("a=11 b=3", "OVER_LIMIT: OVER_LIMIT 0 3600, OK 8 3600", {"a": 12, "b": 2}),
    ("b=3 a=1", "OVER_LIMIT: OK 8 3600, OVER_LIMIT 0 3600", {"a": 13, "b": 2}),
    # the one that is over continues to count, also alone
    ("a=1", "OVER_LIMIT: OVER_LIMIT 0 3600", {"a": 14, "b": 2}),
    # both over: both count
    ("a=1 b=9", "OVER_LIMIT: OVER_LIMIT 0 3600, OVER_LIMIT 0 3600", {"a": 15, "b": 11}),
    # a refund is counted, whichever rule refuses
    ("a=1 b=-10", "OVER_LIMIT: OVER_LIMIT 0 3600, OK 9 3600", {"a": 16, "b": 1}),
    # a check over the limit refuses its request, too; at the limit it does not
    ("a=0 b=1", "OVER_LIMIT: OVER_LIMIT 0 3600, OK 9 3600", {"a": 16, "b": 1}),
    ("a=-6", "OK: OK 0 3600", {"a": 10, "b": 1}),
    ("a=0 b=1", "OK: OK 0 3600, OK 8 3600", {"a": 10, "b": 2}),
    # a charge that fills the limit exactly fits
    ("b=8", "OK: OK 0 3600", {"a": 10, "b": 10}),
]


def turned_out(limiter: Limiter, hits: str) -> Row:
    pairs = [pair.split("=") for pair in hits.split()]
    decision = limiter.ask(*[descriptor(key, int(amount)) for key, amount in pairs])
    held = {key: limiter.used(key) for key in ("a", "b", "shadow", "quota", "free")}
    return hits, decision_text(decision), {key: count for key, count in held.items() if count is not None}


def test_requests_are_counted_one_after_another() -> None:
    """Each request sees what the requests before it have left."""
    limiter = Limiter(RULES, stop_when_over=True)
    assert ROWS == [turned_out(limiter, hits) for hits, _, _ in ROWS]


@pytest.mark.parametrize(
    "settings, row",
    [
        # without the setting, a refused request is counted in full
        ({}, ("a=11 b=3", "OVER_LIMIT: OVER_LIMIT 0 3600, OK 7 3600", {"a": 11, "b": 3})),
        # rules that refuse nothing do not stop enforced rules (with upstream, they do)
        ({"stop_when_over": True}, ("shadow=11 a=1", "OK: OK 0 3600, OK 9 3600", {"shadow": 11, "a": 1})),
        (
            {"stop_when_over": True},
            ("quota=11 a=1", "OVER_LIMIT: OVER_LIMIT 0 3600, OK 9 3600", {"quota": 11, "a": 1}),
        ),
        # but are stopped by them
        ({"stop_when_over": True}, ("a=11 shadow=1", "OVER_LIMIT: OVER_LIMIT 0 3600, OK 10 3600", {"a": 11})),
        ({"stop_when_over": True}, ("a=11 quota=1", "OVER_LIMIT: OVER_LIMIT 0 3600, OK 10 3600", {"a": 11})),
        # in QUOTA_MODE every rule is one that does not refuse by itself
        (
            {"stop_when_over": True, "quota_mode": True},
            ("a=11 b=1", "OK: OVER_LIMIT 0 3600, OK 9 3600", {"a": 11, "b": 1}),
        ),
        # what is unlimited has no counter, here as anywhere
        (
            {"stop_when_over": True},
            ("free=1 a=11", "OVER_LIMIT: OK 4294967295, OVER_LIMIT 0 3600", {"a": 11}),
        ),
        # the same descriptor twice is judged by what was there before the request
        ({"stop_when_over": True}, ("a=6 a=6", "OVER_LIMIT: OK 4 3600, OVER_LIMIT 0 3600", {"a": 12})),
    ],
)
def test_only_rules_that_refuse_stop_others_from_counting(settings: dict[str, Any], row: Row) -> None:
    """Rules in shadow or quota mode do not."""
    assert row == turned_out(Limiter(RULES, **settings), row[0])
