"""A minimal HTTP/1.1 client and server for the soak, with Envoy between them, in a tenth of the CPU of
complete ones.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping

_PATIENCE = 60.0
"""Seconds that an answer may take."""


class Client:
    """Posts to the gateway at "127.0.0.1:43211", over connections that are used again."""

    def __init__(self, address: str) -> None:
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def post(self, path: str, headers: Mapping[str, str], body: bytes, *, hang_up: bool = False) -> int:
        """Return the status of the answer, after reading it to its end; with `hang_up`, abort a 200 after its
        first bytes.

        Raises OSError, EOFError, TimeoutError, or ValueError where the answer is none.
        """
        async with asyncio.timeout(_PATIENCE):
            reader, writer = (
                self._free.pop() if self._free else await asyncio.open_connection(self._host, self._port)
            )
            whole = False
            try:
                lines = [f"POST {path} HTTP/1.1", "host: llm", f"content-length: {len(body)}"]
                lines += [f"{name}: {value}" for name, value in headers.items()]
                writer.write("\r\n".join([*lines, "", ""]).encode() + body)
                first, answered = _head(await reader.readuntil(b"\r\n\r\n"))
                status = int(first.split()[1])
                if hang_up and status == 200:
                    await reader.readuntil(b"\n\n")
                    return status
                if "chunked" in answered.get("transfer-encoding", ""):
                    while size := int(await reader.readuntil(b"\r\n"), 16):
                        await reader.readexactly(size + 2)
                    await reader.readexactly(2)
                else:
                    await reader.readexactly(int(answered["content-length"]))
                whole = answered.get("connection", "") != "close"
                return status
            finally:
                if whole:
                    self._free.append((reader, writer))
                else:
                    writer.close()

    def close(self) -> None:
        """Close the connections."""
        for _, writer in self._free:
            writer.close()


class Provider:
    """Answers chat completions that cost `x-mock-tokens`, as JSON or, if the body requests it, as a stream.

    With `x-mock-endless` the stream stops after its first event, until the caller hangs up.
    """

    def __init__(self) -> None:
        self._server: asyncio.Server | None = None
        self._at_work: set[asyncio.Task[None]] = set()
        self.port = 0

    async def start(self) -> None:
        """Open a port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def close(self) -> None:
        """Close it, and every connection."""
        if self._server is not None:
            self._server.close()
        for task in self._at_work:
            task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._at_work.add(task)
        try:
            while await self._answer(reader, writer):
                pass
        except (OSError, EOFError, asyncio.CancelledError):
            pass  # Envoy has closed the connection, as it does where a caller hangs up
        finally:
            self._at_work.discard(task)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer a request; return whether there may be another one on this connection."""
        _, headers = _head(await reader.readuntil(b"\r\n\r\n"))
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        total = int(headers["x-mock-tokens"])
        usage = {
            "prompt_tokens": total // 4,
            "completion_tokens": total - total // 4,
            "total_tokens": total,
        }
        if not json.loads(body).get("stream"):
            choice = {"index": 0, "message": {"role": "assistant", "content": "Hello!"}}
            answer = json.dumps({"object": "chat.completion", "choices": [choice], "usage": usage}).encode()
            writer.write(_ok("application/json", f"content-length: {len(answer)}") + answer)
            return True
        writer.write(_ok("text/event-stream", "transfer-encoding: chunked"))
        writer.write(_event({"choices": [{"index": 0, "delta": {"content": "Hel"}}], "usage": None}))
        if "x-mock-endless" in headers:
            await reader.read()
            return False
        await asyncio.sleep(0)
        writer.write(_event({"choices": [{"index": 0, "delta": {"content": "lo!"}}], "usage": None}))
        writer.write(_event({"choices": [], "usage": usage}) + _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")
        return True


def _head(text: bytes) -> tuple[str, dict[str, str]]:
    """The first line of a message, and its headers, with their names in lower case."""
    first, *lines = text.decode("latin-1").split("\r\n")[:-2]
    pairs = (line.partition(":") for line in lines)
    return first, {name.lower(): value.strip() for name, _, value in pairs}


def _ok(content_type: str, length: str) -> bytes:
    return f"HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\n{length}\r\n\r\n".encode()


def _event(event: object) -> bytes:
    return _chunk(f"data: {json.dumps(event)}\n\n".encode())


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)
