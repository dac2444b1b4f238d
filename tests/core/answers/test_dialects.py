"""The bodies of refusals: their formats, and how much they say."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ratelimit_service.core.answers.dialects import DIALECTS
from ratelimit_service.core.answers.refusal import Refusals
from ratelimit_service.core.decision import decide_without_counts
from ratelimit_service.core.matching.tree import RuleTree
from ratelimit_service.core.model import Code, Descriptor, Entry, Override, Request, Unit
from ratelimit_service.core.plan import FailureMode, descriptor_text
from ratelimit_service.core.planner import Planner
from ratelimit_service.core.rules.reader import load
from ratelimit_service.sources.yaml_text import read
from tests.core.answers.refusals import (
    ALL_HEADERS,
    RULES,
    STRICT,
    WORDS,
    error,
    headers,
    limiter,
    message,
    refused,
)
from tests.limiter import MIDNIGHT, descriptor

# Dialects


DETAILS: dict[str, Any] = {
    "domain": "d",
    "descriptor": "team=dba",
    "rule": "daily",
    "used": 1000,
    "limit": 250,
    "unit": "day",
    "resets_in_seconds": 28,
    "resets_at": "2026-11-22T00:00:00Z",
}
SOON = "Token budget daily is used up. It resets at 2026-11-22T00:00:00Z. Try again in 28 seconds."
LATER = (
    "Token budget daily is used up. It resets at 2026-11-22T00:00:00Z. Retrying before then does not help."
)
NEVER = "Token budget none-for-it lets nothing through. Retrying does not help."
BLOCKED: dict[str, Any] = {
    "domain": "d",
    "descriptor": "blocked=x",
    "rule": "none-for-it",
    "used": 1000,
    "limit": 0,
    "unit": "day",
}
INFO = "type.googleapis.com/google.rpc.ErrorInfo"
QUOTA = "type.googleapis.com/google.rpc.QuotaFailure"
STRUCT = "type.googleapis.com/google.protobuf.Struct"


def anthropic(message: str, code: str, **more: Any) -> dict[str, Any]:
    details = {"error_code": code, **more}
    return {
        "type": "error",
        "error": {"type": "rate_limit_error", "message": message, "details": details},
    }


def gemini(message: str, *details: dict[str, Any]) -> dict[str, Any]:
    return {
        "error": {
            "code": 429,
            "message": message,
            "status": "RESOURCE_EXHAUSTED",
            "details": list(details),
        }
    }


def problem(message: str, code: str, **more: Any) -> dict[str, Any]:
    return {
        "type": "about:blank",
        "title": "Too Many Requests",
        "status": 429,
        "detail": message,
        "code": code,
        **more,
    }


RESETS = "2026-11-22T00:00:00Z"
LATER_DETAILS = {**DETAILS, "resets_in_seconds": 50_400}
BODIES: dict[tuple[str, str], dict[str, Any]] = {
    ("anthropic", "soon"): anthropic(SOON, "rate_limit_exceeded", resets_at=RESETS, rate_limit=DETAILS),
    ("anthropic", "later"): anthropic(
        LATER, "insufficient_quota", resets_at=RESETS, rate_limit=LATER_DETAILS
    ),
    ("anthropic", "never"): anthropic(NEVER, "insufficient_quota", rate_limit=BLOCKED),
    ("gemini", "soon"): gemini(
        SOON,
        {
            "@type": INFO,
            "reason": "RATE_LIMIT_EXCEEDED",
            "domain": "d",
            "metadata": {"resets_at": RESETS},
        },
        {"@type": QUOTA, "violations": [{"quotaId": "daily", "description": SOON}]},
        {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "28s"},
        {"@type": STRUCT, "value": DETAILS},
    ),
    ("gemini", "later"): gemini(
        LATER,
        {"@type": INFO, "reason": "QUOTA_EXHAUSTED", "domain": "d", "metadata": {"resets_at": RESETS}},
        {"@type": QUOTA, "violations": [{"quotaId": "daily", "description": LATER}]},
        {"@type": STRUCT, "value": LATER_DETAILS},
    ),
    ("gemini", "never"): gemini(
        NEVER,
        {"@type": INFO, "reason": "QUOTA_EXHAUSTED", "domain": "d"},
        {"@type": QUOTA, "violations": [{"quotaId": "none-for-it", "description": NEVER}]},
        {"@type": STRUCT, "value": BLOCKED},
    ),
    ("problem+json", "soon"): problem(SOON, "rate_limit_exceeded", resets_at=RESETS, rate_limit=DETAILS),
    ("problem+json", "later"): problem(
        LATER, "insufficient_quota", resets_at=RESETS, rate_limit=LATER_DETAILS
    ),
    ("problem+json", "never"): problem(NEVER, "insufficient_quota", rate_limit=BLOCKED),
}


def test_every_dialect_has_its_bodies_here() -> None:
    """A refusal of every outlook, in every dialect but the default one, which the tests of refusals have."""
    dialects = DIALECTS.keys() - {"openai"}
    assert {(name, outlook) for name in dialects for outlook in ("soon", "later", "never")} == BODIES.keys()


@pytest.mark.parametrize("dialect, outlook", BODIES)
def test_a_body_has_the_format_of_its_dialect(dialect: str, outlook: str) -> None:
    """The whole body, by dialect and outlook, and its content type."""
    asked = limiter(now=MIDNIGHT + (86_372 if outlook == "soon" else 36_000), error_format=dialect)
    decision = refused(asked, "blocked=x" if outlook == "never" else "team=dba")
    assert BODIES[dialect, outlook] == json.loads(decision.body)
    kind = "application/problem+json" if dialect == "problem+json" else "application/json"
    assert kind == headers(decision)["content-type"]


UNREACHED: dict[str, dict[str, Any]] = {
    "openai": {
        "error": {
            "message": "The request is refused: the store of its counters cannot be reached.",
            "type": "server_error",
            "param": None,
            "code": "rate_limit_exceeded",
        }
    },
    "anthropic": {
        "type": "error",
        "error": {
            "type": "api_error",
            "message": "The request is refused: the store of its counters cannot be reached.",
            "details": {"error_code": "rate_limit_exceeded"},
        },
    },
    "gemini": gemini(
        "The request is refused: the store of its counters cannot be reached.",
        {"@type": INFO, "reason": "RATE_LIMIT_EXCEEDED", "domain": "d"},
    ),
    "problem+json": problem(
        "The request is refused: the store of its counters cannot be reached.", "rate_limit_exceeded"
    ),
}


@pytest.mark.parametrize("dialect", UNREACHED)
def test_a_refusal_without_counters_is_not_insufficient_quota(dialect: str) -> None:
    """STORE_FAILURE_MODE=deny: whether a retry helps is unknown, so there is neither header."""
    asked = limiter(error_format=dialect, failure_mode=FailureMode.DENY)
    plan = Planner(asked.service.tree, asked.service.policy, lambda: 0).plan(
        Request("d", (descriptor("team=dba", 0),)), MIDNIGHT
    )
    decision = decide_without_counts(
        asked.service.policy, plan, Refusals(asked.service.policy, asked.service.tree)
    )
    assert decision is not None
    assert ["content-type"] == list(headers(decision))
    assert UNREACHED[dialect] == json.loads(decision.body)


NASTY = [
    '"',
    "\\",
    "\0used",
    "\\u0000used",
    '"\\u0000used"',
    "{used}",
    "\n",
    "\u202e",
    "\ud800",
    "é",
    "x" * 5_000,
]


@pytest.mark.parametrize("nasty", NASTY)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_callers_text_is_escaped_in_every_dialect(dialect: str, nasty: str) -> None:
    """It is a value under a rule, under an override without a rule, and in an unmatched descriptor."""
    value = nasty.encode("utf-8", "surrogatepass")
    for key, override, domain in (
        (b"team", None, "d"),
        (b"other", Override(0, Unit.DAY), "d"),
        (b"team", None, "strict"),
    ):
        asked = limiter(
            RULES, STRICT.replace("domain: d", "domain: strict"), error_format=dialect, ietf_fields=True
        )
        charge = Descriptor((Entry(key, value),), 1_000, override)
        asked.answer(Request(domain, (charge,)))
        decision = asked.answer(Request(domain, (charge._replace(hits_addend=0),)))
        body = json.loads(decision.body)
        assert Code.OVER_LIMIT is decision.code
        if domain == "d" and override is None:
            (details,) = [found for found in dicts(body) if "descriptor" in found]
            assert descriptor_text(charge.entries) == details["descriptor"]
        assert all(text.isprintable() for text in texts(body))
        assert all(header.value.isascii() and header.value.isprintable() for header in decision.headers)
        assert len(decision.body) < 4_000


def dicts(value: Any) -> list[dict[str, Any]]:
    """Return all objects in a JSON document."""
    if isinstance(value, dict):
        return [value, *[found for each in value.values() for found in dicts(each)]]
    return [found for each in value for found in dicts(each)] if isinstance(value, list) else []


def texts(value: Any) -> list[str]:
    """Return all texts in a JSON document."""
    return [text for found in dicts(value) for text in found.values() if isinstance(text, str)]


IN_DIALECTS = """
domain: d
error_format: anthropic
unmatched: deny
descriptors:
  - {key: a, rate_limit: {unit: day, tokens_per_unit: 0}}
  - {key: b, rate_limit: {unit: day, tokens_per_unit: 0}, error_format: problem+json}
