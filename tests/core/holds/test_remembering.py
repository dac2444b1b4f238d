"""The ids that a bucket remembers, so that their charges count once."""

from __future__ import annotations

from ratelimit_service.core.holds.hit import HoldHit, Op, Size
from ratelimit_service.core.holds.state import MOST_IDS, Holds


def charge(name: str, now: int) -> HoldHit:
    return HoldHit(
        "holds",
        ttl=60,
        op=Op.CHARGE,
        now=now,
        life=60,
        expiry=now + 60,
        size=Size(60, 0.0, 0, 100),
        charge=10,
        id=name,
    )


def test_a_new_id_is_remembered_by_a_bucket_that_is_full_of_later_ones() -> None:
    """The clock has gone back by a second. The oldest ids are forgotten in its place."""
    holds = Holds()
    for number in range(MOST_IDS):
        holds.apply(charge(f"{number}", now=1001))
    for number in range(100):
        late = charge(f"late {number}", now=1000)
        holds.apply(late)
        assert holds.knows(late)
    assert MOST_IDS == len(holds.ids)
    assert not holds.knows(charge("99", now=1000))
    assert holds.knows(charge("100", now=1000))
