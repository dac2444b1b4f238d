"""Profiles of the hours of a week, learned from ledgers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimit_service.core.budgets.profile import DAY, FLOOR, HOUR, KEPT_DAYS, WEEK, Profile, learn

MONDAY = 1_000 * WEEK + 4 * DAY

HOURS = st.lists(st.integers(0, 10**12), min_size=168, max_size=168).filter(any)
MOMENTS = st.integers(0, 60 * WEEK)


def spent(days: int, use: Callable[[int], int], before: int = MONDAY) -> Iterator[tuple[int, int]]:
    """Yield each hour of so many days before a moment, and what it used."""
    for start in range(before - days * DAY, before, HOUR):
        yield start, use(start)


def office(start: int) -> int:
    return 100 if 8 <= start % DAY // HOUR < 18 and (start - MONDAY) // DAY % 7 < 5 else 0


@given(HOURS, MOMENTS, MOMENTS)
def test_the_moment_of_a_use_is_when_so_much_is_used(hours: list[int], first: int, seconds: int) -> None:
    profile = Profile(hours)
    use = profile.use(first, first + seconds)
    assert profile.moment(first, use) == pytest.approx(first + seconds, abs=1)


@given(HOURS, MOMENTS, MOMENTS, MOMENTS)
def test_uses_add_up(hours: list[int], first: int, second: int, third: int) -> None:
    profile = Profile(hours)
    assert profile.use(first, third) == pytest.approx(
        profile.use(first, second) + profile.use(second, third), rel=1e-6, abs=1e-3
    )


def test_an_hour_that_was_never_used_may_be_used_now() -> None:
    """So nothing is divided by 0."""
    profile = Profile([168.0] + [0.0] * 167)
    assert profile.use(WEEK, WEEK + HOUR) == pytest.approx(168)
    assert profile.use(WEEK + 5 * HOUR, WEEK + 6 * HOUR) == pytest.approx(FLOOR)


@pytest.mark.parametrize("days, weeks", [(8, 1), (14, 1), (15, 2), (22, 3), (KEPT_DAYS, 4), (100, 4)])
def test_a_profile_is_the_mean_of_the_last_whole_weeks(days: int, weeks: int) -> None:
    """The first day does not count: its use may have begun at noon. Uses grow by one each day."""
    profile = learn(spent(days, lambda start: (start - MONDAY) // DAY + 200), MONDAY)
    assert profile is not None
    assert weeks == profile.weeks
    sunday = 200 - 1 - sum(7 * week for week in range(weeks)) / weeks
    assert profile.use(MONDAY - DAY, MONDAY) == pytest.approx(24 * sunday)
    assert profile.use(MONDAY - 7 * DAY, MONDAY - 6 * DAY) == pytest.approx(24 * (sunday - 6))


def test_a_profile_knows_nights_and_weekends() -> None:
    profile = learn(spent(29, office), MONDAY)
    assert profile is not None
    days = [MONDAY + day * DAY for day in range(8)]
    assert [10, 10, 10, 10, 10, 0, 0] == [round(profile.use(*each) / 100) for each in pairwise(days)]
    assert 100 == profile.use(MONDAY + 9 * HOUR, MONDAY + 10 * HOUR)


@pytest.mark.parametrize("days", [2, 7])
def test_with_less_than_a_week_a_profile_is_that_of_a_day(days: int) -> None:
    """It is a mean over these days: nothing is known of the weekday."""
    profile = learn(spent(days, lambda start: 24 if start % DAY == 9 * HOUR else 1), MONDAY)
    assert profile is not None
    assert 0 == profile.weeks
    for day in range(7):
        nine = MONDAY + day * DAY + 9 * HOUR
        assert [24, 1] == [round(profile.use(nine, nine + HOUR)), round(profile.use(nine - HOUR, nine))]


@pytest.mark.parametrize("days", [0, 1])
def test_the_first_day_does_not_count_as_history(days: int) -> None:
    assert None is learn(spent(days, office, MONDAY + DAY), MONDAY + DAY)


def test_the_current_day_does_not_count_as_history() -> None:
    assert None is learn(spent(3, office, MONDAY + DAY), MONDAY - 2 * DAY)


def test_weeks_of_nothing_but_refunds_are_no_history() -> None:
    assert None is learn(spent(29, lambda start: 0), MONDAY)
    assert None is learn(spent(29, lambda start: -5), MONDAY)


def test_an_hour_of_refunds_counts_as_nothing() -> None:
    """A refund may be in a later hour than its charge."""
    profile = learn(spent(29, lambda start: -50 if start % DAY == 5 * HOUR else 10), MONDAY)
    assert profile is not None
    assert 0 < profile.use(MONDAY + 5 * HOUR, MONDAY + 6 * HOUR) < 1


def test_days_of_a_time_zone_are_spread_over_their_hours() -> None:
    """A ledger by the day has entries that begin at 23:00 UTC, as in Berlin in winter."""
    entries = [(MONDAY - HOUR - day * DAY, 240 if day % 7 else 2_400) for day in range(1, 30)]
    profile = learn(entries, MONDAY - HOUR, by="day")
    assert profile is not None
    assert profile.use(MONDAY + DAY, MONDAY + DAY + HOUR) == pytest.approx(10)
    assert profile.use(MONDAY - HOUR - DAY, MONDAY - HOUR) == pytest.approx(240)
    assert profile.use(MONDAY - HOUR - 7 * DAY, MONDAY - HOUR - 6 * DAY) == pytest.approx(2_400, rel=0.02)
    assert None is learn(entries[:6], MONDAY - HOUR, by="day")


def test_an_unfinished_day_of_a_time_zone_does_not_count_as_history() -> None:
    """Its entry began at 23:00 UTC yesterday, and has little so far."""
    entries = [(MONDAY - HOUR - day * DAY, 240) for day in range(1, 30)]
    ended, now = (learn(some, MONDAY - HOUR, by="day") for some in (entries, [(MONDAY - HOUR, 1), *entries]))
    assert ended is not None
    assert now is not None
    assert ended.use(MONDAY, MONDAY + WEEK) == now.use(MONDAY, MONDAY + WEEK)


@pytest.mark.parametrize("by, length", [("hour", HOUR), ("day", DAY)])
@pytest.mark.parametrize("weeks", [1, 4])
@pytest.mark.parametrize("shift", [0, HOUR // 4, HOUR // 2, 5 * HOUR + 900, 9 * HOUR, 17 * HOUR, 23 * HOUR])
def test_a_steady_use_has_a_steady_profile_in_each_time_zone(
    by: str, length: int, weeks: int, shift: int
) -> None:
    """Days, and even hours, of a ledger begin at other moments than in UTC. None is missing at the end."""
    end = MONDAY - shift // length * length - shift % length
    entries = [(start, length) for start in range(end - (weeks * 7 + 1) * DAY, end + DAY, length)]
    profile = learn(entries, end, by)
    assert profile is not None
    assert weeks == profile.weeks
    hours = [profile.use(MONDAY + hour * HOUR, MONDAY + (hour + 1) * HOUR) for hour in range(168)]
    assert hours == pytest.approx([HOUR] * 168)


@pytest.mark.parametrize("hours", [23, 25])
def test_a_clock_change_in_the_weeks_before_keeps_their_number(hours: int) -> None:
    """The day of the change has an hour less or more."""
    change = MONDAY - 10 * DAY
    starts = [change - day * DAY for day in range(20)] + [
        change + hours * HOUR + day * DAY for day in range(9)
    ]
    end = max(starts) + DAY
    profile = learn([(start, 2_400) for start in starts], end, "day")
    assert profile is not None
    assert 4 == profile.weeks
    assert profile.use(end, end + WEEK) == pytest.approx(7 * 2_400, rel=0.01)


@given(HOURS, MOMENTS)
def test_no_moment_lies_before_the_first(hours: list[int], first: int) -> None:
    """A rounded moment just before it would be an event about the second before."""
    assert Profile(hours).moment(first, 1e-6) >= first
