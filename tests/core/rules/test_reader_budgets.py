"""From documents to rules beyond upstream's language: budgets, several limits, calendars, domain settings."""

from __future__ import annotations

import textwrap

import pytest

from ratelimit_service.core.errors import InvalidRules
from ratelimit_service.core.model import COUNTER_MAX, Calendar, DomainRules, Limit, Rule, Unit, Window
from ratelimit_service.core.rules.document import Document
from ratelimit_service.core.rules.loaded import Loaded
from ratelimit_service.core.rules.reader import load
from ratelimit_service.core.rules.refusals import LONGEST, wrong_with
from ratelimit_service.core.rules.zones import is_zone, nearest_zone
from ratelimit_service.sources.yaml_text import read

UTC = Calendar()
BERLIN = Calendar("Europe/Berlin")
TOKENS = "{unit: day, tokens_per_unit: 1}"
REQUESTS = "{unit: day, requests_per_unit: 1}"


def loaded(*texts: str, merge: bool = False, budgets: str = "") -> Loaded:
    documents: list[Document] = [
        read(f"{number}.yaml", textwrap.dedent(text)) for number, text in enumerate(texts, 1)
    ]
    return load(documents, merge_domains=merge, budget_domains=frozenset(budgets.split()))


def domain(*texts: str, budgets: str = "") -> DomainRules:
    (found,) = loaded(*texts, merge=True, budgets=budgets).domains
    return found


def rule(text: str, top: str = "", budgets: str = "") -> Rule:
    """Return the rule of the one descriptor of domain `d` in `text`, the inside of a flow mapping."""
    (descriptor,) = domain(
        f"{{domain: d, {top + ', ' if top else ''}descriptors: [{{key: a, {text}}}]}}", budgets=budgets
    ).descriptors
    assert descriptor.rule is not None
    return descriptor.rule


def window(text: str, top: str = "", budgets: str = "") -> Window:
    """Return the window of a `rate_limit` with `text` in it."""
    (limit,) = rule(f"rate_limit: {{{text}}}", top, budgets).limits
    return limit.window


def errors(*texts: str) -> list[str]:
    with pytest.raises(InvalidRules) as caught:
        loaded(*texts, merge=True)
    return [str(problem) for problem in caught.value.problems]


def test_tokens_per_unit_is_a_budget_by_the_calendar() -> None:
    """It may be as large as a counter. By default, its windows follow the calendar of UTC."""
    found = rule(f"rate_limit: {{unit: month, tokens_per_unit: {COUNTER_MAX}, name: big}}")
    assert (Limit(COUNTER_MAX, Window(Unit.MONTH, 1, UTC), "big"),) == found.limits
    assert (True, True, "big") == (found.budget, found.count_refused, found.name)


def test_requests_per_unit_has_the_meaning_of_upstream() -> None:
    """It has no budget and no calendar, and refused requests are counted."""
    found = rule("rate_limit: {unit: month, requests_per_unit: 5}")
    assert (Limit(5, Window(Unit.MONTH)),) == found.limits
    assert (False, True) == (found.budget, found.count_refused)
    assert ((), False, "", False) == (
        found.warn_at,
        found.track,
        found.denial_message,
        found.limit_on_refusal_only,
    )


@pytest.mark.parametrize(
    ("text", "top", "expected"),
    [
        # a calendar where a time zone or a start is given, by the limit or by its domain; the limit's zone
        # wins
        ("unit: day, requests_per_unit: 1", "", None),
        ("unit: day, requests_per_unit: 1, time_zone: UTC", "", UTC),
        ("unit: day, requests_per_unit: 1", "time_zone: Europe/Berlin", BERLIN),
        ("unit: day, requests_per_unit: 1, time_zone: UTC", "time_zone: Europe/Berlin", UTC),
        ("unit: week, requests_per_unit: 1, starts_on: monday", "", UTC),
        ("unit: hour, tokens_per_unit: 1", "time_zone: Europe/Berlin", BERLIN),
        # weeks
        ("unit: week, tokens_per_unit: 1", "", UTC),
        ("unit: week, tokens_per_unit: 1, starts_on: mon", "", UTC),
        ("unit: week, tokens_per_unit: 1, starts_on: Thursday", "", Calendar(weekday=3)),
        ("unit: week, tokens_per_unit: 1, starts_on: SUN", "time_zone: Europe/Berlin",
            BERLIN._replace(weekday=6)),
        # months
        ("unit: month, tokens_per_unit: 1, starts_on: 1", "", UTC),
        ("unit: month, tokens_per_unit: 1, starts_on: 31", "", Calendar(day=31)),
        ("unit: month, tokens_per_unit: 1, starts_on: '15'", "", Calendar(day=15)),
        ("unit: month, tokens_per_unit: 1, starts_on: 08", "", Calendar(day=8)),
        # years
        ("unit: year, tokens_per_unit: 1, starts_on: 01-01", "", UTC),
        ("unit: year, tokens_per_unit: 1, starts_on: 04-01", "", Calendar(month=4)),
        ("unit: year, tokens_per_unit: 1, starts_on: 02-29", "", Calendar(month=2, day=29)),
        ("unit: year, tokens_per_unit: 1, starts_on: 10-15", "", Calendar(month=10, day=15)),
    ],
)  # fmt: skip
def test_a_window_has_the_calendar_that_the_file_asks_for(
    text: str, top: str, expected: Calendar | None
) -> None:
    """Equal windows compare equal, with or without defaults and settings that do not apply."""
    assert expected == window(text, top).calendar


