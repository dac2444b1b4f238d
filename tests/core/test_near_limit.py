"""The use that is near a limit: NEAR_LIMIT_RATIO, in single precision as upstream computes it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimit_service.core.model import UINT32_MAX
from ratelimit_service.observe.metrics import Metrics
from tests.limiter import Limiter, descriptor


def near(amount: int, ratio: float = 0.8) -> int:
    """Return the use of `amount` above which hits are near the limit, from the statistics."""
    metrics = Metrics()
    rules = (
        f"{{domain: d, descriptors: [{{key: k, rate_limit: {{requests_per_unit: {amount}, unit: hour}}}}]}}"
    )
    Limiter(rules, observer=metrics, near_limit_ratio=ratio).ask(descriptor("k=v", amount))
    counts = {sample.name: sample.value for sample in metrics.counters()}
    return amount - int(counts.get("ratelimit_service_rate_limit_near_limit", 0))


@pytest.mark.parametrize(
    "amount, ratio, expected",
    [
        (0, 0.8, 0),
        (1, 0.8, 0),
        (2, 0.8, 1),
        (5, 0.8, 4),
        (10, 0.8, 8),
        (20, 0.8, 16),
        (10, 0.0, 0),
        (10, 1.0, 10),
        (10, 0.5, 5),
        # 0.7 is a little less than 0.7 in binary, and the product is rounded up to 7 before it is rounded
        # down
        (10, 0.7, 7),
        (10, 0.29, 2),
        (100, 0.29, 29),  # 28 in double precision: 0.29 × 100 is 28.999999999999996 there
        # the end of single precision: whole numbers beyond 2^24 are rounded first
        (2**24 + 1, 1.0, 2**24),
        (UINT32_MAX, 0.8, 3_435_973_888),
        (UINT32_MAX, 0.5, 2**31),
    ],
)
def test_near_is_a_part_of_the_limit_rounded_down(amount: int, ratio: float, expected: int) -> None:
    """Single precision makes both services draw the line at the same hit."""
    assert expected == near(amount, ratio)


@given(st.integers(0, 200_000))
def test_four_fifths_are_four_fifths(amount: int) -> None:
    """Single precision makes no difference for the default ratio and limits up to 200,000."""
    assert amount * 4 // 5 == near(amount)
