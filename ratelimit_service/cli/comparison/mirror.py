"""Compares live calls: follows the copies of a tee, and calls the second service as the callers called the
first.

This is the process beside the tee (`copies.py`), so callers never wait for it. The second service is called
after the first has answered, in the order of these answers. If it is slow, calls to it accumulate up to a
bound; beyond it they are omitted, and counted.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from google.protobuf.message import DecodeError
from grpc import aio

from ...core.text import printable
from ...proto.ratelimit_pb2 import RateLimitRequest
from ...transports.grpc_method import PATH
from .answers import EXPLAIN, Answer
from .call_follower import Budget, CallAnswered, CallFollower, CallStarted, Event
from .comparer import Comparer
from .exchange import Bucket, bucket_of, hits_of
from .frames import Unfollowable
from .report import Report

MOST_WAITING = 1_000
"""The most calls to the second service in flight, together with answers that wait to be compared."""

MOST_HELD = 256 << 20
"""The most bytes of callers' calls in flight that are kept, in all connections."""


@dataclass(slots=True)
class _MirroredCall:
    """One call of a caller: its bytes, and the answer of the first service; None if there was none, for the
    reason `why`.
    """

    data: bytes
    request: RateLimitRequest
    overlap: Sequence[tuple[Bucket, int, int, int]]
    theirs: Answer | None = None
    why: str = ""

    @classmethod
    def begin(cls, data: bytes, overlaps: _Overlaps) -> _MirroredCall:
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


class _Connection:
    """The calls of one connection: `following` until that fails, and those that wait for an answer."""

    def __init__(self, shared: Budget) -> None:
        self.following: CallFollower | None = CallFollower(shared)
        self.calls: dict[int, _MirroredCall] = {}


class Mirror:
    """A Receiver of copies, which sends the calls in them to `ours`, and reports the differences."""

    def __init__(
        self,
        ours: aio.Channel,
        report: Report,
        *,
        timeout: float,
        most_waiting: int = MOST_WAITING,
        most_held: int = MOST_HELD,
    ) -> None:
        self._ours = ours.unary_unary(PATH, None, None)
        self._report = report
        self._timeout = timeout
        self._most = most_waiting
        self._comparer = Comparer()
        self._shared = Budget(most_held)
        self._connections: dict[int, _Connection] = {}
        self._under_way: set[asyncio.Task[None]] = set()
        self._answered: deque[_Pair] = deque()
        self._more = asyncio.Event()
        self._overlaps = _Overlaps()
        self._comparing = asyncio.create_task(self._compare())

    async def finish(self) -> None:
        """Wait for the calls in flight, and compare the remaining answers."""
        for number in list(self._connections):
            self.closed(number)
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=self._timeout)
        self._comparing.cancel()
        with suppress(asyncio.CancelledError):
            await self._comparing
        while self._answered:
            self._compare_one()

    # Called with copies.

    def opened(self, number: int) -> None:
        """See copies.Receiver."""
        self._connections[number] = _Connection(self._shared)

    def from_caller(self, number: int, data: bytes) -> None:
        """See copies.Receiver."""
        if (following := self._following(number)) is not None:
            self._take(number, following.from_caller(data))

    def from_theirs(self, number: int, data: bytes) -> None:
        """See copies.Receiver."""
        if (following := self._following(number)) is not None:
            self._take(number, following.from_theirs(data))

    def closed(self, number: int) -> None:
        """See copies.Receiver."""
        if (following := self._following(number)) is not None:
            self._take(number, following.lost("the connection ended before an answer"))
        self._connections.pop(number, None)

    def missed(self, number: int) -> None:
        """See copies.Receiver."""
        self._abandon(number, "the comparison was too slow to read it")

    # Helpers.

    def _following(self, number: int) -> CallFollower | None:
        connection = self._connections.get(number)
        return None if connection is None else connection.following

    def _take(self, number: int, events: Iterable[Event]) -> None:
        try:
            for event in events:
                self._take_one(self._connections[number].calls, event)
        except Unfollowable as error:
            self._abandon(number, str(error))
        except Exception as error:  # beyond this, it would end the copies of all connections
            # Its text may have any bytes from requests, and is a key of the report.
            self._abandon(number, f"reading it failed ({type(error).__name__})")

    def _take_one(self, calls: dict[int, _MirroredCall], event: Event) -> None:
        if isinstance(event, CallStarted):
            if event.data is None:
                self._report.not_compared[event.why] += 1
            else:
                calls[event.stream] = _MirroredCall.begin(event.data, self._overlaps)
            return
        call = calls.pop(event.stream, None)
        if call is None:  # it cannot be compared
            return
        if isinstance(event, CallAnswered):
            call.theirs = event.answer
        else:
            call.why = event.why
            if not event.counted:
                self._overlaps.end(call.overlap)
                self._report.not_compared[event.why] += 1
                return
        # Also without an answer: the first service may have counted the call, and then the second must count
        # it as well.
        self._begin(call)

    def _abandon(self, number: int, why: str) -> None:
        """Follow a connection no further. Its calls in flight are counted by ours as well."""
        connection = self._connections.get(number)
        if connection is None or connection.following is None:
            return
        connection.following.drop()
        connection.following = None
        self._report.not_compared[f"a connection that is no longer followed: {why}"] += 1
        for call in connection.calls.values():
            call.why = "the connection is no longer followed"
            self._begin(call)
        connection.calls.clear()

    def _begin(self, call: _MirroredCall) -> None:
        if len(self._under_way) + len(self._answered) >= self._most:
            self._overlaps.end(call.overlap)
            self._not_compared(call, "ours was too slow")
            return
        task = asyncio.create_task(self._ask_ours(call))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _ask_ours(self, call: _MirroredCall) -> None:
        try:
            ours = Answer.of(await self._ours(call.data + EXPLAIN, timeout=self._timeout))
        except aio.AioRpcError as error:
            ours = Answer(error.code().name, printable(error.details() or ""))
        except DecodeError:
            ours = Answer("INTERNAL", "the reply is no RateLimitResponse")
        finally:
            overlapping = self._overlaps.end(call.overlap)
        if call.theirs is None:
            self._not_compared(call, call.why)
            return
        self._answered.append(_Pair(call.request, call.theirs, ours, overlapping))
        self._more.set()

    def _not_compared(self, call: _MirroredCall, why: str) -> None:
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
        self._report.compare(self._comparer, *self._answered.popleft())


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
