"""How much of each bucket is used, as gauges: `track` of a rule.

What is shown is what this process has last seen of a counter. Replicas that share a store each have seen some of it, so
the truth is the largest of what they show.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import inf
from typing import NamedTuple

from ..core.matching import keys
from ..core.model import Descriptor, Limit, Tally, Use, Window
from ..core.text import excerpt
from ..core.windows.blocks import name as window_name
from ..core.windows.blocks import span_at
from .metrics import path_label, rule_label
from .tables import OTHER, Sample, label

_USED = "ratelimit_service_budget_used"
_LIMIT = "ratelimit_service_budget_limit"
_RESET = "ratelimit_service_budget_seconds_to_reset"
_LENGTH = "ratelimit_service_budget_window_seconds"


class _Labels(NamedTuple):
    domain: str
    rule: str
    path: str
    bucket: str
    window: str


class _Row:
    """One window of one bucket: until `end`, `used` of `limit` is used."""

    __slots__ = ("end", "labels", "limit", "used")

    def __init__(self, labels: _Labels, limit: Limit, used: int, end: int) -> None:
        self.labels = labels
        self.limit = limit
        self.used = used
        self.end = end

    @property
    def share(self) -> float:
        return self.used / self.limit.amount if self.limit.amount else inf


class Tracker:
    """Remembers what was last seen of at most 2 × `most` counters, those with the largest share used.

    `clock` tells which windows are over. Samples may be taken in another thread than the one that notes.
    """

    def __init__(self, clock: Callable[[], float], most: int = 1_000) -> None:
        self._clock = clock
        self._most = most
        self._rows: dict[str, _Row] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def note(self, descriptor: Descriptor, tally: Tally) -> None:
        """One limited descriptor was decided."""
        for use in tally.uses:
            row = self._rows.get(use.key)
            if row is not None and row.limit is use.limit:
                row.used = use.after
            else:  # new, or the rules have been loaded anew and may call it something else
                self._enter(descriptor, tally, use)

    def _enter(self, descriptor: Descriptor, tally: Tally, use: Use) -> None:
        if use.key not in self._rows and len(self._rows) >= 2 * self._most:
            self._rows = dict(self._by_share()[: self._most])
        labels = _Labels(
            label(tally.stat.domain),
            rule_label(tally.rule, use.limit),
            path_label(tally.rule),
            label(bucket_text(use.key, descriptor)),
            window_name(use.limit.window),
        )
        self._rows[use.key] = _Row(labels, use.limit, use.after, use.end)

    def _by_share(self) -> list[tuple[str, _Row]]:
        """The counters whose window is not over, by key, the largest share first."""
        now = self._clock()
        # A copy, because that cannot be interrupted and what is below it can.
        running = [(key, row) for key, row in self._rows.copy().items() if row.end > now]
        return sorted(running, key=lambda one: one[1].share, reverse=True)

    def samples(self) -> Iterator[Sample]:
        """The gauges of the `most` largest shares, and the sums of the others.

        Two buckets that look the same once they are cut are one series, that of the larger share; a series that is there
        twice would make a scrape unreadable.
        """
        now = self._clock()
        lengths: dict[tuple[Window, int], int] = {}
        shown: set[_Labels] = set()
        others: dict[_Labels, list[int]] = {}
        for _, row in self._by_share():
            if len(shown) < self._most and row.labels not in shown:
                shown.add(row.labels)
                labels = row.labels._asdict()
                yield Sample(_USED, labels, row.used)
                yield Sample(_LIMIT, labels, row.limit.amount)
                yield Sample(_RESET, labels, max(0.0, row.end - now))
                window = row.limit.window, row.end
                if window not in lengths:
                    lengths[window] = row.end - span_at(row.limit.window, row.end - 1).start
                yield Sample(_LENGTH, labels, lengths[window])
            else:
                sums = others.setdefault(row.labels._replace(bucket=OTHER), [0, 0])
                sums[0] += row.used
                sums[1] += row.limit.amount
        for other, (used, limit) in others.items():
            yield Sample(_USED, other._asdict(), used)
            yield Sample(_LIMIT, other._asdict(), limit)


def bucket_text(key: str, descriptor: Descriptor) -> str:
    """The bucket of a counter for people: its descriptor, `team=dba,model=x`, or what the values that share it have in
    common, `path=/api/*`."""
    bucket = key.rpartition("}:")[0].rpartition("{")[2].partition("|")[2]
    if bucket != "|".join([keys.part(*entry) for entry in descriptor.entries]):
        return bucket.replace("|", ",")
    return ",".join(
        [f"{excerpt(key, keys.LONGEST)}={excerpt(value, keys.LONGEST)}" for key, value in descriptor.entries]
    )
