"""What a hostile peer of the native transport sends: `python -m tests.faults.hostile_peers PORT ATTACK`."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack

from ratelimit_service.proto.ratelimit_pb2 import RateLimitRequest

from ..transports import h2

SECONDS = 1.5
WINDOW = h2.frame(h2.WINDOW_UPDATE, 0, 0, (2**30).to_bytes(4, "big"))
LARGE = h2.remembered([(b"x-large", b"a" * 3_900)])
"""In HPACK's table as its newest entry, of about 4 KiB."""
NEWEST = b"\xbe"
"""One byte that stands for it."""


def check() -> bytes:
    """A request that charges nothing."""
    request = RateLimitRequest(domain="d")
    descriptor = request.descriptors.add()
    descriptor.entries.add(key=b"team", value=b"dba")
    descriptor.hits_addend.value = 0
    return request.SerializeToString()


CHECK = check()


class Attack:
    """Connections of a hostile peer; those that the server closes are forgotten."""

    def __init__(self, port: int, stack: ExitStack) -> None:
        self._address = ("127.0.0.1", port)
        self._stack = stack
        self._until = time.monotonic() + SECONDS

    def goes_on(self) -> bool:
        """Whether its time is not over."""
        return time.monotonic() < self._until

    def connect(
        self, hello: bytes = h2.MAGIC + h2.settings() + WINDOW, *, reads: bool = False
    ) -> socket.socket:
        """A connection; with `reads`, whatever comes is read and thrown away."""
        connection = self._stack.enter_context(socket.create_connection(self._address, timeout=20))
        connection.sendall(hello)
        if reads:
            threading.Thread(target=self._read, args=(connection,), daemon=True).start()
        return connection

    def _read(self, connection: socket.socket) -> None:
        try:
            while connection.recv(262_144):
                pass
        except OSError:
            return

    def flood(self, connections: list[socket.socket], what: Callable[[int], bytes]) -> None:
        """Send `what` makes of a round's number over all connections, as much as they take."""
        for connection in connections:
            connection.setblocking(False)
        for round_ in range(1_000_000):
            data = what(round_)
            for connection in connections:
                try:
                    connection.send(data)
                except BlockingIOError:
                    time.sleep(0)
                except OSError:
                    continue
            if not self.goes_on():
                return


def streams(round_: int, number: int) -> range:
    """The numbers of so many new streams of a round."""
    return range(2 * number * round_ + 1, 2 * number * (round_ + 1), 2)


def opening(stream: int) -> bytes:
    return h2.frame(h2.HEADERS, h2.END_HEADERS, stream, h2.block(h2.CALL))


def calls_without_end(attack: Attack) -> None:
    """As many as one connection takes; a few that are cut in two end it, and it comes back."""
    while attack.goes_on():
        connection = attack.connect(reads=True)
        try:
            for round_ in range(1_000_000):
                connection.sendall(b"".join(h2.call(stream, CHECK) for stream in streams(round_, 200)))
                if not attack.goes_on():
                    return
        except OSError:
            continue


def unfinished_requests(attack: Attack) -> None:
    """Four kilobytes in each stream, over many connections."""
    connections = [attack.connect() for _ in range(1_000)]
    begun = b"\0\0\0\xff\xff" + bytes(4_000)
    attack.flood(
        connections,
        lambda n: b"".join(opening(stream) + h2.frame(h2.DATA, 0, stream, begun) for stream in streams(n, 2)),
    )


def replies_that_nobody_takes(attack: Attack) -> None:
    """Windows of nothing."""
    connections = [attack.connect(h2.MAGIC + h2.settings(initial_window_size=0)) for _ in range(300)]
    attack.flood(connections, lambda n: b"".join(h2.call(stream, CHECK) for stream in streams(n, 20)))


def headers_that_grow(attack: Attack) -> None:
    """A hundred kilobytes that stand for four hundred megabytes, again and again."""
    bomb = h2.block(h2.CALL) + LARGE + NEWEST * 100_000
    parts = [bomb[at : at + 16_384] for at in range(0, len(bomb), 16_384)]
    block = h2.frame(h2.HEADERS, 0, 1, parts[0])
    block += b"".join(h2.frame(h2.CONTINUATION, 0, 1, part) for part in parts[1:-1])
    block += h2.frame(h2.CONTINUATION, h2.END_HEADERS, 1, parts[-1])
    while attack.goes_on():
        try:
            attack.connect(reads=True).sendall(block)
        except OSError:
            continue


def connections_and_nothing_else(attack: Attack) -> None:
    """Two thousand that stay."""
    kept = [attack.connect() for _ in range(2_000)]
    while attack.goes_on():
        time.sleep(0.05)
    assert kept


ATTACKS = {
    attack.__name__: attack
    for attack in (
        calls_without_end,
        unfinished_requests,
        replies_that_nobody_takes,
        headers_that_grow,
        connections_and_nothing_else,
    )
}

if __name__ == "__main__":
    with ExitStack() as connections:
        ATTACKS[sys.argv[2]](Attack(int(sys.argv[1]), connections))
