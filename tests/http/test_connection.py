"""HTTP/1.1 on one connection, byte by byte."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ratelimit_service.http import connection, connections
from ratelimit_service.http.messages import IncompleteBody, Request, Response, text
from ratelimit_service.http.routes import get, routes
from ratelimit_service.http.server import HttpPort
from testing.service import port_of
from testing.waiting import until

LONG = 60.0


class Handlers:
    """Handlers: /body returns the body, /ignores does not read it, /streams sends chunks, /fails and /fails-
    late raise.
    """

    def __init__(self) -> None:
        self.incomplete = 0
        self.closed = 0
        self.handle = routes(
            {
                "/": get(self.hello),
                "/ä b": self.hello,
                "/body": self.body,
                "/ignores": self.hello,
                "/streams": self.streams,
                "/fails": self.fails,
                "/fails-late": self.fails_late,
            }
        )

    async def hello(self, request: Request) -> Response:
        return text("hello")

    async def body(self, request: Request) -> Response:
        try:
            return text(f"{request.method} {b''.join([chunk async for chunk in request.body])!r}")
        except IncompleteBody:
            self.incomplete += 1
            return text("incomplete", 400)

    async def streams(self, request: Request) -> Response:
        return Response(self.chunks())

    async def chunks(self) -> AsyncGenerator[bytes]:
        try:
            yield b"one\n"
            yield b"two\n"
        finally:
            self.closed += 1

    async def fails(self, request: Request) -> Response:
        raise ValueError("of the handler")

    async def fails_late(self, request: Request) -> Response:
        return Response(self.broken())

    async def broken(self) -> AsyncGenerator[bytes]:
        yield b"one\n"
        raise ValueError("of the page")


@asynccontextmanager
async def served() -> AsyncIterator[tuple[Handlers, HttpPort, list[dict[str, Any]]]]:
    """Serve the handlers on a port, and yield the reports to the loop's exception handler."""
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context))
    handlers = Handlers()
    port = HttpPort(handlers.handle, "127.0.0.1", 0)
    await port.start()
    try:
        yield handlers, port, reported
    finally:
        await port.stop(1)


