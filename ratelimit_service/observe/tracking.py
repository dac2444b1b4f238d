"""Gauges of the use of buckets: `track` of a rule.

A gauge shows the last count that this process has seen. Replicas that share a store see different counts; the
largest of them is the current one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from math import inf
from typing import NamedTuple

from ..core.budgets.forecasting import Forecast, Foreseen, ProfileOf, has_profile
from ..core.budgets.profile import Profile
from ..core.holds.planning import hold_key
from ..core.ledger.rule import LedgerRule
from ..core.matching import keys
from ..core.model import Descriptor, Limit, Rule, Tally, Use
from ..core.ordering import in_order
from ..core.text import excerpt
from ..core.windows.blocks import Spans
from ..core.windows.blocks import name as window_name
from .labels import path_label, rule_label
from .tables import OTHER, Sample, label

_EXAMINED = 2_000
"""Counters that one call of an eviction examines, in less than a millisecond."""

_USED = "ratelimit_service_budget_used"
_LIMIT = "ratelimit_service_budget_limit"
_HELD = "ratelimit_service_budget_held"
_RESET = "ratelimit_service_budget_seconds_to_reset"
_LENGTH = "ratelimit_service_budget_window_seconds"
_BURN = "ratelimit_service_budget_burn_per_second"
_RUNS_OUT = "ratelimit_service_budget_seconds_to_exhaustion"

GAUGES = (_USED, _LIMIT, _HELD, _RESET, _LENGTH, _BURN, _RUNS_OUT)
"""The metrics of tracked buckets."""


SHORTEST_FORECAST = 600
"""Seconds of the shortest window with a forecast: people cannot react within a shorter one, and its forecast
would change all the time."""

Noticed = Callable[[Rule, Use, Foreseen, int], None]
"""A callback for a window that runs out before it ends: the rule, the use, the forecast, and the time."""


FindProfile = Callable[[str, LedgerRule], Profile | None]
"""Returns the profile of a bucket with a ledger; None where there is none, or not yet."""


class _Labels(NamedTuple):
    domain: str
    rule: str
    path: str
    bucket: str
    window: str


class TrackedCounter(NamedTuple):
    """A counter as a process has last seen it, at `seen` seconds since 1970; `key` is its key.

    `held` are the tokens held of its bucket; -1 if its rule has no holds.
    """

    key: str
    labels: tuple[str, ...]
    limit: int
    used: int
    start: int
    end: int
    seen: float
    held: int = -1
    burn: float | None = None
    """The present use per second; None if it is not known."""
    runs_out: float = 0.0
    """When nothing is left, in seconds since 1970; 0 if that is not before the window ends."""

    @property
    def share(self) -> float:
        """The share of its limit that is used."""
        return self.used / self.limit if self.limit else inf


class _Row:
    """A window of a bucket: `used` of `limit`, from `start` until `end`, as seen at `seen`."""

    __slots__ = ("end", "forecast", "held", "holds", "labels", "limit", "seen", "start", "used")

    def __init__(self, labels: _Labels, limit: Limit, used: int, start: int, end: int, seen: float) -> None:
        self.labels = labels
        self.limit = limit
        self.used = used
        self.start = start
        self.end = end
        self.seen = seen
        self.holds = ""
        """The key of the holds of its bucket; empty if its rule has none."""
        self.held = -1
        self.forecast = Forecast(start, end) if end - start >= SHORTEST_FORECAST else None

    def is_running(self, now: float) -> bool:
        """Return whether its window has begun and not ended; a corrected clock can make it future."""
        return self.start <= now < self.end

    @property
    def share(self) -> float:
        return self.used / self.limit.amount if self.limit.amount else inf

    def tracked(self, key: str, now: float) -> TrackedCounter:
        """Return it as it was last seen, with its outlook at `now`."""
        used, limit = self.used, self.limit.amount
        found = self.forecast.outlook(now, used, limit) if self.forecast is not None else None
        return TrackedCounter(
            key,
            tuple(self.labels),
            limit,
            used,
            self.start,
            self.end,
            self.seen,
            self.held,
            found.burn if found is not None else None,
            found.runs_out if found is not None else 0.0,
        )


class Tracker:
    """Remembers the last counts of at most 2 × `most` counters, those with the largest shares used.

    Thread-safe for one thread that notes and one that reads samples.
    """

    def __init__(self, clock: Callable[[], float], most: int = 1_000) -> None:
        self._clock = clock
        self._most = most
        self._rows: dict[str, _Row] = {}
        self._spans = Spans()
        self._candidates: list[str] = []
        """The counters that an eviction has not examined yet, in reverse order."""
        self._line = -1.0
        self._ties = 0
        """Evict below the share `_line`, and at it all but `_ties` counters."""
        self.foreseen: Noticed | None = None
        """Called once for each window that runs out before it ends."""
        self.find_profile: FindProfile | None = None
        """Called some hundred times in a window, and once for each window in a scrape."""

    def __len__(self) -> int:
        return len(self._rows)

    def note(self, descriptor: Descriptor, tally: Tally) -> None:
        """Remember the uses of a decided descriptor."""
        for use in tally.uses:
            row = self._rows.get(use.key)
            if row is not None and row.limit is use.limit:
                row.used = use.after
                row.seen = self._clock()
            else:  # new, or after a reload, which may have renamed the limit
                row = self._enter(descriptor, tally, use, row)
            if row is not None and row.forecast is not None:
                found = row.forecast.note(row.seen, use.after, use.limit.amount)
                if found is not None and self.foreseen is not None:
                    self.foreseen(tally.rule, use, found, int(row.seen))

    def _enter(self, descriptor: Descriptor, tally: Tally, use: Use, before: _Row | None) -> _Row | None:
        if before is None and len(self._rows) >= 2 * self._most:
            self._evict()
            if len(self._rows) >= 2 * self._most:
                return None  # later calls continue the eviction
        labels = _Labels(
            label(tally.stat.domain),
            rule_label(tally.rule, use.limit),
            path_label(tally.rule),
            label(bucket_text(use.key, descriptor)),
            window_name(use.limit.window),
        )
        start = self._spans.at(use.limit.window, use.end - 1).start
        row = self._rows[use.key] = _Row(labels, use.limit, use.after, start, use.end, self._clock())
        if tally.rule.hold is not None:
            row.holds, row.held = hold_key(bucket_of(use.key)), 0
        if before is not None:
            row.forecast = before.forecast
        if row.forecast is not None:
            row.forecast.profile = self._profile_of(use.key, tally.rule, start, use.end)
        return row

    def _profile_of(self, key: str, rule: Rule, start: int, end: int) -> ProfileOf | None:
        if self.find_profile is None or rule.ledger is None or not has_profile(start, end):
            return None
        return partial(self.find_profile, bucket_of(key), rule.ledger)

    def _evict(self) -> None:
        """Evict counters without a running window, and those with the smaller shares; a part of them in each
        call.

        If there are more than one call examines, an evenly spread sample of them determines the line.
        """
        now, rows = self._clock(), self._rows
        if not self._candidates:
            self._candidates = list(rows)[::-1]
            seen = [rows[key] for key in self._candidates[:: -(-len(rows) // _EXAMINED)]]
            shares = sorted([row.share for row in seen if row.is_running(now)], reverse=True)
            kept = self._most * len(seen) // len(rows)
            self._line = shares[kept - 1] if len(shares) >= kept else -1.0
            above = sum([share > self._line for share in shares])
            self._ties = (kept - above) * len(rows) // len(seen)
        for _ in range(min(_EXAMINED, len(self._candidates))):
            key = self._candidates.pop()
            row = rows.get(key)
            if row is None:
                continue
            running = row.is_running(now)
            if running and row.share == self._line and self._ties:
                self._ties -= 1
            elif not running or row.share <= self._line:
                del rows[key]

    def hold_keys(self, since: float) -> list[str]:
        """Return the keys of the holds of buckets that were seen since `since`, or had held tokens."""
        rows = self._rows.values()
        return list(
            dict.fromkeys([row.holds for row in rows if row.holds and (row.seen >= since or row.held)])
        )

    def note_held(self, keys: Iterable[str], held: Mapping[str, int]) -> None:
        """Remember the held tokens under these keys: 0 for those that are not in `held`."""
        found = {key: held.get(key, 0) for key in keys}
        for row in self._rows.values():
            if row.holds in found:
                row.held = found[row.holds]

    def tracked(self) -> list[TrackedCounter]:
        """Return the counters with a running window."""
        now = self._clock()
        # dict.copy() is atomic, iteration is not.
        return [row.tracked(key, now) for key, row in self._rows.copy().items() if row.is_running(now)]

    def samples(self) -> Iterator[Sample]:
        """Yield the gauges of the `most` largest shares, and the sums of the others."""
        return gauges(self.tracked(), self._most, self._clock())


def gauges(rows: Iterable[TrackedCounter], most: int, now: float) -> Iterator[Sample]:
    """Yield the gauges of the `most` largest shares, and the sums of the others.

    Buckets with the same labels after cutting are one series, that of the larger share: a duplicate series
    would make Prometheus refuse the scrape.
    """
    shown: set[tuple[str, ...]] = set()
    others: dict[_Labels, list[int]] = {}
    for row in in_order(rows, lambda row: -row.share):
        if len(shown) < most and row.labels not in shown:
            shown.add(row.labels)
            labels = _Labels._make(row.labels)._asdict()
            yield Sample(_USED, labels, row.used)
            yield Sample(_LIMIT, labels, row.limit)
            if row.held >= 0:
                yield Sample(_HELD, labels, row.held)
            yield Sample(_RESET, labels, max(0.0, row.end - now))
            yield Sample(_LENGTH, labels, row.end - row.start)
            if row.burn is not None:
                yield Sample(_BURN, labels, round(row.burn, 6))
            if row.runs_out > now:
                yield Sample(_RUNS_OUT, labels, round(row.runs_out - now, 3))
        else:
            sums = others.setdefault(_Labels._make(row.labels)._replace(bucket=OTHER), [0, 0])
            sums[0] += row.used
            sums[1] += row.limit
    for other, (used, limit) in others.items():
        yield Sample(_USED, other._asdict(), used)
        yield Sample(_LIMIT, other._asdict(), limit)


def latest(of_all: Iterable[Iterable[TrackedCounter]]) -> list[TrackedCounter]:
    """Return each counter as it was seen last, in any process."""
    found: dict[str, TrackedCounter] = {}
    for rows in of_all:
        for row in rows:
            known = found.get(row.key)
            if known is None or (row.seen, row.used) > (known.seen, known.used):
                found[row.key] = row
    return list(found.values())


def bucket_of(key: str) -> str:
    """Return the bucket of a counter, which its key begins with."""
    return key[: key.rindex("}:") + 1]


def bucket_text(key: str, descriptor: Descriptor) -> str:
    """Return the bucket of a counter for people: its descriptor, `team=dba,model=x`, or the common part of
    the values that share it, `path=/api/*`.
    """
    bucket = bucket_of(key).rpartition("{")[2].rstrip("}").partition("|")[2]
    if bucket != "|".join([keys.entry_text(*entry) for entry in descriptor.entries]):
        return bucket.replace("|", ",")
    return ",".join(
        [f"{excerpt(key, keys.LONGEST)}={excerpt(value, keys.LONGEST)}" for key, value in descriptor.entries]
    )
