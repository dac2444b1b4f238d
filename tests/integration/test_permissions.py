"""A user of Redis needs the permissions that docs/compatibility.md lists, and no others."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from structlog.testing import capture_logs

from ratelimit_service.core.errors import StoreError
from ratelimit_service.core.gates import Gate
from ratelimit_service.core.holds.hit import HoldHit, Op, Size
from ratelimit_service.core.ledger.entries import Period, record
from ratelimit_service.core.model import Hit
from ratelimit_service.ports import CounterStore, Outcome
from ratelimit_service.stores.layers.settling import SettlingStore
from ratelimit_service.stores.redis.server import RedisStore
from testing.redis_clients import connect
from testing.redis_servers import RedisServer

DOCUMENT = (Path(__file__).parents[2] / "docs" / "compatibility.md").read_text()
NOW = 1_000_000


def listed(after: str) -> list[str]:
    """Return the permissions that the page lists after these words."""
    found = re.search(re.escape(after) + r"\s+`(\+[^`]+)`", DOCUMENT)
    assert found, after
    return found[1].split()


COUNTERS = listed("An ACL user needs")
HOLDS = listed("[Holds](holds.md) need")
EVENTS = listed("[events](events.md)")


@asynccontextmanager
async def store_of(server: RedisServer, keys: str, *commands: str) -> AsyncIterator[RedisStore]:
    """Return a store whose user has only these permissions."""
    server.cli("FLUSHALL")
    assert "OK" == server.cli("ACL", "SETUSER", "app", "reset", "on", ">x", keys, "~lane:*", *commands)
    store = RedisStore(connect(f"redis://{server.address}", username="app", password="x"))
    try:
        yield store
    finally:
        await store.close()
        server.cli("ACL", "DELUSER", "app")


async def counted(store: CounterStore, *hits: Hit | HoldHit) -> object:
    """Return the result of each hit; for an error, its kind."""
    answer: asyncio.Future[Sequence[Outcome]] = asyncio.get_running_loop().create_future()
    store.hit([hits], answer.set_result)
    (outcome,) = await asyncio.wait_for(answer, 15)
    return StoreError if isinstance(outcome, StoreError) else list(outcome)


async def held_and_charged(store: RedisStore) -> list[object]:
    """Take a hold with a check, and charge it with an id, twice."""
    hour, held = "{d|k=a}:hour:2026-11-21T08Z", "{d|k=a}:held"
    budget = Gate.REFUSES | Gate.BUDGET
    check = Hit(hour, 0, ttl=3600, limit=100, gate=budget)
    charge = Hit(hour, 40, ttl=3600, limit=100, gate=budget)
    size = Size(60, 0.0, 0, 100)
    take = HoldHit(held, ttl=60, op=Op.TAKE, now=NOW, life=60, expiry=NOW + 60, size=size)
    ends = HoldHit(
        held,
        ttl=60,
        op=Op.CHARGE,
        now=NOW,
        life=60,
        expiry=NOW + 60,
        size=size,
        charge=40,
        tokens=60,
        made=NOW,
        id="x",
    )
    return [await counted(store, check, take), *[await counted(store, charge, ends) for _ in range(2)]]


async def refused(server: RedisServer, *commands: str) -> set[str]:
    """Return the commands that Redis refused to a hold and its charge, by the log of Redis. The script
    continues without them.
    """
    server.cli("ACL", "LOG", "RESET")
    async with store_of(server, "~{d|*", *COUNTERS, *commands) as store:
        await held_and_charged(store)
    return {f"+{name}" for name in re.findall(r"^(z\w+|h\w+)$", server.cli("ACL", "LOG"), re.MULTILINE)}


async def test_holds_need_exactly_the_listed_permissions(redis_server: RedisServer) -> None:
    """With them, a hold is taken, ended, and charged once. Without any one of them, Redis refuses a
    command.
    """
    async with store_of(redis_server, "~{d|*", *COUNTERS, *HOLDS) as store:
        assert [[0, 60], [0, 60], [~40, 0]] == await held_and_charged(store)
    assert set() == await refused(redis_server, *HOLDS)
    for missing in HOLDS:
        rest = [command for command in HOLDS if command != missing]
        assert missing in await refused(redis_server, *rest)


async def test_holds_that_redis_refuses_are_logged_and_counted(redis_server: RedisServer) -> None:
    """Charges are still counted. One line a minute reports why requests pass as if there were no holds."""
    with capture_logs() as logged:
        async with store_of(redis_server, "~{d|*", *COUNTERS) as store:
            assert [[0, 60], [0, 0], [40, 0]] == await held_and_charged(store)
            first = store.unheld
            await held_and_charged(store)
            assert (3, 6) == (first, store.unheld)
    lines = [line for line in logged if "holds are not kept" in line["event"]]
    assert [("error", 1)] == [(line["log_level"], line["calls"]) for line in lines]
    assert "hgetall" in lines[0]["error"].lower() or "can't run this command" in lines[0]["error"]


async def test_a_redis_that_allows_holds_counts_no_refusal(redis_server: RedisServer) -> None:
    """Neither does one without holds."""
    with capture_logs() as logged:
        async with store_of(redis_server, "~{d|*", *COUNTERS, *HOLDS) as store:
            await held_and_charged(store)
            assert 0 == store.unheld
    assert [] == logged


def in_ledger(amount: int, *, refused: bool = False) -> Hit:
    """Charge a counter with an entry in its ledger, or record a refused request."""
    into = record("{d|k=a}", Period(0, 0, ":ledger:hour:2026-11-21", "T08Z"), 600)
    if refused:
        return Hit(into.book, amount, ttl=600, gate=Gate.LEDGER | Gate.ENTRY, into=into)
    return Hit("{d|k=a}:day:2026-11-21", amount, ttl=600, gate=Gate.LEDGER, into=into)


async def test_a_ledger_needs_exactly_the_listed_permissions(redis_server: RedisServer) -> None:
    """With them, the entry is written. Without them, the charge is counted, and the missing entries are
    counted and logged.
    """
    async with store_of(redis_server, "~{d|*", *COUNTERS, "+hincrby") as store:
        assert [0] == await counted(store, in_ledger(5))
        assert 0 == store.unrecorded
    assert "5" == redis_server.cli("HGET", "{d|k=a}:ledger:hour:2026-11-21", "T08Z:charged")
    with capture_logs() as logged:
        async with store_of(redis_server, "~{d|*", *COUNTERS) as store:
            assert [[0], [5], [7]] == [
                await counted(store, in_ledger(5)),
                await counted(store, in_ledger(2)),
                await counted(store, in_ledger(0)),
            ]
            await counted(store, in_ledger(1, refused=True))
            assert 3 == store.unrecorded
    (line,) = [line for line in logged if "entries of ledgers are missing" in line["event"]]
    assert ("error", 1) == (line["log_level"], line["entries"])


async def test_a_ledger_with_a_forbidden_key_loses_no_charge(redis_server: RedisServer) -> None:
    """Redis refuses the whole call because of the key. The charges are then counted without the entry."""
    with capture_logs() as logged:
        async with store_of(redis_server, "~{d|k=a}:day:*", *COUNTERS, "+hincrby", "+eval") as below:
            store = SettlingStore(below)
            await store.start()
            assert [0] == await counted(store, in_ledger(5))
            await counted(store, in_ledger(1, refused=True))
            assert [5] == await counted(store, in_ledger(2))
            assert 3 == store.unrecorded
            await store.close()
    assert 1 == len([line for line in logged if "entries of ledgers are missing" in line["event"]])


async def test_events_need_exactly_the_listed_permissions(redis_server: RedisServer) -> None:
    """From an event's creation to its delivery."""
    async with store_of(redis_server, "~{events}:*", "+eval", "+evalsha", *EVENTS) as store:
        await store.events.open("ops")
        assert (await store.events.emit("1", "text", 3_600)).new
        (taken,) = await store.events.take("ops", "a", 10)
        assert "text" == taken.text
        await store.events.hold("ops", "a", taken.place)
        assert 1 == await store.events.waiting("ops")
        await store.events.done("ops", taken.place)
        assert 0 == await store.events.waiting("ops")
