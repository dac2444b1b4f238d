"""The contract of every store about the replicas that use it (ports.ReplicaStore)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import pytest

from ratelimit_service.ports import CounterStore, InForce, Replica, ReplicaStore
from ratelimit_service.stores import replicas as in_memory
from ratelimit_service.stores.memory import MemoryStore
from ratelimit_service.stores.redis import replicas as in_redis
from ratelimit_service.stores.redis.background_scripts import Evaluation, script
from ratelimit_service.stores.redis.replicas import RedisReplicas

from .kinds import KINDS, stores_of

A, B, C = (InForce(name * 64, 1, "1.0") for name in "abc")

AGE = script(b"""
local all = redis.call('HGETALL', KEYS[1])
for at = 1, #all, 2 do
    local first, rest = string.match(all[at + 1], '^(%d+) (.*)')
    if string.sub(all[at], 1, 8) == 'replica ' then
        redis.call('HSET', KEYS[1], all[at], (first - ARGV[1]) .. ' ' .. rest)
    elseif string.sub(all[at], 1, 11) == 'generation ' then
        redis.call('HSET', KEYS[1], all[at], first .. ' ' .. (rest - ARGV[1]))
    end
end
""")


@dataclass
class Meeting:
    """Two connections to one store. `later` advances the time."""

    one: ReplicaStore
    other: ReplicaStore
    later: Callable[[int], Awaitable[None]]

    async def generations(self, **standings: InForce) -> dict[str, int]:
        """Let replicas report in this order, and return the generations of all."""
        found: list[Replica] = []
        for number, (name, standing) in enumerate(standings.items()):
            found = list(await (self.one, self.other)[number % 2].meet(name, standing))
        return {each.id: each.generation for each in found}


@pytest.fixture(params=KINDS)
async def meeting(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Meeting]:
    if "memory" in request.param:
        now = [1_000.0]
        memory = MemoryStore(lambda: now[0])

        async def pass_by(seconds: int) -> None:
            now[0] += seconds

        yield Meeting(memory.replicas, memory.replicas, pass_by)
        return
    stores: list[CounterStore] = stores_of(request, request.param)
    for store in stores:
        await store.start()

    replicas = stores[0].replicas
    assert isinstance(replicas, RedisReplicas)

    async def age(seconds: int) -> None:
        """Make all entries older, because the clock of Redis cannot be set."""
        await replicas._run(Evaluation(AGE, (replicas._key,), (seconds,)))

    yield Meeting(replicas, stores[1].replicas, age)
    for store in stores:
        await store.close()


async def test_replicas_see_each_other(meeting: Meeting) -> None:
    """Each sees the versions that the others have. A replica without rules is not behind."""
    await meeting.one.meet("a", A)
    found = {each.id: each for each in await meeting.other.meet("b", InForce("", 7, "é"))}
    assert (A, 1) == (found["a"].standing, found["a"].generation)
    assert (InForce("", 7, "é"), 0, 0.0) == (
        found["b"].standing,
        found["b"].generation,
        found["b"].behind,
    )
    assert all(0 <= each.age < 5 for each in found.values())


async def test_the_generation_increases_with_new_rules(meeting: Meeting) -> None:
    """Replicas that load the same rules have the same generation, in whichever order they load them."""
    assert {"a": 1, "b": 1} == await meeting.generations(a=A, b=A)
    assert {"a": 2, "b": 1} == await meeting.generations(b=A, a=B)
    assert {"a": 2, "b": 2} == await meeting.generations(b=B)
    assert {"a": 2, "b": 2, "c": 1} == await meeting.generations(c=A)  # it still has the old files
    assert {"a": 2, "b": 2, "c": 2} == await meeting.generations(c=B)


async def test_a_rollback_is_a_new_generation(meeting: Meeting) -> None:
    """So waiting for it does not end while some replicas have the earlier generation with the same rules."""
    await meeting.generations(a=A, b=A)
    await meeting.generations(a=B, b=B)
    assert {"a": 3, "b": 2} == await meeting.generations(a=A)
    assert {"a": 3, "b": 3} == await meeting.generations(b=A)
    assert {"a": 4, "b": 3} == await meeting.generations(b=A, a=C)


async def test_a_replica_is_behind_only_running_replicas(meeting: Meeting) -> None:
    """It is not behind rules that no running replica has."""
    await meeting.one.meet("a", A)
    await meeting.one.meet("b", B)
    await meeting.one.leave("b")
    (alone,) = await meeting.one.meet("a", A)
    assert (1, 0.0) == (alone.generation, alone.behind)


async def test_a_replica_with_earlier_rules_is_behind_since_the_next_generation_began(
    meeting: Meeting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not since the latest one. It is no longer behind as soon as it has the rules of the latest."""
    for module in (in_memory, in_redis):
        monkeypatch.setattr(module, "GONE_AFTER", 10_000)

    async def lag() -> dict[str, float]:
        return {each.id: each.behind for each in await meeting.one.meet("b", B)}

    await meeting.one.meet("a", A)
    await meeting.other.meet("late", A)
    assert {"a": 0.0, "late": 0.0} == {each.id: each.behind for each in await meeting.one.meet("a", A)}
    first = await lag()
    assert (0.0, True) == (first["b"], first["late"] < 100)
    await meeting.later(100)
    second = await lag()
    assert (0.0, True, True) == (second["b"], 100 <= second["late"] < 200, 100 <= second["a"] < 200)
    await meeting.other.meet("a", C)
    await meeting.later(100)
    third = await lag()
    assert (0.0, True) == (third["a"], 200 <= third["late"] < 300)
    assert 100 <= third["b"] < 200  # since the generation of C began
    caught_up = {each.id: each.behind for each in await meeting.other.meet("late", C)}
    assert (0.0, 0.0) == (caught_up["late"], caught_up["a"])


async def test_a_replica_that_leaves_or_stops_reporting_is_removed(meeting: Meeting) -> None:
    """At once if it leaves, and otherwise after some seconds."""
    await meeting.generations(a=A, b=A, c=A)
    await meeting.other.leave("b")
    assert {"a", "c"} == set(await meeting.generations(a=A))
    await meeting.later(in_memory.GONE_AFTER + 1)
    assert {"a"} == set(await meeting.generations(a=A))


async def test_old_generations_are_forgotten(meeting: Meeting, monkeypatch: pytest.MonkeyPatch) -> None:
    """After that, the same rules are a new generation."""
    for module in (in_memory, in_redis):
        monkeypatch.setattr(module, "MOST_GENERATIONS", 2)
    for name in "abc":
        await meeting.generations(a=InForce(name))
    assert {"a": 3, "b": 2} == await meeting.generations(b=InForce("b"), a=InForce("c"))
    assert 4 == (await meeting.generations(new=InForce("a")))["new"]
