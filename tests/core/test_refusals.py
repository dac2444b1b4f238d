"""What a refused caller receives: why, until when, and whether trying again helps."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from ratelimit_service.core.model import Decision, Override, Unit
from tests.limiter import MIDNIGHT, Limiter, descriptor

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


def limiter(rules: str = RULES, **settings: Any) -> Limiter:
    return Limiter(rules, **{"refusal_headers": HEADERS, "error_format": "openai"} | settings)


def headers(decision: Decision) -> dict[str, str]:
    assert len(decision.headers) == len({header.name for header in decision.headers})
    return {header.name: header.value for header in decision.headers}


def error(decision: Decision) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(decision.body)["error"]
    return found


def refused(asked: Limiter, *descriptors: str, charge: int = 1_000) -> Decision:
    """The decision on a check, after a charge that used up everything."""
    asked.ask(*descriptors, hits=charge)
    return asked.ask(*[descriptor(one, 0) for one in descriptors])


# Outlooks: soon, later, never


def test_a_limit_that_resets_soon_is_waited_for() -> None:
    """28 seconds before the hour ends: a retry-after, and OpenAI's code for being too fast."""
    asked = limiter(now=MIDNIGHT + 3_572, refusal_headers=ALL_HEADERS)
    asked.ask("team=dba", hits=120)
    decision = asked.ask(descriptor("team=other", 0), descriptor("team=dba", 0))
    assert (
        ("retry-after", "28"),
        ("x-ratelimit-limit", '100, 100;w=3600;name="hourly", 250;w=86400;name="daily"'),
        ("x-ratelimit-remaining", "0"),
        ("x-ratelimit-reset", "28"),
        ("content-type", "application/json"),
        ("x-envoy-ratelimited", "true"),
    ) == decision.headers
    assert {
        "message": "Token budget hourly is used up. It resets at 2026-11-21T01:00:00Z. Try again in 28 seconds.",
        "type": "tokens",
        "param": None,
        "code": "rate_limit_exceeded",
        "resets_at": "2026-11-21T01:00:00Z",
        "rate_limit": {
            "domain": "d",
            "descriptor": "team=dba",
            "rule": "hourly",
            "used": 120,
            "limit": 100,
            "unit": "hour",
            "resets_in_seconds": 28,
            "resets_at": "2026-11-21T01:00:00Z",
        },
    } == error(decision)


def test_a_limit_that_resets_later_stops_clients() -> None:
    """A day that is used up: the moment for people, and x-should-retry for SDKs, which would wait or come back at once."""
    decision = refused(limiter(now=MIDNIGHT + 36_000), "team=dba")
    assert {
        "retry-after": "50400",
        "x-should-retry": "false",
        "content-type": "application/json",
    } == headers(decision)
    assert {
        "message": "Token budget daily is used up. It resets at 2026-11-22T00:00:00Z. Retrying before then does not help.",
        "type": "insufficient_quota",
        "param": None,
        "code": "insufficient_quota",
        "resets_at": "2026-11-22T00:00:00Z",
        "rate_limit": {
            "domain": "d",
            "descriptor": "team=dba",
            "rule": "daily",
            "used": 1000,
            "limit": 250,
            "unit": "day",
            "resets_in_seconds": 50400,
            "resets_at": "2026-11-22T00:00:00Z",
        },
    } == error(decision)


@pytest.mark.parametrize("within, later", [(0, True), (27, True), (28, False), (600, False)])
def test_what_is_soon_is_a_setting(within: int, later: bool) -> None:
    """REFUSAL_RETRY_WITHIN, up to and including it; at 0 nothing is waited for."""
    decision = refused(limiter(now=MIDNIGHT + 86_372, retry_within=within), "team=dba")
    assert ("28", "false" if later else None) == (
        headers(decision)["retry-after"],
        headers(decision).get("x-should-retry"),
    )
    assert ("insufficient_quota" if later else "rate_limit_exceeded") == error(decision)["code"]


