"""The connections of the native transport: their limit, and which ones are closed at it."""

from __future__ import annotations

import asyncio
import ctypes
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from time import perf_counter

import structlog

from ...listening.networks import Crowd
from ...runtime.exceptions import report
from ..options import GrpcOptions
from ._http2 import Budget
from .connection import Connection

_CHECK = 1.0
"""Seconds between two checks of a connection."""

_GROUPS = 10
"""Groups of connections that are checked one after another: checking ten thousand at once would delay calls
by 20 ms."""

_LONGEST_CHECK = 0.002
"""Seconds of checking after which the event loop processes calls."""

_LATE = 1.0
"""If a check is late by this many seconds, this process itself was stopped."""

_LOG = 10.0
"""Seconds between two log lines about closed connections."""

_WORTH_TRIMMING = 16 * 1_048_576
"""Freed bytes for which returning memory to the system is worth 10 ms."""

_BETWEEN_TRIMS = 10.0
"""Seconds between two returns of memory."""

malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
"""Only glibc has it; other C libraries return memory without it."""

_LONGEST_RELIEF = 0.002
"""Seconds of closing connections in one turn of the event loop: each may have a thousand streams to free."""

_BURIED_AT_ONCE = 32
"""Connections that are freed in one turn of the event loop after their peers have closed them."""

_RESERVE = 16
"""One of so many connections is kept for networks that have fewer than their share, and for the time in which
idle ones end.
"""

_SILENT, _OTHERS = 0, 1
"""Ranks of idle connections: those that never had a stream, and the others."""

_HANDSHAKES = 2
"""TLS handshakes in one turn of the event loop; each takes a millisecond or two."""


