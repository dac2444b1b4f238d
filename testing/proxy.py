"""A TCP proxy that can cut connections at any byte, delay data, and forget connections."""

from __future__ import annotations

import asyncio
import contextlib
import math


class Proxy:
    """Forwards connections from 127.0.0.1:`port` to 127.0.0.1:`target`; a new target applies to new
    connections.

    `cut_replies_after` bytes of a reply it cuts the connection, and does so to `cuts` connections;
    `cut_requests_after` does the same for requests. `delay` seconds pass before bytes are forwarded in either
    direction. Like a firewall, it forgets a connection that was idle for `forgets_after` seconds: it silently
    drops all further data.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._passing: set[asyncio.Task[None]] = set()
        self.port = 0
        self.cut_replies_after: int | None = None
        self.cut_requests_after: int | None = None
        self.cuts = 0
        self.delay = 0.0
        self.forgets_after: float | None = None
        self.forgotten = 0
        """The number of forgotten connections."""
        self._seen: dict[asyncio.StreamWriter, float] = {}
        """The time of the last data of a connection's end, by the loop's clock."""

    async def start(self) -> None:
        """Listen on a free port."""
        self._server = await asyncio.start_server(self._pass_on, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Cut every connection, and stop listening."""
        assert self._server is not None
        self._server.close()
        self.cut_all()
        if self._passing:
            await asyncio.wait(self._passing)

    def cut_all(self) -> None:
        """Cut every open connection."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    def forget_all(self) -> None:
        """Forget every open connection."""
        self._seen = dict.fromkeys(self._writers, -math.inf)

    def _knows(self, ends: set[asyncio.StreamWriter]) -> bool:
        now = asyncio.get_running_loop().time()
        seen = max(self._seen.get(end, now) for end in ends)
        if seen == -math.inf or (self.forgets_after is not None and now > seen + self.forgets_after):
            self.forgotten += seen != -math.inf
            self._seen.update(dict.fromkeys(ends, -math.inf))
            return False
        self._seen.update(dict.fromkeys(ends, now))
        return True

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._passing.add(task)
        task.add_done_callback(self._passing.discard)
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        ends = {writer, back}
        self._writers |= ends
        with contextlib.suppress(ConnectionError):
            await asyncio.gather(
                self._pump(reader, back, ends, reply=False), self._pump(there, writer, ends, reply=True)
            )
        for end in ends:
            end.transport.abort()
            self._seen.pop(end, None)
        self._writers -= ends

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        ends: set[asyncio.StreamWriter],
        *,
        reply: bool,
    ) -> None:
        """Forward each piece of data `delay` after its arrival."""
        loop = asyncio.get_running_loop()
        in_flight: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def read() -> None:
            data = b"..."
            while data:
                try:
                    data = await reader.read(65_536)
                except ConnectionError:
                    data = b""
                in_flight.put_nowait((loop.time() + self.delay, data))

        reading = asyncio.create_task(read())
        try:
            while True:
                due, data = await in_flight.get()
                if not data:
                    break
                if due > loop.time():
                    await asyncio.sleep(due - loop.time())
                if not self._knows(ends):
                    continue
                after = self.cut_replies_after if reply else self.cut_requests_after
                if after is not None and self.cuts > 0:
                    self.cuts -= 1
                    writer.write(data[:after])
                    with contextlib.suppress(ConnectionError):
                        await writer.drain()
                    break
                writer.write(data)
                await writer.drain()
        finally:
            reading.cancel()
        for end in ends:
            end.close()
