"""The service in the process of a test: real gRPC, counters in memory, and a settable clock."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Self

from ratelimit_service.amending.secret import hold_ids
from ratelimit_service.assembly.policy import policy_of, spread_of
from ratelimit_service.core.matching.tree import RuleTree
from ratelimit_service.core.rules.reader import load
from ratelimit_service.observe.metrics import Metrics
from ratelimit_service.runtime.health import Health
from ratelimit_service.service import RateLimitService
from ratelimit_service.settings.table import load_settings
from ratelimit_service.sources.yaml_text import read
from ratelimit_service.stores.memory import MemoryStore
from ratelimit_service.transports.native.server import NativeServer
from ratelimit_service.transports.options import GrpcOptions

from .waiting import PATIENCE


class ClockedService:
    """A service as a context manager. `now` is its clock, `address` its gRPC address ("127.0.0.1:43211").

    `answered` counts the calls that it has answered.
    """

    def __init__(self, rules: str, *, now: float, **settings: str) -> None:
        self.now = now
        self.address = ""
        self.answered = 0
        made = load_settings(settings)
        store, ids = MemoryStore(lambda: self.now), hold_ids()
        ids.use(b"secret")
        self._service = RateLimitService(
            store, Metrics(), lambda: self.now, policy_of(made), spread=spread_of(made), ids=ids
        )
        self._service.use(RuleTree(load([read("rules.yaml", rules)]).domains))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._wait(self._start())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._wait(self._server.stop(0))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=PATIENCE)
        self._loop.close()

    async def _start(self) -> None:
        self._server = NativeServer(self._service, Health(), GrpcOptions(), self._on_answered)
        await self._server.start()
        self.address = self._server.address

    def _on_answered(self, method: str, seconds: float, calls: int = 1) -> None:
        self.answered += calls

    def _wait(self, work: Coroutine[None, None, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=PATIENCE)
