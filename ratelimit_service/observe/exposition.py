"""Samples as Prometheus' text, a few thousand at a time.

Ten thousand series of a metric are megabytes. Written in one call they would be held several times over, and some of these
calls keep every other thread waiting.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from .catalogue import BY_NAME
from .tables import Sample

_SAMPLES = 1_000
"""Samples of a chunk."""


class _Some(Collector):
    """Some of the samples of a metric, as prometheus-client takes them."""

    def __init__(self, name: str, samples: Iterable[Sample]) -> None:
        info = BY_NAME[name]
        self._metric = Metric(info.name, info.meaning, info.kind.value)
        for sample in samples:
            self._metric.add_sample(*sample)

    def collect(self) -> Iterable[Metric]:
        """See prometheus_client."""
        return [self._metric]


def family(name: str, samples: Iterable[Sample]) -> Iterator[bytes]:
    """The text of a metric in chunks; nothing where there are no samples."""
    rest = iter(samples)
    head = True
    while some := list(islice(rest, _SAMPLES)):
        meaning, kind, lines = generate_latest(_Some(name, some)).split(b"\n", 2)
        if head:
            # prometheus-client writes these two lines of a counter with `_total` behind the name; upstream has none.
            plain = name.encode()
            yield b"\n".join([line.replace(plain + b"_total", plain, 1) for line in (meaning, kind)]) + b"\n"
            head = False
        yield lines


class Process:
    """The metrics of the process itself: CPU, memory, open files."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self._registry)

    def text(self) -> bytes:
        """All of them, as text."""
        return generate_latest(self._registry)
