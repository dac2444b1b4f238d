"""Sends a call of hit.lua, and sends it again with the script if the server does not have that."""

from __future__ import annotations

from typing import Any

from redis.exceptions import NoScriptError

from .script import SCRIPT
from .wire import Command, OnReply, Wire, ignore


def evaluate(wire: Wire, command: Command, on_reply: OnReply, *, asking: bool = False) -> None:
    """Send a command made by `evalsha`, and send it again with the script if the server does not have that.

    `asking` is for a server to which the slot is being moved.
    """

    def on_first_reply(reply: Any) -> None:
        if isinstance(reply, NoScriptError):
            evaluate_whole(wire, command, on_reply, asking=asking)
        else:
            on_reply(reply)

    _send(wire, command, on_first_reply, asking)


def evaluate_whole(wire: Wire, command: Command, on_reply: OnReply, *, asking: bool = False) -> None:
    """Send a command that got NOSCRIPT with the script: nothing was applied, the server is new or got SCRIPT
    FLUSH.
    """
    _send(wire, ("EVAL", SCRIPT, *command[2:]), on_reply, asking)


def _send(wire: Wire, command: Command, on_reply: OnReply, asking: bool) -> None:
    if asking:
        wire.call(("ASKING",), ignore)  # if this fails, the next command fails with MOVED
    wire.call(command, on_reply)
