"""Runs the scripts that no request waits for: for amendments, and for the deletion of counters.

They use the connection of the script calls (wire.py). A call of redis-py does not end when its task is
cancelled, so the process would not stop.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from redis.exceptions import NoScriptError

from ...core.errors import StoreError
from .wire import Wire, ignore


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
"""Runs a script on the server that has its keys. Raises the errors of redis-py, or StoreError."""


def decoded(text: bytes) -> str:
    """Return a text of a reply; bytes that are no UTF-8 are escaped."""
    return text.decode("utf-8", "backslashreplace")


async def run_at(wire: Wire, what: Evaluation, *, asking: bool = False) -> Any:
    """Run a script on one server; `asking` is for a server to which the slot is being moved."""
    script, keys, arguments = what
    for command, text in (("EVALSHA", script.sha), ("EVAL", script.text)):
        if asking:
            wire.call(("ASKING",), ignore)  # if this fails, the next command fails with MOVED
        try:
            return await wire.ask(command, text, len(keys), *keys, *arguments)
        except NoScriptError:
            continue
    raise StoreError("Redis: the script is not known")
