"""Control planes for tests without an event loop: each runs in its own thread."""

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


class ThreadedControlPlane:
    """A running ControlPlane. Only its thread may use `plane`; other threads call `do`."""

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
        """Replace the set."""
        self.do(lambda plane: plane.send(*configs, version=version))

    def stop(self) -> None:
        """Stop, as in an outage."""
        self._run(self.plane.stop())

    def start(self) -> None:
        """Start again at the same port."""
        self._run(self.plane.start())

    def do(self, what: Callable[[ControlPlane], T]) -> T:
        """Call a function with the control plane in its thread."""

        async def done() -> T:
            return what(self.plane)

        return self._run(done())

    @property
    def rejections(self) -> list[str]:
        """The messages of all rejections."""
        return self.do(lambda plane: plane.rejections)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(15)
