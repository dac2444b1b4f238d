"""The records of amendments, changes and resets: their bounds, and their texts in the store."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ratelimit_service.core.amendments.model import (
    LONGEST_NAME,
    MOST_EDITS,
    MOST_WINDOWS,
    Amendment,
    Change,
    Put,
    Remove,
    Reset,
    check,
    override,
    top_up,
)
from ratelimit_service.core.amendments.records import (
    Unreadable,
    read,
    read_reset,
    to_json,
    write,
    write_reset,
)
from ratelimit_service.core.amendments.target import parse
from ratelimit_service.core.errors import InvalidRequest
from ratelimit_service.core.model import COUNTER_MAX

TARGET = parse("token-budgets", r"team=d\,ba,model=\xFF*")
NOW = 1_795_219_200

AMENDMENTS = [
    override(TARGET, 0),
    override(TARGET, COUNTER_MAX, window="15minute", until=NOW + 1, since=NOW, author="ana", reason="a café"),
    top_up(TARGET, 5, "k", windows=3, since=NOW, author="ana"),
    top_up(parse("d", "*"), 5, "k", until=NOW + 9, since=NOW),
]


@pytest.mark.parametrize("amendment", AMENDMENTS)
def test_an_amendment_is_read_back_from_its_text(amendment: Amendment) -> None:
    """The text is one line of printable ASCII."""
    text = write(amendment)
    assert text.isascii()
    assert text.isprintable()
    assert amendment == read(text)


def test_the_text_of_an_amendment_is_json_that_a_person_can_read() -> None:
    """Fields that do not apply are omitted."""
    amendment = top_up(parse("d", "team=dba"), 5, "k", windows=1, since=NOW, author="ana", reason="launch")
    assert {
        "id": amendment.id,
        "kind": "top_up",
        "domain": "d",
        "descriptor": "team=dba",
        "amount": 5,
        "windows": 1,
        "since": NOW,
        "author": "ana",
        "reason": "launch",
    } == to_json(amendment)


NO_AMENDMENTS = [
    "",
    "7",
    "[]",
    "{}",
    "null",
    b"\xff",
    '{"id":"a","kind":"grant","domain":"d","descriptor":"*","amount":1}',
    '{"id":"a","kind":"override","domain":"d","descriptor":"nothing","amount":1}',
    '{"id":"a","kind":"override","domain":"d","descriptor":"*","amount":"x"}',
]


@pytest.mark.parametrize("text", NO_AMENDMENTS)
def test_an_invalid_amendment_is_unreadable(text: str | bytes) -> None:
    """So is one of a kind that only a later version knows. The others are read nevertheless."""
    with pytest.raises(Unreadable):
        read(text)
    with pytest.raises(Unreadable):
        read_reset(text)


def test_a_reset_is_read_back_from_its_text() -> None:
    """It has the counts before the reset."""
    reset = Reset(TARGET, "hour", (("{d|k=v}:hour:x", 7), ("{d|k=v}:day:x", None)))
    assert reset == read_reset(write_reset(reset))
    assert {"{d|k=v}:hour:x": 7, "{d|k=v}:day:x": None} == json.loads(write_reset(reset))["counters"]


def test_an_override_is_known_by_its_target_and_window_and_a_top_up_by_its_change_too() -> None:
    """So a later override replaces the first one, and a repeated change makes the same top-up."""
    assert override(TARGET, 1).id == override(TARGET, 2, until=NOW).id
    assert override(TARGET, 1).id != override(TARGET, 1, window="hour").id
    assert top_up(TARGET, 1, "k").id == top_up(TARGET, 1, "k").id
    assert top_up(TARGET, 1, "k").id != top_up(TARGET, 1, "l").id


MISTAKES: list[tuple[Any, str]] = [
    (lambda: override(TARGET, -1), "a limit is 0 to"),
    (lambda: override(TARGET, COUNTER_MAX + 1), "a limit is 0 to"),
    (lambda: override(TARGET, 1, window="hours"), "no window is called 'hours'"),
    (lambda: override(TARGET, 1, window="1hour"), "no window is called"),
    (lambda: override(TARGET, 1, window="unknown"), "no window is called"),
    (lambda: override(TARGET, 1, until=NOW, since=NOW), "ends in the future"),
    (lambda: override(TARGET, 1, until=10**12, since=NOW), "before the year 10000"),
    (lambda: top_up(TARGET, 0, "k"), "a top-up is 1 to"),
    (lambda: top_up(TARGET, 1, "k", windows=MOST_WINDOWS + 1), "a top-up is for 1 to"),
    (lambda: top_up(TARGET, 1, "k", windows=1, until=NOW), "give one of them"),
]


@pytest.mark.parametrize("make, words", MISTAKES, ids=range(len(MISTAKES)))
def test_a_mistake_in_an_amendment_says_what_would_be_right(make: Any, words: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        make()
    assert words in str(raised.value)


GOOD = Change("key", "ana", "launch", (Put(override(TARGET, 1)),), NOW)


@pytest.mark.parametrize(
    "change, words",
    [
        (GOOD._replace(author=""), "an author"),
        (GOOD._replace(reason=""), "a reason"),
        (GOOD._replace(key=""), "an idempotency key"),
        (GOOD._replace(key="k" * (LONGEST_NAME + 1)), "an idempotency key"),
        (GOOD._replace(author="ana\x1b[2J"), "printable"),
        (GOOD._replace(edits=()), "1 to 100"),
        (GOOD._replace(edits=(Remove("o-1"),) * (MOST_EDITS + 1)), "1 to 100"),
        (GOOD._replace(expected=()), "expects something of each"),
    ],
)
def test_a_change_has_an_author_a_reason_and_a_key(change: Change, words: str) -> None:
    check(GOOD)
    with pytest.raises(InvalidRequest) as raised:
        check(change)
    assert words in str(raised.value)
