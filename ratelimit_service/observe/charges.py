"""The samples of charges, from the columns of a rule's row: their number, and a histogram of their size."""

from __future__ import annotations

from collections.abc import Iterator

from .columns import CHARGE_BOUNDS, CHARGE_SIZE, RULE_CHARGES, RULE_HITS, RULE_METRICS
from .tables import OTHER, Sample, Table, histogram

_SERIES = len(CHARGE_BOUNDS) + 3
"""Series of one histogram."""

_LABELS = ("domain", "path", "window")


class Charges:
    """The charges in `rules`. Histograms beyond `max_series` series are added up in one, whose labels are
    `other`.
    """

    def __init__(self, rules: Table[list[int]], max_series: int) -> None:
        self._rules = rules
        self._most = max(max_series // _SERIES, 1)
        self._shown: set[tuple[str, ...]] = set()
        """The labels of the histograms that have been shown: a series keeps its labels."""

    def numbers(self) -> Iterator[Sample]:
        """Yield the number of charges of each rule."""
        for labels, row, expected in self._rules.labelled():
            charges = sum(row[RULE_CHARGES:])
            if charges or RULE_CHARGES in expected:
                yield Sample(RULE_METRICS[RULE_CHARGES], labels, charges)

    def sizes(self) -> Iterator[Sample]:
        """Yield a histogram for each rule with charges.

        Their sum is the hits of the rule: both count the same charges. They are counted one after the other,
        so a scrape in another thread may see them differ by one charge.
        """
        rest: list[int] = []
        for labels, row, _ in self._rules.labelled():
            counts = row[RULE_CHARGES:]
            if not any(counts):
                continue
            names = tuple([labels.get(name, OTHER) for name in _LABELS])
            if names not in self._shown:
                if len(self._shown) >= self._most - 1:
                    found = [*counts, row[RULE_HITS]]
                    rest = (
                        [before + more for before, more in zip(rest, found, strict=True)] if rest else found
                    )
                    continue
                self._shown.add(names)
            yield from histogram(
                CHARGE_SIZE, dict(zip(_LABELS, names, strict=True)), CHARGE_BOUNDS, counts, row[RULE_HITS]
            )
        if rest:
            others = dict.fromkeys(_LABELS, OTHER)
            yield from histogram(CHARGE_SIZE, others, CHARGE_BOUNDS, rest[:-1], rest[-1])
