"""The state and the log lines of a follower."""

from __future__ import annotations

from testing.control_plane import ControlPlane, limit, resource

A, B, C = (resource(name, limit("team", 5)) for name in "abc")
A2, B2 = (resource(name, limit("team", 6)) for name in "ab")
BAD = resource("b", limit("team", 6, 9))


def versions(plane: ControlPlane) -> list[tuple[str, str]]:
    return [(request.version_info, request.response_nonce) for request in plane.requests]
