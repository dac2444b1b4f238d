"""A call of hit.lua: what it is told, and what its reply means."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib import resources

from redis.exceptions import AskError

from ..core.decision import Count
from ..core.errors import StoreError
from ..core.model import HELD_BACK, Hit
from .settling import REGISTER_TTL, Batch

SCRIPT = resources.files(__package__).joinpath("hit.lua").read_bytes()
SHA = hashlib.sha1(SCRIPT, usedforsecurity=False).hexdigest()

Arguments = tuple[list[str], list[str | int]]
"""KEYS and ARGV."""


def arguments(batch: Batch, tag: str = "") -> Arguments:
    """What the script is told. With `tag`, the lane's register is in the slot of that text."""
    keys: list[str] = []
    amounts: list[str | int] = [batch.number, REGISTER_TTL]
    gates: list[str | int] = []
    writes = False
    for group in batch.groups:
        if any([hit.gate & HELD_BACK for hit in group]):
            gates += (len(keys) + 1, len(group))
            for hit in group:
                gates += (int(hit.gate), hit.limit)
        for hit in group:
            keys.append(hit.key)
            amounts += (hit.amount, hit.ttl)
            writes = writes or hit.amount != 0
    if not writes:
        amounts[0] = ""
    keys.append(register(batch.lane, keys[0], tag))
    return keys, amounts + gates


def register(lane: str, key: str, tag: str = "") -> str:
    """The key of a lane's register: it has the prefix that `key` has before its brace, for Redis may ask for one (ACL)."""
    prefix, brace, _ = key.partition("{")
    name = f"{prefix}lane:{lane}" if brace else f"lane:{lane}"
    return f"{name}{{{tag}}}" if tag else name


def counts(groups: Sequence[Sequence[Hit]], replies: Sequence[int | bytes]) -> list[list[Count]]:
    """What the script replied, by group."""
    flat: list[Count] = [
        reply if isinstance(reply, int) else StoreError(f"Redis refused a counter: {_text(reply)}")
        for reply in replies
    ]
    split: list[list[Count]] = []
    at = 0
    for group in groups:
        split.append(flat[at : at + len(group)])
        at += len(group)
    return split


def failure(error: Exception) -> StoreError:
    """An error of redis-py as callers see it. Its own texts name hosts and ports, never credentials."""
    if isinstance(error, StoreError):
        return error
    if isinstance(error, AskError):  # or MOVED, which is one
        return StoreError(
            "Redis: this is a server of a Cluster, which has others beside it: set REDIS_TYPE=CLUSTER"
        )
    return StoreError(
        f"Redis: {type(error).__name__}: {error}" if str(error) else f"Redis: {type(error).__name__}"
    )


def _text(reply: object) -> str:
    return reply.decode("utf-8", "backslashreplace") if isinstance(reply, bytes) else str(reply)
