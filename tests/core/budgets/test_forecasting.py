"""Forecasts of exhaustion, in simulated windows of all lengths with the rhythms of days and weeks."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ratelimit_service.core.budgets.burning import Level, Meter
from ratelimit_service.core.budgets.forecasting import Forecast, Foreseen, outlook
from ratelimit_service.core.budgets.profile import Profile, learn
from testing.spending import (
    DAY,
    HOUR,
    MONDAY,
    MONTH,
    SCENES,
    WEEK,
    YEAR,
    Look,
    Rhythm,
    Scene,
    Traffic,
    by_day,
    by_week,
    steady,
)

SEEDS = range(7)
LIMIT = 1_000_000


def error_of(traffic: Traffic, after: float, limit: int) -> float:
    """Return the error of the forecast as a part of the window, once such a part of the window has passed."""
    meter = Meter(traffic.start, traffic.start + traffic.span)
    predicted = None
    for now, used in traffic.play():
        if predicted is None and now >= traffic.start + after * traffic.span:
            burn = meter.burn(now, used)
            assert burn
            predicted = now + (limit - used) / burn
        meter.note(now, used)
        if used >= limit:
            assert predicted is not None
            return abs(predicted - now) / traffic.span
    raise AssertionError("the limit is not reached")


@pytest.mark.parametrize(
    "rhythm, span, after, calls",
    [
        # a steady rate, after a fifth of each window
        (steady, HOUR, 0.2, 20_000),
        (steady, DAY, 0.2, 20_000),
        (steady, WEEK, 0.2, 20_000),
        (steady, MONTH, 0.2, 50_000),
        (steady, YEAR, 0.2, 100_000),
        # days
        (by_day, MONTH, 0.2, 50_000),
        (by_day, YEAR, 0.2, 100_000),
        # weekends: a month is a week old after 0.23 of it
        (by_week, MONTH, 0.24, 50_000),
        (by_week, YEAR, 0.2, 100_000),
    ],
)
@pytest.mark.parametrize("limit", [0.5, 0.8])
def test_a_forecast_is_right_within_5_percent(
    rhythm: Rhythm, span: float, after: float, calls: int, limit: float
) -> None:
    """The error is a part of the window, which may begin on any weekday."""
    errors = [
        error_of(Traffic(rhythm, span, seed, LIMIT / limit, calls, start=MONDAY + seed * DAY), after, LIMIT)
        for seed in SEEDS
    ]
    assert max(errors) < 0.05


def test_a_month_that_has_not_seen_a_week_is_right_within_10_percent() -> None:
    """A fifth of the month has passed, and the missing weekday may be a Sunday."""
    errors = [
        error_of(Traffic(by_week, MONTH, seed, LIMIT / 0.8, 50_000, start=MONDAY + seed * DAY), 0.2, LIMIT)
        for seed in SEEDS
    ]
    assert max(errors) < 0.1
    assert sum(errors) / len(errors) < 0.05


def forecasts(traffic: Traffic, limit: int = LIMIT) -> tuple[list[tuple[float, Foreseen]], float]:
    """Return the forecasts with their parts of the window, and the part at which the budget was used up."""
    forecast = Forecast(traffic.start, traffic.start + traffic.span)
    found, ended = [], 1.0
    for now, used in traffic.play():
        passed = (now - traffic.start) / traffic.span
        if used >= limit:
            ended = min(ended, passed)
        foreseen = forecast.note(now, used, limit)
        if foreseen is not None:
            found.append((passed, foreseen))
    return found, ended


@pytest.mark.parametrize(
    "span, rhythm, overuse, ahead",
    [
        (HOUR, steady, 1.2, 0.5), (HOUR, steady, 2.0, 0.3), (HOUR, steady, 5.0, 0.1),
        (DAY, steady, 1.2, 0.3), (DAY, steady, 2.0, 0.2), (DAY, steady, 5.0, 0.1),
        (MONTH, by_week, 1.2, 0.3), (MONTH, by_week, 2.0, 0.2), (MONTH, by_week, 5.0, 0.05),
    ],
)  # fmt: skip
def test_a_budget_that_runs_out_is_foreseen_once_and_early(
    span: float, rhythm: Rhythm, overuse: float, ahead: float
) -> None:
    """The faster it is used, the earlier the forecast. `ahead` is a part of the window."""
    for seed in SEEDS:
        found, ended = forecasts(Traffic(rhythm, span, seed, overuse * LIMIT, 20_000))
        ((at, foreseen),) = found
        assert at + ahead < ended
        assert MONDAY < foreseen.at < MONDAY + span


@pytest.mark.parametrize(
    "rhythm, span, use",
    [
        (steady, HOUR, 0.8),
        (steady, DAY, 0.8),
        (steady, MONTH, 0.8),
        # the busy hours of the day would run it out, and then they are over
        (by_day, DAY, 0.7),
        (by_day, MONTH, 0.8),
        (by_week, MONTH, 0.8),
    ],
)  # fmt: skip
def test_a_budget_that_lasts_has_no_forecast(rhythm: Rhythm, span: float, use: float) -> None:
    """Each day has hours that use more than their share."""
    for seed in SEEDS:
        found, ended = forecasts(Traffic(rhythm, span, seed, use * LIMIT, 20_000, start=MONDAY + seed * DAY))
        assert ([], 1.0) == (found, ended)


@pytest.mark.parametrize(
    "bursts",
    [((0.03, 0.1),), ((0.1, 0.2),), ((0.3, 0.3),), ((0.5, 0.25), (0.7, 0.2))],
)
@pytest.mark.parametrize("span", [HOUR, DAY, MONTH])
def test_a_burst_causes_no_forecast(bursts: tuple[tuple[float, float], ...], span: float) -> None:
    """A burst uses a third of the budget, or two use a fifth each. The rest lasts, so there is no
    forecast.
    """
    for seed in SEEDS:
        traffic = Traffic(
            steady,
            span,
            seed,
            0.5 * LIMIT,
            10_000,
            bursts=tuple((place, part * LIMIT) for place, part in bursts),
        )
        assert ([], 1.0) == forecasts(traffic)


def test_a_flood_at_the_end_of_a_quiet_day_is_foreseen() -> None:
    """The budget is behind its pace all day, and is then used up within two hours."""
    looks = [
        Look(MONDAY + 60.0 * minute, int(max(0, minute - 1_200) * LIMIT / 120)) for minute in range(1, 1_440)
    ]
    forecast = Forecast(MONDAY, MONDAY + DAY)
    found = [now for now, used in looks if forecast.note(now, used, LIMIT) is not None]
    assert 1 == len(found)
    assert found[0] < MONDAY + 60 * (1_200 + 110)


def test_a_forecast_is_made_once_in_a_window_even_after_a_top_up() -> None:
    """The top-up raises the limit, and a second event for the same window would be one too many."""
    forecast, found = Forecast(0, DAY), []
    for now, used in Traffic(steady, DAY, 1, 3 * LIMIT, 20_000, start=0).play():
        limit = LIMIT if now < DAY / 4 else 2 * LIMIT
        if (foreseen := forecast.note(now, used, limit)) is not None:
            found.append(foreseen)
    assert 1 == len(found)


# With a profile of earlier weeks, from a ledger.

CALLS = 20_000
NAMED = {scene.name: scene for scene in SCENES}


def error_with_profile(scene: Scene, span: float, seed: int, after: float) -> float:
    """Return the error of the time of exhaustion after a part of a window that uses 5/4 of its limit."""
    traffic = scene.traffic(span, seed, 1.25 * LIMIT, LIMIT, CALLS)
    meter = Meter(traffic.start, traffic.start + span)
    profile = learn(traffic.history(), traffic.start)
    assert profile is not None
    predicted = None
    for now, used in traffic.play():
        if predicted is None and now >= traffic.start + after * span:
            level = meter.level(now, used, profile).level
            predicted = profile.moment(now, (LIMIT - used) / level)
        meter.note(now, used)
        if used >= LIMIT:
            assert predicted is not None
            return abs(predicted - now) / span
    raise AssertionError("the limit is not reached")


@pytest.mark.parametrize(
    "name, span",
    [
        ("steady", DAY), ("steady", WEEK), ("steady", MONTH),
        ("office hours", DAY), ("office hours", WEEK), ("office hours", MONTH),
        ("quiet weekends", DAY), ("quiet weekends", MONTH),
        ("month-end rush", MONTH),
        ("holiday in the week before", MONTH),
    ],
)  # fmt: skip
def test_with_a_ledger_a_forecast_is_right_within_5_percent_after_a_fifth_of_the_window(
    name: str, span: float
) -> None:
    """The window may begin on any weekday: a month has not seen a whole week by then."""
    assert max(error_with_profile(NAMED[name], span, seed, 0.2) for seed in SEEDS) < 0.05


@pytest.mark.parametrize("name", ["burst at the start", "burst in a night", "growth of 5 % a week"])
@pytest.mark.parametrize("span", [DAY, MONTH])
def test_with_a_ledger_neither_a_burst_nor_growth_fools_a_forecast(name: str, span: float) -> None:
    errors = [error_with_profile(NAMED[name], span, seed, 0.2) for seed in SEEDS]
    assert max(errors) < 0.11
    assert sum(errors) / len(errors) < 0.05


def foreseen_with_profile(scene: Scene, span: float, use: float, seed: int) -> tuple[list[float], float]:
    """Return the parts of the window at which events came, and at which a part of the limit was used up."""
    traffic = scene.traffic(span, seed, use * LIMIT, LIMIT, CALLS)
    profile = learn(traffic.history(scene.days), traffic.start)
    forecast = Forecast(traffic.start, traffic.start + span, lambda: profile)
    found: list[float] = []
    for now, used in traffic.play():
        passed = (now - traffic.start) / span
        if used >= LIMIT:
            return found, passed
        if (foreseen := forecast.note(now, used, LIMIT)) is not None:
            assert "profile" == foreseen.by
            found.append(passed)
    return found, 1.0


@pytest.mark.parametrize("span", [DAY, WEEK, MONTH])
@pytest.mark.parametrize("use", [0.6, 0.9])
@pytest.mark.parametrize("name", ["office hours", "busy from 0 to 9", "quiet weekends", "burst at the start"])
def test_with_a_ledger_busy_hours_of_a_budget_that_lasts_lead_to_no_event(
    name: str, use: float, span: float
) -> None:
    """Without one, most such days have a false event: half of the budget is used before a third of the
    day.
    """
    for seed in SEEDS:
        assert ([], 1.0) == foreseen_with_profile(NAMED[name], span, use, seed)


@pytest.mark.parametrize("span, ahead", [(DAY, 0.1), (WEEK, 0.2), (MONTH, 0.25)])
@pytest.mark.parametrize("name", ["office hours", "quiet weekends", "three times the weeks before"])
def test_with_a_ledger_each_window_that_runs_out_is_foreseen_once_and_early(
    name: str, span: float, ahead: float
) -> None:
    """They use 5/4 of the limit, so they run out after about four fifths of their use."""
    for seed in SEEDS:
        (at,), ended = foreseen_with_profile(NAMED[name], span, 1.25, seed)
        assert at + ahead < ended


def test_the_outlook_is_that_of_the_profile_and_the_burn_that_of_the_present() -> None:
    """At noon of a day with ten busy hours, the rate runs out in the evening, which is quiet."""
    meter = Meter(MONDAY, MONDAY + DAY)
    profile = Profile([1.0 if 8 <= hour % 24 < 18 else 0.1 for hour in range(168)])
    used = 0
    for hour in range(13):
        used = round(1_000 * profile.use(MONDAY, MONDAY + hour * HOUR))
        meter.note(MONDAY + hour * HOUR, used)
    now = MONDAY + 12 * HOUR
    limit = round(1_000 * profile.use(MONDAY, MONDAY + DAY)) + 100
    plain = outlook(meter, now, used, limit, MONDAY + DAY)
    found = outlook(meter, now, used, limit, MONDAY + DAY, profile)
    assert plain.burn == found.burn
    assert ("rate", "profile", 0.0) == (plain.by, found.by, found.runs_out)
    assert now < plain.runs_out < MONDAY + 20 * HOUR
    less = outlook(meter, now, used, used + 3_000, MONDAY + DAY, profile)
    assert less.runs_out == pytest.approx(MONDAY + 15 * HOUR, abs=600)


def test_without_a_reading_the_outlook_is_as_the_weeks_before() -> None:
    """A month that begins is forecast at once, at level 1."""
    profile = Profile([1.0] * 168)
    found = outlook(Meter(MONDAY, MONDAY + DAY), MONDAY, 0, 12, MONDAY + DAY, profile)
    assert (None, MONDAY + 12 * HOUR, "profile") == found
    assert 0.0 == outlook(Meter(MONDAY, MONDAY + DAY), MONDAY, 0, 25, MONDAY + DAY, profile).runs_out


def noted(used_at: Callable[[float], int], limit: int, profile: Profile) -> list[tuple[float, Foreseen]]:
    """Return the forecasts of a day that is read each minute, with the hours at which they came."""
    forecast = Forecast(MONDAY, MONDAY + DAY, lambda: profile)
    found = []
    for minute in range(1_440):
        seconds = 60.0 * minute
        foreseen = forecast.note(MONDAY + seconds, used_at(seconds), limit)
        if foreseen is not None:
            found.append((seconds / HOUR, foreseen))
    return found


@pytest.mark.parametrize("limit", [20, 80, 240, 600, 2_000])
def test_a_day_without_use_has_no_event(limit: int) -> None:
    """The weeks before used 2,400 a day, and the limit was lowered. That alone is no reason for an event."""
    assert [] == noted(lambda seconds: 0, limit, Profile([100.0] * 168))


@pytest.mark.parametrize("limit", [600, 300])
def test_a_day_with_a_tenth_of_the_usual_use_has_no_event(limit: int) -> None:
    assert [] == noted(lambda seconds: int(seconds / 360), limit, Profile([100.0] * 168))


def test_an_event_has_a_rate_above_0() -> None:
    """The usual use of a morning after a night without any: the event waits for the first of it."""
    profile = Profile([0.0 if hour % 24 < 8 else 100.0 for hour in range(168)])
    ((hours, foreseen),) = noted(lambda seconds: int(max(0.0, seconds - 8 * HOUR) / 36), 900, profile)
    assert 8 < hours < 12
    assert foreseen.burn > 0


def test_a_level_is_computed_once_in_a_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes as long as all else of a row in a scrape. What is left is that of the present."""
    computed: list[float] = []
    level = Meter.level

    def counted(self: Meter, now: float, used: int, profile: Profile) -> Level:
        computed.append(now)
        return level(self, now, used, profile)

    monkeypatch.setattr(Meter, "level", counted)
    profiles = [Profile([100.0] * 168)]
    forecast = Forecast(MONDAY, MONDAY + DAY, lambda: profiles[-1])
    for minute in range(0, 241, 12):
        forecast.note(MONDAY + 60 * minute, minute * 5, 2_400)
    noted, now = MONDAY + 4 * HOUR, MONDAY + 4 * HOUR + 15
    forecast.outlook(now, 1_200, 2_400)
    known = len(computed)
    ends = [forecast.outlook(now, used, 2_400).runs_out for used in (1_200, 1_500)]
    assert known == len(computed)
    assert now < ends[1] < ends[0]
    idle = forecast.outlook(noted + HOUR, 1_200, 2_400)
    assert idle.runs_out > ends[0]  # an hour without use counts, also without a reading
    assert known + 1 == len(computed)
    forecast.note(noted + HOUR, 0, 2_400)  # a reset
    assert 0.0 == forecast.outlook(noted + HOUR, 0, 2_400).runs_out
    profiles.append(Profile([200.0] * 168))
    forecast.outlook(noted + HOUR, 0, 2_400)
    assert known + 3 == len(computed)
