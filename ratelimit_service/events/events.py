"""Emits the events of one process, and delivers events in the process that leads."""

from __future__ import annotations

import asyncio
import ssl
import weakref
from collections.abc import Callable, Iterator, Sequence

import structlog

from ..core.errors import StartError, StoreError
from ..core.matching.tree import RuleTree
from ..core.text import printable
from ..ports import AmendmentStore, Clock, DroppedEvent, EventStore
from ..runtime.tasks import Background
from .current_receivers import CurrentReceivers
from .delivery import Delivery, open_for
from .emitting import Emitter
from .recipients import recipients

_AUDIT_EVERY = 1.0
"""Seconds between two checks of the audit of amendments."""

_STORE_EVERY = 0.5
"""Seconds between two checks of whether the store is reachable."""

_MOST_LINES = 200
"""Changes of limits that are noticed in one check."""

_RECEIVERS_EVERY = 2.0
"""Seconds between two checks of the files of receivers, and of the rules that name them."""

_NOTED_EVERY = 600.0
"""Seconds between two notes in the store of the receivers in use."""

_RULES_AT_ONCE = 2_000
_MOST_REPORTED = 20
"""Rules with unknown receivers that the log names after a change."""

_PAUSE = 2.0
"""Seconds before the next attempt after a failure of the store."""


class Events:
    """Emits and delivers.

    `version` returns the version of the amendments, `name` the name of this process, `reached` whether the
    store is reachable, and `rules` the rules in force.
    """

    def __init__(
        self,
        configured: CurrentReceivers,
        store: EventStore,
        amendments: AmendmentStore,
        version: Callable[[], int],
        clock: Clock,
        name: Callable[[], str],
        reached: Callable[[], bool],
        rules: Callable[[], RuleTree | None],
        cacert: str = "",
    ) -> None:
        self.emitter = Emitter(store, clock, name, lambda target: recipients(rules(), target), self._dropped)
        self._configured = configured
        self._store = store
        self._clock = clock
        self._name = name
        self._rules = rules
        self._amendments = amendments
        self._version = version
        self._reached = reached
        verify = None
        if cacert:
            try:
                verify = ssl.create_default_context(cafile=cacert)
            except (OSError, ssl.SSLError) as error:
                raise StartError(
                    f"EVENTS_CACERT: {cacert} cannot be used: {error.strerror or error}"
                ) from None
        self._verify = verify
        self._log = structlog.get_logger("ratelimit_service.events")
        self._leads: Background | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._before: list[Delivery] = []
        """The deliveries of removed receivers, for their counts."""
        self.deliveries: dict[str, Delivery] = {}
        """By the names of their receivers."""
        self._use_receivers()

    def keep(self, background: Background) -> None:
        """Emit from now on."""
        background.keep("events", self._emit)
        background.keep("events_store", self._watch_store)
        background.keep("events_receivers", self._follow_receivers)

    def lead(self, background: Background) -> None:
        """Deliver, and notice changes of limits, from now on: one process for all workers."""
        background.keep("events_audit", self._audit)
        background.keep("events_unused", self._forget_unused)
        self._leads = background
        self._use_receivers()

    def counts(self) -> Iterator[tuple[str, str, int]]:
        """Yield the receiver, the outcome and the number of deliveries."""
        found: dict[str, list[Delivery]] = {}
        for delivery in (*self._before, *self.deliveries.values()):
            found.setdefault(delivery.receiver.name, []).append(delivery)
        for name, several in found.items():
            yield name, "delivered", sum([each.delivered for each in several])
            yield name, "failed", sum([each.failures for each in several])
            yield name, "dropped", sum([each.dropped for each in several])
            yield name, "overflowed", sum([each.overflowed for each in several])

    def _dropped(self, events: Sequence[DroppedEvent]) -> None:
        for receiver, text in events:
            delivery = self.deliveries.get(receiver)
            if delivery is not None:  # the store has other receivers for a week
                delivery.overflow(text)

    async def _emit(self) -> None:
        # The store keeps events for a receiver from `open` on, so that comes first.
        await self._open([*self.deliveries])
        await self.emitter.run()

    async def _open(self, names: Sequence[str]) -> None:
        for name in names:
            await open_for(name, self._store, _PAUSE)

    async def _follow_receivers(self) -> None:
        """Use the receivers in the file, and report rules that name others."""
        checked: weakref.ref[RuleTree] | None = None  # rules that are replaced must not be kept
        while True:
            if await asyncio.to_thread(self._configured.refresh):
                names = {receiver.name for receiver in self._configured.receivers}
                await self._open(sorted(names - self.deliveries.keys()))
                self._use_receivers()
                checked = None
            rules = self._rules()
            if rules is not None and (checked is None or checked() is not rules):
                checked = weakref.ref(rules)
                await self._report_unknown(rules)
            del rules
            await asyncio.sleep(_RECEIVERS_EVERY)

    async def _forget_unused(self) -> None:
        """Note which receivers are in use, so that the store can forget those that no replica has."""
        while True:
            try:
                gone = await self._store.forget_unused(sorted(self.deliveries))
            except StoreError as error:
                if not self._reached():
                    await asyncio.sleep(_PAUSE)
                    continue
                self._log.warning("receivers that no replica has are kept in the store", error=str(error))
            else:
                if gone:
                    self._log.info(
                        "receivers that no replica has had for a week are forgotten", receivers=gone
                    )
            await asyncio.sleep(_NOTED_EVERY)

    def _use_receivers(self) -> None:
        """Deliver to the receivers of the settings, in the process that leads."""
        receivers = {receiver.name: receiver for receiver in self._configured.receivers}
        for name in self.deliveries.keys() - receivers.keys():
            self._before.append(self.deliveries.pop(name))
            task = self._tasks.pop(name, None)
            if task is not None:
                task.cancel()
        for name, receiver in receivers.items():
            delivery = self.deliveries.get(name)
            if delivery is None:
                delivery = Delivery(receiver, self._store, self._clock, self._name, self._verify)
                self.deliveries[name] = delivery
            delivery.receiver = receiver
            if self._leads is not None and name not in self._tasks:
                self._tasks[name] = self._leads.keep(f"events_{name}", delivery.run)

    async def _report_unknown(self, rules: RuleTree) -> None:
        """Log the rules whose `notify` names a receiver that does not exist."""
        found = 0
        for place, rule in enumerate(rules.rules):
            if not place % _RULES_AT_ONCE:
                await asyncio.sleep(0)
            unknown = [name for name in rule.notify or () if name not in self.deliveries]
            if unknown and found < _MOST_REPORTED:
                found += 1
                self._log.warning(
                    "a rule notifies receivers that do not exist",
                    rule=printable(str(rule.path)),
                    source=rule.source,
                    receivers=unknown,
                )

    async def _watch_store(self) -> None:
        before: bool | None = None
        while True:
            reached = self._reached()
            if before is not None or reached:  # at the start it is not reached yet
                if before is not None and before != reached:
                    self.emitter.store_is(reached)
                before = reached
            await asyncio.sleep(_STORE_EVERY)

    async def _audit(self) -> None:
        seen: int | None = None
        while True:
            version = self._version()
            if version != seen:
                try:
                    await self.emitter.audited(await self._amendments.audit(most=_MOST_LINES))
                    seen = version
                except StoreError:
                    pass
            await asyncio.sleep(_AUDIT_EVERY)
