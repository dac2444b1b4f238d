"""A replica of the service for tests of observers: with rules, a store that replicas can share, and a
settable clock.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from typing import Any

from ratelimit_service.core.errors import StoreError
from ratelimit_service.core.matching.tree import RuleTree
from ratelimit_service.core.model import (
    Decision,
    DescriptorRule,
    DomainRules,
    Hit,
    Limit,
    Request,
    Rule,
    StatKey,
    Unit,
    Window,
)
from ratelimit_service.core.plan import Policy
from ratelimit_service.observe.decision_log import DecisionLog
from ratelimit_service.observe.metrics import Metrics
from ratelimit_service.observe.observers import Observers
from ratelimit_service.observe.tables import Sample
from ratelimit_service.observe.thresholds import Thresholds
from ratelimit_service.observe.tracking import Tracker
from ratelimit_service.ports import CounterStore, OnOutcomes, Outcome
from ratelimit_service.service import RateLimitService
from ratelimit_service.stores.memory import MemoryStore
from testing.waiting import until
from tests.limiter import MIDNIGHT, descriptor

HOUR, DAY = Window(Unit.HOUR), Window(Unit.DAY)


def budget(key: str, *limits: Limit, **more: Any) -> DescriptorRule:
    """Return a budget for each value of a key."""
    return DescriptorRule(key.encode(), rule=Rule(StatKey("d", (key,)), limits, **{"budget": True, **more}))


class Replica:
    """One of the services that share `store`; `now` is the clock of windows and of scrapes."""

    def __init__(
        self,
        *rules: DescriptorRule,
        store: CounterStore | None = None,
        most_tracked: int = 1_000,
        decision_log: DecisionLog | None = None,
        policy: Policy | None = None,
    ) -> None:
        self.now: float = MIDNIGHT
        self.store = MemoryStore(lambda: self.now) if store is None else store
        self.metrics = Metrics()
        self.thresholds = Thresholds(self.store, self.metrics.crossed)
        self.tracker = Tracker(lambda: self.now, most_tracked)
        observers = Observers(self.metrics, self.thresholds, self.tracker, decision_log)
        self.service = RateLimitService(self.store, observers, lambda: self.now, policy)
        self.use(*rules)

    def use(self, *rules: DescriptorRule) -> None:
        """Put other rules in force."""
        self.service.use(RuleTree([DomainRules("d", rules)]))

    async def ask(self, entries: str = "team=dba", hits: int | None = None) -> Decision:
        """Return the decision on `key=value key=value`; negative hits are refunds."""
        return await self.service.should_rate_limit(Request("d", (descriptor(entries, hits),)))

    async def reported(self) -> None:
        """Wait until the store has answered for every crossing."""
        await until(lambda: not self.thresholds.in_flight)

    def samples(self, *names: str) -> list[Sample]:
        """Return the samples of a scrape."""
        return [
            sample
            for sample in self.metrics.counters()
            if sample.name.removeprefix("ratelimit_service_").startswith(names)
        ]


class FailsMarkers(MemoryStore):
    """A store that counts, but fails all hits of markers, or some of them."""

    def __init__(self, *, alone: bool = False) -> None:
        super().__init__(lambda: MIDNIGHT)
        self._alone = alone
        self.tried: list[str] = []

    def hit(self, groups: Sequence[Sequence[Hit]], on_outcomes: OnOutcomes) -> None:
        markers = [hit.key for group in groups for hit in group if ":warned-" in hit.key]
        if not markers:
            super().hit(groups, on_outcomes)
            return
        self.tried += markers
        error = StoreError("gone")
        outcomes: list[Outcome] = [[error] * len(group) if self._alone else error for group in groups]
        on_outcomes(outcomes)


def crossings(events: Sequence[MutableMapping[str, Any]]) -> list[tuple[str, float]]:
    """Return the bucket and the share of each logged crossing."""
    return [
        (event["bucket"], event["share"]) for event in events if event["event"] == "budget threshold crossed"
    ]


def text_of(metrics: Metrics) -> str:
    """Return the text of a scrape."""
    return b"".join(metrics.chunks()).decode()
