"""Keeps the amendments of this replica up to date with those of the store.

    store ──news(version)──▶ Follower ──put, remove──▶ core.amendments.index ──amended()──▶ planners

It polls the store several times a second; without changes, that is one small read. So a change is in force on
every replica within EVERY and a round trip, also after a failover. A replica that cannot reach the store
keeps its amendments, and `age_seconds` is the time since they were last confirmed.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Generator, Iterable, Sequence
from contextlib import suppress
from typing import NamedTuple, Protocol

import structlog

from ..core.amendments.effect import end_for
from ..core.amendments.index import Amendments
from ..core.amendments.model import Amendment, Change, News, Remove
from ..core.errors import Conflict, CounterRefused, InvalidRequest, StoreError
from ..core.matching.tree import RuleTree
from ..core.model import Window
from ..loading.slices import in_slices
from ..ports import AmendmentStore, Clock

EVERY = 0.25
"""Seconds between two polls of the store."""

_TIDIED_EVERY = 60.0
"""Seconds between two searches for amendments that have ended."""

_KEPT = 3_600
"""Seconds after its end until an amendment is removed: clocks differ, and operators may want to see recent
ones."""

_FIRST_TRY = 2.0
"""Seconds for which the start waits for the first poll."""

_GIVEN_UP_AFTER = 40
"""Failed polls after which a new replica serves without amendments, if its store can still count."""

_TIDIED_AT_ONCE = 100
_AT_ONCE = 100
"""Amendments that are applied at once, without processing calls in between: the most of one change."""

AUTHOR = "ratelimit-service"
"""The author of removals of ended amendments."""

Sleep = Callable[[float], Awaitable[None]]
Tree = Callable[[], RuleTree | None]
"""Returns the rules in force; None before the first load."""


class AmendmentsUser(Protocol):
    """A user of the amendments (service.py)."""

    def apply_amendments(self) -> None:
        """Apply the current amendments from now on."""
        ...


class FollowerState(NamedTuple):
    """The amendments in force on a replica: the version of the store, their number, and the seconds since
    they were confirmed.
    """

    version: int
    amendments: int
    age: float
    unreadable: int

    def __str__(self) -> str:
        return f"amendments: {self.amendments} in force, version {self.version}, read {self.age:.1f} s ago"


class Follower:
    """Follows the amendments in `store`, and notifies `services` after each change of `amendments`.

    `now` is the time since 1970; `clock` is monotonic. Both are in seconds, as are those of `sleep`.
    """

    def __init__(
        self,
        store: AmendmentStore,
        amendments: Amendments,
        services: Sequence[AmendmentsUser],
        tree: Tree = lambda: None,
        now: Clock = time.time,
        clock: Clock = time.monotonic,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._store = store
        self._amendments = amendments
        self._services = services
        self._tree = tree
        self._now = now
        self._clock = clock
        self._sleep = sleep
        self._version = 0
        self._stamp = ""
        self._unreadable = 0
        self._in_step = clock()
        self._failing = ""
        self._failures = 0
        self.ready = False
        """Whether the replica can serve: the amendments were read, or cannot be expected to become readable.
        """
        self._tried = asyncio.Event()
        self._looking = asyncio.Lock()
        self._log = structlog.get_logger("ratelimit_service.amendments")

    @property
    def in_step(self) -> FollowerState:
        """Return the state of this replica."""
        return FollowerState(self._version, len(self._amendments), self.age_seconds, self._unreadable)

    @property
    def version(self) -> int:
        """Return the version of the amendments in force here."""
        return self._version

    @property
    def age_seconds(self) -> float:
        """Return the seconds since the amendments here were last confirmed to be those of the store; if
        never, since the start.
        """
        return self._clock() - self._in_step

    @property
    def unreadable(self) -> int:
        """Return how many amendments are not in force because only a later version of the service can read
        them.
        """
        return self._unreadable

    async def first_try(self) -> None:
        """Wait until the store was polled, so that the amendments apply to the first call."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._tried.wait(), _FIRST_TRY)

    async def run(self) -> None:
        """Follow until cancelled."""
        while True:
            await self.try_to_follow()
            self._tried.set()
            await self._sleep(EVERY)

    async def run_tidying(self) -> None:
        """Remove ended amendments until cancelled. No poll waits for this: it may read 50,000 of them."""
        while True:
            await self._sleep(_TIDIED_EVERY)
            await self.tidy()

    async def try_to_follow(self) -> None:
        """Follow once. If the store cannot be read, log the error, unless it is the same as the last one."""
        try:
            await self.follow()
        except StoreError as error:
            self._failures += 1
            if (
                isinstance(error, CounterRefused) or self._failures >= _GIVEN_UP_AFTER
            ):  # an ACL: a retry does not help
                self.ready = True
            if str(error) != self._failing:
                self._log.warning(
                    "the amendments cannot be read, and those known so far stay in force",
                    amendments=len(self._amendments),
                    error=str(error),
                )
            self._failing = str(error)
            return
        if self._failing:
            self._log.info("the amendments are read again", version=self._version)
        self._failing = ""
        self.ready = True

    async def follow(self) -> None:
        """Apply the changes in the store. Raises StoreError."""
        async with self._looking:
            news = await self._store.news(self._version, self._stamp)
            self._in_step = self._clock()
            if (news.version, news.stamp) == (self._version, self._stamp):
                return
            if news.whole:
                self._warn_of_loss(news)
                put = [one for one in news.put if self._amendments.get(one.id) != one]
                kept = {one.id for one in news.put}
                removed = [one.id for one in self._amendments if one.id not in kept]
                self._unreadable = news.unreadable
            else:
                put, removed = list(news.put), list(news.removed)
                self._unreadable += news.unreadable
            if len(put) + len(removed) <= _AT_ONCE:
                for _ in self._take_over(put, removed):
                    pass
            else:
                await in_slices(self._take_over(put, removed))
            self._version, self._stamp = news.version, news.stamp
            for service in self._services:
                service.apply_amendments()
            self._log.info(
                "amendments in force",
                version=news.version,
                amendments=len(self._amendments),
                put=len(put),
                removed=len(removed),
            )

    def _take_over(self, put: Iterable[Amendment], removed: Iterable[str]) -> Generator[None, None, None]:
        for amendment in put:
            self._amendments.put(amendment)
            yield
        for name in removed:
            self._amendments.remove(name)
            yield

    def _warn_of_loss(self, news: News) -> None:
        """Log an error if the store has lost changes, by a failover or because it came back empty."""
        if not self._version or news.version > self._version:
            return
        self._log.error(
            "the store has lost changes of the amendments: what it has now is in force",
            version_before=self._version,
            version=news.version,
            amendments_before=len(self._amendments),
            amendments=len(news.put),
        )

    async def tidy(self) -> None:
        """Remove amendments from the store that ended some time ago. The next poll removes them here."""
        ended: list[Amendment] = []
        await in_slices(self._find_ended(ended))
        with suppress(StoreError):  # the polls log it
            for amendment in ended[:_TIDIED_AT_ONCE]:
                await self._remove(amendment)

    def _find_ended(self, ended: list[Amendment]) -> Generator[None, None, None]:
        over = self._now() - _KEPT
        windows: dict[str, tuple[Window, ...]] = {}
        for amendment in self._amendments:
            domain = amendment.target.domain
            if amendment.windows and domain not in windows:
                windows[domain] = self._windows(domain)
            if end_for(amendment, windows.get(domain, ())) <= over:
                ended.append(amendment)
            yield

    def _windows(self, domain: str) -> tuple[Window, ...]:
        """Return the windows of the rules of a domain."""
        tree = self._tree()
        rules = tree.domains[domain].rules if tree is not None and domain in tree.domains else ()
        return tuple({limit.window for rule in rules for limit in rule.limits})

    async def _remove(self, amendment: Amendment) -> None:
        # All replicas do this at about the same time with the same key, so that only one of them removes it.
        ended = f"{amendment.id} {amendment.since} {amendment.until} {amendment.windows}"
        key = f"ended-{hashlib.sha256(ended.encode()).hexdigest()[:32]}"
        change = Change(key, AUTHOR, "it has ended", (Remove(amendment.id),), int(self._now()), (amendment,))
        with suppress(Conflict, InvalidRequest):  # it has been replaced meanwhile
            await self._store.apply(change)
