"""Servers that decide nothing, to measure the cost of a transport.

    python -m bench.empty_servers grpcio|native

Answers every ShouldRateLimit with OK, and prints the port that it listens on.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

import grpc
import uvloop
from grpc import aio

from ratelimit_service.core.model import OK_STATUS, Code, Decision
from ratelimit_service.core.plan import Policy
from ratelimit_service.runtime.health import Health
from ratelimit_service.service import Call
from ratelimit_service.transports.codec import make_encode
from ratelimit_service.transports.grpc_method import METHOD, SERVICE
from ratelimit_service.transports.options import GrpcOptions

DECISION = Decision(Code.OK, [OK_STATUS], [None])
ANSWER = make_encode()(DECISION)


class Nothing:
    """Replaces the service."""

    policy = Policy()
    tree = None
    traced = False

    def submit(self, calls: Sequence[Call]) -> None:
        """Answer every call with the same decision."""
        for call in calls:
            call.reply(DECISION)


async def serve_grpcio() -> None:
    """Serve constant bytes with grpc.aio: the unit of all measurements."""

    async def handle(data: bytes, context: aio.ServicerContext[bytes, bytes]) -> bytes:
        return ANSWER

    server = aio.server()
    handler = grpc.unary_unary_rpc_method_handler(handle)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    say(port)
    await server.wait_for_termination()


async def serve_native() -> None:
    """Serve with the native transport and a service that answers at once."""
    from ratelimit_service.transports.native.server import NativeServer

    server = NativeServer(Nothing(), Health(), GrpcOptions())  # type: ignore[arg-type]
    await server.start()
    say(int(server.address.rpartition(":")[2]))
    await asyncio.Event().wait()


def say(port: int) -> None:
    """Print the port."""
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    uvloop.run(serve_native() if sys.argv[1] == "native" else serve_grpcio())
