"""The methods that the native transport serves: `PATHS`, and their indexes in it."""

from __future__ import annotations

from ..grpc_method import PATH

CHECK, WATCH, REFLECT = 1, 2, 3
PATHS = (
    PATH.encode(),
    b"/grpc.health.v1.Health/Check",
    b"/grpc.health.v1.Health/Watch",
    b"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    b"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
)
"""The first is ShouldRateLimit. REFLECT and those after it take a stream of messages."""
