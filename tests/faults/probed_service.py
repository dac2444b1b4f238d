"""The service with an honest caller on its event loop: `python -m tests.faults.probed_service FILE`.

The caller sends a check over a socket, and tries to read the answer in every turn of the event loop. Its wait
is the CPU time of the thread in between: what the server did meanwhile, for others and for the call itself.
This depends neither on the load of the machine nor on the scheduling of a client. Each line of FILE is a wait
in milliseconds, or the word for a failure, the longest turn of the event loop in the wait or the pause
before it, and the sum of the turns of the wait that did some work. The wait also has turns that only look for
the answer: thousands of them are a wait for the kernel or for Redis, which other load on the machine delays.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from pathlib import Path
from typing import TextIO

from ratelimit_service.app import App
from ratelimit_service.cli.main import main
from testing.service import port_of

from ..transports import h2
from .hostile_peers import CHECK, WINDOW

GAP = 0.003
"""Seconds between an answer and the next call."""
IDLE = 0.0001
"""CPU time of a turn that only looks for the answer, at most."""

HELLO = h2.MAGIC + h2.settings() + WINDOW
CUT_OFF, REFUSED = "cut-off", "refused"


class Probe:
    """Sends calls over one connection, or each over a new one if `anew`."""

    def __init__(self, address: str, out: TextIO, *, anew: bool) -> None:
        self._port = port_of(address)
        self._out = out
        self._anew = anew
        self._loop = asyncio.get_running_loop()
        self._socket: socket.socket | None = None
        self._stream = 1
        self._unsent = b""
        self._received = bytearray()
        self._began = 0.0
        self._turned = time.thread_time()
        self._longest = 0.0
        self._worked = 0.0

    def send(self) -> None:
        """Send a call; later turns look for its answer."""
        self._began = time.thread_time()
        self._longest = self._began - self._turned  # the pause before: several turns, or one that was longer
        self._turned = self._began
        self._worked = 0.0
        if self._socket is None or self._anew:
            self._connect()
        self._unsent += h2.call(self._stream, CHECK)
        self._look()

    def _connect(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket = socket.socket()
        self._socket.setblocking(False)  # it is the server's thread that would wait
        self._socket.connect_ex(("127.0.0.1", self._port))
        self._stream, self._received, self._unsent = 1, bytearray(), HELLO

    def _look(self) -> None:
        assert self._socket is not None
        now = time.thread_time()
        turn, self._turned = now - self._turned, now
        self._longest = max(self._longest, turn)
        if turn > IDLE:
            self._worked += turn
        try:
            if self._unsent:
                self._unsent = self._unsent[self._socket.send(self._unsent) :]
            more = self._socket.recv(65_536)
        except BlockingIOError:
            self._loop.call_soon(self._look)
            return
        except OSError:
            more = b""
        self._received += more
        end = self._answer()
        if end is None and more:
            self._loop.call_soon(self._look)
        else:
            self._end(end or CUT_OFF)

    def _answer(self) -> str | None:
        """Return the CPU time until the answer, or the word for a failure; None if nothing has come yet."""
        at, answered, received = 0, False, self._received
        while len(received) >= at + 9:
            size, kind, flags = (
                int.from_bytes(received[at : at + 3], "big"),
                received[at + 3],
                received[at + 4],
            )
            if len(received) < at + 9 + size:
                break
            if int.from_bytes(received[at + 5 : at + 9], "big") == self._stream:
                answered |= kind == h2.DATA
                if kind == h2.RST_STREAM or flags & h2.END_STREAM:
                    waited = (time.thread_time() - self._began) * 1_000
                    received.clear()
                    return f"{waited:.3f}" if answered else REFUSED
            at += 9 + size
        return None

    def _end(self, how: str) -> None:
        kind = "new" if self._anew else "kept"
        self._out.write(f"{kind} {how} {self._longest * 1_000:.3f} {self._worked * 1_000:.3f}\n")
        self._stream += 2
        if how == CUT_OFF and self._socket is not None:
            self._socket.close()
            self._socket = None
        self._loop.call_later(GAP, self.send)


def run(path: str) -> int:
    """Serve, with two callers: one keeps its connection, and the other one connects for each call."""
    started = App.start
    with Path(path).open("w", buffering=1) as out:

        async def start(app: App) -> None:
            await started(app)
            for anew in (False, True):
                Probe(app.grpc.address, out, anew=anew).send()

        App.start = start  # type: ignore[assignment, method-assign]
        return main(["serve"])


if __name__ == "__main__":
    sys.exit(run(sys.argv[1]))
