"""The contract of every store about holds (core/holds): the memory store and the script return the same."""

from __future__ import annotations

from typing import Any

import pytest

from ratelimit_service.core.errors import StoreError
from ratelimit_service.core.gates import Gate
from ratelimit_service.core.holds.hit import HoldHit, Op, Size, delay_in, expired_in, held_in, tokens_in
from ratelimit_service.core.model import Hit

from .conftest import Bench

BUCKET = "{d|k=a}"
HOUR, DAY, HELD = f"{BUCKET}:hour:2026-11-21T08Z", f"{BUCKET}:day:2026-11-21", f"{BUCKET}:held"
BUDGET = Gate.REFUSES | Gate.BUDGET
NOW = 1_000_000


def window(amount: int = 0, limit: int = 100, key: str = HOUR, gate: int = BUDGET) -> Hit:
    return Hit(key, amount, ttl=3600, limit=limit, gate=gate)


def hold(op: Op, **more: Any) -> HoldHit:
    fields = {"now": NOW, "life": 60, "expiry": NOW + 60, "size": Size(60, 0.0, 0, 100), **more}
    return HoldHit(HELD, ttl=60, op=op, **fields)


TAKE, CHARGE, RELEASE = hold(Op.TAKE), hold(Op.CHARGE, charge=60), hold(Op.RELEASE)


async def take(bench: Bench, **more: Any) -> int:
    """Check with a hold, and return the result of the hold."""
    (_, result) = await bench.counts(window(), hold(Op.TAKE, **more))
    assert isinstance(result, int)
    return result


async def test_a_check_is_refused_while_others_hold_the_remaining_budget(bench: Bench) -> None:
    """All checks are in one batch, and each sees the holds of those before it."""
    outcomes = await bench.hit(*[[window(), TAKE]] * 4)
    assert [[0, 60], [0, 60]] == [list(outcome) for outcome in outcomes[:2]]  # type: ignore[arg-type]
    for outcome in outcomes[2:]:
        assert not isinstance(outcome, Exception)
        assert isinstance(result := outcome[1], int)
        assert (120, 2) == (held_in(result), delay_in(result))


async def test_a_charge_replaces_its_hold(bench: Bench) -> None:
    """Holds are not part of the counter, nor of the counters that a bucket shows."""
    await take(bench)
    assert {} == await bench.store.read_bucket(BUCKET)
    assert [0, 60] == await bench.counts(window(40), CHARGE)
    assert {HOUR: 40} == await bench.store.read_bucket(BUCKET)
    assert 60 == await take(bench)


async def test_an_id_is_charged_once_in_each_bucket(bench: Bench) -> None:
    """A second charge counts in no window of the bucket, and is counted in other buckets.

    The store forgets the id after two minutes.
    """
    charge = hold(Op.CHARGE, charge=40, tokens=60, made=NOW, id="x")
    other = Hit("{d|k=a}b:hour:1", 7, ttl=60) if not bench.slotted else Hit(f"{BUCKET}x", 7, ttl=60)
    group = [window(40), window(40, 500, DAY), other, charge]
    await take(bench)
    assert [0, 0, 0, 60] == await bench.counts(*group)
    assert [~40, ~40, 7, 0] == await bench.counts(*group)
    later = hold(Op.CHARGE, charge=40, now=NOW + 120, id="x")
    assert [40, 0] == await bench.counts(window(40), later)


async def test_an_id_is_remembered_when_the_clock_has_gone_back(bench: Bench) -> None:
    """It is remembered for as long as the ids before it, and then forgotten with them."""
    for now, name, counted in (
        (1300, "x", 0),
        (1000, "y", 10),
        (1001, "y", ~20),
        (1200, "y", ~20),
        (1430, "z", 20),
        (1431, "y", 30),
    ):
        charge = hold(Op.CHARGE, charge=10, id=name, now=now)
        assert [counted, 0] == await bench.counts(window(10), charge)


async def test_an_id_releases_its_hold_once(bench: Bench) -> None:
    """A second release, or a charge after the release, ends no other hold. The charge is counted."""
    for _ in range(2):
        await take(bench)
    release = hold(Op.RELEASE, tokens=60, made=NOW, id="x")
    assert [0, 60] == await bench.counts(window(), release)
    assert [0, 0] == await bench.counts(window(), release)
    assert [0, 0] == await bench.counts(window(10), hold(Op.CHARGE, charge=10, tokens=60, made=NOW, id="x"))
    assert 60 == await take(bench)
    assert 0 > await take(bench)


