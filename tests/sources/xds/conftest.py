"""A follower of a real control plane, with a clock that the tests set."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import structlog

from ratelimit_service.sources.xds.backoff import Backoff
from ratelimit_service.sources.xds.cache import Cache
from ratelimit_service.sources.xds.follower import Follower, Options
from ratelimit_service.sources.xds.link import connect
from ratelimit_service.sources.xds.overlays import Overlays
from ratelimit_service.sources.xds.server import Server
from testing.control_plane import ControlPlane
from testing.waiting import PATIENCE
from tests.sources.xds.rule_sets import Book

START = 1_795_000_000.0


class SetClock:
    """A clock that stands still until a test advances it. `slept` has the requested pauses."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []
        self._waiting: list[tuple[float, asyncio.Future[None]]] = []

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return START + self.now

    def sleep(self, seconds: float) -> asyncio.Future[None]:
        """Begin the pause now, not when the result is first awaited."""
        self.slept.append(seconds)
        over = asyncio.get_running_loop().create_future()
        self._waiting.append((self.now + seconds, over))
        self.advance(0)
        return over

    def advance(self, seconds: float) -> None:
        self.now += seconds
        for due, over in self._waiting:
            if due <= self.now + 1e-9 and not over.done():
                over.set_result(None)


class Following:
    """A running follower. `connects` counts its attempts to connect."""

    def __init__(self, plane: ControlPlane, book: Book | None = None, **options: Any) -> None:
        self.plane = plane
        self.book = book or Book()
        self.clock = SetClock()
        self.overlays: Overlays = {}
        self.connects = 0
        directory: Path | None = options.pop("cache", None)
        server = Server("cp", "127.0.0.1", plane.port, node_id="envoy-ratelimit")
        self.cache = Cache(directory, "cp", "envoy-ratelimit") if directory is not None else None
        reach = partial(connect, server, options.pop("largest", 1 << 22), 0)

        async def count() -> Any:
            self.connects += 1
            return await reach()

        self.follower = Follower(
            server,
            self.book,
            count,
            Backoff(10, 60, 2, jitter=False, random=lambda: 1.0),
            self.clock,
            lambda: self.overlays,
            Options("1", options.pop("grace", 10.0), options.pop("strict", False), self.cache),
        )
        self.standing = self.follower.standing
        self.task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        self.task = asyncio.create_task(self.follower.run())

    async def end(self) -> None:
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait for an event that needs no advance of the clock."""
        async with asyncio.timeout(PATIENCE):
            while not condition():
                assert self.task is None or not self.task.done(), self.task.result()
                await asyncio.sleep(0.001)

    async def answered(self, number: int) -> None:
        """Wait for this many requests in all, including the first of each stream."""
        await self.until(lambda: len(self.plane.requests) >= number)
        await self.rest()

    async def rest(self) -> None:
        """Run both ends until each waits for something else."""
        for _ in range(50):
            await asyncio.sleep(0.002)
            if self._waits() and all(peer.waits_with is not None for peer in self.plane.peers):
                break
            if self.follower._due is not None or self.follower._retry is not None:
                break
        await asyncio.sleep(0.01)

    def _waits(self) -> bool:
        return self.standing.connected == bool(self.plane.peers)


Follow = Callable[..., Awaitable[Following]]


@pytest.fixture
async def plane() -> AsyncIterator[ControlPlane]:
    """Return a control plane without a set."""
    made = ControlPlane()
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
async def follow(plane: ControlPlane) -> AsyncIterator[Follow]:
    """Follow the control plane until the end of the test."""
    made: list[Following] = []

    async def begin(**options: Any) -> Following:
        following = Following(plane, **options)
        made.append(following)
        await following.follower.restore()
        following.begin()
        return following

    yield begin
    for following in made:
        await following.end()


@pytest.fixture
def logged() -> Any:
    """Return every line of the log."""
    with structlog.testing.capture_logs() as lines:
        yield lines
