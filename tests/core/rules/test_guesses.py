"""Misspelt keys: one error names the key that was meant, and nothing else is reported."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from ratelimit_service.core.errors import InvalidRules
from ratelimit_service.core.rules.reader import load
from ratelimit_service.core.rules.vocabulary import KEYS, Level
from ratelimit_service.sources.yaml_text import read

FILE = """\
domain: edge
time_zone: UTC
unmatched: deny
required_keys: [team]
error_format: openai
error_details: full
descriptors:
  - key: team
    value: "dba*"
    shadow_mode: true
    quota_mode: true
    detailed_metric: true
    value_to_metric: true
    share_threshold: true
    metadata: {a: b}
    count_refused: true
    max_charge: 5
    over_max_charge: refuse
    warn_at: [0.8]
    track: true
    denial_message: no
    limit_headers: on_refusal
    error_format: anthropic
    error_details: minimal
    rate_limit:
      unit: month
      unit_multiplier: 2
      time_zone: UTC
      starts_on: 2
      requests_per_unit: 5
      name: a
      replaces:
        - name: b
  - key: user
    rate_limit: {name: b, unit: day, tokens_per_unit: 5}
    hold: auto
    hold_strictness: p90
    hold_ttl: 90s
    hold_max: 25%
    ledger:
      keep: 400d
      by: day
    price:
      per_million: 2.50
      currency: USD
    signal: [caller]
    low_at: 0.8
    notify: [finance]
    descriptors:
      - key: model
        rate_limits:
          - {unit: hour, tokens_per_unit: 5}
  - key: free
    rate_limit: {unlimited: true}
"""
"""Every key of the language, at each level once or more."""

CHANGES: dict[str, Callable[[str], str]] = {
    "camelCase": lambda key: "".join(
        [part.capitalize() if place else part for place, part in enumerate(key.split("_"))]
    ),
    "with hyphens": lambda key: key.replace("_", "-"),
    "Capitalized": str.capitalize,
    "with one letter more": lambda key: f"{key[:2]}{key[1:]}",
    "with two letters in the wrong order": lambda key: f"{key[:-2]}{key[-1]}{key[-2]}",
}


def misspelt() -> Iterator[tuple[str, int, str]]:
    """A key of the file, its line, and its misspelling."""
    every = {key for keys in KEYS.values() for key in keys}
    for number, line in enumerate(FILE.splitlines()):
        for key in every:
            if f" {key}:" in f" {line}" or f"{{{key}:" in line or f", {key}:" in line:
                for change in CHANGES.values():
                    swapped = len(key) == 2 and change(key) == key[::-1]  # too far from it to be a guess
                    if change(key) not in every and not swapped:
                        yield key, number, change(key)


def test_the_file_has_every_key() -> None:
    """It has no errors."""
    assert () == load([read("a.yaml", FILE)]).warnings
    assert {key for keys in KEYS.values() for key in keys} == {key for key, _, _ in misspelt()}


@pytest.mark.parametrize("key, number, text", sorted(set(misspelt())))
def test_a_misspelt_key_is_one_error(key: str, number: int, text: str) -> None:
    """It names the line and the meant key. No missing key is reported."""
    lines = FILE.splitlines()
    lines[number] = f" {lines[number]}".replace(f" {key}:", f" {text}:").replace(f"{{{key}:", f"{{{text}:")[
        1:
    ]
    with pytest.raises(InvalidRules) as caught:
        load([read("a.yaml", "\n".join(lines))])
    (problem,) = caught.value.problems
    assert (number + 1, f"unknown key '{text}': did you mean '{key}'?") == (problem.line, problem.message)
    assert [] == [warning for warning in caught.value.warnings if warning.line == number + 1]


@pytest.mark.parametrize(
    "key", ["limits", "rate-limits", "ratelimit", "tokens_per_units", "unlimitted", "unit_multiplyer"]
)
def test_no_key_is_suggested_that_would_be_refused_there(key: str) -> None:
    """At the top of a file, a key of another level is suggested with its level, or not at all."""
    with pytest.raises(InvalidRules) as caught:
        load([read("a.yaml", f"domain: edge\n{key}: 5\n")])
    (problem,) = caught.value.problems
    assert not any(
        problem.message.endswith(f"did you mean '{other}'?")
        for level in Level
        if level is not Level.FILE
        for other in KEYS[level]
    )


def test_the_value_of_a_misspelt_key_is_checked() -> None:
    """If the meant key is certain, all errors are reported at once."""
    with pytest.raises(InvalidRules) as caught:
        load(
            [
                read(
                    "a.yaml",
                    "domain: edge\ndescriptors:\n  - key: a\n    rateLimit: {Unit: hours, requests: 5k}\n",
                )
            ]
        )
    assert [
        "a.yaml:4: descriptors[0]: unknown key 'rateLimit': did you mean 'rate_limit'?",
        "a.yaml:4: descriptors[0].rate_limit: unknown key 'Unit': did you mean 'unit'?",
        "a.yaml:4: descriptors[0].rate_limit: unknown key 'requests': did you mean 'requests_per_unit'?",
        "a.yaml:4: descriptors[0].rate_limit.requests_per_unit: must be a whole number from 0 to 4294967295, "
        "not the text '5k': write 5000",
        "a.yaml:4: descriptors[0].rate_limit.unit: unknown unit 'hours': did you mean 'hour'?",
    ] == list(map(str, caught.value.problems))


@pytest.mark.parametrize(
    "text",
    [
        "  - {key: team, rate_limit: &a {unit: hour, tokens_per_unit: 5}}\n"
        "  - {key: team, vallue: dba, rate_limit: *a}\n",
        "  - key: team\n    rate_limits:\n"
        "      - {unit: hour, tokens_per_unit: 5}\n"
        "      - {unit: hour, unit_mulitplier: 6, tokens_per_unit: 5}\n",
        "  - {key: team, vallue: d*, share_threshold: true, rate_limit: {unit: hour, tokens_per_unit: 5}}\n",
    ],
    ids=["siblings", "windows", "share_threshold"],
)
def test_nothing_is_checked_that_depends_on_a_misspelt_key(text: str) -> None:
    """Two descriptors are not duplicates because the value of one is misspelt, nor are two windows."""
    with pytest.raises(InvalidRules) as caught:
        load([read("a.yaml", f"domain: edge\ndescriptors:\n{text}")])
    (problem,) = caught.value.problems
    assert problem.message.startswith("unknown key ")
