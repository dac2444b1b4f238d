"""Formats samples as Prometheus' text, a thousand at a time.

Ten thousand series are megabytes of text. Formatted in one call, they would be in memory several times over,
and the call would keep the GIL from other threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from .catalogue.all_metrics import BY_NAME
from .tables import Sample

_SAMPLES = 1_000
"""Samples in a chunk."""


class _Some(Collector):
    """Some samples of a metric, for prometheus-client."""

    def __init__(self, name: str, samples: Iterable[Sample]) -> None:
        info = BY_NAME[name]
        self._metric = Metric(info.name, info.meaning, info.kind.value)
        for sample in samples:
            self._metric.add_sample(*sample)

    def collect(self) -> Iterable[Metric]:
        """See prometheus_client."""
        return [self._metric]


def family(name: str, samples: Iterable[Sample]) -> Iterator[bytes]:
    """Yield the text of a metric in chunks; nothing if there are no samples."""
    rest = iter(samples)
    head = True
    while some := list(islice(rest, _SAMPLES)):
        meaning, kind, lines = generate_latest(_Some(name, some)).split(b"\n", 2)
        if head:
            # prometheus-client adds `_total` to the name of a counter in these two lines; upstream has none.
            plain = name.encode()
            yield b"\n".join([line.replace(plain + b"_total", plain, 1) for line in (meaning, kind)]) + b"\n"
            head = False
        yield lines


class Process:
    """The metrics of a process: CPU, memory, open files. `pid` returns its id; by default it is this one."""

    def __init__(self, pid: Callable[[], int] | None = None) -> None:
        self._collector = ProcessCollector(pid=pid or (lambda: "self"), registry=CollectorRegistry())

    def values(self) -> dict[str, float]:
        """Return the values by the name of the sample."""
        return {
            sample.name: sample.value for metric in self._collector.collect() for sample in metric.samples
        }

    def text(self, values: Mapping[str, float] | None = None) -> bytes:
        """Return their text, with other values if some are given."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Given(self._collector, values))
        return generate_latest(registry)


class _Given(Collector):
    """The metrics of a collector, with other values if some are given."""

    def __init__(self, collector: Collector, values: Mapping[str, float] | None) -> None:
        self._collector = collector
        self._values = values

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client."""
        for metric in self._collector.collect():
            if self._values is not None:
                metric.samples = [
                    sample._replace(value=self._values.get(sample.name, sample.value))
                    for sample in metric.samples
                ]
            yield metric
