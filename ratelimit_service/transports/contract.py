"""The interface of every gRPC transport, on which the service, app.py and the tests rely."""

from __future__ import annotations

from typing import ClassVar, Protocol

from ..runtime.health import Health
from ..service import RateLimitService
from .options import GrpcOptions

TOO_MANY_CALLS = "too many calls are in hand already (GRPC_MAX_CONCURRENT_CALLS)"
"""The text of the refusal at that bound."""


class OnAnswered(Protocol):
    """Called by a transport when it has answered calls."""

    def __call__(self, method: str, seconds: float, calls: int = 1) -> None:
        """Observe `calls` calls of a method that took `seconds` each."""
        ...


class GrpcServer(Protocol):
    """ShouldRateLimit and grpc.health.v1 on one address.

    It passes each call to RateLimitService.submit before its first await for that call, so that the deadline
    of a caller cannot cancel its charge. Every accepted call is answered, also while the server stops.
    """

    TRANSPORT: ClassVar[str]
    """The name of the transport in GRPC_TRANSPORT."""
    address: str
    """The address that it listens on, once started."""
    plaintext: str
    """The second address, without TLS, once started; empty if there is none."""

    @property
    def in_hand(self) -> int:
        """The calls that were read and are not yet answered."""
        ...

    async def start(self) -> None:
        """Open the ports. Raises StartError if one cannot be opened."""
        ...

    async def drain(self) -> None:
        """Report NOT_SERVING to health checks and watches from now on. Calls are still accepted."""
        ...

    async def stop(self, grace: float) -> None:
        """Accept no more calls, and close when those in flight are answered, after `grace` seconds at the
        latest.
        """
        ...


class MakeGrpcServer(Protocol):
    """The class of a transport. Raises StartError if the transport cannot be used here."""

    def __call__(
        self, service: RateLimitService, health: Health, options: GrpcOptions, on_answered: OnAnswered = ...
    ) -> GrpcServer:
        """Make a server, which is not yet started."""
        ...


def ignore_answered(method: str, seconds: float, calls: int = 1) -> None:
    """Do nothing: the OnAnswered of a server without metrics."""
