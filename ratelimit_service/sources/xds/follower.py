"""Follows one control plane: connects, puts its sets in force, answers, and reconnects."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

import structlog

from ...core.errors import Problem
from ...core.text import fit, printable
from ...ports import ChangeOutcome, RuleChange, Rules
from .backoff import Allowance, Backoff
from .cache import Cache
from .call import End
from .clock import Clock
from .link import DiscoveryCall, DiscoveryEnded, Unreachable
from .overlays import Overlays
from .reading import StoredResource, reading, stored_resources
from .response import TYPE_URL, Group, Malformed, OpenedResponse, open_response
from .server import Server
from .spool import Spool
from .status import ControlPlaneStatus
from .subscription import Answer, Subscription

_FIRST_RETRY, _LAST_RETRY = 1.0, 60.0
"""The first and the longest pause before a set is read again, after a failure that may pass, in seconds."""

_SOON = 1.0
"""The longest pause after a call that lasted _WENT_WELL seconds, in seconds."""

_WENT_WELL = 30.0

_SPEAKS_WITHIN = 15.0
"""Seconds until a silent control plane is logged: it never answers a node id that it does not know."""

_SETS_AT_ONCE, _BETWEEN_SETS = 20, 1.0
"""Sets that are read without a pause, and the seconds between further ones. A control plane whose sets are
different each time gets no pause between its rejections, and would keep both sides busy for ever.
"""

_LONGEST_VERSION = 100
"""Characters of a version, or of a type, that are shown."""

_MOST_NAMED = 10
"""The most domains that a log line names."""


class Options(NamedTuple):
    """The settings of a follower. `version` is that of this service."""

    version: str
    grace: float
    strict: bool
    cache: Cache | None


class Follower:
    """Follows one control plane. `overlays` returns the present overlays."""

    def __init__(
        self,
        server: Server,
        rules: Rules,
        connect: Callable[[], Awaitable[DiscoveryCall]],
        backoff: Backoff,
        clock: Clock,
        overlays: Callable[[], Overlays],
        options: Options,
    ) -> None:
        self._server = server
        self._rules = rules
        self._connect = connect
        self._backoff = backoff
        self._clock = clock
        self._overlays = overlays
        self._strict = options.strict
        self._cache = options.cache
        self._subscription = Subscription(server, options.version, options.grace)
        self._taking = asyncio.Lock()
        self._news = asyncio.Event()
        self._last: OpenedResponse | None = None
        """The last response of this call."""
        self._due: Answer | None = None
        self._due_at = 0.0
        self._rejects = False
        """Whether the last answer is a rejection."""
        self._retry: OpenedResponse | None = None
        self._retry_at = self._pause = 0.0
        self._allowance = Allowance(_SETS_AT_ONCE, _BETWEEN_SETS)
        self._saving = asyncio.Lock()
        self._saved = b""
        self._silent_at: float | None = None
        self._log = structlog.get_logger(__name__).bind(server=server.name)
        self.standing = ControlPlaneStatus(server.name)

    async def restore(self) -> None:
        """Put the last good set in force, if a file has it."""
        kept = await asyncio.to_thread(self._cache.load) if self._cache is not None else None
        if kept is None or not kept.received.groups:
            return
        async with self._taking:
            if not await self._read(list(kept.received.groups.values()), frozenset()):
                return
            self._saved = self._subscription.digest
            self.standing.accepted_at = self.standing.stale_since = kept.taken_at
            await self._show()
        self._log.warning(
            "the rules of a file are in force until the control plane sends a set",
            file=str(self._cache.path if self._cache else ""),
            domains=len(self._subscription.held),
        )

    async def run(self) -> None:
        """Follow the control plane until cancelled."""
        while True:
            began = self._clock.monotonic()
            try:
                call = await self._connect()
            except Unreachable as error:
                self.standing.away(self._clock.wall(), "UNAVAILABLE", str(error))
                await self._clock.sleep(self._backoff.pause())
                continue
            went_well = False
            self._silent_at = began + _SPEAKS_WITHIN
            self.standing.here(self._clock.wall())
            try:
                await self._converse(call)
            except DiscoveryEnded as error:
                went_well = self._last is not None
                self.standing.away(self._clock.wall(), error.end.code, error.end.why)
            finally:
                call.close()
                self._last = self._due = self._retry = None
            if went_well and self._clock.monotonic() - began >= _WENT_WELL:
                await self._clock.sleep(self._backoff.soon(_SOON))
            else:
                await self._clock.sleep(self._backoff.pause())

    async def overlaid(self) -> bool:
        """Read all groups again with the present overlays. Return False if this should be tried again."""
        async with self._taking:
            groups = self._subscription.everything()
            if groups and not await self._read(groups, frozenset()):
                return False
            if self._rejects and self._last is not None:
                self._subscription.reconsider()
                self._retry, self._retry_at = self._last, self._clock.monotonic()
            await self._show()
        await self._save()
        self._news.set()
        return True

    async def _converse(self, call: DiscoveryCall) -> None:
        """Receive and answer sets. Raises DiscoveryEnded."""
        call.send(self._subscription.begin())
        receiving = asyncio.create_task(call.receive())
        try:
            while True:
                await self._wait(receiving)
                now = self._clock.monotonic()
                if receiving.done() and (receiving.exception() or not self._allowance.wait(now)):
                    message = receiving.result()
                    receiving = asyncio.create_task(call.receive())
                    await self._received(message)
                elif self._retry is not None and now >= self._retry_at:
                    await self._take(self._retry)
                elif gone := self._subscription.gone(now):
                    await self._drop(gone)
                if self._silent_at is not None and self._clock.monotonic() >= self._silent_at:
                    self._silent_at = None
                    self._log.warning(
                        "the control plane is connected and sends nothing: does it know the node id?",
                        node_id=self._server.node_id,
                    )
                if self._due is not None and self._clock.monotonic() >= self._due_at:
                    call.send(self._due.request)
                    self._due = None
                await self._save()
        finally:
            receiving.cancel()
            await asyncio.gather(receiving, return_exceptions=True)

    async def _wait(self, receiving: asyncio.Task[Spool]) -> None:
        """Wait for a message, for the time of the next step, or for `_news`."""
        moments = [
            self._due_at if self._due is not None else None,
            self._retry_at if self._retry is not None else None,
            self._subscription.next_end(),
            self._silent_at,
        ]
        waiting: set[asyncio.Future[Any]] = {asyncio.ensure_future(self._news.wait())}
        now = self._clock.monotonic()
        if receiving.done() and not receiving.exception() and (wait := self._allowance.wait(now)):
            moments.append(now + wait)
        else:
            waiting.add(receiving)
        next_moment = min([moment for moment in moments if moment is not None], default=None)
        if next_moment is not None:
            pause = max(0.0, next_moment - now)
            waiting.add(asyncio.ensure_future(self._clock.sleep(pause)))
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._news.clear()
            for task in waiting - {receiving}:
                task.cancel()

    async def _received(self, message: Spool) -> None:
        self._due = self._retry = self._silent_at = None
        self._pause = 0.0
        self._allowance.use(self._clock.monotonic())
        self.standing.response_bytes = message.size
        self.standing.answered_at = self._clock.wall()
        try:
            received = await asyncio.to_thread(open_response, message)
        except Malformed as error:
            # Without a nonce, there is no answer.
            self._log.error("the control plane sends malformed responses", error=str(error))
            raise DiscoveryEnded(End("INTERNAL", f"its response is malformed: {error}")) from None
        self._last = received
        if received.type_url != TYPE_URL:
            answer = self._subscription.foreign(received)
            if not answer.pause:
                self._log.error(
                    "the control plane sends resources of another type",
                    type=fit(received.type_url, _LONGEST_VERSION),
                )
            self.standing.responses["rejected"] += 1
            self._answer(answer)
            return
        await self._take(received)

    async def _take(self, received: OpenedResponse) -> None:
        """Put the correct domains of a set in force, and prepare the answer."""
        self._retry = None
        async with self._taking:
            subscription, now = self._subscription, self._clock.monotonic()
            before = subscription.digest
            groups, gone = await asyncio.to_thread(self._compare, received, now)
            # An empty first set is a configuration, too.
            first = not (self.standing.generation or subscription.refused)
            if (groups or gone or first) and not await self._read(groups, gone):
                self._retry = received
                self._pause = min(max(2 * self._pause, _FIRST_RETRY), _LAST_RETRY)
                self._retry_at = self._clock.monotonic() + self._pause
                return
            answer = await asyncio.to_thread(self._settle, received, now)
            if not answer.rejects:
                self.standing.version = fit(received.version, _LONGEST_VERSION)
            changed = before != subscription.digest
            outcome = "rejected" if answer.rejects else "accepted" if changed else "unchanged"
            self.standing.responses[outcome] += 1
            self.standing.stale_since = 0.0
            self._backoff.reset()
            self._answer(answer)
            await self._show()

    async def _drop(self, gone: frozenset[str]) -> None:
        async with self._taking:
            await self._read([], gone)
            await self._show()

    async def _read(self, groups: Sequence[Group], gone: frozenset[str]) -> bool:
        """Read groups, and put the correct ones in force. Return False if this should be tried again."""
        overlays = self._overlays()
        resources, change = await asyncio.to_thread(self._change, groups, gone, overlays)
        taken = await self._rules.change(change)
        if taken.again:
            return False
        refused = bool(taken.problems) and self._strict
        if gone and not refused:
            self._warn("the rules of missing domains have ended", await asyncio.to_thread(sorted, gone))
            await asyncio.to_thread(self._subscription.drop, gone)
        problems = await asyncio.to_thread(by_domain, taken, resources, overlays)
        if not refused:
            for resource in resources:
                if resource.domain not in taken.accepted and resource.domain not in problems:
                    problems[resource.domain] = (
                        Problem(resource.name, 0, "domain", "occurs twice, or behind other fields"),
                    )
        record = self._subscription.take
        changed = await asyncio.to_thread(record, groups, taken.accepted, problems) or bool(gone)
        if changed or not (self.standing.generation or taken.problems):
            self.standing.generation += 1
            self.standing.accepted_at = self._clock.wall()
        return True

    # What follows takes a while for thousands of domains, and runs in a thread, with the lock.

    def _compare(self, received: OpenedResponse, now: float) -> tuple[list[Group], frozenset[str]]:
        """Return the groups of a set that must be read, and the domains that end now."""
        subscription = self._subscription
        if not self._strict:
            self._miss(received, now)
        repeats = self._strict and subscription.repeats(received)
        return [] if repeats else subscription.wanted(received), subscription.gone(now)

    def _miss(self, received: OpenedResponse, now: float) -> None:
        missed, gone = self._subscription.miss(received, now), self._subscription.gone(now)
        if lasting := [domain for domain in missed if domain not in gone]:
            self._warn("domains are missing from the set: their rules end after the grace period", lasting)

    def _change(
        self, groups: Sequence[Group], gone: frozenset[str], overlays: Overlays
    ) -> tuple[Sequence[StoredResource], RuleChange]:
        """Return the resources of groups, and the change that reads them."""
        resources = stored_resources(self._server.name, groups)
        files = tuple({resource.fd for resource in resources})
        domains = frozenset([group.domain for group in groups])
        read = reading(resources, overlays) if resources else None
        return resources, RuleChange(read, files, domains, gone, self._strict)

    def _settle(self, received: OpenedResponse, now: float) -> Answer:
        """Return the answer to a set whose groups have been read."""
        with contextlib.suppress(OSError):  # no file descriptors or memory: the next set is the next attempt
            self._subscription.compact()
        if self._strict and not self._subscription.problems:
            self._miss(received, now)
        return self._subscription.settle(received, self._hidden(received))

    def _hidden(self, received: OpenedResponse) -> list[Problem]:
        return [problem for domain, problem in self._rules.hidden().items() if domain in received.groups]

    def _shown(self) -> list[Problem]:
        """Update the status, and return all problems."""
        hidden = self._hidden(self._last) if self._last is not None else []
        problems = [*self._subscription.problems, *hidden]
        self.standing.show(self._subscription, problems)
        return problems

    async def _show(self) -> None:
        self._rules.blame(await asyncio.to_thread(self._shown))

    def _answer(self, answer: Answer) -> None:
        self._rejects = answer.rejects
        self._due, self._due_at = answer, self._clock.monotonic() + answer.pause

    async def _save(self) -> None:
        async with self._saving:
            await self._save_now()

    async def _save_now(self) -> None:
        digest = self._subscription.digest
        if self._cache is None or digest == self._saved:
            return
        self._saved = digest  # also after a failure: the next change is the next attempt
        try:
            await asyncio.to_thread(
                self._cache.save, dict(self._subscription.held), self.standing.accepted_at
            )
        except OSError as error:
            self._log.error(
                "the set cannot be saved: a start without the control plane would have no rules",
                file=str(self._cache.path),
                error=error.strerror or str(error),
            )

    def _warn(self, event: str, domains: Sequence[str]) -> None:
        named_ones = ", ".join(map(printable, domains[:_MOST_NAMED]))
        more = f" and {len(domains) - _MOST_NAMED} more" if len(domains) > _MOST_NAMED else ""
        self._log.warning(event, domains=named_ones + more)


def by_domain(
    taken: ChangeOutcome, resources: Sequence[StoredResource], overlays: Overlays
) -> dict[str, tuple[Problem, ...]]:
    """Return the problems of a change by the domain of their resource or overlay."""
    owners = {resource.name: resource.domain for resource in resources}
    owners |= {document.file: domain for domain, document in overlays.items()}
    problems: dict[str, list[Problem]] = {}
    for problem in taken.problems:
        problems.setdefault(owners.get(problem.file, ""), []).append(problem)
    return {domain: tuple(found) for domain, found in problems.items()}
