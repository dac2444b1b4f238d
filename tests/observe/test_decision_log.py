"""Decisions as JSON, for accounting."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ratelimit_service.core.errors import StoreError
from ratelimit_service.core.matching.tree import RuleTree
from ratelimit_service.core.model import (
    Descriptor,
    DescriptorRule,
    DomainRules,
    Entry,
    Limit,
    Override,
    Request,
    Rule,
    StatKey,
    Unit,
)
from ratelimit_service.core.plan import Policy
from ratelimit_service.observe.decision_log import DecisionLog
from ratelimit_service.observe.line_writer import LineWriter
from ratelimit_service.stores.memory import MemoryStore
from tests.limiter import MIDNIGHT, descriptor

from .replica import DAY, HOUR, Replica, budget

RULES = (
    budget("team", Limit(100, HOUR, "hourly"), Limit(400, DAY, "daily")),
    budget("user", Limit(10, HOUR)),
    DescriptorRule(b"free", rule=Rule(StatKey("d", ("free",)), unlimited=True)),
)


class Logged(Replica):
    """A replica with a decision log. `lines` has the lines since they were last read."""

    def __init__(
        self, *, refused_only: bool = False, sample: float = 1.0, dice: tuple[float, ...] = (), **more: Any
    ) -> None:
        self._written: list[bytes] = []
        self._refused_only, self._sample = refused_only, sample
        self.dice = list(dice)
        self.writer = LineWriter(self._written.append)
        super().__init__(*RULES, decision_log=self._log(), **more)

    def _log(self) -> DecisionLog:
        return DecisionLog(
            self.writer,
            refused_only=self._refused_only,
            sample=self._sample,
            random=lambda: self.dice.pop(0),
        )

    async def request(self, *descriptors: Descriptor | str, hits: int = 0) -> None:
        asked = tuple([one if isinstance(one, Descriptor) else descriptor(one) for one in descriptors])
        await self.service.should_rate_limit(Request("d", asked, hits))

    def lines(self) -> list[dict[str, Any]]:
        """Return every line since the last call, parsed."""
        self.writer.start()
        self.writer.close(10)
        return [json.loads(line) for line in b"".join(self._written).splitlines()]


async def test_the_lines_of_a_request_can_be_put_together_again() -> None:
    """If there are several lines, each has its number."""
    replica = Logged()
    await replica.request("team=dba", "user=ann", "free=yes")
    await replica.request("team=dba")
    assert [[1, 3], [2, 3], [3, 3], None] == [line.get("part") for line in replica.lines()]


async def test_a_line_has_the_caller_the_hits_and_the_outcome() -> None:
    """It has the window of the status: the one with the least left, or the one that refuses."""
    replica = Logged()
    replica.now += 845.9
    await replica.request(descriptor("team=dba", 60))
    await replica.request(descriptor("team=dba", 60))
    await replica.request(descriptor("team=dba", 0))
    common = {
        "time": "2026-11-21T00:14:05Z",
        "domain": "d",
        "descriptor": [["team", "dba"]],
        "rule": "hourly",
        "window": "hour",
        "limit": 100,
        "resets_in": 2755,
    }
    ok = {"verdict": "OK", "overall_verdict": "OK"}
    over = {"verdict": "OVER_LIMIT", "overall_verdict": "OVER_LIMIT"}
    lines = replica.lines()
    assert [
        {**common, **ok, "hits": 60, "used": 60, "remaining": 40},
        {**common, **ok, "hits": 60, "used": 120, "remaining": 0},
        {**common, **over, "hits": 0, "used": 120, "remaining": 0},
    ] == lines
    fields = "time domain descriptor hits verdict overall_verdict rule window limit used remaining resets_in"
    assert [fields.split()] * 3 == [list(line) for line in lines]


async def test_every_descriptor_has_a_line_limited_or_not() -> None:
    """The line has its own verdict and that of the request."""
    replica = Logged()
    await replica.request(descriptor("user=al", 10))
    await replica.request("user=al", "free=x", "nowhere=x", descriptor("team=dba", 5))
    assert [
        ("user", "OK", "OK", "d.user", 0),
        ("user", "OVER_LIMIT", "OVER_LIMIT", "d.user", 0),
        ("free", "OK", "OVER_LIMIT", "d.free", None),
        ("nowhere", "OK", "OVER_LIMIT", None, None),
        ("team", "OK", "OVER_LIMIT", "hourly", 95),
    ] == [
        (
            line["descriptor"][0][0],
            line["verdict"],
            line["overall_verdict"],
            line["rule"],
            line["remaining"],
        )
        for line in replica.lines()
    ]


async def test_hits_are_those_that_the_request_names() -> None:
    """Those of the request if the descriptor has none, negative for a refund, and null if neither has any."""
    replica = Logged()
    await replica.request("team=a", descriptor("team=a", 3), descriptor("team=a", 0), hits=7)
    await replica.request("team=a", descriptor("team=a", -3))
    assert [7, 3, 0, None, -3] == [line["hits"] for line in replica.lines()]


async def test_the_log_of_refusals_has_the_requests_that_were_refused() -> None:
    """All their descriptors are logged. Requests that only shadow mode would have refused are not."""
    replica = Logged(refused_only=True)
    await replica.request(descriptor("user=al", 10), descriptor("user=bo", 1))
    await replica.request(descriptor("user=al", 1), descriptor("user=bo", 1))
    assert [[["user", "al"]], [["user", "bo"]]] == [line["descriptor"] for line in replica.lines()]


async def test_requests_that_global_shadow_mode_allows_are_not_logged_as_refused() -> None:
    """In the log of all, the verdicts differ."""
    shadowed = Policy(shadow_mode=True)
    refused, everything = Logged(refused_only=True, policy=shadowed), Logged(policy=shadowed)
    for replica in (refused, everything):
        await replica.request(descriptor("user=al", 10))
        await replica.request(descriptor("user=al", 1))
    assert [] == refused.lines()
    assert [("OK", "OK"), ("OVER_LIMIT", "OK")] == [
        (line["verdict"], line["overall_verdict"]) for line in everything.lines()
    ]


async def test_a_sample_has_requests_whole_or_not_at_all() -> None:
    """One random number decides for a whole request, and is only drawn for requests that would be logged."""
    replica = Logged(sample=0.25, dice=(0.1, 0.25, 0.9, 0.2499))
    for number in range(4):
        await replica.request(f"team={number}", f"user={number}")
    assert ["0", "0", "3", "3"] == [line["descriptor"][0][1] for line in replica.lines()]
    refused = Logged(refused_only=True, sample=0.5)
    await refused.request("team=a")
    assert [] == refused.lines()


async def test_a_sample_of_nothing_is_empty_and_one_of_all_throws_no_dice() -> None:
    """Both ends of the range need no random number."""
    nothing, everything = Logged(sample=0.0, dice=(0.0,)), Logged(sample=1.0)
    for replica in (nothing, everything):
        await replica.request("team=a")
    assert (0, 1) == (len(nothing.lines()), len(everything.lines()))


async def test_a_limit_that_a_request_brings_is_called_by_the_path_that_it_makes() -> None:
    """It has no name, and no rule of the configuration."""
    replica = Logged()
    await replica.request(Descriptor((Entry(b"x", b"y"),), 5, Override(50, Unit.DAY)))
    (line,) = replica.lines()
    assert ("d.x_y", "day", 50, 5, 45) == tuple(
        line[name] for name in ("rule", "window", "limit", "used", "remaining")
    )


async def test_a_descriptor_without_a_rule_may_be_refused_without_a_limit() -> None:
    """`unmatched: deny`: the verdict is OVER_LIMIT, and the fields of the limit are null."""
    replica = Logged(refused_only=True)
    replica.service.use(RuleTree([DomainRules("d", RULES, deny_unmatched=True)]))
    await replica.request("nowhere=x")
    (line,) = replica.lines()
    assert ("OVER_LIMIT", None, None, None) == tuple(
        line[name] for name in ("verdict", "rule", "limit", "remaining")
    )


async def test_requests_that_are_answered_with_an_error_are_not_logged() -> None:
    """There is no decision; metrics count them."""
    replica = Logged(store=MemoryStore(lambda: MIDNIGHT, size=0))
    with pytest.raises(StoreError):
        await replica.request(descriptor("team=a", 1))
    assert [] == replica.lines()


HOSTILE = [
    b'quote"',
    b"new\nline",
    b"\x00\xff\x1b[31m",
    "\u202e\u2028".encode(),
    "Zürich 🦊".encode(),
    b"x" * 100_000,
]


async def test_no_value_can_break_a_line() -> None:
    """Each line has a bounded length and is valid JSON, whatever the values are."""
    replica = Logged()
    await replica.request(*[Descriptor((Entry(value, value),)) for value in HOSTILE])
    lines = replica.lines()
    assert [
        'quote"',
        r"new\nline",
        r"\x00\xff\x1b[31m",
        r"\u202e\u2028",
        "Zürich 🦊",
        f"{'x' * 256}… (100000 bytes)",
    ] == [line["descriptor"][0][1] for line in lines]


async def test_dropped_lines_are_counted_in_a_metric() -> None:
    """The metric shows that the log is incomplete."""
    replica = Logged()
    replica.writer.dropped = 3
    assert [3] == [sample.value for sample in replica.samples("decision_log_dropped")]


async def test_without_a_decision_log_there_is_no_such_metric() -> None:
    """It is off by default."""
    replica = Replica(*RULES)
    await replica.ask(hits=1)
    assert [] == replica.samples("decision_log")
