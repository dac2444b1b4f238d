"""The calls of batches for a Cluster that go to one server, sent in one write."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import Any

from ...runtime.exceptions import report
from ..batch import Batch, OnApplied, OnEachApplied
from .script import ScriptCall, plain_command, plain_count
from .slots import tag_in
from .wire import Command, Wire

OnOtherReply = Callable[[Batch, ScriptCall | None, Any, OnApplied], None]
"""Called with a batch, its call, and the reply, unless that is the count of a plain batch."""


class Pipeline:
    """The calls of batches for one server.

    A batch of one charge or check, as nearly all for a Cluster are, has no ScriptCall and no callback of its
    own: `on_applied` gets its counts with its number. `on_other_reply` gets all other replies. `observe` gets
    the seconds until all replies are there.
    """

    __slots__ = (
        "_batches",
        "_calls",
        "_commands",
        "_numbers",
        "_observe",
        "_on_applied",
        "_on_done",
        "_on_other_reply",
        "_started",
    )

    def __init__(
        self, observe: Callable[[float], None], on_applied: OnEachApplied, on_other_reply: OnOtherReply
    ) -> None:
        self._observe = observe
        self._on_applied = on_applied
        self._on_other_reply = on_other_reply
        self._numbers: list[int] = []
        self._batches: list[Batch] = []
        self._calls: list[ScriptCall | None] = []
        self._commands: list[Command] = []

    def add(self, number: int, batch: Batch, prefix: str) -> None:
        """Add the call of a batch, whose place is a slot. All keys begin with `prefix`."""
        # A check has no lane, so its command needs no tag.
        tag = "" if batch.sent is None else tag_in(int(batch.place))
        call, command = None, plain_command(batch, prefix, tag)
        if command is None:
            call = ScriptCall(batch, prefix, tag)
            command = call.command
        self._numbers.append(number)
        self._batches.append(batch)
        self._calls.append(call)
        self._commands.append(command)

    def send(self, wire: Wire, on_done: Callable[[], None]) -> None:
        """Send the calls. `on_done` is called when all replies have been passed on."""
        self._on_done = on_done
        self._started = perf_counter()
        wire.call_each(self._commands, self._on_replies)

    def _on_replies(self, replies: list[Any]) -> None:
        try:
            self._observe(perf_counter() - self._started)
            calls = zip(self._numbers, self._batches, self._calls, self._commands, replies, strict=True)
            for number, batch, call, command, reply in calls:
                try:
                    before = plain_count(command, reply) if call is None else None
                    if before is not None:
                        self._on_applied(number, [[before]])
                    else:
                        self._on_other_reply(batch, call, reply, partial(self._on_applied, number))
                except Exception as error:  # those of other callers must not be lost
                    report("a reply of Redis could not be processed", error)
        finally:
            self._on_done()
