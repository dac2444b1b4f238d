"""A line of the catalogue of metrics."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Kind(StrEnum):
    """The type of a metric, by its name in the exposition format."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Join(StrEnum):
    """How the values that the workers have for a series become one (WORKERS; merging.py).

    Counters that every worker counts for the same event, such as a load of the rules, are the largest of
    them.
    """

    SUM = "sum"
    MOST = "most"
    LEAST = "least"


class MetricInfo(NamedTuple):
    """A metric. `upstream`: envoyproxy/ratelimit has it under this name, with these labels."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    meaning: str
    upstream: bool = False
    join: Join | None = None
    """None: the sum. Every gauge names one."""
