"""The servers that decide nothing."""

from __future__ import annotations

import grpc
import pytest

from bench.servers import nothing
from ratelimit_service.proto import ratelimit_pb2 as pb
from ratelimit_service.transports.grpc_method import METHOD, SERVICE


@pytest.mark.parametrize("transport", ["grpcio", "native"])
def test_a_server_that_decides_nothing_answers_every_call(transport: str) -> None:
    """It is the unit of the benchmark, so it must keep up with what transports expect of a service."""
    with nothing(transport) as server, grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        call = channel.unary_unary(f"/{SERVICE}/{METHOD}", bytes, pb.RateLimitResponse.FromString)
        assert pb.RateLimitResponse.OK == call(b"", timeout=60).overall_code
