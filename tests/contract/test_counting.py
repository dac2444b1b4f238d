"""The contract of every store about hits (ports.CounterStore)."""

from __future__ import annotations

import pytest

from ratelimit_service.core.errors import StoreError
from ratelimit_service.core.gates import Gate
from ratelimit_service.core.model import COUNTER_MAX, Hit
from ratelimit_service.ports import Outcome

from .conftest import Bench

A, B, C = "{d|k=a}:hour:2026-11-21T08Z", "{d|k=b}:hour:2026-11-21T08Z", "{d|k=c}:hour:2026-11-21T08Z"
A_DAY = "{d|k=a}:day:2026-11-21"

IN_ONE_BUCKET = {A: A, B: A_DAY, C: "{d|k=a}:month:2026-11-01"}
IN_THREE_BUCKETS = {A: A, B: B, C: C}


HOLDS = Gate.REFUSES | Gate.HOLDS
SPENT = Gate.REFUSES | Gate.BUDGET


def add(key: str, amount: int) -> Hit:
    return Hit(key, amount, ttl=3600)


def gated(key: str, amount: int, limit: int, gate: int = Gate.REFUSES | Gate.YIELDS) -> Hit:
    return Hit(key, amount, ttl=3600, limit=limit, gate=gate)


async def test_a_hit_returns_the_previous_count(bench: Bench) -> None:
    """Of three charges, the first gets 0, the second the first amount, and the third the sum of both."""
    assert [0] == await bench.counts(add(A, 40))
    assert [40] == await bench.counts(add(A, 2))
    assert [42] == await bench.counts(add(A, 1))


async def test_hits_of_a_batch_are_applied_one_after_another(bench: Bench) -> None:
    """Each hit sees those before it, in its own group and in earlier ones."""
    assert [
        [0, 1],
        [3, 0],
        [5],
    ] == await bench.hit([add(A, 1), add(A, 2)], [add(A, 3), add(B, 5)], [add(B, 1)])


async def test_a_check_returns_the_count_and_writes_nothing(bench: Bench) -> None:
    """It creates no counter."""
    assert [0] == await bench.counts(add(A, 0))
    assert {} == await bench.store.read_bucket("{d|k=a}")
    await bench.counts(add(A, 7))
    assert [7, 7] == await bench.counts(add(A, 0), add(A, 0))


async def test_a_refund_stops_at_0(bench: Bench) -> None:
    """A refund of more than was charged leaves 0, not a negative count."""
    assert [0, 10, 6, 0, 0] == await bench.counts(add(A, 10), add(A, -4), add(A, -100), add(A, -1), add(A, 3))
    assert [3] == await bench.counts(add(A, 0))


async def test_a_refund_to_an_unused_bucket_leaves_no_counter(bench: Bench) -> None:
    """There is nothing to refund."""
    assert [0] == await bench.counts(add(A, -5))
    assert {} == await bench.store.read_bucket("{d|k=a}")


async def test_counters_saturate(bench: Bench) -> None:
    """At 2^53-1; below that, they are exact."""
    assert [
        0,
        COUNTER_MAX - 1,
        COUNTER_MAX,
        COUNTER_MAX,
    ] == await bench.counts(add(A, COUNTER_MAX - 1), add(A, 1), add(A, COUNTER_MAX), add(A, 0))
    assert [COUNTER_MAX, COUNTER_MAX - 1] == await bench.counts(add(A, -1), add(A, 0))


async def test_groups_without_hits_get_an_empty_answer(bench: Bench) -> None:
    """A request without limits has no hits. Its group may be alone in a batch, or among others."""
    assert [[]] == listed(await bench.hit([]))
    assert [[], [0], []] == listed(await bench.hit([], [add(A, 1)], []))


def listed(outcomes: list[Outcome]) -> list[object]:
    return [outcome if isinstance(outcome, StoreError) else list(outcome) for outcome in outcomes]


GATES = [
    ("both have room: both count", [gated(A, 1, 10), gated(B, 1, 10)], [0, 0], {A: 1, B: 1}),
    ("one goes over: only it counts", [gated(A, 11, 10), gated(B, 1, 10)], [0, ~0], {A: 11}),
    ("both go over: both count", [gated(A, 11, 10), gated(B, 11, 10)], [0, 0], {A: 11, B: 11}),
    ("exactly full is not over", [gated(A, 10, 10), gated(B, 1, 10)], [0, 0], {A: 10, B: 1}),
    (
        "one that only yields holds nobody back",
        [gated(A, 11, 10, Gate.YIELDS), gated(B, 1, 10)],
        [0, 0],
        {A: 11, B: 1},
    ),
    (
        "one that does not yield always counts",
        [gated(A, 11, 10), gated(B, 1, 10, Gate.REFUSES)],
        [0, 0],
        {A: 11, B: 1},
    ),
    ("one without a gate counts", [gated(A, 11, 10), add(B, 1), gated(C, 1, 10)], [0, 0, ~0], {A: 11, B: 1}),
    (
        "one that holds is not counted even if it goes over",
        [gated(A, 11, 10, HOLDS), gated(B, 1, 10)],
        [~0, ~0],
        {},
    ),
    (
        "one that holds counts where nobody refuses",
        [gated(A, 10, 10, HOLDS), gated(B, 1, 10)],
        [0, 0],
        {A: 10, B: 1},
    ),
    (
        "one that holds is held by a budget that is used up",
        [gated(A, 1, 10, HOLDS), gated(B, 1, 0, SPENT)],
        [~0, 0],
        {B: 1},
    ),
    (
        "a budget goes over by what was there before",
        [gated(A, 99, 10, SPENT), gated(B, 1, 10, HOLDS)],
        [0, 0],
        {A: 99, B: 1},
    ),
    ("a refund refuses nobody", [gated(A, -5, 0, SPENT), gated(B, 1, 10, HOLDS)], [0, 0], {B: 1}),
    ("a check that finds room holds nobody back", [gated(A, 0, 0), gated(B, 1, 10)], [0, 0], {B: 1}),
    (
        "the same counter twice is judged as it was before",
        [gated(A, 6, 10), gated(A, 6, 10)],
        [0, 6],
        {A: 12},
    ),
]


