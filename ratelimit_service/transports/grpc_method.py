"""What every gRPC transport needs to know about the method: its path, and the status that an error is answered with."""

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
    # The caller must change the request; asking again is of no use.
    InvalidRequest: (3, "INVALID_ARGUMENT"),
    # The certificate is valid, and not of those who may ask: another one is needed, so not UNAUTHENTICATED.
    Forbidden: (7, "PERMISSION_DENIED"),
    # The same request may succeed in a moment. Gateways take any error for "the service failed" and go by their own
    # failure mode, so the code is for people and for clients that retry.
    NotReady: (14, "UNAVAILABLE"),
    StoreError: (14, "UNAVAILABLE"),
    # The server chose not to take the call on; clients back off on this one.
    Overloaded: (8, "RESOURCE_EXHAUSTED"),
    InternalError: (13, "INTERNAL"),
}


def status_of(error: RateLimitServiceError) -> GrpcStatus:
    """The status that a call is answered with where it failed with `error`."""
    number, name = next(
        (_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS), _STATUS[InternalError]
    )
    return GrpcStatus(number, name, str(error))
