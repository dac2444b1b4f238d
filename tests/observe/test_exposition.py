"""Prometheus' text in chunks is what prometheus-client writes in one piece."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st
from prometheus_client import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from ratelimit_service.observe.catalogue.all_metrics import BY_NAME
from ratelimit_service.observe.exposition import family
from ratelimit_service.observe.metrics import Metrics
from ratelimit_service.observe.tables import Sample

HITS = "ratelimit_service_rate_limit_total_hits"


class Whole(Collector):
    """A collector with all samples of a metric."""

    def __init__(self, samples: list[Sample]) -> None:
        self._metric = Metric(HITS, BY_NAME[HITS].meaning, BY_NAME[HITS].kind.value)
        for sample in samples:
            self._metric.add_sample(*sample)

    def collect(self) -> list[Metric]:
        return [self._metric]


def test_the_chunks_of_a_metric_are_its_text_with_one_head() -> None:
    """They differ only in the name in the header, which has no `_total`."""
    samples = [Sample(HITS, {"domain": "d", "key1": f'a"{number}'}, number) for number in range(2_500)]
    chunks = list(family(HITS, samples))
    assert generate_latest(Whole(samples)).replace(b"_total ", b" ") == b"".join(chunks)
    assert [2, 1_000, 1_000, 500] == [chunk.count(b"\n") for chunk in chunks]


values = st.integers() | st.floats() | st.sampled_from([0, 999_999, 1_000_000, 1e6, 2.0**60, float("inf")])
texts = st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(
    ['"', "\\", "\\n", "\n", '=",%s', "%"]
)


@given(st.lists(st.tuples(st.dictionaries(st.sampled_from(["path", "domain", "le", "key1"]), texts), values)))
@example([({}, 1), ({"path": '"', "domain": "\n"}, -1), ({"path": 'a"b', "domain": "\\"}, True)])
def test_lines_are_those_of_prometheus_client(found: list[tuple[dict[str, str], float]]) -> None:
    """In any order of labels, for any value of a label, and for any number."""
    samples = [Sample(HITS, labels, value) for labels, value in found]
    expected = generate_latest(Whole(samples)).replace(b"_total ", b" ", 2)
    assert (expected if samples else b"") == b"".join(family(HITS, samples))


def test_a_metric_without_samples_has_no_text() -> None:
    """As in upstream, a labelled counter begins with its first event."""
    assert [] == list(family(HITS, []))


def test_no_chunk_of_many_series_is_large() -> None:
    """Chunks are made one at a time: not ten thousand series of eight metrics at once."""
    metrics = Metrics(max_series=5_000)
    for number in range(4_000):
        row = metrics._limits.row(("d", f"{'x' * 150}{number}", "y" * 150))
        row[:] = [1] * len(row)
    chunks = list(metrics.chunks())
    assert sum(map(len, chunks)) > 5_000_000
    assert max(map(len, chunks)) < 600_000


def test_labels_are_bounded_in_bytes() -> None:
    """With the longest names, fewer series fit."""
    metrics, clef = Metrics(max_series=1_000), "\U0001d11e"
    for number in range(1_000):
        metrics._limits.row((f"{clef * 150}{number}", clef * 200, clef * 200))[0] += 1
    held = sum([1 for sample in metrics.counters() if sample.name == HITS])
    assert 200 < held < 400
    assert 1_000 == sum([sample.value for sample in metrics.counters() if sample.name == HITS])
