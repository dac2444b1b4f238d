"""The metrics of all workers, for the worker that shows them."""

from __future__ import annotations

import asyncio
import os

from ..observe.exposition import Process
from ..observe.merging import MergedMetrics, packed
from ..observe.metrics import Metrics
from ..observe.tables import Sample
from ..observe.tracking import Tracker
from .link import LinkError
from .worker_link import METRICS, Scrape, WorkerLink


class SharedMetrics:
    """Reports the metrics of this worker, and collects those of all. `most` is TRACK_MAX_BUCKETS.

    Without a `member`, this process is the only worker.
    """

    def __init__(self, metrics: Metrics, tracker: Tracker, member: WorkerLink | None, most: int) -> None:
        self._metrics = metrics
        self._tracker = tracker
        self._member = member
        self._most = most
        self._supervisor = Process(os.getppid)
        self._packing = asyncio.Lock()
        if member is not None:
            member.share(METRICS, self._packed)

    async def whole(self) -> Metrics | MergedMetrics:
        """Return the metrics of all workers; those of this one if the supervisor has ended."""
        if self._member is None:
            return self._metrics
        own, number = await self._packed(), self._member.hello.number
        try:
            scrape = await self._member.scrape(own)
        except LinkError:
            return self._metrics
        workers = {**scrape.others, number: own}
        return MergedMetrics(
            dict(sorted(workers.items())), scrape.departed, _samples(scrape), self._supervisor, self._most
        )

    async def _packed(self) -> bytes:
        async with self._packing:  # one thread at a time takes the GIL from the event loop
            return await asyncio.to_thread(self._pack)

    def _pack(self) -> bytes:
        return packed(self._metrics.families(), self._tracker.tracked(), self._metrics.process.values())


def _samples(scrape: Scrape) -> list[Sample]:
    workers = "ratelimit_service_workers"
    return [
        Sample(workers, {"state": "wanted"}, scrape.wanted),
        Sample(workers, {"state": "serving"}, len(scrape.serving)),
        Sample("ratelimit_service_worker_restarts", {}, scrape.restarts),
        *[
            Sample("ratelimit_service_worker_generation", {"worker": str(number)}, generation)
            for number, generation in scrape.generations.items()
        ],
    ]
