"""The connections of the native transport: how many there may be, and which have to go."""

from __future__ import annotations

import asyncio
import ctypes
import itertools
from collections.abc import Iterator

import structlog

from ..options import GrpcOptions
from ._http2 import Budget
from .connection import Connection

_LOOK = 1.0
"""Seconds between two looks at a connection."""

_PARTS = 10
_LONGEST_LOOK = 0.002
"""Looking at ten thousand connections takes 20 ms, in which no call is answered: so a tenth at a time, and 2 ms at a time."""

_LATE = 1.0
"""Seconds beyond its time after which a look says that this process itself stood still."""

_LOG = 10.0
"""Seconds between two lines about connections that were closed."""

_MUCH = 16 * 1_048_576
"""Bytes that are worth 10 ms for returning them to the system."""

_BETWEEN_TRIMS = 10.0
"""Seconds."""

malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
"""glibc's; others have none, and need none."""

_CLOSED_AT_ONCE = 10
"""Connections with a thousand streams each, which take time to free: more of them wait for another turn of the event loop."""

_HANDSHAKES = 2
"""Of TLS, in one turn of the event loop: each takes a millisecond or two."""


class Peers:
    """All connections of a server, until they are lost."""

    def __init__(self, options: GrpcOptions, budget: Budget) -> None:
        self.empty = asyncio.Event()
        """Whether there is none."""
        self.empty.set()
        self.closed = 0
        """Connections that were closed because of what their peer did, or did not do."""
        self._most = options.max_connections
        self._budget = budget
        self._parts: list[set[Connection]] = [set() for _ in range(_PARTS)]
        self._part_of: dict[Connection, int] = {}
        self._next_part = self._next_look = 0
        self._timer: asyncio.TimerHandle | None = None
        self._look_due = float("inf")
        self._most_held = 0
        """The most bytes that were held since memory was given back last."""
        self._given_back_at = float("-inf")
        self._leaving: list[Connection] = []
        """Those that keep most are last: they are closed first."""
        self._shaking: dict[Connection, None] = {}
        self._shakes = False
        self._log = structlog.get_logger("ratelimit_service.grpc")
        self._reasons: dict[str, int] = {}
        self._logged_at = float("-inf")

    def __len__(self) -> int:
        return len(self._part_of)

    def __iter__(self) -> Iterator[Connection]:
        return iter(tuple(self._part_of))

    def add(self, connection: Connection) -> bool:
        """A connection has been made; return whether there is room for it."""
        if len(self._part_of) >= self._most:
            self.has_closed(f"there are {self._most} connections (GRPC_MAX_CONNECTIONS)")
            return False
        if not self._budget.connect(connection.cost):
            self.has_closed("there are more connections than half of GRPC_MAX_BYTES has room for")
            return False
        self._next_part = (self._next_part + 1) % _PARTS
        self._parts[self._next_part].add(connection)
        self._part_of[connection] = self._next_part
        self.empty.clear()
        return True

    def remove(self, connection: Connection) -> None:
        """A connection has been lost, maybe one that there was no room for."""
        part = self._part_of.pop(connection, None)
        if part is None:
            return
        self._parts[part].discard(connection)
        self._shaking.pop(connection, None)
        self._budget.disconnect(connection.cost)
        if not self._part_of:
            self.empty.set()

    def watch(self) -> None:
        """Look at every connection once a second, until `ignore`."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        late = now - self._look_due > _LATE
        self._look_due = now + _LOOK / _PARTS
        self._timer = loop.call_at(self._look_due, self.watch)
        self._next_look = (self._next_look + 1) % _PARTS
        # Where this process stood still itself, or the machine was suspended, what peers have sent meanwhile is read first.
        if not late:
            self._look(iter(tuple(self._parts[self._next_look])))
        self._give_back(now)
        if self._reasons and now - self._logged_at >= _LOG:
            for why, connections in self._reasons.items():
                self._log.warning(f"connections were closed: {why}", connections=connections)
            self._reasons.clear()
            self._logged_at = now

    def _give_back(self, now: float) -> None:
        """Return memory to the system after much of it was freed: malloc would keep it, and the next flood would come on top."""
        held = self._budget.held
        self._most_held = max(self._most_held, held)
        if self._most_held - held > _MUCH and now - self._given_back_at > _BETWEEN_TRIMS:
            self._most_held, self._given_back_at = held, now
            if malloc_trim is not None:
                malloc_trim(0)

    def _look(self, connections: Iterator[Connection]) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for connection in connections:
            connection.look(now)
            if loop.time() - now > _LONGEST_LOOK:
                loop.call_soon(self._look, connections)
                break

    def ignore(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def relieve(self) -> None:
        """Close the connections that keep most: unfinished requests, and replies that are not taken.

        An honest peer keeps next to nothing: what it sends is whole when it comes, and what it gets is taken at once.
        """
        if not self._leaving:
            self._leaving = sorted(self._part_of, key=_waiting)
            self._relieve_more()

    def _relieve_more(self) -> None:
        for _ in range(_CLOSED_AT_ONCE):
            if not self._leaving or self._budget.waiting <= self._budget.most_waiting // 2:
                self._leaving.clear()
                return
            if _waiting(connection := self._leaving.pop()):
                connection.abort("it kept most when GRPC_MAX_BYTES was short")
        asyncio.get_running_loop().call_soon(self._relieve_more)

    def has_closed(self, why: str) -> None:
        """A connection was closed because of its peer: for the log and the metrics."""
        self.closed += 1
        self._reasons[why] = self._reasons.get(why, 0) + 1

    def shake_hands(self, connection: Connection) -> None:
        """Let a connection go on with its handshake, when it is its turn."""
        self._shaking[connection] = None
        self._shake_soon()

    def _shake_soon(self) -> None:
        if self._shaking and not self._shakes:
            self._shakes = True
            asyncio.get_running_loop().call_soon(self._shake_hands)

    def _shake_hands(self) -> None:
        self._shakes = False
        for connection in tuple(itertools.islice(self._shaking, _HANDSHAKES)):
            self._shaking.pop(connection, None)
            connection.shake_hands()
        self._shake_soon()


def _waiting(connection: Connection) -> int:
    return 0 if connection.session is None else connection.session.waiting
