"""The current rate at which a window is used."""

from __future__ import annotations

import heapq
import random

import pytest

from ratelimit_service.core.budgets.burning import LOOKED_BACK, MOST_POINTS, SLICES, Meter, runs_out

HOUR, DAY = 3_600.0, 86_400.0


def metered(used_at: list[tuple[float, int]], window: float = HOUR) -> float | None:
    """Return the burn of a window that was read at these moments."""
    meter = Meter(0, window)
    for now, used in used_at[:-1]:
        meter.note(now, used)
    return meter.burn(*used_at[-1])


def steady(
    rate: float, until: float, seed: int, bursts: dict[int, int] | None = None
) -> list[tuple[float, int]]:
    """Return the use by calls of random sizes at random moments, read every two seconds."""
    chosen = random.Random(seed)
    used, looks = 0.0, []
    for second in range(int(until)):
        calls = sum(chosen.random() < 0.5 for _ in range(20))
        used += sum(chosen.expovariate(1) for _ in range(calls)) * rate / 10
        used += (bursts or {}).get(second, 0)
        if second % 2:
            looks.append((second + 1.0, int(used)))
    return looks


@pytest.mark.parametrize("seed", range(10))
def test_a_steady_rate_is_known_after_a_fifth_of_the_window(seed: int) -> None:
    """It is within 5 %, although single calls differ."""
    assert metered(steady(50, HOUR / 5, seed)) == pytest.approx(50, rel=0.05)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("moment", [300, 690])
def test_a_burst_does_not_fool_it(seed: int, moment: int) -> None:
    """A burst uses a third of the hour's total, so the mean since the window began is more than twice the
    rate.
    """
    looks = steady(50, HOUR / 5, seed, {moment: 60_000})
    assert 2 < looks[-1][1] / looks[-1][0] / 50
    assert metered(looks) == pytest.approx(50, rel=0.1)


def test_a_rate_that_changes_is_followed_within_a_fifth_of_the_window() -> None:
    looks = [(now, int(10 * now + 90 * max(0, now - 1_000))) for now in map(float, range(10, 1_721, 10))]
    assert metered(looks) == pytest.approx(100, rel=0.02)


def test_calls_that_are_rare_are_not_bursts() -> None:
    """With one call in ten minutes, the mean is the best estimate."""
    looks = [(now, int(now // 600) * 6_000) for now in map(float, range(10, 3_591, 10))]
    assert metered(looks) == pytest.approx(10, rel=0.2)


def test_the_first_read_knows_the_mean_since_the_window_began() -> None:
    assert 5 == metered([(600.0, 3_000)])
    assert None is metered([(HOUR / 120 / 2, 100)])


def test_reads_that_are_far_apart_are_spread_over_their_time() -> None:
    """There are only two reads, half an hour apart."""
    assert metered([(600.0, 6_000), (2_400.0, 24_000)]) == pytest.approx(10)


def test_a_decreasing_counter_restarts_the_meter() -> None:
    """The causes are a reset and a refund."""
    assert metered([(600.0, 6_000), (700.0, 0), (1_000.0, 300)]) == pytest.approx(1)


def test_a_clock_that_is_set_back_does_no_harm() -> None:
    meter = Meter(0, HOUR)
    meter.note(1_000, 100)
    meter.note(500, 100)
    assert meter.burn(400, 100) is not None
    assert meter.burn(1_100, 110) == pytest.approx(0.1)


def test_a_meter_keeps_some_twenty_moments() -> None:
    meter = Meter(0, HOUR)
    for second in range(3_600):
        meter.note(second, second)
    assert len(meter._points) <= LOOKED_BACK + 2


@pytest.mark.parametrize(
    "used, limit, burn, expected",
    [
        (50, 100, 1.0, 1_050),
        (50, 100, 0.1, 0),
        (100, 100, 1.0, 0),
        (0, 0, 1.0, 0),
        (50, 100, None, 0),
        (50, 100, 0.0, 0),
    ],
)
def test_a_window_runs_out_before_it_ends_or_not(
    used: int, limit: int, burn: float | None, expected: float
) -> None:
    assert expected == runs_out(1_000, used, limit, 1_200, burn)


@pytest.mark.parametrize("seed", range(5))
def test_refunds_of_estimates_do_not_restart_the_meter(seed: int) -> None:
    """Each request charges its estimate of 2,000 tokens, and refunds 1,600 of them after 1 to 20 seconds."""
    chosen = random.Random(seed)
    meter = Meter(0, DAY)
    used, refunds = 0, list[float]()
    for second in range(int(DAY / 2)):
        while refunds and refunds[0] <= second:
            heapq.heappop(refunds)
            used -= 1_600
            meter.note(second, used)
        if chosen.random() < 0.05:
            used += 2_000
            heapq.heappush(refunds, second + chosen.uniform(1, 20))
            meter.note(second, used)
        if second > DAY / SLICES * 2:
            assert meter.burn(second, used) is not None
    assert meter.looks_back(DAY / 2) == DAY / 5
    assert meter.burn(DAY / 2, used) == pytest.approx(0.05 * 400, rel=0.15)


@pytest.mark.parametrize(
    "days, back",
    [
        (1, 0.2), (2, 1), (3, 1), (4, 1), (5, 1), (7, 1), (13, 3), (14, 7), (21, 7), (28, 7), (30, 7),
        (31, 7), (90, 21), (365, 70),
    ],
)  # fmt: skip
def test_a_meter_looks_back_as_far_as_its_window_needs(days: int, back: float) -> None:
    """It has the readings for it, however often it is asked, and in every part of the window after that."""
    meter = Meter(0, days * DAY)
    looks = 1_440
    for number in range(1, looks + 1):
        now = days * DAY * number / looks
        meter.note(now, number)
        assert meter.looks_back(now) == pytest.approx(min(now, back * DAY))
        assert len(meter._points) <= MOST_POINTS
