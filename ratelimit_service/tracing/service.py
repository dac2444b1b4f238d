"""The service with spans of its calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..core.errors import RateLimitServiceError
from ..core.trace_context import TraceHeaders
from ..ports import Clock, CounterStore, Observer
from ..service import Answer, Call, RateLimitService
from .stores import TracedStore
from .tracer import Tracer


class TracedService(RateLimitService):
    """A RateLimitService that passes each answered call to `tracer`."""

    traced = True

    def __init__(
        self, tracer: Tracer, store: CounterStore, observer: Observer, clock: Clock, *others: Any
    ) -> None:
        super().__init__(TracedStore(store, tracer), observer, clock, *others)
        self._tracer = tracer

    def submit(self, calls: Sequence[Call]) -> None:
        """Decide on calls (RateLimitService.submit)."""
        tracer, start = self._tracer, self._tracer.clock()
        super().submit([_TracedCall(call, tracer, start) for call in calls])

    def refused_early(self, trace: TraceHeaders | None, error: RateLimitServiceError) -> None:
        """Trace a call that a transport has refused."""
        self._tracer.refused(trace, error)


class _TracedCall:
    """A call that is traced when it is answered."""

    __slots__ = ("_call", "_start", "_trace", "_tracer", "request", "timeout")

    def __init__(self, call: Call, tracer: Tracer, start: int) -> None:
        self._call = call
        self._tracer = tracer
        self._start = start
        self.request = call.request
        self.timeout = call.timeout
        self._trace = getattr(call, "trace", None)  # only calls of transports have one

    @property
    def gone(self) -> bool:
        return self._call.gone

    def reply(self, answer: Answer) -> None:
        """Answer first: tracing must neither delay nor fail a call."""
        self._call.reply(answer)
        self._tracer.answered(self.request, self._trace, self._start, answer)
