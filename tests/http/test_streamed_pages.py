"""Long pages are made by threads, sent as they are made, and limited in number."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest

from ratelimit_service.http.messages import Request, Response
from ratelimit_service.http.streamed_pages import StreamedPages

from .serving import serving


class Port:
    """A page of NUMBER lines at /NUMBER, and the thread that made each line."""

    def __init__(self) -> None:
        self.pages = StreamedPages(most=2)
        self.made: list[threading.Thread] = []
        self.ended = 0

    def lines(self, number: int) -> Iterator[str]:
        try:
            for line in range(number):
                self.made.append(threading.current_thread())
                yield f"{line}"
        finally:
            self.ended += 1

    async def answer(self, request: Request) -> Response:
        return self.pages.lines(self.lines(int(request.path[1:])))


@pytest.fixture
def port() -> Port:
    return Port()


@pytest.fixture
async def client(port: Port) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(port.answer) as client:
        yield client


@pytest.mark.parametrize("number", [1, 999, 1_000, 1_001, 5_000])
async def test_a_page_has_all_its_lines(client: httpx.AsyncClient, number: int) -> None:
    """The page is plain text with all lines, each with a line end."""
    response = await client.get(f"/{number}")
    assert (200, "text/plain; charset=utf-8") == (response.status_code, response.headers["content-type"])
    assert "".join([f"{line}\n" for line in range(number)]) == response.text


async def test_a_page_without_lines_is_an_ordinary_empty_response(client: httpx.AsyncClient) -> None:
    assert "\n" == (await client.get("/0")).text


async def test_pages_are_made_in_threads_as_far_as_they_are_read(
    client: httpx.AsyncClient, port: Port
) -> None:
    """A thousand lines at a time, so a reader that stops causes no pages of megabytes in memory."""
    async with client.stream("GET", "/1000000") as response:
        await anext(response.aiter_bytes())
        for _ in range(20):
            await asyncio.sleep(0.005)
        assert len(port.made) < 1_000_000
    assert threading.main_thread() not in port.made


async def test_the_number_of_concurrent_pages_is_bounded(client: httpx.AsyncClient, port: Port) -> None:
    """There is room again when a reader has read its page, or has disconnected."""
    async with client.stream("GET", "/1000000"), client.stream("GET", "/1000000"):
        refused = await client.get("/1")
        assert (503, "Service Unavailable: 2 pages are being sent already\n") == (
            refused.status_code,
            refused.text,
        )
    async with asyncio.timeout(60):
        while (await client.get("/1")).status_code == 503:
            await asyncio.sleep(0.01)
