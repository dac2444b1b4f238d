"""The behaviour of a port, independent of its handler."""

from __future__ import annotations

import asyncio
import signal
import socket

import httpx
import pytest

from ratelimit_service.core.errors import StartError
from ratelimit_service.http.messages import Request, Response, text
from ratelimit_service.http.server import HttpPort


async def hello(request: Request) -> Response:
    return text("hello")


async def get(address: str) -> str:
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        return (await client.get(f"http://{address}/")).text


async def test_port_0_is_a_free_port_whose_address_is_known() -> None:
    """The address is known once the port is open."""
    port = HttpPort(hello, "127.0.0.1", 0)
    assert "127.0.0.1:0" == port.address
    await port.start()
    try:
        assert "hello\n" == await get(port.address)
    finally:
        await port.stop(1)


async def test_a_handler_gets_the_head_of_a_request_and_may_add_headers() -> None:
    """It gets the query as sent, headers with lower-case names, and the peer; values of one name are
    joined.
    """
    seen: list[Request] = []

    async def note(request: Request) -> Response:
        seen.append(request)
        return text("noted")._replace(headers=(("x-noted", "yes"), ("vary", "accept")))

    port = HttpPort(note, "127.0.0.1", 0)
    await port.start()
    try:
        async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
            headers = [("Accept", "text/html"), ("X-Two", "a"), ("X-Two", "b")]
            answer = await client.get(f"http://{port.address}/a%20b?c=%41&d", headers=headers)
    finally:
        await port.stop(1)
    (request,) = seen
    assert ("/a b", "c=%41&d", "127.0.0.1") == (request.path, request.query, request.peer)
    assert ("text/html", "a, b", None) == tuple(map(request.header, (b"accept", b"x-two", b"x-three")))
    assert ("yes", "accept") == (answer.headers["x-noted"], answer.headers["vary"])


@pytest.mark.parametrize("host", ["", "0.0.0.0", "localhost"])
async def test_a_host_may_be_every_address_or_a_name(host: str) -> None:
    """An empty host means every address, as in upstream's `:9090`."""
    port = HttpPort(hello, host, 0)
    await port.start()
    try:
        assert "hello\n" == await get(f"localhost:{port.address.rpartition(':')[2]}")
    finally:
        await port.stop(1)


async def test_a_taken_port_is_reported_in_one_line() -> None:
    """The line names the purpose and the address."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        with pytest.raises(StartError) as raised:
            await HttpPort(hello, "127.0.0.1", number, "metrics").start()
    assert (
        f"cannot listen for metrics on 127.0.0.1:{number}: is the port taken? Choose another with "
        "PROMETHEUS_ADDR" == str(raised.value)
    )


async def test_a_foreign_address_is_reported_in_one_line() -> None:
    """The line has the system's reason."""
    with pytest.raises(StartError) as raised:
        await HttpPort(hello, "192.0.2.1", 0).start()
    assert "cannot listen for HTTP on 192.0.2.1:0: Cannot assign requested address" == str(raised.value)


async def test_stopping_closes_the_port() -> None:
    """Another process can open it."""
    port = HttpPort(hello, "127.0.0.1", 0)
    await port.start()
    await port.stop(1)
    with pytest.raises(httpx.ConnectError):
        await get(port.address)


async def test_stopping_without_requests_in_progress_is_immediate(monkeypatch: pytest.MonkeyPatch) -> None:
    """So the next process gets the port sooner."""
    port = HttpPort(hello, "127.0.0.1", 0)
    await port.start()
    slept: list[float] = []
    sleep = asyncio.sleep

    async def noted(seconds: float) -> None:
        slept.append(seconds)
        await sleep(seconds)

    monkeypatch.setattr(asyncio, "sleep", noted)
    await port.stop(1)
    assert [] == slept


async def test_stopping_a_server_that_was_never_started_does_nothing() -> None:
    """So a start that failed midway can be undone."""
    port = HttpPort(hello, "127.0.0.1", 0)
    await port.stop(1)
    assert "127.0.0.1:0" == port.address


async def test_a_request_in_progress_is_finished_before_the_port_stops() -> None:
    """It has the grace period to end."""
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow(request: Request) -> Response:
        begun.set()
        await go_on.wait()
        return text("done")

    port = HttpPort(slow, "127.0.0.1", 0)
    await port.start()
    asking = asyncio.create_task(get(port.address))
    await begun.wait()
    stopping = asyncio.create_task(port.stop(60))
    go_on.set()
    await stopping
    assert "done\n" == await asking


async def test_a_request_that_outlasts_the_grace_is_ended() -> None:
    """A stop always ends."""
    begun = asyncio.Event()

    async def stuck(request: Request) -> Response:
        begun.set()
        await asyncio.Event().wait()
        return text("never")

    port = HttpPort(stuck, "127.0.0.1", 0)
    await port.start()
    asking = asyncio.create_task(get(port.address))
    await begun.wait()
    await port.stop(0.01)
    assert "Internal Server Error" == await asking


async def test_a_head_of_more_than_16_kib_is_refused() -> None:
    """Each of a thousand connections may need this memory."""
    port = HttpPort(hello, "127.0.0.1", 0)
    await port.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", int(port.address.rpartition(":")[2]))
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 20_000)
    assert b"HTTP/1.1 400 Bad Request\r\n" == await asyncio.wait_for(reader.readline(), 10)
    writer.close()
    await port.stop(1)


async def test_signals_are_left_to_the_process() -> None:
    """app.py stops its parts in order."""
    before = signal.getsignal(signal.SIGTERM)
    port = HttpPort(hello, "127.0.0.1", 0)
    await port.start()
    try:
        assert before is signal.getsignal(signal.SIGTERM)
    finally:
        await port.stop(1)
