"""The meaning of each error of Redis: whether anything of the call was applied, and whether to repeat it.

docs/reliability.md has this table in words. An error is listed as a refusal only if Redis reports it before
the script begins, or if it ends the script at its first command, which writes the register (hit.lua). Every
other error may come after something was applied, so its batch is settled under its number
(layers/settling.py).
"""

from __future__ import annotations

from typing import TypeVar

from redis.exceptions import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
    ClusterCrossSlotError,
    ClusterDownError,
    InvalidResponse,
    MasterDownError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError

from ...core.errors import StoreError
from ..batch import CallFailed, Fate

E = TypeVar("E", bound=Exception)


def bare(error: E) -> E:
    """Return an error without its traceback and its causes, to be passed on as a value.

    The frames of a traceback refer to the batch that failed, and often to the error itself. Such a cycle
    stays until a full garbage collection, which is rare (runtime/garbage.py).
    """
    error.__traceback__ = error.__cause__ = error.__context__ = None
    return error


class NotSent(RedisConnectionError):
    """There was no connection, because of `cause`, and nothing was sent."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = bare(cause)


_FATES: tuple[tuple[type[Exception], Fate], ...] = (
    (NotSent, Fate.REFUSED),
    (NoPermissionError, Fate.FORBIDDEN),  # an ACL of keys or of commands: forbidden_keys.py finds out
    (OutOfMemoryError, Fate.REFUSED),  # maxmemory: checked before a script's first write, and not after it
    (ReadOnlyError, Fate.REFUSED),  # a replica
    (MasterDownError, Fate.REFUSED),  # a replica without its primary, which serves no stale data
    (BusyLoadingError, Fate.REFUSED),  # LOADING: the server has just started
    (AuthenticationError, Fate.REFUSED),  # NOAUTH, WRONGPASS
    (NoScriptError, Fate.REFUSED),
    (ClusterDownError, Fate.REFUSED),
    (TryAgainError, Fate.REFUSED),  # a slot that is moving to another server
    (AskError, Fate.REFUSED),  # or MOVED, its subclass: the slot is on another server
    (ClusterCrossSlotError, Fate.REFUSED),
)

_FATES_OF_TEXTS = {
    "no upstream host": Fate.REFUSED,  # Envoy's redis_proxy has no server to send it to
    # These match by their first word.
    "MISCONF": Fate.REFUSED,  # a snapshot failed, and Redis accepts no writes until one succeeds
    "NOREPLICAS": Fate.REFUSED,  # fewer replicas than min-replicas-to-write
    "BUSY": Fate.REFUSED,  # another script is running for too long
    "WRONGTYPE": Fate.BAD_LANE,  # of the register: a counter of another type fails only its own hit (hit.lua)
    "unknown": Fate.REFUSED,  # unknown command 'EVALSHA': renamed, or a proxy that does not have it
    "Unknown": Fate.REFUSED,  # Unknown Redis command called from script: SET, for the register
}
"""The fates of errors without a class in redis-py, by the whole text or by its first word."""


def fate_of(error: Exception) -> Fate:
    """Return what a call that failed with `error` did to the counters."""
    for kind, fate in _FATES:
        if isinstance(error, kind):
            return fate
    if isinstance(error, ResponseError):
        text = str(error)
        return _FATES_OF_TEXTS.get(text) or _FATES_OF_TEXTS.get(text.partition(" ")[0], Fate.UNCLEAR)
    return Fate.UNCLEAR if isinstance(error, InvalidResponse) else Fate.LOST


def failure(error: Exception, *, partly: bool = False) -> StoreError:
    """Return an error of redis-py as callers see it.

    The texts of redis-py name hosts and ports, never credentials.
    """
    if isinstance(error, StoreError):
        return error
    fate = fate_of(error)
    if isinstance(error, AskError):
        why = "this is a server of a Cluster, which has others beside it: set REDIS_TYPE=CLUSTER"
    else:
        shown = error.cause if isinstance(error, NotSent) else error
        why = f"{type(shown).__name__}: {shown}" if str(shown) else type(shown).__name__
    return CallFailed(f"Redis: {why}", fate, partly=partly)