class Peers:
    """All open connections of a server."""

    def __init__(self, options: GrpcOptions, budget: Budget) -> None:
        self.empty = asyncio.Event()
        """Set while there is no connection."""
        self.empty.set()
        self.closed = 0
        """Connections that were closed because of their peer."""
        self._most = options.max_connections
        self._crowd: Crowd[Connection] = Crowd()
        """Knows which connections are idle while more than half of all are in use: first those that never had
        a stream, then the others."""
        self._budget = budget
        self._groups: list[set[Connection]] = [set() for _ in range(_GROUPS)]
        self._group_of: dict[Connection, int] = {}
        self._last_added = self._last_checked = 0
        """The group of the last new connection, and the group that was checked last."""
        self._timer: asyncio.TimerHandle | None = None
        self._check_due = float("inf")
        self._most_held = 0
        """The most bytes held since memory was last returned to the system."""
        self._trimmed_at = float("-inf")
        self._closing: list[Connection] = []
        """Connections that `relieve` may close; the last ones keep the most bytes, and are closed first."""
        self._dead: deque[Connection] = deque()
        """Connections whose peers have gone, and whose memory is still to be freed."""
        self._ending: dict[Connection, None] = {}
        """Connections whose sessions have ended, and whose peers have not yet closed them, in that order."""
        self._retiring: set[Connection] = set()
        """Connections that got a GOAWAY because others need their places."""
        self._aborted: dict[Connection, int] = {}
        """Connections that `relieve` has closed, and the bytes that they kept, which are about to be
        freed.
        """
        self._shaking: dict[Connection, None] = {}
        """Connections that wait for their turn to continue the handshake."""
        self._scheduled = False
        self._log = structlog.get_logger("ratelimit_service.grpc")
        self._reasons: dict[str, int] = {}
        self._logged_at = float("-inf")

    def __len__(self) -> int:
        return len(self._group_of)

    def __iter__(self) -> Iterator[Connection]:
        return iter(tuple(self._group_of))

    def add(self, connection: Connection) -> bool:
        """Add a new connection; return False if there is no room for it."""
        cost, network = connection.cost, connection.network
        most = min(self._most, self._budget.most_connections // cost)
        reserved = self._crowd.exceeds_its_share(network, most)
        if not self._has_room(cost, reserved) and not (self._make_room() and self._has_room(cost, reserved)):
            self.count_closed(
                f"there are {self._most} connections (GRPC_MAX_CONNECTIONS)"
                if len(self._group_of) >= self._most
                else "one address has more than its share, and few connections are left"
                if reserved and self._has_room(cost, False)
                else "there are more connections than half of GRPC_MAX_BYTES has room for"
            )
            # The peer will try again. The bound prevents attackers from ending all idle connections at once.
            if len(self._retiring) < max(1, most // _RESERVE):
                self._retire_one()
            return False
        self._budget.connect(cost)
        self._crowd.add(network)
        self._last_added = (self._last_added + 1) % _GROUPS
        self._groups[self._last_added].add(connection)
        self._group_of[connection] = self._last_added
        self.empty.clear()
        if not self._has_room(cost, True):
            self._retire_one()
        return True

    def _has_room(self, cost: int, reserved: bool) -> bool:
        """Return whether there is room for a connection; with `reserved`, without the part that is kept."""
        most, most_bytes = self._most, self._budget.most_connections
        if reserved:
            most -= most // _RESERVE
            most_bytes -= most_bytes // _RESERVE
        return len(self._group_of) < most and self._budget.connections + cost <= most_bytes

    def end(self, connection: Connection) -> None:
        """Note a connection whose session has ended, and whose peer has not yet closed it."""
        self._ending[connection] = None

    def _make_room(self) -> bool:
        """Free a connection that serves no stream, before its time; return whether there was one."""
        if self._dead:
            self._free(self._dead.popleft())
            return True
        for connection in self._ending:
            attempt(connection, Connection.abort)
            self._free(connection)
            return True
        silent = self._next_idle(_SILENT)
        if silent is None:
            return False
        self._crowd.pop(_SILENT)
        self.count_closed("it sent no calls when all connections were in use")
        attempt(silent, Connection.dismiss)
        self._free(silent)
        return True

    def _retire_one(self) -> None:
        """Ask the connection to leave that has been idle for longest: it takes a moment, in which no call is
        lost.

        Connections that never had a stream are closed at once when their places are needed.
        """
        if self._next_idle(_SILENT) is not None:
            return
        connection = self._next_idle(_OTHERS)
        if connection is not None:
            self._crowd.pop(_OTHERS)
            self._retiring.add(connection)
            self.count_closed("it was idle when almost all connections were in use")
            attempt(connection, _make_room)

    def _next_idle(self, rank: int) -> Connection | None:
        """Return the connection that should make room first, which keeps its place; forget those that have
        become busy.
        """
        now = asyncio.get_running_loop().time()
        while (connection := self._crowd.peek(rank)) is not None:
            if connection.may_make_room(now) and _rank(connection) == rank:
                return connection
            self._crowd.pop(rank)
        return None

    def remove(self, connection: Connection) -> None:
        """Remove a closed connection. Does nothing if it was not added."""
        group = self._group_of.pop(connection, None)
        if group is None:
            return
        self._groups[group].discard(connection)
        self._crowd.remove(connection.network, connection)
        self._shaking.pop(connection, None)
        self._aborted.pop(connection, None)
        self._ending.pop(connection, None)
        self._retiring.discard(connection)
        self._budget.disconnect(connection.cost)
        if not self._group_of:
            self.empty.set()

    def watch(self) -> None:
        """Check every connection once a second, until `ignore`."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        late = now - self._check_due > _LATE
        self._check_due = now + _CHECK / _GROUPS
        self._timer = loop.call_at(self._check_due, self.watch)
        self._last_checked = (self._last_checked + 1) % _GROUPS
        # After this process itself was stopped, first read what peers have sent meanwhile.
        if not late:
            self._check(iter(tuple(self._groups[self._last_checked])))
        self._trim(now)
        if self._reasons and now - self._logged_at >= _LOG:
            for why, connections in self._reasons.items():
                self._log.warning(f"connections were closed: {why}", connections=connections)
            self._reasons.clear()
            self._logged_at = now

    def _trim(self, now: float) -> None:
        """Return memory to the system after much of it was freed; malloc would keep it, and fragment."""
        held = self._budget.held
        self._most_held = max(self._most_held, held)
        if self._most_held - held > _WORTH_TRIMMING and now - self._trimmed_at > _BETWEEN_TRIMS:
            self._most_held, self._trimmed_at = held, now
            if malloc_trim is not None:
                malloc_trim(0)

    def _check(self, connections: Iterator[Connection]) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        crowded = len(self._group_of) > self._most // 2 or (
            self._budget.connections > self._budget.most_connections // 2
        )
        if not crowded:
            self._crowd.forget_idle()
        for connection in connections:
            try:
                connection.check(now)
                if crowded and connection in self._group_of and connection.may_make_room(now):
                    self._crowd.idle(connection.network, connection, _rank(connection))
            except Exception as error:  # the rest of the group would never be checked
                connection.fail(error)
            if loop.time() - now > _LONGEST_CHECK:
                loop.call_soon(self._check, connections)
                break

    def ignore(self) -> None:
        """Check no more."""
        if self._timer is not None:
            self._timer.cancel()

    def relieve(self) -> None:
        """Close the connections that keep the most bytes of incomplete requests and of replies that the peer
        has not read.

        An honest peer keeps almost none: it sends a request in one piece, and reads a reply at once.
        """
        if not self._closing:
            self._closing = sorted(self._group_of, key=_waiting)
            self._relieve_more()

    @property
    def share(self) -> int:
        """The bytes that each connection may keep. While too many wait, some connection keeps more than
        this.
        """
        return self._budget.most_waiting // 2 // max(1, len(self._group_of))

    def bury(self, connection: Connection) -> None:
        """Free the memory for a connection whose peer has gone, when there is time: thousands may go at
        once.
        """
        if not self._dead:
            asyncio.get_running_loop().call_soon(self._bury)
        self._dead.append(connection)

    def _bury(self) -> None:
        some = [self._dead.popleft() for _ in range(min(_BURIED_AT_ONCE, len(self._dead)))]
        if self._dead:
            asyncio.get_running_loop().call_soon(self._bury)
        for connection in some:
            self._free(connection)

    def _free(self, connection: Connection) -> None:
        """Free the memory and the place of a connection; the place also if that fails."""
        try:
            connection.free()
        except Exception as error:
            report("a connection has failed", error)
            self.remove(connection)

    def _relieve_more(self) -> None:
        # Connections that keep less than their share are not closed: since the list was sorted, connections
        # at its end may have sent or read their bytes, and new ones may have come.
        goal, share = self._budget.most_waiting // 2, self.share
        loop = asyncio.get_running_loop()
        began = perf_counter()
        while True:
            if not self._closing or self._budget.waiting - sum(self._aborted.values()) <= goal:
                self._closing.clear()
                return
            connection = self._closing.pop()
            if (
                _waiting(connection) > share
                and connection in self._group_of
                and connection not in self._aborted
            ):
                try:
                    connection.abort("it kept most bytes when GRPC_MAX_BYTES was reached")
                except Exception as error:  # `relieve` would never close another
                    connection.fail(error)
                self._aborted[connection] = _waiting(connection)
            if perf_counter() - began > _LONGEST_RELIEF:
                break
        loop.call_soon(self._relieve_more)

    def count_closed(self, why: str) -> None:
        """Count a connection that was closed because of its peer, for the log and the metrics."""
        self.closed += 1
        self._reasons[why] = self._reasons.get(why, 0) + 1

    def shake_hands(self, connection: Connection) -> None:
        """Continue the handshake of a connection in its turn."""
        self._shaking[connection] = None
        self._shake_soon()

    def _shake_soon(self) -> None:
        if self._shaking and not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._shake_hands)

    def _shake_hands(self) -> None:
        self._scheduled = False
        some = tuple(itertools.islice(self._shaking, _HANDSHAKES))
        for connection in some:
            self._shaking.pop(connection, None)
        each(some, Connection.shake_hands)
        self._shake_soon()


def each(connections: Iterable[Connection], act: Callable[[Connection], None]) -> None:
    """Call `act` with each connection, also after one that fails."""
    for connection in connections:
        attempt(connection, act)


def attempt(connection: Connection, act: Callable[[Connection], None]) -> None:
    """Call `act` with a connection. If that fails, report the error and close the connection."""
    try:
        act(connection)
    except Exception as error:
        connection.fail(error)


def _make_room(connection: Connection) -> None:
    connection.life.make_room()


def _rank(connection: Connection) -> int:
    return _SILENT if connection.life.is_silent else _OTHERS


def _waiting(connection: Connection) -> int:
    return 0 if connection.session is None else connection.session.waiting
