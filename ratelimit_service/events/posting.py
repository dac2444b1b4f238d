"""The HTTP client of deliveries, which bounds what a receiver can cost the event loop.

A receiver may answer with headers or informational responses (1xx) without end. h11 parses in one step
whatever has been read, which takes 50 ms for 24,000 short headers: no call is answered meanwhile. So little
is read at once, with turns of the event loop in between, and the head of a response has a bound. A body is
not read.

httpx and httpcore are imported with this module, in some 100 ms: import it in a thread.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Mapping
from typing import Any, Final

import anyio
import httpcore
import httpx

LONGEST_HEAD: Final = 8_192
"""Bytes of a response up to the end of its headers, informational responses included."""

_READ_AT_ONCE: Final = 1_024

ERRORS: Final = (
    httpx.HTTPError,
    httpx.InvalidURL,
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.TimeoutException,
    httpcore.UnsupportedProtocol,
    OSError,
    ValueError,
)
"""What `post` raises if there is no response."""


async def post(client: httpx.AsyncClient, url: str, body: bytes, headers: Mapping[str, str]) -> int:
    """Send a request, and return the status of its response."""
    return (await client.post(url, content=body, headers=headers)).status_code


def make_client(timeout: float, verify: ssl.SSLContext | None) -> httpx.AsyncClient:
    """Return a client with one connection, which trusts the CAs of `verify`, or those that httpx trusts.

    Reading these takes some 60 ms of CPU.
    """
    anyio.run(anyio.sleep, 0)  # imports its part for asyncio
    return httpx.AsyncClient(
        transport=_Transport(verify or httpx.create_ssl_context(trust_env=False)),
        timeout=timeout,
        follow_redirects=False,
        trust_env=False,
    )


class _Transport(httpx.AsyncBaseTransport):
    """Sends requests with httpcore, as httpx itself does, and returns only the status of responses."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=context,
            max_connections=1,
            max_keepalive_connections=1,
            keepalive_expiry=5.0,
            network_backend=_Backend(),
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request."""
        url = request.url
        async with self._pool.stream(
            request.method,
            httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
            headers=request.headers.raw,
            content=request.content,
            extensions=request.extensions,
        ) as response:
            return httpx.Response(response.status)

    async def aclose(self) -> None:
        """Close the connection."""
        await self._pool.aclose()


class _Backend(httpcore.AsyncNetworkBackend):
    """Opens connections that are read a little at a time."""

    def __init__(self) -> None:
        self._below = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the signature of httpcore
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Open a connection."""
        return _Stream(await self._below.connect_tcp(host, port, timeout, local_address, socket_options))

    async def sleep(self, seconds: float) -> None:
        """Sleep."""
        await self._below.sleep(seconds)


class _Stream(httpcore.AsyncNetworkStream):
    """A connection of which each response has a bound."""

    def __init__(self, below: httpcore.AsyncNetworkStream) -> None:
        self._below = below
        self._left = LONGEST_HEAD

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        """Return what is there, a little at most. Raises ReadError beyond the bound."""
        if self._left <= 0:
            raise httpcore.ReadError(f"the head of the response is longer than {LONGEST_HEAD} bytes")
        data = await self._below.read(min(max_bytes, _READ_AT_ONCE), timeout)
        self._left -= len(data)
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        """Write a part of a request; its response has the whole bound."""
        self._left = LONGEST_HEAD
        await self._below.write(buffer, timeout)

    async def aclose(self) -> None:
        """Close the connection."""
        await self._below.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> httpcore.AsyncNetworkStream:
        """Return the connection with TLS."""
        return _Stream(await self._below.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        """Return what the connection below says, such as its socket."""
        return self._below.get_extra_info(info)
