"""The two processes of `compare --mirror`: the tee, which answers callers, and the comparison beside it."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import socket
import ssl
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

import uvloop
from grpc import aio

from ...runtime import descriptors, garbage
from .copies import Reader, Sender
from .mirror import Mirror
from .report import Report
from .tee import Target, Tee

GRACE = 5.0
"""Seconds that calls in flight have at the end."""

END = 10.0
"""Seconds that the comparison has at the end to read the copies that wait, and as many to finish, in addition
to the timeout of its calls.
"""

_NICE = 5
"""By how much the priority of the comparison is lower, so that the tee gets CPU first."""


class SecondService(NamedTuple):
    """The second service: how to reach it, and the timeout of calls to it."""

    channel: Callable[[], aio.Channel]
    timeout: float


class TeePort(NamedTuple):
    """The port of the tee: a listening socket, and its TLS."""

    listener: socket.socket
    tls: ssl.SSLContext | None = None


def run(
    port: TeePort,
    theirs: Target,
    ours: SecondService,
    report: Report,
    *,
    every: float,
    notify: Callable[[str], None],
    started: Callable[[str], None],
    exit_code: Callable[[], int],
) -> int:
    """Answer callers until SIGTERM or SIGINT, and return `exit_code` of the process that compares; 1 if it
    failed.

    `started` is called with the address of the port.
    """
    descriptors.raise_limit()
    here, there = socket.socketpair()

    def compare() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):  # the end of the copies ends it
            signal.signal(number, signal.SIG_IGN)
        here.close()
        port.listener.close()
        os.nice(_NICE)
        _run(_compare(there, ours, report, every))
        report.finish()
        raise SystemExit(exit_code())

    # A fork, before gRPC has begun any thread: what the report prints goes to the same output.
    process = multiprocessing.get_context("fork").Process(target=compare, name="comparison")
    process.start()
    there.close()
    try:
        _run(_answer(port, theirs, here, ours.timeout, notify, started))
    finally:
        here.close()
        _join(process, END + ours.timeout, notify)
    return process.exitcode if process.exitcode is not None and process.exitcode >= 0 else 1


async def _answer(
    port: TeePort,
    theirs: Target,
    here: socket.socket,
    patience: float,
    notify: Callable[[str], None],
    started: Callable[[str], None],
) -> None:
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    gone = "the comparison has ended: callers are still answered, and nothing is compared"
    _, copies = await loop.create_unix_connection(lambda: Sender(lambda: notify(gone)), sock=here)
    tee = Tee(theirs, copies, notify, timeout=patience)
    await tee.start(port.listener, port.tls)
    started(tee.address)
    await stopped.wait()
    await tee.stop(GRACE)
    if not await copies.close(END):
        notify(f"the comparison has not read the last copies within {END:g} s: they are left out")


def _join(process: BaseProcess, patience: float, notify: Callable[[str], None]) -> None:
    """Wait for the end of a process; after `patience` seconds, kill it."""
    process.join(patience)
    if process.exitcode is None:
        notify(
            f"the comparison has not ended within {patience:g} s: it is killed, and its last report is "
            "missing"
        )
        process.kill()
        process.join()


async def _compare(there: socket.socket, ours: SecondService, report: Report, every: float) -> None:
    loop = asyncio.get_running_loop()
    async with ours.channel() as channel:
        mirror = Mirror(channel, report, timeout=ours.timeout)
        _, reader = await loop.create_unix_connection(lambda: Reader(mirror), sock=there)
        while not reader.ended.done():
            done, _ = await asyncio.wait({reader.ended}, timeout=every)
            if not done:
                report.finish()
        await mirror.finish()


def _run(main: Any) -> None:
    garbage.enable_for_serving()  # errors of grpc.aio are in cycles with their tracebacks
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)
