"""The views of a running service, for the API."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from heapq import nlargest
from typing import Any, NamedTuple, Protocol

from ..core.amendments.index import Amendments
from ..core.budgets.bucket import Budget
from ..core.errors import Problem
from ..core.model import DomainRules, Entry
from ..ports import Clock, CounterStore, Replica
from .explaining import Explanation, Foresee, explain
from .listing import Lister, Listing
from .prices import Prices
from .query import Query
from .refusals import KEPT, Refusal, Refusals
from .replicas import Registry
from .series import Point, Series
from .usage import Usage, UsagePage


class RulesInForce(Protocol):
    """The rules in force (loading/rulebook.py)."""

    @property
    def digest(self) -> str:
        """Their hash."""
        ...

    @property
    def domains(self) -> Sequence[DomainRules]:
        """All domains."""
        ...

    @property
    def problems(self) -> Sequence[Problem]:
        """What was wrong with the last load."""
        ...

    @property
    def loaded_at(self) -> float:
        """When they came into force, in seconds since 1970."""
        ...


class Siblings(Protocol):
    """The other workers of this service (workers/worker_link.py)."""

    def share(self, name: str, provide: Callable[[], Awaitable[Any]]) -> None:
        """Let the others ask this one for `name`."""
        ...

    async def ask(self, name: str) -> list[Any]:
        """Return the answers of all others."""
        ...


_REFUSALS = "refusals"


class RulesNow(NamedTuple):
    """The rules in force. `generation` is the store's number for them (ports.ReplicaStore), 0 where it has
    none yet.
    """

    generation: int
    digest: str
    loaded_at: float
    domains: Sequence[DomainRules]
    problems: Sequence[Problem]


class Views:
    """The views of one service."""

    def __init__(
        self,
        store: CounterStore,
        amendments: Amendments,
        lister: Lister,
        registry: Registry,
        rules: RulesInForce,
        foresee: Foresee,
        refusals: Refusals,
        siblings: Siblings | None = None,
        now: Clock = time.time,
        prices: Prices | None = None,
    ) -> None:
        self._refusals = refusals
        self._siblings = siblings
        if siblings is not None:
            siblings.share(_REFUSALS, self._own_refusals)
        self._series = Series(lister.budget, now)
        self._usage = Usage(store, lambda: lister.joiner.tree, prices, lister.prefix)
        self._store = store
        self._amendments = amendments
        self._lister = lister
        self._rules = rules
        self._foresee = foresee
        self._now = now
        self.registry = registry

    async def budgets(
        self, query: Query, cursor: str = "", wait: float | None = None, oldest: float | None = None
    ) -> Listing:
        """Return one page of budgets (Lister.budgets). Raises InvalidRequest or StoreError."""
        return await self._lister.budgets(query, cursor, wait, oldest)

    async def bucket(self, domain: str, entries: tuple[Entry, ...]) -> Budget | None:
        """Return the bucket of a descriptor; None where no rule limits it. Raises StoreError."""
        return await self._lister.budget(domain, entries)

    async def explain(self, domain: str, entries: tuple[Entry, ...], hits: int = 0) -> Explanation:
        """Explain what a descriptor would be answered now. Raises InvalidRequest, NotReady or StoreError."""
        joiner, now = self._lister.joiner, int(self._now())
        return await explain(joiner, self._store, self._amendments, self._foresee, domain, entries, hits, now)

    async def replicas(self) -> Sequence[Replica]:
        """Return all replicas, this one included. Raises StoreError."""
        return await self.registry.replicas()

    async def refusals(self, since: int = 0, most: int = KEPT) -> Sequence[Refusal]:
        """Return the last refusals of all workers with a later id, the latest first."""
        found = [*self._refusals.since(since)]
        if self._siblings is not None:
            for others in await self._siblings.ask(_REFUSALS):
                found += [each for each in others if each.id > since]
        return nlargest(most, found, key=lambda each: each.id)

    async def _own_refusals(self) -> Sequence[Refusal]:
        return self._refusals.since()

    async def series(self, domain: str, entries: tuple[Entry, ...]) -> list[Point] | None:
        """Return the points of a bucket, one every series.STEP seconds since the first request; None without
        a rule.
        """
        return await self._series.of(domain, entries)

    async def usage(self, domain: str, since: int, until: int, cursor: str = "") -> UsagePage:
        """Return a page of the ledger entries of a domain. Raises InvalidRequest or StoreError."""
        return await self._usage.page(domain, since, until, cursor)

    @property
    def rules(self) -> RulesNow:
        """Return the rules in force."""
        rules = self._rules
        return RulesNow(
            self.registry.generation, rules.digest, rules.loaded_at, rules.domains, rules.problems
        )

    async def close(self) -> None:
        """Stop the background tasks, and leave the register of replicas."""
        await self._series.close()
        await self._lister.close()
        await self.registry.leave()
