"""The clock of a replica is stepped. The window is in the key, so a step changes which counter is used, and
loses none.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import pytest

from ratelimit_service.core.matching.tree import RuleTree
from ratelimit_service.core.model import Descriptor, Entry, Request
from ratelimit_service.core.rules.reader import load
from ratelimit_service.observe.metrics import Metrics
from ratelimit_service.ports import CounterStore
from ratelimit_service.service import RateLimitService
from ratelimit_service.sources.yaml_text import read
from ratelimit_service.stores.memory import MemoryStore
from ratelimit_service.stores.redis.server import RedisStore
from testing.exact_load import entries_in
from testing.redis_clients import connect
from testing.redis_servers import RedisServer

HOUR = 3_600
RULES = (
    "domain: d\ndescriptors: [{key: team, rate_limit: {unit: hour, tokens_per_unit: 100}, "
    "ledger: {by: hour}}]\n"
)


class Replica:
    """A service whose clock is `now`."""

    def __init__(self, store: CounterStore, now: float) -> None:
        self.now = now
        self.store = store
        self.service = RateLimitService(store, Metrics(), lambda: self.now)
        self.service.use(RuleTree(load([read("rules", RULES)]).domains))

    async def left(self, hits: int = 0) -> tuple[int, int]:
        """Charge, and return what remains and when it resets."""
        decision = await self.service.should_rate_limit(
            Request("d", (Descriptor((Entry(b"team", b"x"),), hits),))
        )
        (status,) = decision.statuses
        return status.remaining, status.reset

    async def recorded(self) -> list[int]:
        """Return the entries of the ledger, in the order of their hours."""
        return [value for _, value in sorted((await entries_in(self.store, "{d|")).items())]


@pytest.fixture(params=["memory", "redis"])
async def replica(request: pytest.FixtureRequest) -> AsyncIterator[Replica]:
    now = time.time() // HOUR * HOUR + 600
    if request.param == "memory":
        yield Replica(MemoryStore(time.monotonic), now)
        return
    server: RedisServer = request.getfixturevalue("redis_server")
    server.cli("FLUSHALL")
    store = RedisStore(connect(server.url))
    await store.start()
    yield Replica(store, now)
    await store.close()


@pytest.mark.parametrize("step", [-90 * 60, 90 * 60])
async def test_a_step_back_of_the_clock_finds_every_count_again(replica: Replica, step: int) -> None:
    """An hour and a half to either side is another window with its own count. After the way back, the first
    count is complete.
    """
    assert (60, 3_000) == await replica.left(40)
    replica.now += step
    assert 90 == (await replica.left(10))[0]
    replica.now -= step
    assert (60, 3_000) == await replica.left()
    assert ([10, 40] if step < 0 else [40, 10]) == await replica.recorded()


async def test_a_small_step_back_stays_in_the_window(replica: Replica) -> None:
    """A step as NTP makes it: the count is the same, and the reset moves with the clock."""
    assert (60, 3_000) == await replica.left(40)
    replica.now -= 5
    assert (59, 3_005) == await replica.left(1)
    assert [41] == await replica.recorded()


async def test_clocks_on_both_sides_of_an_edge_count_in_their_own_windows(replica: Replica) -> None:
    """A clock that is ten seconds slow counts in the old window, and a right one in the new one."""
    replica.now += 3_000
    assert (60, 3_600) == await replica.left(40)
    replica.now -= 10
    assert (99, 10) == await replica.left(1)
    replica.now += 10
    assert (60, 3_600) == await replica.left()
    assert [1, 40] == await replica.recorded()
