"""The service for tests of its answers: rules from YAML, counters in memory, and a settable clock."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ratelimit_service.core.amendments.index import Amendments
from ratelimit_service.core.amendments.model import Amendment
from ratelimit_service.core.answers.refusal import Spread
from ratelimit_service.core.errors import RateLimitServiceError
from ratelimit_service.core.holds.ids import HoldIds
from ratelimit_service.core.holds.planning import hold_key
from ratelimit_service.core.holds.state import Holds
from ratelimit_service.core.matching import keys
from ratelimit_service.core.matching.tree import RuleTree
from ratelimit_service.core.model import Decision, Descriptor, Entry, Hit, Override, Request, Status
from ratelimit_service.core.plan import Plan, Policy
from ratelimit_service.core.rules.reader import load
from ratelimit_service.ports import Observer, OnOutcomes
from ratelimit_service.service import RateLimitService
from ratelimit_service.sources.yaml_text import read
from ratelimit_service.stores.memory import MemoryStore

MIDNIGHT = 1_795_219_200
"""2026-11-21T00:00:00Z, a Saturday: the first second of a second, a minute, an hour and a day."""


@dataclass
class RecordedCall:
    """A call that keeps its answers."""

    request: Request
    answers: list[Decision | RateLimitServiceError] = field(default_factory=list)
    timeout: int = -1
    gone: bool = False

    def reply(self, answer: Decision | RateLimitServiceError) -> None:
        self.answers.append(answer)


class NoObserver:
    """An observer that does nothing."""

    def decided(self, plan: Plan, decision: Decision) -> None:
        pass

    def failed(self, plan: Plan | None, error: RateLimitServiceError) -> None:
        pass


class RecordingStore(MemoryStore):
    """A store that keeps its hits: the groups of each call."""

    def __init__(self) -> None:
        super().__init__(lambda: MIDNIGHT)
        self.asked: list[list[list[Hit]]] = []

    def hit(self, groups: Sequence[Sequence[Hit]], on_outcomes: OnOutcomes) -> None:
        self.asked.append([list(group) for group in groups])
        super().hit(groups, on_outcomes)


def nonce(number: int) -> bytes:
    return number.to_bytes(12, "big")


class Limiter:
    """A RateLimitService for tests. `now` is its clock, and `policy` the settings of core/plan.py.

    `spread` is added to each retry-after.
    """

    def __init__(
        self,
        *files: str,
        now: float = MIDNIGHT,
        observer: Observer | None = None,
        spread: Spread = lambda: 0,
        **policy: Any,
    ) -> None:
        self.now = now
        self.store = MemoryStore(lambda: self.now)
        self.amendments = Amendments()
        self.service = RateLimitService(
            self.store,
            observer or NoObserver(),
            lambda: self.now,
            Policy(**policy),
            spread=spread,
            amendments=self.amendments,
            ids=HoldIds(map(nonce, itertools.count()).__next__, b"secret"),
        )
        documents = [read(f"{number}.yaml", text) for number, text in enumerate(files)]
        self.service.use(RuleTree(load(documents).domains))

    def amend(self, *amendments: Amendment) -> None:
        """Put amendments in force."""
        for amendment in amendments:
            self.amendments.put(amendment)
        self.service.apply_amendments()

    def unamend(self, *amendments: Amendment) -> None:
        """Remove them."""
        for amendment in amendments:
            self.amendments.remove(amendment.id)
        self.service.apply_amendments()

    def answer(self, request: Request) -> Decision:
        """Return the decision on `request`, or raise its error."""
        call = RecordedCall(request)
        self.service.submit([call])
        (answer,) = call.answers
        if not isinstance(answer, Decision):
            raise answer
        assert len(request.descriptors) == len(answer.statuses)
        return answer

    def ask(self, *descriptors: Descriptor | str, hits: int = 0, domain: str = "d") -> Decision:
        """Return the decision on a request with these descriptors, which may be given as `key=value
        key=value`.
        """
        asked = tuple([one if isinstance(one, Descriptor) else descriptor(one) for one in descriptors])
        return self.answer(Request(domain, asked, hits))

    def used(self, entries: str, domain: str = "d") -> int | None:
        """Return the value of the only counter of a bucket; None if there is none."""
        bucket = keys.bucket(
            "", keys.domain_text(domain), [keys.entry_text(*entry) for entry in entries_of(entries)]
        )
        held = asyncio.run(self.store.read_bucket(bucket))
        assert len(held) <= 1
        return next(iter(held.values()), None)

    def holds(self, entries: str, domain: str = "d") -> Holds:
        """Return the holds of a bucket."""
        texts = [keys.entry_text(*entry) for entry in entries_of(entries)]
        found = self.store.holds.find(hold_key(keys.bucket("", keys.domain_text(domain), texts)))
        assert found is not None
        return found


def descriptor(entries: str, hits: int | None = None, override: Override | None = None) -> Descriptor:
    """Return the descriptor with the entries `key=value key=value`. Hits below 0 are a refund."""
    negative = hits is not None and hits < 0
    return Descriptor(entries_of(entries), None if hits is None else abs(hits), override, negative)


def entries_of(text: str) -> tuple[Entry, ...]:
    pairs = [pair.partition("=") for pair in text.split()]
    return tuple([Entry(key.encode(), value.encode()) for key, _, value in pairs])


def decision_text(decision: Decision) -> str:
    """Return a decision in one line: `OVER_LIMIT: OK 9 3600, OVER_LIMIT 0 60`."""
    return f"{decision.code.name}: {', '.join(map(status_text, decision.statuses))}"


def status_text(status: Status) -> str:
    """Return a status in one line: its code, the remainder, and the seconds to the reset if there is a
    limit.
    """
    if status.limit is not None:
        return f"{status.code.name} {status.remaining} {status.reset}"
    return f"{status.code.name} {status.remaining}" if status.remaining else status.code.name


Row = tuple[int, int | None, str]
"""Seconds later, the hits_addend, and the status as text."""


def replay(limiter: Limiter, rows: Iterable[Row], entries: str = "team=dba") -> list[Row]:
    """Return the rows with the actual answers, for a comparison with the expected ones."""
    turned_out: list[Row] = []
    for later, hits, _ in rows:
        limiter.now += later
        decision = limiter.ask(descriptor(entries, hits))
        (status,) = decision.statuses
        assert decision.code is status.code
        turned_out.append((later, hits, status_text(status)))
    return turned_out
