"""Creates the service that decides, with tracing if the settings enable it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import structlog

from ..core.amendments.index import Amendments
from ..core.holds.ids import HoldIds
from ..observe.metrics import Metrics
from ..ports import CounterStore, Observer
from ..service import RateLimitService
from ..settings.table import Settings
from .policy import jitter_of, patience_of, policy_of, spread_of

if TYPE_CHECKING:
    from ..tracing.tracing import Tracing


def make_service(
    settings: Settings,
    store: CounterStore,
    observer: Observer,
    amendments: Amendments,
    ids: HoldIds,
    tracing: Tracing | None,
) -> RateLimitService:
    """Return the service that counts in `store`."""
    others = (
        policy_of(settings),
        jitter_of(settings),
        patience_of(settings),
        spread_of(settings),
        amendments,
        ids,
    )
    if tracing is None:
        return RateLimitService(store, observer, time.time, *others)
    from ..tracing.service import TracedService

    return TracedService(tracing.tracer, store, observer, time.time, *others)


def make_tracing(settings: Settings, metrics: Metrics) -> Tracing | None:
    """Return the tracing, not yet started; None if it is off. Raises StartError.

    Without the packages of OpenTelemetry the service still serves: limits matter more than spans.
    """
    if not settings.tracing_enabled or settings.otel_sdk_disabled:
        return None
    try:
        from ..tracing.tracing import Tracing  # imports OpenTelemetry, which nothing else needs

        tracing = Tracing(settings)
    except ModuleNotFoundError as error:
        structlog.get_logger("ratelimit_service").warning(
            "TRACING_ENABLED is set, and nothing is traced: install the packages of the extra `tracing` "
            "(docs/tracing.md)",
            error=str(error),
        )
        return None
    metrics.show(tracing.samples)
    return tracing