async def exchange(port: HttpPort, *sent: bytes, last: bool = True) -> list[str]:
    """Return the response lines until the port closes the connection; with `last`, a last request asks for
    that.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(port.address))
    try:
        async with asyncio.timeout(LONG):
            for data in sent:
                writer.write(data)
                await writer.drain()
                await asyncio.sleep(0)
            if last:
                writer.write(b"GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = (await reader.read()).decode()
    finally:
        writer.close()
    lines = [line for line in answer.split("\r\n") if not line.startswith("date: ")]
    return [line.lower() if line.startswith(("Connection:", "Transfer-")) else line for line in lines]


def response(body: str, status: str = "200 OK", *more: str) -> list[str]:
    """Return the lines of a plain-text response."""
    length = f"content-length: {len(body)}"
    return [f"HTTP/1.1 {status}", "content-type: text/plain; charset=utf-8", length, *more, "", body]


def joined(*responses: list[str]) -> list[str]:
    """Join responses, each of which begins directly after the body of the previous one."""
    lines = [""]
    for each in responses:
        lines[-1] += each[0]
        lines += each[1:]
    return lines


LAST = response("Not Found\n", "404 Not Found", "connection: close")
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
CONVERSATIONS = {
    "one request": ([GET], [response("hello\n")]),
    "several at once": ([GET * 3], [response("hello\n")] * 3),
    "byte by byte": ([GET[at : at + 1] for at in range(len(GET))], [response("hello\n")]),
    "HEAD": ([GET.replace(b"GET", b"HEAD")], [[*response("hello\n")[:-1], ""]]),
    "a query and escapes": (
        [GET.replace(b" / ", b" /%C3%A4%20b?x=1 ")],
        [response("hello\n")],
    ),
    "a body by its length": (
        [b"PUT /body HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nab", b"cd"],
        [response("PUT b'abcd'\n")],
    ),
    "a body in chunks": (
        [
            b"POST /body HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc",
            b"\r\n0\r\n\r\n",
        ],
        [response("POST b'abc'\n")],
    ),
    "a body that is waited for": (
        [b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n", b"ab"],
        [["HTTP/1.1 100 Continue", "", ""], response("POST b'ab'\n")],
    ),
    "a body that nobody reads": (
        [b"POST /ignores HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n" + b"x" * 200_000],
        [response("hello\n")],
    ),
    "a method that a page does not have": (
        [b"DELETE / HTTP/1.1\r\nHost: x\r\n\r\n"],
        [response("Method Not Allowed\n", "405 Method Not Allowed", "allow: GET, HEAD")],
    ),
    "a tunnel": (
        [b"CONNECT /body HTTP/1.1\r\nHost: x\r\n\r\n"],
        [response("Method Not Allowed\n", "405 Method Not Allowed", "allow: GET, HEAD")],
    ),
    "another protocol": (
        [b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"],
        [response("hello\n")],
    ),
    "a page in chunks": (
        [b"GET /streams HTTP/1.1\r\nHost: x\r\n\r\n"],
        [
            [
                "HTTP/1.1 200 OK",
                "content-type: text/plain; charset=utf-8",
                "transfer-encoding: chunked",
                *["", "4", "one\n", "4", "two\n", "0", "", ""],
            ]
        ],
    ),
}


@pytest.mark.parametrize("sent, received", CONVERSATIONS.values(), ids=CONVERSATIONS)
async def test_a_connection_answers_one_request_after_another(
    sent: list[bytes], received: list[list[str]]
) -> None:
    """A request is answered whatever the request before it was."""
    async with served() as (_, port, reported):
        assert joined(*received, LAST) == await exchange(port, *sent)
    assert [] == reported


ENDING = {
    "HTTP/1.0": (b"GET / HTTP/1.0\r\n\r\n", response("hello\n", "200 OK", "connection: close")),
    "no HTTP": (
        b"hello\r\n\r\n",
        response("Invalid HTTP request received.", "400 Bad Request", "connection: close"),
    ),
    "a broken chunk": (
        b"POST /body HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        response("incomplete\n", "400 Bad Request", "connection: close"),
    ),
    "a body that is not waited for": (
        b"POST /ignores HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\nab",
        response("hello\n", "200 OK", "connection: close"),
    ),
}


@pytest.mark.parametrize("sent, received", ENDING.values(), ids=ENDING)
async def test_a_connection_is_closed_after_a_request_with_an_unclear_end(
    sent: bytes, received: list[str]
) -> None:
    """The port sends an answer, and then closes the connection."""
    async with served() as (_, port, reported):
        assert received == await exchange(port, sent, last=False)
    assert [] == reported


async def test_an_exception_in_a_handler_is_logged_and_answered_500() -> None:
    """The connection stays open."""
    async with served() as (_, port, reported):
        failed = response("Internal Server Error", "500 Internal Server Error")
        assert joined(failed, LAST) == await exchange(port, b"GET /fails HTTP/1.1\r\nHost: x\r\n\r\n")
    assert [("an HTTP request has failed", "of the handler")] == [
        (context["message"], str(context["exception"])) for context in reported
    ]


async def test_a_page_that_fails_midway_is_marked_as_incomplete() -> None:
    """It has no last chunk."""
    async with served() as (_, port, reported):
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(port.address))
        writer.write(b"GET /fails-late HTTP/1.1\r\nHost: x\r\n\r\n")
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await asyncio.wait_for(reader.readuntil(b"\r\n0\r\n\r\n"), LONG)
        writer.close()
    assert ["an HTTP connection has failed"] == [context["message"] for context in reported]


async def test_a_head_request_does_not_create_the_page() -> None:
    """It gets the same headers and no body."""
    async with served() as (handlers, port, _):
        lines = await exchange(port, b"HEAD /streams HTTP/1.1\r\nHost: x\r\n\r\n")
    assert ("transfer-encoding: chunked", 0) == (lines[2], handlers.closed)


async def test_a_disconnect_within_a_body_is_detected() -> None:
    """The handler gets an exception, and nothing is logged."""
    async with served() as (handlers, port, reported):
        _, writer = await asyncio.open_connection("127.0.0.1", port_of(port.address))
        writer.write(b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nab")
        await writer.drain()
        writer.close()
        await until(lambda: handlers.incomplete)
    assert [] == reported


async def test_every_response_has_a_date() -> None:
    """It has the only format that HTTP allows."""
    async with served() as (_, port, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(port.address))
        writer.write(GET)
        head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), LONG)).decode()
        writer.close()
    assert re.search(r"\r\ndate: [A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT\r\n", head)


async def test_an_idle_connection_is_closed_eventually(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a longer time than load balancers wait."""
    monkeypatch.setattr(connections, "_CHECK_EVERY", 0.01)
    async with served() as (_, port, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(port.address))
        writer.write(GET)
        await asyncio.wait_for(reader.readuntil(b"hello\n"), LONG)
        monkeypatch.setattr(connection, "KEEP_ALIVE", 0.05)
        assert b"" == await asyncio.wait_for(reader.read(), LONG)
        writer.close()


pieces = st.sampled_from(
    [
        *[data for sent, _ in CONVERSATIONS.values() for data in sent[:2]],
        *[sent for sent, _ in ENDING.values()],
        b"\r\n",
        b"0\r\n\r\n",
        b"HTTP/1.1",
    ]
)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.one_of(pieces, st.binary(max_size=40)), max_size=6))
def test_arbitrary_bytes_cause_no_exception(sent: list[bytes]) -> None:
    """The port reads arbitrary bytes in arbitrary pieces. No error is reported, and the next connection is
    answered.
    """

    async def run() -> None:
        async with served() as (_, port, reported):
            reader, writer = await asyncio.open_connection("127.0.0.1", port_of(port.address))
            for data in sent:
                writer.write(data)
                await asyncio.sleep(0)
            async with asyncio.timeout(LONG):
                with suppress(OSError):  # the port may have closed it already
                    writer.write_eof()
                    await reader.read()
            writer.close()
            assert joined(response("hello\n"), LAST) == await exchange(port, GET)
        assert [] == reported

    asyncio.run(run())
