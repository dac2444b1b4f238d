"""The arguments of the script for a batch, and the interpretation of its reply."""

from __future__ import annotations

import pytest
from redis.exceptions import ResponseError

from ratelimit_service.core.errors import CounterRefused, StoreError
from ratelimit_service.core.gates import Gate
from ratelimit_service.core.holds.hit import HoldHit, Op
from ratelimit_service.core.model import COUNTER_MAX, Hit
from ratelimit_service.stores.batch import Batch, Groups
from ratelimit_service.stores.lanes import EVERYWHERE, REGISTER_TTL, Lane
from ratelimit_service.stores.redis.script import ScriptCall

HOLDS = Gate.REFUSES | Gate.HOLDS


def batch(groups: Groups) -> Batch:
    return Batch(groups, EVERYWHERE, Lane("lane-1", [], 7))


def call(*groups: list[Hit]) -> ScriptCall:
    return ScriptCall(batch(groups))


def test_each_counter_is_one_hit() -> None:
    """The arguments are the counters, the register of the lane, the number of the batch, and the hit of each
    counter. A check has no time to live.
    """
    made = call([Hit("{d|a}:h", 1, ttl=60), Hit("{d|a}:d", 0, ttl=600)], [Hit("{d|b}:h", 4, ttl=61)])
    keys = ("{d|a}:h", "{d|a}:d", "{d|b}:h", "lane:lane-1")
    assert (4, *keys, 7, REGISTER_TTL, 1, 60, 0, 4, 61) == made.command[2:]
    assert [[5, 6], [7]] == made.counts([5, 6, 7])


@pytest.mark.parametrize("amounts", [(12,), (5, 0, 7)], ids=["a charge", "charges and a check"])
def test_a_charge_of_one_counter_has_one_argument(amounts: tuple[int, ...]) -> None:
    """Its reply is a number or the text of an error, without a list."""
    made = call(*[[Hit("{d|a}:h", amount, ttl=60)] for amount in amounts])
    assert (2, "{d|a}:h", "lane:lane-1", f"7 {REGISTER_TTL} 12 60") == made.command[2:]
    before = [[100 + sum(amounts[:place])] for place in range(len(amounts))]
    assert [before, before] == [made.counts(100), made.counts([100])]
    failed = made.counts(b"WRONGTYPE no counter")
    assert isinstance(failed, list)
    assert all(isinstance(count, CounterRefused) for (count,) in failed)


def test_charges_and_checks_of_one_counter_are_merged() -> None:
    """Each gets the count before the first one plus the amounts before it.

    The time to live is that of the first one.
    """
    made = call(
        [Hit("a", 10, ttl=60), Hit("b", 1, ttl=60)],
        [Hit("a", 0, ttl=61)],
        [],
        [Hit("a", 5, ttl=62), Hit("a", 7, ttl=63)],
    )
    assert (3, "a", "b", "lane:lane-1", 7, REGISTER_TTL, 22, 60, 1, 60) == made.command[2:]
    assert [[100, 3], [110], [], [110, 115]] == made.counts([100, 3])


def test_a_batch_of_checks_writes_nothing() -> None:
    """It leaves the register unchanged, too."""
    made = call([Hit("a", 0, ttl=60)], [Hit("b", 0, ttl=60)])
    assert (3, "a", "b", "lane:lane-1", "", REGISTER_TTL, 0, 0) == made.command[2:]
    assert [[3], [4]] == made.counts([3, 4])


def test_checks_of_one_counter_are_sent_as_get() -> None:
    """A script would be several times as expensive for Redis."""
    made = call([Hit("a", 0, ttl=60)], [Hit("a", 0, ttl=60)])
    assert ("GET", "a") == made.command
    assert [[[3], [3]], [[0], [0]]] == [made.counts(b"3"), made.counts(None)]
    lost = ConnectionError("lost")
    assert lost is made.counts(lost)


