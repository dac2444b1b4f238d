"""The parts of a running service that others need, as app.py has them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from ..amending.follower import Follower
    from ..amending.operations import Operations
    from ..inspection.views import Views
    from ..loading.rulebook import Rulebook
    from ..observe.metrics import Metrics
    from ..observe.pairing import Pairing
    from ..runtime.health import Health
    from ..service import RateLimitService
    from ..transports.contract import GrpcServer
    from ..workers.worker_link import Siblings
    from .control_planes import ControlPlanes


class Running(Protocol):
    """A running service (app.App). A part that needs another one looks it up here when it is called, not when
    it is made.
    """

    health: Health
    metrics: Metrics
    pairing: Pairing
    siblings: Siblings
    service: RateLimitService
    follower: Follower
    operations: Operations
    rulebook: Rulebook
    views: Views
    grpc: GrpcServer
    control_planes: ControlPlanes | None

    def notes(self) -> Iterator[str]:
        """Yield lines about the state of the service, for /rlconfig."""
        ...
