"""Finds out whether all keys behind an address are on one server; some proxies spread keys over several.

Such a proxy (Envoy's redis_proxy, twemproxy) sends a script call to the server that has its first key,
whatever its other keys are. A call with keys of several servers would count all of them on one server, and
the next call, with another first key, on another.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from enum import Enum
from typing import Any

from redis.exceptions import ClusterCrossSlotError, InvalidResponse, ResponseError

from ..lanes import REGISTER_TTL
from .script import evalsha, register
from .wire import Command

_KEYS = 64
"""Calls that read the marker, each with a different first key. If a second server has a tenth of the keys,
the odds that all calls miss it are 1 in 850."""

_MARKER_TTL = 60
"""Seconds for which Redis keeps the marker."""


class Spread(Enum):
    """How keys are spread over the servers behind an address."""

    UNKNOWN = "not known yet: treated as TAGS, which is always correct"
    ONE = "all keys are on one server"
    SLOTS = "by Redis Cluster's slots: a call with keys of several slots is refused"
    TAGS = "by a proxy's own hash of a key, or of the text between its braces"


async def find_out(ask: Callable[[Command], Awaitable[Any]], prefix: str) -> Spread:
    """Return how keys are spread. `ask` sends a command, and returns or raises the reply.

    UNKNOWN if Redis does not count now, because it is full or read-only. Raises an error of redis-py if that
    leaves the answer open.
    """
    found = await _try_keys(ask, prefix)
    if found is Spread.TAGS:  # a FLUSHALL or a failover may have removed the marker
        found = await _try_keys(ask, prefix)
    return found


async def _try_keys(ask: Callable[[Command], Awaitable[Any]], prefix: str) -> Spread:
    """Count a marker, and read it by calls with other first keys; another server would not have it.

    All keys are named like registers, so that an ACL need not allow other keys. The rest of each name is
    random: some proxies (twemproxy with FNV-1a) put names that differ only at their ends on the same server.
    """
    marker, *others = [register(prefix, f"probe-{uuid.uuid4().hex}") for _ in range(1 + _KEYS)]
    try:
        before = await ask(evalsha(2, marker, marker, "", REGISTER_TTL, 1, _MARKER_TTL))
    except ClusterCrossSlotError:
        return Spread.SLOTS
    if before != [0]:
        return Spread.UNKNOWN
    commands = [evalsha(3, other, marker, marker, "", REGISTER_TTL, 0, 0) for other in others]
    replies = await asyncio.gather(*map(ask, commands), return_exceptions=True)
    errors = [reply for reply in replies if isinstance(reply, BaseException)]
    if any(isinstance(error, ClusterCrossSlotError) for error in errors):
        return Spread.SLOTS
    for error in errors:
        # If one of several servers is away, the proxy answers calls with keys of that server with an error
        # reply.
        if len(errors) == len(replies) or not isinstance(error, ResponseError):
            raise error
    found = [reply[1] if isinstance(reply, list) and len(reply) == 2 else None for reply in replies]
    if not errors and None in found:
        raise InvalidResponse(f"the script replied {replies[found.index(None)]!r}")
    return Spread.ONE if all(count == 1 for count in found) else Spread.TAGS
