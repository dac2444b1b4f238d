"""The operations on limits while the service runs: override, top up, remove, reset, preview and audit.

Every change is written to the store first, with its author and reason. It then comes into force here at once,
and on the other replicas when they poll the store (follower.py). The API and the command line use this
module, and nothing below it.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import NamedTuple

import structlog

from ..core.amendments.index import MOST_STEPS, UNAMENDED, Amendments, Stack
from ..core.amendments.model import (
    Amendment,
    AuditLine,
    Change,
    ChangeResult,
    Edit,
    EditResult,
    Put,
    Remove,
    Reset,
    override,
    top_up,
)
from ..core.amendments.records import reset_to_json, to_json
from ..core.amendments.target import Target, exact_entries
from ..core.budgets.bucket import BucketNow, bucket_now
from ..core.budgets.no_effect import why_no_effect
from ..core.errors import InvalidRequest, StoreError
from ..core.matching import keys
from ..core.matching.tree import Match
from ..core.model import Entry, Hit
from ..core.windows.blocks import name as window_name
from ..ports import Clock, CounterStore, Outcome
from .follower import Follower, FollowerState, Tree
from .resetting import reset

MOST_AUDITED = 1_000
"""The most lines of the audit that are read at once."""

_PARTS = 5
"""The largest number of parts of the audit that are searched for a page of one domain."""

_SKEW = 86_400
"""Seconds by which the clocks of replicas may differ: lines are in the order of versions, and not of their
times.
"""


class Attribution(NamedTuple):
    """The author, the reason and the idempotency key of a change, which identifies it when it is sent
    again.
    """

    author: str
    reason: str
    key: str


def new_key() -> str:
    """Return an idempotency key for a change without one."""
    return uuid.uuid4().hex


class Operations:
    """Changes amendments and counters. `tree` returns the rules in force, `prefix` is CACHE_KEY_PREFIX."""

    def __init__(
        self,
        store: CounterStore,
        amendments: Amendments,
        follower: Follower,
        tree: Tree,
        prefix: str = "",
        now: Clock = time.time,
    ) -> None:
        self._store = store
        self._amendments = amendments
        self._follower = follower
        self._tree = tree
        self._prefix = prefix
        self._now = now
        self._log = structlog.get_logger("ratelimit_service.amendments")

    @property
    def in_step(self) -> FollowerState:
        """Return the state of the amendments on this replica."""
        return self._follower.in_step

    def all(self, domain: str = "") -> list[Amendment]:
        """Return the amendments in force here, of one domain or of all."""
        return [one for one in self._amendments if not domain or one.target.domain == domain]

    def amendment(self, name: str) -> Amendment | None:
        """Return the amendment with an id that is in force here."""
        return self._amendments.get(name)

    def make_override(
        self, by: Attribution, target: Target, amount: int, *, window: str = "", until: int = 0
    ) -> Put:
        """Return an edit that overrides a limit; 0 blocks. Raises InvalidRequest."""
        since = int(self._now())
        made = override(
            target, amount, window=window, until=until, since=since, author=by.author, reason=by.reason
        )
        return Put(made)

    def make_top_up(
        self,
        by: Attribution,
        target: Target,
        amount: int,
        *,
        window: str = "",
        until: int = 0,
        windows: int = 0,
    ) -> Put:
        """Return an edit that tops up a limit: until a given time, for `windows` windows, or (0) until its
        removal. Raises InvalidRequest.
        """
        since = int(self._now())
        made = top_up(
            target,
            amount,
            by.key,
            window=window,
            until=until,
            windows=windows,
            since=since,
            author=by.author,
            reason=by.reason,
        )
        return Put(made)

    async def apply(
        self,
        by: Attribution,
        edits: Sequence[Put | Remove],
        *,
        expected: Sequence[Amendment | None] | None = None,
        dry_run: bool = False,
    ) -> ChangeResult:
        """Apply edits together; with `dry_run`, only return what they would replace. Raises InvalidRequest,
        Conflict or StoreError.

        `expected` is what each edit should replace: if something else is in force, nothing is changed
        (Conflict). After a StoreError, it is unknown whether the change was applied; it can be sent again
        with the same key.
        """
        for edit in edits:
            if isinstance(edit, Put):
                self._check_steps(edit.amendment.target)
        return await self._apply(by, edits, expected, dry_run=dry_run)

    async def reset(
        self, by: Attribution, *targets: Target, window: str = "", dry_run: bool = False
    ) -> ChangeResult:
        """Set used to 0 for these buckets, in one window or all. Raises InvalidRequest or StoreError.

        EditResult.reset of the answer has what the counters held when they were deleted. The lines of the
        audit, which were written before, have what they held then.
        """
        counters = {target: self._counters_of(target, window) for target in targets}
        held = await self._held([key for keys_of_one in counters.values() for key in keys_of_one])
        edits = tuple(
            [
                Reset(target, window, tuple([(key, held[key]) for key in keys_of_one]))
                for target, keys_of_one in counters.items()
            ]
        )
        if dry_run:
            return await self._apply(by, edits, dry_run=True)
        change = Change(by.key, by.author, by.reason, edits, int(self._now()))
        markers = [
            marker
            for target, keys_of_one in counters.items()
            for marker in self._markers_of(target, keys_of_one)
        ]
        applied = await reset(self._store, change, markers)
        if not applied.replayed:
            for edited in applied.edits:
                self._log_edit(by, applied.version, edited)
        await self._follower.try_to_follow()
        return applied

    async def audit(self, before: int = 0, most: int = 100) -> Sequence[AuditLine]:
        """Return the edits before a version (0: all), the latest first, and never only a part of a change.

        Raises StoreError.
        """
        return await self._store.amendments.audit(before, max(1, min(most, MOST_AUDITED)))

    async def audit_of_domain(
        self, domain: str, since: int, until: int, before: int = 0
    ) -> tuple[Sequence[AuditLine], int]:
        """Return edits of a domain from `since` on and before `until`, the latest first, and the version
        before which the next page begins (0: there is none). A page can be empty although there are more.
        Raises StoreError.
        """
        found: list[AuditLine] = []
        for _ in range(_PARTS):
            lines = await self.audit(before, MOST_AUDITED)
            found += [
                line
                for line in lines
                if since <= line.at < until
                and (target := line.edited.target) is not None
                and target.domain == domain
            ]
            if len(lines) < MOST_AUDITED or lines[-1].at < since - _SKEW:
                return found, 0
            before = lines[-1].version
            if found:
                break
        return found, before

    def bucket(
        self, domain: str, entries: tuple[Entry, ...], edits: Sequence[Put | Remove] = ()
    ) -> BucketNow | None:
        """Return the limits of a descriptor in force on this replica; None if there are none.

        With `edits`, return the limits as they would be with these: for the preview of a change.
        """
        return self._bucket(domain, entries, self._stack(domain, entries, edits))

    async def without_effect(self, edits: Sequence[Put | Remove]) -> list[str]:
        """Return why edits change no limit now, for each that is known to change none."""
        tree, now = self._tree(), int(self._now())
        found = []
        for amendment in [edit.amendment for edit in edits if isinstance(edit, Put)]:
            domain, entries = amendment.target.domain, exact_entries(amendment.target)
            stack = self._stack(domain, entries, edits) if entries else UNAMENDED
            bucket = self._bucket(domain, entries, stack) if entries else None
            found.append((amendment, stack, bucket))
        # A thread: a pattern is compared with up to all rules of its domain.
        return await asyncio.to_thread(
            lambda: [text for each in found if (text := why_no_effect(tree, *each, now))]
        )

    def overrides_for(self, target: Target) -> list[Amendment]:
        """Return the overrides that apply to an exact target, the first one first."""
        entries = exact_entries(target)
        return list(self._stack(target.domain, entries).overrides) if entries else []

    def exceptions(self, amendment: Amendment) -> list[Amendment]:
        """Return the overrides that take precedence over an override by pattern or of a domain."""
        if amendment.target.exact:
            return []
        own = amendment.target.specificity
        return [
            one
            for one in self.all(amendment.target.domain)
            if one.id != amendment.id
            and one.kind is amendment.kind
            and (one.target.exact or one.target.specificity < own)
            and _may_overlap(one.target, amendment.target)
        ]

    async def _apply(
        self,
        by: Attribution,
        edits: Sequence[Edit],
        expected: Sequence[Amendment | None] | None = None,
        *,
        dry_run: bool,
    ) -> ChangeResult:
        now = int(self._now())
        wanted = None if expected is None else tuple(expected)
        change = Change(by.key, by.author, by.reason, tuple(edits), now, wanted)
        applied = await self._store.amendments.apply(change, dry_run=dry_run)
        if not dry_run:
            if not applied.replayed:
                for edited in applied.edits:
                    self._log_edit(by, applied.version, edited)
            await self._follower.try_to_follow()
        return applied

    def _log_edit(self, by: Attribution, version: int, edited: EditResult) -> None:
        log = self._log.bind(version=version, author=by.author, reason=by.reason, key=by.key)
        if edited.reset is not None:
            log.warning("reset", reset=reset_to_json(edited.reset))
            return
        log.warning(
            "amended",
            before=None if edited.before is None else to_json(edited.before),
            after=None if edited.after is None else to_json(edited.after),
        )

    def _check_steps(self, target: Target) -> None:
        """Raise InvalidRequest if finding amendments would take too long with another target of this form."""
        if not target.exact and self._amendments.steps(target) > MOST_STEPS:
            raise InvalidRequest(
                f"there are too many patterns like {target.text}: give more of the value before the first * "
                "or after the last"
            )

    def _stack(self, domain: str, entries: tuple[Entry, ...], edits: Sequence[Put | Remove] = ()) -> Stack:
        """Return the amendments of a descriptor, as they would be with `edits`."""
        tree = self._tree()
        rules = tree.domains.get(domain) if tree is not None else None
        if rules is not None:
            entries = rules.entries_of_bucket(entries)
        instead = {
            edit.id if isinstance(edit, Remove) else edit.amendment.id: None
            if isinstance(edit, Remove)
            else edit.amendment
            for edit in edits
        }
        return self._amendments.find(domain, entries, rules.limits if rules is not None else None, instead)

    def _bucket(self, domain: str, entries: tuple[Entry, ...], stack: Stack) -> BucketNow | None:
        match = self._match(domain, entries)
        if match is None or not match.rule.limits:
            return None
        bucket = keys.bucket(self._prefix, keys.domain_text(domain), match.bucket_entries)
        return bucket_now(match.rule, bucket, stack, int(self._now()))

    def _match(self, domain: str, entries: tuple[Entry, ...]) -> Match | None:
        tree = self._tree()
        return tree.match(domain, entries) if tree is not None else None

    def _markers_of(self, target: Target, counters: Iterable[str]) -> list[str]:
        """Return the keys of the markers of counters, which are deleted so that thresholds are reported
        again.
        """
        match = self._match(target.domain, _entries_of(target))
        shares = match.rule.warn_at if match is not None else ()
        percents = [f"{(Decimal(repr(share)) * 100).normalize():f}" for share in shares]
        return [keys.threshold_marker(key, percent) for key in counters for percent in percents]

    def _counters_of(self, target: Target, window: str) -> list[str]:
        """Return the keys of the counters that a reset deletes."""
        found = self.bucket(target.domain, _entries_of(target))
        if found is None:
            raise InvalidRequest(
                f"no rule limits {target.text} in {target.domain}: there is nothing to reset"
            )
        windows = [window_name(each.limit.window) for each in found.windows]
        if window and window not in windows:
            raise InvalidRequest(
                f"no window of {target.text} is called {window}: it has {', '.join(windows)}"
            )
        return [each.key for each, name in zip(found.windows, windows, strict=True) if window in ("", name)]

    async def _held(self, counters: Sequence[str]) -> dict[str, int | None]:
        """Return the values of counters; None stands for a value that is not a number."""
        answer: asyncio.Future[Sequence[Outcome]] = asyncio.get_running_loop().create_future()

        def on_outcomes(outcomes: Sequence[Outcome]) -> None:
            if not answer.done():
                answer.set_result(outcomes)

        self._store.hit([[Hit(key, 0, ttl=1) for key in counters]], on_outcomes)
        (outcome,) = await answer
        if isinstance(outcome, StoreError):
            raise outcome
        return {
            key: None if isinstance(count, StoreError) else count
            for key, count in zip(counters, outcome, strict=True)
        }


def _entries_of(target: Target) -> tuple[Entry, ...]:
    if not target.exact:
        raise InvalidRequest(f"a reset is for one descriptor, and {target.text} is for several: reset each")
    return exact_entries(target)


def _may_overlap(one: Target, other: Target) -> bool:
    """Return whether there may be buckets that both match."""
    if not one.entries or not other.entries:
        return True
    return [entry.key for entry in one.entries] == [entry.key for entry in other.entries]
