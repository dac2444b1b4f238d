"""Ids that strangers invent, move or repeat, on every store: a charge counts once, and no hold outlives its
ttl.
"""

from __future__ import annotations

import pytest

from ratelimit_service.amending.secret import hold_ids
from ratelimit_service.core.holds.entries import DEFAULT_ENTRIES
from ratelimit_service.core.holds.ids import names_of
from ratelimit_service.core.matching.tree import RuleTree
from ratelimit_service.core.model import Decision, Entry
from ratelimit_service.core.plan import Policy
from ratelimit_service.core.rules.reader import load
from ratelimit_service.proto.ratelimit_pb2 import RateLimitRequest
from ratelimit_service.service import RateLimitService
from ratelimit_service.sources.yaml_text import read
from ratelimit_service.transports.codec import Codec
from tests.limiter import NoObserver

from .conftest import NOW, Bench

RULES = """
domain: d
descriptors:
  - {key: team, rate_limit: {unit: hour, tokens_per_unit: 1000}, hold: 60, hold_max: 100%}
  - {key: user, rate_limit: {unit: hour, tokens_per_unit: 1000}, hold: 60, hold_max: 100%}
"""
TTL = 60
Part = tuple[int, list[tuple[str, str]]]
"""The hits of a descriptor, which are negative for a refund, and its entries."""

FORGED = [
    *("-", "", "x", "=", "AA==", "+/+/", "é", "\0", "a\r\nb", "A" * 2_048, "A" * 2_049, "A" * 1_000_000),
    *(f"AWsB{number:070d}" for number in range(50)),
]


def tree(rules: str = RULES) -> RuleTree:
    return RuleTree(load([read("rules.yaml", rules.encode())]).domains)


class Replica:
    """A service on the store under test, with a clock that differs by `skew` seconds."""

    def __init__(self, bench: Bench, skew: int = 0, rules: str = RULES) -> None:
        self.bench = bench
        self.now = NOW
        ids = hold_ids()
        ids.use(b"secret")
        policy = Policy(hold_entries=DEFAULT_ENTRIES)
        self.service = RateLimitService(bench.store, NoObserver(), lambda: self.now + skew, policy, ids=ids)
        self.service.use(tree(rules))
        self.decode = Codec(hold_entries=DEFAULT_ENTRIES).decode

    async def send(self, *parts: Part) -> Decision:
        request = RateLimitRequest(domain="d")
        for hits, entries in parts:
            descriptor = request.descriptors.add()
            for key, value in entries:
                descriptor.entries.add(key=key.encode(), value=value.encode())
            descriptor.hits_addend.value = abs(hits)
            descriptor.is_negative_hits = hits < 0
        return await self.service.should_rate_limit(self.decode(request.SerializeToString()))

    async def check(self, *keys: str) -> str:
        """Return the id of a check of `a` with these keys."""
        return (await self.send(*((0, [(key, "a")]) for key in keys))).hold

    async def state(self, bucket: str = "team=a") -> tuple[int, int]:
        """Return the use and the held tokens of a bucket."""
        used = await self.bench.store.read_bucket(f"{{d|{bucket}}}")
        key = f"{{d|{bucket}}}:held"
        held = await self.bench.store.read_holds([key], int(self.now))
        return sum(value or 0 for value in used.values()), held.get(key, 0)


async def test_a_forged_id_is_a_plain_charge_that_ends_no_hold(bench: Bench) -> None:
    """Neither its length nor its bytes matter, and none of them is remembered."""
    replica = Replica(bench)
    real = await replica.check("team")
    stranger = hold_ids()
    stranger.use(b"guess")
    names = names_of("d", [(Entry(b"team", b"a"),)])
    guessed = stranger.issue(int(NOW), [(60, int(NOW) + TTL)], names)
    changed = [f"{real[:at]}{'A' if real[at] != 'A' else 'B'}{real[at + 1 :]}" for at in (0, 20, 30, -2)]
    for text in (*FORGED, guessed, *changed):
        await replica.send((1, [("team", "a"), ("hold", text)]))
    sent = len(FORGED) + 1 + len(changed)
    assert (sent, 60) == await replica.state()
    replica.now += TTL + 1
    assert (sent, 0) == await replica.state()