@pytest.mark.parametrize("keys", [IN_ONE_BUCKET, IN_THREE_BUCKETS], ids=["one bucket", "three buckets"])
@pytest.mark.parametrize(
    ("hits", "counts", "left"), [row[1:] for row in GATES], ids=[row[0] for row in GATES]
)
async def test_gated_hits_of_a_refused_group_are_not_counted(
    bench: Bench, hits: list[Hit], counts: list[int], left: dict[str, int], keys: dict[str, str]
) -> None:
    """The previous counts of all counters in the group decide."""
    if bench.slotted and keys is IN_THREE_BUCKETS:
        pytest.skip("in a Cluster, a group is one step for each of its buckets")
    assert await bench.counts(*[hit.changed(key=keys[hit.key]) for hit in hits]) == counts
    held: dict[str, int | None] = {}
    for bucket in ("{d|k=a}", "{d|k=b}", "{d|k=c}"):
        held |= await bench.store.read_bucket(bucket)
    assert {keys[key]: count for key, count in left.items()} == held


async def test_a_check_over_the_limit_refuses_its_group(bench: Bench) -> None:
    """A check refuses the group if its counter is above the limit already."""
    await bench.counts(add(A, 11))
    assert [11, ~0] == await bench.counts(gated(A, 0, 10), gated(A_DAY, 3, 10))


async def test_gated_and_plain_groups_keep_their_order_in_a_batch(bench: Bench) -> None:
    """A group sees the counts of the groups before it, and not of those after it."""
    assert [
        [0],
        [10, ~0],
        [0],
    ] == await bench.hit([add(A, 10)], [gated(A, 1, 10), gated(A_DAY, 1, 10)], [add(A_DAY, 5)])


async def test_reading_a_bucket_returns_no_other_bucket(bench: Bench) -> None:
    """It returns all windows of the bucket, and none of a bucket whose name has the same beginning."""
    other = "{d|k=a*}:hour:2026-11-21T08Z"
    await bench.counts(add(A, 4), add(A_DAY, 5), add(other, 6), add(B, 7))
    assert {A: 4, A_DAY: 5} == await bench.store.read_bucket("{d|k=a}")


async def test_counters_are_deleted_by_their_keys(bench: Bench) -> None:
    """The last counts are returned. A missing counter is left out, and a value that is not a number is
    None.
    """
    await bench.counts(add(A, 4), add(A_DAY, 5), add(B, 7))
    if bench.name == "redis":
        bench.set_raw(C, "x")
    expected: dict[str, int | None] = {A: 4, B: 7} | ({C: None} if bench.name == "redis" else {})
    assert expected == await bench.store.delete_counters([A, B, C])
    assert [0, 5, 0, 0] == await bench.counts(add(A, 0), add(A_DAY, 0), add(B, 0), add(C, 0))
    assert {} == await bench.store.delete_counters([])


async def test_a_batch_of_many_hits_is_one_call(bench: Bench) -> None:
    """Ten thousand hits in one batch are counted, each on its own."""
    groups = [[add(f"{{d|k={place}}}:hour:2026-11-21T08Z", place + 1)] for place in range(10_000)]
    assert [[0]] * 10_000 == await bench.hit(*groups)
    assert [[1], [2], [3]] == await bench.hit(*groups[:3])


async def test_a_key_that_is_not_a_counter_fails_its_own_hit(bench: Bench) -> None:
    """Of three hits, the one on a text fails, and the others are counted."""
    if bench.name != "redis":
        pytest.skip("the memory store holds nothing but integers")
    bench.set_raw(B, "text")
    for amount in (1, 0, -1):
        before, failure, after = await bench.counts(add(A, 1), add(B, amount), add(C, 1))
        assert isinstance(before, int) and isinstance(after, int)
        assert isinstance(failure, StoreError)
        assert "not an integer" in str(failure)
    assert [3, 3] == await bench.counts(add(A, 0), add(C, 0))


async def test_a_counter_that_was_set_by_hand_is_used(bench: Bench) -> None:
    """Later hits add to the value that an operator writes with SET."""
    bench.set_raw(A, "4211")
    assert [4211, 4212] == await bench.counts(add(A, 1), add(A, 0))


@pytest.mark.parametrize(
    "text", ["7", "-7", "9" * 19, "9" * 5_000, "-" + "9" * 30, "+7", " 7", "7\n", "1.5", "x", ""]
)
async def test_a_single_check_returns_the_same_count_as_one_in_a_batch(bench: Bench, text: str) -> None:
    """Redis handles the one with GET, and the other with the script."""
    if bench.name != "redis":
        pytest.skip("the memory store holds nothing but integers")
    bench.set_raw(A, text)
    (alone,) = await bench.counts(add(A, 0))
    among, _ = await bench.counts(add(A, 0), add(B, 0))
    assert (str(among), type(among)) == (str(alone), type(alone))
