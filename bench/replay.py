"""A load generator for mixed requests, with open and closed loop: one thread, which encodes its requests
before a run.

    python -m bench.replay PORT CONNECTIONS STREAMS TRAFFIC SECONDS [--rate N] [--many N] [--warm-up S]
    [--most N]

Closed loop: each of CONNECTIONS × STREAMS callers sends its next request after each answer, for SECONDS or
until MANY are sent. Open loop, with --rate: requests are sent at random times (Poisson), RATE a second,
independent of answers. Each is timed from its scheduled time, so that a stall of the server is counted for
every request that it delays.

Prints the lines "ready", "begin" and "end", for a process that measures the server meanwhile, and then one
line of JSON. It waits for the answers to all requests, so that charges can be compared exactly.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import math
import os
import random
import select
import socket
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict

from .frames import HELLO, Reader, Script, grpc_script, http_script
from .machine import LOAD_CORE, pin
from .messages import requests
from .printing import say
from .results import Latency

PATIENCE = 15.0
"""Seconds to wait for the last answers."""
MOST = 400_000
"""Requests a second that a closed loop prepares: more than any server answers here."""
GATEWAY_TEAMS = [f"t{number}" for number in range(50)]
_READ = 262_144
_LONGEST_SLEEP = 0.01


class Connection:
    """A connection and its requests."""

    def __init__(self, port: int, script: Script) -> None:
        self.script = script
        self.reader = Reader()
        self.sent = self.done = 0
        """The number of requests sent, at least in part, and of those answered."""
        self.times: list[float] = []
        """The scheduled time of each request."""
        self._view = memoryview(script.data)
        self._out: deque[bytes | memoryview] = deque()
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.sendall(HELLO)
        self.socket.setblocking(False)

    def fileno(self) -> int:
        """The descriptor, for `select`."""
        return self.socket.fileno()

    def send(self, wanted: int) -> None:
        """Send up to this number of requests in all, as far as flow control allows; further calls send the
        rest.
        """
        reader, costs, ends = self.reader, self.script.costs, self.script.ends
        wanted = min(wanted, self.done + reader.streams)
        first = self.sent
        while self.sent < wanted and reader.window >= costs[self.sent]:
            reader.window -= costs[self.sent]
            self.sent += 1
        if self.sent > first:
            self._out.append(self._view[ends[first - 1] if first else 0 : ends[self.sent - 1]])
        self._write()

    def receive(self, finished: list[int]) -> None:
        """Read, and add ended streams to `finished`."""
        data = self.socket.recv(_READ)
        if not data:
            raise ConnectionError(f"the server has closed a connection after {self.done} answers")
        before = len(finished)
        if reply := self.reader.feed(data, finished):
            self._out.append(reply)
            self._write()
        self.done += len(finished) - before

    @property
    def stuck(self) -> bool:
        """Whether data is waiting for the socket."""
        return bool(self._out)

    def _write(self) -> None:
        out = self._out
        while out:
            try:
                taken = self.socket.send(out[0])
            except BlockingIOError:
                return
            if taken < len(out[0]):
                out[0] = out[0][taken:]
            else:
                out.popleft()


class Replay:
    """A run: for `seconds` after the warm-up, or until all requests are sent."""

    def __init__(
        self, connections: Sequence[Connection], streams: int, seconds: float, warm_up: float
    ) -> None:
        self._connections = connections
        self._streams = streams
        self._seconds = seconds
        self._warm_up = warm_up
        self._latencies: list[float] = []
        self._begun = False
        self._begin_at = self._end_at = 0.0
        self._cpu = 0.0
        self._finished = 0
        self.report: dict[str, object] = {}

    def closed(self) -> None:
        """Run the closed loop."""
        clock, streams, connections = time.perf_counter, self._streams, self._connections
        self._start(clock())
        for connection in connections:
            self._refill(connection, streams, clock())
        while True:
            now = self._turn(_LONGEST_SLEEP)
            if now >= self._end_at:
                break
            if all(c.done == len(c.script.ends) for c in connections):
                if self._seconds < math.inf:
                    raise RuntimeError("all prepared requests were answered before the end: raise --most")
                break
            for connection in connections:
                if len(connection.times) < connection.done + streams or connection.stuck:
                    self._refill(connection, streams, now)
        self._finish()

    def _refill(self, connection: Connection, streams: int, now: float) -> None:
        wanted = min(connection.done + streams, len(connection.script.ends))
        connection.times.extend(itertools.repeat(now, wanted - len(connection.times)))
        connection.send(wanted)

    def open(self, rate: float) -> None:
        """Run the open loop."""
        clock, connections = time.perf_counter, self._connections
        dice = random.Random(1)
        start = clock() + 0.01
        self._start(start)
        turn = itertools.cycle(connections)
        due = start
        while True:
            now = clock()
            if now >= self._end_at:
                break
            while due <= now:
                next(turn).times.append(due)
                due += dice.expovariate(rate)
            for connection in connections:
                if connection.sent < len(connection.times) or connection.stuck:
                    connection.send(len(connection.times))
            self._turn(min(due, self._end_at) - clock())
        self._finish()

    def _turn(self, patience: float) -> float:
        """Wait for data, read it, and return the time."""
        connections = self._connections
        waiting = [c for c in connections if c.stuck]
        readable, _, _ = select.select(connections, waiting, (), max(0.0, patience))
        now = time.perf_counter()
        if not self._begun and now >= self._begin_at:
            self._begin()
        latencies = self._latencies
        for connection in readable:
            finished: list[int] = []
            connection.receive(finished)
            times = connection.times
            latencies.extend([now - times[stream >> 1] for stream in finished])
            self._finished += len(finished)
        return now

    def _start(self, now: float) -> None:
        self._begin_at = now + self._warm_up
        self._end_at = self._begin_at + self._seconds

    def _begin(self) -> None:
        """End the warm-up."""
        self._begun = True
        self._latencies.clear()
        self._finished = 0
        say("begin")
        self._cpu = time.process_time()
        self._begin_at = time.perf_counter()

    def _finish(self) -> None:
        elapsed = time.perf_counter() - self._begin_at
        generator = (time.process_time() - self._cpu) / elapsed
        finished = self._finished
        say("end")
        patience = time.perf_counter() + PATIENCE
        while left := sum(len(c.times) - c.done for c in self._connections):
            if time.perf_counter() > patience:
                raise TimeoutError(f"{left} requests were not answered within {PATIENCE:.0f} s")
            for connection in self._connections:
                connection.send(len(connection.times))
            self._turn(0.05)
        readers = [connection.reader for connection in self._connections]
        self.report = {
            "seconds": elapsed,
            "decisions": finished,
            "rate": finished / elapsed,
            "generator": generator,
            "latency": asdict(Latency.of(self._latencies)),
            "sent": [connection.sent for connection in self._connections],
            "messages": sum(reader.messages for reader in readers),
            "over": sum(reader.over for reader in readers),
            "failed": sum(reader.failed for reader in readers),
        }


def script(traffic: str, many: int, connection: int) -> Script:
    """Return the requests of a connection."""
    if traffic == "gateway":
        return http_script("x-team-id", itertools.islice(itertools.cycle(GATEWAY_TEAMS), many))
    return grpc_script(request.body for request in requests(traffic, many, connection))


def main() -> None:
    """Run with the arguments of the command line."""
    options = argparse.ArgumentParser()
    options.add_argument("port", type=int)
    options.add_argument("connections", type=int)
    options.add_argument("streams", type=int)
    options.add_argument("traffic")
    options.add_argument("seconds", type=float)
    options.add_argument("--rate", type=float, default=0.0)
    options.add_argument("--many", type=int, default=0)
    options.add_argument("--warm-up", type=float, default=0.5)
    options.add_argument(
        "--most", type=int, default=MOST, help="requests a second that a closed loop prepares"
    )
    chosen = options.parse_args()
    pin(os.getpid(), LOAD_CORE)
    whole = chosen.warm_up + chosen.seconds
    most = chosen.many or int(whole * (chosen.rate * 1.2 + 100 if chosen.rate else chosen.most))
    each = -(-most // chosen.connections)
    connections = [
        Connection(chosen.port, script(chosen.traffic, each, number)) for number in range(chosen.connections)
    ]
    gc.collect()
    gc.freeze()
    gc.disable()  # a pause of the generator would look like one of the server
    say("ready")
    run = Replay(connections, chosen.streams, math.inf if chosen.many else chosen.seconds, chosen.warm_up)
    if chosen.rate:
        run.open(chosen.rate)
    else:
        run.closed()
    say(json.dumps(run.report))


if __name__ == "__main__":
    main()
