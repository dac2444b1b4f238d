"""The main port: /healthcheck for load balancers, /json for callers without gRPC."""

from __future__ import annotations

from ..runtime.health import Health
from ..service import RateLimitService
from .json import Codec, JsonEndpoint
from .messages import Handler, Request, Response, text
from .request_origin import no_browser_from_elsewhere
from .routes import routes


def main_app(service: RateLimitService, health: Health, codec: Codec) -> Handler:
    """Return the handler of `/healthcheck` and `/json`, which accept every method, as upstream's do."""

    async def healthcheck(request: Request) -> Response:
        if health.healthy:
            return Response(b"OK")  # without a newline, as upstream sends it
        return text(f"unhealthy: {', '.join(health.unhealthy)}", 500)

    return routes(
        {"/healthcheck": healthcheck, "/json": no_browser_from_elsewhere(JsonEndpoint(service, codec).answer)}
    )
