"""One HTTP/1.1 connection: h11 parses requests and formats responses, and a task answers one request after
another.

The connection reports to its `Host` whether the port waits for the peer. `check` disconnects a peer that
keeps the port waiting for too long.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from http import HTTPStatus
from typing import Protocol, cast
from urllib.parse import unquote

import h11

from ..runtime.exceptions import report
from .messages import Handler, IncompleteBody, Request, Response

PATIENCE = 10.0
"""Seconds that a peer has for a handshake, for the first request or the rest of one, and for reading part of
a response."""

KEEP_ALIVE = 75
"""Seconds that a connection may be idle; load balancers close theirs earlier."""

_MOST_LINES = 128
"""Lines of a request's head; more are answered 400. h11 takes 4 µs for each, and a head has room for
thousands.
"""

_LARGEST_HEAD = 16_384
"""Bytes of a request's line and headers; more are answered 400. Each connection may hold as much."""


_FAILED_BODY = b"Internal Server Error"
_FAILED = Response(_FAILED_BODY, 500)
_INVALID = Response(b"Invalid HTTP request received.", 400)
_NO_TUNNEL = Response(b"Method Not Allowed\n", 405, allow="GET, HEAD")


class Host(Protocol):
    """The owner of a connection."""

    def waits(self, connection: Connection) -> None:
        """The port waits for the peer, maybe since an earlier call."""
        ...

    def waits_no_more(self, connection: Connection) -> None:
        """The port no longer waits for the peer."""
        ...

    @property
    def buffer(self) -> memoryview:
        """The buffer that the event loop reads into. All connections share it: one is read at a time."""
        ...

    async def turn(self) -> None:
        """Wait until there is time for the next event of a connection."""
        ...

    def lost(self, connection: Connection) -> None:
        """The connection is closed, or its handshake has failed."""
        ...


class _LostError(Exception):
    """The connection is closed."""