@pytest.mark.parametrize(
    "key, rule",
    [
        ("blocked", "none-for-it"),
        # a minute that allows nothing refuses for ever, whatever the day has
        ("part", "no-minutes"),
    ],
)
def test_a_limit_of_0_never_lets_anything_through(key: str, rule: str) -> None:
    """So there is nothing to wait for: no retry-after and no moment, and the message says so."""
    asked = limiter()
    for decision in (asked.ask(descriptor(f"{key}=x", 0)), refused(asked, f"{key}=x")):
        assert {"x-should-retry": "false", "content-type": "application/json"} == headers(decision)
        told = error(decision)
        assert (
            f"Token budget {rule} lets nothing through. Retrying does not help.",
            "insufficient_quota",
        ) == (told["message"], told["code"])
        assert "resets_at" not in told and "resets_at" not in told["rate_limit"]
        assert (rule, 0) == (told["rate_limit"]["rule"], told["rate_limit"]["limit"])


def test_a_limit_of_0_that_comes_with_the_request_is_one() -> None:
    """An override in place of the rule's hour."""
    decision = limiter().ask(descriptor("team=dba", 0, Override(0, Unit.HOUR)))
    assert ("false", None) == (headers(decision)["x-should-retry"], headers(decision).get("retry-after"))


def test_a_request_that_is_more_than_the_whole_limit_never_fits() -> None:
    """6 hits on 5 a minute; a budget takes what crosses its line, so it has no such requests."""
    asked = limiter()
    decision = asked.ask(descriptor("api=x", 6))
    assert ("false", None) == (headers(decision)["x-should-retry"], headers(decision).get("retry-after"))
    assert (
        "This request alone is more than rate limit calls allows. Retrying does not help."
        == (error(decision)["message"])
    )
    # 5 fit, once the minute is new
    decision = asked.ask(descriptor("api=x", 5))
    assert ("60", None) == (headers(decision)["retry-after"], headers(decision).get("x-should-retry"))
    assert "requests" == error(decision)["type"]


STRICT = """
domain: d
unmatched: deny
required_keys: [team]
descriptors:
  - {key: team, value: dba, rate_limit: {unit: hour, tokens_per_unit: 100}}
  - {key: user, rate_limit: {unit: hour, tokens_per_unit: 100}}
"""


@pytest.mark.parametrize(
    "asked, reason",
    [("team=x", "no rule is for team=x"), ("user=ann", "no descriptor has the key 'team'")],
)
def test_what_the_rules_refuse_is_refused_for_good(asked: str, reason: str) -> None:
    """unmatched: deny, and required_keys."""
    decision = limiter(STRICT).ask(descriptor(asked, 0))
    assert {"x-should-retry": "false", "content-type": "application/json"} == headers(decision)
    message = f"The request is refused: {reason}. Retrying does not help."
    kind = "insufficient_quota"
    assert {"message": message, "type": kind, "param": None, "code": kind} == error(decision)


# Which limit a caller is told of


SEVERAL = """
domain: d
descriptors:
  - {key: a, rate_limit: {name: minutely, unit: minute, tokens_per_unit: 1}}
  - {key: b, rate_limit: {name: daily, unit: day, tokens_per_unit: 1}}
  - {key: c, rate_limit: {name: hourly, unit: hour, tokens_per_unit: 1}}
  - {key: z, rate_limit: {name: nothing, unit: minute, tokens_per_unit: 0}}
  - {key: q, quota_mode: true, rate_limit: {name: quota-hour, unit: hour, tokens_per_unit: 1}}
  - {key: r, quota_mode: true, rate_limit: {name: quota-minute, unit: minute, tokens_per_unit: 1}}
  - {key: s, quota_mode: true, rate_limit: {name: quota-nothing, unit: minute, tokens_per_unit: 0}}
  - {key: t, shadow_mode: true, rate_limit: {name: trial, unit: year, tokens_per_unit: 0}}
"""


@pytest.mark.parametrize(
    "keys, later, rule",
    [
        # the one that takes longest to reset: a caller who waits for the first would be refused again
        ("a b c", 0, "daily"),
        ("c a", 0, "hourly"),
        # in the last minute of a day the longer unit, whatever the order in which the gateway asks
        ("a b c", 86_370, "daily"),
        ("c b a", 86_370, "daily"),
        ("b c a", 86_370, "daily"),
        # what never resets before what does
        ("b z", 0, "nothing"),
        ("z b", 0, "nothing"),
        # quotas refuse only all together: the one that resets first, and never only where none ever does
        ("q r", 0, "quota-minute"),
        ("q s", 0, "quota-hour"),
        ("s", 0, "quota-nothing"),
        # but what refuses by itself before any quota, however late
        ("s a", 0, "minutely"),
        # a trial refuses nobody
        ("t a", 0, "minutely"),
    ],
)
def test_a_refusal_is_about_the_limit_that_a_caller_has_to_wait_for(keys: str, later: int, rule: str) -> None:
    """Of several that refuse."""
    decision = refused(limiter(SEVERAL, now=MIDNIGHT + later), *keys.split())
    assert rule == error(decision)["rate_limit"]["rule"]


