"""The methods that the native transport serves, by their places among the paths that a session knows."""

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
"""The first is ours, CHECK and WATCH are the places of others; those from REFLECT on take many messages."""