async def test_holds_expire(bench: Bench) -> None:
    """The next hit of the bucket reports how many expired. Later checks hold less because of them."""
    for _ in range(2):
        await take(bench)
    result = await take(bench, now=NOW + 60, expiry=NOW + 120)
    assert (2, 57) == (expired_in(result), tokens_in(result))


@pytest.mark.parametrize("gate", [BUDGET, Gate.REFUSES])
async def test_a_refused_group_takes_no_hold(bench: Bench, gate: int) -> None:
    """Whichever counter refuses it, before or after the hold."""
    await bench.counts(Hit(DAY, 5, ttl=60))
    full = window(1, 5, DAY, gate)
    assert [0, 0, 5] == await bench.counts(window(), TAKE, full)
    assert 60 == await take(bench)


async def test_a_group_that_holds_refuse_does_not_count_its_gated_hits(bench: Bench) -> None:
    """As if a counter had refused it (count_refused: false)."""
    for _ in range(2):
        await take(bench)
    yielding = Hit(DAY, 5, ttl=60, limit=100, gate=Gate.REFUSES | Gate.HOLDS)
    count, result, held_back = await bench.counts(window(), TAKE, yielding)
    assert (0, ~0) == (count, held_back)
    assert isinstance(result, int)
    assert 0 > result


async def test_the_size_of_a_hold_is_learned_from_charges(bench: Bench) -> None:
    """At first it is `otherwise`, then the mean of the charges, up to the bound."""
    size = Size(0, 0.0, 25, 50)
    assert 25 == await take(bench, size=size)
    for charge in (30, 50):
        await bench.counts(window(charge, 10_000), hold(Op.CHARGE, charge=charge, size=size))
    assert 40 == (await bench.counts(window(0, 10_000), hold(Op.TAKE, size=size)))[1]
    assert 20 == (await bench.counts(window(0, 10_000), hold(Op.TAKE, size=size._replace(most=20))))[1]


async def test_an_end_marker_releases_a_hold_unless_its_check_was_refused(bench: Bench) -> None:
    """The first marker shows that the gateway sends them. From then on, each refusal is expected to be
    followed by one.
    """
    for _ in range(3):
        await take(bench)
    release = hold(Op.RELEASE)
    assert [0, 60] == await bench.counts(window(), release)
    assert 60 == await take(bench)
    assert 0 > await take(bench)
    assert [0, 0] == await bench.counts(window(), release)
    assert [0, 60] == await bench.counts(window(), release)


async def test_a_reset_keeps_holds(bench: Bench) -> None:
    """Requests in flight continue, and a charge that is sent again counts once."""
    charge = hold(Op.CHARGE, charge=40, tokens=60, made=NOW, id="x")
    for _ in range(2):
        await take(bench)
    await bench.counts(window(40), charge)
    assert {HOUR: 40} == await bench.store.delete_counters([HOUR])
    assert {HELD: 60} == await bench.store.read_holds([HELD], NOW)
    assert [~0, 0] == await bench.counts(window(40), charge)


async def test_counters_work_if_the_key_of_holds_has_another_type(bench: Bench) -> None:
    """No hold is taken then."""
    if bench.name == "memory":
        pytest.skip("no other program can write to the memory store")
    bench.set_raw(HELD, "7")
    for _ in range(3):
        await take(bench)
    assert 0 == (await bench.counts(window(40), CHARGE))[0]
    assert {HOUR: 40} == await bench.store.read_bucket(BUCKET)


@pytest.mark.parametrize("op", [Op.CHARGE, Op.REFUND])
async def test_an_id_is_not_remembered_if_no_counter_counted_it(bench: Bench, op: Op) -> None:
    """Its caller gets an error, and the next attempt is counted, once. One counter of two is enough."""
    amount = 40 if op is Op.CHARGE else -40
    if bench.name == "memory":
        pytest.skip("tests/stores/test_memory.py fills the memory store")
    charge = hold(op, charge=40, id="x")
    bench.set_raw(HOUR, "not a number")
    (failed, result) = await bench.counts(window(amount), charge)
    assert isinstance(failed, StoreError)
    assert 0 == result
    bench.set_raw(HOUR, "50")
    assert [50, 0] == await bench.counts(window(amount), charge)
    assert [~(50 + amount), 0] == await bench.counts(window(amount), charge)
    bench.set_raw(DAY, "not a number")
    both = [window(amount), window(amount, 500, DAY), hold(op, charge=40, id="y")]
    assert isinstance((await bench.counts(*both))[1], StoreError)
    bench.set_raw(DAY, "50")
    assert ~50 == (await bench.counts(*both))[1]