@pytest.mark.parametrize(
    "settings",
    [{"refusal_headers": frozenset(), "error_format": ""}, {"shadow_mode": True}],
    ids=["off", "shadow mode"],
)
def test_what_is_not_refused_or_not_asked_for_is_not_told(settings: dict[str, Any]) -> None:
    """Without the settings, and in global shadow mode, a request over its limit is answered without them."""
    decision = refused(limiter(**settings), "team=dba")
    assert ((), b"") == (decision.headers, decision.body)


# Messages


def message(rules: str, entries: str = "team=dba", **settings: Any) -> str:
    told: str = error(refused(limiter(rules, **settings), entries))["message"]
    return told


def test_a_budget_without_a_name_has_that_of_its_rule() -> None:
    """Its path, and the window in words."""
    told = error(refused(limiter(), "unnamed=x"))
    assert told["message"].startswith("Rate limit d.unnamed is used up. It resets at 2026-12-03T00:00:00Z.")
    assert ("d.unnamed", "15 days") == (told["rate_limit"]["rule"], told["rate_limit"]["unit"])


def test_one_second_is_not_seconds() -> None:
    """In the last second of an hour that is also the last of a day."""
    told = error(refused(limiter(now=MIDNIGHT + 86_399), "team=dba"))["message"]
    assert told.endswith("Try again in 1 second.")


def test_the_moment_is_told_in_the_zone_of_the_rule_too() -> None:
    """A day in Berlin ends at 23:00 UTC; in a rule without a zone there is nothing to add."""
    rules = """
domain: d
time_zone: Europe/Berlin
descriptors: [{key: team, rate_limit: {name: daily, unit: day, tokens_per_unit: 1}}]
"""
    told = error(refused(limiter(rules), "team=dba"))
    assert (
        "Token budget daily is used up. It resets at 2026-11-21T23:00:00Z (2026-11-22T00:00:00+01:00 in Europe/Berlin)."
        " Retrying before then does not help."
    ) == told["message"]
    wanted = {"resets_at": "2026-11-21T23:00:00Z", "resets_at_local": "2026-11-22T00:00:00+01:00"}
    assert {**wanted, "time_zone": "Europe/Berlin"} == {
        key: told["rate_limit"][key] for key in ("resets_at", "resets_at_local", "time_zone")
    }


def test_the_end_of_time_has_a_text() -> None:
    """A window of 10,000 years ends after the last date of Python's calendar, in the east before that of UTC."""
    rules = """
domain: d
time_zone: Pacific/Kiritimati
descriptors: [{key: team, rate_limit: {unit: year, unit_multiplier: 10000, tokens_per_unit: 1}}]
"""
    told = error(refused(limiter(rules), "team=dba"))["rate_limit"]
    assert ("9999-12-31T23:59:59Z", "9999-12-31T13:59:59+14:00") == (
        told["resets_at"],
        told["resets_at_local"],
    )


WORDS = """
domain: d
time_zone: Asia/Kolkata
descriptors:
  - key: team
    denial_message: "%s"
    rate_limit: {name: hourly, unit: hour, tokens_per_unit: 10}
"""


def test_a_rule_has_its_own_words() -> None:
    """denial_message, with its placeholders filled in; a stranger's value in it is text on one line, not a template."""
    words = (
        "{descriptor}: {used} of {limit} a {unit} used ({rule}), {{wait}} {reset_seconds} s, {resets_at},"
        " {resets_at_local} in {time_zone}"
    )
    asked = limiter(WORDS % words)
    stranger = descriptor("team=", 10)
    stranger = stranger._replace(entries=(stranger.entries[0]._replace(value=b'{used}\n"x\xff'),))
    asked.ask(stranger)
    told = error(asked.ask(stranger._replace(hits=0)))
    assert (
        r'team={used}\n"x\xff: 10 of 10 a hour used (hourly), {wait} 1800 s, 2026-11-21T00:30:00Z,'
        " 2026-11-21T06:00:00+05:30 in Asia/Kolkata"
    ) == told["message"]


