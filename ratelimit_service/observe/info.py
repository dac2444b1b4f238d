"""What a metric is: a line of the catalogue."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Kind(StrEnum):
    """The type of a metric, as the exposition format names it."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class MetricInfo(NamedTuple):
    """One metric: `upstream` where envoyproxy/ratelimit has it too, under this name and with these labels."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    meaning: str
    upstream: bool = False