def test_a_list_has_its_limits_in_the_order_of_the_file() -> None:
    """Each has its own name. The name of the rule is the first of them."""
    found = rule(
        "rate_limits: [{unit: hour, unit_multiplier: 5, tokens_per_unit: 5}, {unit: day, "
        "tokens_per_unit: 50, name: 'a \"b\"'}, {unit: week, tokens_per_unit: 100, name: c}]"
    )
    assert (
        Limit(5, Window(Unit.HOUR, 5, UTC)),
        Limit(50, Window(Unit.DAY, 1, UTC), 'a "b"'),
        Limit(100, Window(Unit.WEEK, 1, UTC), "c"),
    ) == found.limits
    assert ('a "b"', True) == (found.name, found.budget)


@pytest.mark.parametrize(
    ("text", "budgets", "expected"),
    [
        (f"rate_limit: {TOKENS}", "", True),
        (f"rate_limits: [{TOKENS}]", "", True),
        (f"rate_limit: {REQUESTS}", "", True),
        (f"rate_limits: [{REQUESTS}]", "", False),
        (f"rate_limits: [{REQUESTS}]", "d", True),
        # what the file says holds for each of them
        (f"rate_limit: {TOKENS}, count_refused: false", "", False),
        (f"rate_limits: [{TOKENS}], count_refused: false", "", False),
        (f"rate_limit: {REQUESTS}, count_refused: false", "", False),
        (f"rate_limits: [{REQUESTS}], count_refused: true", "", True),
        (f"rate_limit: {REQUESTS}, count_refused: ", "", True),
    ],
)
def test_refused_requests_are_counted_except_in_a_list_of_requests(
    text: str, budgets: str, expected: bool
) -> None:
    """A refusal by the minute must not use up the day. count_refused changes the default."""
    assert expected is rule(text, budgets=budgets).count_refused


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[0.8]", (0.8,)),
        ("[1, 0.5]", (0.5, 1.0)),
        ("[1.0, 0.50, 1, .5]", (0.5, 1.0)),
        ("[1e-3]", (0.001,)),
        ("~", ()),
    ],
)
def test_thresholds_are_ascending_and_unique(text: str, expected: tuple[float, ...]) -> None:
    """The file may have them in any order."""
    assert expected == rule(f"rate_limit: {TOKENS}, warn_at: {text}").warn_at


def test_the_keys_beside_a_limit_are_in_its_rule() -> None:
    """track, denial_message and limit_headers."""
    found = rule(f"rate_limits: [{REQUESTS}], track: yes, denial_message: 'Wait {{reset_seconds}} s.'")
    assert (True, "Wait {reset_seconds} s.") == (found.track, found.denial_message)
    for written, expected in (("always", False), ("on_refusal", True), ("ON_REFUSAL", True), ("~", False)):
        assert expected is rule(f"rate_limit: {REQUESTS}, limit_headers: {written}").limit_on_refusal_only


def test_in_budget_domains_every_limit_is_a_budget() -> None:
    """Their windows follow the calendar in the time zone of the domain. Other domains do not change."""
    text = """
        domain: d
        time_zone: Europe/Berlin
        descriptors:
          - {key: a, rate_limit: {unit: week, requests_per_unit: 5}}
          - {key: b, rate_limits: [{unit: week, requests_per_unit: 5}]}
          - {key: c, rate_limit: {unit: week, tokens_per_unit: 5}}
          - {key: d, rate_limit: {unlimited: true}}
    """
    rules = [each.rule for each in domain(text, budgets="d").descriptors if each.rule]
    assert [True, True, True, False] == [each.budget for each in rules]
    assert [(Limit(5, Window(Unit.WEEK, 1, BERLIN)),)] * 3 == [each.limits for each in rules[:3]]
    assert ((), True) == (rules[3].limits, rules[3].unlimited)

    assert UTC == window("unit: week, requests_per_unit: 1", budgets="d").calendar
    assert None is window("unit: week, requests_per_unit: 1", budgets="e d.e").calendar