@pytest.mark.parametrize("words", ["{used}", "{reset_seconds}", "{{}}", 'a "quoted" \\\\ {rule}'])
def test_a_message_is_text_whatever_it_is_made_of(words: str) -> None:
    """Also where it is nothing but a number."""
    told = message(WORDS % words.replace('"', '\\"'))
    expected = {
        "{used}": "1000",
        "{reset_seconds}": "1800",
        "{{}}": "{}",
        'a "quoted" \\\\ {rule}': 'a "quoted" \\ hourly',
    }
    assert expected[words] == told


def test_letters_beyond_ascii_are_intact() -> None:
    """In the body as they are; in headers, which cannot have them, each is an underscore."""
    rules = """
domain: d
descriptors: [{key: équipe, rate_limits: [{name: größe, unit: hour, tokens_per_unit: 1},
                                          {name: 日, unit: day, tokens_per_unit: 9}]}]
"""
    decision = refused(limiter(rules, refusal_headers=ALL_HEADERS), "équipe=Zürich", charge=5)
    assert "Token budget größe is used up." in decision.body.decode()
    details = error(decision)["rate_limit"]
    assert ("größe", "équipe=Zürich") == (details["rule"], details["descriptor"])
    assert '1, 1;w=3600;name="gr__e", 9;w=86400;name="_"' == headers(decision)["x-ratelimit-limit"]
    assert all(header.value.isascii() for header in decision.headers)


# Dialects


def by(dialect: str, asked: Limiter, *descriptors: str) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(refused(asked, *descriptors).body)
    return body


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


@pytest.mark.parametrize("dialect, outlook", BODIES)
def test_a_body_has_the_shape_that_is_asked_for(dialect: str, outlook: str) -> None:
    """The whole of it, by dialect and outlook (OpenAI's are above), and its content type."""
    asked = limiter(now=MIDNIGHT + (86_372 if outlook == "soon" else 36_000), error_format=dialect)
    decision = refused(asked, "blocked=x" if outlook == "never" else "team=dba")
    assert BODIES[dialect, outlook] == json.loads(decision.body)
    kind = "application/problem+json" if dialect == "problem+json" else "application/json"
    assert kind == headers(decision)["content-type"]


DIALECTS = """
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
def test_the_dialect_is_the_rules_or_else_the_domains(asked: Any, key: str, settings: dict[str, Any]) -> None:
    """And what a rule asks for, it gets, though the setting is for no body."""
    body = json.loads(limiter(DIALECTS, **settings).ask(asked).body)
    assert key in body
    assert ("error" if key == "error" else "about:blank") == body["type"]


# Privacy


SECRETS = ("zebra", "5555", "7777", "key_zebra")

PRIVATE = """
domain: d
error_details: minimal
descriptors:
  - key: animal
    rate_limits: [{name: stable, unit: hour, tokens_per_unit: 5555}, {name: pasture, unit: day, tokens_per_unit: 15555}]
  - {key: animal, value: zebra, rate_limit: {unit: hour, tokens_per_unit: 5555}}
  - {key: words, rate_limit: {name: words, unit: hour, tokens_per_unit: 5555}, denial_message: "{rule} till {resets_at}"}
"""


@pytest.mark.parametrize("dialect", ["openai", "anthropic", "gemini", "problem+json"])
@pytest.mark.parametrize(
    "asked, name",
    [
        ("animal=zebra.", "stable"),
        ("animal=zebra", "the token budget of this hour"),
        ("words=zebra", "words till 2026"),
    ],
)
@pytest.mark.parametrize("switch", ["rules", "setting"])
def test_a_refusal_can_keep_limit_use_and_subject_to_itself(
    dialect: str, asked: str, name: str, switch: str
) -> None:
    """It names the budget and its reset; that the operator's name of a rule is not that of a person is up to the operator."""
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


def test_a_denial_that_keeps_the_subject_to_itself() -> None:
    """No rule is for it: whatever it was."""
    decision = limiter(STRICT.replace("unmatched", "error_details: minimal\nunmatched")).ask("team=zebra")
    assert "The request is refused: no rule is for it. Retrying does not help." == error(decision)["message"]
    assert b"zebra" not in decision.body


