"""Tables of plain integers, and their samples."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from sys import getsizeof
from typing import Generic, NamedTuple, TypeVar

from ..core.text import fit
from .catalogue.all_metrics import BY_NAME

OTHER = "other"
"""The label value of everything beyond the bound."""

_LONGEST_LABEL = 200

_BUCKETS = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds in seconds: the defaults of Prometheus' clients, which upstream uses, and some below them."""


class Sample(NamedTuple):
    """A value of a series."""

    name: str
    labels: dict[str, str]
    value: float


def label(text: str) -> str:
    """Return `text` as the value of a label: a printable line of bounded length."""
    return fit(text, _LONGEST_LABEL)


class Histogram:
    """Values, durations by default, counted by upper bound, and their sum."""

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...] = _BUCKETS) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count a duration, `times` times."""
        self.counts[bisect_left(self._bounds, value)] += times
        self.sum += value * times

    def samples(self, name: str, labels: dict[str, str]) -> Iterator[Sample]:
        """Yield the samples."""
        return histogram(name, labels, self._bounds, self.counts, self.sum)


def histogram(
    name: str, labels: dict[str, str], bounds: Sequence[float], counts: Sequence[int], total: float
) -> Iterator[Sample]:
    """Yield the samples of a histogram, with cumulative counts as Prometheus has them."""
    below = 0
    for bound, count in zip((*map(str, bounds), "+Inf"), counts, strict=True):
        below += count
        yield Sample(f"{name}_bucket", {**labels, "le": bound}, below)
    yield Sample(f"{name}_count", labels, below)
    yield Sample(f"{name}_sum", labels, total)


_Row = TypeVar("_Row")

_BYTES_OF_A_ROW = 800
"""The bound on the mean memory of a row's labels, in bytes: callers choose some labels."""


def _bytes(names: tuple[str, ...]) -> int:
    return sum(map(getsizeof, names))


class Table(Generic[_Row]):
    """Rows by the values of their labels, at most `most`. The last row is for everything beyond.

    It is also used once the labels take more memory than `most` rows of ordinary length.
    """

    def __init__(self, metrics: Sequence[str], new: Callable[[], _Row], most: int) -> None:
        self.metrics = metrics
        self.rows: dict[tuple[str, ...], _Row] = {}
        self._expected: dict[tuple[str, ...], frozenset[int]] = {}
        self._labels = BY_NAME[metrics[0]].labels
        self._other = (OTHER,) * len(self._labels)
        self._new = new
        self._most = most
        self._room = most * _BYTES_OF_A_ROW

    def expect(self, names: tuple[str, ...], columns: Sequence[int] = (0,)) -> None:
        """Show these columns of a row even while they are 0. Does nothing if there is no room for the row."""
        names = tuple([label(name) for name in names])
        if names in self.rows or self._fits(names):
            self._find(names)
            self._expected[names] = frozenset(columns)

    def row(self, names: tuple[str, ...]) -> _Row:
        """Return the row of these label values, which may be fewer than the labels."""
        row = self.rows.get(names)
        return self._find(names) if row is None else row

    def _find(self, names: tuple[str, ...]) -> _Row:
        names = tuple([label(name) for name in names])
        if names not in self.rows:
            if not self._fits(names):
                names = self._other
            if names not in self.rows:
                self._room -= _bytes(names)
                self.rows[names] = self._new()
        return self.rows[names]

    def _fits(self, names: tuple[str, ...]) -> bool:
        """Return whether there is room for another row with these labels, apart from the last one."""
        return len(self.rows) < self._most - 1 and _bytes(names) <= self._room

    def labelled(self) -> Iterator[tuple[dict[str, str], _Row, frozenset[int]]]:
        """Yield every row with its labels, and the columns to show even while they are 0."""
        for names, row in self.rows.copy().items():
            yield dict(zip(self._labels, names, strict=False)), row, self._expected.get(names, frozenset())


def counters(metrics: Sequence[str], most: int, columns: int = 0) -> Table[list[int]]:
    """Return a table with a column for each of `metrics`, and further ones up to `columns`."""
    return Table(metrics, lambda: [0] * max(columns, len(metrics)), most)


def samples_of(table: Table[list[int]], column: int) -> Iterator[Sample]:
    """Yield the samples of a column."""
    name = table.metrics[column]
    for labels, row, expected in table.labelled():
        if row[column] or column in expected:
            yield Sample(name, labels, row[column])
