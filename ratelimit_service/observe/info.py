"""A line of the catalogue of metrics."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Kind(StrEnum):
    """The type of a metric, by its name in the exposition format."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class MetricInfo(NamedTuple):
    """A metric. `upstream`: envoyproxy/ratelimit has it under this name, with these labels."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    meaning: str
    upstream: bool = False