@pytest.mark.parametrize(
    ("keys", "parts", "used"),
    [
        (["team"], [(10, ["hold", "team"])], 10),
        (["team"], [(10, ["team", "hold"])], 10),
        (["team"], [(10, ["hold", "team", "hold"])], 10),
        (["team"], [(10, ["hold"])], 10),
        (["team"], [(10, ["team", "hold"]), (5, ["team", "hold"])], 15),
        (["team"], [(10, ["hold"]), (5, ["hold"])], 15),
        (["team"], [(10, ["team", "hold"]), (10, ["hold"])], 10),
        (["team", "user"], [(10, ["team", "hold"]), (10, ["user", "hold"]), (10, ["hold"])], 10),
        (["team", "user"], [(10, ["hold"])], 10),
        (["team", "user"], [(10, ["team", "hold"])], 10),
    ],
)
async def test_a_repeated_charge_counts_once_wherever_its_id_stands(
    bench: Bench, keys: list[str], parts: list[tuple[int, list[str]]], used: int
) -> None:
    """Before and after its ttl, for as long as ids are remembered."""
    replica = Replica(bench)
    values = {"hold": await replica.check(*keys), "team": "a", "user": "a"}
    sent = [(hits, [(name, values[name]) for name in names]) for hits, names in parts]
    for _ in range(3):
        await replica.send(*sent)
        assert (used, 0) == await replica.state()
        replica.now += TTL - 1
    replica.now = NOW
    assert 0 == (await replica.state("user=a"))[1]


async def test_a_repeated_refund_counts_once(bench: Bench) -> None:
    """Otherwise each retry would free more of the budget. It is another event than the charge of its id."""
    replica = Replica(bench)
    text, other = await replica.check("team"), await replica.check("team")
    entries = [("team", "a"), ("hold", text)]
    await replica.send((40, entries))
    for _ in range(3):
        await replica.send((-10, entries))
        assert (30, 60) == await replica.state()
    for _ in range(3):
        await replica.send((-5, [("team", "a"), ("hold", other)]), (20, [("team", "a"), ("hold", other)]))
        assert (45, 0) == await replica.state()
    for _ in range(2):
        await replica.send((-10, [("team", "a"), ("hold", "-")]))
    assert (25, 0) == await replica.state()


async def test_the_id_of_another_bucket_frees_nobody_elses_hold(bench: Bench) -> None:
    """It ends the hold that it names, once, however often it comes back."""
    replica = Replica(bench)
    mine, _ = await replica.check("team"), await replica.check("team")
    await replica.check("user")
    for _ in range(3):
        await replica.send((10, [("user", "a"), ("hold", mine)]))
    assert (0, 60) == await replica.state()
    assert (10, 60) == await replica.state("user=a")


@pytest.mark.parametrize("skew", [5, -5])
async def test_replicas_with_different_clocks_count_an_id_once(bench: Bench, skew: int) -> None:
    """The retry of a charge may reach another replica."""
    one, other = Replica(bench), Replica(bench, skew)
    text = await one.check("team")
    for replica in (other, one, other):
        await replica.send((10, [("team", "a"), ("hold", text)]))
        assert (10, 0) == await one.state()


@pytest.mark.parametrize(
    ("rules", "used"),
    [
        (RULES.replace("key: team", "key: another"), 0),
        (RULES.replace("domain: d", "domain: another"), 0),
        (RULES.replace("unit: hour", "unit: day"), 10),
        (RULES.replace(", hold: 60, hold_max: 100%", ""), 10),
        (RULES.replace("key: team", "key: team, hold_ttl: 12s"), 10),
        (RULES.replace("key: team", "key: team, shadow_mode: true"), 10),
        (
            RULES.replace(
                "{unit: hour, tokens_per_unit: 1000}, hold: 60, hold_max: 100%", "{unlimited: true}"
            ),
            0,
        ),
    ],
)
async def test_an_id_of_former_rules_counts_at_most_once(bench: Bench, rules: str, used: int) -> None:
    """Its hold ends with the charge or with its ttl."""
    replica = Replica(bench)
    text = await replica.check("team")
    replica.service.use(tree(rules))
    for _ in range(3):
        await replica.send((10, [("team", "a"), ("hold", text)]))
    assert used == (await replica.state())[0]
    replica.now += TTL + 1
    assert (used, 0) == await replica.state()