def test_words_that_say_too_much_give_way_to_the_usual_ones() -> None:
    """REFUSAL_DETAILS=minimal, and a denial_message with {used} in a file that does not know of it."""
    told = message(WORDS % "{used} of {limit}", error_details="minimal")
    assert told.startswith("Token budget hourly is used up.")


# Retry-after: jitter, and what is remembered


def spread(most: int) -> Any:
    return itertools.cycle(range(most + 1)).__next__


@pytest.mark.parametrize(
    "now, least, most",
    [
        # 20 s before the end of a day
        (86_380, 20, 25),
        # 58 s before it: clients do not obey more than 60
        (86_342, 58, 60),
        (86_340, 60, 60),
        # later: nobody is to wait, and nothing is to be capped
        (36_000, 50_400, 50_405),
    ],
)
def test_callers_of_one_bucket_do_not_come_back_in_the_same_second(now: int, least: int, most: int) -> None:
    """40 of them refused at once: none is sent back before the limit resets, and the rest are spread over some seconds."""
    asked = limiter(now=MIDNIGHT + now, spread=spread(5))
    asked.ask("team=dba", hits=1_000)
    decisions = [asked.ask(descriptor("team=dba", 0)) for _ in range(40)]
    delays = [int(headers(decision)["retry-after"]) for decision in decisions]
    assert set(range(least, most + 1)) == set(delays)
    # the text says when the limit resets, to everybody the same: it is written once
    assert 1 == len({id(decision.body) for decision in decisions})
    assert f'"resets_in_seconds": {least}' in decisions[0].body.decode()
    assert most - least + 1 == len({id(decision.headers) for decision in decisions})


def test_what_has_changed_is_told_anew() -> None:
    """A second later, after another charge, in the next hour, and of another caller of the same rule."""
    asked = limiter()
    asked.ask("team=dba", hits=120)
    seen = []
    for later, entries, hits in (
        (0, "dba", 0),
        (1, "dba", 0),
        (0, "dba", 5),
        (0, "ops", 120),
        (0, "ops", 0),
        (3_599, "dba", 90),
        (0, "dba", 50),
        (0, "dba", 0),
    ):
        asked.now += later
        decision = asked.ask(descriptor(f"team={entries}", hits))
        if decision.body:
            details = error(decision)["rate_limit"]
            seen.append(
                [details[key] for key in ("descriptor", "rule", "used", "resets_in_seconds", "resets_at")]
            )
    assert [
        ["team=dba", "hourly", 120, 3_600, "2026-11-21T01:00:00Z"],
        ["team=dba", "hourly", 120, 3_599, "2026-11-21T01:00:00Z"],
        ["team=dba", "hourly", 125, 3_599, "2026-11-21T01:00:00Z"],
        ["team=ops", "hourly", 120, 3_599, "2026-11-21T01:00:00Z"],
        ["team=dba", "daily", 265, 82_800, "2026-11-22T00:00:00Z"],
    ] == seen


# The IETF's fields


@pytest.mark.parametrize(
    "entries, hits, policy, left",
    [
        ("team=dba", 40, '"hourly";q=100;w=3600, "daily";q=250;w=86400', '"hourly";r=60;t=3600, "daily";r=210;t=86400'),
        ("team=dba", 120, '"hourly";q=100;w=3600, "daily";q=250;w=86400', '"hourly";r=0;t=3600, "daily";r=130;t=86400'),
        ("unnamed=x", 1, '"15day";q=1;w=1296000', '"15day";r=0;t=1036800'),
        ("stranger=x", 1, None, None),
    ],
)  # fmt: skip
def test_the_fields_of_draft_11_are_on_every_answer(
    entries: str, hits: int, policy: str | None, left: str | None
) -> None:
    """With every window of the rule; a limit without a name has that of its window."""
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


def test_the_fields_are_what_structured_fields_can_say() -> None:
    """Integers of 15 digits, names that differ, and no letters beyond ASCII."""
    rules = """
domain: d
descriptors:
  - key: team
    rate_limits: [{name: größe, unit: hour, tokens_per_unit: 9007199254740991}, {name: gr__e, unit: day, tokens_per_unit: 5}]
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
