"""Callers of several replicas, as a gateway calls them, while the replicas are replaced one after another."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

from grpc import StatusCode, aio

from ratelimit_service.proto.ratelimit_pb2 import RateLimitResponse
from ratelimit_service.transports.grpc_method import PATH
from testing.service import Service

from .callers import CALLERS, charge, work

BETWEEN_TWO = 300
"""Charges that are answered before the next replica is replaced, so that each replacement happens under
load.
"""


TURNED_AWAY = (StatusCode.UNAVAILABLE, StatusCode.CANCELLED)
"""The errors of calls that arrive while their replica ends, and are not counted. The second is for calls that
gRPC has not passed on.
"""


class Gateway:
    """Callers that know several replicas. If one is about to end, they call the next one."""

    def __init__(self, *replicas: Service) -> None:
        self._channels = {replica.grpc: aio.insecure_channel(replica.grpc) for replica in replicas}
        self._in_use = list(self._channels.values())
        self._ended = False
        self._changed = asyncio.Condition()
        self.acknowledged = Counter[str]()
        """The charges minus the refunds, by team."""
        self.refused = 0
        """The number of refused checks."""
        self.turned_away = 0
        """The number of calls that an ending replica has refused."""

    def exchange(self, old: Service, new: Service) -> None:
        """Send later calls to the new replica instead of the old one. The old connection closes when its
        calls have ended.
        """
        self._channels[new.grpc] = aio.insecure_channel(new.grpc)
        self._in_use.remove(self._channels[old.grpc])
        self._in_use.append(self._channels[new.grpc])

    async def call(self, number: int) -> None:
        """Charge, refund and check without a pause until `end`."""
        turn = 0
        while not self._ended:
            team, hits = work(f"t{number % 4}", turn)
            turn += 1
            answer = await self._charge(charge(team, hits), number + turn)
            self.acknowledged[team] += hits
            self.refused += answer.overall_code == RateLimitResponse.OVER_LIMIT
            await self._tell()

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _charge(self, request: bytes, turn: int) -> RateLimitResponse:
        while True:
            channel = self._in_use[turn % len(self._in_use)]
            method = channel.unary_unary(PATH, bytes, RateLimitResponse.FromString)
            try:
                answer: RateLimitResponse = await method(request, timeout=60)
            except aio.AioRpcError as error:
                if error.code() not in TURNED_AWAY:
                    raise
                self.turned_away += 1
                turn += 1
                await self._tell()
            else:
                return answer

    async def more(self) -> None:
        """Wait until some more charges are answered."""
        least = self.acknowledged.total() + BETWEEN_TWO
        async with self._changed:
            await self._changed.wait_for(lambda: self.acknowledged.total() >= least)

    async def another_refusal(self) -> None:
        """Wait until a stopping replica refuses a call."""
        before = self.turned_away
        async with self._changed:
            await self._changed.wait_for(lambda: self.turned_away > before)

    def end(self) -> None:
        """Stop calling, and wait for the answers to the calls in flight."""
        self._ended = True

    async def close(self) -> None:
        """Close the connections."""
        for channel in self._channels.values():
            await channel.close(None)

    async def call_while(self, replace: Callable[[], Awaitable[None]]) -> None:
        """Charge from all callers until `replace` returns and some more charges are answered."""
        try:
            async with asyncio.timeout(120), asyncio.TaskGroup() as callers:
                for number in range(CALLERS):
                    callers.create_task(self.call(number))
                await replace()
                await self.more()
                self.end()
        finally:
            await self.close()

    async def replace(self, old: Service, start: Callable[[], Service]) -> tuple[Service, int]:
        """Start a replica, end the old one under load, and send its callers to the new one.

        Return the new one and the exit code of the old one.
        """
        await self.more()
        new = await asyncio.to_thread(start)
        await asyncio.to_thread(new.wait_for_event, "the store is reached")
        ending = asyncio.create_task(asyncio.to_thread(old.stop))
        await self.another_refusal()
        self.exchange(old, new)
        return new, await ending
