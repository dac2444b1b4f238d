"""What people see of a running service; the API and the command line call this and nothing below it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from ..core.amendments.index import Amendments
from ..core.budgets.bucket import Budget
from ..core.errors import Problem
from ..core.model import DomainRules, Entry
from ..ports import Clock, CounterStore, Replica
from .explaining import Explained, Foresee, explain
from .listing import Lister, Listing
from .query import Query
from .replicas import Registry


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


class RulesNow(NamedTuple):
    """The rules in force. `generation` is the store's number for them (ports.ReplicaStore), 0 where it has none yet."""

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
        now: Clock = time.time,
    ) -> None:
        self._store = store
        self._amendments = amendments
        self._lister = lister
        self._rules = rules
        self._foresee = foresee
        self._now = now
        self.registry = registry

    async def budgets(self, query: Query, cursor: str = "") -> Listing:
        """Return one page of budgets. Raises InvalidRequest or StoreError."""
        return await self._lister.budgets(query, cursor)

    async def bucket(self, domain: str, entries: tuple[Entry, ...]) -> Budget | None:
        """Return the bucket of a descriptor; None where no rule limits it. Raises StoreError."""
        return await self._lister.budget(domain, entries)

    async def explain(self, domain: str, entries: tuple[Entry, ...], hits: int = 0) -> Explained:
        """Explain what a descriptor would be answered now. Raises InvalidRequest, NotReady or StoreError."""
        joiner, now = self._lister.joiner, int(self._now())
        return await explain(joiner, self._store, self._amendments, self._foresee, domain, entries, hits, now)

    async def replicas(self) -> Sequence[Replica]:
        """Return all replicas, this one included. Raises StoreError."""
        return await self.registry.replicas()

    @property
    def rules(self) -> RulesNow:
        """Return the rules in force."""
        rules = self._rules
        return RulesNow(
            self.registry.generation, rules.digest, rules.loaded_at, rules.domains, rules.problems
        )

    async def close(self) -> None:
        """End what runs in the background, and leave the register of replicas."""
        await self._lister.close()
        await self.registry.leave()
