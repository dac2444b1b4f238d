"""Helpers for the tests of refusals."""

from __future__ import annotations

import json
from typing import Any

from ratelimit_service.core.model import Decision
from tests.limiter import Limiter, descriptor

HEADERS = frozenset(("retry-after", "content-type", "x-should-retry"))
ALL_HEADERS = HEADERS | {"x-envoy-ratelimited", "x-ratelimit"}

RULES = """
domain: d
descriptors:
  - key: team
    rate_limits:
      - {name: hourly, unit: hour, tokens_per_unit: 100}
      - {name: daily, unit: day, tokens_per_unit: 250}
  - {key: api, rate_limit: {name: calls, unit: minute, requests_per_unit: 5}}
  - {key: blocked, rate_limit: {name: none-for-it, unit: day, tokens_per_unit: 0}}
  - key: part
    rate_limits:
      - {name: no-minutes, unit: minute, tokens_per_unit: 0}
      - {name: daily, unit: day, tokens_per_unit: 10}
  - {key: unnamed, rate_limit: {unit: day, unit_multiplier: 15, requests_per_unit: 1}}
"""


def limiter(*rules: str, **settings: Any) -> Limiter:
    return Limiter(*rules or (RULES,), **{"refusal_headers": HEADERS, "error_format": "openai"} | settings)


def headers(decision: Decision) -> dict[str, str]:
    assert len(decision.headers) == len({header.name for header in decision.headers})
    return {header.name: header.value for header in decision.headers}


def error(decision: Decision) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(decision.body)["error"]
    return found


def refused(asked: Limiter, *descriptors: str, charge: int = 1_000) -> Decision:
    """Return the decision on a check, after a charge that used up everything."""
    asked.ask(*descriptors, hits=charge)
    return asked.ask(*[descriptor(one, 0) for one in descriptors])


STRICT = """
domain: d
unmatched: deny
required_keys: [team]
descriptors:
  - {key: team, value: dba, rate_limit: {unit: hour, tokens_per_unit: 100}}
  - {key: user, rate_limit: {unit: hour, tokens_per_unit: 100}}
"""

WORDS = """
domain: d
time_zone: Asia/Kolkata
descriptors:
  - key: team
    denial_message: "%s"
    rate_limit: {name: hourly, unit: hour, tokens_per_unit: 10}
"""


def message(rules: str, entries: str = "team=dba", **settings: Any) -> str:
    shown: str = error(refused(limiter(rules, **settings), entries))["message"]
    return shown
