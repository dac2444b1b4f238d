"""Frames of hostile peers."""

from __future__ import annotations

from grpc_health.v1 import health_pb2

from ratelimit_service.transports.native.methods import PATHS, WATCH

from .. import h2
from ..serving import CHECK

OK, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED = 0, 4, 8


def calls(first: int, number: int, extra: bytes, body: bytes = CHECK) -> bytes:
    """Return calls with more headers in HPACK."""
    head = h2.block(h2.CALL) + extra
    return b"".join(
        h2.frame(h2.HEADERS, h2.END_HEADERS, stream, head)
        + h2.frame(h2.DATA, h2.END_STREAM, stream, h2.message(body))
        for stream in range(first, first + 2 * number, 2)
    )


def watch(stream: int, name: str) -> bytes:
    """Return a health watch."""
    body = health_pb2.HealthCheckRequest(service=name).SerializeToString()
    return h2.call(stream, body, h2.replaced(path=PATHS[WATCH]))