"""


@pytest.mark.parametrize(
    "asked, key",
    [
        (descriptor("a=x", 0), "error"),
        (descriptor("b=x", 0), "status"),
        # what meets no rule is the domain's, also with a limit of its own; what meets one keeps the rule's
        (descriptor("c=x", 0), "error"),
        (descriptor("c=x", 1, Override(0, Unit.HOUR)), "error"),
        (descriptor("b=x", 0, Override(0, Unit.HOUR)), "status"),
    ],
)
@pytest.mark.parametrize(
    "settings", [{}, {"error_format": "", "refusal_headers": frozenset()}], ids=["on", "off"]
)
def test_the_dialect_comes_from_the_rule_or_else_from_its_domain(
    asked: Any, key: str, settings: dict[str, Any]
) -> None:
    """A rule has its dialect even if REFUSAL_BODY is none."""
    body = json.loads(limiter(IN_DIALECTS, **settings).ask(asked).body)
    assert key in body
    assert ("error" if key == "error" else "about:blank") == body["type"]


# Privacy


SECRETS = ("zebra", "5555", "7777", "key_zebra")

PRIVATE = """
domain: d
error_details: minimal
descriptors:
  - key: animal
    rate_limits:
      - {name: stable, unit: hour, tokens_per_unit: 5555}
      - {name: pasture, unit: day, tokens_per_unit: 15555}
  - {key: animal, value: zebra, rate_limit: {unit: hour, tokens_per_unit: 5555}}
  - key: words
    rate_limit: {name: words, unit: hour, tokens_per_unit: 5555}
    denial_message: "{rule} till {resets_at}"
