"""Two services, a tee with the comparison behind it, and a caller, all in the process of a test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
from grpc import aio
from grpc_health.v1 import health_pb2

from ratelimit_service.cli.comparison.mirror import Mirror
from ratelimit_service.cli.comparison.report import Report
from ratelimit_service.cli.comparison.tee import Target, Tee, listen
from ratelimit_service.transports.grpc_method import METHOD, PATH, SERVICE

from .answering import answer, request, status

Handler = Callable[[bytes, Any], Any]


ASKED = request("a").SerializeToString()


def replying(*lefts: int) -> tuple[Handler, list[bytes]]:
    """Return a service with this remaining budget at each call, and the requests that it gets."""
    asked: list[bytes] = []

    async def handler(data: bytes, context: Any) -> bytes:
        asked.append(data)
        response = answer(status(lefts[min(len(asked), len(lefts)) - 1])).response
        assert response is not None
        return bytes(response.SerializeToString())

    return handler, asked


@asynccontextmanager
async def server(
    handler: Handler, at: int | str = 0, credentials: grpc.ServerCredentials | None = None
) -> AsyncIterator[str]:
    """Serve ShouldRateLimit with `handler` and a SERVING health. Yields the address."""
    serving = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)

    async def health(data: bytes, context: Any) -> bytes:
        return bytes(serving.SerializeToString())

    server = aio.server()
    for service, method, behaviour in (
        (SERVICE, METHOD, handler),
        ("grpc.health.v1.Health", "Check", health),
    ):
        methods = {method: grpc.unary_unary_rpc_method_handler(behaviour)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, methods),))
    address = at if isinstance(at, str) else f"127.0.0.1:{at}"
    if credentials is None:
        port = server.add_insecure_port(address)
    else:
        port = server.add_secure_port(address, credentials)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


class MirrorSetup:
    """A tee before a service, a comparison with another one, and a caller. `lines` are the reports, and
    `notes` the messages of the tee.
    """

    def __init__(self, tee: Tee, mirror: Mirror, report: Report, lines: list[str], notes: list[str]) -> None:
        self.tee, self.mirror, self.report, self.lines, self.notes = tee, mirror, report, lines, notes
        self.caller: aio.Channel = aio.insecure_channel(tee.address)

    async def ask(self, data: bytes = ASKED, **options: Any) -> bytes:
        answered: bytes = await self.caller.unary_unary(PATH, None, None)(data, **options)
        return answered

    async def finished(self) -> Report:
        """Return the reports after the end."""
        await self.tee.stop(5)
        await self.mirror.finish()
        return self.report


@asynccontextmanager
async def mirrored(theirs: str, ours: str, **options: Any) -> AsyncIterator[MirrorSetup]:
    lines: list[str] = []
    notes: list[str] = []
    report = Report(put=lines.append)
    async with aio.insecure_channel(ours) as channel:
        mirror = Mirror(channel, report, **{"timeout": 5.0, **options})
        tee = Tee(Target.of(theirs), mirror, notes.append, timeout=5)
        await tee.start(listen("127.0.0.1:0"))
        front = MirrorSetup(tee, mirror, report, lines, notes)
        try:
            async with front.caller:
                yield front
        finally:
            await tee.stop(0)
            await mirror.finish()
