"""A served transport, and messages for it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import grpc
import pytest
from grpc import aio

from ratelimit_service.core.errors import StoreError
from ratelimit_service.core.hit import Hit
from ratelimit_service.core.holds.ids import HoldIds
from ratelimit_service.core.matching.tree import RuleTree
from ratelimit_service.core.model import DescriptorRule, DomainRules, Limit, Rule, StatKey, Unit, Window
from ratelimit_service.core.plan import Policy
from ratelimit_service.deadlines import Patience
from ratelimit_service.observe.metrics import Metrics
from ratelimit_service.ports import OnOutcomes
from ratelimit_service.proto.ratelimit_pb2 import RateLimitRequest, RateLimitResponse
from ratelimit_service.runtime.health import Health
from ratelimit_service.service import RateLimitService
from ratelimit_service.stores.memory import MemoryStore
from ratelimit_service.transports.contract import GrpcServer, MakeGrpcServer
from ratelimit_service.transports.grpc_method import PATH
from ratelimit_service.transports.grpcio import GrpcioServer
from ratelimit_service.transports.native.server import NativeServer
from ratelimit_service.transports.options import GrpcOptions

NOW = 1_795_249_200.0
TEAM_RULE = Rule(StatKey("llm", ("team",)), (Limit(100, Window(Unit.HOUR), "team-budget"),))
TREE = RuleTree([DomainRules("llm", (DescriptorRule(b"team", rule=TEAM_RULE),))])


TRANSPORTS: dict[str, MakeGrpcServer] = {"grpcio": GrpcioServer, "native": NativeServer}


class Store(MemoryStore):
    """A memory store that fails while `failure` is set."""

    failure: StoreError | None = None

    def hit(self, groups: Sequence[Sequence[Hit]], on_outcomes: OnOutcomes) -> None:
        """See ports.CounterStore."""
        if self.failure is None:
            super().hit(groups, on_outcomes)
        else:
            on_outcomes([self.failure for _ in groups])


@dataclass
class Served:
    """A server, the parts behind it, and a channel to it.

    `held` gets the store's answers while `hold` is set.
    """

    server: GrpcServer
    service: RateLimitService
    store: Store
    health: Health
    channel: aio.Channel
    held: list[Callable[[], None]] = field(default_factory=list)

    async def call(self, data: bytes, patience: float | None = 60) -> RateLimitResponse:
        method = self.channel.unary_unary(PATH, bytes, RateLimitResponse.FromString)
        response: RateLimitResponse = await method(data, timeout=patience)
        return response

    async def code(self, data: bytes, patience: float | None = 60) -> tuple[grpc.StatusCode, str]:
        """Return the gRPC status of a call that fails."""
        with pytest.raises(aio.AioRpcError) as error:
            await self.call(data, patience)
        return error.value.code(), error.value.details() or ""


Start = Callable[..., Awaitable[Served]]


async def serve(
    options: GrpcOptions,
    transport: str = "grpcio",
    *,
    hold: bool = False,
    rules: bool = True,
    patience: Patience | None = None,
    tree: RuleTree = TREE,
    policy: Policy | None = None,
    ids: HoldIds | None = None,
) -> Served:
    held: list[Callable[[], None]] = []
    store = Store(lambda: NOW, defer=held.append if hold else None)
    service = RateLimitService(store, Metrics(), lambda: NOW, policy, patience=patience, ids=ids)
    if rules:
        service.use(tree)
    health = Health()
    server = TRANSPORTS[transport](service, health, options)
    await server.start()
    return Served(server, service, store, health, aio.insecure_channel(server.address), held)


CHECK = bytes.fromhex("0a036c6c6d12100a0c0a047465616d12046a736f6e1a00")
CHARGE_40 = bytes.fromhex("0a036c6c6d12120a0c0a047465616d12046a736f6e1a020828")


def message(team: str = "json", hits: int | None = None, domain: str = "llm") -> bytes:
    request = RateLimitRequest(domain=domain)
    descriptor = request.descriptors.add()
    descriptor.entries.add(key=b"team", value=team.encode())
    if hits is not None:
        descriptor.hits_addend.value = hits
    return request.SerializeToString()
