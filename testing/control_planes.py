"""Control planes for tests that do not run an event loop: each in a thread of its own."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

from ratelimit_service.proto.xds_pb2 import RateLimitConfig, Resource

from .control_plane import ControlPlane

T = TypeVar("T")


class Served:
    """A running ControlPlane. `plane` is touched by its thread alone: use `do`."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.plane = ControlPlane(tls)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._run(self.plane.start())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    @property
    def address(self) -> str:
        """ "127.0.0.1:43211"."""
        return self.plane.address

    def send(self, *configs: RateLimitConfig | Resource, version: str | None = None) -> None:
        """Have this set from now on."""
        self.do(lambda plane: plane.send(*configs, version=version))

    def stop(self) -> None:
        """Be away."""
        self._run(self.plane.stop())

    def start(self) -> None:
        """Be there again, at the same port."""
        self._run(self.plane.start())

    def do(self, what: Callable[[ControlPlane], T]) -> T:
        """Do something with the control plane."""

        async def done() -> T:
            return what(self.plane)

        return self._run(done())

    @property
    def rejections(self) -> list[str]:
        """What every rejection says."""
        return self.do(lambda plane: plane.rejections)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(15)
