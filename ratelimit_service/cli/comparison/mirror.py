"""A gRPC server in front of two services: callers get the answers of the first, which are compared with those
of the second.

A call is sent to the first service at once, with the caller's deadline and metadata, and the reply is
returned unchanged. It is sent to the second after the first has answered, so that callers never wait for the
second, and in the order of these answers. Answers are compared between calls. If the second service is slow,
calls to it accumulate up to a bound; beyond it they are omitted, and counted.
"""

from __future__ import annotations

import asyncio
import signal
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import grpc
from google.protobuf.message import DecodeError
from grpc import aio

from ...core.errors import StartError
from ...core.text import printable
from ...proto.ratelimit_pb2 import RateLimitRequest
from ...transports.grpc_method import METHOD, PATH, SERVICE
from .answers import EXPLAIN, Answer
from .comparer import Comparer
from .exchange import Bucket, bucket_of, hits_of
from .report import Report

MOST_WAITING = 1_000
"""The most calls to the second service in flight, together with answers that wait to be compared."""

MOST_CALLS = 10_000
"""The most calls of callers in flight; further ones get RESOURCE_EXHAUSTED."""

_HEALTH = "/grpc.health.v1.Health/Check"
_OF_THE_TRANSPORT = ("grpc-", ":")
_NOT_HANDED_ON = {"te", "content-type", "user-agent", "host"}


@dataclass(slots=True)
class _Call:
    """One call of a caller: its bytes, and the answer of the first service; None if the caller disconnected
    before it.
    """

    data: bytes
    request: RateLimitRequest
    overlap: Sequence[tuple[Bucket, int, int, int]]
    theirs: Answer | None = None
    reply: bytes = b""

    @classmethod
    def begin(cls, data: bytes, overlaps: _Overlaps) -> _Call:
        request = RateLimitRequest()
        try:
            request.ParseFromString(data)
        except DecodeError:
            request.Clear()  # without buckets; both services still answer it
        return cls(data, request, overlaps.begin(request))


class _Pair(NamedTuple):
    """One call that both have answered, and for each descriptor the hits of concurrent calls."""

    request: RateLimitRequest
    theirs: Answer
    ours: Answer
    overlapping: Sequence[int]


