"""How many files the process may have open, and how the connections of its ports share them.

A connection is a descriptor. Without a bound below the limit of the process, whoever opens enough connections to one port takes
the descriptors that health checks, Redis and the reading of rules need.
"""

from __future__ import annotations

import contextlib
import resource
from typing import NamedTuple

_OWN = 96
"""Descriptors for everything but connections to our ports and to Redis: the event loop and those of grpc, listening sockets, logs,
files and the pipes of the process that reads rules, and connections that are being closed for others."""

_HTTP_PART = 16
"""Of what is left, each HTTP port has one part in so many."""

_MOST_HTTP = 1_000
"""And no more than this."""

_LEAST = 4
"""Connections that each port has in any case: where even these are too many, there will be no descriptors for a time."""


class Shares(NamedTuple):
    """The most connections to the gRPC port, and to each HTTP port."""

    grpc: int
    http: int


def raise_limit() -> None:
    """Raise the limit of open files to what the process may raise it to by itself (the soft one to the hard one), as Go does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):  # some systems have a limit below the hard one
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def limit() -> int:
    """The most files that the process may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 2**31 - 1 if soft == resource.RLIM_INFINITY else soft


def shared(most: int, *, grpc: int, http_ports: int, redis: int) -> Shares:
    """Share `most` descriptors: to gRPC go at most `grpc`, to Redis `redis`."""
    left = most - _OWN - redis
    http = max(_LEAST, min(_MOST_HTTP, left // _HTTP_PART))
    return Shares(max(_LEAST, min(grpc, left - http_ports * http)), http)