def test_a_budget_domain_is_marked() -> None:
    """So limit overrides in its requests are budgets, too."""
    assert [True, False] == [each.budgets for each in loaded("domain: d", "domain: e", budgets="d").domains]


def test_a_budget_domain_that_no_file_has_is_a_warning() -> None:
    """With a misspelt name, request limits would stay request limits."""
    assert ["BUDGET_DOMAINS: no file has the domain 'D': name a domain of the files"] == [
        str(warning) for warning in loaded("domain: d", budgets="d D").warnings
    ]


def test_a_domain_has_its_settings() -> None:
    """The time zone is text, and keys are bytes. The defaults are upstream's."""
    found = domain(
        "{domain: d, time_zone: Europe/Berlin, unmatched: deny, required_keys: [team, 010, !!binary /w==]}"
    )
    assert ("Europe/Berlin", True, (b"team", b"010", b"\xff")) == (
        found.zone,
        found.deny_unmatched,
        found.required_keys,
    )
    plain = domain("domain: d")
    assert ("", False, (), False) == (plain.zone, plain.deny_unmatched, plain.required_keys, plain.budgets)


def test_settings_of_one_file_apply_to_all_files_of_the_domain() -> None:
    """This includes the limits of files that were read before."""
    found = domain(
        "{domain: d, descriptors: [{key: a, rate_limit: {unit: day, tokens_per_unit: 1}}]}",
        "{domain: d, time_zone: Europe/Berlin, unmatched: deny, required_keys: [a, b]}",
        "{domain: d, time_zone: Europe/Berlin, unmatched: DENY, required_keys: [b, a]}",
    )
    (descriptor,) = found.descriptors
    assert descriptor.rule is not None
    assert BERLIN == descriptor.rule.limits[0].window.calendar
    assert ("Europe/Berlin", True, (b"a", b"b")) == (found.zone, found.deny_unmatched, found.required_keys)


def test_files_of_one_domain_must_not_contradict_each_other() -> None:
    """The error names the place of the other value."""
    advice = "set it once, or to the same value in every file of the domain"
    assert [
        f"2.yaml:2: time_zone: differs from 1.yaml:3: {advice}",
        f"2.yaml:3: unmatched: differs from 1.yaml:4: {advice}",
        f"2.yaml:4: required_keys: differs from 1.yaml:5: {advice}",
    ] == errors(
        "\ndomain: d\ntime_zone: UTC\nunmatched: allow\nrequired_keys: [a]",
        "domain: d\ntime_zone: Europe/Berlin\nunmatched: deny\nrequired_keys: [a, b]",
    )


def test_settings_apply_to_one_domain_only() -> None:
    """The time zone is an example."""
    (_, other) = loaded(
        "{domain: d, time_zone: Europe/Berlin, unmatched: deny, required_keys: [a]}",
        f"{{domain: e, descriptors: [{{key: a, rate_limit: {REQUESTS}}}]}}",
    ).domains
    assert ("", False, ()) == (other.zone, other.deny_unmatched, other.required_keys)
    assert other.descriptors[0].rule is not None
    assert None is other.descriptors[0].rule.limits[0].window.calendar


def test_a_rule_with_several_limits_can_be_replaced_by_its_first_name() -> None:
    """Further names are for people. Replacing one of them has no effect."""
    text = """
        domain: d
        descriptors:
          - key: a
            rate_limits:
              - {name: x, unit: day, tokens_per_unit: 1}
              - {name: y, unit: hour, tokens_per_unit: 1}
          - {key: b, rate_limit: {unlimited: true, replaces: [{name: x}, {name: y}]}}
    """
    assert ["no rate_limit of domain 'd' has the name 'y'"] == [
        warning.message for warning in loaded(text).warnings
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("europe/berlin", "Europe/Berlin"),
        ("Europe/Berlni", "Europe/Berlin"),
        ("berlin", "Europe/Berlin"),
        ("new york", "America/New_York"),
        ("utc", "UTC"),
        # no suggestion is better than one that is hours off
        ("CEST", None),
        ("GMT+2", None),
        ("x" * 1_000_000, None),
    ],
)
def test_the_likely_zone_is_suggested(text: str, expected: str | None) -> None:
    """It is found by its whole name or by its city."""
    assert (False, expected) == (is_zone(text), nearest_zone(text))


@pytest.mark.parametrize("text", ["", "Ask {{us}}.", "{used}{limit}", "é" * LONGEST])
def test_a_valid_denial_message_has_no_errors(text: str) -> None:
    """Plain text, escaped braces, adjacent placeholders."""
    assert "" == wrong_with(text)
