"""Scripts that people wait for, not requests: amendments, and what deletes counters. redis-py carries their calls."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

import redis.asyncio as aioredis
from redis.exceptions import NoScriptError

from ...core.errors import StoreError


class Script(NamedTuple):
    """A script, and the digest by which Redis knows it."""

    text: bytes
    sha: str


def script(text: bytes) -> Script:
    """Return a script with its digest."""
    return Script(text, hashlib.sha1(text, usedforsecurity=False).hexdigest())


class Evaluation(NamedTuple):
    """A script with its KEYS and ARGV."""

    script: Script
    keys: Sequence[str]
    arguments: Sequence[str | int]


Run = Callable[[Evaluation], Awaitable[Any]]
"""Runs a script on the server that has its keys. Raises what redis-py does, or StoreError."""


async def run_at(client: aioredis.Redis, what: Evaluation, *, asking: bool = False) -> Any:
    """Run a script on one server; with `asking`, on one that is just being given the slot."""
    script, keys, arguments = what
    for command, text in (("EVALSHA", script.sha), ("EVAL", script.text)):
        pipeline = client.pipeline(transaction=False)
        if asking:
            pipeline.execute_command("ASKING")
        pipeline.execute_command(command, text, len(keys), *keys, *arguments)
        try:
            return (await pipeline.execute())[-1]
        except NoScriptError:
            continue
    raise StoreError("Redis: the script is not known")
