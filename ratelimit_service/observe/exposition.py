"""Formats samples as Prometheus' text, a thousand at a time.

Ten thousand series are megabytes of text. Formatted in one call, they would be in memory several times over,
and the call would keep the GIL from other threads.

The lines of samples are written here, in the bytes that prometheus-client would write: it takes four times as
long, and calls wait for the GIL meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from .catalogue.all_metrics import BY_NAME
from .tables import Sample

_SAMPLES = 1_000
"""Samples in a chunk."""


_PLAIN = 1_000_000
"""Numbers from here on may be written with an exponent."""


class _Head(Collector):
    """A metric without samples, for prometheus-client."""

    def __init__(self, name: str) -> None:
        self._info = BY_NAME[name]

    def collect(self) -> Iterable[Metric]:
        """See prometheus_client."""
        return [Metric(self._info.name, self._info.meaning, self._info.kind.value)]


def family(name: str, samples: Iterable[Sample]) -> Iterator[bytes]:
    """Yield the text of a metric in chunks; nothing if there are no samples."""
    rest = iter(samples)
    forms: dict[tuple[str, ...], _Form] = {}
    head = True
    while lines := "".join([_line(sample, forms) for sample in islice(rest, _SAMPLES)]):
        if head:
            # prometheus-client adds `_total` to the name of a counter in these two lines; upstream has none.
            plain = name.encode()
            meaning, kind, _ = generate_latest(_Head(name)).split(b"\n")
            yield b"\n".join([line.replace(plain + b"_total", plain, 1) for line in (meaning, kind)]) + b"\n"
            head = False
        yield lines.encode()


class _Form:
    """The text of the labels with certain names, sorted, with a `%s` for each value."""

    __slots__ = ("names", "quotes", "text")

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = sorted(names)
        self.quotes = 2 * len(names)
        labels = ",".join([f'{name}="%s"' for name in self.names])
        self.text = f"{{{labels}}}" if labels else ""


def _line(sample: Sample, forms: dict[tuple[str, ...], _Form]) -> str:
    name, labels, value = sample
    names = (*labels,)
    form = forms.get(names)
    if form is None:
        form = forms[names] = _Form(names)
    text = form.text % tuple([labels[name] for name in form.names])
    if "\\" in text or "\n" in text or text.count('"') != form.quotes:
        text = form.text % tuple([_escaped(labels[name]) for name in form.names])
    if type(value) is int and 0 <= value < _PLAIN:
        return f"{name}{text} {value}.0\n"
    number: str = floatToGoString(value)  # type: ignore[no-untyped-call]  # prometheus-client has no type for it
    return f"{name}{text} {number}\n"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


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
