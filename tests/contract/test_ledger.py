"""The ledger records every charge, in every store and in any batch (ports.CounterStore)."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from random import Random

import pytest
from structlog.testing import capture_logs

from ratelimit_service.core.errors import StoreError
from ratelimit_service.core.gates import Gate
from ratelimit_service.core.holds.hit import HoldHit, Op
from ratelimit_service.core.ledger.entries import CHARGED, REFUNDED, REFUSED, Period, read_entry, record
from ratelimit_service.core.matching.tree import RuleTree
from ratelimit_service.core.model import COUNTER_MAX, Code, Descriptor, Entry, Hit, Request
from ratelimit_service.core.plan import Policy
from ratelimit_service.core.rules.reader import load
from ratelimit_service.inspection.usage import Usage
from ratelimit_service.ports import CounterStore
from ratelimit_service.service import RateLimitService
from ratelimit_service.sources.yaml_text import read
from ratelimit_service.stores.memory import MemoryStore
from ratelimit_service.stores.redis.server import RedisStore
from testing.exact_load import entries_in
from testing.redis_clients import connect
from testing.redis_servers import RedisServer
from tests.limiter import NoObserver

from .conftest import NOW, Bench
from .kinds import stores_of

DAY, OF_B = "{d|k=a}:day:2026-11-21", "{d|k=b}:day:2026-11-21"
BOOK = "{d|k=a}:ledger:hour:2026-11-21"
LIFE = 400 * 86_400


def recorded(
    amount: int, key: str = DAY, *, hour: str = "T08Z", gate: int = Gate.NONE, limit: int = 0
) -> Hit:
    into = record(key.partition("}")[0] + "}", Period(0, 0, ":ledger:hour:2026-11-21", hour), LIFE)
    return Hit(key, amount, ttl=3600, limit=limit, gate=gate | Gate.LEDGER, into=into)


def refusal() -> Hit:
    into = record("{d|k=a}", Period(0, 0, ":ledger:hour:2026-11-21", "T08Z"), LIFE)
    return Hit(BOOK, 1, ttl=LIFE, gate=Gate.LEDGER | Gate.ENTRY, into=into)


async def entries(bench: Bench) -> dict[str, int]:
    """Return the entries of bucket a by hour and kind, and those of other buckets by key."""
    found = await entries_in(bench.store, "{d|")
    return {key.removeprefix(BOOK): value for key, value in found.items()}


async def test_each_charge_is_in_the_entry_of_its_hour(bench: Bench) -> None:
    """In separate batches, and in one batch, which merges the charges of a counter. Each caller gets its own
    count.
    """
    assert [0] == await bench.counts(recorded(40))
    assert [[40], [42, 0], [42], [45, 5]] == [
        list(outcome)  # type: ignore[arg-type]
        for outcome in await bench.hit(
            [recorded(2)],
            [Hit(DAY, 0, ttl=3600), recorded(5, OF_B)],
            [recorded(3)],
            [recorded(4, hour="T09Z"), recorded(6, OF_B)],
        )
    ]
    of_b = OF_B.replace("day:", "ledger:hour:")
    assert {"T08Z:charged": 45, "T09Z:charged": 4, f"{of_b}T08Z:charged": 11} == await entries(bench)


async def test_a_book_can_be_read_by_its_key_and_the_names_of_entries(bench: Bench) -> None:
    """Without a walk through the store. A book that does not exist is left out."""
    await bench.counts(recorded(4), recorded(6, hour="T09Z"), recorded(5, OF_B), recorded(-1))
    of_b = BOOK.replace("k=a", "k=b")
    names = ("T08Z:charged", "T08Z:refunded", "T09Z:charged", "T10Z:charged")
    assert {
        BOOK: {"T08Z:charged": 4, "T08Z:refunded": 1, "T09Z:charged": 6},
        of_b: {"T08Z:charged": 5},
    } == await bench.store.read_books([BOOK, of_b, BOOK.replace("-21", "-22")], names)


async def test_the_ledger_records_the_refunded_amount(bench: Bench) -> None:
    """A refund stops at 0, so charges less refunds always equal the counter."""
    await bench.counts(recorded(10), recorded(-4), recorded(-100), recorded(-1), recorded(3))
    assert {"T08Z:charged": 13, "T08Z:refunded": 10} == await entries(bench)
    assert [3] == await bench.counts(Hit(DAY, 0, ttl=3600))


async def test_a_charge_that_is_not_counted_is_not_recorded(bench: Bench) -> None:
    """A gated charge of a refused group, a charge with a known id, and a charge of a counter that is not a
    number.
    """
    holds = Gate.REFUSES | Gate.HOLDS
    counted = await bench.counts(recorded(11, gate=holds, limit=10))
    assert [~0] == counted

    def with_id() -> list[Hit]:
        now = int(NOW)
        hold = HoldHit(
            "{d|k=a}:held", ttl=60, op=Op.CHARGE, now=now, life=60, charge=7, tokens=5, made=now, id="x"
        )
        return [recorded(7), hold]

    await bench.hit(with_id())
    await bench.hit(with_id())
    assert {"T08Z:charged": 7} == await entries(bench)
    if "redis" in bench.name:
        bench.set_raw(OF_B, "no number")
        (outcome,) = await bench.hit([recorded(5, OF_B)])
        assert isinstance(outcome, StoreError) or isinstance(outcome[0], StoreError)
        assert {"T08Z:charged": 7} == await entries(bench)


async def test_refused_requests_are_recorded_and_charge_nothing(bench: Bench) -> None:
    """Among charges to the same book in any order, and alone. They create no counter and return no count."""
    _, counts, _ = await bench.hit([refusal()], [recorded(5)], [refusal()])
    assert [0] == counts
    await bench.counts(refusal(), refusal())
    assert {"T08Z:charged": 5, "T08Z:refused": 4} == await entries(bench)
    assert {DAY: 5} == await bench.store.read_bucket("{d|k=a}")


async def test_gated_groups_and_ledger_entries_share_a_batch(bench: Bench) -> None:
    """One call of the script has the arguments of both."""
    gate = Gate.REFUSES | Gate.YIELDS
    yields = Hit("{d|k=a}:hour:2026-11-21T08Z", 1, ttl=3600, limit=0, gate=gate)
    await bench.hit([recorded(5)], [yields, recorded(2, gate=gate, limit=100)], [recorded(1)], [refusal()])
    assert {"T08Z:charged": 6, "T08Z:refused": 1} == await entries(bench)


async def test_a_reset_keeps_the_ledger(bench: Bench) -> None:
    """A reset restores the budget; it does not change past spending."""
    await bench.hit([recorded(5)], [refusal()])
    assert {DAY: 5} == await bench.store.delete_counters([DAY])
    assert {"T08Z:charged": 5, "T08Z:refused": 1} == await entries(bench)


async def test_ledger_entries_saturate(bench: Bench) -> None:
    """As counters do."""
    for _ in range(3):
        await bench.counts(recorded(COUNTER_MAX))
    assert {"T08Z:charged": COUNTER_MAX} == await entries(bench)


async def test_a_full_memory_store_counts_charges_without_their_entries() -> None:
    """Counting takes precedence over recording. Missing entries are counted."""
    store = MemoryStore(lambda: NOW, size=700)
    done: list[object] = []
    store.hit([[recorded(5)]], done.extend)
    store.hit([[recorded(2)]], done.extend)
    assert [[0], [5]] == done
    assert {DAY: 7} == await store.read_bucket("{d|k=a}")
    assert {} == await entries_in(store, "{d|")
    assert (2, 2) == (store.refused, store.unrecorded)


RULES = """
domain: d
time_zone: {zone}
descriptors:
  - key: team
    rate_limits:
      - {{unit: hour, tokens_per_unit: 2000}}
      - {{unit: month, tokens_per_unit: 1000000}}
    hold: 60
    ledger: {{keep: 400d, by: {by}}}
  - key: plain
    rate_limit: {{unit: hour, tokens_per_unit: 4000}}
