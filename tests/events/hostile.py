"""Receivers of webhooks that answer without end."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

_DRIP = 0.05
"""Seconds between two pieces of a slow answer."""


class Answer(NamedTuple):
    """The beginning of an answer, what is repeated then, and the seconds between two repetitions."""

    begin: bytes
    more: bytes = b""
    pause: float = 0.0


STATUS = b"HTTP/1.1 200 OK\r\n"
CHUNKED = STATUS + b"transfer-encoding: chunked\r\n\r\n"
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\n"

ENDLESS_BODY = Answer(CHUNKED, b"10000\r\n" + b"x" * 65_536 + b"\r\n")
ENDLESS_HEADERS = Answer(STATUS, b"x: " + b"y" * 1_000 + b"\r\n")
ENDLESS_INTERIM = Answer(b"", INTERIM * 2_000)
MANY_HEADERS = Answer(b"HTTP/1.1 500 X\r\n" + b"a:\r\n" * 24_000 + b"\r\n")
SLOW = Answer(STATUS, b"x: y\r\n", _DRIP)
NO_HTTP = Answer(b"", b"\0" * 1_000)


class Hostile(socketserver.ThreadingTCPServer):
    """A server that gives each connection an answer once it has sent a line."""

    daemon_threads = True

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.end = threading.Event()
        self.connections = 0
        super().__init__(("127.0.0.1", 0), _Connection)

    def url(self, scheme: str = "http") -> str:
        """Return its address."""
        return f"{scheme}://127.0.0.1:{self.server_address[1]}/"


class _Connection(socketserver.BaseRequestHandler):
    server: Hostile

    def handle(self) -> None:
        self.server.connections += 1
        begin, more, pause = self.server.answer
        with suppress(OSError):
            self.request.recv(1)
            self.request.sendall(begin)
            while more and not self.server.end.wait(pause):
                self.request.sendall(more)
            while self.request.recv(65_536):
                pass


@contextmanager
def hostile(answer: Answer) -> Iterator[Hostile]:
    """Run such a server."""
    with Hostile(answer) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.end.set()
        server.shutdown()
