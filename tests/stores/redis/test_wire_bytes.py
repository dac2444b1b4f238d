"""The same connection without a network: byte by byte, with a clock that the test sets."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from redis.exceptions import InvalidResponse, WatchError

from ratelimit_service.stores.redis.client import OpenConnection
from ratelimit_service.stores.redis.wire import _Connection, ignore


class Clock(SimpleNamespace):
    """A replacement for the event loop: `now` is the time, `due` that of the timer, which calls `call`, and
    `soon` runs in the next turn.
    """

    now: float = 0.0
    due: float | None = None
    call: Callable[[], None]
    soon: Callable[[], None]

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, call: Callable[[], None]) -> Any:
        self.due, self.call = when, call
        return SimpleNamespace(cancel=lambda: setattr(self, "due", None))

    def call_later(self, delay: float, call: Callable[[], None]) -> Any:
        return self.call_at(self.now + delay, call)

    def call_soon(self, call: Callable[[], None]) -> None:
        self.soon = call

    def strike(self) -> None:
        """Advance the clock to the time of the timer."""
        assert self.due is not None
        self.now, self.due = max(self.now, self.due), None
        self.call()


class Bench:
    """A connection without a network. `written` are the sent bytes, `told` the results that callers got, and
    `lost` is true after the end.
    """

    def __init__(self, patience: float = 10.0) -> None:
        self.written: list[bytes] = []
        self.replies: list[Any] = []
        self.lost = 0
        self.aborted = 0
        transport = SimpleNamespace(
            set_protocol=lambda protocol: None, write=self.written.append, abort=self._abort
        )
        opened = OpenConnection(SimpleNamespace(transport=transport), ("redis.test", 6379))  # type: ignore[arg-type]
        self.connection = _Connection(opened, patience, self._lost)
        self.clock = Clock()
        self.connection._loop = self.clock  # type: ignore[assignment]

    def _abort(self) -> None:
        self.aborted += 1

    def _lost(self) -> None:
        self.lost += 1

    def send(self, number: int = 1) -> None:
        for _ in range(number):
            self.connection.send(("PING",), self.replies.append)


async def test_a_reply_is_passed_on_when_its_last_byte_has_arrived() -> None:
    """Wherever the network splits it."""
    stream = b"*2\r\n:5\r\n$3\r\nERR\r\n+OK\r\n-READONLY no\r\n:-7\r\n"
    for size in (1, 2, 3, 7, len(stream)):
        bench = Bench()
        bench.send(4)
        for start in range(0, len(stream), size):
            bench.connection.data_received(stream[start : start + size])
        assert [[5, b"ERR"], b"OK", "no", -7] == [
            str(reply) if isinstance(reply, Exception) else reply for reply in bench.replies
        ]
        assert not bench.connection.busy


async def test_commands_of_one_turn_are_sent_in_one_write() -> None:
    """Except for the first one, if no reply is awaited: a delay would gain nothing."""
    bench = Bench()
    ping = b"*1\r\n$4\r\nPING\r\n"
    bench.send(4)
    assert [ping] == bench.written
    bench.clock.soon()
    assert [ping, ping * 3] == bench.written
    bench.connection.data_received(b"+PONG\r\n" * 4)
    bench.send(2)
    bench.connection.connection_lost(None)
    bench.clock.soon()
    assert [ping, ping * 3, ping] == bench.written


@pytest.mark.parametrize("stream", [b"?what\r\n", b":1\r\n:2\r\n"])
async def test_an_unexpected_reply_ends_the_connection(stream: bytes) -> None:
    """Bytes outside the protocol, and a reply that no call waits for: later replies could not be
    attributed.
    """
    bench = Bench()
    bench.send()
    bench.connection.data_received(stream)
    bench.connection.data_received(b"")
    assert (1, 1) == (bench.lost, bench.aborted)
    assert [InvalidResponse] == [type(reply) for reply in bench.replies] or [1] == bench.replies


async def test_a_command_sent_within_a_callback_is_queued() -> None:
    """It is behind earlier commands."""
    bench = Bench()
    replies: list[Any] = []
    bench.connection.send(("PING",), lambda reply: bench.connection.send(("PING",), replies.append))
    bench.send()
    bench.connection.data_received(b":1\r\n:2\r\n:3\r\n")
    assert ([2], [3]) == (bench.replies, replies)


async def test_a_connection_that_ends_within_a_callback_fails_the_others() -> None:
    """This includes calls whose reply has already arrived, because it is not read any more."""
    bench = Bench()
    bench.connection.send(("PING",), lambda reply: bench.connection.fail(WatchError("over")))
    bench.send(2)
    bench.connection.data_received(b":1\r\n:2\r\n:3\r\n")
    bench.connection.connection_lost(None)
    assert ["over", "over"] == [str(reply) for reply in bench.replies]
    assert (1, 1) == (bench.lost, bench.aborted)


async def test_each_received_byte_restarts_the_timeout() -> None:
    """A server that continues to reply is kept, however many calls wait. A silent one is disconnected."""
    bench = Bench(patience=1.0)
    bench.send(3)
    bench.clock.now = 0.9
    bench.connection.data_received(b":1\r\n")
    bench.clock.strike()
    assert 1.9 == bench.clock.due
    bench.clock.now = 1.8
    bench.connection.data_received(b":2")
    bench.clock.strike()
    assert 2.8 == bench.clock.due
    bench.clock.strike()
    assert [1] == bench.replies  # the timer checks once more
    bench.clock.strike()
    assert [1, "no answer within 1000 ms", "no answer within 1000 ms"] == [
        reply if isinstance(reply, int) else str(reply) for reply in bench.replies
    ]


async def test_a_process_that_was_suspended_reads_before_it_gives_up() -> None:
    """By the clock the timeout has passed, but the reply has arrived."""
    bench = Bench(patience=1.0)
    bench.send()
    bench.clock.now = 60.0
    bench.clock.strike()
    bench.connection.data_received(b":1\r\n")
    bench.clock.strike()
    assert ([1], 0) == (bench.replies, bench.lost)


async def test_an_idle_connection_is_not_checked() -> None:
    """A timer exists only while a call waits, one for all calls."""
    bench = Bench(patience=1.0)
    dues = [bench.clock.due]
    bench.send(2)
    dues.append(bench.clock.due)
    bench.connection.data_received(b":1\r\n:2\r\n")
    bench.clock.strike()
    dues.append(bench.clock.due)
    bench.clock.now = 30.0
    bench.connection.send(("PING",), ignore, trusted=True)
    dues.append(bench.clock.due)
    bench.connection.connection_lost(OSError("reset"))
    assert [None, 1.0, None, 31.0, None] == [*dues, bench.clock.due]
