"""The tracing of one process: the tracer, and the exporter of its spans."""

from __future__ import annotations

from collections.abc import Iterator

from ..observe.tables import Sample
from ..settings.table import Settings
from ..stores.layers.backend import Backend
from .exporting import Exporting, make_exporter, resource_of
from .stores import TracedBackend
from .tracer import SpanQueue, Tracer


class Tracing:
    """Traces as the settings say. Raises StartError."""

    def __init__(self, settings: Settings) -> None:
        self._notes = SpanQueue(settings.otel_bsp_max_queue_size, settings.otel_bsp_max_export_batch_size)
        self.tracer = Tracer(self._notes, settings.tracing_sampling_rate)
        self._exporting = Exporting(
            self._notes,
            make_exporter(settings.tracing_exporter_protocol),
            resource_of(settings),
            settings.backend_type,
            settings.otel_bsp_max_export_batch_size,
            settings.otel_bsp_schedule_delay / 1_000,
        )

    def backend(self, store: Backend) -> Backend:
        """Return a layer over a store in Redis that notes its calls."""
        return TracedBackend(store, self.tracer)

    def start(self) -> None:
        """Send spans from now on."""
        self._exporting.start()

    def close(self, patience: float) -> None:
        """Send the waiting spans, for at most `patience` seconds."""
        self._exporting.close(patience)

    def samples(self) -> Iterator[Sample]:
        """Yield the metrics of spans."""
        counts = {
            "exported": self._exporting.exported,
            "failed": self._exporting.failed,
            "dropped": self._notes.dropped,
        }
        for outcome, count in counts.items():
            yield Sample("ratelimit_service_spans", {"outcome": outcome}, count)
