"""The limit of open files, and how the connections of all ports share it.

A connection takes a descriptor. Without a bound below the limit of the process, connections to one port could
take the descriptors that health checks, Redis and the loading of rules need.
"""

from __future__ import annotations

import contextlib
import resource
from typing import NamedTuple

_OWN = 96
"""Descriptors for everything except connections to the ports and to Redis: event loops, listening sockets,
logs, files, the pipes of the process that reads rules, and connections that are closing."""

_HTTP_PART = 16
"""Each HTTP port gets this fraction (1/16) of the rest."""

_MOST_HTTP = 1_000
"""The most connections of an HTTP port."""

_LEAST = 4
"""The fewest connections of a port. If even these exceed the limit, connections fail until descriptors are
free."""


class Shares(NamedTuple):
    """The most connections to the gRPC port, and to each HTTP port."""

    grpc: int
    http: int


def raise_limit() -> None:
    """Raise the soft limit of open files to the hard limit, as Go does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):  # some systems refuse values below the hard limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def limit() -> int:
    """Return the limit of open files."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 2**31 - 1 if soft == resource.RLIM_INFINITY else soft


def shared(most: int, *, grpc: int, http_ports: int, redis: int) -> Shares:
    """Share `most` descriptors: gRPC gets at most `grpc`, Redis gets `redis`."""
    left = most - _OWN - redis
    http = max(_LEAST, min(_MOST_HTTP, left // _HTTP_PART))
    return Shares(max(_LEAST, min(grpc, left - http_ports * http)), http)