class Connection(asyncio.BufferedProtocol):
    """A connection since it was accepted. `task` runs `run`."""

    def __init__(self, host: Host, handler: Handler, accepted: socket.socket, network: str = "") -> None:
        self._host = host
        self._handler = handler
        self._socket = accepted
        self._transport: asyncio.Transport | None = None
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=_LARGEST_HEAD)
        self._peer = ""
        self._lost = asyncio.Event()
        self._data: asyncio.Future[None] | None = None
        """Done when data arrives; the task waits for it."""
        self._room: asyncio.Future[None] | None = None
        """Done when the peer has read enough; None while writing is not paused."""
        self._paused = False
        """Whether reading is paused."""
        self._in_hand = False
        """Whether a request is in flight."""
        self._served = False
        """Whether a request has been answered."""
        self._last = False
        """Whether to close the connection after the response."""
        self._closing = False
        self._heard_at = 0.0
        """When the first byte of the incomplete request arrived; 0 if there is none."""
        self._unread = -1
        """While writing is paused, the bytes that the peer had not read at the last check; else -1."""
        self.task: asyncio.Task[None] | None = None
        self.network = network
        """The network of the peer (networks.py)."""
        self.waits = False
        """Whether the port waits for the peer."""
        self.waiting_since = 0.0
        """When the port began to wait for the peer, by the loop's clock."""

    async def run(self, tls: ssl.SSLContext | None) -> None:
        """Open the transport, with a TLS handshake if there is `tls`, and answer requests until the
        connection is closed.
        """
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: self,
                self._socket,
                ssl=tls,
                ssl_handshake_timeout=PATIENCE if tls is not None else None,
            )
            while await self._exchange():
                pass
            await self._close()
        except (OSError, _LostError):  # the handshake has failed, or the connection is closed
            pass
        except asyncio.CancelledError:
            if self._transport is not None:
                self._transport.close()
            raise
        except Exception as error:
            report("an HTTP connection has failed", error)
            self.abort()

    def ended(self, task: asyncio.Task[None]) -> None:
        """The task has ended, or was cancelled before it began."""
        if self._transport is None:
            self._socket.close()
            self._host.lost(self)

    def finish(self) -> None:
        """Close the connection after the response to the request in flight, if there is one."""
        if self._in_hand:
            self._last = True
        elif self._transport is not None:
            self._transport.close()
        else:
            self.abort()

    def abort(self) -> None:
        """Close the connection at once."""
        if self._transport is not None:
            self._transport.abort()
        elif self.task is not None:
            self.task.cancel()

    def check(self, now: float) -> None:
        """Disconnect the peer if it has kept the port waiting for too long. Called every second meanwhile."""
        waited = now - self.waiting_since
        if self._unread >= 0 and self._transport is not None:
            before, self._unread = self._unread, self._transport.get_write_buffer_size()
            if self._unread < before:
                self.waiting_since = now
            elif waited > PATIENCE:
                self.abort()
        elif self._heard_at:
            if now - self._heard_at > PATIENCE:
                self.abort()
        elif self._closing or not self._served:
            if waited > PATIENCE:
                self.abort()
        elif waited > KEEP_ALIVE + PATIENCE:  # the peer does not confirm the end of TLS
            self.abort()
        elif waited > KEEP_ALIVE:
            self.finish()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        self._peer = peer[0] if isinstance(peer, tuple) else ""

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._lost.set()
        _wake(self._data)
        _wake(self._room)
        self._host.lost(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        """See asyncio.BufferedProtocol. The buffer bounds each read, and all connections share it."""
        return self._host.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """See asyncio.BufferedProtocol."""
        data = bytes(self._host.buffer[:nbytes])
        if not self._heard_at:
            self._heard_at = asyncio.get_running_loop().time()
        self._http.receive_data(data)
        if self._data is not None and not self._data.done():
            self._data.set_result(None)
        elif self._transport is not None:  # pipelined requests, or more of a body than was read
            self._transport.pause_reading()
            self._paused = True

    def pause_writing(self) -> None:
        """See asyncio.Protocol."""
        assert self._transport is not None
        self._room = asyncio.get_running_loop().create_future()
        self._unread = self._transport.get_write_buffer_size()
        self._host.waits(self)

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        _wake(self._room)
        self._room = None
        self._unread = -1
        self._host.waits_no_more(self)

    # The task.

    async def _exchange(self) -> bool:
        """Answer a request. Return whether another one may follow."""
        http = self._http
        try:
            head = cast(h11.Request, await self._event(head=True))
        except h11.RemoteProtocolError:
            await self._send("GET", _INVALID)
            return False
        self._in_hand = True
        method = head.method.decode("ascii")
        await self._send(method, await self._answer(method, head))
        self._in_hand = False
        self._served = True
        try:
            while http.their_state is h11.SEND_BODY:  # discard what the handler did not read
                await self._event()
        except h11.RemoteProtocolError:
            return False
        if self._last or not http.our_state is http.their_state is h11.DONE:
            return False
        http.start_next_cycle()
        self._heard_at = asyncio.get_running_loop().time() if http.trailing_data[0] else 0.0
        return True

    async def _answer(self, method: str, head: h11.Request) -> Response:
        if method == "CONNECT":  # h11 treats every success as the start of a tunnel
            return _NO_TUNNEL
        path, _, query = head.target.decode("latin-1").partition("?")
        try:
            async with aclosing(self._body()) as body:
                request = Request(method, unquote(path), body, query, head.headers, self._peer)
                return await self._handler(request)
        except asyncio.CancelledError:  # at the stop, after the grace period
            self._last = True
            self._send_whole(method, _FAILED, _FAILED_BODY)
            raise
        except Exception as error:
            report("an HTTP request has failed", error)
            return _FAILED

    async def _body(self) -> AsyncGenerator[bytes]:
        """Read the body of the request."""
        http = self._http
        try:
            while http.their_state is h11.SEND_BODY:
                if http.they_are_waiting_for_100_continue:
                    proceed = h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue")
                    self._write(http.send(proceed))
                event = await self._event()
                if isinstance(event, h11.Data):
                    yield bytes(event.data)
        except (h11.RemoteProtocolError, _LostError):
            raise IncompleteBody from None

    async def _event(self, *, head: bool = False) -> h11.Event:
        """Return the next event from the peer. Raises h11.RemoteProtocolError or _LostError."""
        while (event := await self._next_event(head=head)) is h11.NEED_DATA:
            self._check()  # the connection may have been closed while this waited for its turn
            self._data = asyncio.get_running_loop().create_future()
            self._host.waits(self)
            if self._paused and self._transport is not None:
                self._transport.resume_reading()
                self._paused = False
            await self._data
            self._data = None
            self._check()
        self._host.waits_no_more(self)
        return cast(h11.Event, event)

    async def _next_event(self, *, head: bool) -> h11.Event | type[h11.NEED_DATA | h11.PAUSED]:
        await self._host.turn()
        if head and _lines(self._http.trailing_data[0]) > _MOST_LINES:
            raise h11.RemoteProtocolError("the request has too many headers")
        return self._http.next_event()

    async def _send(self, method: str, response: Response) -> None:
        """Send a response with back-pressure."""
        if isinstance(response.body, bytes):
            self._send_whole(method, response, response.body)
        else:
            self._write(self._head(response))
            async with aclosing(response.body) as chunks:
                if method != "HEAD":
                    async for chunk in chunks:
                        self._write(self._http.send(h11.Data(data=chunk)))
                        await self._drained()
            self._write(self._http.send(h11.EndOfMessage()))
        await self._drained()

    def _send_whole(self, method: str, response: Response, body: bytes) -> None:
        head = self._head(response, len(body))
        data = self._http.send(h11.Data(data=b"" if method == "HEAD" else body))
        self._write(b"".join([head, data or b"", self._http.send(h11.EndOfMessage()) or b""]))

    def _head(self, response: Response, length: int | None = None) -> bytes:
        headers = [
            ("date", time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime())),
            ("content-type", response.content_type),
        ]
        if length is not None:
            headers.append(("content-length", str(length)))
        if response.allow:
            headers.append(("allow", response.allow))
        headers += response.headers
        # A peer that waits for 100 Continue may or may not send the body after a final response.
        ending = self._last or self._http.their_state is h11.ERROR
        if ending or self._http.they_are_waiting_for_100_continue:
            headers.append(("connection", "close"))
        reason = HTTPStatus(response.status).phrase
        head = h11.Response(status_code=response.status, headers=headers, reason=reason)
        return self._http.send(head) or b""

    def _write(self, data: bytes | None) -> None:
        self._check()
        if data and self._transport is not None:
            self._transport.write(data)

    async def _drained(self) -> None:
        if self._room is not None:
            await self._room
        self._check()

    def _check(self) -> None:
        if self._lost.is_set():
            raise _LostError

    async def _close(self) -> None:
        """Close the connection after the peer has read everything."""
        self._closing = True
        if self._transport is not None:
            self._transport.close()
        self._host.waits(self)
        await self._lost.wait()


def _wake(waiting: asyncio.Future[None] | None) -> None:
    if waiting is not None and not waiting.done():
        waiting.set_result(None)


def _lines(data: bytes) -> int:
    """Return how many lines the head of a request has, as far as it has arrived."""
    end = data.find(b"\r\n\r\n", 0, _LARGEST_HEAD)
    return data.count(b"\n", 0, end if end >= 0 else _LARGEST_HEAD)
