"""What an error of Redis says about the call that it answers: whether anything was applied, and what can follow.

The table is here, and docs/reliability.md has it in words. A refusal is listed only where Redis checks before the script
begins, or where the script's first command, which writes the register, fails and ends it (hit.lua). Every other error may
come after something was applied; such a call is settled under its number (layers/settling.py).
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
    """An error as a value that is passed on: without its traceback, and without those of its causes.

    Their frames hold the batch that failed, and often the error itself. Such a cycle stays until a full collection, of which
    there are next to none (app.py).
    """
    error.__traceback__ = error.__cause__ = error.__context__ = None
    return error


class NotSent(RedisConnectionError):
    """There is no connection, because of `cause`: nothing was sent."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = bare(cause)


_FATES: tuple[tuple[type[Exception], Fate], ...] = (
    (NotSent, Fate.REFUSED),
    (NoPermissionError, Fate.FORBIDDEN),  # an ACL names keys and commands; settling.py finds out which it is
    (
        OutOfMemoryError,
        Fate.REFUSED,
    ),  # maxmemory: checked before the first write of a script, and then no more
    (ReadOnlyError, Fate.REFUSED),  # a replica
    (MasterDownError, Fate.REFUSED),  # a replica without its primary, that does not serve stale data
    (BusyLoadingError, Fate.REFUSED),  # LOADING: it has just started
    (AuthenticationError, Fate.REFUSED),  # NOAUTH, WRONGPASS
    (NoScriptError, Fate.REFUSED),
    (ClusterDownError, Fate.REFUSED),
    (TryAgainError, Fate.REFUSED),  # a slot half way to another server
    (AskError, Fate.REFUSED),  # or MOVED, its subclass: the slot is on another server
    (ClusterCrossSlotError, Fate.REFUSED),
)

_FATES_OF_TEXTS = {
    "no upstream host": Fate.REFUSED,  # Envoy's redis_proxy has nobody to send it to
    # The first word is enough for these.
    "MISCONF": Fate.REFUSED,  # a snapshot failed, and Redis accepts no writes until one succeeds
    "NOREPLICAS": Fate.REFUSED,  # fewer replicas than min-replicas-to-write
    "BUSY": Fate.REFUSED,  # another script has been running for too long
    "WRONGTYPE": Fate.BAD_LANE,  # the register: a counter of another type fails its own hit (hit.lua)
    "unknown": Fate.REFUSED,  # unknown command 'EVALSHA': rename-command, or a proxy
    "Unknown": Fate.REFUSED,  # Unknown Redis command called from script: SET, of the register
}
"""By the text of an error that redis-py has no class for, or the first word of it."""


def fate_of(error: Exception) -> Fate:
    """What became of a call that failed with `error`."""
    for kind, fate in _FATES:
        if isinstance(error, kind):
            return fate
    if isinstance(error, ResponseError):
        text = str(error)
        return _FATES_OF_TEXTS.get(text) or _FATES_OF_TEXTS.get(text.partition(" ")[0], Fate.UNCLEAR)
    return Fate.UNCLEAR if isinstance(error, InvalidResponse) else Fate.LOST


def failure(error: Exception, *, partly: bool = False) -> StoreError:
    """An error of redis-py as callers see it. Its own texts name hosts and ports, never credentials."""
    if isinstance(error, StoreError):
        return error
    fate = fate_of(error)
    if isinstance(error, AskError):
        why = "this is a server of a Cluster, which has others beside it: set REDIS_TYPE=CLUSTER"
    else:
        shown = error.cause if isinstance(error, NotSent) else error
        why = f"{type(shown).__name__}: {shown}" if str(shown) else type(shown).__name__
    return CallFailed(f"Redis: {why}", fate, partly=partly)
