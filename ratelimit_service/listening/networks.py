"""Networks of peers: the unit of fairness.

A gateway has one address and several connections; so has an attacker. Fairness between connections alone
would give an attacker as much as it opens connections.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from itertools import islice
from typing import Generic, TypeVar

T = TypeVar("T")

_HOST_BITS = 64
"""Bits of an IPv6 address that one host may choose freely."""

_EXAMINED = 256
"""Networks that are examined for the largest one, so that a thousand of them do not make each accept slow."""


def network_of(peer: object) -> str:
    """Return the network of a peer: its IPv4 address, or the /64 of its IPv6 address.

    All peers without an address, such as those of a Unix socket, are one network.
    """
    if not isinstance(peer, tuple):
        return ""
    host = str(peer[0])
    if ":" not in host:
        return host
    address = ipaddress.IPv6Address(host)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Address(int(address) >> _HOST_BITS << _HOST_BITS))


class Crowd(Generic[T]):
    """The connections of a port by their networks, and the idle ones, which may make room for others.

    Of these, the one that has been idle for longest goes first, of the network with the most connections.
    They may have two ranks, 0 and 1.
    """

    def __init__(self) -> None:
        self._sizes: dict[str, int] = {}
        self._idle: tuple[dict[str, dict[T, None]], ...] = ({}, {})
        """Those of each rank, by their networks."""

    def add(self, network: str) -> None:
        """Count a new connection."""
        self._sizes[network] = self._sizes.get(network, 0) + 1

    def remove(self, network: str, connection: T) -> None:
        """Forget a closed connection."""
        self.busy(network, connection)
        if left := self._sizes[network] - 1:
            self._sizes[network] = left
        else:
            del self._sizes[network]

    def exceeds_its_share(self, network: str, most: int) -> bool:
        """Return whether a network has more than its share of `most` connections. One alone has all of
        them.
        """
        return self._sizes.get(network, 0) * len(self._sizes) > most

    def idle(self, network: str, connection: T, rank: int = 0) -> None:
        """The connection is idle, maybe since an earlier call."""
        self._idle[rank].setdefault(network, {}).setdefault(connection)

    def busy(self, network: str, connection: T) -> None:
        """The connection is busy."""
        for networks in self._idle:
            idle = networks.get(network)
            if idle is not None:
                idle.pop(connection, None)
                if not idle:
                    del networks[network]

    def all_idle(self) -> Iterator[T]:
        """Iterate over the idle connections."""
        return (each for networks in self._idle for idle in networks.values() for each in idle)

    def pop(self, rank: int = 0) -> T | None:
        """Return the connection of a rank that should make room, and no longer count it as idle.

        None if every one serves somebody.
        """
        networks = self._idle[rank]
        if not networks:
            return None
        network = self._largest(networks)
        connection = next(iter(networks[network]))
        del networks[network][connection]
        if not networks[network]:
            del networks[network]
        return connection

    def peek(self, rank: int = 0) -> T | None:
        """Return the connection that `pop` would return, and still count it as idle."""
        networks = self._idle[rank]
        return next(iter(networks[self._largest(networks)])) if networks else None

    def _largest(self, networks: dict[str, dict[T, None]]) -> str:
        return max(islice(networks, _EXAMINED), key=self._sizes.__getitem__)

    def forget_idle(self) -> None:
        """Forget which connections are idle."""
        for networks in self._idle:
            networks.clear()
