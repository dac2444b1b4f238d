"""What a hostile peer of the native transport sends: `python -m tests.faults.hostile_peers PORT ATTACK`."""

from __future__ import annotations

import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress

from ratelimit_service.proto.ratelimit_pb2 import RateLimitRequest
from ratelimit_service.transports.native.methods import PATHS, REFLECT, WATCH

from ..transports import h2

SECONDS = 1.5
WINDOW = h2.frame(h2.WINDOW_UPDATE, 0, 0, (2**30).to_bytes(4, "big"))
LARGE = h2.remembered([(b"x-large", b"a" * 3_900)])
"""In HPACK's table as its newest entry, of about 4 KiB."""
NEWEST = b"\xbe"
"""One byte that stands for it."""


def check() -> bytes:
    """Return a request that charges nothing."""
    request = RateLimitRequest(domain="d")
    descriptor = request.descriptors.add()
    descriptor.entries.add(key=b"team", value=b"dba")
    descriptor.hits_addend.value = 0
    return request.SerializeToString()


CHECK = check()


class Attack:
    """The connections of a hostile peer, without those that the server has closed."""

    def __init__(self, port: int, stack: ExitStack, source: str = "127.0.0.1") -> None:
        self._address = ("127.0.0.1", port)
        self._source = (source, 0)
        self._stack = stack
        self._until = time.monotonic() + SECONDS

    def goes_on(self) -> bool:
        """Whether the time of the attack is not over."""
        return time.monotonic() < self._until

    def connect(
        self,
        hello: bytes = h2.MAGIC + h2.settings() + WINDOW,
        *,
        reads: bool = False,
        stack: ExitStack | None = None,
    ) -> socket.socket:
        """Open a connection until the end of the attack or of `stack`. With `reads`, all input is
        discarded.
        """
        connection = (stack or self._stack).enter_context(
            socket.create_connection(self._address, timeout=20, source_address=self._source)
        )
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

    def flood_once(self, connections: list[socket.socket], data: bytes) -> None:
        """Write `data` to each connection, as much as it accepts at once."""
        for connection in connections:
            connection.setblocking(False)
            with suppress(OSError):
                connection.send(data)

    def flood(self, connections: list[socket.socket], what: Callable[[int], bytes]) -> None:
        """In each round, write `what(round)` to all connections, as much as they accept."""
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
    """Return the numbers of this many new streams in a round."""
    return range(2 * number * round_ + 1, 2 * number * (round_ + 1), 2)


def opening(stream: int) -> bytes:
    return h2.frame(h2.HEADERS, h2.END_HEADERS, stream, h2.block(h2.CALL))


def calls_without_end(attack: Attack) -> None:
    """Send as many calls as one connection takes. A few that are reset half-way make the server close it;
    then connect again.
    """
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
    """Send four kilobytes in each stream, over many connections."""
    connections = [attack.connect() for _ in range(1_000)]
    begun = b"\0\0\0\xff\xff" + bytes(4_000)
    attack.flood(
        connections,
        lambda n: b"".join(opening(stream) + h2.frame(h2.DATA, 0, stream, begun) for stream in streams(n, 2)),
    )


def replies_that_are_not_read(attack: Attack) -> None:
    """Send requests with a flow-control window of zero."""
    connections = [attack.connect(h2.MAGIC + h2.settings(initial_window_size=0)) for _ in range(300)]
    attack.flood(connections, lambda n: b"".join(h2.call(stream, CHECK) for stream in streams(n, 20)))


def headers_that_grow(attack: Attack) -> None:
    """Send a hundred kilobytes of HPACK that expand to four hundred megabytes, repeatedly."""
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
    """Open two thousand connections, and keep them."""
    kept = [attack.connect() for _ in range(2_000)]
    while attack.goes_on():
        time.sleep(0.05)
    assert kept


