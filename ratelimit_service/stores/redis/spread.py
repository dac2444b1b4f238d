"""Whether all keys behind an address are on one server: some proxies spread them over several, and say nothing of it.

Such a proxy (Envoy's redis_proxy, twemproxy) sends a script call to the server that has its first key, whatever its other keys
are. One call for keys of several servers would count on one of them, and the next call, with another key in front, on another.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from enum import Enum
from typing import Any

from redis.exceptions import ClusterCrossSlotError, InvalidResponse, ResponseError

from ..batch import REGISTER_TTL
from .script import Arguments, register

_KEYS = 64
"""How many keys are looked at from: with two servers, one of which has a tenth of the keys, the odds to miss it are 1 in 850."""

_MARKER_TTL = 60


class Spread(Enum):
    """How keys are spread over the servers behind an address."""

    UNKNOWN = "not known yet: as TAGS, which is right in every case"
    ONE = "all keys are on one server"
    SLOTS = "by Redis Cluster's slots: a call with keys of several slots is refused"
    TAGS = "by a proxy's own hash of a key, or of the text between its braces"


async def find_out(ask: Callable[[Arguments], Awaitable[Any]], prefix: str) -> Spread:
    """How keys are spread. `ask` runs hit.lua with these arguments, and returns or raises what is replied.

    UNKNOWN where Redis does not count now (it is full, or read-only). Raises what redis-py does where that does not tell.
    """
    found = await _look(ask, prefix)
    if (
        found is Spread.TAGS
    ):  # once more: the marker may have been lost by itself, to a FLUSHALL or a failover
        found = await _look(ask, prefix)
    return found


async def _look(ask: Callable[[Arguments], Awaitable[Any]], prefix: str) -> Spread:
    """Count one key, and read it in calls with another key in front: on another server it is not there.

    All keys are registers by their names, so that an ACL need not allow others. The names have nothing in common beyond
    that: texts that differ at their ends have similar hashes in some proxies (FNV-1a of twemproxy), and the same server.
    """
    marker, *others = [register(prefix, f"probe-{uuid.uuid4().hex}") for _ in range(1 + _KEYS)]
    try:
        before = await ask((2, marker, marker, "", REGISTER_TTL, 1, _MARKER_TTL))
    except ClusterCrossSlotError:
        return Spread.SLOTS
    if before != [0]:
        return Spread.UNKNOWN
    from_others = [ask((3, other, marker, marker, "", REGISTER_TTL, 0, 1, 0, 1)) for other in others]
    replies = await asyncio.gather(*from_others, return_exceptions=True)
    wrong = [reply for reply in replies if isinstance(reply, BaseException)]
    if any(isinstance(error, ClusterCrossSlotError) for error in wrong):
        return Spread.SLOTS
    for error in wrong:
        # Where a server of several is away, the proxy says so for the keys of that one.
        if len(wrong) == len(replies) or not isinstance(error, ResponseError):
            raise error
    seen = [reply[1] if isinstance(reply, list) and len(reply) == 2 else None for reply in replies]
    if not wrong and None in seen:
        raise InvalidResponse(f"the script replied {replies[seen.index(None)]!r}")
    return Spread.ONE if all(count == 1 for count in seen) else Spread.TAGS