def test_a_key_of_another_type_fails_only_its_check() -> None:
    """In the script, too, each hit fails by itself."""
    made = call([Hit("a", 0, ttl=60)])
    found = made.counts(ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value"))
    assert not isinstance(found, Exception)
    ((count,),) = found
    assert isinstance(count, CounterRefused)
    assert "WRONGTYPE" in str(count)


@pytest.mark.parametrize(
    "hit",
    [Hit("a", 1, ttl=60), Hit("a", -1, ttl=60), Hit("a", 0, ttl=60, limit=9, gate=HOLDS)],
    ids=["a charge", "a refund", "a check that may be held back"],
)
def test_other_hits_of_one_counter_use_the_script(hit: Hit) -> None:
    assert "EVALSHA" == call([hit]).command[0]


def test_refunds_and_gated_hits_are_not_merged() -> None:
    """Hits of other counters are. A gated group is identified by the index of its first hit."""
    made = call(
        [Hit("a", 1, ttl=60)],
        [Hit("a", 2, ttl=60)],
        [Hit("b", 1, ttl=60)],
        [Hit("b", 3, ttl=60, limit=9, gate=HOLDS), Hit("c", 3, ttl=60, limit=8, gate=Gate.REFUSES)],
        [Hit("a", 4, ttl=60)],
        [Hit("c", 1, ttl=60)],
        [Hit("e", 6, ttl=60)],
        [Hit("e", -2, ttl=60)],
    )
    keys = ("a", "b", "b", "c", "c", "e", "e", "lane:lane-1")
    hits = (7, 60, 1, 60, 3, 60, 3, 60, 1, 60, 6, 60, -2, 60)
    gated = (3, 2, HOLDS, 9, Gate.REFUSES, 8)
    assert (8, *keys, 7, REGISTER_TTL, *hits, 0, *gated, "T0") == made.command[2:]
    assert [[10], [11], [20], [~21, ~30], [13], [30], [0], [6]] == made.counts([10, 20, ~21, ~30, 30, 0, 6])


def test_merged_hits_saturate_as_separate_ones_do() -> None:
    """Neither the sum that is sent nor the counts returned exceed what a counter can hold."""
    made = call([Hit("a", COUNTER_MAX - 1, ttl=60)], [Hit("a", 5, ttl=60)], [Hit("a", 5, ttl=60)])
    assert f"7 {REGISTER_TTL} {COUNTER_MAX} 60" == made.command[5]
    assert [[0], [COUNTER_MAX - 1], [COUNTER_MAX]] == made.counts([0])
    assert [[7], [COUNTER_MAX], [COUNTER_MAX]] == made.counts([7])


@pytest.mark.parametrize("keys", ["abc", "aba"])
def test_a_counter_that_fails_fails_its_own_hits(keys: str) -> None:
    """All hits of that counter fail, and the others have their counts."""
    made = call(*[[Hit(key, 1, ttl=60)] for key in keys])
    held: dict[str, int | bytes] = {"a": b"WRONGTYPE no counter", "b": 2, "c": 3}
    reply = [held[key] for key in sorted(set(keys))]
    counts = made.counts(reply)
    assert isinstance(counts, list)
    assert [key == "a" for key in keys] == [isinstance(count, StoreError) for (count,) in counts]
    assert "Redis refused a counter: WRONGTYPE no counter" == str(counts[0][0])


def test_the_reply_to_a_call_with_holds_may_report_that_redis_refused_them() -> None:
    """It has one text more. In the reply to any other call, that is an error."""
    hold = HoldHit("{d|a}:held", ttl=60, op=Op.TAKE, now=0, life=60)
    check = Hit("{d|a}:h", 0, ttl=60, limit=9, gate=Gate.REFUSES | Gate.BUDGET)
    made = call([check, hold])
    assert ([[5, 0]], "NOPERM") == (made.counts([5, 0, b"NOPERM"]), made.unheld)
    assert ([[5, 0]], "") == ((again := call([check, hold])).counts([5, 0]), again.unheld)
    assert isinstance(made.counts([5, 0, b"NOPERM", b"x"]), Exception)


@pytest.mark.parametrize("reply", [[], [1], [1, 2, 3], 7, b"OK", None, ["x"] * 3])
def test_an_invalid_reply_is_an_error(reply: object) -> None:
    """A proxy may have sent it. The batch fails, so no caller waits forever."""
    assert isinstance(call([Hit("a", 1, ttl=60), Hit("b", 1, ttl=60)]).counts(reply), Exception)


def test_the_register_has_the_prefix_of_all_keys() -> None:
    """An ACL may require one."""
    one = batch([[Hit("rl:{d|a}:h", 1, ttl=60)]])
    assert "rl:lane:lane-1" == ScriptCall(one, "rl:").command[4]
    assert "rl:lane:lane-1{2f}" == ScriptCall(one, "rl:", "2f").command[4]


def test_the_first_key_of_all_calls_for_a_bucket_is_the_same() -> None:
    """A proxy routes by the first key, and may hash all of it. The value read there is not a count."""
    both = Gate.REFUSES | Gate.YIELDS
    groups = [
        [Hit("{d|a}:h", 1, ttl=60)],
        [Hit("{d|a}:h", 2, ttl=60, limit=5, gate=both), Hit("{d|a}:d", 2, ttl=600, limit=9, gate=both)],
    ]
    made = ScriptCall(batch(groups), "", "d|a", routed=True)
    keys = ("lane:{d|a}", "{d|a}:h", "{d|a}:h", "{d|a}:d", "lane:lane-1{d|a}")
    hits = (0, 1, 60, 2, 60, 2, 600)
    assert (5, *keys, 7, REGISTER_TTL, *hits, 0, 3, 2, both, 5, both, 9, "T0") == made.command[2:]
    assert [[3], [4, ~8]] == made.counts([0, 3, 4, ~8])
    assert isinstance(made.counts([3, 4, 8]), Exception)


def test_a_batch_without_groups_sends_only_the_register() -> None:
    """It shows whether Redis would accept a batch."""
    made = ScriptCall(batch(()), "rl:")
    assert ((1, "rl:lane:lane-1", 7, REGISTER_TTL), []) == (made.command[2:], made.counts([]))