"""


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    "asked, name",
    [
        ("animal=zebra.", "stable"),
        ("animal=zebra", "the token budget of this hour"),
        ("words=zebra", "words till 2026"),
    ],
)
@pytest.mark.parametrize("switch", ["rules", "setting"])
def test_a_minimal_refusal_hides_amount_use_and_descriptor(
    dialect: str, asked: str, name: str, switch: str
) -> None:
    """It names the budget and its reset. Operators choose names of rules that identify no person."""
    settings: dict[str, Any] = {"error_details": "minimal"} if switch == "setting" else {}
    rules = PRIVATE if switch == "rules" else PRIVATE.replace("error_details: minimal\n", "")
    decision = refused(
        limiter(
            rules,
            error_format=dialect,
            refusal_headers=ALL_HEADERS,
            ietf_fields=True,
            limit_header="limit",
            remaining_header="remaining",
            reset_header="reset",
            **settings,
        ),
        asked,
        charge=7777,
    )
    said = f"{decision.headers} {decision.body.decode()}"
    assert [] == [secret for secret in SECRETS if secret in said]
    assert name.lower() in said.lower() and "2026-11-21T01:00:00Z" in said and "3600" in said


def test_a_minimal_denial_hides_the_descriptor() -> None:
    """It only says that no rule matches."""
    decision = limiter(STRICT.replace("unmatched", "error_details: minimal\nunmatched")).ask("team=zebra")
    assert "The request is refused: no rule matches it. Retrying does not help." == error(decision)["message"]
    assert b"zebra" not in decision.body


def test_a_message_with_hidden_placeholders_is_replaced_by_the_default() -> None:
    """REFUSAL_DETAILS=minimal, and a denial_message with {used} in a file without error_details."""
    shown = message(WORDS % "{used} of {limit}", error_details="minimal")
    assert shown.startswith("Token budget hourly is used up.")


def test_a_reload_drops_cached_refusals() -> None:
    """This includes those of a rule and those of a domain."""
    asked = limiter(IN_DIALECTS)
    requests = (descriptor("a=x", 0), descriptor("c=x", 0))
    assert ["error"] * 2 == [json.loads(asked.ask(one).body)["type"] for one in requests]
    changed = IN_DIALECTS.replace("error_format: anthropic", "error_format: problem+json")
    asked.service.use(RuleTree(load([read("rules.yaml", changed)]).domains))
    assert ["about:blank"] * 2 == [json.loads(asked.ask(one).body)["type"] for one in requests]
