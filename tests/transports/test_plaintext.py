"""A second port without TLS, for gateways that use plaintext, beside one that requires client
certificates.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from grpc import aio

from ratelimit_service.core.errors import StartError
from ratelimit_service.listening.certificates import Certificates
from ratelimit_service.proto.ratelimit_pb2 import RateLimitResponse
from ratelimit_service.transports.grpc_method import PATH
from ratelimit_service.transports.options import GrpcOptions
from testing.certificates import Authority

from .serving import CHECK, TRANSPORTS, Served, serve


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(params=TRANSPORTS)
async def served(
    request: pytest.FixtureRequest, authority: Authority, tmp_path: Path
) -> AsyncIterator[Served]:
    """Return a TLS port for certificates with one name, and a plaintext port beside it."""
    files = (*authority.server().write(tmp_path), authority.write(tmp_path))
    made = await serve(
        GrpcOptions(
            "localhost:0",
            certificates=Certificates("gRPC", *files),
            client_name="envoy.mesh",
            plaintext="localhost:0",
        ),
        request.param,
    )
    yield made
    await made.channel.close(None)
    await made.server.stop(0)


async def code(address: str, credentials: grpc.ChannelCredentials | None = None) -> str:
    channel = aio.secure_channel(address, credentials) if credentials else aio.insecure_channel(address)
    async with channel:
        try:
            await channel.unary_unary(PATH, bytes, RateLimitResponse.FromString)(CHECK, timeout=5)
        except aio.AioRpcError as error:
            return str(error.code().name)
    return "OK"


async def test_callers_of_the_plaintext_port_need_no_certificate(
    served: Served, authority: Authority
) -> None:
    """Callers of the TLS port still need one with the right name."""
    assert ["OK", "PERMISSION_DENIED", "UNAVAILABLE", "OK", "UNAVAILABLE"] == [
        await code(served.server.address, authority.channel(authority.issue("envoy.mesh"))),
        await code(served.server.address, authority.channel(authority.issue("other.mesh"))),
        await code(served.server.address),
        await code(served.server.plaintext),
        await code(served.server.plaintext, authority.channel(authority.issue("envoy.mesh"))),
    ]


async def test_both_ports_close_at_a_stop(served: Served) -> None:
    """Until then, each has its own number."""
    address, plaintext = served.server.address, served.server.plaintext
    assert ["OK", False] == [await code(plaintext), address == plaintext]
    await served.server.stop(0)
    assert "UNAVAILABLE" == await code(plaintext)


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_plaintext_port_that_is_in_use_is_reported(served: Served, transport: str) -> None:
    """The error is that of the other port, with its own name and setting."""
    options = dataclasses.replace(GrpcOptions(), plaintext=served.server.plaintext)
    with pytest.raises(StartError, match=r"plaintext gRPC on localhost:\d+: .*GRPC_PLAINTEXT_PORT"):
        await serve(options, transport)
