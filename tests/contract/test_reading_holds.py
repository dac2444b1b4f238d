"""Reading holds returns the amounts that the next check would find, and takes no hold."""

from __future__ import annotations

import pytest

from ratelimit_service.core.gates import Gate
from ratelimit_service.core.holds.hit import HoldHit, Op, Size
from ratelimit_service.core.holds.preview import foresee
from ratelimit_service.core.model import Hit

from .conftest import NOW, Bench


def check(bucket: str, limit: int) -> list[Hit]:
    """Return the hits of a check that takes a hold of 30 tokens."""
    counter = Hit(f"{bucket}:day:2026-11-21", 0, ttl=60, limit=limit, gate=Gate.REFUSES | Gate.BUDGET)
    now = int(NOW)
    hold = HoldHit(
        f"{bucket}:held", ttl=60, op=Op.TAKE, now=now, life=60, expiry=now + 60, size=Size(30, 0.0, 0, 30)
    )
    return [counter, hold]


@pytest.mark.parametrize("limit, refused", [(89, True), (90, True), (91, False), (1_000, False)])
async def test_the_amounts_read_are_those_that_the_next_check_finds(
    bench: Bench, limit: int, refused: bool
) -> None:
    """Held and used tokens, in every store, however often they are read."""
    key = f"{{d|team={limit}}}"
    for _ in range(3):
        await bench.hit(check(key, 1_000))
    group, wanted = check(key, limit), [f"{key}:held", "{d|team=none}:held"]
    assert 90 == (await bench.store.read_holds(wanted, int(NOW)))[f"{key}:held"]
    foreseen = foresee(group, [0, 0], await bench.store.read_holds(wanted, int(NOW)))
    (outcome,) = await bench.hit(group)
    assert not isinstance(outcome, Exception)
    found = outcome[1]
    assert isinstance(found, int)
    assert (refused, {1: found if refused else 0}) == (found < 0, foreseen)
