"""The order in which connections are served whose input exceeded a turn.

This is start-time fair queueing, as in network schedulers: the turn of a connection comes the later, the more
work it has already caused. It has two levels, groups and the connections of a group. A group is one network
(networks.py) and one kind of connection, by what its last postponed input was: a call, or anything else. So a
caller waits neither for the thousand connections of another address, nor for those of its own address that
send no calls.

New connections begin one unit late. So the clock advances, and connections that already wait are served, even
if new ones keep arriving.
"""

from __future__ import annotations

import itertools
from heapq import heappop, heappush
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from .connection import Connection

_WORTH_PRUNING = 1_000
"""The number of groups beyond which groups without waiting input and without arrears are dropped."""


class _Place(NamedTuple):
    """A connection that waits, the virtual time of its turn, and its place among those with the same."""

    time: int
    place: int
    connection: Connection


class Group:
    """Connections that together have one share of a turn.

    `clock` is the virtual time of the connection that was served last, and `used` that of the group's next
    turn.
    """

    __slots__ = ("clock", "used", "waiting")

    def __init__(self, used: int) -> None:
        self.used = used
        self.clock = 0
        self.waiting: list[_Place] = []


class _GroupPlace(NamedTuple):
    time: int
    place: int
    group: Group


class Queue:
    """The open connections with input that waits for a turn."""

    def __init__(self) -> None:
        self._groups: dict[tuple[str, bool | None], Group] = {}
        self._waiting: list[_GroupPlace] = []
        """A heap of the groups with a connection that waits."""
        self._clock = 0
        """The virtual time of the group that was served last."""
        self._places = itertools.count()
        self._size = 0
        self._prune_at = _WORTH_PRUNING

    def __len__(self) -> int:
        return self._size

    def push(self, connection: Connection) -> None:
        """Add a connection."""
        key = connection.network, connection.calls
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = Group(self._clock + 1)
        if connection.group is not group:
            connection.group, connection.used = group, group.clock + 1
        if not group.waiting:
            self._add(group)
        heappush(group.waiting, _Place(max(connection.used, group.clock), next(self._places), connection))
        self._size += 1

    def serve(self) -> tuple[Group, Connection]:
        """Remove the connection whose turn it is, and return it with its group; `served` must follow."""
        self._clock, _, group = heappop(self._waiting)
        group.clock, _, connection = heappop(group.waiting)
        self._size -= 1
        return group, connection

    def served(self, group: Group, connection: Connection, work: int) -> None:
        """Count the work that the input of a connection has caused, at least one unit."""
        connection.used = group.clock + 1 + work
        group.used = self._clock + 1 + work
        if group.waiting:
            self._add(group)
        elif not self._waiting:  # no connection waits for the arrears of others
            self._groups.clear()
        elif len(self._groups) > self._prune_at:
            self._prune()

    def _add(self, group: Group) -> None:
        heappush(self._waiting, _GroupPlace(max(group.used, self._clock), next(self._places), group))

    def _prune(self) -> None:
        """Drop the groups without waiting input and arrears: an attacker may use a thousand networks a
        second.
        """
        clock = self._clock
        self._groups = {key: each for key, each in self._groups.items() if each.waiting or each.used > clock}
        self._prune_at = max(_WORTH_PRUNING, 2 * len(self._groups))
