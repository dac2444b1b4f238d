"""Copies on their way from the answering process to the comparing one."""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from ratelimit_service.cli.comparison.copies import Reader, Sender
from ratelimit_service.cli.comparison.processes import _join

Record = tuple[str, int, bytes]


class Received:
    """The received copies."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def opened(self, number: int) -> None:
        self.records.append(("opened", number, b""))

    def from_caller(self, number: int, data: bytes) -> None:
        self.records.append(("caller", number, data))

    def from_theirs(self, number: int, data: bytes) -> None:
        self.records.append(("theirs", number, data))

    def closed(self, number: int) -> None:
        self.records.append(("closed", number, b""))

    def missed(self, number: int) -> None:
        self.records.append(("missed", number, b""))


@asynccontextmanager
async def sending(gone: list[str], most: int = 1 << 20) -> AsyncIterator[tuple[Sender, socket.socket]]:
    here, there = socket.socketpair()
    loop = asyncio.get_running_loop()
    _, sender = await loop.create_unix_connection(
        lambda: Sender(lambda: gone.append("gone"), most), sock=here
    )
    with there:
        yield sender, there


async def read(there: socket.socket) -> list[Record]:
    """Read all copies to the end."""
    received = Received()
    loop = asyncio.get_running_loop()
    _, reader = await loop.create_unix_connection(lambda: Reader(received), sock=there.dup())
    await reader.ended
    return received.records


async def test_copies_arrive_as_they_were_made() -> None:
    """Copies of all sizes, including the last ones, arrive in their order."""
    gone: list[str] = []
    async with sending(gone) as (sender, there):
        sender.opened(1)
        sender.from_caller(1, b"a" * 300_000)
        sender.opened(2**40)
        sender.from_theirs(1, b"b")
        reading = asyncio.ensure_future(read(there))
        await asyncio.sleep(0)
        sender.from_caller(2**40, b"")
        sender.closed(1)
        await sender.close(60)
        expected = [
            ("opened", 1, b""),
            ("caller", 1, b"a" * 300_000),
            ("opened", 2**40, b""),
            ("theirs", 1, b"b"),
            ("caller", 2**40, b""),
            ("closed", 1, b""),
        ]
        assert expected == await reading
    assert [] == gone


async def test_a_comparison_that_does_not_read_loses_whole_connections() -> None:
    """A connection is dropped from the first byte that finds no room, because the rest is useless without it.
    The next connection is followed again.
    """
    async with sending([], most=1_000_000) as (sender, there):
        sender.opened(1)
        for _ in range(20):
            sender.from_caller(1, bytes(100_000))
            await asyncio.sleep(0)
        sender.closed(1)
        reading = asyncio.ensure_future(read(there))
        while sender.waiting:
            await asyncio.sleep(0)
        sender.opened(2)
        sender.from_caller(2, b"x")
        await sender.close(60)
        records = await reading
    first = [kind for kind, number, _ in records if number == 1]
    # Its end follows: the receiver would otherwise keep an entry for it.
    assert (["opened"], ["missed", "closed"]) == (first[:1], first[-2:])
    assert {"caller"} == set(first[1:-2])
    assert 1_000_000 <= 100_000 * (len(first) - 2)
    assert [("opened", 2, b""), ("caller", 2, b"x")] == records[-2:]


async def test_the_tee_goes_on_without_a_comparison() -> None:
    """It reports that once, and keeps no copies."""
    gone: list[str] = []
    async with sending(gone) as (sender, there):
        sender.opened(1)
        there.close()
        while not gone:
            sender.from_caller(1, b"a")
            await asyncio.sleep(0)
        sender.from_caller(1, bytes(10_000_000))
        assert 0 == sender.waiting
        await sender.close(60)
    assert ["gone"] == gone


@pytest.mark.parametrize("cut", [1, 5, 13, 14, 100])
async def test_records_are_read_however_they_are_cut(cut: int) -> None:
    """A socket may split them anywhere."""
    async with sending([]) as (sender, there):
        sender.opened(7)
        sender.from_caller(7, b"abcdefghij")
        sender.missed(7)
        await sender.close(60)
        data = there.recv(1_000)
    received = Received()
    reader = Reader(received)
    for at in range(0, len(data), cut):
        reader.data_received(data[at : at + cut])
    assert [("opened", 7, b""), ("caller", 7, b"abcdefghij"), ("missed", 7, b"")] == received.records


async def test_a_comparison_that_does_not_read_does_not_delay_the_end() -> None:
    """The copies that it has not read are dropped."""
    async with sending([], most=100_000_000) as (sender, _):
        sender.opened(1)
        sender.from_caller(1, bytes(50_000_000))
        assert not await sender.close(0.01)
        assert 0 == sender.waiting


def test_a_comparison_that_does_not_end_is_killed() -> None:
    """This is reported."""
    notes: list[str] = []
    process = multiprocessing.get_context("spawn").Process(target=signal.pause)
    process.start()
    _join(process, 0.01, notes.append)
    assert -signal.SIGKILL == process.exitcode
    assert [
        "the comparison has not ended within 0.01 s: it is killed, and its last report is missing"
    ] == notes
