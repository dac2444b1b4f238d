"""The pauses between attempts to connect."""

from __future__ import annotations

import pytest

from ratelimit_service.sources.xds.backoff import Backoff


def pauses(number: int, factor: float, *, jitter: bool = False, share: float = 0.25) -> list[float]:
    backoff = Backoff(10, 60, factor, jitter=jitter, random=lambda: share)
    return [backoff.pause() for _ in range(number)]


@pytest.mark.parametrize("factor", [0.0, 0.5, 1.0, 2.0])
def test_pauses_double_up_to_the_longest(factor: float) -> None:
    """This includes upstream's default factor, with which upstream's own pauses never grow."""
    assert [10, 20, 40, 60, 60] == pauses(5, factor)


def test_a_factor_above_1_is_used() -> None:
    """Upstream's library does the same."""
    assert [10, 30, 60, 60] == pauses(4, 3)


def test_jitter_shortens_a_pause_at_random() -> None:
    """So replicas do not reconnect at the same moment."""
    assert [2.5, 5, 10] == pauses(3, 2, jitter=True)


def test_pauses_start_again_after_a_success() -> None:
    """Upstream never resets its pauses."""
    backoff = Backoff(10, 60, 2, jitter=False, random=lambda: 1)
    assert [10, 20] == [backoff.pause(), backoff.pause()]
    backoff.reset()
    assert [1, 10] == [backoff.soon(1), backoff.pause()]


def test_the_first_pause_is_at_most_the_longest() -> None:
    """The bound holds for any values of the two variables."""
    assert 5 == Backoff(10, 5, 2, jitter=False, random=lambda: 1).pause()
