"""Messages between the supervisor and a worker, over a pair of connected sockets.

A message is its length and a pickle of (kind, number, name, arguments). The sockets have no address, so no
other process can send one.
"""

from __future__ import annotations

import asyncio
import pickle
import socket
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

from ..runtime.exceptions import report

_LENGTH = 4
"""The bytes of the length before each message, in big-endian order."""

_TELL, _ASK, _ANSWER, _FAIL = range(4)


class LinkError(Exception):
    """The other end has ended, has failed, or does not answer in time."""


class Failed(LinkError):
    """The other end has answered that it failed."""


class Link:
    """One end. `handlers` has the function for each message; those for questions are coroutine functions.

    `ended` is called when the other end has closed the link, as its process does when it ends.
    """

    def __init__(
        self, handlers: Mapping[str, Callable[..., Any]], ended: Callable[[], None] = lambda: None
    ) -> None:
        self._handlers = handlers
        self._ended = ended
        self._numbers = count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._writer: asyncio.StreamWriter | None = None

    async def open(self, end: socket.socket) -> None:
        """Exchange messages over this socket from now on."""
        reader, self._writer = await asyncio.open_unix_connection(sock=end)
        self._start(self._read(reader))

    def tell(self, name: str, *arguments: Any) -> None:
        """Send a message. Messages arrive in their order; after the end of the other side they are lost."""
        self._send(_TELL, 0, name, arguments)

    async def ask(self, name: str, *arguments: Any, patience: float | None = None) -> Any:
        """Send a question, and return the answer. Raises LinkError, after `patience` seconds at the
        latest.
        """
        number = next(self._numbers)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            self._send(_ASK, number, name, arguments)
            async with asyncio.timeout(patience):
                return await answer
        except TimeoutError:
            raise LinkError(f"{name}: no answer within {patience:g} s") from None
        finally:
            self._waiting.pop(number, None)

    async def close(self) -> None:
        """Close this end."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._writer is not None:
            self._writer.close()

    def _send(self, kind: int, number: int, name: str, content: Any) -> None:
        writer = self._writer
        if writer is None or writer.is_closing():
            if kind == _ASK:
                raise LinkError(f"{name}: the link is closed")
            return
        message = pickle.dumps((kind, number, name, content), pickle.HIGHEST_PROTOCOL)
        writer.write(len(message).to_bytes(_LENGTH, "big") + message)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while True:
                length = int.from_bytes(await reader.readexactly(_LENGTH), "big")
                self._take(*pickle.loads(await reader.readexactly(length)))  # noqa: S301  # from our own code
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            if self._writer is not None:
                self._writer.close()
            for answer in self._waiting.values():
                if not answer.done():
                    answer.set_exception(LinkError("the other process has ended"))
        self._ended()

    def _take(self, kind: int, number: int, name: str, content: Any) -> None:
        if kind == _ASK:
            self._start(self._answer(number, name, content))
        elif kind == _TELL:
            try:
                self._handlers[name](*content)
            except Exception as error:
                report(f"a message between processes failed: {name}", error)
        elif (answer := self._waiting.get(number)) is not None and not answer.done():
            if kind == _ANSWER:
                answer.set_result(content)
            else:
                answer.set_exception(Failed(f"{name}: {content}"))

    async def _answer(self, number: int, name: str, arguments: Any) -> None:
        try:
            self._send(_ANSWER, number, name, await self._handlers[name](*arguments))
        except Exception as error:
            report(f"a question between processes failed: {name}", error)
            self._send(_FAIL, number, name, f"{type(error).__name__}: {error}")

    def _start(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