def input_that_is_left_behind(attack: Attack) -> None:
    """Send hundreds of calls on each of three hundred connections, and reset all of them at once."""
    calls = b"".join(h2.call(stream, CHECK) for stream in range(1, 1_999, 2))
    while attack.goes_on():
        connections = [attack.connect() for _ in range(300)]
        attack.flood_once(connections, calls)
        for connection in connections:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()


def bytes_from_everywhere(attack: Attack) -> None:
    """Send nine bytes on each of fifteen hundred connections, repeatedly."""
    attack.flood([attack.connect() for _ in range(1_500)], lambda n: h2.frame(0x20, 0, 0))


def calls_from_everywhere(attack: Attack) -> None:
    """Make one call after another on each of a thousand connections, as an honest caller does."""
    attack.flood(
        [attack.connect() for _ in range(1_000)],
        lambda n: b"".join(h2.call(stream, CHECK) for stream in streams(n, 1)),
    )


def connections_without_end(attack: Attack) -> None:
    """Open as many connections as one address can make, each with a call so that it is not silent."""
    while attack.goes_on():
        try:
            attack.connect(h2.MAGIC + h2.settings() + h2.call(1, CHECK))
        except OSError:
            continue


def watches(attack: Attack) -> None:
    """Open a hundred watches on each connection, and as many connections as there is time for."""
    watch = h2.block(h2.replaced(path=PATHS[WATCH]))
    begin = b"".join(
        h2.frame(h2.HEADERS, h2.END_HEADERS, stream, watch)
        + h2.frame(h2.DATA, h2.END_STREAM, stream, h2.message(b""))
        for stream in range(1, 201, 2)
    )
    while attack.goes_on():
        attack.flood_once([attack.connect() for _ in range(50)], begin)


def questions_of_reflection(attack: Attack) -> None:
    """Ask hundreds of questions at once, and read none of the answers, which have kilobytes each."""
    question = h2.message(b"\x22\x2benvoy.service.ratelimit.v3.RateLimitService")
    opened = h2.frame(h2.HEADERS, h2.END_HEADERS, 1, h2.block(h2.replaced(path=PATHS[REFLECT])))
    some = opened + h2.frame(h2.DATA, 0, 1, question * (16_000 // len(question)))
    while attack.goes_on():
        with ExitStack() as stack:
            attack.flood_once([attack.connect(stack=stack) for _ in range(100)], some)
            time.sleep(0.05)


def requests_that_take_long(attack: Attack) -> None:
    """Send the largest requests that are allowed: a hundred descriptors with limits of their own, and a
    thousand entries.
    """
    connections = [attack.connect(reads=True) for _ in range(4)]

    def call(round_: int) -> bytes:
        request = RateLimitRequest(domain="d")
        for number in range(100):
            descriptor = request.descriptors.add()
            for place in range(10):
                descriptor.entries.add(key=b"k%d" % place, value=b"%d-%d" % (round_, number))
            descriptor.limit.unit, descriptor.limit.requests_per_unit = 4, 5  # type: ignore[assignment]
        return h2.call(2 * round_ + 1, request.SerializeToString())

    attack.flood(connections, call)


ATTACKS = {
    attack.__name__: attack
    for attack in (
        calls_without_end,
        unfinished_requests,
        replies_that_are_not_read,
        headers_that_grow,
        connections_and_nothing_else,
        input_that_is_left_behind,
        bytes_from_everywhere,
        calls_from_everywhere,
        connections_without_end,
        watches,
        questions_of_reflection,
        requests_that_take_long,
    )
}

FROM_ELSEWHERE = ("calls_from_everywhere", "connections_and_nothing_else", "connections_without_end")
"""Attacks from an address of their own: at the address of the callers, they would look like further
callers.
"""

if __name__ == "__main__":
    with ExitStack() as connections:
        source = "127.0.0.2" if sys.argv[2] in FROM_ELSEWHERE else "127.0.0.1"
        ATTACKS[sys.argv[2]](Attack(int(sys.argv[1]), connections, source))
