"""Limits are amended under load, on two replicas of one store.

Amendments never change the counts; only resets do, and they return the amounts.
"""

from __future__ import annotations

import asyncio
from collections import Counter

from ratelimit_service.amending.operations import Attribution, new_key
from ratelimit_service.core.amendments.model import MOST_EDITS, ChangeResult
from ratelimit_service.core.matching import keys
from ratelimit_service.stores.redis.server import RedisStore
from testing.redis_clients import connect

from .amended_replicas import KINDS, MILLION, Fleet, Replica, answered, target

ROWS: list[tuple[str, dict[str, int | str], str]] = [
    # The answers to a check of a bucket with a count of 50: before the change, with it, and (for two windows)
    # with the other change.
    ("requests", {"to": 10}, "OVER_LIMIT of 10"),
    ("requests", {"add": 5}, f"OK of {MILLION + 5}"),
    ("requests", {"to": 0}, "OVER_LIMIT of 0"),
    ("budget", {"to": 50}, "OVER_LIMIT of 50"),
    ("budget", {"to": 51}, "OK of 51"),
    ("budget", {"add": 5}, f"OK of {MILLION + 5}"),
    ("budget", {"to": 0}, "OVER_LIMIT of 0"),
    ("windows", {"to": 50}, "OVER_LIMIT of 50"),
    ("windows", {"to": 60}, "OK of 60"),
    ("windows", {"to": 50, "window": "month"}, "OVER_LIMIT of 50"),
    ("windows", {"to": 70, "window": "year"}, "OK of 70"),
    ("windows", {"add": 5}, f"OK of {MILLION + 5}"),
    ("windows", {"add": 5, "window": "year"}, f"OK of {MILLION}"),
    ("shadow", {"to": 50}, "OK of 50"),
    ("shadow", {"to": 0}, "OVER_LIMIT of 0"),
    ("shadow", {"add": 5}, f"OK of {MILLION + 5}"),
    ("quota", {"to": 50}, "OVER_LIMIT of 50"),
    ("quota", {"add": 5}, f"OK of {MILLION + 5}"),
]


async def test_each_verb_works_on_each_kind_of_rule_under_load(fleet: Fleet) -> None:
    """Each amendment is made and removed again, for one bucket and by a pattern. It is in force on both
    replicas after one poll, and no charge is lost.
    """

    async def put_and_remove(number: int, kind: str, what: dict[str, int | str], expected: str) -> None:
        text = f"{kind}=quiet{number}"
        for pattern in (text, f"{kind}=*quiet{number}"):
            applied = await fleet.change(pattern, **what)
            await fleet.in_force(text, expected)
            await fleet.remove(applied)
            await fleet.in_force(text, f"OK of {MILLION}")

    for number, (kind, _, _) in enumerate(ROWS):
        await fleet.first.ask(f"{kind}=quiet{number}", 50)
    await fleet.settle()
    async with fleet.load():
        await asyncio.gather(*[put_and_remove(number, *row) for number, row in enumerate(ROWS)])
        switch = await fleet.change("*", to=0)
        for kind in KINDS:
            await fleet.in_force(f"{kind}=other", "OVER_LIMIT of 0")
        await fleet.remove(switch)
        await fleet.in_force("budget=other", f"OK of {MILLION}")
    await fleet.check_books()
    for number, (kind, _, _) in enumerate(ROWS):
        assert {50} == set(await fleet.held(f"{kind}=quiet{number}"))


async def test_resets_under_load_return_exactly_the_deleted_counts(fleet: Fleet) -> None:
    """For each kind of rule, of all windows or of one, the counts and the amounts of the resets add up to the
    charges. A repeated reset deletes nothing.
    """
    taken: Counter[tuple[str, str]] = Counter()
    resets = [*[(kind, "") for kind in KINDS], ("windows", "month"), ("windows", "year")]
    async with fleet.load():
        for kind, window in resets * 4:
            await asyncio.sleep(0.005)
            by = Attribution("ana", "a mistake", new_key())
            applied = await fleet.first.operations.reset(by, target(f"{kind}=busy"), window=window)
            again = await fleet.second.operations.reset(by, target(f"{kind}=busy"), window=window)
            assert (False, True) == (applied.replayed, again.replayed)
            reset = applied.edits[0].reset
            assert reset is not None
            for key, count in reset.counters:
                assert window in ("", keys.window_of(key))
                taken[kind, keys.window_of(key)] += count or 0
    assert {(kind, "year") for kind in KINDS} | {("windows", "month")} == set(+taken)
    await fleet.check_books(taken)
    assert len(resets) * 4 == len(await fleet.first.operations.audit())


async def test_concurrent_and_repeated_changes_under_load_are_applied_once(in_redis: Fleet) -> None:
    """Finally, both replicas have the amendments that follow from the audit."""
    by = [Attribution("ana", "more", f"a{number}") for number in range(10)]
    others = [Attribution("bo", "more", f"b{number}") for number in range(10)]

    async def top_up(replica: Replica, who: Attribution) -> ChangeResult:
        edit = replica.operations.make_top_up(who, target("budget=quiet"), 1)
        return await replica.operations.apply(who, [edit])

    async with in_redis.load():
        tries = [top_up(in_redis.first, who) for who in by + by] + [
            top_up(in_redis.second, who) for who in others + by
        ]
        applied = await asyncio.gather(*tries)
        await in_redis.until_answered("budget=quiet", f"OK of {MILLION + 20}")
    assert 20 == sum(not each.replayed for each in applied)
    assert 20 == len(await in_redis.first.operations.audit())
    await in_redis.check_books()


async def test_ten_thousand_amendments_come_into_force_under_load(in_redis: Fleet) -> None:
    """Each change has a hundred. All are in force, also on a replica that starts later, and the books are
    exact.
    """
    operations = in_redis.first.operations
    async with in_redis.load():
        for at in range(0, 10_000, MOST_EDITS):
            by = Attribution("ana", "limits", new_key())
            edits = [
                operations.make_override(by, target(f"budget=u{number}"), number + 1)
                for number in range(at, at + MOST_EDITS)
            ]
            await operations.apply(by, edits)
        await in_redis.until_answered("budget=u9999", "OK of 10000")
        assert 10_000 == len(in_redis.second.amendments)
        third = Replica(RedisStore(connect(in_redis_url(in_redis), timeout=5.0)))
        await third.start()
        assert 10_000 == len(third.amendments)
        assert "OK of 5001" == await answered(third, "budget=u5000")
        await third.close()
    await in_redis.check_books()


def in_redis_url(fleet: Fleet) -> str:
    settling = fleet.first.settling
    assert settling is not None and isinstance(settling._below, RedisStore)
    place = settling._below._client.connection_pool.connection_kwargs
    return f"redis://{place['host']}:{place['port']}"