"""


@dataclass
class Serving:
    """A service over a store, with a clock that the test sets."""

    store: CounterStore
    prefix: str
    now: float

    def start(self, by: str, zone: str) -> RateLimitService:
        policy = Policy(key_prefix=self.prefix)
        service = RateLimitService(self.store, NoObserver(), lambda: self.now, policy)
        service.use(RuleTree(load([read("rules.yaml", RULES.format(by=by, zone=zone))]).domains))
        return service

    async def entries(self) -> dict[str, int]:
        return await entries_in(self.store, f"{self.prefix}{{d|")


@pytest.fixture(
    params=["memory", "redis", "redis, as it is served", "redis, with a prefix", "sentinels", "cluster"]
)
async def serving(request: pytest.FixtureRequest) -> AsyncIterator[Serving]:
    stores = [MemoryStore(lambda: NOW)] if request.param == "memory" else stores_of(request, request.param)
    for store in stores:
        await store.start()
    yield Serving(stores[0], "{rl}:" if "prefix" in request.param else "", NOW)
    for store in stores:
        await store.close()


def request(key: bytes, value: bytes, hits: int | None, *, negative: bool = False) -> Request:
    return Request("d", (Descriptor((Entry(key, value),), hits, negative=negative),))


AUTUMN, SPRING = (1_792_879_200, 25), (1_806_188_400, 23)
"""When the days begin on which clocks are set back and forward in Berlin, 25 October 2026 and 28 March 2027,
and their hours.
"""


@pytest.mark.parametrize(
    "by, start, hours, entries",
    [("hour", *AUTUMN, 25), ("day", *AUTUMN, 1), ("hour", *SPRING, 23), ("day", *SPRING, 1)],
)
async def test_the_sum_of_the_ledger_is_the_sum_of_the_charges(
    serving: Serving, by: str, start: int, hours: int, entries: int
) -> None:
    """Over days of 25 and of 23 hours, with checks, refunds and refusals in between."""
    service, random = serving.start(by, "Europe/Berlin"), Random(0)
    expected: Counter[tuple[str, str]] = Counter()
    for second in range(start, start + hours * 3_600, 1_200):
        serving.now = float(second)
        for number in range(4):
            team = random.choice(["a", "b", "\xff*|{}"]).encode("latin-1")
            hits = random.choice([0, 0, 900, 1_700, None])
            decision = await service.should_rate_limit(request(b"team", team, hits))
            expected[team.hex(), CHARGED] += hits or 0
            expected[team.hex(), REFUSED] += decision.code is Code.OVER_LIMIT and not hits
            if hits and not number:
                await service.should_rate_limit(request(b"team", team, 300, negative=True))
                expected[team.hex(), REFUNDED] += 300
    await service.should_rate_limit(request(b"plain", b"x", 5))
    found: Counter[tuple[str, str]] = Counter()
    starts = set()
    for key, value in (await serving.entries()).items():
        entry = read_entry(serving.prefix)(key)
        assert entry is not None, key
        texts = {"team=a": b"a", "team=b": b"b", "team=%FF%2A%7C%7B%7D": b"\xff*|{}"}
        found[texts[entry.entries[0]].hex(), entry.kind] += value
        starts.add(entry.start)
    assert +expected == found
    assert min(expected.values()) > 0, expected
    assert entries == len(starts), sorted(starts)
    assert sum(found.values()) == await listed(serving, start, start + 26 * 3_600)
    assert 0 == await listed(serving, start - 86_400 * 2, start - 86_400)


async def listed(serving: Serving, since: int, until: int) -> int:
    """Return the sum over all pages of the list for operators, counting an entry that is on several pages
    once.
    """
    seen: dict[tuple[str, int, str], int] = {}
    cursor, first = "", True
    while cursor or first:
        first = False
        books, cursor, _ = await Usage(serving.store, lambda: None, prefix=serving.prefix).page(
            "d", since, until, cursor
        )
        for book in books:
            for spent in book.spent:
                for kind, value in zip(spent._fields[1:4], spent[1:4], strict=True):
                    place = (book.bucket, spent.start, kind)
                    seen[place] = max(value, seen.get(place, 0))
    return sum(seen.values())


async def test_a_rule_without_a_ledger_has_no_entries(serving: Serving) -> None:
    """Neither does a rule with only checks, or with only allowed clients."""
    service = serving.start("hour", "UTC")
    for hits in (5, 5_000, 0):
        await service.should_rate_limit(request(b"plain", b"x", hits))
    await service.should_rate_limit(request(b"team", b"x", 0))
    assert {} == await serving.entries()


async def test_a_book_in_redis_lives_as_long_as_the_rule_says(redis_server: RedisServer) -> None:
    """The time to live is set with the first entry, and is long enough for the last one. A book that has lost
    it gets it again.
    """
    store = RedisStore(connect(redis_server.url))
    await store.start()
    bench = Bench(store, "redis", lambda key, value: None)
    redis_server.cli("FLUSHALL")
    for hour in ("T08Z", "T09Z"):
        await bench.counts(recorded(5, hour=hour))
        assert LIFE - 60 <= int(redis_server.cli("TTL", BOOK)) <= LIFE
        redis_server.cli("PERSIST", BOOK)
    await store.close()


async def test_entries_in_memory_expire_after_the_configured_time() -> None:
    """And not before."""
    now = [0.0]
    store = MemoryStore(lambda: now[0])
    store.hit([[recorded(5)]], lambda outcomes: None)
    for seconds, expected in ((LIFE - 1, {f"{BOOK}T08Z:charged": 5}), (LIFE + 3_600, {})):
        now[0] = float(seconds)
        store.hit([[Hit(DAY, 0, ttl=1)]], lambda outcomes: None)
        assert expected == await entries_in(store, "{d|")


async def test_entries_that_redis_refuses_are_logged(bench: Bench) -> None:
    """The charge is counted, and its caller answered. One log line has the reason."""
    if bench.name != "redis":
        pytest.skip("memory has no keys of another type")
    bench.set_raw(BOOK, "not a hash")
    with capture_logs() as logs:
        assert [[0], [5]] == await bench.hit([recorded(5)], [recorded(2)])
        assert [7] == await bench.counts(recorded(1))
    missing = [each["error"] for each in logs if "ledgers" in each["event"]]
    assert 1 == len(missing)
    assert "WRONGTYPE" in missing[0]
