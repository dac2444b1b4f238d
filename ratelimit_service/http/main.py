"""The main port: /healthcheck for load balancers, /json for whoever has no gRPC at hand."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Router
from starlette.types import ASGIApp

from ..runtime.health import Health
from ..service import RateLimitService
from .json import Codec, JsonEndpoint
from .plain import any_method, text


def main_app(service: RateLimitService, health: Health, codec: Codec) -> ASGIApp:
    """`/healthcheck` and `/json`. `codec` is what gRPC uses between messages and the nouns of core."""

    async def healthcheck(request: Request) -> Response:
        if health.healthy:
            return PlainTextResponse("OK")  # without a newline: upstream's whole body
        return text(f"unhealthy: {', '.join(health.unhealthy)}", 500)

    json = JsonEndpoint(service, codec)
    return Router(
        [any_method("/healthcheck", healthcheck), any_method("/json", json.answer)], redirect_slashes=False
    )
