"""The metrics of several workers as those of one service (WORKERS).

A worker reports a snapshot: the samples of all its metrics, its tracked buckets, and the metrics of its
process. Counters and histograms are added up, so that a scrape shows all calls, whichever worker had them;
info.Join says it for each other metric. What a worker had counted stays in the sums when it ends: a counter
that falls is a restart to Prometheus, which would count everything that is left as new.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from .catalogue.all_metrics import BY_NAME, CATALOGUE
from .catalogue.metric_info import Join, Kind
from .exposition import Process, family
from .tables import Sample
from .tracking import GAUGES, TrackedCounter, gauges, latest

_CALLS = "ratelimit_service_total_requests"
_SHOULD_RATE_LIMIT = "ShouldRateLimit"
CPU = "process_cpu_seconds_total"
_START = "process_start_time_seconds"

_Series = tuple[str, tuple[tuple[str, str], ...]]
"""The name of a sample, and its labels."""
_Values = dict[_Series, float]


class Snapshot(NamedTuple):
    """What a worker reports. `families` has the samples of each metric, in the order of the catalogue."""

    families: Mapping[str, _Values]
    tracked: Sequence[TrackedCounter]
    process: Mapping[str, float]


def packed(
    families: Iterable[tuple[str, Iterable[Sample]]],
    tracked: Sequence[TrackedCounter],
    process: Mapping[str, float],
) -> bytes:
    """Return a snapshot as bytes. Slow with many series: call it in a thread."""
    values = {
        name: {(sample.name, tuple(sample.labels.items())): sample.value for sample in samples}
        for name, samples in families
        if name not in GAUGES
    }
    snapshot = {name: found for name, found in values.items() if found}, list(tracked), dict(process)
    return pickle.dumps(snapshot, pickle.HIGHEST_PROTOCOL)


def unpacked(data: bytes) -> Snapshot:
    """Return the snapshot in these bytes."""
    return Snapshot(*pickle.loads(data)) if data else Snapshot({}, (), {})  # noqa: S301  # from a worker


def departed_counts(before: bytes, last: bytes) -> bytes:
    """Return the counts of workers that have ended, including another one, whose last snapshot is `last`."""
    if not last:
        return before
    snapshots = [unpacked(before), unpacked(last)]
    counters = {info.name: _joined(info.name, snapshots) for info in CATALOGUE if info.kind is not Kind.GAUGE}
    cpu = sum(snapshot.process.get(CPU, 0.0) for snapshot in snapshots)
    return pickle.dumps(({name: values for name, values in counters.items() if values}, [], {CPU: cpu}))


def _joined(name: str, snapshots: Iterable[Snapshot]) -> _Values:
    """Return the values of a metric over all snapshots."""
    join = BY_NAME[name].join
    joined: _Values = {}
    for snapshot in snapshots:
        for series, value in snapshot.families.get(name, {}).items():
            before = joined.get(series)
            if before is None:
                joined[series] = value
            elif join is Join.MOST:
                joined[series] = max(before, value)
            elif join is Join.LEAST:
                joined[series] = min(before, value)
            else:
                joined[series] = before + value
    return joined


class MergedMetrics:
    """The metrics of all workers. `workers` has the snapshot of each by its number, `gone` is `departed`.

    `more` has the samples of the supervisor, `supervisor` its process, `most` is TRACK_MAX_BUCKETS. Like
    Metrics, its methods are slow with many series: iterate in a thread.
    """

    def __init__(
        self,
        workers: Mapping[int, bytes],
        gone: bytes,
        more: Sequence[Sample],
        supervisor: Process,
        most: int,
    ) -> None:
        self._workers = workers
        self._gone = gone
        self._more = more
        self._supervisor = supervisor
        self._most = most

    def chunks(self) -> Iterator[bytes]:
        """Yield all metrics in chunks of Prometheus' text format 0.0.4."""
        for name, samples in self.families():
            yield from family(name, samples)
        yield self._supervisor.text(self.process())

    def counters(self) -> Iterator[Sample]:
        """Yield every counter and gauge."""
        for name, samples in self.families():
            if BY_NAME[name].kind is not Kind.HISTOGRAM:
                yield from samples

    def families(self) -> Iterator[tuple[str, Iterable[Sample]]]:
        """Yield the samples of each metric, in the order of the catalogue."""
        running = {number: unpacked(data) for number, data in self._workers.items()}
        snapshots = [*running.values(), unpacked(self._gone)]
        single: dict[str, list[Sample]] = {}
        tracked = gauges(latest(each.tracked for each in running.values()), self._most, time.time())
        for sample in (*tracked, *self._more, *_by_worker(running)):
            single.setdefault(sample.name, []).append(sample)
        for info in CATALOGUE:
            joined = _joined(info.name, snapshots)
            yield (
                info.name,
                single.get(info.name) or [Sample(n, dict(ls), value) for (n, ls), value in joined.items()],
            )

    def process(self) -> dict[str, float]:
        """Return the metrics of all processes together."""
        all_of = [
            self._supervisor.values(),
            *[unpacked(data).process for data in (*self._workers.values(), self._gone)],
        ]
        total: dict[str, float] = {}
        for values in all_of:
            for name, value in values.items():
                if name == _START:
                    total[name] = min(value, total.get(name, value))
                else:
                    total[name] = total.get(name, 0.0) + value
        return total


def _by_worker(running: Mapping[int, Snapshot]) -> Iterator[Sample]:
    for number, snapshot in sorted(running.items()):
        label = {"worker": str(number)}
        calls = snapshot.families.get(_CALLS, {}).get((_CALLS, (("grpc_method", _SHOULD_RATE_LIMIT),)), 0)
        yield Sample("ratelimit_service_worker_calls", label, calls)
        yield Sample("ratelimit_service_worker_cpu_seconds", label, snapshot.process.get(CPU, 0.0))
