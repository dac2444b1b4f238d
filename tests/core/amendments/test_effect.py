"""The effect of amendments on a limit, and how long it lasts."""

from __future__ import annotations

import math

import pytest

from ratelimit_service.core.amendments.effect import effect, end_of_windows, is_blocked
from ratelimit_service.core.amendments.index import Amendments, Stack
from ratelimit_service.core.amendments.model import Amendment, override, top_up
from ratelimit_service.core.amendments.target import parse
from ratelimit_service.core.model import COUNTER_MAX, Calendar, Limit, Unit, Window
from tests.limiter import MIDNIGHT, entries_of

HOUR, DAY = Limit(100, Window(Unit.HOUR)), Limit(1_000, Window(Unit.DAY))
NOW = MIDNIGHT + 90
BERLIN = Window(Unit.DAY, 1, Calendar("Europe/Berlin"))

ONE = parse("d", "team=dba")


def stack(*amendments: Amendment) -> Stack:
    """Return the amendments of the bucket team=dba."""
    index = Amendments()
    for amendment in amendments:
        index.put(amendment)
    return index.find("d", entries_of("team=dba"))


def to(amount: int, text: str = "team=dba", window: str = "", until: int = 0) -> Amendment:
    return override(parse("d", text), amount, window=window, until=until)


def add(amount: int, key: str = "k", window: str = "", until: int = 0, windows: int = 0) -> Amendment:
    return top_up(ONE, amount, key, window=window, until=until, windows=windows, since=NOW)


# What holds in each of the two windows, hour and day.
TABLE = [
    ("nothing", (), 100, 1_000),
    ("an override is for every window", (to(7),), 7, 7),
    ("an override for the window that it names", (to(7, window="day"),), 100, 7),
    ("for one window before that for all", (to(7), to(9, window="hour")), 9, 7),
    ("exact before a pattern", (to(7), to(9, "team=d*")), 7, 7),
    ("the more specific pattern", (to(7, "team=db*"), to(9, "team=d*")), 7, 7),
    ("a pattern before the domain", (to(7, "team=*"), to(0, "*")), 7, 7),
    ("an exact override for another window leaves the pattern", (to(7, window="week"), to(9, "team=*")),
        9, 9),
    ("a specific pattern for one window, the general one for the other", (to(7, window="day"), to(9, "*")),
        9, 7),
    ("a top-up is for every window", (add(5),), 105, 1_005),
    ("a top-up for the window that it names", (add(5, window="hour"),), 105, 1_000),
    ("top-ups add up", (add(5), add(6, "other")), 111, 1_011),
    ("and to what an override says", (to(7), add(5)), 12, 12),
    ("but nothing is added to a block", (to(0), add(5)), 0, 0),
    ("a block of one window", (to(0, window="hour"), add(5)), 0, 1_005),
    ("an exact override is an exception from a block", (to(0, "*"), to(7)), 7, 7),
    ("a limit saturates", (to(COUNTER_MAX), add(5)), COUNTER_MAX, COUNTER_MAX),
]  # fmt: skip


@pytest.mark.parametrize("words, amendments, hour, day", TABLE, ids=[words for words, *_ in TABLE])
def test_the_limits_in_force_follow_from_the_amendments(
    words: str, amendments: tuple[Amendment, ...], hour: int, day: int
) -> None:
    """For a limit of 100 an hour and 1,000 a day."""
    held = stack(*amendments)
    assert (hour, day) == (effect(HOUR, held, NOW).amount, effect(DAY, held, NOW).amount)


def test_an_override_in_the_request_comes_before_all_others_and_top_ups_add_to_it() -> None:
    """It even precedes a block: it comes from the configuration of the gateway."""
    held = stack(to(7), add(5))
    assert 105 == effect(HOUR, held, NOW, brought=True).amount
    assert 100 == effect(HOUR, stack(to(0)), NOW, brought=True).amount


def test_an_override_ends_at_its_moment_and_that_below_it_holds() -> None:
    """The result includes the interval in which it is valid, in both directions, because the clock may step
    back.
    """
    held = stack(to(7, until=NOW + 10), to(9, "*"))
    assert (7, -math.inf, NOW + 10) == effect(HOUR, held, NOW)[:3]
    assert (7, -math.inf, NOW + 10) == effect(HOUR, held, NOW + 9)[:3]
    assert (9, NOW + 10, math.inf) == effect(HOUR, held, NOW + 10)[:3]


def test_a_top_up_ends_with_the_window_in_which_it_was_made() -> None:
    """Each window of a rule counts by itself: the hour ends before the day."""
    held = stack(add(5, windows=1))
    assert (105, 1_005) == (effect(HOUR, held, NOW).amount, effect(DAY, held, NOW).amount)
    later = MIDNIGHT + 3_600
    assert (100, 1_005) == (effect(HOUR, held, later).amount, effect(DAY, held, later).amount)
    assert MIDNIGHT + 3_600 == effect(HOUR, held, NOW).end
    assert MIDNIGHT + 3_600 == effect(HOUR, held, later).begin
    assert 1_000 == effect(DAY, held, MIDNIGHT + 86_400).amount


def test_a_top_up_is_in_force_where_the_clock_is_behind_that_of_its_maker() -> None:
    """By that clock, it was made in the future."""
    assert 105 == effect(HOUR, stack(add(5, windows=1)), NOW - 7_200).amount


WINDOWS = [
    (Window(Unit.HOUR), 1, MIDNIGHT + 3_600),
    (Window(Unit.HOUR), 3, MIDNIGHT + 3 * 3_600),
    (Window(Unit.MINUTE, 15), 2, MIDNIGHT + 1_800),
    (Window(Unit.WEEK), 1, MIDNIGHT + 5 * 86_400),  # upstream's weeks begin on Thursdays
    (Window(Unit.WEEK, 1, Calendar()), 1, MIDNIGHT + 2 * 86_400),  # MIDNIGHT is a Saturday's
    (Window(Unit.WEEK, 1, Calendar()), 2, MIDNIGHT + 9 * 86_400),
    (Window(Unit.MONTH, 1, Calendar()), 1, MIDNIGHT + 10 * 86_400),
    (Window(Unit.MONTH, 1, Calendar()), 3, MIDNIGHT + (10 + 31 + 31) * 86_400),
    (BERLIN, 1, MIDNIGHT + 23 * 3_600),
    (BERLIN, 200, MIDNIGHT + 200 * 86_400 - 7_200),  # summer time by then
]


@pytest.mark.parametrize("window, count, end", WINDOWS, ids=str)
def test_windows_are_counted_by_the_calendar_of_the_rule(window: Window, count: int, end: int) -> None:
    assert end == end_of_windows(window, NOW, count)


def test_a_bucket_without_a_limit_is_blocked_by_an_override_of_0_for_all_windows() -> None:
    """Other amounts have no effect without a window, but one that is more specific is an exception from the
    block.
    """
    assert is_blocked(stack(to(0)), NOW).blocked
    assert is_blocked(stack(to(0, "*")), NOW).blocked
    assert not is_blocked(stack(to(7)), NOW).blocked
    assert not is_blocked(stack(to(0, window="hour")), NOW).blocked
    assert not is_blocked(stack(to(0, "*"), to(7)), NOW).blocked
    assert not is_blocked(stack(add(5)), NOW).blocked
    held = stack(to(0, until=NOW + 10))
    assert (True, NOW + 10) == (is_blocked(held, NOW).blocked, is_blocked(held, NOW).end)
    assert (False, NOW + 10) == (is_blocked(held, NOW + 10).blocked, is_blocked(held, NOW + 10).begin)
