"""Networks of peers: the unit of fairness between strangers.

A gateway has one address and several connections; so has an attacker. Fairness between connections alone would give an
attacker as much as it opens connections.
"""

from __future__ import annotations

import ipaddress

_HOST_BITS = 64
"""Bits of an IPv6 address that one host may choose freely."""


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
