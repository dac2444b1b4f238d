"""The content of a refusal: the reason, the reset, and whether a retry helps."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from ratelimit_service.core.model import Override, Unit
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

# Outlooks: soon, later, never


def test_a_limit_that_resets_soon_asks_for_a_retry() -> None:
    """28 seconds before the end of the hour: a retry-after, and OpenAI's code for a rate limit."""
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
        "message": "Token budget hourly is used up. It resets at 2026-11-21T01:00:00Z. "
        "Try again in 28 seconds.",
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
    """A daily limit: the moment of the reset for people, and x-should-retry: false for SDKs."""
    decision = refused(limiter(now=MIDNIGHT + 36_000), "team=dba")
    assert {
        "retry-after": "50400",
        "x-should-retry": "false",
        "content-type": "application/json",
    } == headers(decision)
    assert {
        "message": "Token budget daily is used up. It resets at 2026-11-22T00:00:00Z. "
        "Retrying before then does not help.",
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
def test_the_bound_for_soon_is_a_setting(within: int, later: bool) -> None:
    """REFUSAL_RETRY_WITHIN is inclusive. With 0, no refusal asks for a retry."""
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
    """The refusal has neither retry-after nor reset, and the message says so."""
    asked = limiter()
    for decision in (asked.ask(descriptor(f"{key}=x", 0)), refused(asked, f"{key}=x")):
        assert {"x-should-retry": "false", "content-type": "application/json"} == headers(decision)
        shown = error(decision)
        assert (
            f"Token budget {rule} lets nothing through. Retrying does not help.",
            "insufficient_quota",
        ) == (shown["message"], shown["code"])
        assert "resets_at" not in shown and "resets_at" not in shown["rate_limit"]
        assert (rule, 0) == (shown["rate_limit"]["rule"], shown["rate_limit"]["limit"])


def test_an_override_of_0_never_lets_anything_through() -> None:
    """It replaces the hourly limit of the rule."""
    decision = limiter().ask(descriptor("team=dba", 0, Override(0, Unit.HOUR)))
    assert ("false", None) == (headers(decision)["x-should-retry"], headers(decision).get("retry-after"))


def test_a_request_that_is_more_than_the_whole_limit_never_fits() -> None:
    """6 hits on 5 a minute. On a budget, such a request crosses the limit and succeeds."""
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


@pytest.mark.parametrize(
    "asked, reason",
    [("team=x", "no rule matches team=x"), ("user=ann", "no descriptor has the key 'team'")],
)
def test_a_denial_by_the_rules_is_permanent(asked: str, reason: str) -> None:
    """It comes from unmatched: deny, or from required_keys."""
    decision = limiter(STRICT).ask(descriptor(asked, 0))
    assert {"x-should-retry": "false", "content-type": "application/json"} == headers(decision)
    message = f"The request is refused: {reason}. Retrying does not help."
    kind = "insufficient_quota"
    assert {"message": message, "type": kind, "param": None, "code": kind} == error(decision)


# Which limit a refusal is about


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
def test_a_refusal_is_about_the_limit_that_resets_last(keys: str, later: int, rule: str) -> None:
    """Several limits refuse the request."""
    decision = refused(limiter(SEVERAL, now=MIDNIGHT + later), *keys.split())
    assert rule == error(decision)["rate_limit"]["rule"]


@pytest.mark.parametrize(
    "settings",
    [{"refusal_headers": frozenset(), "error_format": ""}, {"shadow_mode": True}],
    ids=["off", "shadow mode"],
)
def test_only_refusals_have_refusal_headers_and_only_if_set(settings: dict[str, Any]) -> None:
    """There are none without the settings, or in global shadow mode."""
    decision = refused(limiter(**settings), "team=dba")
    assert ((), b"") == (decision.headers, decision.body)


# Messages


def test_a_budget_without_a_name_has_the_name_of_its_rule() -> None:
    """It is the path of the rule, with the window in words."""
    shown = error(refused(limiter(), "unnamed=x"))
    assert shown["message"].startswith("Rate limit d.unnamed is used up. It resets at 2026-12-03T00:00:00Z.")
    assert ("d.unnamed", "15 days") == (shown["rate_limit"]["rule"], shown["rate_limit"]["unit"])


def test_one_second_is_not_seconds() -> None:
    """It is the last second of an hour, and of the day."""
    shown = error(refused(limiter(now=MIDNIGHT + 86_399), "team=dba"))["message"]
    assert shown.endswith("Try again in 1 second.")


def test_a_reset_has_the_local_time_of_the_rule() -> None:
    """A day in Berlin ends at 23:00 UTC. A rule without a time zone has UTC alone."""
    rules = """
domain: d
time_zone: Europe/Berlin
descriptors: [{key: team, rate_limit: {name: daily, unit: day, tokens_per_unit: 1}}]
"""
    shown = error(refused(limiter(rules), "team=dba"))
    assert (
        "Token budget daily is used up. It resets at 2026-11-21T23:00:00Z (2026-11-22T00:00:00+01:00 in "
        "Europe/Berlin). Retrying before then does not help."
    ) == shown["message"]
    wanted = {"resets_at": "2026-11-21T23:00:00Z", "resets_at_local": "2026-11-22T00:00:00+01:00"}
    assert {**wanted, "time_zone": "Europe/Berlin"} == {
        key: shown["rate_limit"][key] for key in ("resets_at", "resets_at_local", "time_zone")
    }


def test_the_end_of_time_has_a_text() -> None:
    """A window of 10,000 years ends after Python's last date, which comes earlier in the east than in UTC."""
    rules = """
domain: d
time_zone: Pacific/Kiritimati
descriptors: [{key: team, rate_limit: {unit: year, unit_multiplier: 10000, tokens_per_unit: 1}}]
"""
    shown = error(refused(limiter(rules), "team=dba"))["rate_limit"]
    assert ("9999-12-31T23:59:59Z", "9999-12-31T13:59:59+14:00") == (
        shown["resets_at"],
        shown["resets_at_local"],
    )


def test_a_denial_message_replaces_the_default_message() -> None:
    """Its placeholders are filled in. A caller's value is text on one line, and not a template."""
    words = (
        "{descriptor}: {used} of {limit} a {unit} used ({rule}), {{wait}} {reset_seconds} s, {resets_at},"
        " {resets_at_local} in {time_zone}"
    )
    asked = limiter(WORDS % words)
    stranger = descriptor("team=", 10)
    stranger = stranger._replace(entries=(stranger.entries[0]._replace(value=b'{used}\n"x\xff'),))
    asked.ask(stranger)
    shown = error(asked.ask(stranger._replace(hits_addend=0)))
    assert (
        r'team={used}\n"x\xff: 10 of 10 a hour used (hourly), {wait} 1800 s, 2026-11-21T00:30:00Z,'
        " 2026-11-21T06:00:00+05:30 in Asia/Kolkata"
    ) == shown["message"]


@pytest.mark.parametrize("words", ["{used}", "{reset_seconds}", "{{}}", 'a "quoted" \\\\ {rule}'])
def test_a_message_that_looks_like_a_number_is_text(words: str) -> None:
    """In JSON, it stays a string."""
    shown = message(WORDS % words.replace('"', '\\"'))
    expected = {
        "{used}": "1000",
        "{reset_seconds}": "1800",
        "{{}}": "{}",
        'a "quoted" \\\\ {rule}': 'a "quoted" \\ hourly',
    }
    assert expected[words] == shown


def test_letters_beyond_ascii_are_intact() -> None:
    """The body has them as they are. Headers have an underscore for each."""
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
    """None of 40 callers is sent back before the reset, and the others are spread over seconds."""
    asked = limiter(now=MIDNIGHT + now, spread=spread(5))
    asked.ask("team=dba", hits=1_000)
    decisions = [asked.ask(descriptor("team=dba", 0)) for _ in range(40)]
    delays = [int(headers(decision)["retry-after"]) for decision in decisions]
    assert set(range(least, most + 1)) == set(delays)
    # the text says when the limit resets, to everybody the same: it is written once
    assert 1 == len({id(decision.body) for decision in decisions})
    assert f'"resets_in_seconds": {least}' in decisions[0].body.decode()
    assert most - least + 1 == len({id(decision.headers) for decision in decisions})


def test_a_cached_refusal_is_not_sent_after_a_change() -> None:
    """A second later, after another charge, in the next hour, and for another caller of the same rule."""
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


@pytest.mark.parametrize("rules, entries", [(RULES, "team=dba"), (STRICT, "team=x")])
def test_headers_need_no_body(rules: str, entries: str) -> None:
    """REFUSAL_BODY=none has no content type. Without headers, too, the refusal is empty."""
    decision = refused(limiter(rules, error_format=""), entries)
    assert b"" == decision.body
    assert {"x-should-retry"} == set(headers(decision)) - {"retry-after"}
    silent = refused(limiter(rules, error_format="", refusal_headers=frozenset()), entries)
    assert ((), b"") == (silent.headers, silent.body)