class Mirror:
    """The server. `address` is the address that it listens on, once started."""

    def __init__(
        self,
        theirs: aio.Channel,
        ours: aio.Channel,
        report: Report,
        *,
        timeout: float,
        most_waiting: int = MOST_WAITING,
    ) -> None:
        self._theirs = {path: theirs.unary_unary(path, None, None) for path in (PATH, _HEALTH)}
        self._ours = ours.unary_unary(PATH, None, None)
        self._report = report
        self._timeout = timeout
        self._most = most_waiting
        self._comparer = Comparer()
        self._under_way: set[asyncio.Task[None]] = set()
        self._answered: deque[_Pair] = deque()
        self._more = asyncio.Event()
        self._overlaps = _Overlaps()
        self._server = aio.server(maximum_concurrent_rpcs=MOST_CALLS)
        self._comparing: asyncio.Task[None] | None = None
        self.address = ""

    async def start(self, address: str, credentials: grpc.ServerCredentials | None = None) -> None:
        """Open the port. Raises StartError if it is taken."""
        self._server.add_generic_rpc_handlers(
            (
                _handler(SERVICE, METHOD, self._tee),
                _handler("grpc.health.v1.Health", "Check", self._hand_on),
            )
        )
        try:
            if credentials is None:
                port = self._server.add_insecure_port(address)
            else:
                port = self._server.add_secure_port(address, credentials)
        except RuntimeError:
            port = 0
        if not port:
            raise StartError(f"cannot listen on {printable(address)}")
        self.address = f"{address.rpartition(':')[0]}:{port}"
        await self._server.start()
        self._comparing = asyncio.create_task(self._compare())

    async def stop(self, grace: float = 5.0) -> None:
        """Accept no more calls, finish those in flight, and compare the remaining answers."""
        await self._server.stop(grace)
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=self._timeout)
        if self._comparing is not None:
            self._comparing.cancel()
        while self._answered:
            self._compare_one()

    async def _tee(self, data: bytes, context: aio.ServicerContext[Any, Any]) -> bytes:
        call = _Call.begin(data, self._overlaps)
        try:
            reply = await self._ask(PATH, data, context)
            call.theirs = Answer("OK")
            call.reply = reply
        except aio.AioRpcError as error:
            call.theirs = Answer(error.code().name, printable(error.details() or ""))
            await context.abort(error.code(), error.details() or "", _pairs(error.trailing_metadata()))
            raise AssertionError("abort always raises") from error
        finally:
            # Also if the caller has disconnected: theirs may have counted the call, and then ours must count
            # it as well.
            self._begin(call)
        return reply

    async def _hand_on(self, data: bytes, context: aio.ServicerContext[Any, Any]) -> bytes:
        try:
            return await self._ask(_HEALTH, data, context)
        except aio.AioRpcError as error:
            await context.abort(error.code(), error.details() or "")
            raise AssertionError("abort always raises") from error

    async def _ask(self, path: str, data: bytes, context: aio.ServicerContext[Any, Any]) -> bytes:
        metadata = [
            (key, value)
            for key, value in _pairs(context.invocation_metadata())
            if not (key.startswith(_OF_THE_TRANSPORT) or key in _NOT_HANDED_ON)
        ]
        left = context.time_remaining()
        reply: bytes = await self._theirs[path](data, timeout=left, metadata=tuple(metadata) or None)
        return reply

    def _begin(self, call: _Call) -> None:
        if len(self._under_way) + len(self._answered) >= self._most:
            self._overlaps.end(call.overlap)
            self._not_compared(call, "ours was too slow")
            return
        task = asyncio.create_task(self._ask_ours(call))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _ask_ours(self, call: _Call) -> None:
        try:
            ours = Answer.of(await self._ours(call.data + EXPLAIN, timeout=self._timeout))
        except aio.AioRpcError as error:
            ours = Answer(error.code().name, printable(error.details() or ""))
        finally:
            overlapping = self._overlaps.end(call.overlap)
        if call.theirs is None:
            self._not_compared(call, "the caller went before an answer")
            return
        theirs = Answer.of(call.reply) if call.theirs.status == "OK" else call.theirs
        self._answered.append(_Pair(call.request, theirs, ours, overlapping))
        self._more.set()

    def _not_compared(self, call: _Call, why: str) -> None:
        self._report.not_compared[why] += 1
        self._comparer.forget(call.request)

    async def _compare(self) -> None:
        while True:
            await self._more.wait()
            self._more.clear()
            while self._answered:
                self._compare_one()
                await asyncio.sleep(0)  # let calls go on

    def _compare_one(self) -> None:
        pair = self._answered.popleft()
        self._report.add(self._comparer.compare(pair.request, pair.theirs, pair.ours, pair.overlapping))


class _Overlaps:
    """Counts, for each call, the hits of other calls for the same bucket that were in flight at the same
    time.
    """

    def __init__(self) -> None:
        self._open: Counter[Bucket] = Counter()
        self._begun: Counter[Bucket] = Counter()

    def begin(self, request: RateLimitRequest) -> list[tuple[Bucket, int, int, int]]:
        """Return, for each descriptor, its bucket and hits, the hits in flight, and the hits that have begun
        so far.
        """
        token = []
        for descriptor in request.descriptors:
            bucket, hits = bucket_of(request.domain, descriptor), abs(hits_of(request, descriptor))
            token.append((bucket, hits, self._open[bucket], self._begun[bucket] + hits))
            self._open[bucket] += hits
            self._begun[bucket] += hits
        return token

    def end(self, token: Sequence[tuple[Bucket, int, int, int]]) -> list[int]:
        """Return, for each descriptor, the hits in flight when the call began, and those that have begun
        since.
        """
        overlapping = [before + self._begun[bucket] - begun for bucket, _, before, begun in token]
        for bucket, hits, _, _ in token:
            self._open[bucket] -= hits
            if self._open[bucket] <= 0:
                del self._open[bucket]
        for bucket, *_ in token:
            if bucket not in self._open:
                self._begun.pop(bucket, None)
        return overlapping


def _handler(service: str, method: str, behaviour: Callable[..., Any]) -> Any:
    """Return a handler that gets and returns serialized messages."""
    handler = grpc.unary_unary_rpc_method_handler(behaviour)
    return grpc.method_handlers_generic_handler(service, {method: handler})


def _pairs(metadata: Any) -> tuple[tuple[str, str | bytes], ...]:
    return tuple((key, value) for key, value in metadata or ())


async def run(mirror: Mirror, every: float, report: Callable[[], None]) -> None:
    """Wait for SIGTERM or SIGINT, and call `report` every `every` seconds meanwhile; then stop the mirror."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    while not stopped.is_set():
        try:
            await asyncio.wait_for(stopped.wait(), every)
        except TimeoutError:
            report()
    await mirror.stop()
