"""The method that every transport serves: its path, and the gRPC status of each error."""

from __future__ import annotations

from typing import NamedTuple

from ..core.errors import (
    Forbidden,
    InternalError,
    InvalidRequest,
    NotReady,
    Overloaded,
    RateLimitServiceError,
    StoreError,
)

SERVICE = "envoy.service.ratelimit.v3.RateLimitService"
METHOD = "ShouldRateLimit"
PATH = f"/{SERVICE}/{METHOD}"


class GrpcStatus(NamedTuple):
    """A gRPC status: its number, its name and the message for the caller."""

    number: int
    name: str
    message: str


_STATUS: dict[type, tuple[int, str]] = {
    # The request is invalid, and a retry would fail again.
    InvalidRequest: (3, "INVALID_ARGUMENT"),
    # The certificate is valid, but has no permission, so this is not UNAUTHENTICATED.
    Forbidden: (7, "PERMISSION_DENIED"),
    # A retry may soon succeed. Gateways treat all errors alike, by their own failure mode; the code is for
    # people, and for clients that retry.
    NotReady: (14, "UNAVAILABLE"),
    StoreError: (14, "UNAVAILABLE"),
    # The server refuses the call to protect itself; clients back off at this code.
    Overloaded: (8, "RESOURCE_EXHAUSTED"),
    InternalError: (13, "INTERNAL"),
}


def status_of(error: RateLimitServiceError) -> GrpcStatus:
    """Return the status of a call that failed with `error`."""
    number, name = next(
        (_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS), _STATUS[InternalError]
    )
    return GrpcStatus(number, name, str(error))
