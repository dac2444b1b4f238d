"""Plain text, and endpoints that answer any method."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

Handler = Callable[[Request], Awaitable[Response]]


class _AnyMethod:
    """An endpoint for every HTTP method. (Starlette gives a function only GET where no methods are named.)"""

    def __init__(self, handle: Handler) -> None:
        self._handle = handle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self._handle(Request(scope, receive))
        await response(scope, receive, send)


def any_method(path: str, handle: Handler) -> Route:
    """A route that answers every method, as upstream's do."""
    return Route(path, _AnyMethod(handle))


def text(body: str, status: int = 200) -> Response:
    """A line, or several, of plain text."""
    return PlainTextResponse(body if body.endswith("\n") else f"{body}\n", status)
