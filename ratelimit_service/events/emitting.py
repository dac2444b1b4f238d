"""Notices events, and puts them into the store, which keeps each of them once for all replicas.

    decisions, health ──▶ Emitter: a bounded queue ──▶ EventStore.emit(id, text)

Every replica that notices an event emits it, and the store keeps the first. So the event is kept even if one
of these replicas ends before it has emitted it.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence

import structlog

from ..core.amendments.model import AuditLine
from ..core.amendments.target import Target
from ..core.budgets.forecasting import Foreseen
from ..core.errors import StoreError
from ..core.model import Rule, Use
from ..core.rfc3339 import moment
from ..ports import Clock, DroppedEvent, EventStore
from .model import (
    AMENDED,
    EXHAUSTED,
    FORECAST,
    REACHABLE,
    REFUSED,
    THRESHOLD,
    UNREACHABLE,
    Event,
    event_text,
    identity,
)

MOST_WAITING = 1_000
"""Events that wait for the store; a further one replaces the oldest."""

_KEPT_LONGER = 3_600
"""Seconds that the store remembers an event beyond the end of its window, for replicas whose clock is
behind.
"""

_EVERY = 0.25
"""Seconds between two checks of the queue."""

_PAUSE = 2.0
"""Seconds before the next attempt after a failure of the store."""


Recipients = Callable[[Target], Awaitable[tuple[str, ...] | None]]
"""Returns the names of the receivers of the event of an amendment with this target; None for all
receivers.
"""


OnDropped = Callable[[Sequence[DroppedEvent]], None]
"""Is called with the events that the store dropped, if there are any."""


async def _everybody(target: Target) -> None:
    return None


def _ignore(dropped: Sequence[DroppedEvent]) -> None:
    pass


class Emitter:
    """Creates events from what a replica observes. `name` returns the name of the replica."""

    def __init__(
        self,
        store: EventStore,
        clock: Clock,
        name: Callable[[], str],
        recipients: Recipients = _everybody,
        on_dropped: OnDropped = _ignore,
    ) -> None:
        self._store = store
        self._recipients = recipients
        self._on_dropped = on_dropped
        self._clock = clock
        self._name = name
        self._waiting: deque[Event] = deque(maxlen=MOST_WAITING)
        self._away_since = 0.0
        self._audited: int | None = None
        self._log = structlog.get_logger("ratelimit_service.events")
        self.lost = 0
        """Events that were dropped because the store was unreachable for too long."""

    # Called when decisions are observed: a few microseconds, once for each bucket, window and threshold.

    def crossed(self, rule: Rule, use: Use, share: float, now: int) -> None:
        """Record that a share of a budget is used; from 1 on, that is the whole budget."""
        kind = EXHAUSTED if share >= 1 else THRESHOLD
        self._note(kind, rule, use, now, f"{share}", {"share": share})

    def refused(self, rule: Rule, use: Use, now: int) -> None:
        """Record the first refusal in a window."""
        self._note(REFUSED, rule, use, now, "", {})

    def foreseen(self, rule: Rule, use: Use, found: Foreseen, now: int) -> None:
        """Record that a window will be exhausted before it ends."""
        more: dict[str, float | str] = {
            "runs_out_at": moment(int(found.at)),
            "burn_per_second": round(found.burn, 6),
            "forecast_by": found.by,
        }
        self._note(FORECAST, rule, use, now, "", more)

    # Called by background tasks.

    def store_is(self, reached: bool) -> None:
        """Record that the store is unreachable, or reachable again."""
        now = self._clock()
        if reached and not self._away_since:
            return
        kind = REACHABLE if reached else UNREACHABLE
        data = {"replica": self._name()}
        if reached:
            data["unreachable_since"] = moment(self._away_since)
        self._away_since = 0.0 if reached else now
        self._put(Event(identity(kind, self._name(), f"{now}"), kind, "", "store", now, data))

    async def audited(self, lines: Sequence[AuditLine]) -> None:
        """Record the changes of limits in the lines of the audit (the latest first) that are new since the
        last call.
        """
        last = lines[0].version if lines else 0
        if self._audited is not None:
            earlier: Counter[tuple[int, str]] = Counter()
            for line in reversed(lines):
                if line.version > self._audited:
                    target = line.edited.target
                    notify = await self._recipients(target) if target is not None else None
                    which = line.version, line.edited.id
                    self._put(_amended(line, earlier[which], notify))
                    earlier[which] += 1
        self._audited = last

    async def run(self) -> None:
        """Put waiting events into the store until cancelled."""
        while True:
            while self._waiting:
                event = self._waiting[0]
                try:
                    dropped = (await self._store.emit(event.id, event.text, event.kept)).dropped
                except StoreError:
                    await asyncio.sleep(_PAUSE)
                    continue
                if dropped:
                    self._on_dropped(dropped)
                if self._waiting and self._waiting[0] is event:
                    self._waiting.popleft()
            await asyncio.sleep(_EVERY)

    def _note(
        self, kind: str, rule: Rule, use: Use, now: int, which: str, more: Mapping[str, float | str]
    ) -> None:
        bucket, window = _parts(use.key)
        domain = rule.path.domain
        data = {
            "domain": event_text(domain),
            "bucket": event_text(bucket),
            "rule": event_text(use.limit.name or rule.name or str(rule.path)),
            "window": window,
            "limit": use.limit.amount,
            "used": use.after,
            "resets_at": moment(use.end),
            **more,
        }
        kept = max(1, use.end - now) + _KEPT_LONGER
        self._put(Event(identity(kind, use.key, which), kind, domain, bucket, now, data, kept, rule.notify))

    def _put(self, event: Event) -> None:
        if len(self._waiting) == MOST_WAITING:
            self.lost += 1
        self._waiting.append(event)


def _parts(key: str) -> tuple[str, str]:
    """Return the bucket and the unit of a counter's key (`{domain|team=dba}:day:2026-11-28T00:00Z`)."""
    bucket, _, rest = key.rpartition("}:")
    return bucket.partition("{")[2] or key, rest.partition(":")[0]


def _amended(line: AuditLine, earlier: int, notify: tuple[str, ...] | None) -> Event:
    """Return the event of an edit. `earlier` is the number of edits with this id that its change made before
    it: all its resets have the id "", and it can put and remove one amendment. The audit never has a part of
    a change, so replicas count alike.
    """
    edited, target = line.edited, line.edited.target
    if edited.reset is not None:
        verb = "reset"
    elif edited.after is None:
        verb = "removed"
    else:
        verb = "block" if edited.after.blocks else edited.after.kind.value
    domain, text = (target.domain, event_text(target.text)) if target is not None else ("", "")
    data = {
        "verb": verb,
        "domain": event_text(domain),
        "target": text,
        "author": event_text(line.author),
        "reason": event_text(line.reason),
        "version": line.version,
    }
    if edited.after is not None:
        data["amount"] = edited.after.amount
    event_id = identity(AMENDED, f"{line.version}", edited.id, *([f"{earlier}"] if earlier else []))
    return Event(event_id, AMENDED, domain, edited.id or text, line.at, data, notify=notify)
