"""Serve by the native transport with the ratelimit_service that is installed, and ask it once: cibuildwheel's
test of a wheel.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import grpc

from ratelimit_service.proto.ratelimit_pb2 import RateLimitRequest, RateLimitResponse
from ratelimit_service.transports.grpc_method import PATH

RULES = "domain: d\ndescriptors: [{key: team, rate_limit: {unit: day, tokens_per_unit: 10}}]\n"
PATIENCE = 60


def free_port() -> int:
    """Return a port that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def main() -> int:
    """Return 0 if a budget of 10 allows a charge of 10 and refuses the next request."""
    port, codes = free_port(), []
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "rules.yaml").write_text(RULES)
        environment = {
            **os.environ,
            "GRPC_TRANSPORT": "native",
            "BACKEND_TYPE": "memory",
            "CONFIG_PATH": directory,
            "GRPC_HOST": "127.0.0.1",
            "GRPC_PORT": str(port),
            "PORT": "0",
            "DEBUG_PORT": "0",
        }
        service = subprocess.Popen([sys.executable, "-m", "ratelimit_service", "serve"], env=environment)
        try:
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                grpc.channel_ready_future(channel).result(PATIENCE)
                ask = channel.unary_unary(
                    PATH, RateLimitRequest.SerializeToString, RateLimitResponse.FromString
                )
                for hits in (10, 1):
                    # Strings are bytes here, in ratelimit_service/proto, and `str` in its stubs.
                    request: Any = RateLimitRequest(hits_addend=hits)
                    request.domain = b"d"
                    request.descriptors.add().entries.add(key=b"team", value=b"a")
                    codes.append(ask(request, timeout=PATIENCE).overall_code)
            service.terminate()
            ended = service.wait(PATIENCE)
        finally:
            service.kill()
    expected = [RateLimitResponse.OK, RateLimitResponse.OVER_LIMIT]
    print(f"answered {codes}, ended with {ended}")
    return 0 if codes == expected and ended == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
